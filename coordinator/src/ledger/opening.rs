//! Opens a run: everything that is read and written before the first worker is let in.
//!
//! ```text
//! store probed -> data set -> run record -> (address bound) -> term claimed -> lineage -> checkpoint
//! ```
//!
//! The first half ([`open`]) finds out whether the job can run at all and claims nothing; the second
//! ([`Run::take_over`]) begins this coordinator's term.

use convoy_common::checkpoint::{
    CheckpointError, Checkpoints, Claim, Keep, LineageRecord, LoggedDrop, Manifest, Parent, Search,
    TermRecord,
};
use convoy_common::config::{Precision, RunConfig};
use convoy_common::dataset::{Dataset, DatasetError, DatasetIdentity, Split};
use convoy_common::failure::Explain;
use convoy_common::ids::{Lineage, Term};
use convoy_common::run_record::{self, Opening, RecordError, RunRecord};
use convoy_common::sampling::Sampler;
use convoy_common::schedule::{LearningRate, ManualDrop};
use convoy_common::store::{Store, StoreError};
use convoy_common::{PROTOCOL, VERSION, exit};
use tracing::{info, warn};

use super::{Fence, StoreLedger};
use crate::machine::{Deadlines, Kept, Plan, Start};

/// Where training is to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// At the newest good checkpoint, or at the seed.
    Newest,
    /// At the seed; the run must not exist.
    Fresh,
    /// At this checkpoint, in a lineage of its own.
    Checkpoint(String),
    /// At the seed, with the override log of the run at this URL; this run must not exist.
    Replay(String),
}

/// A run cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its data set.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// Its record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Its checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There is nothing to train on.
    #[error("the data set at {url} has no training images")]
    NoImages {
        /// Of the data set.
        url: String,
    },
    /// The run to be replayed is another one.
    #[error("the run at {url} was trained with other settings:{diff}")]
    OtherRun {
        /// Of the run to be replayed.
        url: String,
        /// A line for each difference that touches bits.
        diff: String,
    },
    /// Another coordinator works on the run.
    #[error("a coordinator at {address} works on the run at {url} already (term {term})")]
    Occupied {
        /// Of the run.
        url: String,
        /// Where the other listens.
        address: String,
        /// Its term.
        term: u64,
    },
}

impl Explain for OpenError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Store(error) => error.hint(),
            Self::Dataset(error) => error.hint(),
            Self::Record(error) => error.hint(),
            Self::Checkpoint(error) => error.hint(),
            Self::NoImages { .. } => Some("pack a data set with `convoy prepare`".to_owned()),
            Self::OtherRun { .. } => {
                Some("a replay needs the settings of the run that it replays".to_owned())
            }
            Self::Occupied { address, .. } => Some(format!(
                "it needs no other (convoy status {address} asks it); stop that one first, or choose \
                 another run.url"
            )),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => error.exit_code(),
            Self::Dataset(error) => error.exit_code(),
            Self::Record(error) => error.exit_code(),
            Self::Checkpoint(error) => error.exit_code(),
            Self::NoImages { .. } | Self::OtherRun { .. } => exit::BAD_INPUT,
            Self::Occupied { .. } => exit::SUPERSEDED,
        }
    }
}

/// What becomes of the orders that came after the checkpoint that a lineage begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Past {
    /// The operator went back on purpose: history is another one, and they stay in the old lineage.
    Left,
    /// A checkpoint was bad: the same history is trained again, with every order at its position.
    Repeated,
}

/// Where a term begins.
struct Beginning {
    lineage: LineageRecord,
    /// The checkpoint; none: initial weights from the seed.
    found: Option<(String, Manifest)>,
    /// The lineage whose history this one repeats.
    repeats: Option<Lineage>,
}

/// A run that can be worked on.
#[derive(Debug)]
pub struct Run {
    config: RunConfig,
    /// Of the config as the operator gave it, which workers may have been told to expect.
    given_digest: String,
    origin: Origin,
    checkpoints: Checkpoints,
    record: RunRecord,
    /// Of the run to be replayed.
    replayed: Vec<LoggedDrop>,
}

/// A run that this coordinator works on.
#[derive(Debug)]
pub struct Opened {
    /// For the machine.
    pub plan: Plan,
    /// For the engine.
    pub ledger: StoreLedger,
    /// The run's id.
    pub run_id: String,
    /// Digest of the run record.
    pub record_digest: String,
    /// For the watch over later terms.
    pub fence: Fence,
}

/// What is asked of the run's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fencing {
    /// Create-only writes, by which of two coordinators one wins.
    Required,
    /// Nothing; the operator sees to it that there is one.
    DoneWithout,
}

/// Opens the stores, the data set and the run record.
///
/// # Errors
/// [`OpenError`]
pub async fn open(
    mut config: RunConfig,
    origin: Origin,
    fencing: Fencing,
) -> Result<Run, OpenError> {
    let store = probed(Store::open(&config.run.url)?, fencing).await?;
    let dataset = Dataset::open(Store::open(&config.data.url)?).await?;
    if dataset.len(Split::Train) == 0 {
        return Err(OpenError::NoImages { url: config.data.url });
    }
    let identity = dataset.identity();
    if let Origin::Checkpoint(_) = origin {
        // A checkpoint is one of a run that exists; none is created for a mistyped URL.
        run_record::read(&store).await?;
    }
    let replayed = match &origin {
        Origin::Replay(url) => overrides_of(url, &config, &identity).await?,
        _ => Vec::new(),
    };
    let fresh = matches!(origin, Origin::Fresh | Origin::Replay(_));
    let opening = if fresh { Opening::Fresh } else { Opening::Resume };
    let record = run_record::open_or_create(&store, &config, &identity, opening).await?;
    // Where the config leaves it open, workers are told what was decided.
    let given_digest = config.digest();
    config.data.shuffle = record.config.data.shuffle;
    info!(
        run = config.run.name,
        run_id = record.run_id,
        url = store.url(),
        data = config.data.url,
        training_images = identity.train,
        validation_images = identity.validation,
        classes = identity.classes,
        "run opened"
    );
    Ok(Run { checkpoints: Checkpoints::new(store), config, given_digest, origin, record, replayed })
}

/// The store, if it is fit for a run.
async fn probed(store: Store, fencing: Fencing) -> Result<Store, StoreError> {
    match store.probe().await {
        Ok(()) => Ok(store),
        Err(StoreError::NotFenced { url, reason }) if fencing == Fencing::DoneWithout => {
            warn!(
                url,
                reason,
                "the store honours no create-only writes: nothing stops a second coordinator of \
                 this run from overwriting the first one's terms and checkpoints"
            );
            Ok(store.unfenced())
        }
        Err(error) => Err(error),
    }
}

/// What took effect in the newest lineage of the run at `url`, which must be of the same settings.
async fn overrides_of(
    url: &str,
    config: &RunConfig,
    dataset: &DatasetIdentity,
) -> Result<Vec<LoggedDrop>, OpenError> {
    let store = Store::open(url)?;
    let record = run_record::read(&store).await?;
    let diff: String = run_record::changes(&record, config, dataset)
        .iter()
        .filter(|change| !change.allowed)
        .map(|change| format!("\n  {change}"))
        .collect();
    if !diff.is_empty() {
        return Err(OpenError::OtherRun { url: store.url().to_owned(), diff });
    }
    let checkpoints = Checkpoints::new(store);
    let Some(lineage) = checkpoints.newest_lineage().await? else { return Ok(Vec::new()) };
    let mut log = checkpoints.overrides(lineage.lineage).await?;
    // What never took effect has no place in a replay.
    log.retain(|it| it.at.is_some());
    Ok(log)
}

impl Run {
    /// Its URL.
    pub fn url(&self) -> &str {
        self.checkpoints.store().url()
    }

    /// Of the resolved config.
    pub fn config(&self) -> &RunConfig {
        &self.config
    }

    /// The newest coordinator of the run, which may be alive.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn newest_term(&self) -> Result<Option<TermRecord>, OpenError> {
        Ok(self.checkpoints.newest_term().await?)
    }

    /// That another coordinator works on the run.
    pub fn occupied_by(&self, other: &TermRecord) -> OpenError {
        OpenError::Occupied {
            url: self.url().to_owned(),
            address: other.address.clone(),
            term: other.term.0,
        }
    }

    /// Claims the term after `newest`, which is not served any more, for a coordinator at
    /// `address`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn claim(
        &self,
        newest: Option<&TermRecord>,
        address: &str,
    ) -> Result<Claim, OpenError> {
        let term = Term(newest.map_or(0, |it| it.term.0).saturating_add(1));
        Ok(self.checkpoints.claim(term, address).await?)
    }

    /// Begins the next term for a coordinator at `address` and finds the state to go on from.
    ///
    /// # Errors
    /// [`OpenError::Occupied`] if another was faster, and those of the store.
    pub async fn take_over(self, address: &str) -> Result<Opened, OpenError> {
        match self.checkpoints.claim_next(address).await? {
            Claim::Won(record) => self.begin(record.term).await,
            Claim::Lost(other) => Err(self.occupied_by(&other)),
        }
    }

    /// Finds the state to go on from, in a term that this coordinator has claimed.
    ///
    /// # Errors
    /// Those of the store and of the checkpoints in it.
    pub async fn begin(self, term: Term) -> Result<Opened, OpenError> {
        let succeeds = self.may_find_workers(term).await?;
        let Beginning { lineage, found, repeats } = self.find_start().await?;
        let drops = self.overrides(&lineage, found.as_ref().map(|it| &it.1)).await?;
        let mut start = found.as_ref().map_or_else(Start::default, |(path, manifest)| Start {
            drops: Vec::new(),
            position: manifest.shared.position,
            checkpoint: Some(Kept {
                position: manifest.shared.position,
                path: path.clone(),
                bytes: manifest.bytes,
                took: None,
            }),
            state_digest: Some(manifest.state_digest.clone()),
        });
        start.drops = drops;
        info!(
            %term,
            lineage = %lineage.lineage,
            epoch = start.position.epoch,
            step = start.position.step,
            from = start.checkpoint.as_ref().map_or("seed", |it| it.path.as_str()),
            state_digest = start.state_digest,
            "term begins"
        );
        let record_digest = self.record.digest();
        let run_id = self.record.run_id.clone();
        let fingerprint = run_record::fingerprint(self.checkpoints.store()).await?;
        let plan = Plan { succeeds, repeats, ..self.plan(term, &lineage, start, fingerprint) };
        let fence = Fence { checkpoints: self.checkpoints.clone(), term };
        let ledger = StoreLedger {
            checkpoints: self.checkpoints,
            record: self.record,
            model: self.config.model,
            lineage: lineage.lineage,
            parent: lineage.parent,
            term,
            keep: Keep {
                last: self.config.checkpoint.keep_last,
                best: self.config.checkpoint.keep_best,
            },
            tensors: found.map(|it| it.1.tensors),
        };
        Ok(Opened { plan, ledger, run_id, record_digest, fence })
    }

    /// Whether workers may still train for the coordinator before, which never said that it ended.
    async fn may_find_workers(&self, term: Term) -> Result<bool, OpenError> {
        match (&self.origin, term.0.checked_sub(1)) {
            (Origin::Newest, Some(before)) if before > 0 => {
                Ok(!self.checkpoints.has_ended(Term(before)).await?)
            }
            _ => Ok(false),
        }
    }

    /// The line of history to write on, and the checkpoint to go on from.
    async fn find_start(&self) -> Result<Beginning, OpenError> {
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
    async fn overrides(
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

    fn plan(
        &self,
        term: Term,
        lineage: &LineageRecord,
        start: Start,
        fingerprint: Option<String>,
    ) -> Plan {
        let config = &self.config;
        let images = &self.record.dataset;
        let sampler = Sampler::new(
            config.run.seed,
            images.train,
            config.train.batch,
            config.numerics.microbatch,
        );
        let rate = LearningRate::new(&config.train, &config.schedule, sampler.steps_per_epoch());
        let cluster = &config.cluster;
        Plan {
            run: config.run.name.clone(),
            term,
            lineage: lineage.lineage,
            succeeds: false,
            repeats: None,
            start,
            workers: cluster.workers,
            min_workers: cluster.min_workers,
            max_workers: cluster.places(config.train.batch.div_ceil(config.numerics.microbatch)),
            straggler: cluster.straggler,
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
            config_digest: self.given_digest.clone(),
            resolved_digest: config.digest(),
            threads_per_lane: config.numerics.threads_per_lane,
            fingerprint,
            allow_mixed_numerics: cluster.allow_mixed_numerics,
            epochs: config.train.epochs,
            max_steps: config.train.max_steps,
            steps_per_epoch: sampler.steps_per_epoch(),
            training_images: images.train,
            validation_images: images.validation,
            evaluation_crops: config.evaluation.crops,
            evaluate_every_epochs: config.evaluation.every_epochs,
            rate_moves_until: rate.moves_until(),
            log_every_steps: config.log.every_steps,
            deadlines: Deadlines::new(
                cluster.join_timeout,
                cluster.prepare_timeout,
                cluster.liveness_timeout,
                cluster.ring_timeout,
            )
            .with_last_checkpoint(config.checkpoint.final_timeout)
            .with(cluster.drain_grace, cluster.straggler_limit),
            fp32: config.numerics.precision == Precision::Fp32,
        }
    }
}
