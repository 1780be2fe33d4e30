//! One call to one coordinator, from hello to its end.

#[cfg(test)]
mod hostile;

use std::time::Duration;

use convoy_common::config::RunConfig;
use convoy_common::ids::{Lineage, Position, Rank, Reached, Term};
use convoy_common::rpc::{self, Address, CONTROL_MESSAGE_LIMIT, Pause};
use convoy_common::schedule::ManualDrop;
use convoy_common::{exit, pb};
use pb::coordinator_client::CoordinatorClient;
use pb::coordinator_message::Kind as Wire;
use pb::worker_message::Kind;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::info;

use super::{Assignment, Introduction, Order, Resume, SessionError, Welcome, refusal_code};
use crate::ring::Member;

/// Reports that wait for the network.
const QUEUE: usize = 1024;

/// The receiving half, with the address for its errors.
#[derive(Debug)]
pub(super) struct Orders {
    url: String,
    stream: tonic::Streaming<pb::CoordinatorMessage>,
}

/// The sending half; clones share the line.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    to: mpsc::Sender<pb::WorkerMessage>,
}

/// One call that was taken.
#[derive(Debug)]
pub struct Line {
    /// What the coordinator said first.
    pub welcome: Welcome,
    pub(super) orders: Orders,
    pub(super) reporter: Reporter,
}

/// Joins the job at `url` and waits until the coordinator has taken or refused this worker.
///
/// Connecting is tried again until `patience` has passed, so that workers and coordinator can be
/// started in any order.
///
/// # Errors
/// [`SessionError`]
pub async fn open(url: &str, who: Introduction, patience: Duration) -> Result<Line, SessionError> {
    let unreachable = |source| SessionError::Unreachable { url: url.to_owned(), source };
    let address: Address = url.parse().map_err(unreachable)?;
    let (until, mut pause) = (Instant::now() + patience, Pause::default());
    let line = loop {
        let left = until.saturating_duration_since(Instant::now());
        let channel = rpc::connect("the coordinator", &address, left).await.map_err(unreachable)?;
        match attend(channel, url, pb::Hello::from(who.clone()), patience).await {
            // One that still opens its run.
            Err(SessionError::Lost { .. }) if pause.wait(until).await => {}
            called => break called?,
        }
    };
    info!(run_id = line.welcome.run_id, run = line.welcome.config.run.name, "joined the job");
    Ok(line)
}

/// One attempt to reach the coordinator at `address`, within `patience` for each of its two halves.
pub(super) async fn call(
    address: &Address,
    hello: pb::Hello,
    patience: Duration,
) -> Result<Line, SessionError> {
    let url = format!("http://{address}");
    let unreachable = |source| SessionError::Unreachable { url: url.clone(), source };
    let channel = rpc::connect("the coordinator", address, patience).await.map_err(unreachable)?;
    attend(channel, &url, hello, patience).await
}

async fn attend(
    channel: Channel,
    url: &str,
    hello: pb::Hello,
    patience: Duration,
) -> Result<Line, SessionError> {
    let (to, queue) = mpsc::channel(QUEUE);
    let reporter = Reporter { to };
    reporter.send(pb::WorkerMessage { kind: Some(Kind::Hello(hello)) });
    let silent = || SessionError::Silent { url: url.to_owned(), after: patience };
    let mut client = CoordinatorClient::new(channel)
        .max_encoding_message_size(CONTROL_MESSAGE_LIMIT)
        .max_decoding_message_size(CONTROL_MESSAGE_LIMIT);
    let response = timeout(patience, client.attend(ReceiverStream::new(queue)))
        .await
        .map_err(|_| silent())?
        .map_err(|status| SessionError::Lost {
            url: url.to_owned(),
            detail: status.message().to_owned(),
        })?;
    let mut orders = Orders { url: url.to_owned(), stream: response.into_inner() };
    let welcome = timeout(patience, orders.welcome()).await.map_err(|_| silent())??;
    Ok(Line { welcome, orders, reporter })
}

impl Orders {
    /// Where they come from.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The next order; it has no deadline of its own, because the call's end is noticed.
    pub(super) async fn next(&mut self) -> Result<Order, SessionError> {
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
            Wire::TakeCheckpoint(pb::TakeCheckpoint {}) => Ok(Order::TakeCheckpoint),
            Wire::Probe(it) => {
                let members = it.members.into_iter().map(|it| self.member(it));
                Ok(Order::Probe { number: it.number, members: members.collect::<Result<_, _>>()? })
            }
            Wire::Pulse(pb::Pulse {}) => Ok(Order::Pulse),
            Wire::Adopted(it) => {
                let generation =
                    it.generation.ok_or_else(|| self.protocol("an adoption of no generation"))?;
                let drops = it.directives.into_iter().map(|it| self.drop(it));
                let drops = drops.collect::<Result<_, _>>()?;
                Ok(Order::Adopted { generation: generation.into(), drops })
            }
            Wire::StartAfresh(it) => Ok(Order::StartAfresh { reason: it.reason }),
            Wire::Settled(it) => match (it.generation, it.position) {
                (Some(generation), Some(position)) => {
                    Ok(Order::Settled { generation: generation.into(), position: position.into() })
                }
                _ => Err(self.protocol("an unknown checkpoint is settled")),
            },
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
                let (run_id, record_digest) = (it.run_id, it.record_digest);
                Ok(Welcome { run_id, record_digest, term: Term(it.term), config })
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
    /// Puts a report on the line; false if the line takes no more because nobody reads it. When the
    /// line is gone nothing happens: [`Orders::next`] says so.
    pub(super) fn send(&self, report: pb::WorkerMessage) -> bool {
        !matches!(self.to.try_send(report), Err(mpsc::error::TrySendError::Full(_)))
    }
}
