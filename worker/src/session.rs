//! The worker's line to the coordinator: typed orders in, typed reports out.
//!
//! The wire types stop here. One bidirectional call carries everything; its end means that the
//! other side is gone, so a crash is known at once and not after a timeout.

use std::time::Duration;

use convoy_common::config::RunConfig;
use convoy_common::failure::Explain;
use convoy_common::ids::{Generation, Lineage, Position, Rank, Reached};
use convoy_common::schedule::ManualDrop;
use convoy_common::{PROTOCOL, VERSION, exit, pb, rpc};
use pb::coordinator_client::CoordinatorClient;
use pb::coordinator_message::Kind as Wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info};

use crate::ring::Member;

/// Reports that wait for the network; the trainer is held up only if this many are unsent.
const QUEUE: usize = 256;

/// What the coordinator tells a worker to do.
#[derive(Debug)]
pub enum Order {
    /// Load this state, open this ring, then report ready.
    Prepare(Assignment),
    /// Every rank is ready: train.
    Begin(Generation),
    /// End at a step boundary on which all ranks agree.
    StopAfterStep {
        /// Take a checkpoint there.
        checkpoint: bool,
        /// Why, for the log.
        reason: String,
    },
    /// Divide the rate, once all ranks know of it.
    Drop(ManualDrop),
    /// Leave the generation's ring at once and keep the state.
    EndGeneration {
        /// Which.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// The same at a step boundary on which all ranks agree.
    Regroup {
        /// Which.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// The same with a snapshot of the state.
    Pause {
        /// Which.
        generation: Generation,
        /// Why, for the log.
        reason: String,
    },
    /// Take a checkpoint, once all ranks know of the wish.
    TakeCheckpoint,
    /// Say which of these cannot be reached.
    Probe {
        /// Of the question, for the answer.
        number: u32,
        /// Who, and where.
        members: Vec<Member>,
    },
    /// End now.
    Shutdown {
        /// Why, for the log.
        reason: String,
        /// What this process exits with.
        exit_code: u8,
    },
}

/// One worker's place in a generation.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The generation to prepare for.
    pub generation: Generation,
    /// This worker's place in the roster.
    pub rank: Rank,
    /// All workers, in rank order.
    pub roster: Vec<Member>,
    /// The line of history that checkpoints belong to.
    pub lineage: Lineage,
    /// Where training goes on.
    pub start: Reached,
    /// What this worker begins with.
    pub resume: Resume,
    /// Take a checkpoint at the first boundary at which all ranks can.
    pub owes_checkpoint: bool,
    /// End where training would go on, with a checkpoint.
    pub stop: bool,
    /// Orders of the override log that the state does not hold yet.
    pub drops: Vec<ManualDrop>,
}

/// What a worker begins a generation with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The checkpoint of this path in the run's store; none: initial weights from the seed.
    Checkpoint(Option<String>),
    /// What it holds.
    Keep,
    /// What it holds and one step or evaluation, which that peer has had already.
    Redo(Member),
    /// What that peer holds.
    State(Member),
}

/// Who joins.
#[derive(Clone, Debug)]
pub struct Introduction {
    /// Unique within the job.
    pub name: String,
    /// host:port of the ring service, as peers reach it.
    pub ring_address: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Microbatches that compute at once.
    pub lanes: u32,
    /// Cores that this process may use; 0: not known.
    pub cores: u32,
    /// Digest of the config that this worker expects, if it was told one.
    pub expect_config: Option<String>,
    /// Whether its device multiplies bf16 in hardware.
    pub bf16_units: bool,
}

/// What the coordinator tells a worker that it takes.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The run's id.
    pub run_id: String,
    /// Digest of the run record, which names the run's checkpoints.
    pub record_digest: String,
    /// The resolved config.
    pub config: RunConfig,
}

/// Why there is no session (any more).
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Nobody answers there.
    #[error("the coordinator at {url} cannot be reached")]
    Unreachable {
        /// Where it should be.
        url: String,
        #[source]
        /// The last attempt's error.
        source: rpc::RpcError,
    },
    /// It answered, and does not want this worker.
    #[error("the coordinator at {url} refused this worker: {reason}")]
    Refused {
        /// Where it is.
        url: String,
        /// Its words.
        reason: String,
        /// Its advice.
        hint: String,
        /// Whether trying again may help is in this.
        exit_code: u8,
    },
    /// The line broke.
    #[error("the connection to the coordinator at {url} was lost: {detail}")]
    Lost {
        /// Where it was.
        url: String,
        /// What the connection said last.
        detail: String,
    },
    /// It said something that this version does not understand.
    #[error("the coordinator at {url} sent what this version does not understand: {detail}")]
    Protocol {
        /// Where it is.
        url: String,
        /// What was wrong.
        detail: String,
    },
    /// It took the call and then said nothing.
    #[error("the coordinator at {url} did not answer within {}", humantime::format_duration(*.after))]
    Silent {
        /// Where it is.
        url: String,
        /// How long this worker waited.
        after: Duration,
    },
}

impl Explain for SessionError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { .. } => {
                "start it with `convoy serve CONFIG`, and check the address and the firewall".to_owned()
            }
            Self::Refused { hint, .. } => hint.clone(),
            Self::Lost { .. } => {
                "see the coordinator's log; launching the same config again resumes from the last checkpoint"
                    .to_owned()
            }
            Self::Protocol { .. } => "run the same version of Convoy everywhere".to_owned(),
            Self::Silent { .. } => {
                "check that a Convoy coordinator, and not something else, listens there".to_owned()
            }
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Refused { exit_code, .. } => *exit_code,
            Self::Protocol { .. } => exit::BAD_INPUT,
            _ => exit::UNAVAILABLE,
        }
    }
}

fn refusal_code(told: u32) -> u8 {
    u8::try_from(told).ok().filter(|it| *it != 0).unwrap_or(exit::BAD_INPUT)
}

/// The receiving half, with the address for its errors.
#[derive(Debug)]
pub struct Orders {
    url: String,
    stream: tonic::Streaming<pb::CoordinatorMessage>,
}

/// The sending half; clones share the line.
#[derive(Clone, Debug)]
pub struct Reporter {
    to: mpsc::Sender<pb::WorkerMessage>,
}

/// Joins the job at `url` and waits until the coordinator has taken or refused this worker.
///
/// Connecting is tried again until `patience` has passed, so that workers and coordinator can be
/// started in any order.
pub async fn open(
    url: &str,
    who: Introduction,
    patience: Duration,
) -> Result<(Welcome, Orders, Reporter), SessionError> {
    let unreachable = |source| SessionError::Unreachable { url: url.to_owned(), source };
    let address = url.parse().map_err(unreachable)?;
    let channel = rpc::connect("the coordinator", &address, patience).await.map_err(unreachable)?;
    let (to, queue) = mpsc::channel(QUEUE);
    let reporter = Reporter { to };
    reporter.send(who).await;
    let silent = || SessionError::Silent { url: url.to_owned(), after: patience };
    let mut client = CoordinatorClient::new(channel);
    let response = tokio::time::timeout(patience, client.attend(ReceiverStream::new(queue)))
        .await
        .map_err(|_| silent())?
        .map_err(|status| SessionError::Lost {
            url: url.to_owned(),
            detail: status.message().to_owned(),
        })?;
    let mut orders = Orders { url: url.to_owned(), stream: response.into_inner() };
    let welcome =
        tokio::time::timeout(patience, orders.welcome()).await.map_err(|_| silent())??;
    info!(run_id = welcome.run_id, run = welcome.config.run.name, "joined the job");
    Ok((welcome, orders, reporter))
}

impl Orders {
    /// The next order; it has no deadline of its own, because the call's end is noticed.
    pub async fn next(&mut self) -> Result<Order, SessionError> {
        match self.receive().await? {
            Wire::Assignment(it) => self.assignment(it).map(Order::Prepare),
            Wire::Begin(it) => {
                let generation =
                    it.generation.ok_or_else(|| self.protocol("begin without a generation"))?;
                Ok(Order::Begin(generation.into()))
            }
            Wire::StopAfterStep(it) => {
                Ok(Order::StopAfterStep { checkpoint: it.checkpoint, reason: it.reason })
            }
            Wire::Directive(it) => self.drop(it).map(Order::Drop),
            Wire::EndGeneration(it) => {
                let generation =
                    it.generation.ok_or_else(|| self.protocol("an end of no generation"))?;
                Ok(Order::EndGeneration { generation: generation.into(), reason: it.reason })
            }
            Wire::Regroup(it) => {
                let generation =
                    it.generation.ok_or_else(|| self.protocol("a regroup of no generation"))?;
                Ok(Order::Regroup { generation: generation.into(), reason: it.reason })
            }
            Wire::Pause(it) => {
                let generation =
                    it.generation.ok_or_else(|| self.protocol("a pause of no generation"))?;
                Ok(Order::Pause { generation: generation.into(), reason: it.reason })
            }
            Wire::TakeCheckpoint(_) => Ok(Order::TakeCheckpoint),
            Wire::Probe(it) => {
                let members = it.members.into_iter().map(|it| self.member(it));
                Ok(Order::Probe { number: it.number, members: members.collect::<Result<_, _>>()? })
            }
            Wire::Shutdown(it) => Ok(Order::Shutdown {
                reason: it.reason,
                exit_code: u8::try_from(it.exit_code).unwrap_or(exit::FAILURE),
            }),
            Wire::Refused(it) => Err(SessionError::Refused {
                url: self.url.clone(),
                reason: it.reason,
                hint: it.hint,
                exit_code: refusal_code(it.exit_code),
            }),
            Wire::Welcome(_) => Err(self.protocol("a second welcome")),
        }
    }

    async fn welcome(&mut self) -> Result<Welcome, SessionError> {
        match self.receive().await? {
            Wire::Welcome(it) => {
                let config = RunConfig::from_json(&it.config_json)
                    .map_err(|error| self.protocol(&format!("the config: {error}")))?;
                Ok(Welcome { run_id: it.run_id, record_digest: it.record_digest, config })
            }
            Wire::Refused(it) => Err(SessionError::Refused {
                url: self.url.clone(),
                reason: it.reason,
                hint: it.hint,
                exit_code: refusal_code(it.exit_code),
            }),
            Wire::Shutdown(it) => {
                Err(SessionError::Lost { url: self.url.clone(), detail: it.reason })
            }
            _ => Err(self.protocol("an order before the welcome")),
        }
    }

    async fn receive(&mut self) -> Result<Wire, SessionError> {
        let lost = |detail: String| SessionError::Lost { url: self.url.clone(), detail };
        match self.stream.message().await {
            Ok(Some(pb::CoordinatorMessage { kind: Some(kind) })) => Ok(kind),
            Ok(Some(pb::CoordinatorMessage { kind: None })) => {
                Err(self.protocol("an order of unknown kind"))
            }
            Ok(None) => Err(lost("it closed the call".to_owned())),
            Err(status) => Err(lost(status.message().to_owned())),
        }
    }

    fn assignment(&self, it: pb::Assignment) -> Result<Assignment, SessionError> {
        let missing = |field: &str| self.protocol(&format!("an assignment without {field}"));
        let roster: Vec<Member> =
            it.roster.into_iter().map(|it| self.member(it)).collect::<Result<_, _>>()?;
        let peer = it.peer.map(|it| self.member(it)).transpose()?;
        let manifest = (!it.manifest.is_empty()).then_some(it.manifest);
        let resume = match (pb::Resume::try_from(it.resume), peer) {
            (Ok(pb::Resume::Checkpoint), _) => Resume::Checkpoint(manifest),
            (Ok(pb::Resume::Keep), _) => Resume::Keep,
            (Ok(pb::Resume::Redo), Some(peer)) => Resume::Redo(peer),
            (Ok(pb::Resume::State), Some(peer)) => Resume::State(peer),
            _ => return Err(missing("what to begin with")),
        };
        let position = it.position.ok_or_else(|| missing("a position"))?.into();
        if it.rank as usize >= roster.len() {
            return Err(self.protocol("a rank beyond the roster"));
        }
        let drops = it.directives.into_iter().map(|it| self.drop(it)).collect::<Result<_, _>>()?;
        Ok(Assignment {
            drops,
            generation: it.generation.ok_or_else(|| missing("a generation"))?.into(),
            rank: Rank(it.rank),
            roster,
            lineage: Lineage(it.lineage),
            start: Reached { position, evaluated: it.evaluated },
            resume,
            owes_checkpoint: it.owes_checkpoint,
            stop: it.stop,
        })
    }

    fn member(&self, it: pb::Member) -> Result<Member, SessionError> {
        let address = it
            .ring_address
            .parse()
            .map_err(|error| self.protocol(&format!("the ring address of {}: {error}", it.name)))?;
        Ok(Member { name: it.name, address })
    }

    fn drop(&self, it: pb::Directive) -> Result<ManualDrop, SessionError> {
        if it.number == 0 || !it.divide_by.is_finite() || it.divide_by <= 1.0 {
            return Err(self.protocol("a drop of the rate that is none"));
        }
        let at = it.at.map(Position::from);
        Ok(ManualDrop { number: it.number, divide_by: it.divide_by, at })
    }

    fn protocol(&self, detail: &str) -> SessionError {
        SessionError::Protocol { url: self.url.clone(), detail: detail.to_owned() }
    }
}

impl Reporter {
    /// Puts a report on the line. When the line is gone nothing happens: [`Orders::next`] says so.
    pub async fn send(&self, report: impl Into<pb::WorkerMessage>) {
        if self.to.send(report.into()).await.is_err() {
            debug!("a report was dropped because the line to the coordinator is gone");
        }
    }

    /// The same from a thread outside the runtime.
    pub fn send_blocking(&self, report: impl Into<pb::WorkerMessage>) {
        if self.to.blocking_send(report.into()).is_err() {
            debug!("a report was dropped because the line to the coordinator is gone");
        }
    }
}

/// What this worker computes under the run's numerics; the coordinator compares it.
#[derive(Clone, Debug)]
pub struct Computed {
    /// As [`crate::model::fingerprint()`] gives it.
    pub fingerprint: String,
}

impl From<Computed> for pb::WorkerMessage {
    fn from(it: Computed) -> Self {
        let numerics = pb::Numerics { fingerprint: it.fingerprint };
        Self { kind: Some(pb::worker_message::Kind::Numerics(numerics)) }
    }
}

/// Which peers this worker cannot reach.
#[derive(Clone, Debug)]
pub struct Probed {
    /// Of the question.
    pub number: u32,
    /// Their names.
    pub unreachable: Vec<String>,
}

impl From<Probed> for pb::WorkerMessage {
    fn from(it: Probed) -> Self {
        let probed = pb::Probed { number: it.number, unreachable: it.unreachable };
        Self { kind: Some(pb::worker_message::Kind::Probed(probed)) }
    }
}

impl From<Introduction> for pb::WorkerMessage {
    fn from(who: Introduction) -> Self {
        let hello = pb::Hello {
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
            name: who.name,
            ring_address: who.ring_address,
            device: who.device,
            lanes: who.lanes,
            pid: std::process::id(),
            expect_config: who.expect_config.unwrap_or_default(),
            cores: who.cores,
            bf16_units: who.bf16_units,
        };
        Self { kind: Some(pb::worker_message::Kind::Hello(hello)) }
    }
}
