//! Where microbatches wait for the trainer, and the trainer for microbatches.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::Microbatch;
use super::error::{DataError, Stage};

/// Microbatches by number; they come in any order and leave in theirs.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ready: BTreeMap<u64, Delivered>,
    /// How many have been read, with or without success.
    read: u64,
    ended: Ended,
}

/// Whether more will be read.
#[derive(Debug, Default, PartialEq, Eq)]
enum Ended {
    #[default]
    No,
    /// All requests were.
    Complete,
    /// Some were not.
    Early,
}

/// A microbatch, and its share of what may be in flight, which is freed when it is handed over.
#[derive(Debug)]
pub(super) struct Delivered {
    pub(super) result: Result<Microbatch, DataError>,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Delivery {
    /// One more has been read, and will come.
    pub(super) fn announce(&self) {
        self.lock().read += 1;
    }

    /// Number `number` is there.
    pub(super) fn put(&self, number: u64, delivered: Delivered) {
        self.lock().ready.insert(number, delivered);
        self.changed.notify_all();
    }

    /// No more will be read; all requests were if `complete`. The first word counts.
    pub(super) fn end(&self, complete: bool) {
        let mut state = self.lock();
        if state.ended == Ended::No {
            state.ended = if complete { Ended::Complete } else { Ended::Early };
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Number `number`, as soon as it is there; nothing if there are no more.
    pub(super) fn take(
        &self,
        number: u64,
        timeout: Duration,
    ) -> Option<Result<Microbatch, DataError>> {
        let begin = Instant::now();
        let mut state = self.lock();
        loop {
            if let Some(Delivered { result, permit }) = state.ready.remove(&number) {
                drop(state);
                drop(permit);
                return Some(result);
            }
            let reading = number >= state.read;
            match state.ended {
                Ended::Complete if reading => return None,
                Ended::Early if reading => return Some(Err(DataError::Stopped)),
                _ => {}
            }
            let waited = begin.elapsed();
            let Some(left) = timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                let stage = if reading { Stage::Reading } else { Stage::Decoding };
                return Some(Err(DataError::Timeout { waited, stage }));
            };
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().ready.len()
    }

    /// The state is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
