//! Which checkpoint of a lineage is the best: the one whose state made the fewest top-1 errors on
//! the validation split, and of equal ones the earliest.
//!
//! Errors are integers summed over all ranks, so every rank knows alike when a state is the best so
//! far and takes a checkpoint of it, due or not. The manifest keeps the counts of its own state, so
//! the best one is found by reading manifests, and no pointer to it can go stale.
//!
//! A new lineage begins its own search: it starts from the errors of the checkpoint that it began
//! with, whatever its parent reached later.

use serde::{Deserialize, Serialize};

use super::catalogue::{Checkpoints, manifest_key};
use super::error::CheckpointError;
use super::lineage_folder;
use super::manifest::Manifest;
use crate::ids::Lineage;

/// Counts of one evaluation over the whole validation split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Images of the split.
    pub images: u64,
    /// Images whose class was not the first guess.
    pub top1_errors: u64,
    /// Images whose class was not among the first five guesses.
    pub top5_errors: u64,
}

/// What evaluations have found on the way to a state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluations {
    /// Of this very state, if it was evaluated.
    pub here: Option<Tally>,
    /// Fewest top-1 errors up to here, this state's included.
    pub fewest_errors: Option<u64>,
}

impl Evaluations {
    /// Those of the state one step later, which nobody has evaluated yet.
    #[must_use]
    pub fn after_a_step(self) -> Self {
        Self { here: None, ..self }
    }

    /// Those of the same state, now that it has been evaluated. The fewest errors change if and only
    /// if it is better than all before it.
    #[must_use]
    pub fn with(self, tally: Tally) -> Self {
        let errors = tally.top1_errors;
        let fewest_errors = self.fewest_errors.map_or(errors, |fewest| fewest.min(errors));
        Self { here: Some(tally), fewest_errors: Some(fewest_errors) }
    }

    /// Those of the same state where it begins a lineage.
    #[must_use]
    pub fn at_the_start_of_a_lineage(self) -> Self {
        Self { fewest_errors: self.here.map(|tally| tally.top1_errors), ..self }
    }
}

impl Checkpoints {
    /// The best checkpoint of the lineage by what its manifests say; none if no checkpoint that is
    /// there was evaluated. Parts are not looked at. The checkpoint that the lineage began with
    /// counts as well.
    ///
    /// # Errors
    /// Those of the store: what cannot be reached is not passed over.
    pub async fn best(
        &self,
        lineage: Lineage,
    ) -> Result<Option<(String, Manifest)>, CheckpointError> {
        let objects = self.store.list(&lineage_folder(lineage)).await?;
        let own = objects.into_iter().map(|object| object.path);
        let parent = self.lineages().await?.into_iter().find(|it| it.lineage == lineage);
        let parent = parent.and_then(|it| it.parent).map(|it| it.checkpoint);
        let paths: Vec<String> =
            own.chain(parent).filter(|path| manifest_key(path).is_some()).collect();
        self.best_of(&paths).await
    }

    /// The best of those at `paths`; what cannot be understood is passed over.
    pub(super) async fn best_of(
        &self,
        paths: &[String],
    ) -> Result<Option<(String, Manifest)>, CheckpointError> {
        let mut best: Option<(u64, u64, String, Manifest)> = None;
        for path in paths {
            let manifest = match self.read(path).await {
                Ok(manifest) => manifest,
                Err(CheckpointError::Store(error)) => return Err(error.into()),
                Err(_) => continue,
            };
            let Some(tally) = manifest.shared.evaluations.here else { continue };
            let key = (tally.top1_errors, manifest.shared.global_step);
            if best.as_ref().is_none_or(|(errors, step, ..)| key < (*errors, *step)) {
                best = Some((key.0, key.1, path.clone(), manifest));
            }
        }
        Ok(best.map(|(_, _, path, manifest)| (path, manifest)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(top1_errors: u64) -> Tally {
        Tally { images: 100, top1_errors, top5_errors: 0 }
    }

    #[test]
    fn only_fewer_errors_than_ever_before_are_better() {
        let mut state = Evaluations::default().with(tally(50));
        for (errors, better) in [(50, false), (60, false), (49, true), (49, false), (0, true)] {
            let next = state.after_a_step().with(tally(errors));
            assert_eq!(next.here, Some(tally(errors)));
            assert_eq!(next.fewest_errors != state.fewest_errors, better, "{errors} in {next:?}");
            state = next;
        }
    }

    #[test]
    fn the_state_after_a_step_is_not_the_one_that_was_evaluated() {
        let next = Evaluations::default().with(tally(50)).after_a_step();
        assert_eq!((next.here, next.fewest_errors), (None, Some(50)));
    }

    #[test]
    fn a_new_lineage_measures_itself_by_what_it_began_with() {
        let later = Evaluations::default().with(tally(50)).after_a_step().with(tally(70));
        assert_eq!(later.at_the_start_of_a_lineage().fewest_errors, Some(70));
        assert_eq!(later.after_a_step().at_the_start_of_a_lineage(), Evaluations::default());
    }
}
