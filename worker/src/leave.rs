//! The end of a worker's process while its lanes may still compute.
//!
//! An ordinary exit runs the tensor library's destructors, and a lane of an abandoned generation
//! that is in the middle of a kernel then jumps into what is gone. Nothing of a worker needs those
//! destructors: what it has uploaded is uploaded, and its log lines are written as they are said.
#![expect(unsafe_code, reason = "only the system's own exit runs no destructors")]

use std::io::Write as _;

/// Ends the process with this code at once.
pub(crate) fn at_once(code: u8) -> ! {
    // A closed pipe is no reason to stay.
    let _ = std::io::stdout().flush();
    // SAFETY: `_exit` takes a number, touches no memory of this process and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}
