//! Lives of coordinators: `terms/<n>.json` and `ended/<n>.json`, create-only.
//!
//! Whoever creates the next object is the coordinator; it holds the address at which workers and
//! later claimants reach it. Of two claimants of one number exactly one wins. A coordinator that ends
//! its job on purpose says so; where it does not, its workers may still be training.

use serde::{Deserialize, Serialize};

use super::catalogue::Checkpoints;
use super::error::CheckpointError;
use crate::ids::Term;
use crate::nonce;

const FOLDER: &str = "terms";
const ENDED: &str = "ended";

/// One life of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TermRecord {
    /// Its number, from 1.
    pub term: Term,
    /// Tells apart two claimants.
    pub owner: String,
    /// host:port of the coordinator.
    pub address: String,
    /// RFC 3339.
    pub started: String,
    /// Version of Convoy.
    pub version: String,
}

/// That a coordinator has ended its job, and its workers with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRecord {
    /// The coordinator's.
    pub term: Term,
    /// RFC 3339.
    pub ended: String,
    /// How, in the words of its log.
    pub outcome: String,
}

/// How a claim ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The caller holds the term.
    Won(TermRecord),
    /// Another claimed the same number first; ask it before claiming again.
    Lost(TermRecord),
}

impl Checkpoints {
    /// The newest term, if any was claimed.
    ///
    /// # Errors
    /// Those of the store, and [`CheckpointError::Damaged`].
    pub async fn newest_term(&self) -> Result<Option<TermRecord>, CheckpointError> {
        match self.numbers(FOLDER).await?.last() {
            Some(number) => Ok(Some(self.term(*number).await?)),
            None => Ok(None),
        }
    }

    async fn term(&self, number: u64) -> Result<TermRecord, CheckpointError> {
        let path = path(number);
        let record: TermRecord = self.read_json(&path).await?;
        self.check_number(&path, number, record.term.0)?;
        Ok(record)
    }

    /// Claims the term after the newest one for a coordinator at `address`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn claim_next(&self, address: &str) -> Result<Claim, CheckpointError> {
        self.claim(Term(self.next_number(FOLDER).await?), address).await
    }

    /// Claims that term, the one after the newest that the caller has looked at. Whoever claims the
    /// next one without a look at what came between would take it from a coordinator that lives.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn claim(&self, term: Term, address: &str) -> Result<Claim, CheckpointError> {
        let record = TermRecord {
            term,
            owner: nonce::unique(),
            address: address.to_owned(),
            started: super::now(),
            version: crate::VERSION.to_owned(),
        };
        let path = path(record.term.0);
        if self.create_json(&path, &record).await? {
            Ok(Claim::Won(record))
        } else {
            Ok(Claim::Lost(self.term(record.term.0).await?))
        }
    }

    /// Writes down that the coordinator of that term has ended its job.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn end_term(&self, term: Term, outcome: &str) -> Result<(), CheckpointError> {
        let record = EndRecord { term, ended: super::now(), outcome: outcome.to_owned() };
        // Nobody else writes it.
        self.create_json(&format!("{ENDED}/{term}.json"), &record).await?;
        Ok(())
    }

    /// Whether the coordinator of that term has ended its job.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn has_ended(&self, term: Term) -> Result<bool, CheckpointError> {
        Ok(self.numbers(ENDED).await?.contains(&term.0))
    }

    /// Refuses to go on in a term that is over.
    ///
    /// # Errors
    /// [`CheckpointError::Superseded`] and those of the store.
    pub async fn still_in(&self, own: Term) -> Result<(), CheckpointError> {
        match self.numbers(FOLDER).await?.last() {
            Some(newest) if *newest > own.0 => {
                Err(CheckpointError::Superseded { own: own.0, newest: *newest })
            }
            _ => Ok(()),
        }
    }
}

fn path(number: u64) -> String {
    format!("{FOLDER}/{number}.json")
}
