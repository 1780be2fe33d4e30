//! The state to go on from, and the line of history that it belongs to.

use convoy_common::checkpoint::{
    CheckpointError, LineageRecord, LoggedDrop, Manifest, Parent, Search,
};
use convoy_common::ids::Lineage;
use convoy_common::schedule::ManualDrop;
use tracing::{info, warn};

use super::error::OpenError;
use super::opening::{Origin, Run};

/// What becomes of the orders that came after the checkpoint that a lineage begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// The operator went back on purpose: history is another one, and they stay in the old lineage.
    Left,
    /// A checkpoint was bad: the same history is trained again, with every order at its position.
    Repeated,
}

/// Where a term begins.
pub(super) struct Beginning {
    pub(super) lineage: LineageRecord,
    /// The checkpoint; none: initial weights from the seed.
    pub(super) found: Option<(String, Manifest)>,
    /// The lineage whose history this one repeats.
    pub(super) repeats: Option<Lineage>,
}

impl Run {
    /// The line of history to write on, and the checkpoint to go on from.
    pub(super) async fn find_start(&self) -> Result<Beginning, OpenError> {
        if let Origin::Checkpoint(name) = &self.origin {
            let (path, manifest) = self.checkpoints.named(name).await?;
            self.checkpoints.verify(&manifest).await?;
            let lineage = self.branch(&path, &manifest, Past::Left).await?;
            return Ok(Beginning { lineage, found: Some((path, manifest)), repeats: None });
        }
        let Some(lineage) = self.checkpoints.newest_lineage().await? else {
            let lineage = self.checkpoints.new_lineage(None).await?;
            self.checkpoints.copy_overrides(lineage.lineage, &self.replayed).await?;
            return Ok(Beginning { lineage, found: None, repeats: None });
        };
        let Search { found, skipped } = self.checkpoints.newest_good(lineage.lineage).await?;
        for it in &skipped {
            warn!(checkpoint = it.path, reason = %it.reason, "checkpoint skipped");
        }
        match (found, skipped.first()) {
            // Beginning anew over checkpoints that might still be saved is for the user to decide.
            (None, Some(newest)) => Err(OpenError::Checkpoint(CheckpointError::NoneGood {
                url: self.url().to_owned(),
                skipped: skipped.len(),
                reason: newest.reason.to_string(),
            })),
            // Training comes to the step of the bad one again and must not meet its manifest.
            (Some((path, manifest)), Some(_)) => {
                let repeats = Some(lineage.lineage);
                let lineage = self.branch(&path, &manifest, Past::Repeated).await?;
                Ok(Beginning { lineage, found: Some((path, manifest)), repeats })
            }
            (found, None) => Ok(Beginning { lineage, found, repeats: None }),
        }
    }

    /// The override log of the lineage, after the checkpoint's state was written into it where a
    /// coordinator died before it could.
    pub(super) async fn overrides(
        &self,
        lineage: &LineageRecord,
        from: Option<&Manifest>,
    ) -> Result<Vec<ManualDrop>, OpenError> {
        let mut log = self.checkpoints.overrides(lineage.lineage).await?;
        let applied = from.map_or(&[][..], |manifest| &manifest.shared.schedule.manual);
        for line in &mut log {
            let number = line.record.number;
            if let (None, Some(it)) = (line.at, applied.iter().find(|it| it.number == number)) {
                let checkpoints = &self.checkpoints;
                line.at = Some(checkpoints.record_effect(lineage.lineage, number, it.at).await?);
            }
        }
        Ok(log.iter().map(LoggedDrop::order).collect())
    }

    /// A new lineage that begins at this checkpoint.
    async fn branch(
        &self,
        path: &str,
        manifest: &Manifest,
        past: Past,
    ) -> Result<LineageRecord, OpenError> {
        let mut log = self.checkpoints.overrides(manifest.lineage).await?;
        if past == Past::Left {
            let applied = &manifest.shared.schedule.manual;
            log.retain(|it| applied.iter().any(|drop| drop.number == it.record.number));
        }
        let parent = Parent { lineage: manifest.lineage, checkpoint: path.to_owned() };
        let lineage = self.checkpoints.new_lineage(Some(parent)).await?;
        self.checkpoints.copy_overrides(lineage.lineage, &log).await?;
        let overrides = log.len();
        info!(lineage = %lineage.lineage, checkpoint = path, overrides, "new lineage begins");
        Ok(lineage)
    }
}
