//! The override log: what operators ordered while a run went on, and where it took effect.
//!
//! ```text
//! RUN_URL/overrides/<lineage>/<number>.json             the order, written before anybody acts on it
//! RUN_URL/overrides/<lineage>/effective/<number>.json   the position, once all ranks acted on it
//! ```
//!
//! Both are create-only. Run record and log together give the run's weights: orders with their
//! positions are all that a replay needs. The log of each lineage is complete: one that branches
//! off begins with a copy of the orders that its past holds.

use serde::{Deserialize, Serialize};

use super::catalogue::Checkpoints;
use super::error::CheckpointError;
use crate::ids::{Lineage, Position, Term};
use crate::nonce;
use crate::schedule::ManualDrop;

/// An order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropRecord {
    /// From 1, in order.
    pub number: u32,
    /// What the rate is divided by.
    pub divide_by: f64,
    /// The operator's words.
    pub reason: String,
    /// Of the coordinator that took the order.
    pub term: Term,
    /// Tells apart two that wrote at once.
    pub owner: String,
    /// RFC 3339.
    pub created: String,
}

/// Where an order took effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Effect {
    number: u32,
    /// The first step with the lower rate.
    at: Position,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedDrop {
    /// The order.
    pub record: DropRecord,
    /// Where it took effect, if that is recorded.
    pub at: Option<Position>,
}

impl LoggedDrop {
    /// What workers are told.
    pub fn order(&self) -> ManualDrop {
        let DropRecord { number, divide_by, .. } = self.record;
        ManualDrop { number, divide_by, at: self.at }
    }
}

impl Checkpoints {
    /// The log of a lineage, in order of number.
    ///
    /// # Errors
    /// Those of the store, and [`CheckpointError::Damaged`].
    pub async fn overrides(&self, lineage: Lineage) -> Result<Vec<LoggedDrop>, CheckpointError> {
        let effective = self.numbers(&effects(lineage)).await?;
        let mut log = Vec::new();
        for number in self.numbers(&folder(lineage)).await? {
            let record = self.order(lineage, number).await?;
            let at = if effective.contains(&number) {
                Some(self.effect(lineage, number).await?.at)
            } else {
                None
            };
            log.push(LoggedDrop { record, at });
        }
        Ok(log)
    }

    /// Writes an order; whoever wrote that number first keeps it.
    ///
    /// # Errors
    /// [`CheckpointError::Superseded`] if `term` is over, [`CheckpointError::Taken`] if another
    /// coordinator wrote the number, and those of the store.
    pub async fn log_drop(
        &self,
        lineage: Lineage,
        term: Term,
        drop: ManualDrop,
        reason: &str,
    ) -> Result<(), CheckpointError> {
        self.still_in(term).await?;
        let record = DropRecord {
            number: drop.number,
            divide_by: drop.divide_by,
            reason: reason.to_owned(),
            term,
            owner: nonce::unique(),
            created: super::now(),
        };
        self.write_order(lineage, &record).await
    }

    /// Copies orders into the log of a lineage that has none yet.
    ///
    /// # Errors
    /// As [`Checkpoints::log_drop`].
    pub async fn copy_overrides(
        &self,
        into: Lineage,
        log: &[LoggedDrop],
    ) -> Result<(), CheckpointError> {
        for LoggedDrop { record, at } in log {
            self.write_order(into, record).await?;
            if let Some(at) = at {
                self.record_effect(into, record.number, *at).await?;
            }
        }
        Ok(())
    }

    /// Records where an order took effect; gives the position that is recorded, which differs if
    /// another was before.
    ///
    /// # Errors
    /// Those of the store, and [`CheckpointError::Damaged`].
    pub async fn record_effect(
        &self,
        lineage: Lineage,
        number: u32,
        at: Position,
    ) -> Result<Position, CheckpointError> {
        let path = effect_path(lineage, number.into());
        if self.create_json(&path, &Effect { number, at }).await? {
            return Ok(at);
        }
        Ok(self.effect(lineage, number.into()).await?.at)
    }

    async fn order(&self, lineage: Lineage, number: u64) -> Result<DropRecord, CheckpointError> {
        let path = order_path(lineage, number);
        let record: DropRecord = self.read_json(&path).await?;
        self.check_number(&path, number, record.number.into())?;
        if record.divide_by.is_finite() && record.divide_by > 0.0 {
            return Ok(record);
        }
        let reason = format!("it divides the rate by {}", record.divide_by);
        Err(CheckpointError::Damaged { url: self.store.url_of(&path), reason })
    }

    async fn effect(&self, lineage: Lineage, number: u64) -> Result<Effect, CheckpointError> {
        let path = effect_path(lineage, number);
        let effect: Effect = self.read_json(&path).await?;
        self.check_number(&path, number, effect.number.into())?;
        Ok(effect)
    }

    async fn write_order(
        &self,
        lineage: Lineage,
        record: &DropRecord,
    ) -> Result<(), CheckpointError> {
        let path = order_path(lineage, record.number.into());
        if self.create_json(&path, record).await? {
            Ok(())
        } else {
            Err(CheckpointError::Taken { url: self.store.url_of(&path) })
        }
    }
}

fn folder(lineage: Lineage) -> String {
    format!("overrides/{lineage}")
}

fn effects(lineage: Lineage) -> String {
    format!("overrides/{lineage}/effective")
}

fn order_path(lineage: Lineage, number: u64) -> String {
    format!("{}/{number}.json", folder(lineage))
}

fn effect_path(lineage: Lineage, number: u64) -> String {
    format!("{}/{number}.json", effects(lineage))
}
