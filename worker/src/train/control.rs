//! What the trainer's thread and the rest of the worker know of each other.
//!
//! The trainer owns the tensors and is told nothing but wishes: a stop is wanted, the generation is
//! over, the rate is to drop. It shows where it is. Both sides are a few atomics and one short list,
//! so neither ever waits for the other's work.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use convoy_common::ids::Position;
use convoy_common::schedule::ManualDrop;

/// What the worker is doing, as heartbeats tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Waiting for an assignment or for the other workers.
    Idle,
    /// Loading the state, opening the ring.
    Prepare,
    /// Waiting for decoded images.
    Data,
    /// Forward and backward.
    Compute,
    /// Waiting for the ring.
    Ring,
    /// Committing a step.
    Update,
    /// Copying the state for a checkpoint, or waiting for the last one's upload.
    Checkpoint,
    /// Evaluating the validation split.
    Evaluate,
}

/// Names in the order of the variants.
const NAMES: [&str; 8] =
    ["idle", "prepare", "data", "compute", "ring", "update", "checkpoint", "evaluate"];

/// The board between the trainer's thread and the rest.
#[derive(Debug, Default)]
pub struct Control {
    stop: AtomicBool,
    checkpoint: AtomicBool,
    abandoned: AtomicBool,
    /// Of the running generation alone.
    left: AtomicBool,
    regroup: AtomicBool,
    phase: AtomicU8,
    position: AtomicU64,
    drops: Mutex<Vec<ManualDrop>>,
    newest_drop: AtomicU32,
}

impl Control {
    /// Asks for an end at a step boundary; all ranks will agree on which.
    pub fn stop_after_step(&self, checkpoint: bool) {
        self.checkpoint.fetch_or(checkpoint, Ordering::Relaxed);
        self.stop.store(true, Ordering::Release);
    }

    /// A generation begins; wishes about the one before are forgotten.
    pub fn begin_generation(&self) {
        self.left.store(false, Ordering::Release);
        self.regroup.store(false, Ordering::Release);
    }

    /// The generation is over: the trainer is to come back with its state as soon as it can.
    pub fn leave_generation(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Asks for an end of the generation at a step boundary; all ranks will agree on which.
    pub fn regroup(&self) {
        self.regroup.store(true, Ordering::Release);
    }

    /// Takes in an order of the override log; all ranks will agree on where it takes effect.
    /// Orders come in the order of their numbers; one that comes again may have got its position.
    pub fn learn(&self, drop: ManualDrop) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        match drops.iter_mut().find(|it| it.number == drop.number) {
            Some(known) => known.at = drop.at.or(known.at),
            None => drops.push(drop),
        }
        // After the order itself: a number that the ring has carried stands for a known order.
        self.newest_drop.fetch_max(drop.number, Ordering::Release);
    }

    /// The generation is over: whatever the trainer does next is in vain.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
    }

    /// What the trainer is doing.
    pub fn phase(&self) -> &'static str {
        NAMES[usize::from(self.phase.load(Ordering::Relaxed)) % NAMES.len()]
    }

    /// The last committed position.
    pub fn position(&self) -> Position {
        let packed = self.position.load(Ordering::Relaxed);
        Position { epoch: (packed >> 32) as u32, step: packed as u32 }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn reached(&self, position: Position) {
        let packed = u64::from(position.epoch) << 32 | u64::from(position.step);
        self.position.store(packed, Ordering::Relaxed);
    }

    pub(super) fn wishes(&self) -> Wishes {
        let stop = self.stop.load(Ordering::Acquire);
        Wishes {
            stop,
            checkpoint: stop && self.checkpoint.load(Ordering::Relaxed),
            newest_drop: self.newest_drop.load(Ordering::Acquire),
            regroup: self.regroup.load(Ordering::Acquire),
        }
    }

    /// All orders so far.
    pub(super) fn drops(&self) -> Vec<ManualDrop> {
        self.drops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is nothing to wait for any more: the generation is over, or the worker's life.
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire) || self.left.load(Ordering::Acquire)
    }
}

/// What this rank has been asked; the ring folds the wishes of all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// End at the boundary after this step.
    pub(super) stop: bool,
    /// With a checkpoint there.
    pub(super) checkpoint: bool,
    /// The newest order of the override log that this rank knows; 0: none.
    pub(super) newest_drop: u32,
    /// End the generation at the boundary after this step.
    pub(super) regroup: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_trainer_shows_is_what_the_others_read() {
        let control = Control::default();
        let position = Position { epoch: 7, step: u32::MAX };
        control.reached(position);
        control.enter(Phase::Evaluate);
        assert_eq!((control.position(), control.phase()), (position, "evaluate"));
    }

    #[test]
    fn a_checkpoint_wished_for_once_stays_wished_for() {
        let control = Control::default();
        assert_eq!(control.wishes(), Wishes::default());
        control.stop_after_step(true);
        control.stop_after_step(false);
        assert_eq!(control.wishes(), Wishes { stop: true, checkpoint: true, ..Wishes::default() });
    }

    #[test]
    fn what_was_wished_of_one_generation_is_not_wished_of_the_next() {
        let control = Control::default();
        control.regroup();
        control.leave_generation();
        assert!(control.wishes().regroup && control.is_abandoned());
        control.stop_after_step(false);
        control.begin_generation();
        assert!(!control.wishes().regroup && !control.is_abandoned());
        assert!(control.wishes().stop, "that one is for the whole job");
    }

    #[test]
    fn an_order_that_comes_again_gets_its_position() {
        let control = Control::default();
        let at = Some(Position { epoch: 1, step: 2 });
        for at in [None, at, None] {
            control.learn(ManualDrop { number: 1, divide_by: 10.0, at });
        }
        assert_eq!(control.drops(), [ManualDrop { number: 1, divide_by: 10.0, at }]);
    }

    #[test]
    fn the_newest_order_is_known_with_all_before_it() {
        let control = Control::default();
        for number in [1, 2] {
            control.learn(ManualDrop { number, divide_by: 10.0, at: None });
        }
        assert_eq!(control.wishes().newest_drop, 2);
        assert_eq!(control.drops().len(), 2);
    }
}
