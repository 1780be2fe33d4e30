//! Where a worker's state lies while nobody trains with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use convoy_common::ids::Reached;

use crate::train::Remains;
use crate::train::remains::Unit;

/// Holds a worker's state between two generations; empty while the trainer has it.
///
/// The lock is held for as long as it takes to read one slice.
#[derive(Debug, Default)]
pub struct Vault {
    held: Mutex<Option<Remains>>,
}

impl Vault {
    /// Puts a state in, in place of any other.
    pub fn put(&self, remains: Remains) {
        *self.lock() = Some(remains);
    }

    /// Takes the state out.
    pub fn take(&self) -> Option<Remains> {
        self.lock().take()
    }

    /// How far the state has come; none: there is none.
    pub fn reached(&self) -> Option<Reached> {
        self.lock().as_ref().map(Remains::reached)
    }

    /// Whether its owner missed a checkpoint.
    pub(crate) fn owes_checkpoint(&self) -> bool {
        self.lock().as_ref().is_some_and(|it| it.owes_checkpoint)
    }

    /// Whether a snapshot of just the state was taken, and whether what led to it is held.
    pub(crate) fn kept_and_unit(&self) -> (bool, bool) {
        self.lock().as_ref().map_or((false, false), |it| (it.kept, it.unit.is_some()))
    }

    /// Looks at the state, if it is the one that is meant.
    pub(crate) fn look<T>(&self, at: Reached, look: impl FnOnce(&Remains) -> T) -> Option<T> {
        self.lock().as_ref().filter(|it| it.reached() == at).map(look)
    }

    /// The unit that leads on from `from`, if the state was reached by it.
    pub(crate) fn unit(&self, from: Reached) -> Option<Arc<Unit>> {
        let held = self.lock();
        held.as_ref().and_then(|it| it.unit.clone()).filter(|it| it.from == from)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Remains>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
