//! A job's surroundings in one process: a real store, a real data set, a real server, and workers
//! that follow a script instead of training.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use convoy_common::checkpoint::{
    Checkpoints, SharedState, StateLayout, TensorSpec, encode_part, slice_hash, state_digest,
};
use convoy_common::config::{RunConfig, Source};
use convoy_common::dataset::{PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::ids::{Generation, Lineage, Position};
use convoy_common::rpc::{self, Address};
use convoy_common::schedule::{AppliedDrop, ScheduleState};
use convoy_common::store::Store;
use convoy_common::{PROTOCOL, VERSION, pb};
use convoy_coordinator::engine;
use convoy_coordinator::ledger::{self, Fencing, Origin};
use convoy_coordinator::machine::Outcome;
use convoy_coordinator::service::{Facts, Service};
use pb::coordinator_client::CoordinatorClient;
use pb::coordinator_message::Kind as Out;
use pb::worker_message::Kind as In;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// For what should happen soon, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

const TRAINING_IMAGES: u64 = 22;
/// ceil(22 / 8)
pub(crate) const STEPS_PER_EPOCH: u32 = 3;

/// A folder with a data set, a run and a config.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("data").to_str().unwrap()).unwrap();
        let mut writer = PackWriter::start(store, Sizes { shard: 1 << 20 }).await.unwrap();
        for (split, count) in [(Split::Train, TRAINING_IMAGES), (Split::Validation, 5)] {
            for number in 0..count {
                // Nobody decodes it here.
                writer.append(split, (number % 2) as u16, "x.jpg", b"a picture").await.unwrap();
            }
        }
        let classes = ["apple".to_owned(), "pear".to_owned()];
        writer.finish(&classes, &PixelStatistics::default().summary()).await.unwrap();
        let place = Self { folder };
        std::fs::write(place.config_file(), place.text()).unwrap();
        place
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config_file(&self) -> std::path::PathBuf {
        self.path().join("run.toml")
    }

    fn text(&self) -> String {
        let place = self.path().display();
        format!(
            "[run]\nname = \"test\"\nurl = \"{place}/run\"\n[data]\nurl = \"{place}/data\"\n\
             [train]\nepochs = 2\nbatch = 8\n[numerics]\nmicrobatch = 4\n\
             [checkpoint]\nkeep_last = 2\n[log]\nevery_steps = 1\nfolder = \"{place}/logs\"\n\
             [cluster]\nworkers = 2\nbind = \"127.0.0.1:0\"\n"
        )
    }

    pub(crate) fn config(&self, overrides: &[&str]) -> RunConfig {
        let overrides: Vec<String> = overrides.iter().map(|&it| it.to_owned()).collect();
        Source::new(&self.config_file(), &overrides).resolve().unwrap().config
    }

    pub(crate) fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(Store::open(self.path().join("run").to_str().unwrap()).unwrap())
    }
}

/// A coordinator in this process.
pub(crate) struct Server {
    pub(crate) address: Address,
    job: JoinHandle<Outcome>,
}

impl Server {
    pub(crate) async fn start(config: RunConfig, origin: Origin) -> Self {
        let (bound, incoming) = rpc::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let run = ledger::open(config.clone(), origin, Fencing::Required).await.unwrap();
        let opened = run.take_over(&bound.to_string()).await.unwrap();
        let facts = Facts {
            run: config.run.name.clone(),
            run_id: opened.run_id.clone(),
            config_json: config.to_json(),
            term: opened.plan.term.0,
            workers: opened.plan.workers,
            ..Facts::default()
        };
        let (engine, job) = engine::start(opened.plan, opened.ledger);
        let service = Service::new(engine, facts).into_server();
        tokio::spawn(rpc::server().add_service(service).serve_with_incoming(incoming));
        Self { address: bound.into(), job }
    }

    pub(crate) async fn outcome(self) -> Outcome {
        timeout(SOON, self.job).await.expect("the job ends").unwrap()
    }

    pub(crate) async fn client(&self) -> CoordinatorClient<tonic::transport::Channel> {
        client(&self.address).await
    }
}

pub(crate) async fn client(address: &Address) -> CoordinatorClient<tonic::transport::Channel> {
    CoordinatorClient::new(rpc::connect("the coordinator", address, SOON).await.unwrap())
}

/// A worker that says what the test tells it to say.
pub(crate) struct Worker {
    words: mpsc::Sender<pb::WorkerMessage>,
    orders: mpsc::Receiver<Out>,
    assignment: pb::Assignment,
    heart: Option<AbortHandle>,
    ear: AbortHandle,
}

/// As when a process ends: nothing of it goes on.
impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(heart) = &self.heart {
            heart.abort();
        }
        self.ear.abort();
    }
}

pub(crate) fn hello(name: &str) -> pb::Hello {
    pb::Hello {
        version: VERSION.to_owned(),
        protocol: PROTOCOL,
        name: name.to_owned(),
        ring_address: "127.0.0.1:1".to_owned(),
        device: "cpu".to_owned(),
        lanes: 1,
        pid: std::process::id(),
        standing: None,
        expect_config: String::new(),
        cores: 4,
        bf16_units: false,
    }
}

/// Passes orders on until the call is over. It reaches all whom it is asked about.
async fn listen(
    mut orders: tonic::Streaming<pb::CoordinatorMessage>,
    words: mpsc::Sender<pb::WorkerMessage>,
    pass_on: mpsc::Sender<Out>,
) {
    while let Ok(Some(message)) = orders.message().await {
        match message.kind.expect("a kind") {
            Out::Probe(it) => {
                let probed = pb::Probed { number: it.number, unreachable: Vec::new() };
                let kind = Some(In::Probed(probed));
                // A coordinator that is gone is what the next order tells.
                let _ = words.send(pb::WorkerMessage { kind }).await;
            }
            // What needs no answer.
            Out::Pulse(_) | Out::Settled(_) => {}
            order => {
                if pass_on.send(order).await.is_err() {
                    return;
                }
            }
        }
    }
}

impl Worker {
    /// Calls and says hello.
    pub(crate) async fn call(address: &Address, hello: pb::Hello) -> Self {
        let (words, queue) = mpsc::channel(64);
        words.send(pb::WorkerMessage { kind: Some(In::Hello(hello)) }).await.unwrap();
        let orders = client(address).await.attend(ReceiverStream::new(queue)).await.unwrap();
        let (pass_on, heard) = mpsc::channel(64);
        let ear = tokio::spawn(listen(orders.into_inner(), words.clone(), pass_on));
        let (assignment, ear) = (pb::Assignment::default(), ear.abort_handle());
        Self { words, orders: heard, assignment, heart: None, ear }
    }

    /// Calls and is welcomed; from then on its heart beats.
    pub(crate) async fn join(address: &Address, name: &str) -> Self {
        let mut worker = Self::call(address, hello(name)).await;
        match worker.order().await {
            Some(Out::Welcome(welcome)) => assert!(welcome.config_json.contains("\"test\"")),
            order => panic!("{order:?}"),
        }
        worker.compute("f0").await;
        let words = worker.words.clone();
        let heart = tokio::spawn(async move {
            let beat = pb::Heartbeat { position: Some(Default::default()), ..Default::default() };
            let message = pb::WorkerMessage { kind: Some(In::Heartbeat(beat)) };
            while words.send(message.clone()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        worker.heart = Some(heart.abort_handle());
        worker
    }

    /// Says what it computes under the run's numerics.
    pub(crate) async fn compute(&self, fingerprint: &str) {
        self.say(In::Numerics(pb::Numerics { fingerprint: fingerprint.to_owned() })).await;
    }

    /// The next order; none when the call is over.
    pub(crate) async fn order(&mut self) -> Option<Out> {
        timeout(SOON, self.orders.recv()).await.expect("an order in time")
    }

    pub(crate) async fn say(&self, kind: In) {
        // A coordinator that is gone is what the next order tells.
        let _ = self.words.send(pb::WorkerMessage { kind: Some(kind) }).await;
    }

    /// Takes its place and says that it is ready with a state of that digest.
    pub(crate) async fn prepare(&mut self, state_digest: &str) {
        match self.order().await {
            Some(Out::Assignment(assignment)) => self.assignment = assignment,
            order => panic!("{order:?}"),
        }
        let (generation, state_digest) = (self.assignment.generation, state_digest.to_owned());
        self.say(In::Ready(pb::Ready { generation, state_digest })).await;
    }

    pub(crate) async fn begin(&mut self) {
        match self.order().await {
            Some(Out::Begin(begin)) => assert_eq!(begin.generation, self.assignment.generation),
            order => panic!("{order:?}"),
        }
    }

    pub(crate) fn assignment(&self) -> &pb::Assignment {
        &self.assignment
    }

    pub(crate) fn rank(&self) -> u32 {
        self.assignment.rank
    }

    /// Says that a step to `position` was committed.
    pub(crate) async fn step(&self, position: Position) {
        let times = pb::StepTimes { total: 0.5, compute: 0.4, ..Default::default() };
        self.say(In::Step(pb::StepReport {
            generation: self.assignment.generation,
            position: Some(position.into()),
            samples: 8,
            loss: 0.7,
            correct: 4,
            learning_rate: 0.01,
            times: Some(times),
            bytes_sent: 1000,
            cache: None,
        }))
        .await;
    }

    /// Uploads its part of a state that is `fill` throughout, and says so.
    pub(crate) async fn checkpoint(&self, place: &Place, position: Position, fill: f32) {
        self.checkpoint_after(place, position, fill, Vec::new()).await;
    }

    /// The same after drops by hand.
    pub(crate) async fn checkpoint_after(
        &self,
        place: &Place,
        position: Position,
        fill: f32,
        manual: Vec<AppliedDrop>,
    ) {
        self.upload(place, (position, fill), digest(&layout(), fill), manual).await;
    }

    /// The same with the digest of another state.
    pub(crate) async fn checkpoint_as(
        &self,
        place: &Place,
        position: Position,
        fill: f32,
        state_digest: String,
    ) {
        self.upload(place, (position, fill), state_digest, Vec::new()).await;
    }

    async fn upload(
        &self,
        place: &Place,
        (position, fill): (Position, f32),
        state_digest: String,
        manual: Vec<AppliedDrop>,
    ) {
        let layout = layout();
        let world = self.assignment.roster.len() as u32;
        let generation: Generation = self.assignment.generation.unwrap().into();
        let range = layout.share(self.rank(), world);
        let data = bytes(&layout, range.clone(), fill);
        let part = encode_part(&layout, generation.term, self.rank(), world, range, &data).unwrap();
        let global_step = position.global_step(STEPS_PER_EPOCH);
        let lineage = Lineage(self.assignment.lineage);
        place.checkpoints().upload_part(lineage, global_step, &part).await.unwrap();
        let shared = SharedState {
            position,
            global_step,
            schedule: ScheduleState { manual, ..ScheduleState::default() },
            samples_seen: 8 * global_step,
            last_loss: Some(0.7),
            world,
            evaluations: Default::default(),
        };
        self.say(In::PartUploaded(pb::PartUploaded {
            generation: self.assignment.generation,
            position: Some(position.into()),
            part_json: serde_json::to_string(&part.entry).unwrap(),
            shared_json: serde_json::to_string(&shared).unwrap(),
            seconds: 0.1,
            state_digest,
        }))
        .await;
    }

    /// The order to drop the rate, which must be the next one.
    pub(crate) async fn directive(&mut self) -> pb::Directive {
        match self.order().await {
            Some(Out::Directive(directive)) => directive,
            order => panic!("{order:?}"),
        }
    }

    /// Says that it knows the order.
    pub(crate) async fn knows(&self, number: u32) {
        let generation = self.assignment.generation;
        self.say(In::DirectiveKnown(pb::DirectiveKnown { generation, number })).await;
    }

    /// Says that the order took effect.
    pub(crate) async fn dropped(&self, number: u32, position: Position) {
        let (generation, position) = (self.assignment.generation, Some(position.into()));
        self.say(In::DirectiveApplied(pb::DirectiveApplied { generation, number, position })).await;
    }

    pub(crate) async fn finish(&self, position: Position, cause: pb::FinishCause) {
        self.say(In::Finished(pb::Finished {
            generation: self.assignment.generation,
            position: Some(position.into()),
            cause: cause.into(),
            detail: String::new(),
            state_digest: "end".to_owned(),
        }))
        .await;
    }

    /// Leaves the ring of its generation, and says that it holds the state there.
    pub(crate) async fn leave(&self, position: Position, blame: &str) {
        let position = Some(position.into());
        self.say(In::Left(pb::Left {
            generation: self.assignment.generation,
            held: Some(pb::Reached { position, evaluated: false }),
            blame: blame.to_owned(),
            error: "the ring broke".to_owned(),
            ..Default::default()
        }))
        .await;
    }

    /// Is told to leave its generation, which must be the next order.
    pub(crate) async fn ended(&mut self) -> String {
        match self.order().await {
            Some(Out::EndGeneration(it)) => it.reason,
            order => panic!("{order:?}"),
        }
    }

    /// The exit code of its shutdown, which must be the next order.
    pub(crate) async fn dismissed(&mut self) -> u32 {
        match self.order().await {
            Some(Out::Shutdown(shutdown)) => shutdown.exit_code,
            order => panic!("{order:?}"),
        }
    }
}

/// Two workers that train, `a` with rank 0 and `b` with rank 1.
pub(crate) async fn training(address: &Address, state_digest: &str) -> (Worker, Worker) {
    let mut b = Worker::join(address, "b").await;
    let mut a = Worker::join(address, "a").await;
    b.prepare(state_digest).await;
    a.prepare(state_digest).await;
    a.begin().await;
    b.begin().await;
    assert_eq!((a.rank(), b.rank()), (0, 1));
    (a, b)
}

pub(crate) fn layout() -> StateLayout {
    let spec =
        |name: &str, shape: &[usize]| TensorSpec { name: name.to_owned(), shape: shape.to_vec() };
    StateLayout::new(vec![
        spec("w", &[600, 2048]),
        spec("w.momentum", &[600, 2048]),
        spec("b", &[6]),
    ])
}

/// Of a state that is `fill` throughout.
fn digest(layout: &StateLayout, fill: f32) -> String {
    let all = bytes(layout, 0..layout.slices().len(), fill);
    let hashes: Vec<String> = all.iter().map(|it| slice_hash(it)).collect();
    state_digest(layout, &hashes)
}

fn bytes(layout: &StateLayout, range: std::ops::Range<usize>, fill: f32) -> Vec<Bytes> {
    layout.slices()[range]
        .iter()
        .map(|slice| fill.to_le_bytes().repeat(layout.slice_bytes(slice) / 4).into())
        .collect()
}
