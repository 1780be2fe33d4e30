//! Ties a child's life to the launcher's, whatever ends the launcher.
//!
//! A child asks the kernel for SIGKILL at the death of the thread that started it, so a launcher
//! killed with SIGKILL, which can clean up nothing, still leaves nobody behind. Two traps shape
//! this: the kernel means the *thread*, so children are started from the main thread alone; and
//! the launcher may die between fork and the request, which the child sees by its new parent.
//! A child also gets its own process group: Ctrl-C in a terminal reaches the launcher alone,
//! which then decides who is told what.

#![expect(
    unsafe_code,
    reason = "work between fork and exec, and asking for a signal's disposition"
)]

use std::io;

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::Command;

/// Makes `command`'s process die with the calling thread, in a process group of its own.
pub(crate) fn tether(command: &mut Command) {
    let launcher = getpid();
    command.process_group(0);
    // SAFETY: between fork and exec the closure makes two system calls on copied values; it
    // neither allocates nor locks (an error made from an OS code holds no heap memory).
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if getppid() == Some(launcher) {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
}

/// Whether SIGHUP was ignored when this program started, as `nohup` arranges.
pub(super) fn hangup_is_ignored() -> bool {
    // SAFETY: a zeroed sigaction is a valid value, and with no new action the call only writes
    // the present one to the pointer, which is valid for the call.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut present) == 0
            && present.sa_sigaction == libc::SIG_IGN
    }
}
