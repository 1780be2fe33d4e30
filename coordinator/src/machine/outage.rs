//! Whether the run's store takes what it is given, as far as workers and this process say.
//!
//! A store that fails costs nobody its place: parts and manifests wait and are tried again by whoever
//! has them. What is decided here is only what is told of it, to the log and to whoever asks.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::Effect;
use super::note::Note;
use super::status::StoreTrouble;

/// What the coordinator's own entries are listed under. No worker has that name: names have no blanks.
pub(super) const COORDINATOR: &str = "the coordinator";
/// Between two lines of the log about one outage.
const AGAIN: Duration = Duration::from_secs(60);

/// An outage of the run's store, or none.
#[derive(Clone, Debug, Default)]
pub(super) struct Outage {
    /// Whom the store fails at present, and what each heard last.
    failed: BTreeMap<String, Heard>,
    /// The first failure since it was known to work.
    since: Option<Duration>,
    /// When the log was told last.
    told: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Heard {
    at: Duration,
    error: String,
    hint: Option<String>,
}

impl Outage {
    /// The store did not take something of `who`.
    pub(super) fn fails(
        &mut self,
        now: Duration,
        who: String,
        (error, hint): (String, Option<String>),
        effects: &mut Vec<Effect>,
    ) {
        let since = *self.since.get_or_insert(now);
        let heard = Heard { at: now, error: error.clone(), hint: hint.clone() };
        let new = self.failed.insert(who.clone(), heard).is_none();
        if new || self.told.is_none_or(|told| now >= told + AGAIN) {
            self.told = Some(now);
            let lasts = now.saturating_sub(since);
            effects.push(Effect::Log(Note::StoreFails { who, error, hint, lasts }));
        }
    }

    /// It took something of `who`.
    pub(super) fn works(&mut self, now: Duration, who: &str, effects: &mut Vec<Effect>) {
        self.failed.remove(who);
        if self.failed.is_empty()
            && let Some(since) = self.since.take()
        {
            self.told = None;
            effects.push(Effect::Log(Note::StoreWorks { lasted: now.saturating_sub(since) }));
        }
    }

    /// Nobody waits for what workers were about to store. Whether it would go well now is not known.
    pub(super) fn end_generation(&mut self) {
        self.failed.retain(|who, _| who == COORDINATOR);
    }

    /// Whether it took nothing of `who` when it was asked last.
    pub(super) fn concerns(&self, who: &str) -> bool {
        self.failed.contains_key(who)
    }

    /// What there is to tell of it.
    pub(super) fn status(&self, now: Duration) -> Option<StoreTrouble> {
        let last = self.failed.values().max_by_key(|it| it.at)?;
        Some(StoreTrouble {
            who: self.failed.keys().cloned().collect(),
            error: last.error.clone(),
            hint: last.hint.clone(),
            lasts: now.saturating_sub(self.since.unwrap_or(now)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn away() -> (String, Option<String>) {
        ("nobody answers".to_owned(), Some("check the network".to_owned()))
    }

    #[test]
    fn an_outage_is_told_at_once_then_now_and_then_and_when_it_is_over() {
        let (mut outage, mut effects) = (Outage::default(), Vec::new());
        for at in [10, 15, 40, 71, 80] {
            outage.fails(seconds(at), "a".to_owned(), away(), &mut effects);
        }
        assert_eq!(effects.len(), 2, "{effects:?}");
        outage.fails(seconds(81), "b".to_owned(), away(), &mut effects);
        let status = outage.status(seconds(90)).unwrap();
        assert_eq!((status.who, status.lasts), (vec!["a".to_owned(), "b".to_owned()], seconds(80)));
        assert_eq!(status.hint.as_deref(), Some("check the network"));
        outage.works(seconds(92), "a", &mut effects);
        assert_eq!(effects.len(), 3, "b still waits");
        outage.works(seconds(95), "b", &mut effects);
        let Some(Effect::Log(Note::StoreWorks { lasted })) = effects.last() else {
            panic!("{effects:?}")
        };
        assert_eq!((*lasted, outage.status(seconds(96))), (seconds(85), None));
        outage.works(seconds(99), "b", &mut effects);
        assert_eq!(effects.len(), 4, "that is no news");
    }

    #[test]
    fn a_generation_that_ends_in_an_outage_leaves_its_beginning_known() {
        let (mut outage, mut effects) = (Outage::default(), Vec::new());
        outage.fails(seconds(10), "a".to_owned(), away(), &mut effects);
        outage.end_generation();
        assert_eq!(outage.status(seconds(11)), None);
        outage.fails(seconds(20), "b".to_owned(), away(), &mut effects);
        assert_eq!(outage.status(seconds(30)).unwrap().lasts, seconds(20));
    }
}
