//! What the trainer's thread and the rest of the worker know of each other.
//!
//! The trainer owns the tensors and is told nothing but wishes: a stop is wanted, the generation is
//! over, the rate is to drop. It shows where it is. Both sides are a few atomics and one short list,
//! so neither ever waits for the other's work.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use convoy_common::ids::Position;
use convoy_common::schedule::ManualDrop;

use super::times::Arrival;

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
#[derive(Debug)]
pub struct Control {
    stop: AtomicBool,
    checkpoint: AtomicBool,
    abandoned: AtomicBool,
    /// Of the running generation alone.
    left: AtomicBool,
    regroup: AtomicBool,
    pause: AtomicBool,
    keep: AtomicBool,
    phase: AtomicU8,
    /// When the phase was entered, in milliseconds after `made`.
    entered: AtomicU64,
    made: Instant,
    /// When the snapshot was taken whose part is on its way.
    upload: Mutex<Option<Instant>>,
    arrival: Mutex<Arrival>,
    position: AtomicU64,
    drops: Mutex<Vec<ManualDrop>>,
    newest_drop: AtomicU32,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            stop: AtomicBool::default(),
            checkpoint: AtomicBool::default(),
            abandoned: AtomicBool::default(),
            left: AtomicBool::default(),
            regroup: AtomicBool::default(),
            pause: AtomicBool::default(),
            keep: AtomicBool::default(),
            phase: AtomicU8::default(),
            entered: AtomicU64::default(),
            made: Instant::now(),
            upload: Mutex::default(),
            arrival: Mutex::default(),
            position: AtomicU64::default(),
            drops: Mutex::default(),
            newest_drop: AtomicU32::default(),
        }
    }
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
        self.pause.store(false, Ordering::Release);
        self.keep.store(false, Ordering::Release);
        *locked(&self.arrival) = Arrival::default();
        *locked(&self.upload) = None;
    }

    /// The generation is over: the trainer is to come back with its state as soon as it can.
    pub fn leave_generation(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Asks for an end of the generation at a step boundary; all ranks will agree on which.
    pub fn regroup(&self) {
        self.regroup.store(true, Ordering::Release);
    }

    /// The same at a boundary at which all ranks can take a snapshot, and with one.
    pub fn pause(&self) {
        self.pause.store(true, Ordering::Release);
    }

    /// Asks for a checkpoint; all ranks will agree on when.
    pub fn take_checkpoint(&self) {
        self.keep.store(true, Ordering::Release);
    }

    /// Takes in an order of the override log; all ranks will agree on where it takes effect.
    /// Orders come in the order of their numbers; one that comes again may have got its position.
    pub fn learn(&self, drop: ManualDrop) {
        let mut drops = locked(&self.drops);
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

    /// Since it began to do that.
    pub fn time_in_phase(&self) -> Duration {
        let entered = Duration::from_millis(self.entered.load(Ordering::Relaxed));
        self.made.elapsed().saturating_sub(entered)
    }

    /// Since the snapshot was taken whose part is on its way; none: none is.
    pub fn time_of_upload(&self) -> Option<Duration> {
        locked(&self.upload).map(|since| since.elapsed())
    }

    /// The part is stored, or is not going to be.
    pub fn upload_ended(&self) {
        *locked(&self.upload) = None;
    }

    /// How long this rank took to be ready for the ring, in the steps of the generation.
    pub fn arrival(&self) -> Arrival {
        *locked(&self.arrival)
    }

    /// The last committed position.
    pub fn position(&self) -> Position {
        let packed = self.position.load(Ordering::Relaxed);
        Position { epoch: (packed >> 32) as u32, step: packed as u32 }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let now = self.made.elapsed().as_millis() as u64;
        self.entered.store(now, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(super) fn upload_begins(&self) {
        *locked(&self.upload) = Some(Instant::now());
    }

    pub(super) fn arrived(&self, step: Arrival) {
        locked(&self.arrival).add(step);
    }

    /// What all ranks were asked for is done, or is on its way.
    pub(super) fn checkpoint_heard(&self) {
        self.keep.store(false, Ordering::Release);
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
            pause: self.pause.load(Ordering::Acquire),
            keep: self.keep.load(Ordering::Acquire),
        }
    }

    /// All orders so far.
    pub(super) fn drops(&self) -> Vec<ManualDrop> {
        locked(&self.drops).clone()
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
    /// The same with a snapshot, once all ranks can take one.
    pub(super) pause: bool,
    /// Take a checkpoint, once all ranks have been asked for it.
    pub(super) keep: bool,
}

/// What is in there is plain data, good whoever panicked with it.
fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
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
        control.pause();
        control.take_checkpoint();
        control.leave_generation();
        assert!(control.wishes().regroup && control.is_abandoned());
        assert!(control.wishes().pause && control.wishes().keep);
        control.stop_after_step(false);
        control.begin_generation();
        assert!(!control.wishes().regroup && !control.is_abandoned());
        assert!(!control.wishes().pause && !control.wishes().keep);
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
