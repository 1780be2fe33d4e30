//! One buffer that several threads fill, each its own part, without copies and without locks.
//!
//! Safe Rust lends disjoint parts of a slice only to threads that end before the slice's owner
//! goes on; decode threads outlive many buffers. So this one module hands them out by raw pointer,
//! and makes sure that each part is handed out once.

#![expect(unsafe_code, reason = "parts of one buffer are lent to long-lived threads")]

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

/// A buffer of equal parts, of which each can be taken once.
#[derive(Debug)]
pub(super) struct Disjoint {
    /// Of a `Vec` with that capacity and `taken.len() * width` values, owned by this.
    base: NonNull<f32>,
    capacity: usize,
    width: usize,
    taken: Box<[AtomicBool]>,
}

// SAFETY: `base` is owned like a `Vec<f32>`, which is `Send`.
unsafe impl Send for Disjoint {}
// SAFETY: through a shared reference, `take` is all that reaches the buffer, and no two calls of it
// give out the same values.
unsafe impl Sync for Disjoint {}

impl Disjoint {
    /// `parts` parts of `width` values each, in `values`, which becomes as long as that; what it holds
    /// stays.
    pub(super) fn new(mut values: Vec<f32>, parts: usize, width: usize) -> Self {
        values.resize(parts * width, 0.0);
        let mut values = ManuallyDrop::new(values);
        let (base, capacity) = (NonNull::from(&mut values[..]).cast(), values.capacity());
        let taken = (0..parts).map(|_| AtomicBool::new(false)).collect();
        Self { base, capacity, width, taken }
    }

    /// The part `index`, or nothing if it has been taken or does not exist.
    #[expect(clippy::mut_from_ref, reason = "each part is given out once")]
    pub(super) fn take(&self, index: usize) -> Option<&mut [f32]> {
        if self.taken.get(index)?.swap(true, Ordering::Relaxed) {
            return None;
        }
        // SAFETY: `index` is below the number of parts, so the part lies within the buffer. It is
        // initialised. No other reference to it exists or will exist while `self` is borrowed: the
        // flag was swapped atomically and is never reset, parts do not overlap, and the buffer as
        // a whole is reached through `&mut self` alone.
        unsafe {
            let part = self.base.as_ptr().add(index * self.width);
            Some(std::slice::from_raw_parts_mut(part, self.width))
        }
    }

    /// The whole buffer; parts that were never taken hold what they held.
    pub(super) fn into_vec(mut self) -> Vec<f32> {
        self.reclaim()
    }

    /// Takes the buffer out and leaves an empty one.
    fn reclaim(&mut self) -> Vec<f32> {
        let length = std::mem::take(&mut self.taken).len() * self.width;
        let base = std::mem::replace(&mut self.base, NonNull::dangling());
        let capacity = std::mem::take(&mut self.capacity);
        // SAFETY: these are pointer, length and capacity of the `Vec` that `new` took apart, or those
        // of an empty one if it has been taken out before. `&mut self` shows that no part is lent
        // any more.
        unsafe { Vec::from_raw_parts(base.as_ptr(), length, capacity) }
    }
}

impl Drop for Disjoint {
    fn drop(&mut self) {
        drop(self.reclaim());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_given_out_once_whoever_asks() {
        let buffer = Disjoint::new(Vec::new(), 1000, 3);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0;
                        for index in 0..1000 {
                            if let Some(part) = buffer.take(index) {
                                part.iter_mut().for_each(|value| *value += index as f32);
                                count += 1;
                            }
                        }
                        count
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
        let expected: Vec<f32> = (0..1000).flat_map(|index| [index as f32; 3]).collect();
        assert_eq!(buffer.into_vec(), expected);
    }

    #[test]
    fn a_part_that_does_not_exist_is_not_given_out() {
        let buffer = Disjoint::new(Vec::new(), 2, 5);
        assert!(buffer.take(2).is_none());
        assert!(buffer.take(1).is_some());
        assert_eq!(buffer.into_vec(), [0.0; 10]);
        assert!(Disjoint::new(Vec::new(), 0, 5).into_vec().is_empty());
    }

    #[test]
    fn a_buffer_that_was_used_before_keeps_its_memory_and_becomes_as_long_as_is_needed() {
        let mut used = vec![7.0; 12];
        used.reserve(100);
        let (place, capacity) = (used.as_ptr(), used.capacity());
        let buffer = Disjoint::new(used, 2, 5);
        buffer.take(0).unwrap().fill(1.0);
        let values = buffer.into_vec();
        assert_eq!((values.as_ptr(), values.capacity()), (place, capacity));
        assert_eq!(values, [[1.0; 5], [7.0; 5]].concat());
        assert_eq!(Disjoint::new(values, 3, 5).into_vec()[10..], [0.0; 5]);
    }
}
