//! A ledger to which a test does something before a manifest is published.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use convoy_common::checkpoint::{CheckpointError, Pruned};
use convoy_common::ids::{Position, Term};
use convoy_common::schedule::ManualDrop;
use convoy_common::store::StoreError;
use convoy_coordinator::ledger::{Ledger, LedgerError, StoreLedger};
use convoy_coordinator::machine::{Kept, Publication};

/// What happens when a manifest is about to be published.
#[derive(Clone)]
pub(crate) struct Hook {
    what: What,
    /// Manifests that were asked for.
    asked: Arc<AtomicU32>,
}

#[derive(Clone, Copy)]
enum What {
    Nothing,
    /// The store is away from the second manifest on, for so many tries.
    Away(u32),
    /// From the second one on nothing comes of it, as when the process stands still or is dead.
    Never,
}

impl Hook {
    pub(crate) fn none() -> Self {
        Self { what: What::Nothing, asked: Arc::default() }
    }

    pub(crate) fn away(tries: u32) -> Self {
        Self { what: What::Away(tries), ..Self::none() }
    }

    pub(crate) fn never() -> Self {
        Self { what: What::Never, ..Self::none() }
    }

    /// How often a manifest was to be published.
    pub(crate) fn asked(&self) -> u32 {
        self.asked.load(Ordering::Acquire)
    }
}

/// The real ledger behind a hook.
pub(crate) struct Hooked {
    pub(crate) ledger: StoreLedger,
    pub(crate) hook: Hook,
}

impl Ledger for Hooked {
    async fn publish(&mut self, publication: Publication) -> Result<Kept, LedgerError> {
        let before = self.hook.asked.fetch_add(1, Ordering::AcqRel);
        match self.hook.what {
            What::Away(tries) if (1..=tries).contains(&before) => {
                let error = StoreError::Unreachable {
                    endpoint: "http://gone".to_owned(),
                    url: "s3://bucket".to_owned(),
                    source: "connection refused".into(),
                };
                Err(CheckpointError::Store(error).into())
            }
            What::Never if before >= 1 => pending().await,
            _ => self.ledger.publish(publication).await,
        }
    }

    async fn record_end(&mut self, outcome: &str) -> Result<(), LedgerError> {
        self.ledger.record_end(outcome).await
    }

    async fn log_drop(&mut self, drop: ManualDrop, reason: &str) -> Result<(), LedgerError> {
        self.ledger.log_drop(drop, reason).await
    }

    async fn record_drop(&mut self, number: u32, at: Position) -> Result<Position, LedgerError> {
        self.ledger.record_drop(number, at).await
    }

    async fn prune(&mut self, living: Term) -> Result<Pruned, LedgerError> {
        self.ledger.prune(living).await
    }

    async fn record_fingerprint(&mut self, fingerprint: &str) -> Result<(), LedgerError> {
        self.ledger.record_fingerprint(fingerprint).await
    }
}
