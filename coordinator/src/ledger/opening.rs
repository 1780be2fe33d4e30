//! Opens a run: everything that is read and written before the first worker is let in.
//!
//! ```text
//! store probed -> data set -> run record -> (address bound) -> term claimed -> lineage -> checkpoint
//! ```
//!
//! The first half ([`open`]) finds out whether the job can run at all and claims nothing; the second
//! ([`Run::take_over`]) begins this coordinator's term.

use convoy_common::checkpoint::{Checkpoints, Claim, Keep, LineageRecord, LoggedDrop, TermRecord};
use convoy_common::config::{Precision, RunConfig};
use convoy_common::dataset::{Dataset, DatasetIdentity, Split};
use convoy_common::ids::Term;
use convoy_common::run_record::{self, Opening, RunRecord};
use convoy_common::sampling::Sampler;
use convoy_common::schedule::LearningRate;
use convoy_common::store::{Store, StoreError};
use convoy_common::{PROTOCOL, VERSION};
use tracing::{info, warn};

use super::error::OpenError;
use super::start::Beginning;
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

/// A run that can be worked on.
#[derive(Debug)]
pub struct Run {
    config: RunConfig,
    /// Of the config as the operator gave it, which workers may have been told to expect.
    given_digest: String,
    pub(super) origin: Origin,
    pub(super) checkpoints: Checkpoints,
    record: RunRecord,
    /// Of the run to be replayed.
    pub(super) replayed: Vec<LoggedDrop>,
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
