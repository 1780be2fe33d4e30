//! One child process: its lines go to the console, its end to the supervisor.
//!
//! A task owns the process, so a signal is only ever sent to a child that has not been reaped, and
//! the last lines of a child are read before its end is told. It decides nothing.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::console::Lines;
use super::message::{Event, Who};
use super::os::{ending, send};
use super::tether::tether;

/// The longest piece of a line that is held in memory.
const LINE_LIMIT: u64 = 256 * 1024;
/// How long the lines of an ended child are still read: something may hold its pipe open.
const DRAIN: Duration = Duration::from_millis(500);

/// A running child, as the launcher's loop sees it.
pub(super) struct Handle {
    orders: mpsc::UnboundedSender<Signal>,
}

impl Handle {
    /// Asks the child to end.
    pub(super) fn terminate(&self) {
        // The task is gone only if the child is.
        let _ = self.orders.send(Signal::TERM);
    }

    /// Ends the child and what it may have started in its process group.
    pub(super) fn kill(&self) {
        let _ = self.orders.send(Signal::KILL);
    }
}

/// Starts `command`; must be called from the main thread, see [`super::tether`].
///
/// # Errors
/// When the program cannot be executed.
pub(super) fn start(
    who: Who,
    mut command: Command,
    lines: Lines,
    events: mpsc::Sender<Event>,
) -> io::Result<Handle> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    tether(&mut command);
    let child = command.spawn()?;
    let (orders, inbox) = mpsc::unbounded_channel();
    tokio::spawn(attend(who, child, lines, events, inbox));
    Ok(Handle { orders })
}

async fn attend(
    who: Who,
    mut child: Child,
    lines: Lines,
    events: mpsc::Sender<Event>,
    mut inbox: mpsc::UnboundedReceiver<Signal>,
) {
    let stdout = child.stdout.take().map(|it| tokio::spawn(forward(it, lines.clone())));
    let stderr = child.stderr.take().map(|it| tokio::spawn(forward(it, lines)));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(signal) = inbox.recv() => send(&child, signal),
        }
    };
    for reader in [stdout, stderr].into_iter().flatten() {
        let stop = reader.abort_handle();
        if timeout(DRAIN, reader).await.is_err() {
            stop.abort();
        }
    }
    // The loop is gone only if the launcher is ending.
    let _ = events.send(Event::Ended(who, ending(status))).await;
}

async fn forward(from: impl AsyncRead + Unpin, lines: Lines) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                lines.send(text.trim_end().to_owned()).await;
            }
        }
    }
}
