//! A cluster of trainers in one process: real rings over gRPC, a real store, no coordinator.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use convoy_common::checkpoint::{Checkpoints, Header, Manifest, PartEntry, SharedState};
use convoy_common::config::{Init, Model, RunConfig, Source as ConfigSource};
use convoy_common::dataset::{DatasetIdentity, Encoded, Encoding};
use convoy_common::ids::{Generation, Lineage, Position, Rank, Term};
use convoy_common::rpc::Address;
use convoy_common::schedule::ManualDrop;
use convoy_common::store::Store;
use convoy_worker::data::{InMemory, Settings, Source};
use convoy_worker::model::{Device, Net, Spec};
use convoy_worker::ring::{self, Member, Ring, RingServer};
use convoy_worker::state;
use convoy_worker::train::{
    Control, Ending, EvaluationReport, Fault, PartPlace, Parts, Remains, Report, Reports,
    StepReport, TrainError, Trainer, Uploader,
};
use convoy_worker::trained::start;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

/// Images of the training split: not a multiple of the batch, so that an epoch ends short.
pub(crate) const TRAINING_IMAGES: u64 = 22;
/// Five shards, as uneven as a data set's.
pub(crate) const SHARD_STARTS: [u64; 5] = [0, 6, 9, 14, 21];
const VALIDATION_IMAGES: u64 = 7;
const CLASSES: usize = 3;

/// A run on a tiny drawn data set with a narrow net.
pub(crate) struct Cluster {
    pub(crate) config: RunConfig,
    /// Of the net; the images have three.
    pub(crate) classes: usize,
    runtime: Runtime,
    /// Where images come from, and the first image of each shard.
    source: (Arc<dyn Source>, Vec<u64>),
    store: Store,
    _folder: TempDir,
    generations: u32,
    /// The override log, which all ranks know from the start.
    pub(crate) drops: Vec<ManualDrop>,
}

/// What one rank went through.
pub(crate) struct Lived {
    pub(crate) outcome: Result<Ending, TrainError>,
    pub(crate) position: Position,
    pub(crate) digest: String,
    pub(crate) steps: Vec<StepReport>,
    pub(crate) evaluations: Vec<EvaluationReport>,
    pub(crate) drops: Vec<(u32, Position)>,
    pub(crate) parts: Vec<(SharedState, PartEntry)>,
    /// Of the whole state, as said with each part.
    pub(crate) said: Vec<String>,
}

/// What happens to the ranks besides training.
pub(crate) type Disturbance = fn(rank: u32, control: &Arc<Control>, ring: &Ring);

/// What is planted in a rank; it is given the way to kill that rank's connections, as a process
/// that dies does.
pub(crate) type Plant<'a> = &'a (dyn Fn(u32, Kill) -> Option<Fault> + Sync);
pub(crate) type Kill = Arc<dyn Fn() + Send + Sync>;

impl Cluster {
    /// A cluster whose config is that of the tests plus `extra` lines of `key=value`.
    pub(crate) fn new(extra: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let overrides: Vec<String> = extra.iter().map(|&it| it.to_owned()).collect();
        let text = "
            [run]
            url = 'run'
            seed = 7
            [data]
            url = 'data'
            [model]
            narrow = 16
            init = 'kaiming'
            pixel_scale = 0.005
            [train]
            epochs = 4
            batch = 8
            lr = 0.005
            [numerics]
            microbatch = 2
            [evaluation]
            every_epochs = 1
            [checkpoint]
            every_epochs = 0
            every_steps = 0
            keep_best = false
            [cluster]
            ring_chunk = '64KiB'
        ";
        let config = ConfigSource::new("test.toml".as_ref(), &overrides)
            .with_environment(Vec::new())
            .with_folder(folder.path())
            .resolve_text(text)
            .unwrap()
            .config;
        let store = Store::open(&config.run.url).unwrap();
        let runtime = Runtime::new().unwrap();
        Self {
            config,
            classes: CLASSES,
            runtime,
            source: (images(), SHARD_STARTS.to_vec()),
            store,
            _folder: folder,
            generations: 0,
            drops: Vec::new(),
        }
    }

    /// From now on, images come from there: a training split in shards that begin with these.
    pub(crate) fn read_from(&mut self, source: Arc<dyn Source>, shard_starts: Vec<u64>) {
        self.source = (source, shard_starts);
    }

    /// Trains with `lanes.len()` ranks from a checkpoint, or from the seed, to an end.
    pub(crate) fn run(
        &mut self,
        lanes: &[u32],
        from: Option<&Manifest>,
        disturb: Disturbance,
    ) -> Vec<Lived> {
        self.run_with(lanes, from, disturb, &|_, _| None)
    }

    /// The same with faults.
    pub(crate) fn run_with(
        &mut self,
        lanes: &[u32],
        from: Option<&Manifest>,
        disturb: Disturbance,
        plant: Plant<'_>,
    ) -> Vec<Lived> {
        self.generations += 1;
        let generation = Generation { term: Term(1), counter: self.generations };
        let world = lanes.len() as u32;
        // A runtime for each rank's connections, so that one can die alone.
        let lives: Vec<Arc<Mutex<Option<Runtime>>>> =
            lanes.iter().map(|_| Arc::new(Mutex::new(Some(connections())))).collect();
        let servers: Vec<RingServer> = lives
            .iter()
            .map(|life| {
                let any: Address = "127.0.0.1:0".parse().unwrap();
                let life = life.lock().unwrap();
                life.as_ref().unwrap().block_on(RingServer::bind(&any)).unwrap().1
            })
            .collect();
        let roster: Vec<Member> = servers
            .iter()
            .enumerate()
            .map(|(rank, server)| Member {
                name: format!("worker-{rank}"),
                address: server.address().into(),
            })
            .collect();
        let lived = std::thread::scope(|scope| {
            let ranks: Vec<_> = servers
                .iter()
                .zip(lanes)
                .zip(&lives)
                .enumerate()
                .map(|(rank, ((server, &lanes), life))| {
                    let (roster, this) = (roster.clone(), &*self);
                    scope.spawn(move || {
                        let rank = rank as u32;
                        let settings = ring::Settings {
                            generation,
                            rank: Rank(rank),
                            roster,
                            chunk_bytes: this.config.cluster.ring_chunk as usize,
                            timeout: Duration::from_secs(20),
                            silence: Duration::from_secs(20),
                            connect_timeout: Duration::from_secs(20),
                        };
                        let handle = life.lock().unwrap().as_ref().unwrap().handle().clone();
                        let ring = handle.block_on(Ring::open(settings, server)).unwrap();
                        let life = Arc::clone(life);
                        let kill = move || {
                            if let Some(runtime) = life.lock().unwrap().take() {
                                runtime.shutdown_background();
                            }
                        };
                        let fault = plant(rank, Arc::new(kill));
                        this.live((rank, world, lanes), from, ring, disturb, fault)
                    })
                })
                .collect();
            ranks.into_iter().map(|it| it.join().unwrap()).collect()
        });
        for life in lives {
            if let Some(runtime) = life.lock().unwrap().take() {
                runtime.shutdown_background();
            }
        }
        lived
    }

    fn live(
        &self,
        (rank, world, lanes): (u32, u32, u32),
        from: Option<&Manifest>,
        ring: Ring,
        disturb: Disturbance,
        fault: Option<Fault>,
    ) -> Lived {
        let spec = Spec::of(&self.config.model, self.classes).unwrap();
        let mut net = Net::initialised(spec, &self.config.model, self.config.run.seed, Device::CPU)
            .unwrap()
            .with_precision(self.config.numerics.precision)
            .unwrap();
        let layout = Arc::new(state::layout(&net));
        let catalogue = Arc::new(Checkpoints::new(self.store.clone()));
        let shared = match from {
            None => SharedState::at_the_start(),
            Some(manifest) => {
                let loading = state::load(&catalogue, manifest, &layout, &mut net);
                self.runtime.block_on(loading).unwrap();
                manifest.shared.clone()
            }
        };
        let (to, mut inbox) = mpsc::channel(10_000);
        let generation = Generation { term: Term(1), counter: self.generations };
        let reports = Reports::new(generation, to);
        let place = PartPlace { lineage: Lineage(1), term: Term(1), rank: Rank(rank), world };
        let handle = self.runtime.handle().clone();
        let uploader =
            Uploader::new(catalogue, Arc::clone(&layout), place, reports.clone(), handle.clone());
        let control = Arc::new(Control::default());
        self.drops.iter().for_each(|drop| control.learn(*drop));
        disturb(rank, &control, &ring);
        let mut trainer = Trainer::new(Parts {
            config: self.config.clone(),
            source: Arc::clone(&self.source.0),
            images: (TRAINING_IMAGES, VALIDATION_IMAGES),
            shard_starts: self.source.1.clone(),
            rank: Rank(rank),
            world,
            remains: Remains::fresh(net, shared),
            redo: None,
            owes_checkpoint: false,
            stop: false,
            lanes,
            settings: Settings::of(&self.config, lanes),
            ring,
            uploader,
            control,
            runtime: handle,
            reports,
            fault,
        })
        .unwrap();
        let outcome = trainer.run();
        trainer.finish_uploads().unwrap();
        let mut lived = Lived {
            outcome,
            position: trainer.position(),
            digest: state::digest(trainer.net(), &layout).unwrap(),
            steps: Vec::new(),
            evaluations: Vec::new(),
            drops: Vec::new(),
            parts: Vec::new(),
            said: Vec::new(),
        };
        drop(trainer);
        while let Some((_, report)) = inbox.blocking_recv() {
            match report {
                Report::Step(it) => lived.steps.push(it),
                Report::DropApplied { number, position } => lived.drops.push((number, position)),
                Report::Evaluation(it) => lived.evaluations.push(it),
                Report::PartUploaded { part, shared, state_digest, .. } => {
                    lived.parts.push((shared, part));
                    lived.said.push(state_digest);
                }
                Report::PartFailed { error, .. } => panic!("a part was not stored: {error}"),
                _ => {}
            }
        }
        lived
    }

    /// Makes the checkpoint of which every rank has written its part at global step `step`.
    pub(crate) fn publish(&self, ranks: &[Lived], step: u64) -> Manifest {
        let at = |it: &&(SharedState, PartEntry)| it.0.global_step == step;
        let parts: Vec<_> = ranks
            .iter()
            .map(|it| it.parts.iter().find(at).expect("every rank wrote a part").clone())
            .collect();
        let spec = Spec::of(&self.config.model, self.classes).unwrap();
        let layout = state::layout(&Net::zeroed(spec, Device::CPU).unwrap());
        let header = Header {
            run_id: "test".to_owned(),
            record_digest: String::new(),
            lineage: Lineage(1),
            parent: None,
            term: Term(1),
            model: self.config.model.clone(),
            dataset: DatasetIdentity {
                digest: String::new(),
                train: TRAINING_IMAGES,
                validation: VALIDATION_IMAGES,
                classes: self.classes as u32,
            },
            shared: parts[0].0.clone(),
            tensors: layout.tensors().to_vec(),
        };
        Manifest::assemble(header, parts.into_iter().map(|(_, part)| part).collect()).unwrap()
    }
}

impl Cluster {
    /// The checkpoint of a run that begins with given weights: those of the run's own seed under
    /// another initialisation.
    pub(crate) fn begin_with(&self, init: Init) -> Manifest {
        let model = Model { init, ..self.config.model.clone() };
        let spec = Spec::of(&model, CLASSES).unwrap();
        let seed = self.config.run.seed;
        let net = Net::initialised(spec, &model, seed, Device::CPU).unwrap();
        let dataset = DatasetIdentity {
            digest: String::new(),
            train: TRAINING_IMAGES,
            validation: VALIDATION_IMAGES,
            classes: CLASSES as u32,
        };
        self.runtime.block_on(start::create(&self.config, &dataset, &net)).unwrap().0
    }
}

fn connections() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Nothing happens.
pub(crate) fn calm(_: u32, _: &Arc<Control>, _: &Ring) {}

/// Drawn once for all clusters of a process.
pub(crate) fn images() -> Arc<InMemory> {
    static IMAGES: OnceLock<Arc<InMemory>> = OnceLock::new();
    Arc::clone(IMAGES.get_or_init(|| Arc::new(draw())))
}

/// Small pictures in which the class decides the colour of a stripe.
fn draw() -> InMemory {
    let image = |number: u64| {
        let label = (number % CLASSES as u64) as usize;
        let mut pixels = vec![0_u8; 256 * 256 * 3];
        for (place, pixel) in pixels.chunks_exact_mut(3).enumerate() {
            let (x, y) = (place % 256, place / 256);
            let shade = (x * 7 + y * 13 + number as usize * 31) % 97;
            pixel.fill(shade as u8);
            if (x + y) % 64 < 32 {
                pixel[label] = 200;
            }
        }
        let mut bytes = Vec::new();
        jpeg_encoder::Encoder::new(&mut bytes, 90)
            .encode(&pixels, 256, 256, jpeg_encoder::ColorType::Rgb)
            .unwrap();
        Encoded { bytes: Bytes::from(bytes), label: label as u16, encoding: Encoding::Original }
    };
    InMemory {
        train: (0..TRAINING_IMAGES).map(image).collect(),
        validation: (0..VALIDATION_IMAGES).map(|it| image(1000 + it)).collect(),
        mean_image: vec![60.0; 3 * 256 * 256],
    }
}
