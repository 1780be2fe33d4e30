//! What is due between two steps: a pure function of the position and of what the ring agreed on.
//!
//! Every rank computes it for itself and comes to the same answer, so no rank ever waits for an
//! evaluation or a checkpoint that another does not take part in. The order at a boundary is fixed:
//! drops by hand, evaluation, schedule, checkpoint, end.

use convoy_common::config::RunConfig;
use convoy_common::ids::Position;

use super::report::Cause;

/// When things fall due, for one run.
#[derive(Clone, Debug)]
pub(super) struct Timetable {
    steps_per_epoch: u32,
    epochs: u32,
    max_steps: Option<u64>,
    evaluate_epochs: u32,
    checkpoint_steps: u32,
    checkpoint_epochs: u32,
}

/// What the control words of all ranks fold into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Some rank was asked to stop.
    pub(super) stop: bool,
    /// The stop comes with a checkpoint.
    pub(super) stop_checkpoint: bool,
    /// Every rank can take a snapshot without waiting.
    pub(super) slots_free: bool,
    /// Every rank knows the orders of the override log up to this one.
    pub(super) newest_drop: u32,
    /// Some rank was asked to end the generation.
    pub(super) regroup: bool,
    /// Some rank was asked to end it with a snapshot.
    pub(super) pause: bool,
    /// Every rank was asked for a checkpoint.
    pub(super) keep: bool,
}

/// What all ranks know alike at the boundary that they are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Boundary {
    /// By the step before it.
    pub(super) agreed: Agreed,
    /// The validation split was evaluated here.
    pub(super) evaluated: bool,
    /// With fewer errors than ever before.
    pub(super) best: bool,
}

/// What to do before the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) evaluate: bool,
    pub(super) checkpoint: Snapshot,
    pub(super) end: Option<Cause>,
}

/// Whether the state is kept here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Snapshot {
    /// Not due.
    No,
    /// Due, but some rank still uploads the one before.
    Skip,
    /// Due, but the generation ends here: the next one takes it.
    Owed,
    /// Due, and every slot is free.
    Take,
    /// The last one, or one that is to be kept for good: it waits for the slot.
    Final,
}

impl Snapshot {
    /// The same for a state that is better than all before it, which is kept whether due or not.
    pub(super) fn of_the_best(self) -> Self {
        match self {
            Self::Take => Self::Take,
            Self::No | Self::Skip | Self::Owed | Self::Final => Self::Final,
        }
    }
}

impl Timetable {
    pub(super) fn new(config: &RunConfig, steps_per_epoch: u32) -> Self {
        Self {
            steps_per_epoch,
            epochs: config.train.epochs,
            max_steps: config.train.max_steps,
            evaluate_epochs: config.evaluation.every_epochs,
            checkpoint_steps: config.checkpoint.every_steps,
            checkpoint_epochs: config.checkpoint.every_epochs,
        }
    }

    /// Whether nothing is left to train at `position`.
    pub(super) fn is_complete(&self, position: Position) -> bool {
        let steps = position.global_step(self.steps_per_epoch);
        position.epoch >= self.epochs || self.max_steps.is_some_and(|max| steps >= max)
    }

    /// What is due at `position`, which is not the start of the run.
    pub(super) fn due(&self, position: Position, agreed: Agreed) -> Due {
        let every = |period: u32, count: u64| period > 0 && count.is_multiple_of(u64::from(period));
        let epoch_done = position.step == 0;
        // A pause has its checkpoint, so it waits until every rank can take one.
        let pauses = agreed.pause && agreed.slots_free;
        let end = if self.is_complete(position) {
            Some(Cause::Completed)
        } else if agreed.stop {
            Some(Cause::Stopped)
        } else if agreed.regroup || pauses {
            Some(Cause::Regroup)
        } else {
            None
        };
        let evaluate = self.evaluate_epochs > 0
            && (end == Some(Cause::Completed)
                || epoch_done && every(self.evaluate_epochs, u64::from(position.epoch)));
        let by_steps = every(self.checkpoint_steps, position.global_step(self.steps_per_epoch));
        let by_epochs = epoch_done && every(self.checkpoint_epochs, u64::from(position.epoch));
        let checkpoint = match end {
            Some(Cause::Completed) => Snapshot::Final,
            Some(Cause::Regroup) if pauses => Snapshot::Take,
            // It would hold up those who come and go; the next generation owes it.
            Some(Cause::Regroup) if by_steps || by_epochs => Snapshot::Owed,
            Some(Cause::Regroup) => Snapshot::No,
            Some(_) if agreed.stop_checkpoint => Snapshot::Final,
            Some(_) => Snapshot::No,
            None if !(by_steps || by_epochs) => Snapshot::No,
            None if agreed.slots_free => Snapshot::Take,
            None => Snapshot::Skip,
        };
        Due { evaluate, checkpoint, end }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Agreed = Agreed {
        stop: false,
        stop_checkpoint: false,
        slots_free: true,
        newest_drop: 0,
        regroup: false,
        pause: false,
        keep: false,
    };

    fn timetable() -> Timetable {
        Timetable {
            steps_per_epoch: 10,
            epochs: 3,
            max_steps: None,
            evaluate_epochs: 2,
            checkpoint_steps: 4,
            checkpoint_epochs: 1,
        }
    }

    fn at(epoch: u32, step: u32) -> Position {
        Position { epoch, step }
    }

    #[test]
    fn steps_are_counted_from_the_start_of_the_run() {
        let due = |p| timetable().due(p, FREE).checkpoint;
        assert_eq!(due(at(0, 4)), Snapshot::Take);
        assert_eq!(due(at(0, 5)), Snapshot::No);
        assert_eq!(due(at(1, 2)), Snapshot::Take);
        assert_eq!(due(at(1, 4)), Snapshot::No);
    }

    #[test]
    fn an_epoch_end_brings_its_checkpoint_and_every_second_one_an_evaluation() {
        let first = timetable().due(at(1, 0), FREE);
        assert_eq!(first, Due { evaluate: false, checkpoint: Snapshot::Take, end: None });
        let second = timetable().due(at(2, 0), FREE);
        assert_eq!(second, Due { evaluate: true, checkpoint: Snapshot::Take, end: None });
    }

    #[test]
    fn a_due_checkpoint_is_skipped_while_a_rank_still_uploads() {
        let due = timetable().due(at(0, 4), Agreed { slots_free: false, ..FREE });
        assert_eq!(due.checkpoint, Snapshot::Skip);
    }

    #[test]
    fn the_best_state_so_far_is_kept_also_where_nothing_is_due_or_free() {
        for snapshot in [Snapshot::No, Snapshot::Skip, Snapshot::Final] {
            assert_eq!(snapshot.of_the_best(), Snapshot::Final);
        }
        assert_eq!(Snapshot::Take.of_the_best(), Snapshot::Take);
    }

    #[test]
    fn the_end_of_the_run_evaluates_and_waits_for_its_checkpoint() {
        let due = timetable().due(at(3, 0), Agreed { slots_free: false, ..FREE });
        assert_eq!(
            due,
            Due { evaluate: true, checkpoint: Snapshot::Final, end: Some(Cause::Completed) }
        );
        let short = Timetable { max_steps: Some(7), ..timetable() };
        assert_eq!(short.due(at(0, 7), FREE).end, Some(Cause::Completed));
        assert!(short.is_complete(at(0, 7)) && !short.is_complete(at(0, 6)));
    }

    #[test]
    fn a_stop_takes_its_checkpoint_only_if_asked() {
        let stop = Agreed { stop: true, stop_checkpoint: true, slots_free: false, ..FREE };
        let due = timetable().due(at(0, 3), stop);
        assert_eq!(
            due,
            Due { evaluate: false, checkpoint: Snapshot::Final, end: Some(Cause::Stopped) }
        );
        let due = timetable().due(at(0, 4), Agreed { stop_checkpoint: false, ..stop });
        assert_eq!((due.checkpoint, due.end), (Snapshot::No, Some(Cause::Stopped)));
    }

    #[test]
    fn regrouping_ends_the_generation_unless_the_run_ends_and_leaves_its_checkpoint_to_the_next() {
        let regroup = Agreed { regroup: true, ..FREE };
        let at_no_checkpoint = timetable().due(at(0, 3), regroup);
        assert_eq!(at_no_checkpoint.end, Some(Cause::Regroup));
        assert_eq!(at_no_checkpoint.checkpoint, Snapshot::No);
        assert_eq!(timetable().due(at(0, 4), regroup).checkpoint, Snapshot::Owed);
        assert!(timetable().due(at(2, 0), regroup).evaluate, "that cannot wait");
        assert_eq!(timetable().due(at(3, 0), regroup).end, Some(Cause::Completed));
        let both = Agreed { stop: true, ..regroup };
        assert_eq!(timetable().due(at(0, 3), both).end, Some(Cause::Stopped));
    }

    #[test]
    fn a_pause_ends_the_generation_with_a_snapshot_once_every_rank_can_take_one() {
        let pause = Agreed { pause: true, ..FREE };
        let due = timetable().due(at(0, 3), pause);
        assert_eq!((due.checkpoint, due.end), (Snapshot::Take, Some(Cause::Regroup)));
        let busy = timetable().due(at(0, 3), Agreed { slots_free: false, ..pause });
        assert_eq!((busy.checkpoint, busy.end), (Snapshot::No, None));
        let stop = Agreed { stop: true, stop_checkpoint: true, ..pause };
        assert_eq!(timetable().due(at(0, 3), stop).end, Some(Cause::Stopped));
        assert_eq!(timetable().due(at(3, 0), pause).end, Some(Cause::Completed));
    }
}
