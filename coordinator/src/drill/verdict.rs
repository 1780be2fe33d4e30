//! What a drill found, and whether the job passed.

use super::process::Who;
use super::report::Row;
use super::samples::Account;
use super::vitals::Life;

/// Everything that a drill found.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) seed: u64,
    pub(super) workers: usize,
    /// What ways were cut with, if any.
    pub(super) cutter: Option<&'static str>,
    /// How many faults there should have been.
    pub(super) wanted: u32,
    /// Those that were inflicted.
    pub(super) rows: Vec<Row>,
    /// Steps of the run at its end.
    pub(super) steps: u64,
    /// The newest step that was finished; its state is what has to be kept.
    pub(super) reached: u64,
    /// Of the state there.
    pub(super) digest: Option<String>,
    /// Of the state without faults.
    pub(super) reference: Option<String>,
    pub(super) samples: Account,
    /// What was left behind.
    pub(super) leaks: Vec<String>,
    /// Parts of unfinished checkpoints that the next coordinator removes.
    pub(super) swept: usize,
    /// Of those that lived through most of it.
    pub(super) vitals: Vec<(Who, Life)>,
    /// What kept the job from its end.
    pub(super) broken: Option<String>,
    /// Where logs and stores are, if they are kept.
    pub(super) folder: Option<String>,
}

impl Verdict {
    /// Whether the state at the end is that without faults.
    pub(super) fn hash_equal(&self) -> bool {
        self.digest.is_some() && self.digest == self.reference
    }

    /// Whether the job passed.
    pub(super) fn is_good(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Why it did not; empty if it did.
    pub(super) fn reasons(&self) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        let mut unless = |good: bool, reason: &'static str| {
            if !good {
                reasons.push(reason);
            }
        };
        unless(self.broken.is_none(), "the job did not come to its end");
        unless(self.broken.is_some() || self.hash_equal(), "the states differ");
        unless(self.steps >= self.reached, "the last checkpoint is older than the last step");
        unless(self.samples.lost == 0, "samples were lost");
        unless(self.samples.doubled == 0, "samples were used twice");
        unless(self.samples.untold == 0, "nobody told what some steps were fed");
        unless(self.leaks.is_empty(), "something was left behind");
        let all = self.rows.len() >= self.wanted as usize;
        unless(self.broken.is_some() || all, "the run was over before all faults were inflicted");
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Verdict {
        let digest = Some("abc".to_owned());
        Verdict { digest: digest.clone(), reference: digest, ..Verdict::default() }
    }

    #[test]
    fn only_a_job_with_nothing_against_it_passes() {
        assert!(good().is_good());
        let worse: [fn(&mut Verdict); 8] = [
            |it| it.reached = it.steps + 1,
            |it| it.reference = Some("abd".to_owned()),
            |it| it.digest = None,
            |it| it.samples.lost = 1,
            |it| it.samples.doubled = 1,
            |it| it.samples.untold = 1,
            |it| it.leaks.push("object x".to_owned()),
            |it| it.wanted = 1,
        ];
        for (number, worsen) in worse.into_iter().enumerate() {
            let mut verdict = good();
            worsen(&mut verdict);
            assert_eq!(verdict.reasons().len(), 1, "{number}: {:?}", verdict.reasons());
        }
        let broken = Verdict { broken: Some("it hangs".to_owned()), wanted: 5, ..good() };
        assert_eq!(broken.reasons(), ["the job did not come to its end"]);
    }
}
