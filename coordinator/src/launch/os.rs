//! What a child process is to the operating system: how it is signalled, and how it ended.

use std::io;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Child;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It exited with this code.
    Code(u8),
    /// A signal of this number killed it.
    Signal(i32),
}

/// Signals the child; SIGKILL goes to its whole process group.
pub(crate) fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let Some(pid) = pid else { return };
    let sent = match signal {
        Signal::KILL => kill_process_group(pid, signal),
        _ => kill_process(pid, signal),
    };
    // One that ends meanwhile needs no signal any more.
    if let Err(error) = sent {
        tracing::debug!(pid = pid.as_raw_nonzero().get(), %error, "signal not delivered");
    }
}

/// What the system says of its end.
pub(crate) fn ending(status: io::Result<ExitStatus>) -> Ending {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(u8::try_from(code).unwrap_or(u8::MAX)),
            (None, Some(number)) => Ending::Signal(number),
            (None, None) => Ending::Code(u8::MAX),
        },
        // It cannot be waited for, so nothing is known of it.
        Err(_) => Ending::Code(u8::MAX),
    }
}
