use std::sync::{Arc, Mutex};

use convoy_common::checkpoint::{CheckpointError, Pruned, SharedState};
use convoy_common::ids::Generation;
use convoy_common::store::StoreError;

use super::*;
use crate::machine::Kept;

/// A ledger whose store is away while it is told so, and what was made of it.
#[derive(Clone, Default)]
struct Shaky {
    away: Arc<Mutex<bool>>,
    lasting: bool,
    made: Arc<Mutex<Vec<String>>>,
}

impl Shaky {
    fn make(&self, what: String) -> Result<(), LedgerError> {
        if *self.away.lock().unwrap() {
            let url = "s3://bucket/run".to_owned();
            let source = "connection refused".into();
            let error = match self.lasting {
                true => StoreError::Exists { url },
                false => StoreError::Unreachable { endpoint: "there".to_owned(), url, source },
            };
            return Err(CheckpointError::Store(error).into());
        }
        self.made.lock().unwrap().push(what);
        Ok(())
    }

    fn made(&self) -> Vec<String> {
        self.made.lock().unwrap().clone()
    }
}

impl Ledger for Shaky {
    async fn record_end(&mut self, _outcome: &str) -> Result<(), LedgerError> {
        Ok(())
    }

    async fn publish(&mut self, it: Publication) -> Result<Kept, LedgerError> {
        let position = it.shared.position;
        self.make(format!("publish {}", position.step))?;
        Ok(Kept { position, path: String::new(), bytes: 0, took: None })
    }

    async fn log_drop(&mut self, drop: ManualDrop, _: &str) -> Result<(), LedgerError> {
        self.make(format!("drop {}", drop.number))
    }

    async fn record_drop(&mut self, number: u32, at: Position) -> Result<Position, LedgerError> {
        self.make(format!("effect {number}")).map(|()| at)
    }

    async fn prune(&mut self, _: Term) -> Result<Pruned, LedgerError> {
        self.make("prune".to_owned()).map(|()| Pruned::default())
    }

    async fn record_fingerprint(&mut self, _: &str) -> Result<(), LedgerError> {
        self.make("fingerprint".to_owned())
    }
}

fn publish(step: u32) -> Entry {
    let position = Position { epoch: 0, step };
    Entry::Publish(Box::new(Publication {
        generation: Generation::default(),
        shared: SharedState { position, ..SharedState::at_the_start() },
        parts: Vec::new(),
        state_digest: String::new(),
        uploads_took: Duration::ZERO,
    }))
}

struct Desk {
    entries: mpsc::Sender<Entry>,
    inbox: mpsc::Receiver<Input>,
    task: JoinHandle<()>,
}

impl Desk {
    fn of(ledger: &Shaky) -> Self {
        let (engine, inbox) = mpsc::channel(100);
        let (entries, task) = start(ledger.clone(), engine);
        Self { entries, inbox, task }
    }

    async fn event(&mut self) -> Event {
        match self.inbox.recv().await {
            Some(Input::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }
}

fn prune() -> Entry {
    Entry::Prune { living: Term(1) }
}

#[tokio::test(start_paused = true)]
async fn what_the_store_does_not_take_waits_and_is_made_in_order_when_it_is_back() {
    let ledger = Shaky::default();
    *ledger.away.lock().unwrap() = true;
    let mut desk = Desk::of(&ledger);
    for entry in [publish(5), prune(), prune(), publish(9)] {
        desk.entries.send(entry).await.unwrap();
    }
    // An hour goes by.
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < Duration::from_secs(3600) {
        match desk.event().await {
            Event::StoreFails { error, hint } => {
                assert!(error.ends_with("connection refused"), "{error}");
                assert!(hint.unwrap().contains("network"));
            }
            other => panic!("{other:?}"),
        }
    }
    *ledger.away.lock().unwrap() = false;
    let mut kept = Vec::new();
    loop {
        match desk.event().await {
            Event::ManifestPublished(it) => kept.push(it.position.step),
            Event::StoreFails { .. } => {}
            Event::StoreWorks => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kept, [5, 9]);
    assert_eq!(ledger.made(), ["publish 5", "publish 9", "prune"], "once is enough");
}

#[tokio::test(start_paused = true)]
async fn what_is_published_does_not_wait_for_old_checkpoints_to_be_removed() {
    let ledger = Shaky::default();
    let desk = Desk::of(&ledger);
    for entry in [publish(1), prune(), publish(2), prune()] {
        desk.entries.send(entry).await.unwrap();
    }
    drop(desk.entries);
    timeout(Duration::from_secs(60), desk.task).await.unwrap().unwrap();
    assert_eq!(ledger.made(), ["publish 1", "publish 2", "prune"]);
}

#[tokio::test(start_paused = true)]
async fn an_operator_is_not_kept_waiting_and_a_lasting_error_is_one_at_once() {
    let ledger = Shaky::default();
    *ledger.away.lock().unwrap() = true;
    let mut desk = Desk::of(&ledger);
    desk.entries.send(publish(5)).await.unwrap();
    assert!(matches!(desk.event().await, Event::StoreFails { .. }));
    let drop = ManualDrop { number: 3, divide_by: 2.0, at: None };
    desk.entries.send(Entry::LogDrop { drop, reason: String::new() }).await.unwrap();
    assert!(matches!(desk.event().await, Event::DropFailed { number: 3, .. }));

    let mut desk = Desk::of(&Shaky { lasting: true, ..ledger });
    desk.entries.send(publish(5)).await.unwrap();
    assert!(matches!(desk.event().await, Event::ManifestFailed { .. }));
}

#[tokio::test(start_paused = true)]
async fn of_many_manifests_the_oldest_are_given_up_and_the_end_of_the_job_is_the_end() {
    let ledger = Shaky::default();
    *ledger.away.lock().unwrap() = true;
    let mut desk = Desk::of(&ledger);
    for step in 0..10 {
        desk.entries.send(publish(step)).await.unwrap();
    }
    let mut lost = Vec::new();
    while lost.len() < 6 {
        if let Event::ManifestFailed { position, .. } = desk.event().await {
            lost.push(position.step);
        }
    }
    assert_eq!(lost, [0, 1, 2, 3, 4, 5]);
    drop((desk.entries, desk.inbox));
    timeout(Duration::from_secs(60), desk.task).await.unwrap().unwrap();
    assert!(ledger.made().is_empty());
}
