//! The microbatches' buffers, which are used again.
//!
//! A microbatch of 32 images is 20 MB. Made anew each time, it would be zeroed before it is written,
//! or faulted in page by page, which costs a tenth of the decoding. So the trainer's buffers come
//! back when it lets go of them, and are written over. What they hold in between is of no meaning:
//! whoever takes one writes all of it or hands none of it on.

use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// Buffers that wait for the next microbatch.
#[derive(Debug)]
pub(super) struct Pool {
    free: Mutex<Vec<Vec<f32>>>,
    /// More than these are given back to the allocator.
    most: usize,
}

impl Pool {
    /// One that keeps so many buffers.
    pub(super) fn new(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// A buffer of that length, with anything in it.
    pub(super) fn take(&self, values: usize) -> Vec<f32> {
        let mut buffer = self.lock().pop().unwrap_or_default();
        buffer.resize(values, 0.0);
        buffer
    }

    fn give(&self, buffer: Vec<f32>) {
        let mut free = self.lock();
        if free.len() < self.most && buffer.capacity() > 0 {
            free.push(buffer);
        }
    }

    /// The list is whole between any two statements, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The values of a microbatch; a slice of them. Their memory goes back to the pipeline that they come
/// from when they are dropped.
#[derive(Debug, Default)]
pub struct Pixels {
    values: Vec<f32>,
    pool: Weak<Pool>,
}

impl Pixels {
    pub(super) fn new(values: Vec<f32>, pool: Weak<Pool>) -> Self {
        Self { values, pool }
    }
}

impl Deref for Pixels {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values
    }
}

/// A copy belongs to nobody else.
impl Clone for Pixels {
    fn clone(&self) -> Self {
        Self { values: self.values.clone(), pool: Weak::new() }
    }
}

impl PartialEq for Pixels {
    fn eq(&self, other: &Self) -> bool {
        self.values == other.values
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give(std::mem::take(&mut self.values));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_buffer_comes_back_and_fits_whatever_is_asked_for() {
        let pool = Arc::new(Pool::new(2));
        let first = pool.take(100);
        let place = first.as_ptr();
        drop(Pixels::new(first, Arc::downgrade(&pool)));
        let second = pool.take(60);
        assert_eq!((second.as_ptr(), second.len()), (place, 60));
        let kept = Pixels::new(second, Arc::downgrade(&pool));
        assert_eq!(pool.take(60), [0.0; 60], "the other one is in use");
        drop(kept);
        assert_eq!(pool.take(100).len(), 100);
    }

    #[test]
    fn no_more_are_kept_than_allowed_and_none_without_the_pipeline() {
        let pool = Arc::new(Pool::new(2));
        let all: Vec<Pixels> =
            (0..5).map(|_| Pixels::new(pool.take(10), Arc::downgrade(&pool))).collect();
        drop(all);
        assert_eq!(pool.lock().len(), 2);
        let last = Pixels::new(pool.take(10), Arc::downgrade(&pool));
        drop(pool);
        assert_eq!(last.len(), 10);
    }
}
