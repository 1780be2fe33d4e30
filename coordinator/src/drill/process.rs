//! One process of a drill: what it says, how it ends, and the signals that it gets.
//!
//! A task owns the process, so a signal is only ever sent to one that has not been reaped. It is tied
//! to the drill's own life as a launcher's children are: a drill that is killed leaves nobody, not
//! even one that it has stopped. What the process writes goes to its log file as it is, and line by
//! line to the drill.

use std::fs::File;
use std::io::{self, Write as _};
use std::process::Stdio;
use std::time::Duration;

use convoy_common::telemetry::Line;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::launch::os::{Ending, ending, send};
use crate::launch::tether;

/// The longest piece of a line that is held in memory.
const LINE_LIMIT: u64 = 256 * 1024;
/// How long the lines of an ended process are still read: something may hold its pipe open.
const DRAIN: Duration = Duration::from_millis(500);

/// One of the job's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// The coordinator.
    Coordinator,
    /// The worker of this index.
    Worker(usize),
}

impl Who {
    /// As its logs and the job call it.
    pub(super) fn name(self) -> String {
        match self {
            Self::Coordinator => "coordinator".to_owned(),
            Self::Worker(index) => format!("worker-{index}"),
        }
    }
}

/// What a process does.
#[derive(Debug)]
pub(super) enum News {
    /// It said this, just now.
    Line(Box<Line>),
    /// It is gone and reaped, and all it said has been told.
    Ended(Ending),
}

/// News of the process that was started as the `life`-th of `who`.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) who: Who,
    pub(super) life: u32,
    pub(super) news: News,
}

/// A running process.
#[derive(Debug)]
pub(super) struct Process {
    /// Its process id.
    pub(super) pid: u32,
    /// How many of the same name there were before it.
    pub(super) life: u32,
    orders: mpsc::UnboundedSender<Signal>,
}

impl Process {
    /// Sends a signal; SIGKILL goes to its whole process group, and wakes it first if it is stopped.
    pub(super) fn send(&self, signal: Signal) {
        // The task is gone only if the process is.
        let _ = self.orders.send(signal);
    }
}

/// Starts `command`, which writes to `log`; must be called from the main thread, see
/// [`crate::launch::tether`].
///
/// # Errors
/// When the program cannot be executed.
pub(super) fn start(
    who: Who,
    life: u32,
    mut command: Command,
    log: File,
    heard: mpsc::UnboundedSender<Heard>,
) -> io::Result<Process> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    tether::tether(&mut command);
    let child = command.spawn()?;
    let pid = child.id().unwrap_or_default();
    let (orders, inbox) = mpsc::unbounded_channel();
    tokio::spawn(attend(child, log, inbox, move |news| {
        // The drill is gone only when it is ending.
        let _ = heard.send(Heard { who, life, news });
    }));
    Ok(Process { pid, life, orders })
}

async fn attend(
    mut child: Child,
    log: File,
    mut inbox: mpsc::UnboundedReceiver<Signal>,
    tell: impl Fn(News) + Clone + Send + 'static,
) {
    let reader = child.stderr.take().map(|it| tokio::spawn(forward(it, log, tell.clone())));
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(signal) = inbox.recv() => send(&child, signal),
        }
    };
    if let Some(reader) = reader {
        let stop = reader.abort_handle();
        if timeout(DRAIN, reader).await.is_err() {
            stop.abort();
        }
    }
    tell(News::Ended(ending(status)));
}

async fn forward(from: impl AsyncRead + Unpin, mut log: File, tell: impl Fn(News)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut from).take(LINE_LIMIT).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                // A full disk must not end the drill; the verdict does not rest on these files.
                let _ = log.write_all(&line);
                if let Some(line) = Line::parse(String::from_utf8_lossy(&line).trim_end()) {
                    tell(News::Line(Box::new(line)));
                }
            }
        }
    }
}
