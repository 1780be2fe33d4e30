//! What a worker does before it can train: open the run, load the state, open the ring.

use std::sync::Arc;

use convoy_common::cache::CachedDataset;
use convoy_common::checkpoint::{Checkpoints, SharedState, StateLayout};
use convoy_common::config::RunConfig;
use convoy_common::dataset::{Dataset, Split};
use convoy_common::failure::Failure;
use convoy_common::ids::Lineage;
use convoy_common::store::Store;
use tracing::info;

use super::Settings;
use crate::data;
use crate::model::{self, Device, Net, Spec};
use crate::ring::{self, Ring, RingServer};
use crate::session::{Assignment, Welcome};
use crate::state;

/// What stays the same for as long as the worker is in the job.
pub(super) struct Job {
    pub(super) config: RunConfig,
    pub(super) dataset: Dataset,
    /// The same with its cache.
    pub(super) source: CachedDataset,
    pub(super) catalogue: Arc<Checkpoints>,
    pub(super) device: Device,
    pub(super) lanes: u32,
}

/// A worker that could begin at once.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) assignment: Assignment,
    pub(super) net: Net,
    pub(super) layout: Arc<StateLayout>,
    pub(super) shared: SharedState,
    pub(super) ring: Ring,
    pub(super) state_digest: String,
}

impl Job {
    /// Opens the run's store and its data set.
    pub(super) async fn open(welcome: Welcome, settings: &Settings) -> Result<Self, Failure> {
        let Welcome { config, .. } = welcome;
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
        let (device, lanes) = (settings.device, settings.who.lanes);
        Ok(Self { config, dataset, source, catalogue, device, lanes })
    }

    /// What this machine computes under the run's numerics.
    pub(super) async fn fingerprint(&self) -> Result<String, Failure> {
        let (config, device) = (self.config.clone(), self.device);
        off_runtime(move || Ok(model::fingerprint(&config.model, &config.numerics, device)?)).await
    }

    /// Makes the state of the assignment's position and joins its ring.
    pub(super) async fn prepare(
        &self,
        assignment: Assignment,
        server: &RingServer,
    ) -> Result<Prepared, Failure> {
        let (net, layout, shared) =
            self.load(assignment.manifest.as_deref(), assignment.lineage).await?;
        self.source.heading_for(shared.position);
        let (net, layout, state_digest) = off_runtime(move || {
            let digest = state::digest(&net, &layout)?;
            Ok((net, layout, digest))
        })
        .await?;
        let ring = Ring::open(
            ring::Settings {
                generation: assignment.generation,
                rank: assignment.rank,
                roster: assignment.roster.clone(),
                chunk_bytes: self.config.cluster.ring_chunk as usize,
                timeout: self.config.cluster.ring_timeout,
                connect_timeout: self.config.cluster.prepare_timeout,
            },
            server,
        )
        .await?;
        Ok(Prepared { assignment, net, layout, shared, ring, state_digest })
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
