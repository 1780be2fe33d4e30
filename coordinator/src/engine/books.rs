//! Keeps the books: one task through which everything the job writes to its ledger goes, in order.

use std::time::{Duration, Instant};

use convoy_common::ids::{Position, Term};
use convoy_common::schedule::ManualDrop;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Input;
use crate::ledger::Ledger;
use crate::machine::{Event, Publication};

/// Entries that wait for the store.
const QUEUE: usize = 16;
/// For one entry; the store has deadlines of its own for each request.
const PATIENCE: Duration = Duration::from_secs(300);

/// Something to be written.
#[derive(Debug)]
pub(super) enum Entry {
    Publish(Box<Publication>),
    Prune { living: Term },
    Fingerprint(String),
    LogDrop { drop: ManualDrop, reason: String },
    RecordDrop { number: u32, position: Position },
}

/// Starts the task; it ends when nobody can make an entry any more.
pub(super) fn start(
    mut ledger: impl Ledger,
    engine: mpsc::Sender<Input>,
) -> (mpsc::Sender<Entry>, JoinHandle<()>) {
    let (entries, mut queue) = mpsc::channel(QUEUE);
    let task = tokio::spawn(async move {
        while let Some(entry) = queue.recv().await {
            match entry {
                Entry::Publish(publication) => {
                    let event = publish(&mut ledger, *publication).await;
                    // Without an engine nobody needs to know.
                    let _ = engine.send(Input::Event(event)).await;
                }
                Entry::Prune { living } => prune(&mut ledger, living).await,
                Entry::Fingerprint(it) => record(&mut ledger, &it).await,
                Entry::LogDrop { drop, reason } => {
                    let event = log_drop(&mut ledger, drop, &reason).await;
                    let _ = engine.send(Input::Event(event)).await;
                }
                Entry::RecordDrop { number, position } => {
                    let event = record_drop(&mut ledger, number, position).await;
                    let _ = engine.send(Input::Event(event)).await;
                }
            }
        }
    });
    (entries, task)
}

async fn publish(ledger: &mut impl Ledger, publication: Publication) -> Event {
    let position = publication.shared.position;
    let uploads_took = publication.uploads_took;
    let start = Instant::now();
    match timeout(PATIENCE, ledger.publish(publication)).await {
        Ok(Ok(mut kept)) => {
            kept.took = Some(uploads_took + start.elapsed());
            Event::ManifestPublished(kept)
        }
        Ok(Err(error)) => Event::ManifestFailed { position, error: error.to_string() },
        Err(_) => {
            let seconds = PATIENCE.as_secs();
            let error = format!("the store did not take the manifest within {seconds} s");
            Event::ManifestFailed { position, error }
        }
    }
}

/// A run without its fingerprint goes on; it is only less watched.
async fn record(ledger: &mut impl Ledger, fingerprint: &str) {
    match timeout(PATIENCE, ledger.record_fingerprint(fingerprint)).await {
        Ok(Ok(())) => tracing::info!(fingerprint, "numerics of the run recorded"),
        Ok(Err(error)) => tracing::warn!(%error, "cannot record the numerics of the run"),
        Err(_) => tracing::warn!(
            seconds = PATIENCE.as_secs(),
            "recording the numerics of the run took too long"
        ),
    }
}

async fn log_drop(ledger: &mut impl Ledger, drop: ManualDrop, reason: &str) -> Event {
    let number = drop.number;
    match timeout(PATIENCE, ledger.log_drop(drop, reason)).await {
        Ok(Ok(())) => Event::DropLogged { number },
        Ok(Err(error)) => Event::DropFailed { number, error: error.to_string() },
        Err(_) => Event::DropFailed { number, error: late() },
    }
}

async fn record_drop(ledger: &mut impl Ledger, number: u32, position: Position) -> Event {
    match timeout(PATIENCE, ledger.record_drop(number, position)).await {
        Ok(Ok(position)) => Event::DropRecorded { number, position },
        Ok(Err(error)) => Event::DropNotRecorded { number, error: error.to_string() },
        Err(_) => Event::DropNotRecorded { number, error: late() },
    }
}

fn late() -> String {
    format!("the store did not take the override log's entry within {} s", PATIENCE.as_secs())
}

async fn prune(ledger: &mut impl Ledger, living: Term) {
    match timeout(PATIENCE, ledger.prune(living)).await {
        Ok(Ok(pruned)) if pruned.removed.is_empty() && pruned.swept == 0 => {}
        Ok(Ok(pruned)) => tracing::info!(
            removed = pruned.removed.join(" "),
            left_overs = pruned.swept,
            "removed old checkpoints"
        ),
        Ok(Err(error)) => tracing::warn!(%error, "cannot remove old checkpoints"),
        Err(_) => {
            tracing::warn!(seconds = PATIENCE.as_secs(), "removing old checkpoints took too long")
        }
    }
}
