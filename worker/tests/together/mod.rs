//! A whole job in one process: the real engine, service and ledger, and real workers, each with a
//! runtime of its own, so that one can die alone as a process does.

#![expect(dead_code, reason = "each test file uses its own share")]

pub(crate) mod hooked;
mod valve;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use convoy_common::checkpoint::{Checkpoints, Manifest, SharedState, slice_hash};
use convoy_common::config::{RunConfig, Source};
use convoy_common::dataset::{PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::failure::Failure;
use convoy_common::ids::{Lineage, Position};
use convoy_common::pb;
use convoy_common::pb::peer_server::{Peer, PeerServer};
use convoy_common::rpc::{self, Address};
use convoy_common::shutdown::{self, Trigger, Urgency};
use convoy_common::store::Store;
use convoy_coordinator::engine::{self, Input};
use convoy_coordinator::ledger::{self, Fencing, Origin};
use convoy_coordinator::machine::{Answered, Event, Outcome, Status, Wish};
use convoy_coordinator::service::{Facts, Service};
use convoy_worker::agent::{self, Settings};
use convoy_worker::model::{Device, Net};
use convoy_worker::peer::{self, Vault};
use convoy_worker::ring::RingServer;
use convoy_worker::session::Introduction;
use convoy_worker::state;
use convoy_worker::train::{Fault, Mishap, Moment, TrainError};
use hooked::{Hook, Hooked};
use prost::Message as _;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response};
pub(crate) use valve::Valve;

/// For what should happen soon, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(100);

/// Digests of the state before each step, which all workers must share.
pub(crate) type Diary = BTreeMap<Position, String>;

/// What a test wants to happen to a worker, besides being watched.
pub(crate) type Plant =
    Box<dyn Fn(&Life, Moment, Position) -> Result<(), TrainError> + Send + Sync>;

/// A job and its coordinator.
pub(crate) struct Job {
    folder: Arc<TempDir>,
    config: RunConfig,
    runtime: Runtime,
    address: Address,
    engine: engine::Handle,
    outcome: Receiver<Outcome>,
    diary: Arc<Mutex<Diary>>,
}

/// A worker of the job.
pub(crate) struct Node {
    life: Life,
    code: Receiver<Result<u8, Failure>>,
    trigger: Trigger,
}

/// A worker's connections and tasks.
#[derive(Clone)]
pub(crate) struct Life {
    runtime: Arc<Mutex<Option<Runtime>>>,
}

impl Life {
    /// Ends everything at once, as when a process dies.
    pub(crate) fn end(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    /// The same from within the worker's trainer.
    pub(crate) fn die(&self) -> Result<(), TrainError> {
        self.end();
        Err(TrainError::Abandoned)
    }
}

/// Somebody dies when it has begun to give its state.
struct DyingDonor {
    life: Arc<Mutex<Option<Life>>>,
}

/// The run's checkpoints, which can be made unreachable.
#[derive(Clone)]
pub(crate) struct Switch {
    there: PathBuf,
    away: PathBuf,
}

impl Switch {
    /// From now on nothing can be written or read below `checkpoints/`, as when a disk is gone: a
    /// file is there in place of the folder.
    pub(crate) fn off(&self) {
        std::fs::create_dir_all(&self.there).unwrap();
        std::fs::rename(&self.there, &self.away).unwrap();
        std::fs::write(&self.there, "not a folder").unwrap();
    }

    /// All is as it was.
    pub(crate) fn on(&self) {
        std::fs::remove_file(&self.there).unwrap();
        std::fs::rename(&self.away, &self.there).unwrap();
    }

    /// Off, and on again after a while.
    pub(crate) fn off_for(&self, time: Duration) {
        self.off();
        let this = self.clone();
        std::thread::spawn(move || {
            std::thread::sleep(time);
            this.on();
        });
    }
}

#[tonic::async_trait]
impl Peer for DyingDonor {
    type StateStream = ReceiverStream<Result<pb::StatePiece, tonic::Status>>;
    type RedoStream = ReceiverStream<Result<pb::RedoPiece, tonic::Status>>;

    async fn state(
        &self,
        _: Request<pb::StateRequest>,
    ) -> Result<Response<Self::StateStream>, tonic::Status> {
        let (to, pieces) = tokio::sync::mpsc::channel(1);
        let shared_json = serde_json::to_string(&SharedState::at_the_start()).unwrap();
        let mut head = pb::StateHead { shared_json, ..pb::StateHead::default() };
        head.hash = slice_hash(&head.encode_to_vec());
        let kind = Some(pb::state_piece::Kind::Head(head));
        to.send(Ok(pb::StatePiece { kind })).await.unwrap();
        let life = Arc::clone(&self.life);
        std::thread::spawn(move || {
            // Not before the head is there.
            std::thread::sleep(Duration::from_millis(50));
            if let Some(life) = life.lock().unwrap().take() {
                life.end();
            }
            drop(to);
        });
        Ok(Response::new(ReceiverStream::new(pieces)))
    }

    async fn redo(
        &self,
        _: Request<pb::RedoRequest>,
    ) -> Result<Response<Self::RedoStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("nobody asks for this here"))
    }

    async fn ping(
        &self,
        _: Request<pb::PingRequest>,
    ) -> Result<Response<pb::PingReply>, tonic::Status> {
        Ok(Response::new(pb::PingReply {}))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.life.end();
    }
}

/// Nothing.
pub(crate) fn nothing() -> Plant {
    Box::new(|_, _, _| Ok(()))
}

/// Makes steps so slow that there is time for something to happen.
pub(crate) fn slowly(milliseconds: u64) -> Plant {
    Box::new(move |_, moment, _| {
        if moment == Moment::Data {
            std::thread::sleep(Duration::from_millis(milliseconds));
        }
        Ok(())
    })
}

/// One after the other.
pub(crate) fn both(first: Plant, then: Plant) -> Plant {
    Box::new(move |life, moment, position| {
        first(life, moment, position)?;
        then(life, moment, position)
    })
}

/// At one moment of one step.
pub(crate) fn once(
    at: Position,
    when: Moment,
    what: impl Fn(&Life) -> Result<(), TrainError> + Send + Sync + 'static,
) -> Plant {
    let done = AtomicBool::new(false);
    Box::new(move |life, moment, position| {
        let now = (position, moment) == (at, when);
        if now && !done.swap(true, Ordering::AcqRel) {
            return what(life);
        }
        Ok(())
    })
}

impl Job {
    /// A job for so many workers, with `extra` lines of `key=value`.
    pub(crate) fn new(workers: u32, extra: &[&str]) -> Self {
        Self::start(Arc::new(tempfile::tempdir().unwrap()), workers, extra)
    }

    /// The same run goes on with a new coordinator.
    pub(crate) fn again(self, workers: u32, extra: &[&str]) -> Self {
        let folder = Arc::clone(&self.folder);
        drop(self);
        Self::start(folder, workers, extra)
    }

    /// A job in whose ledger something is planted.
    pub(crate) fn with_ledger(workers: u32, extra: &[&str], hook: Hook) -> Self {
        Self::start_with(Arc::new(tempfile::tempdir().unwrap()), workers, extra, hook)
    }

    fn start(folder: Arc<TempDir>, workers: u32, extra: &[&str]) -> Self {
        Self::start_with(folder, workers, extra, Hook::none())
    }

    fn start_with(folder: Arc<TempDir>, workers: u32, extra: &[&str], hook: Hook) -> Self {
        let place = folder.path().display();
        let data = data().path().display();
        let text = format!(
            "run = {{ name = 'test', url = '{place}/run', seed = 7 }}
             data = {{ url = '{data}' }}
             model = {{ narrow = 16, init = 'kaiming', pixel_scale = 0.005 }}
             train = {{ epochs = 4, batch = 8, lr = 0.005 }}
             numerics = {{ microbatch = 2 }}
             evaluation = {{ every_epochs = 1 }}
             checkpoint = {{ every_epochs = 0, every_steps = 0, keep_best = false }}
             cluster = {{ workers = {workers}, bind = '127.0.0.1:0', liveness_timeout = '5s',
                          ring_timeout = '20s', prepare_timeout = '60s', ring_chunk = '64KiB' }}
             log = {{ every_steps = 1 }}"
        );
        let overrides: Vec<String> = extra.iter().map(|&it| it.to_owned()).collect();
        let config = Source::new("test.toml".as_ref(), &overrides)
            .with_environment(Vec::new())
            .with_folder(folder.path())
            .resolve_text(&text)
            .unwrap()
            .config;
        let runtime = connections();
        let (address, engine, job) = runtime.block_on(async {
            let (bound, incoming) = rpc::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
            let run =
                ledger::open(config.clone(), Origin::Newest, Fencing::Required).await.unwrap();
            let opened = run.take_over(&bound.to_string()).await.unwrap();
            let facts = Facts {
                run_id: opened.run_id.clone(),
                config_json: config.to_json(),
                workers: opened.plan.workers,
                ..Facts::default()
            };
            let ledger = Hooked { ledger: opened.ledger, hook };
            let (engine, job) = engine::start(opened.plan, ledger);
            let service = Service::new(engine.clone(), facts).into_server();
            tokio::spawn(rpc::server().add_service(service).serve_with_incoming(incoming));
            (bound.into(), engine, job)
        });
        let (tell, outcome) = mpsc::channel();
        runtime.spawn(async move {
            let _ = tell.send(job.await.unwrap());
        });
        Self { folder, config, runtime, address, engine, outcome, diary: Arc::default() }
    }

    /// A worker joins.
    pub(crate) fn join(&self, name: &str, plant: Plant) -> Node {
        self.join_beside(name, plant, None, |vault, _| peer::routes(vault))
    }

    /// One that its peers reach through that valve.
    pub(crate) fn join_behind(&self, name: &str, plant: Plant, valve: &Arc<Valve>) -> Node {
        self.join_beside(name, plant, Some(Arc::clone(valve)), |vault, _| peer::routes(vault))
    }

    /// One that dies when it has begun to give its state to a peer.
    pub(crate) fn join_as_dying_donor(&self, name: &str, plant: Plant) -> Node {
        self.join_beside(name, plant, None, |_, life| {
            let life = Arc::new(Mutex::new(Some(life)));
            Routes::new(PeerServer::new(DyingDonor { life }))
        })
    }

    /// One whose peer dies when it has begun to take this one's state, once it is known who that is.
    pub(crate) fn join_as_donor_of(
        &self,
        name: &str,
        plant: Plant,
        taker: &Arc<Mutex<Option<Life>>>,
    ) -> Node {
        let life = Arc::clone(taker);
        self.join_beside(name, plant, None, |_, _| {
            Routes::new(PeerServer::new(DyingDonor { life }))
        })
    }

    fn join_beside(
        &self,
        name: &str,
        plant: Plant,
        valve: Option<Arc<Valve>>,
        beside: impl FnOnce(Arc<Vault>, Life) -> Routes,
    ) -> Node {
        let runtime = connections();
        let handle = runtime.handle().clone();
        let life = Life { runtime: Arc::new(Mutex::new(Some(runtime))) };
        let (trigger, shutdown) = shutdown::channel();
        let (watched, diary) = (life.clone(), Arc::clone(&self.diary));
        let (plant, uploading) = (Arc::new(plant), life.clone());
        let planted = Arc::clone(&plant);
        let mishap: Mishap = Arc::new(move |moment, position| {
            // Whoever dies there ends with its runtime.
            let _ = planted(&uploading, moment, position);
        });
        let fault: Fault = Arc::new(move |moment, position, net: &mut Net| {
            if moment == Moment::Committed {
                let digest = state::digest(net, &state::layout(net)).unwrap();
                let mut diary = diary.lock().unwrap();
                let first = diary.entry(position).or_insert_with(|| digest.clone());
                assert_eq!(*first, digest, "at {position}");
            }
            plant(&watched, moment, position)
        });
        let (coordinator, name) = (format!("http://{}", self.address), name.to_owned());
        let (tell, code) = mpsc::channel();
        let vault = Arc::new(Vault::default());
        let beside = beside(Arc::clone(&vault), life.clone());
        handle.spawn(async move {
            let any: Address = "127.0.0.1:0".parse().unwrap();
            let (address, ring) = RingServer::bind_beside(&any, beside).await.unwrap();
            let address = valve.map_or(address, |it| it.lead_to(address));
            let who = Introduction {
                name,
                ring_address: address.to_string(),
                device: "cpu".to_owned(),
                lanes: 1,
                cores: 0,
                expect_config: None,
                bf16_units: false,
            };
            let (fault, mishap, device) = (Some(fault), Some(mishap), Device::CPU);
            let settings = Settings { coordinator, patience: SOON, who, device, fault, mishap };
            let _ = tell.send(agent::run(settings, ring, vault, shutdown).await);
        });
        Node { life, code, trigger }
    }

    /// What the job is doing.
    pub(crate) fn status(&self) -> Status {
        self.engine.status()
    }

    /// Asks for something as an operator does, and waits for the answer.
    pub(crate) fn ask(&self, wish: Wish) -> Answered {
        static REQUESTS: AtomicU64 = AtomicU64::new(1 << 32);
        let request = REQUESTS.fetch_add(1, Ordering::Relaxed);
        let asked = self.engine.send(Input::Event(Event::Asked { request, wish }));
        assert!(self.runtime.block_on(asked), "the job is over");
        let own = |it: &Status| it.answers.iter().find(|it| it.request == request).cloned();
        let answered = |it: &Status| own(it).is_some_and(|it| it.stage != Answered::Waiting);
        self.until("an answer", answered);
        own(&self.status()).expect("an answer").stage
    }

    /// Waits until the job's status is as wanted.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) {
        let start = Instant::now();
        while !wanted(&self.status()) {
            assert!(start.elapsed() < SOON, "{what}: {:?}", self.status());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// As `convoy stop` does.
    pub(crate) fn stop(&self) {
        let reason = "a test".to_owned();
        let asked = self.engine.send(Input::Event(Event::StopRequested { reason }));
        assert!(self.runtime.block_on(asked), "the job is over");
    }

    /// How the job ended.
    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.recv_timeout(SOON).expect("the job ends")
    }

    /// The way to make the run's checkpoints unreachable.
    pub(crate) fn switch(&self) -> Switch {
        let run = self.folder.path().join("run");
        Switch { there: run.join("checkpoints"), away: run.join("checkpoints.away") }
    }

    /// The folder of the run and what belongs to it.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Every checkpoint that there is, oldest first; each byte of each is right.
    pub(crate) fn all_checkpoints(&self) -> Vec<Manifest> {
        let catalogue = Checkpoints::new(Store::open(&self.config.run.url).unwrap());
        self.runtime.block_on(async {
            let listing = catalogue.list().await.unwrap();
            assert!(listing.skipped.is_empty(), "{:?}", listing.skipped);
            let mut all = Vec::new();
            for it in listing.checkpoints.iter().rev() {
                let manifest = catalogue.read(&it.path).await.unwrap();
                catalogue.verify(&manifest).await.unwrap();
                all.push(manifest);
            }
            all
        })
    }

    /// The newest checkpoint.
    pub(crate) fn checkpoint(&self) -> Manifest {
        let catalogue = Checkpoints::new(Store::open(&self.config.run.url).unwrap());
        let newest = self.runtime.block_on(catalogue.newest_good(Lineage(1))).unwrap();
        newest.found.expect("a checkpoint").1
    }

    /// The state after each step that any worker has made.
    pub(crate) fn diary(&self) -> Diary {
        self.diary.lock().unwrap().clone()
    }
}

impl Node {
    /// What ends it.
    pub(crate) fn life(&self) -> Life {
        self.life.clone()
    }

    /// As SIGTERM does.
    pub(crate) fn ask_to_leave(&self) {
        self.trigger.request(Urgency::Orderly, "SIGTERM");
    }

    /// As a process that is killed.
    pub(crate) fn vanish(&self) {
        self.life.end();
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        let ended = self.code.recv_timeout(SOON).expect("the worker ends");
        ended.unwrap_or_else(|failure| failure.code())
    }
}

fn connections() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// 22 images to train on and 7 held out, of 3 classes; packed once for all jobs of a process.
fn data() -> &'static TempDir {
    static DATA: OnceLock<TempDir> = OnceLock::new();
    DATA.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        connections().block_on(async {
            let store = Store::open(folder.path().to_str().unwrap()).unwrap();
            let mut writer = PackWriter::start(store, Sizes { shard: 1 << 20 }).await.unwrap();
            for (split, count) in [(Split::Train, 22), (Split::Validation, 7)] {
                for number in 0..count {
                    let (label, bytes) = draw(number);
                    writer.append(split, label, "x.jpg", &bytes).await.unwrap();
                }
            }
            let classes = ["a", "b", "c"].map(str::to_owned);
            writer.finish(&classes, &PixelStatistics::default().summary()).await.unwrap();
        });
        folder
    })
}

/// A picture in which the class decides the colour of a stripe.
fn draw(number: usize) -> (u16, Vec<u8>) {
    let label = number % 3;
    let mut pixels = vec![0_u8; 256 * 256 * 3];
    for (place, pixel) in pixels.chunks_exact_mut(3).enumerate() {
        let (x, y) = (place % 256, place / 256);
        pixel.fill(((x * 7 + y * 13 + number * 31) % 97) as u8);
        if (x + y) % 64 < 32 {
            pixel[label] = 200;
        }
    }
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(&pixels, 256, 256, jpeg_encoder::ColorType::Rgb)
        .unwrap();
    (label as u16, bytes)
}
