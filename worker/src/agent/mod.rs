//! The life of a worker: join, prepare, train, end.
//!
//! ```text
//! open session -> welcome -> fingerprint -> [assignment -> prepare -> ready -> begin -> train -> finished] -> shutdown
//!                                              ^                                        |
//!                                              '------- left, with the state <----------'
//! ```
//!
//! A generation that ends, in agreement or because something broke, is not the end of the worker:
//! the state goes back into the vault, and the next assignment says what to do with it.
//!
//! The agent runs on the async runtime and never touches a tensor: preparing and training happen on
//! threads of their own. It listens to the coordinator all the while, so an order to end reaches a
//! worker in whatever it is doing.

mod drain;
mod prepare;
mod setback;
mod telling;
mod training;

use std::sync::Arc;
use std::time::Duration;

use convoy_common::config::HEARTBEAT_INTERVAL;
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::Generation;
use convoy_common::schedule::ManualDrop;
use convoy_common::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use self::drain::Drain;
use self::prepare::{Job, Prepared};
use self::setback::Setback;
use self::training::Ended;
use crate::model::Device;
use crate::peer::{self, Vault};
use crate::ring::{Ring, RingServer};
use crate::session::{self, Assignment, Computed, Introduction, Order, Orders, Probed, Reporter};
use crate::train::{Cause, Control, Fault, Phase, Report, Reports, Uploader};

/// How long a worker that has ended waits for the coordinator's last word.
const LAST_WORD: Duration = Duration::from_secs(120);
/// Reports of the trainer that wait for the agent.
const QUEUE: usize = 256;

/// What a worker is told on its command line.
#[derive(Clone)]
pub struct Settings {
    /// Where the coordinator is.
    pub coordinator: String,
    /// How long to try to reach it.
    pub patience: Duration,
    /// Who this worker is.
    pub who: Introduction,
    /// Where the tensors live.
    pub device: Device,
    /// What a test wants to happen; nothing in a worker.
    pub fault: Option<Fault>,
}

/// What happens inside the worker.
enum Event {
    Prepared(Generation, Result<Box<Prepared>, Setback>),
    Ended(Box<Ended>),
}

/// Where the worker is in its generation.
enum Stage {
    /// In none, or out of its ring.
    Idle,
    Preparing(AbortHandle),
    Ready(Box<Prepared>),
    Training(Ring),
}

/// Joins a job and works in it until it ends; gives the exit code.
///
/// The vault is the one that the ring's address gives peers access to.
pub async fn run(
    settings: Settings,
    ring: RingServer,
    vault: Arc<Vault>,
    shutdown: Shutdown,
) -> Result<u8, Failure> {
    let opening = session::open(&settings.coordinator, settings.who.clone(), settings.patience);
    let (welcome, orders, reporter) = tokio::select! {
        opened = opening => opened?,
        _ = shutdown.requested() => return Ok(exit::STOPPED),
    };
    let (events, inbox) = mpsc::channel(1);
    let (reports, outbox) = mpsc::channel(QUEUE);
    let job = Arc::new(Job::open(welcome, &settings).await?);
    let fingerprint = job.fingerprint().await?;
    info!(fingerprint, "computed the numerics fingerprint");
    reporter.send(Computed { fingerprint }).await;
    let agent = Agent {
        job,
        ring: Arc::new(ring),
        vault,
        control: Arc::default(),
        reporter,
        generation: Generation::default(),
        stage: Stage::Idle,
        left: false,
        is_over: false,
        verdict: None,
        last_word: None,
        uploader: None,
        drain: Drain::default(),
        events,
        reports,
    };
    agent.live(orders, inbox, outbox, shutdown).await
}

struct Agent {
    job: Arc<Job>,
    ring: Arc<RingServer>,
    control: Arc<Control>,
    reporter: Reporter,
    vault: Arc<Vault>,
    generation: Generation,
    stage: Stage,
    /// The coordinator knows that this worker is out of the generation's ring.
    left: bool,
    /// The coordinator has ended the generation.
    is_over: bool,
    /// How this worker's training ended, once it has.
    verdict: Option<Result<Cause, Failure>>,
    /// When a worker that has ended stops waiting for the coordinator.
    last_word: Option<Instant>,
    /// Of the generation that this worker left; its upload may be on its way until the next one.
    uploader: Option<Uploader>,
    drain: Drain,
    events: mpsc::Sender<Event>,
    reports: mpsc::Sender<(Generation, Report)>,
}

impl Agent {
    async fn live(
        mut self,
        mut orders: Orders,
        mut inbox: mpsc::Receiver<Event>,
        mut outbox: mpsc::Receiver<(Generation, Report)>,
        shutdown: Shutdown,
    ) -> Result<u8, Failure> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop_requested = false;
        loop {
            tokio::select! {
                // Reports come before orders, so that none is left behind when the last order arrives.
                biased;
                Some((generation, report)) = outbox.recv() => self.pass_on(generation, report).await,
                Some(event) = inbox.recv() => self.on_event(event).await,
                order = orders.next() => match order {
                    Ok(Order::Shutdown { reason, exit_code }) => {
                        info!(reason, exit_code, "the coordinator ends this worker");
                        self.control.abandon();
                        return Ok(exit_code);
                    }
                    Ok(Order::Drop(drop)) => self.learn(drop).await,
                    Ok(order) => self.on_order(order).await,
                    Err(error) => return self.without_coordinator(error.into()),
                },
                request = shutdown.requested(), if !stop_requested => {
                    stop_requested = true;
                    let reason = request.reason;
                    info!(reason, "asked to leave: the others go on without this worker");
                    self.drain.begin(self.job.config.cluster.drain_grace);
                    self.report(Report::Leaving { reason }).await;
                }
                _ = shutdown.immediate() => return Ok(exit::INTERRUPTED),
                () = self.drain.is_over() => return Ok(self.go_now()),
                _ = heartbeat.tick() => {
                    if self.last_word.is_some_and(|deadline| Instant::now() > deadline) {
                        warn!("the coordinator did not end this worker in time");
                        return self.verdict.map_or(Ok(exit::FAILURE), |it| it.map(exit_code));
                    }
                    self.report(Report::Heartbeat(self.beat())).await;
                }
            }
        }
    }

    async fn on_order(&mut self, order: Order) {
        match order {
            Order::Prepare(assignment) => self.prepare(assignment),
            Order::Begin(generation) if generation == self.generation => self.begin(),
            Order::Begin(generation) => {
                warn!(%generation, "told to begin another generation; ignored")
            }
            Order::StopAfterStep { checkpoint, reason } => {
                info!(reason, checkpoint, "stopping at the next step boundary");
                self.drain.wait_for_the_end();
                self.control.stop_after_step(checkpoint);
            }
            Order::EndGeneration { generation, reason } => {
                self.end_generation(generation, &reason).await;
            }
            Order::Regroup { generation, reason } => {
                if generation == self.generation {
                    info!(%generation, reason, "regrouping at the next step boundary");
                    self.control.regroup();
                }
            }
            Order::Pause { generation, reason } => {
                if generation == self.generation {
                    info!(%generation, reason, "pausing at the next step boundary");
                    self.control.pause();
                }
            }
            Order::TakeCheckpoint => {
                info!("taking a checkpoint as soon as all ranks can");
                self.control.take_checkpoint();
            }
            Order::Probe { number, members } => {
                let reporter = self.reporter.clone();
                tokio::spawn(async move {
                    let unreachable = peer::unreachable(members).await;
                    reporter.send(Probed { number, unreachable }).await;
                });
            }
            Order::Drop(_) | Order::Shutdown { .. } => {
                unreachable!("invariant: handled by the caller")
            }
        }
    }

    fn prepare(&mut self, assignment: Assignment) {
        let generation = assignment.generation;
        info!(
            %generation,
            rank = assignment.rank.0,
            world = assignment.roster.len(),
            start = %assignment.start,
            resume = ?assignment.resume,
            "preparing"
        );
        self.generation = generation;
        (self.left, self.is_over) = (false, false);
        (self.verdict, self.last_word) = (None, None);
        // Whatever it has not stored is given up: the generation takes a checkpoint of its own.
        self.uploader = None;
        if assignment.stop {
            self.drain.wait_for_the_end();
        }
        self.control.begin_generation();
        self.control.enter(Phase::Prepare);
        self.control.reached(assignment.start.position);
        // Whoever is ready knows them.
        assignment.drops.iter().for_each(|drop| self.control.learn(*drop));
        let (job, ring, vault) =
            (Arc::clone(&self.job), Arc::clone(&self.ring), Arc::clone(&self.vault));
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let prepared = job.prepare(assignment, &ring, &vault).await;
            // Nobody listens when the agent has ended meanwhile; then this does not matter.
            let _ = events.send(Event::Prepared(generation, prepared.map(Box::new))).await;
        });
        self.stage = Stage::Preparing(task.abort_handle());
    }

    /// The generation is over: whatever this worker does in it, it comes out with its state.
    async fn end_generation(&mut self, generation: Generation, reason: &str) {
        if generation != self.generation {
            debug!(%generation, "told to leave another generation; ignored");
            return;
        }
        info!(%generation, reason, "the generation is over; this worker keeps its state");
        self.is_over = true;
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Preparing(task) => {
                task.abort();
                self.leave(None, String::new()).await;
            }
            Stage::Ready(prepared) => {
                prepared.ring.leave();
                self.leave(None, String::new()).await;
            }
            Stage::Training(ring) => {
                self.control.leave_generation();
                ring.leave();
                // The trainer comes back as soon as it can.
                self.stage = Stage::Training(ring);
            }
            Stage::Idle => self.leave(None, String::new()).await,
        }
    }

    /// Says, once in a generation, that this worker is out of its ring and what it holds.
    async fn leave(&mut self, blame: Option<String>, error: String) {
        if self.left || matches!(self.verdict, Some(Err(_))) {
            return;
        }
        self.left = true;
        // Whatever it had come to is to be gone on from.
        (self.verdict, self.last_word) = (None, None);
        self.control.enter(Phase::Idle);
        self.say_left(false, blame, error).await;
    }

    async fn learn(&mut self, drop: ManualDrop) {
        let ManualDrop { number, divide_by, .. } = drop;
        info!(number, divide_by, "the rate is to drop as soon as all ranks know it");
        self.control.learn(drop);
        self.report(Report::DropKnown { number }).await;
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Prepared(generation, prepared) => {
                let expected = matches!(self.stage, Stage::Preparing(_));
                if !expected || generation != self.generation {
                    return;
                }
                match prepared {
                    Ok(prepared) => {
                        self.control.enter(Phase::Idle);
                        let state_digest = prepared.state_digest.clone();
                        self.stage = Stage::Ready(prepared);
                        self.report(Report::Ready { state_digest }).await;
                    }
                    Err(setback) => self.set_back(setback).await,
                }
            }
            Event::Ended(ended) => self.on_ended(*ended).await,
        }
    }

    fn begin(&mut self) {
        let prepared = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Ready(prepared) => prepared,
            other => {
                self.stage = other;
                warn!("told to begin before being ready; ignored");
                return;
            }
        };
        let Some(remains) = self.vault.take() else {
            warn!("told to begin without a state; ignored");
            return;
        };
        info!(generation = %self.generation, "training begins");
        self.stage = Stage::Training(prepared.ring.clone());
        let (events, job) = (self.events.clone(), Arc::clone(&self.job));
        let reports = Reports::new(self.generation, self.reports.clone());
        let control = Arc::clone(&self.control);
        training::start(job, *prepared, remains, control, reports, move |ended| {
            let _ = events.blocking_send(Event::Ended(Box::new(ended)));
        });
    }

    async fn on_ended(&mut self, ended: Ended) {
        self.control.enter(Phase::Idle);
        self.stage = Stage::Idle;
        self.uploader = ended.uploader;
        let holds = ended.remains.is_some();
        if let Some(remains) = ended.remains {
            self.vault.put(remains);
        }
        match ended.outcome {
            Ok((ending, _)) if ending.cause == Cause::Regroup => {
                info!(position = %ending.position, "left the generation in agreement");
                self.left = true;
                self.say_left(true, None, String::new()).await;
            }
            Ok((ending, state_digest)) => {
                let (position, cause) = (ending.position, ending.cause);
                info!(?cause, %position, detail = ending.detail, state_digest, "training ended");
                let detail = ending.detail;
                self.report(Report::Finished { position, cause, detail, state_digest }).await;
                self.conclude(Ok(cause));
                if self.is_over {
                    self.leave(None, String::new()).await;
                }
            }
            Err(error) => {
                let mut setback = Setback::from(error);
                setback.goes_on &= holds;
                self.set_back(setback).await;
            }
        }
    }

    /// Something keeps this worker from its generation.
    async fn set_back(&mut self, setback: Setback) {
        let Setback { failure, blame, goes_on } = setback;
        self.stage = Stage::Idle;
        if !goes_on {
            return self.fail(failure).await;
        }
        let error = failure.to_string();
        if self.is_over {
            info!(error, "out of the generation");
        } else {
            warn!(error, blame, "the generation is broken; this worker keeps its state");
        }
        self.leave(blame, error).await;
    }

    async fn fail(&mut self, failure: Failure) {
        let error = failure.to_string();
        error!(error, "this worker cannot go on");
        let (position, exit_code) = (self.control.position(), failure.code());
        self.report(Report::Failed { position, error, exit_code }).await;
        self.conclude(Err(failure));
    }

    fn conclude(&mut self, verdict: Result<Cause, Failure>) {
        self.verdict = Some(verdict);
        self.last_word = Some(Instant::now() + LAST_WORD);
    }

    fn without_coordinator(self, lost: Failure) -> Result<u8, Failure> {
        self.control.abandon();
        match self.verdict {
            Some(Ok(cause)) => {
                warn!(error = %lost, "the coordinator left without a last word");
                Ok(exit_code(cause))
            }
            Some(Err(failure)) => Err(failure),
            None => Err(lost),
        }
    }

    async fn report(&self, report: Report) {
        self.reporter.send(report.of(self.generation)).await;
    }
}

fn exit_code(cause: Cause) -> u8 {
    match cause {
        Cause::Completed => exit::OK,
        Cause::Stopped => exit::STOPPED,
        Cause::NonFinite => exit::NON_FINITE,
        Cause::Regroup => unreachable!("invariant: regrouping is no verdict"),
    }
}
