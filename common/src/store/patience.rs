//! How often, how long and after what pauses a read is tried: pure, so that time is an argument.

use std::time::Duration;

/// Tries whose answer was not what was asked for, before it is believed that it will not be.
const WRONG_ANSWERS: u32 = 3;

/// The first pause; each is twice the one before, and a random half of it is left out.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Silence after which a connection is taken for dead.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// What a failed try says about the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It may go well: the server was busy, the connection broke, nothing came.
    Passing,
    /// The answer was a whole one to something else; it may have been an accident.
    Wrong,
    /// It would fail in the same way.
    Lasting,
}

/// What to do after a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Try again after so long.
    Pause(Duration),
    /// Hand the error on as it is.
    Fail,
    /// Say that it was tried for long enough.
    GiveUp,
}

/// The tries of one read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    whole: Duration,
    tries: u32,
    wrong: u32,
}

impl Patience {
    /// For a read that may take `whole`, with all its tries.
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, tries: 0, wrong: 0 }
    }

    /// How many failed so far.
    pub(super) fn tries(&self) -> u32 {
        self.tries
    }

    /// How long nothing may come before a try has failed.
    pub(super) fn silence(&self) -> Duration {
        (self.whole / 4).min(LONGEST_SILENCE)
    }

    /// How long the try that begins now, `elapsed` after the first, may take: half of what is left,
    /// but all of it once that is little.
    pub(super) fn allowed(&self, elapsed: Duration) -> Duration {
        let left = self.whole.saturating_sub(elapsed);
        (left / 2).max(left.min(self.whole / 8))
    }

    /// After a try failed, `elapsed` after the first began; `chance` is from 0 to 1.
    pub(super) fn after(&mut self, fault: Fault, elapsed: Duration, chance: f64) -> Next {
        self.tries += 1;
        match fault {
            Fault::Lasting => return Next::Fail,
            Fault::Wrong => self.wrong += 1,
            Fault::Passing => {}
        }
        let left = self.whole.saturating_sub(elapsed);
        if self.wrong >= WRONG_ANSWERS || left <= self.whole / 20 {
            return Next::GiveUp;
        }
        let doublings = (self.tries - 1).min(16);
        let pause = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        Next::Pause(pause.mul_f64(1.0 - chance / 2.0).min(left / 2))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: Duration = Duration::from_secs(30);

    #[test]
    fn pauses_double_and_half_of_each_is_chance() {
        let mut patience = Patience::new(WHOLE);
        let pauses: Vec<u128> = (0..8)
            .map(|turn| match patience.after(Fault::Passing, Duration::ZERO, f64::from(turn % 2)) {
                Next::Pause(pause) => pause.as_millis(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pauses, [50, 50, 200, 200, 800, 800, 3000, 1500]);
    }

    #[test]
    fn what_cannot_go_well_is_not_tried_again_and_wrong_answers_thrice() {
        let mut patience = Patience::new(WHOLE);
        assert_eq!(patience.after(Fault::Lasting, Duration::ZERO, 0.5), Next::Fail);
        let mut patience = Patience::new(WHOLE);
        for _ in 0..2 {
            assert!(matches!(patience.after(Fault::Wrong, Duration::ZERO, 0.5), Next::Pause(_)));
        }
        assert_eq!(patience.after(Fault::Wrong, Duration::ZERO, 0.5), Next::GiveUp);
    }

    proptest! {
        /// Whatever each try takes of what it may, and whatever chance says.
        #[test]
        fn a_read_ends_within_its_time_and_is_tried_more_than_once(
            whole in 20_u64..60_000, shares in prop::collection::vec((0.0..=1.0, 0.0..1.0), 200),
        ) {
            let whole = Duration::from_millis(whole);
            let mut patience = Patience::new(whole);
            let mut elapsed = Duration::ZERO;
            for (share, chance) in shares {
                elapsed += patience.allowed(elapsed).mul_f64(share);
                match patience.after(Fault::Passing, elapsed, chance) {
                    Next::Pause(pause) => elapsed += pause,
                    other => {
                        prop_assert_eq!(other, Next::GiveUp);
                        break;
                    }
                }
                prop_assert!(patience.tries() < 199, "it goes on for ever");
            }
            prop_assert!(elapsed <= whole + Duration::from_millis(1), "{elapsed:?} of {whole:?}");
            prop_assert!(patience.tries() > 1);
        }
    }
}
