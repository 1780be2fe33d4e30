//! The life of a worker: join, prepare, train, end.
//!
//! ```text
//! open session -> welcome -> fingerprint -> [assignment -> prepare -> ready -> begin -> train -> finished] -> shutdown
//! ```
//!
//! The agent runs on the async runtime and never touches a tensor: preparing and training happen on
//! threads of their own. It listens to the coordinator all the while, so an order to end reaches a
//! worker in whatever it is doing.

mod prepare;
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
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use self::prepare::{Job, Prepared};
use self::training::Ended;
use crate::model::Device;
use crate::ring::RingServer;
use crate::session::{self, Computed, Introduction, Order, Orders, Reporter};
use crate::train::{Cause, Control, Phase, Report};

/// How long a worker that has ended waits for the coordinator's last word.
const LAST_WORD: Duration = Duration::from_secs(120);
/// Reports of the trainer that wait for the agent.
const QUEUE: usize = 256;

/// What a worker is told on its command line.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the coordinator is.
    pub coordinator: String,
    /// How long to try to reach it.
    pub patience: Duration,
    /// Who this worker is.
    pub who: Introduction,
    /// Where the tensors live.
    pub device: Device,
}

/// What happens inside the worker.
enum Event {
    Prepared(Result<Box<Prepared>, Failure>),
    Ended(Box<Ended>),
}

/// Joins a job and works in it until it ends; gives the exit code.
pub async fn run(settings: Settings, ring: RingServer, shutdown: Shutdown) -> Result<u8, Failure> {
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
        control: Arc::default(),
        reporter,
        generation: Generation::default(),
        prepared: None,
        verdict: None,
        last_word: None,
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
    generation: Generation,
    prepared: Option<Box<Prepared>>,
    /// How this worker's training ended, once it has.
    verdict: Option<Result<Cause, Failure>>,
    /// When a worker that has ended stops waiting for the coordinator.
    last_word: Option<Instant>,
    events: mpsc::Sender<Event>,
    reports: mpsc::Sender<Report>,
}

impl Agent {
    async fn live(
        mut self,
        mut orders: Orders,
        mut inbox: mpsc::Receiver<Event>,
        mut outbox: mpsc::Receiver<Report>,
        shutdown: Shutdown,
    ) -> Result<u8, Failure> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stop_requested = false;
        loop {
            tokio::select! {
                // Reports come before orders, so that none is left behind when the last order arrives.
                biased;
                Some(report) = outbox.recv() => self.report(report).await,
                Some(event) = inbox.recv() => self.on_event(event).await,
                order = orders.next() => match order {
                    Ok(Order::Shutdown { reason, exit_code }) => {
                        info!(reason, exit_code, "the coordinator ends this worker");
                        self.control.abandon();
                        return Ok(exit_code);
                    }
                    Ok(Order::Drop(drop)) => self.learn(drop).await,
                    Ok(order) => self.on_order(order),
                    Err(error) => return self.without_coordinator(error.into()),
                },
                request = shutdown.requested(), if !stop_requested => {
                    stop_requested = true;
                    let reason = request.reason;
                    info!(reason, "stop requested: the job ends at the next step boundary, with a checkpoint");
                    self.control.stop_after_step(true);
                }
                _ = shutdown.immediate() => return Ok(exit::INTERRUPTED),
                _ = heartbeat.tick() => {
                    if self.last_word.is_some_and(|deadline| Instant::now() > deadline) {
                        warn!("the coordinator did not end this worker in time");
                        return self.verdict.map_or(Ok(exit::FAILURE), |it| it.map(exit_code));
                    }
                    let (position, phase) = (self.control.position(), self.control.phase());
                    self.report(Report::Heartbeat { position, phase }).await;
                }
            }
        }
    }

    fn on_order(&mut self, order: Order) {
        match order {
            Order::Prepare(assignment) => {
                info!(
                    generation = %assignment.generation,
                    rank = assignment.rank.0,
                    world = assignment.roster.len(),
                    position = %assignment.position,
                    "preparing"
                );
                self.generation = assignment.generation;
                self.control.enter(Phase::Prepare);
                // Whoever is ready knows them.
                assignment.drops.iter().for_each(|drop| self.control.learn(*drop));
                let (job, ring, events) =
                    (Arc::clone(&self.job), Arc::clone(&self.ring), self.events.clone());
                tokio::spawn(async move {
                    let prepared = job.prepare(assignment, &ring).await;
                    // Nobody listens when the agent has ended meanwhile; then this does not matter.
                    let _ = events.send(Event::Prepared(prepared.map(Box::new))).await;
                });
            }
            Order::Begin(generation) if generation == self.generation => self.begin(),
            Order::Begin(generation) => {
                warn!(%generation, "told to begin another generation; ignored")
            }
            Order::StopAfterStep { checkpoint, reason } => {
                info!(reason, checkpoint, "stopping at the next step boundary");
                self.control.stop_after_step(checkpoint);
            }
            Order::Drop(_) | Order::Shutdown { .. } => {
                unreachable!("invariant: handled by the caller")
            }
        }
    }

    async fn learn(&mut self, drop: ManualDrop) {
        let ManualDrop { number, divide_by, .. } = drop;
        info!(number, divide_by, "the rate is to drop as soon as all ranks know it");
        self.control.learn(drop);
        self.report(Report::DropKnown { number }).await;
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Prepared(Ok(prepared)) => {
                self.control.enter(Phase::Idle);
                let state_digest = prepared.state_digest.clone();
                self.prepared = Some(prepared);
                self.report(Report::Ready { state_digest }).await;
            }
            Event::Prepared(Err(failure)) => {
                self.fail(None, failure, true).await;
            }
            Event::Ended(ended) => self.on_ended(*ended).await,
        }
    }

    fn begin(&mut self) {
        let Some(prepared) = self.prepared.take() else {
            warn!("told to begin before being ready; ignored");
            return;
        };
        info!(generation = %self.generation, "training begins");
        let (events, job) = (self.events.clone(), Arc::clone(&self.job));
        let (control, reports) = (Arc::clone(&self.control), self.reports.clone());
        training::start(job, *prepared, control, reports, move |ended| {
            let _ = events.blocking_send(Event::Ended(Box::new(ended)));
        });
    }

    async fn on_ended(&mut self, ended: Ended) {
        self.control.enter(Phase::Idle);
        match ended.outcome {
            Ok((ending, state_digest)) => {
                let (position, cause) = (ending.position, ending.cause);
                info!(?cause, %position, detail = ending.detail, state_digest, "training ended");
                let detail = ending.detail;
                self.report(Report::Finished { position, cause, detail, state_digest }).await;
                self.conclude(Ok(cause));
            }
            Err(error) => {
                let blame = error.blame().map(str::to_owned);
                // A broken ring is a symptom; the lost worker is what the run's exit code tells.
                let own_fault = blame.is_none();
                self.fail(blame, error.into(), own_fault).await;
            }
        }
    }

    async fn fail(&mut self, blame: Option<String>, failure: Failure, own_fault: bool) {
        let error = failure.to_string();
        error!(error, blame, "this worker leaves its generation");
        let position = self.control.position();
        let exit_code = if own_fault { failure.code() } else { exit::OK };
        self.report(Report::Failed { position, blame, error, exit_code }).await;
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
    }
}
