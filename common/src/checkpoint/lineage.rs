//! Lines of history: `lineages/<n>.json`, create-only.
//!
//! A run has one until somebody restores an older checkpoint on purpose; what follows then is
//! another history and gets a number, a folder and a recorded parent of its own, so that the two
//! never mix and nothing of the first is lost.

use serde::{Deserialize, Serialize};

use super::catalogue::Checkpoints;
use super::error::CheckpointError;
use crate::ids::Lineage;
use crate::nonce;

const FOLDER: &str = "lineages";

/// Where a lineage began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    /// The older line.
    pub lineage: Lineage,
    /// Path of the manifest below the run's URL.
    pub checkpoint: String,
}

/// One line of history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineageRecord {
    /// Its number, from 1.
    pub lineage: Lineage,
    /// None: it began at the seed.
    pub parent: Option<Parent>,
    /// Who made it: tells apart two that made one at once.
    pub owner: String,
    /// RFC 3339.
    pub created: String,
}

impl Checkpoints {
    /// All lineages, oldest first.
    ///
    /// # Errors
    /// Those of the store, and [`CheckpointError::Damaged`].
    pub async fn lineages(&self) -> Result<Vec<LineageRecord>, CheckpointError> {
        let mut found = Vec::new();
        for number in self.numbers(FOLDER).await? {
            found.push(self.lineage(number).await?);
        }
        Ok(found)
    }

    /// The newest lineage, the one that a resumed run continues.
    ///
    /// # Errors
    /// As [`Checkpoints::lineages`].
    pub async fn newest_lineage(&self) -> Result<Option<LineageRecord>, CheckpointError> {
        match self.numbers(FOLDER).await?.last() {
            Some(number) => Ok(Some(self.lineage(*number).await?)),
            None => Ok(None),
        }
    }

    async fn lineage(&self, number: u64) -> Result<LineageRecord, CheckpointError> {
        let path = path(number);
        let record: LineageRecord = self.read_json(&path).await?;
        self.check_number(&path, number, record.lineage.0)?;
        Ok(record)
    }

    /// Starts the next lineage. Two callers at once get two.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn new_lineage(
        &self,
        parent: Option<Parent>,
    ) -> Result<LineageRecord, CheckpointError> {
        let mut record = LineageRecord {
            lineage: Lineage(self.next_number(FOLDER).await?),
            parent,
            owner: nonce::unique(),
            created: super::now(),
        };
        while !self.create_json(&path(record.lineage.0), &record).await? {
            record.lineage = Lineage(self.next_number(FOLDER).await?);
        }
        Ok(record)
    }
}

fn path(number: u64) -> String {
    format!("{FOLDER}/{number}.json")
}
