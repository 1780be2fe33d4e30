//! The life of a worker: join, prepare, train, end.
//!
//! ```text
//! open session -> welcome -> fingerprint -> [assignment -> prepare -> ready -> begin -> train -> finished] -> shutdown
//!                                              ^                                        |
//!                                              '------- left, with the state <----------'
//! ```
//!
//! A coordinator that is lost does not end it either: training goes on, and the session looks for the
//! next one ([`absence`]).
//!
//! A generation that ends, in agreement or because something broke, is not the end of the worker:
//! the state goes back into the vault, and the next assignment says what to do with it.
//!
//! The agent runs on the async runtime and never touches a tensor: preparing and training happen on
//! threads of their own. It listens to the coordinator all the while, so an order to end reaches a
//! worker in whatever it is doing.

mod absence;
mod drain;
mod orders;
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
use convoy_common::shutdown::Shutdown;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{error, info, warn};

use self::drain::Drain;
use self::prepare::{Job, Prepared};
use self::setback::Setback;
use self::training::Ended;
use crate::model::Device;
use crate::peer::Vault;
use crate::ring::{Ring, RingServer};
use crate::session::{self, Assignment, Computed, Introduction, Link, News, Order, Probed};
use crate::train::{Cause, Control, Fault, Mishap, Phase, Report, Uploader};

/// How long a worker that has ended waits for the coordinator's last word, beyond what the last
/// checkpoint may take: the coordinator waits for the other workers' parts and the manifest.
const LAST_WORD: Duration = Duration::from_secs(360);
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
    /// The same for its uploads.
    pub mishap: Option<Mishap>,
}

/// What happens inside the worker.
enum Event {
    Prepared(Generation, Result<Box<Prepared>, Setback>),
    Ended(Box<Ended>),
    Probed(Probed),
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
    let line = tokio::select! {
        opened = opening => opened?,
        _ = shutdown.requested() => return Ok(exit::STOPPED),
    };
    let (events, inbox) = mpsc::channel(1);
    let (reports, outbox) = mpsc::channel(QUEUE);
    let job = Arc::new(Job::open(line.welcome.config.clone(), &settings).await?);
    let fingerprint = job.fingerprint().await?;
    info!(fingerprint, "computed the numerics fingerprint");
    let (address, run) = (settings.coordinator.parse()?, Arc::clone(&job.catalogue));
    let mut link = Link::new(line, address, settings.who.clone(), run, fingerprint.clone());
    link.report(Computed { fingerprint: fingerprint.clone() }.into());
    let agent = Agent {
        job,
        ring: Arc::new(ring),
        vault,
        control: Arc::default(),
        link,
        fingerprint,
        generation: Generation::default(),
        place: None,
        stage: Stage::Idle,
        left: false,
        is_over: false,
        starts_afresh: false,
        newest_drop: 0,
        told_to_stop: None,
        told_to_pause: None,
        asked_to_leave: None,
        gives_up: None,
        verdict: None,
        last_word: None,
        uploader: None,
        drain: Drain::default(),
        events,
        reports,
    };
    agent.live(inbox, outbox, shutdown).await
}

struct Agent {
    job: Arc<Job>,
    ring: Arc<RingServer>,
    control: Arc<Control>,
    link: Link,
    /// What this machine computes under the run's numerics.
    fingerprint: String,
    vault: Arc<Vault>,
    generation: Generation,
    /// Its place in that generation, if it has had one.
    place: Option<Arc<Assignment>>,
    stage: Stage,
    /// The coordinator knows that this worker is out of the generation's ring.
    left: bool,
    /// The coordinator has ended the generation.
    is_over: bool,
    /// It is to begin anew as soon as no trainer has its state.
    starts_afresh: bool,
    /// Of the override log, that it knows.
    newest_drop: u32,
    /// Why the coordinator wants a stop, if it does.
    told_to_stop: Option<String>,
    /// Why the coordinator wants this generation to pause, if it does.
    told_to_pause: Option<String>,
    /// By whom or what this worker was asked to go, and when.
    asked_to_leave: Option<(String, Instant)>,
    /// No coordinator came: until then all ranks may come to an end together.
    gives_up: Option<Instant>,
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
        mut inbox: mpsc::Receiver<Event>,
        mut outbox: mpsc::Receiver<(Generation, Report)>,
        shutdown: Shutdown,
    ) -> Result<u8, Failure> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_INTERVAL);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.link.is_searching() {
                self.link.stands(self.standing().as_ref());
            }
            tokio::select! {
                // Reports come before orders, so that none is left behind when the last order arrives.
                biased;
                Some((generation, report)) = outbox.recv() => self.pass_on(generation, report),
                Some(event) = inbox.recv() => {
                    self.on_event(event);
                    if let Some(end) = self.deserted_end() {
                        return end;
                    }
                }
                news = self.link.next() => match news {
                    News::Order(Order::Shutdown { reason, exit_code }) => {
                        info!(reason, exit_code, "the coordinator ends this worker");
                        self.control.abandon();
                        return Ok(exit_code);
                    }
                    News::Order(order) => self.on_order(order),
                    News::Refused(error) => return self.without_coordinator(error.into()),
                    News::Lost(error) => {
                        if let Some(Err(_)) = self.verdict {
                            return self.without_coordinator(error.into());
                        }
                        self.on_lost(&error);
                    }
                    News::Silent(silence) => self.on_silence(silence),
                    News::Back(back) => self.on_back(*back),
                },
                request = shutdown.requested(), if self.asked_to_leave.is_none() => {
                    let reason = request.reason;
                    info!(reason, "asked to leave: the others go on without this worker");
                    self.drain.begin(self.job.config.cluster.drain_grace);
                    self.asked_to_leave = Some((reason.clone(), Instant::now()));
                    self.report(Report::Leaving { reason });
                }
                _ = shutdown.immediate() => return Ok(exit::INTERRUPTED),
                () = self.drain.is_over() => return Ok(self.go_now()),
                _ = heartbeat.tick() => {
                    if let Some(since) = self.link.away_since() {
                        if let Some(end) = self.look_at_absence(since).await {
                            return end;
                        }
                        continue;
                    }
                    if self.last_word.is_some_and(|deadline| Instant::now() > deadline) {
                        warn!("the coordinator did not end this worker in time");
                        return self.verdict.map_or(Ok(exit::FAILURE), |it| it.map(exit_code));
                    }
                    self.report(Report::Heartbeat(self.beat()));
                }
            }
        }
    }

    /// Says, once in a generation, that this worker is out of its ring and what it holds.
    fn leave(&mut self, blame: Option<String>, error: String) {
        if self.left || matches!(self.verdict, Some(Err(_))) {
            return;
        }
        self.left = true;
        // Whatever it had come to is to be gone on from.
        (self.verdict, self.last_word) = (None, None);
        self.control.enter(Phase::Idle);
        self.say_left(false, blame, error);
    }

    fn on_event(&mut self, event: Event) {
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
                        self.report(Report::Ready { state_digest });
                    }
                    Err(setback) => self.set_back(setback),
                }
            }
            Event::Probed(probed) => self.link.report(probed.into()),
            Event::Ended(ended) => self.on_ended(*ended),
        }
    }

    fn on_ended(&mut self, ended: Ended) {
        self.control.enter(Phase::Idle);
        self.stage = Stage::Idle;
        self.uploader = ended.uploader;
        if self.starts_afresh {
            // What it came to is of no use to anybody.
            return self.begin_anew();
        }
        let holds = ended.remains.is_some();
        if let Some(remains) = ended.remains {
            self.vault.put(remains);
        }
        match ended.outcome {
            Ok((ending, _)) if ending.cause == Cause::Regroup => {
                info!(position = %ending.position, "left the generation in agreement");
                self.left = true;
                self.say_left(true, None, String::new());
            }
            Ok((ending, state_digest)) => {
                let (position, cause) = (ending.position, ending.cause);
                info!(?cause, %position, detail = ending.detail, state_digest, "training ended");
                let detail = ending.detail;
                self.report(Report::Finished { position, cause, detail, state_digest });
                self.conclude(Ok(cause));
                if self.is_over {
                    self.leave(None, String::new());
                }
            }
            Err(error) => {
                let mut setback = Setback::from(error);
                setback.goes_on &= holds;
                self.set_back(setback);
            }
        }
    }

    /// Something keeps this worker from its generation.
    fn set_back(&mut self, setback: Setback) {
        let Setback { failure, blame, goes_on } = setback;
        self.stage = Stage::Idle;
        if !goes_on {
            return self.fail(failure);
        }
        let error = failure.to_string();
        if self.is_over {
            info!(error, "out of the generation");
        } else {
            warn!(error, blame, "the generation is broken; this worker keeps its state");
        }
        self.leave(blame, error);
    }

    fn fail(&mut self, failure: Failure) {
        let error = failure.to_string();
        error!(error, "this worker cannot go on");
        let (position, exit_code) = (self.control.position(), failure.code());
        self.report(Report::Failed { position, error, exit_code });
        self.conclude(Err(failure));
    }

    fn conclude(&mut self, verdict: Result<Cause, Failure>) {
        self.verdict = Some(verdict);
        let last_checkpoint = self.job.config.checkpoint.final_timeout;
        self.last_word = Some(Instant::now() + last_checkpoint + LAST_WORD);
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

    fn report(&mut self, report: Report) {
        self.link.report(report.of(self.generation));
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
