//! The checkpoints of one run: writing them, listing them, finding the one to go on from.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::best::Tally;
use super::error::{CheckpointError, PartProblem};
use super::lineage_folder;
use super::manifest::{FORMAT, Manifest};
use super::part::EncodedPart;
use crate::ids::{Lineage, Position, Term};
use crate::store::{Store, StoreError, Stored};

/// What stands for the step of the best checkpoint of a lineage.
pub(super) const BEST: &str = "best";

/// Times that a search is begun because what it looked at was pruned; a run prunes once per checkpoint.
const SEARCHES: u32 = 5;

/// Manifests that are read at a time.
const READS_AT_ONCE: usize = 8;

/// The checkpoints, lineages and terms below one run's URL.
#[derive(Clone, Debug)]
pub struct Checkpoints {
    pub(super) store: Store,
}

/// One line of `convoy checkpoints list`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Of the manifest, below the run's URL.
    pub path: String,
    /// Line of history.
    pub lineage: Lineage,
    /// Of the coordinator that published it.
    pub term: Term,
    /// Before which step the state is.
    pub position: Position,
    /// Steps since the run's start.
    pub global_step: u64,
    /// Of all parts.
    pub bytes: u64,
    /// How many there are.
    pub parts: usize,
    /// Of the last step before it.
    pub last_loss: Option<f64>,
    /// RFC 3339.
    pub created: String,
    /// Of the whole state.
    pub state_digest: String,
    /// Of the state, if it was evaluated.
    pub evaluation: Option<Tally>,
}

/// A checkpoint that cannot be used.
#[derive(Debug)]
pub struct Skipped {
    /// Of the manifest, below the run's URL.
    pub path: String,
    /// Why not.
    pub reason: CheckpointError,
}

/// What there is, newest first.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those with a manifest that can be read; their parts are not looked at.
    pub checkpoints: Vec<Summary>,
    /// Those with one that cannot.
    pub skipped: Vec<Skipped>,
}

/// The outcome of [`Checkpoints::newest_good`].
#[derive(Debug, Default)]
pub struct Search {
    /// The manifest's path and the manifest.
    pub found: Option<(String, Manifest)>,
    /// Newer ones that are not good.
    pub skipped: Vec<Skipped>,
}

impl Checkpoints {
    /// Those of the run at `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The run's store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Uploads one rank's part for the checkpoint at `global_step`. Until the manifest is
    /// published it is not part of anything.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn upload_part(
        &self,
        lineage: Lineage,
        global_step: u64,
        part: &EncodedPart,
    ) -> Result<(), CheckpointError> {
        let path = format!("{}/{}", super::folder_of(lineage, global_step), part.entry.name);
        Ok(self.store.put_chunks(&path, part.chunks.clone()).await?)
    }

    /// Makes the checkpoint exist. All its parts must be there, and the term still on. One of the
    /// same step that is there already with an equal state counts as this one.
    ///
    /// # Errors
    /// [`CheckpointError::Superseded`], [`CheckpointError::Part`], [`CheckpointError::Exists`]
    /// and those of the store.
    pub async fn publish(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        let path = manifest.path();
        let url = self.store.url_of(&path);
        manifest
            .check()
            .map_err(|source| CheckpointError::Inconsistent { url: url.clone(), source })?;
        self.check_sizes(manifest, &self.store.list(&manifest.folder()).await?)?;
        self.still_in(manifest.term).await?;
        if self.create_json(&path, manifest).await? {
            return Ok(());
        }
        match self.read(&path).await {
            Ok(other) if other.state_digest == manifest.state_digest => Ok(()),
            _ => Err(CheckpointError::Exists { url }),
        }
    }

    /// All checkpoints of all lineages, newest lineage and step first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self) -> Result<Listing, CheckpointError> {
        let mut paths = Vec::new();
        for object in self.store.list("checkpoints").await? {
            paths.extend(manifest_key(&object.path).map(|key| (key, object.path)));
        }
        paths.sort_by(|a, b| b.cmp(a));
        let mut listing = Listing::default();
        let mut reads = stream::iter(paths)
            .map(|(_, path)| async move { (self.read(&path).await, path) })
            .buffered(READS_AT_ONCE);
        while let Some((outcome, path)) = reads.next().await {
            match outcome {
                Ok(manifest) => listing.checkpoints.push(summary(path, manifest)),
                Err(CheckpointError::Store(error)) => return Err(error.into()),
                // It was pruned after the listing.
                Err(CheckpointError::NotFound { .. }) => {}
                Err(reason) => listing.skipped.push(Skipped { path, reason }),
            }
        }
        Ok(listing)
    }

    /// The manifest at `path` (relative to the run's URL), checked in itself; says nothing about
    /// its parts.
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`], [`CheckpointError::Format`], [`CheckpointError::Damaged`],
    /// [`CheckpointError::Inconsistent`] and those of the store.
    pub async fn read(&self, path: &str) -> Result<Manifest, CheckpointError> {
        let url = self.store.url_of(path);
        let text = match self.store.get_small(path).await {
            Ok(text) => text,
            Err(StoreError::NotFound { .. }) => return Err(CheckpointError::NotFound { url }),
            Err(error) => return Err(error.into()),
        };
        let damaged = |reason: String| CheckpointError::Damaged { url: url.clone(), reason };
        // The format is read by itself first: all else may look different in another one.
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found == u64::from(FORMAT) => {}
            Some(found) => return Err(CheckpointError::Format { url, found, known: FORMAT }),
            None => return Err(damaged("it has no field `format`".to_owned())),
        }
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if manifest.path() != path {
            return Err(damaged(format!("it belongs at {}", manifest.path())));
        }
        manifest.check().map_err(|source| CheckpointError::Inconsistent { url, source })?;
        Ok(manifest)
    }

    /// The newest checkpoint of the lineage whose every byte verifies, or, if it has none of its
    /// own, the one that it started from; with those passed over and why.
    ///
    /// What is pruned while this looks at it was there at first; it is neither good nor bad, and
    /// there are newer ones by then, so the search begins anew.
    ///
    /// # Errors
    /// Those of the store: what cannot be reached is not passed over.
    pub async fn newest_good(&self, lineage: Lineage) -> Result<Search, CheckpointError> {
        for _ in 0..SEARCHES {
            if let Some(search) = self.search(lineage).await? {
                return Ok(search);
            }
        }
        let url = self.store.url_of(&lineage_folder(lineage));
        Err(CheckpointError::Restless { url })
    }

    /// `None` if a checkpoint vanished meanwhile.
    async fn search(&self, lineage: Lineage) -> Result<Option<Search>, CheckpointError> {
        let mut search = Search::default();
        let objects = self.store.list(&lineage_folder(lineage)).await?;
        let mut paths: Vec<String> = objects
            .into_iter()
            .filter_map(|object| manifest_key(&object.path).map(|_| object.path))
            .collect();
        paths.sort();
        let parent = self.lineages().await?.into_iter().find(|it| it.lineage == lineage);
        let parent = parent.and_then(|it| it.parent).map(|it| it.checkpoint);
        for (path, own) in
            paths.into_iter().rev().map(|path| (path, true)).chain(parent.map(|path| (path, false)))
        {
            match self.read_good(&path).await {
                Ok(manifest) => {
                    search.found = Some((path, manifest));
                    break;
                }
                Err(CheckpointError::Store(error)) => return Err(error.into()),
                Err(_) if own && !self.store.exists(&path).await? => return Ok(None),
                Err(reason) => search.skipped.push(Skipped { path, reason }),
            }
        }
        Ok(Some(search))
    }

    /// The manifest that `name` means: its path, `LINEAGE/STEP`, or `STEP` of the newest lineage;
    /// with `best` in place of the step, the one with the fewest errors ([`Checkpoints::best`]).
    ///
    /// # Errors
    /// [`CheckpointError::NotFound`], [`CheckpointError::NoBest`] and those of
    /// [`Checkpoints::read`].
    pub async fn named(&self, name: &str) -> Result<(String, Manifest), CheckpointError> {
        let short = name.trim_matches('/').trim_end_matches("/manifest.json");
        let short = short.strip_prefix("checkpoints/").unwrap_or(short);
        let of_lineage = short.strip_suffix(BEST).and_then(|it| it.strip_suffix('/')?.parse().ok());
        if short == BEST || of_lineage.is_some() {
            let lineage = match of_lineage {
                Some(number) => Lineage(number),
                None => self.continued_lineage().await?,
            };
            let best = self.best(lineage).await?;
            let url = self.store.url().to_owned();
            return best.ok_or(CheckpointError::NoBest { url, lineage: lineage.0 });
        }
        let numbers: Option<Vec<u64>> = short.split('/').map(|it| it.parse().ok()).collect();
        let (lineage, step) = match numbers.as_deref() {
            Some([step]) => (self.continued_lineage().await?, *step),
            Some([lineage, step]) => (Lineage(*lineage), *step),
            _ => return Err(CheckpointError::NotFound { url: self.store.url_of(name) }),
        };
        let path = format!("{}/manifest.json", super::folder_of(lineage, step));
        let manifest = self.read(&path).await?;
        Ok((path, manifest))
    }

    /// The lineage that a resumed run continues, or would begin with.
    pub(super) async fn continued_lineage(&self) -> Result<Lineage, CheckpointError> {
        Ok(self.newest_lineage().await?.map_or(Lineage(1), |it| it.lineage))
    }

    /// Reads the manifest and verifies its parts.
    pub(super) async fn read_good(&self, path: &str) -> Result<Manifest, CheckpointError> {
        let manifest = self.read(path).await?;
        self.verify(&manifest).await?;
        Ok(manifest)
    }

    /// Checks that every part is among the objects, in full length.
    pub(super) fn check_sizes(
        &self,
        manifest: &Manifest,
        objects: &[Stored],
    ) -> Result<(), CheckpointError> {
        for part in &manifest.parts {
            let path = format!("{}/{}", manifest.folder(), part.name);
            let problem = match objects.iter().find(|object| object.path == path) {
                None => PartProblem::Missing,
                Some(object) if object.size != part.size => {
                    PartProblem::Size { expected: part.size, found: object.size }
                }
                Some(_) => continue,
            };
            return Err(self.part_error(manifest, &part.name, problem));
        }
        Ok(())
    }

    pub(super) fn part_error(
        &self,
        manifest: &Manifest,
        part: &str,
        problem: PartProblem,
    ) -> CheckpointError {
        let url = self.store.url_of(&manifest.path());
        CheckpointError::Part { url, part: part.to_owned(), problem }
    }

    /// The numbers `n` of all `FOLDER/<n>.json`, in order.
    pub(super) async fn numbers(&self, folder: &str) -> Result<Vec<u64>, CheckpointError> {
        let mut numbers: Vec<u64> = self
            .store
            .list(folder)
            .await?
            .iter()
            .filter_map(|object| {
                object.path.strip_prefix(folder)?.strip_prefix('/')?.strip_suffix(".json")
            })
            .filter_map(|number| number.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The number after the last of `FOLDER/<n>.json`, from 1.
    pub(super) async fn next_number(&self, folder: &str) -> Result<u64, CheckpointError> {
        let last = self.numbers(folder).await?.last().copied().unwrap_or(0);
        last.checked_add(1).ok_or_else(|| CheckpointError::Damaged {
            url: self.store.url_of(&format!("{folder}/{last}.json")),
            reason: "no number comes after it".to_owned(),
        })
    }

    /// That the object at `path` says to have the number that it is stored under.
    pub(super) fn check_number(
        &self,
        path: &str,
        number: u64,
        said: u64,
    ) -> Result<(), CheckpointError> {
        if said == number {
            return Ok(());
        }
        let reason = format!("it says to be number {said}");
        Err(CheckpointError::Damaged { url: self.store.url_of(path), reason })
    }

    pub(super) async fn read_json<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, CheckpointError> {
        let text = self.store.get_small(path).await?;
        serde_json::from_slice(&text).map_err(|error| CheckpointError::Damaged {
            url: self.store.url_of(path),
            reason: error.to_string(),
        })
    }

    /// Whether the object was created; it was not if there is another's.
    pub(super) async fn create_json<T: Serialize>(
        &self,
        path: &str,
        value: &T,
    ) -> Result<bool, CheckpointError> {
        let text = serde_json::to_vec_pretty(value).map_err(|error| CheckpointError::Damaged {
            url: self.store.url_of(path),
            reason: error.to_string(),
        })?;
        match self.store.create(path, Bytes::from(text)).await {
            Ok(()) => Ok(true),
            Err(StoreError::Exists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Lineage and step of `checkpoints/<lineage>/<step>/manifest.json`.
pub(super) fn manifest_key(path: &str) -> Option<(u64, u64)> {
    let mut parts = path.strip_prefix("checkpoints/")?.split('/');
    let lineage = parts.next()?.parse().ok()?;
    let step = parts.next()?.parse().ok()?;
    (parts.next() == Some("manifest.json") && parts.next().is_none()).then_some((lineage, step))
}

fn summary(path: String, manifest: Manifest) -> Summary {
    Summary {
        path,
        lineage: manifest.lineage,
        term: manifest.term,
        position: manifest.shared.position,
        global_step: manifest.shared.global_step,
        bytes: manifest.bytes,
        parts: manifest.parts.len(),
        last_loss: manifest.shared.last_loss,
        created: manifest.created,
        state_digest: manifest.state_digest,
        evaluation: manifest.shared.evaluations.here,
    }
}
