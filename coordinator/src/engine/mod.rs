//! The one task that owns the machine.
//!
//! ```text
//! service --Input--> engine --step--> machine
//!                      ^  |
//!                      |  +--orders--> lines to workers
//!                      |  +--entries-> books --> ledger (object store)
//!                      |  +--status--> whoever asks
//!                      +----- manifests published -----+
//! ```
//!
//! Everything reaches it as one closed enum through one bounded queue. It keeps the clock, carries
//! out effects in their order and never waits for any of them: a worker that does not read is lost,
//! a store that does not answer fails a checkpoint.

mod books;
mod log;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::ledger::Ledger;
use crate::machine::{
    ConnectionId, Departure, Effect, Ending, Event, Hello, Machine, Order, Outcome, Plan, Refusal,
    Status, invariants,
};
use books::Entry;

/// Inputs that wait for the engine; beyond that, readers of workers' calls are held up.
const INBOX: usize = 1024;
/// Orders that wait for one worker's connection.
const LINE: usize = 64;
/// Between two looks at the deadlines.
const TICK: Duration = Duration::from_millis(250);
/// Between two signs of life that workers get.
const PULSE: Duration = Duration::from_secs(1);
/// For checkpoints being removed when the job is over.
const LAST_ENTRIES: Duration = Duration::from_secs(10);

/// What reaches the engine.
#[derive(Debug)]
pub enum Input {
    /// A worker called: where its orders go, besides the event.
    Call {
        /// The call.
        connection: ConnectionId,
        /// Who calls.
        hello: Hello,
        /// The way to it.
        line: mpsc::Sender<Outgoing>,
    },
    /// Anything else.
    Event(Event),
}

/// What goes out to a worker. Nothing follows a refusal or a shutdown.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// To one that was taken.
    Order(Order),
    /// To one that was not.
    Refusal(Refusal),
    /// This coordinator lives.
    Pulse,
}

/// The way to a running engine; clones reach the same one.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    status: watch::Receiver<Status>,
}

impl Handle {
    /// Hands over an input; false if the job is over.
    pub async fn send(&self, input: Input) -> bool {
        self.inbox.send(input).await.is_ok()
    }

    /// What the job is doing.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The same, to wait for a change.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// A queue for one worker's orders.
    pub fn line() -> (mpsc::Sender<Outgoing>, mpsc::Receiver<Outgoing>) {
        mpsc::channel(LINE)
    }
}

/// Starts a job; it ends with its outcome.
pub fn start(plan: Plan, ledger: impl Ledger) -> (Handle, JoinHandle<Outcome>) {
    let (sender, inbox) = mpsc::channel(INBOX);
    let started = Instant::now();
    let machine = Machine::new(plan, Duration::ZERO);
    let (status, watched) = watch::channel(machine.status(Duration::ZERO));
    let (entries, books) = books::start(ledger, sender.clone());
    let engine = Engine { machine, started, lines: HashMap::new(), entries, status };
    let task = tokio::spawn(async move {
        let outcome = engine.run(inbox).await;
        if timeout(LAST_ENTRIES, books).await.is_err() {
            tracing::warn!("the store takes long to remove old checkpoints; not waiting for it");
        }
        outcome
    });
    (Handle { inbox: sender, status: watched }, task)
}

struct Engine {
    machine: Machine,
    started: Instant,
    lines: HashMap<ConnectionId, mpsc::Sender<Outgoing>>,
    entries: mpsc::Sender<Entry>,
    status: watch::Sender<Status>,
}

impl Engine {
    /// Gives up the way to the books when it ends, so that they can close.
    async fn run(mut self, mut inbox: mpsc::Receiver<Input>) -> Outcome {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pulse = interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(input) = inbox.recv() => {
                    self.take(input);
                    self.publish_status();
                }
                _ = pulse.tick() => self.beat(),
                _ = tick.tick() => {
                    // What has arrived counts before it is judged whether it is late.
                    for _ in 0..INBOX {
                        let Ok(input) = inbox.try_recv() else { break };
                        self.take(input);
                    }
                    self.step(Event::Tick);
                    self.publish_status();
                }
            }
            if let Some(outcome) = self.machine.outcome() {
                self.publish_status();
                return outcome.clone();
            }
        }
    }

    /// What was told in the log is in the status that is asked for next.
    fn publish_status(&self) {
        self.status.send_replace(self.machine.status(self.started.elapsed()));
    }

    /// One who does not read it is found out by an order.
    fn beat(&self) {
        for line in self.lines.values() {
            let _ = line.try_send(Outgoing::Pulse);
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Call { connection, hello, line } => {
                self.lines.insert(connection, line);
                self.step(Event::Joined { connection, hello });
            }
            Input::Event(event) => {
                if let Event::Gone { connection, .. } = &event {
                    self.lines.remove(connection);
                }
                self.step(event);
            }
        }
    }

    /// One step of the machine, and those that carrying out its effects brings about.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            let effects = self.machine.step(self.started.elapsed(), event);
            debug_assert_eq!(invariants::of_state(&self.machine), Ok(()));
            for effect in effects {
                events.extend(self.carry_out(effect));
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send { to, order } => {
                let last = matches!(order, Order::Shutdown { .. });
                self.tell(to, Outgoing::Order(order), last)
            }
            Effect::Refuse { to, refusal } => self.tell(to, Outgoing::Refusal(refusal), true),
            Effect::Publish(publication) => {
                let position = publication.shared.position;
                self.entries.try_send(Entry::Publish(publication)).err().map(|_| {
                    let error = "too many manifests wait for the store".to_owned();
                    Event::ManifestFailed { position, error }
                })
            }
            Effect::LogDrop { drop, reason } => {
                let number = drop.number;
                self.entries.try_send(Entry::LogDrop { drop, reason }).err().map(|_| {
                    let error = "too many entries wait for the store".to_owned();
                    Event::DropFailed { number, error }
                })
            }
            Effect::RecordDrop { number, position } => {
                self.entries.try_send(Entry::RecordDrop { number, position }).err().map(|_| {
                    let error = "too many entries wait for the store".to_owned();
                    Event::DropNotRecorded { number, error }
                })
            }
            Effect::Prune { living } => {
                // The next checkpoint prunes for this one, too.
                let _ = self.entries.try_send(Entry::Prune { living });
                None
            }
            Effect::RecordFingerprint(fingerprint) => {
                // The next first worker of the run records it otherwise.
                let _ = self.entries.try_send(Entry::Fingerprint(fingerprint));
                None
            }
            Effect::Log(note) => {
                log::tell(&note);
                None
            }
            Effect::End(outcome) => {
                log::tell_end(&outcome);
                if outcome.kind != Ending::Failed {
                    let _ = self.entries.try_send(Entry::End { outcome: outcome.message });
                }
                None
            }
        }
    }

    /// Puts something on a worker's line. The line's end is the call's end.
    fn tell(&mut self, to: ConnectionId, what: Outgoing, last: bool) -> Option<Event> {
        let outcome = self.lines.get(&to)?.try_send(what);
        if last || outcome.is_err() {
            self.lines.remove(&to);
        }
        match outcome {
            Err(mpsc::error::TrySendError::Full(_)) => {
                Some(Event::Gone { connection: to, why: Departure::Deaf })
            }
            // A call that is over is reported by whoever listens to it.
            Err(mpsc::error::TrySendError::Closed(_)) | Ok(()) => None,
        }
    }
}
