//! How many threads the tensor library uses.
//!
//! Weight gradients of convolutions change bits with the number of threads inside a kernel, so
//! that number is part of a run's numerics. The library keeps it per calling thread: every lane
//! sets it on its own thread before it computes.

use std::sync::Once;

/// Sets the kernels' threads for calls from this thread; 0 counts as 1.
pub fn use_on_this_thread(threads_per_lane: u32) {
    static INTEROP: Once = Once::new();
    // Only allowed once per process, and before the first use.
    INTEROP.call_once(|| {
        if tch::get_num_interop_threads() != 1 {
            tch::set_num_interop_threads(1);
        }
    });
    tch::set_num_threads(i32::try_from(threads_per_lane.max(1)).unwrap_or(i32::MAX));
}
