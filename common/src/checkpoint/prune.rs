//! Removing what is no longer needed, and nothing else.
//!
//! The manifest goes first: from then on the checkpoint does not exist, and a crash leaves parts
//! that a later sweep finds. Parts that no manifest names are swept if a lower term wrote them, or if they
//! are not newer than the lineage's newest checkpoint: each rank uploads in the order of the steps and
//! manifests are published in that order, so nobody will need them. Newer ones of the living term may be
//! an upload under way. The same goes for unfinished parts whose writer was killed: half-written files
//! and uploads in pieces; and half-written manifests and records go when nobody can be at them any more.
//! In a store on disk, folders of which nothing is left go too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::catalogue::{Checkpoints, manifest_key};
use super::error::CheckpointError;
use super::part::term_of;
use super::{is_record, lineage_folder};
use crate::failure::Explain as _;
use crate::ids::{Lineage, Term};
use crate::store::{StoreError, Stored};

const MANIFEST: &str = "manifest.json";
/// A record that is not whole after so long never will be.
const A_MOMENT: Duration = Duration::from_secs(60);

/// What [`Checkpoints::prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Manifests removed with their parts.
    pub removed: Vec<String>,
    /// Left-over parts removed, whole and half-written ones.
    pub swept: usize,
}

/// What [`Checkpoints::prune`] leaves alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// So many of the newest, at least one.
    pub last: u32,
    /// The one with the fewest errors, see [`Checkpoints::best`].
    pub best: bool,
}

/// The objects of one lineage, by checkpoint folder.
type Folders = BTreeMap<String, Vec<Stored>>;

/// Whose parts may still be needed.
#[derive(Clone, Copy, Debug)]
struct Living {
    /// Those of this term and of later ones,
    term: Term,
    /// of later steps than this one, which the newest checkpoint has.
    after: Option<u64>,
}

impl Living {
    /// Whether the part of that name in that folder is nobody's any more, unless a manifest names it.
    fn is_past(self, folder: &str, name: &str) -> bool {
        term_of(name).is_some_and(|term| term < self.term || self.has_overtaken(folder))
    }

    /// Whether the newest checkpoint is that of that folder, or a later one.
    fn has_overtaken(self, folder: &str) -> bool {
        let step = folder.rsplit('/').next().and_then(|it| it.parse::<u64>().ok());
        matches!((step, self.after), (Some(step), Some(after)) if step <= after)
    }
}

impl Checkpoints {
    /// Keeps the checkpoints of the lineage that `keep` names, removes the older ones, and sweeps
    /// what terms below `living` left behind, and all terms up to the newest checkpoint.
    ///
    /// The newest good checkpoint always stays, as do those that another lineage started from. To
    /// know the former, the newest kept one is read back and verified before anything older goes.
    ///
    /// # Errors
    /// [`CheckpointError::Superseded`] if `living` is over, and those of the store.
    pub async fn prune(
        &self,
        lineage: Lineage,
        keep: Keep,
        living: Term,
    ) -> Result<Pruned, CheckpointError> {
        self.prune_below(lineage, keep, living, living).await
    }

    /// The same by hand: nobody tells which generation lives. It is not older than that of the lineage's
    /// newest checkpoint, so newer left-overs of terms below that one's are swept, and no others.
    ///
    /// # Errors
    /// [`CheckpointError::Superseded`] if a term begins meanwhile, and those of the store.
    pub async fn prune_by_hand(
        &self,
        lineage: Lineage,
        keep: Keep,
    ) -> Result<Pruned, CheckpointError> {
        let own = self.newest_term().await?.map_or(Term(0), |it| it.term);
        let all = self.list().await?.checkpoints;
        let living = match all.into_iter().find(|it| it.lineage == lineage) {
            Some(newest) => {
                let parts = self.read(&newest.path).await?.parts;
                parts.iter().filter_map(|it| term_of(&it.name)).min().unwrap_or(Term(0))
            }
            None => Term(0),
        };
        self.prune_below(lineage, keep, own, living).await
    }

    /// The same for a coordinator of term `own` whose workers still upload parts of term `living`: it
    /// went on with a generation of an earlier coordinator.
    ///
    /// # Errors
    /// [`CheckpointError::Superseded`] if `own` is over, and those of the store.
    pub async fn prune_below(
        &self,
        lineage: Lineage,
        keep: Keep,
        own: Term,
        living: Term,
    ) -> Result<Pruned, CheckpointError> {
        self.still_in(own).await?;
        let folders = self.folders(lineage).await?;
        let steps = folders.values().flatten().filter_map(|it| manifest_key(&it.path));
        let living = Living { term: living, after: steps.map(|(_, step)| step).max() };
        let mut pruned = Pruned::default();
        for path in self.superfluous(&folders, keep).await? {
            self.store.delete(&path).await?;
            let folder = path.trim_end_matches("/manifest.json");
            for object in folders.get(folder).into_iter().flatten() {
                if object.path != path {
                    self.store.delete(&object.path).await?;
                }
            }
            self.store.remove_empty_folder(folder).await;
            pruned.removed.push(path);
        }
        pruned.swept += self.sweep_unfinished(lineage, living).await?;
        for (folder, objects) in &folders {
            let manifest = format!("{folder}/{MANIFEST}");
            if !pruned.removed.contains(&manifest) {
                pruned.swept += self.sweep(&manifest, objects, living).await?;
            }
        }
        Ok(pruned)
    }

    /// Removes what writers did not live to finish.
    async fn sweep_unfinished(
        &self,
        lineage: Lineage,
        living: Living,
    ) -> Result<usize, CheckpointError> {
        let mut swept = 0;
        let lineage = format!("{}/", lineage_folder(lineage));
        for unfinished in self.store.unfinished("").await? {
            let (folder, name) = unfinished.object.rsplit_once('/').unwrap_or_default();
            let is_past = if unfinished.object.starts_with(&lineage) {
                living.is_past(folder, name) || name == MANIFEST && living.has_overtaken(folder)
            } else {
                // Records are written in a moment.
                is_record(&unfinished.object) && unfinished.age > Some(A_MOMENT)
            };
            if !is_past {
                continue;
            }
            match self.store.take_back(&unfinished).await {
                Ok(true) => swept += 1,
                Ok(false) => {}
                // What a store does not let go of keeps nobody from the rest.
                Err(error @ (StoreError::Denied { .. } | StoreError::Other { .. })) => {
                    tracing::warn!(
                        object = %self.store.url_of(&unfinished.object),
                        %error,
                        hint = error.hint(),
                        "an unfinished upload stays"
                    );
                }
                Err(error) => return Err(error.into()),
            }
            self.store.remove_empty_folder(folder).await;
        }
        Ok(swept)
    }

    /// What [`Self::prune`] would remove: manifests' paths, newest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn prunable(
        &self,
        lineage: Lineage,
        keep: Keep,
    ) -> Result<Vec<String>, CheckpointError> {
        let folders = self.folders(lineage).await?;
        self.superfluous(&folders, keep).await
    }

    async fn folders(&self, lineage: Lineage) -> Result<Folders, CheckpointError> {
        let mut folders = Folders::new();
        for object in self.store.list(&lineage_folder(lineage)).await? {
            if let Some((folder, _)) = object.path.rsplit_once('/') {
                folders.entry(folder.to_owned()).or_default().push(object);
            }
        }
        Ok(folders)
    }

    /// The manifests that may go.
    async fn superfluous(
        &self,
        folders: &Folders,
        keep: Keep,
    ) -> Result<Vec<String>, CheckpointError> {
        let newest_first: Vec<String> = folders
            .values()
            .rev()
            .flatten()
            .map(|object| object.path.clone())
            .filter(|path| manifest_key(path).is_some())
            .collect();
        let last = (keep.last.max(1) as usize).min(newest_first.len());
        if newest_first.len() == last {
            return Ok(Vec::new());
        }
        let Some(good) = self.first_good(&newest_first).await? else {
            return Ok(Vec::new());
        };
        let parents: BTreeSet<String> = self
            .lineages()
            .await?
            .into_iter()
            .filter_map(|lineage| lineage.parent.map(|parent| parent.checkpoint))
            .collect();
        let best = if keep.best { self.best_of(&newest_first).await? } else { None };
        let best = best.map(|(path, _)| path);
        let mut superfluous = Vec::new();
        for path in newest_first.into_iter().skip(last) {
            let foreign = matches!(self.read(&path).await, Err(CheckpointError::Format { .. }));
            let needed = path == good || Some(&path) == best.as_ref() || parents.contains(&path);
            if !needed && !foreign {
                superfluous.push(path);
            }
        }
        Ok(superfluous)
    }

    async fn first_good(&self, paths: &[String]) -> Result<Option<String>, CheckpointError> {
        for path in paths {
            match self.read_good(path).await {
                Ok(_) => return Ok(Some(path.clone())),
                Err(CheckpointError::Store(error)) => return Err(error.into()),
                Err(reason) => {
                    tracing::warn!(checkpoint = %path, %reason, "checkpoint does not verify");
                }
            }
        }
        Ok(None)
    }

    /// Removes parts of the past that the folder's manifest, if there is one, does not name.
    async fn sweep(
        &self,
        manifest: &str,
        objects: &[Stored],
        living: Living,
    ) -> Result<usize, CheckpointError> {
        let old: Vec<(&str, &Stored)> = objects
            .iter()
            .filter_map(|object| Some((object, object.path.rsplit_once('/')?)))
            .filter(|(_, (folder, name))| living.is_past(folder, name))
            .map(|(object, (_, name))| (name, object))
            .collect();
        if old.is_empty() {
            return Ok(0);
        }
        // Looked up again: the manifest may have come after the listing.
        let named: BTreeSet<String> = match self.read(manifest).await {
            Ok(manifest) => manifest.parts.into_iter().map(|part| part.name).collect(),
            Err(CheckpointError::NotFound { .. }) => BTreeSet::new(),
            Err(CheckpointError::Store(error)) => return Err(error.into()),
            // What cannot be understood is left to the operator.
            Err(_) => return Ok(0),
        };
        let mut swept = 0;
        for (name, object) in old {
            if !named.contains(name) {
                self.store.delete(&object.path).await?;
                swept += 1;
            }
        }
        self.store.remove_empty_folder(manifest.trim_end_matches("/manifest.json")).await;
        Ok(swept)
    }
}
