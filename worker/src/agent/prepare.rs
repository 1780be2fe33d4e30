//! What a worker does before it can train: open the run, have the state, open the ring.

use std::sync::Arc;
use std::time::Duration;

use convoy_common::cache::CachedDataset;
use convoy_common::checkpoint::{Checkpoints, SharedState, StateLayout};
use convoy_common::config::RunConfig;
use convoy_common::dataset::{Dataset, Split};
use convoy_common::failure::Failure;
use convoy_common::ids::{Lineage, Reached};
use convoy_common::store::Store;
use tracing::info;

use super::Settings;
use super::setback::Setback;
use crate::data;
use crate::model::{self, Device, Net, Spec};
use crate::peer::{Donor, Vault};
use crate::ring::{self, Member, Ring, RingError, RingServer};
use crate::session::{Assignment, Resume};
use crate::state;
use crate::train::{Fault, Mishap, Redo, Remains};

/// What stays the same for as long as the worker is in the job.
pub(super) struct Job {
    pub(super) config: RunConfig,
    pub(super) dataset: Dataset,
    /// The same with its cache.
    pub(super) source: CachedDataset,
    pub(super) catalogue: Arc<Checkpoints>,
    pub(super) device: Device,
    pub(super) lanes: u32,
    /// What a test wants to happen; nothing in a worker.
    pub(super) fault: Option<Fault>,
    /// The same for its uploads.
    pub(super) mishap: Option<Mishap>,
}

/// A worker that could begin at once.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) assignment: Assignment,
    pub(super) ring: Ring,
    /// What it has to make again first.
    pub(super) redo: Option<Redo>,
    /// Of the state; empty where it was kept, because hashing would hold up the others.
    pub(super) state_digest: String,
}

impl Job {
    /// Opens the run's store and its data set.
    pub(super) async fn open(config: RunConfig, settings: &Settings) -> Result<Self, Failure> {
        let dataset = Dataset::open(Store::open(&config.data.url)?)
            .await?
            .with_read_timeout(config.data.read_timeout);
        let catalogue = Arc::new(Checkpoints::new(Store::open(&config.run.url)?));
        info!(
            data = config.data.url,
            training_images = dataset.len(Split::Train),
            validation_images = dataset.len(Split::Validation),
            classes = dataset.classes().len(),
            order = config.data.shuffle.as_str(),
            "opened the data set"
        );
        let source = data::cached(dataset.clone(), &config).await;
        let (device, lanes, fault) = (settings.device, settings.who.lanes, settings.fault.clone());
        let mishap = settings.mishap.clone();
        Ok(Self { config, dataset, source, catalogue, device, lanes, fault, mishap })
    }

    /// The same by another config of the run, as a new coordinator may have one. Where its data are
    /// and how they are read stays as it was.
    pub(super) fn by(&self, config: RunConfig) -> Self {
        Self {
            config: RunConfig { data: self.config.data.clone(), ..config },
            dataset: self.dataset.clone(),
            source: self.source.clone(),
            catalogue: Arc::clone(&self.catalogue),
            device: self.device,
            lanes: self.lanes,
            fault: self.fault.clone(),
            mishap: self.mishap.clone(),
        }
    }

    /// What this machine computes under the run's numerics.
    pub(super) async fn fingerprint(&self) -> Result<String, Failure> {
        let (config, device) = (self.config.clone(), self.device);
        off_runtime(move || Ok(model::fingerprint(&config.model, &config.numerics, device)?)).await
    }

    /// Has the state of the assignment's position in the vault and joins its ring.
    pub(super) async fn prepare(
        &self,
        assignment: Assignment,
        server: &RingServer,
        vault: &Vault,
    ) -> Result<Prepared, Setback> {
        let cluster = &self.config.cluster;
        let start = assignment.start;
        self.source.heading_for(start.position);
        match assignment.resume.clone() {
            Resume::Checkpoint(manifest) => {
                let (net, layout, shared) =
                    self.load(manifest.as_deref(), assignment.lineage).await?;
                let (net, state_digest) = off_runtime(move || {
                    let digest = state::digest(&net, &layout)?;
                    Ok((net, digest))
                })
                .await?;
                vault.put(Remains::fresh(net, shared));
                // The others may have more to load.
                let ring = self.open_ring(&assignment, server, cluster.prepare_timeout).await?;
                Ok(Prepared { assignment, ring, redo: None, state_digest })
            }
            Resume::Keep => {
                Self::check_held(vault, |held| held == start)?;
                let ring = self.open_ring(&assignment, server, self.at_once()).await?;
                Ok(Prepared { assignment, ring, redo: None, state_digest: String::new() })
            }
            Resume::Redo(peer) => {
                let held = Self::check_held(vault, |held| held < start)?;
                let spec = vault.look(held, |it| it.net.spec().clone());
                let spec = spec.ok_or_else(|| Self::not_held(None))?;
                let donor = self.donor(peer);
                let (redo, ring) = tokio::try_join!(
                    async { Ok(donor.redo(held, &spec, self.config.train.batch).await?) },
                    self.open_ring(&assignment, server, self.at_once()),
                )?;
                let redo = Some(redo);
                Ok(Prepared { assignment, ring, redo, state_digest: String::new() })
            }
            Resume::State(peer) => {
                let donor = self.donor(peer);
                let ((remains, state_digest), ring) = tokio::try_join!(
                    async {
                        let (net, layout) = self.empty().await?;
                        Ok(donor.state(start, net, layout).await?)
                    },
                    self.open_ring(&assignment, server, self.at_once()),
                )?;
                let peer = donor.member.name;
                info!(peer, %start, state_digest, "took over the state of a peer");
                vault.put(remains);
                Ok(Prepared { assignment, ring, redo: None, state_digest })
            }
        }
    }

    /// What this worker holds, which the coordinator knows from itself.
    fn check_held(vault: &Vault, fits: impl Fn(Reached) -> bool) -> Result<Reached, Setback> {
        let held = vault.reached();
        held.filter(|it| fits(*it)).ok_or_else(|| Self::not_held(held))
    }

    fn not_held(held: Option<Reached>) -> Setback {
        let held = held.map_or("nothing".to_owned(), |it| it.to_string());
        let what = format!("told to go on from another state than is held here, {held}");
        Failure::new(convoy_common::exit::FAILURE, what).into()
    }

    fn donor(&self, member: Member) -> Donor {
        Donor { member, patience: self.config.cluster.ring_timeout }
    }

    /// A net to be filled.
    async fn empty(&self) -> Result<(Net, Arc<StateLayout>), Failure> {
        let (model, classes) = (self.config.model.clone(), self.dataset.classes().len());
        let (device, precision) = (self.device, self.config.numerics.precision);
        off_runtime(move || {
            let net = Net::zeroed(Spec::of(&model, classes)?, device)?.with_precision(precision)?;
            let layout = Arc::new(state::layout(&net));
            Ok((net, layout))
        })
        .await
    }

    /// For neighbours that open the ring as soon as they have their places, because nobody loads anything
    /// first: who does not come in that time is not going to.
    fn at_once(&self) -> Duration {
        let cluster = &self.config.cluster;
        cluster.ring_timeout.min((2 * cluster.liveness_timeout).max(Duration::from_secs(5)))
    }

    async fn open_ring(
        &self,
        assignment: &Assignment,
        server: &RingServer,
        connect_timeout: Duration,
    ) -> Result<Ring, Setback> {
        let settings = ring::Settings {
            generation: assignment.generation,
            rank: assignment.rank,
            roster: assignment.roster.clone(),
            chunk_bytes: self.config.cluster.ring_chunk as usize,
            timeout: self.config.cluster.ring_timeout,
            silence: self.config.cluster.liveness_timeout,
            connect_timeout,
        };
        let opened: Result<Ring, RingError> = Ring::open(settings, server).await;
        Ok(opened?)
    }

    async fn load(
        &self,
        manifest: Option<&str>,
        lineage: Lineage,
    ) -> Result<(Net, Arc<StateLayout>, SharedState), Failure> {
        let (model, seed, device) = (self.config.model.clone(), self.config.run.seed, self.device);
        let classes = self.dataset.classes().len();
        let precision = self.config.numerics.precision;
        let fresh = manifest.is_none();
        let mut net = off_runtime(move || {
            let spec = Spec::of(&model, classes)?;
            let net = if fresh {
                Net::initialised(spec, &model, seed, device)?
            } else {
                Net::zeroed(spec, device)?
            };
            Ok(net.with_precision(precision)?)
        })
        .await?;
        let layout = Arc::new(state::layout(&net));
        match manifest {
            None => Ok((net, layout, SharedState::at_the_start())),
            Some(path) => {
                let manifest = self.catalogue.read(path).await?;
                state::load(&self.catalogue, &manifest, &layout, &mut net).await?;
                info!(
                    checkpoint = path,
                    epoch = manifest.shared.position.epoch,
                    step = manifest.shared.position.step,
                    state_digest = manifest.state_digest,
                    "restored the state from a checkpoint"
                );
                let mut shared = manifest.shared;
                if manifest.lineage != lineage {
                    shared.evaluations = shared.evaluations.at_the_start_of_a_lineage();
                }
                Ok((net, layout, shared))
            }
        }
    }
}

/// Runs what blocks on a thread made for it.
pub(super) async fn off_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::new(convoy_common::exit::FAILURE, error)),
    }
}
