//! Keeps the books: one task through which everything the job writes to its ledger goes.
//!
//! ```text
//! engine --entry--> made at once ------------------------------> engine: made, or cannot be
//!                     '--the store fails--> waiting --later, in order--^
//! ```
//!
//! A store that fails loses nothing: what it did not take waits here and is tried again with growing
//! pauses for as long as the job lives, the oldest first. What waits is bounded: of many manifests
//! the older ones are given up. An order of the operator's alone is not kept waiting, because
//! somebody waits for the answer. Old checkpoints are removed when there is nothing to write: once for
//! all that were published meanwhile.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use convoy_common::failure::Explain as _;
use convoy_common::ids::{Position, Term};
use convoy_common::schedule::ManualDrop;
use convoy_common::store::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

use super::Input;
use crate::ledger::{Ledger, LedgerError};
use crate::machine::{Event, Publication};

/// Entries that wait for this task.
const QUEUE: usize = 16;
/// For one try of one entry; the store has deadlines of its own for each request.
const PATIENCE: Duration = Duration::from_secs(300);
/// Manifests that wait for the store.
const BACKLOG: usize = 4;

/// Something to be written.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Publish(Box<Publication>),
    Prune { living: Term },
    Fingerprint(String),
    LogDrop { drop: ManualDrop, reason: String },
    RecordDrop { number: u32, position: Position },
    End { outcome: String },
}

/// Starts the task; it ends when nobody can make an entry any more.
pub(super) fn start(
    ledger: impl Ledger,
    engine: mpsc::Sender<Input>,
) -> (mpsc::Sender<Entry>, JoinHandle<()>) {
    let (entries, queue) = mpsc::channel(QUEUE);
    let books = Books {
        ledger,
        engine,
        waiting: VecDeque::new(),
        prune: None,
        fails: false,
        backoff: Backoff::default(),
        next_try: tokio::time::Instant::now(),
    };
    (entries, tokio::spawn(books.keep(queue)))
}

struct Books<L> {
    ledger: L,
    engine: mpsc::Sender<Input>,
    /// What the store did not take, and what came after it; the oldest first.
    waiting: VecDeque<Entry>,
    /// The living term of a pruning that is due.
    prune: Option<Term>,
    /// The last try came to nothing.
    fails: bool,
    backoff: Backoff,
    next_try: tokio::time::Instant,
}

/// What became of one try.
enum Tried {
    /// There is nothing more to do about the entry. The engine may have to know.
    Settled(Option<Event>),
    /// The store stood in the way.
    NotNow { error: String, hint: Option<String> },
}

impl<L: Ledger> Books<L> {
    async fn keep(mut self, mut queue: mpsc::Receiver<Entry>) {
        loop {
            tokio::select! {
                biased;
                entry = queue.recv() => match entry {
                    Some(Entry::Prune { living }) => self.prune = Some(living),
                    Some(entry) => self.take(entry).await,
                    None => break,
                },
                () = sleep_until(self.next_try), if self.is_behind() => self.catch_up().await,
            }
        }
        if self.waiting.is_empty() && self.prune.is_some() {
            self.catch_up().await;
        }
        let manifests = self.waiting.iter().filter(|it| matches!(it, Entry::Publish(_))).count();
        if manifests > 0 {
            tracing::warn!(manifests, "the job ends with checkpoints that the store did not take");
        }
    }

    fn is_behind(&self) -> bool {
        !self.waiting.is_empty() || self.prune.is_some()
    }

    async fn take(&mut self, entry: Entry) {
        if self.waiting.is_empty() || matches!(entry, Entry::LogDrop { .. }) {
            if let Err(entry) = self.attempt(entry).await {
                self.put_off(entry).await;
            }
        } else {
            self.put_off(entry).await;
        }
    }

    /// Makes what waits, as far as the store takes it.
    async fn catch_up(&mut self) {
        while let Some(entry) = self.waiting.pop_front() {
            if let Err(entry) = self.attempt(entry).await {
                return self.waiting.push_front(entry);
            }
        }
        if let Some(living) = self.prune.take()
            && self.attempt(Entry::Prune { living }).await.is_err()
        {
            self.prune = Some(living);
            return;
        }
        if std::mem::take(&mut self.fails) {
            self.backoff = Backoff::default();
            self.tell(Event::StoreWorks).await;
        }
    }

    /// Gives the entry back if it has to wait.
    async fn attempt(&mut self, entry: Entry) -> Result<(), Entry> {
        match self.make(&entry).await {
            Tried::Settled(event) => {
                if let Some(event) = event {
                    self.tell(event).await;
                }
                Ok(())
            }
            Tried::NotNow { error, hint } => {
                self.fails = true;
                self.next_try = tokio::time::Instant::now() + self.backoff.pause();
                self.tell(Event::StoreFails { error, hint }).await;
                Err(entry)
            }
        }
    }

    async fn put_off(&mut self, entry: Entry) {
        self.waiting.push_back(entry);
        let publishes = |it: &Entry| matches!(it, Entry::Publish(_));
        if self.waiting.iter().filter(|it| publishes(it)).count() > BACKLOG
            && let Some(oldest) = self.waiting.iter().position(publishes)
            && let Some(Entry::Publish(publication)) = self.waiting.remove(oldest)
        {
            let position = publication.shared.position;
            let error = "the store was away for so long that later ones wait for it".to_owned();
            self.tell(Event::ManifestFailed { position, error }).await;
        }
    }

    /// Without an engine nobody needs to know.
    async fn tell(&mut self, event: Event) {
        let _ = self.engine.send(Input::Event(event)).await;
    }

    async fn make(&mut self, entry: &Entry) -> Tried {
        match timeout(PATIENCE, self.make_in_time(entry)).await {
            Ok(tried) => tried,
            Err(_) => match entry {
                Entry::LogDrop { drop, .. } => {
                    let (number, error) = (drop.number, late());
                    Tried::Settled(Some(Event::DropFailed { number, error }))
                }
                _ => Tried::NotNow { error: late(), hint: None },
            },
        }
    }

    async fn make_in_time(&mut self, entry: &Entry) -> Tried {
        match entry {
            Entry::Publish(publication) => self.publish(publication).await,
            Entry::Prune { living } => self.prune(*living).await,
            Entry::Fingerprint(fingerprint) => self.record(fingerprint).await,
            Entry::End { outcome } => {
                // Without it the next coordinator waits some seconds for workers that are gone.
                if let Err(error) = self.ledger.record_end(outcome).await {
                    tracing::warn!(%error, "cannot write down that the job has ended");
                }
                Tried::Settled(None)
            }
            Entry::LogDrop { drop, reason } => {
                let number = drop.number;
                let event = match self.ledger.log_drop(*drop, reason).await {
                    Ok(()) => Event::DropLogged { number },
                    Err(error) => Event::DropFailed { number, error: error.to_string() },
                };
                Tried::Settled(Some(event))
            }
            Entry::RecordDrop { number, position } => {
                let number = *number;
                match self.ledger.record_drop(number, *position).await {
                    Ok(position) => Tried::Settled(Some(Event::DropRecorded { number, position })),
                    Err(error) => not_now(&error).unwrap_or_else(|| {
                        let error = error.to_string();
                        Tried::Settled(Some(Event::DropNotRecorded { number, error }))
                    }),
                }
            }
        }
    }

    async fn publish(&mut self, publication: &Publication) -> Tried {
        let position = publication.shared.position;
        let start = Instant::now();
        match self.ledger.publish(publication.clone()).await {
            Ok(mut kept) => {
                kept.took = Some(publication.uploads_took + start.elapsed());
                Tried::Settled(Some(Event::ManifestPublished(kept)))
            }
            Err(error) => not_now(&error).unwrap_or_else(|| {
                let error = error.to_string();
                Tried::Settled(Some(Event::ManifestFailed { position, error }))
            }),
        }
    }

    /// A run without its fingerprint goes on; it is only less watched.
    async fn record(&mut self, fingerprint: &str) -> Tried {
        match self.ledger.record_fingerprint(fingerprint).await {
            Ok(()) => tracing::info!(fingerprint, "numerics of the run recorded"),
            Err(error) => {
                if let Some(not_now) = not_now(&error) {
                    return not_now;
                }
                tracing::warn!(%error, "cannot record the numerics of the run");
            }
        }
        Tried::Settled(None)
    }

    async fn prune(&mut self, living: Term) -> Tried {
        match self.ledger.prune(living).await {
            Ok(pruned) if pruned.removed.is_empty() && pruned.swept == 0 => {}
            Ok(pruned) => tracing::info!(
                removed = pruned.removed.join(" "),
                left_overs = pruned.swept,
                "removed old checkpoints"
            ),
            Err(error) => {
                if let Some(not_now) = not_now(&error) {
                    return not_now;
                }
                tracing::warn!(%error, "cannot remove old checkpoints");
            }
        }
        Tried::Settled(None)
    }
}

/// That the entry waits, if that may help.
fn not_now(error: &LedgerError) -> Option<Tried> {
    error.may_pass().then(|| Tried::NotNow { error: error.to_string(), hint: error.hint() })
}

fn late() -> String {
    format!("the store did not answer within {} s", PATIENCE.as_secs())
}

#[cfg(test)]
mod tests;
