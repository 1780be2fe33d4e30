//! The ring service of a worker: one for its whole life, through which the left neighbours of many
//! generations come one after another.
//!
//! A stream is admitted by its first frame alone, which must name the generation, the world size
//! and the rank that are expected at this moment. A neighbour that is ahead of this worker is asked
//! to come back; one that is behind is refused for good. Frames need no generation of their own: a
//! stream belongs to one.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use convoy_common::ids::{Generation, Rank};
use convoy_common::pb::{self, ring_server};
use convoy_common::rpc::{self, Address, RpcError};
use futures::{Stream, stream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

use super::link::{Door, Inbox, inbox, pump};
use super::parcel::{Arrival, MAX_CHUNK_BYTES, Receipt};

/// How long a new stream may take to say who it is.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// A worker's ring service; dropping it ends the service and every stream.
#[derive(Debug)]
pub struct RingServer {
    address: SocketAddr,
    expected: Arc<watch::Sender<Option<Expected>>>,
    stop: CancellationToken,
}

/// Whom the service lets in.
#[derive(Clone)]
struct Expected {
    generation: Generation,
    world: u32,
    from: Rank,
    door: Door,
    /// Whether the left neighbour has come.
    taken: Arc<AtomicBool>,
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "generation {} from rank {} of {}", self.generation, self.from, self.world)
    }
}

impl RingServer {
    /// Serves on `address` in the background; returns the address that it became.
    ///
    /// # Errors
    /// As [`rpc::bind`].
    pub async fn bind(address: &Address) -> Result<(SocketAddr, Self), RpcError> {
        Self::bind_beside(address, Routes::default()).await
    }

    /// The same with other services on the same address.
    ///
    /// # Errors
    /// As [`rpc::bind`].
    pub async fn bind_beside(
        address: &Address,
        others: Routes,
    ) -> Result<(SocketAddr, Self), RpcError> {
        let (bound, incoming) = rpc::bind(address).await?;
        let expected = Arc::new(watch::Sender::new(None));
        let stop = CancellationToken::new();
        let service = ring_server::RingServer::new(Service {
            expected: expected.clone(),
            stop: stop.clone(),
        })
        .max_decoding_message_size(MAX_CHUNK_BYTES + rpc::RING_MESSAGE_SLACK);
        let serving = rpc::server()
            .add_routes(others)
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(error = rpc::innermost(&error), "ring service ended");
            }
        });
        tracing::debug!(address = %bound, "ring service listens");
        Ok((bound, Self { address: bound, expected, stop }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the left neighbour of `rank` in this generation in, and nobody else from now on.
    pub fn expect(&self, generation: Generation, world: u32, rank: Rank) -> Inbox {
        let (door, inbox) = inbox();
        let from = Rank((rank.0 + world - 1) % world);
        let taken = Arc::default();
        self.expected.send_replace(Some(Expected { generation, world, from, door, taken }));
        inbox
    }
}

impl Drop for RingServer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Why a stream is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// This worker is not as far as the caller: come back.
    #[error("generation {asked} is not expected yet")]
    NotYet { asked: Generation },
    /// The caller's generation is over.
    #[error("generation {asked} is over; this worker is in {current}")]
    Stale { asked: Generation, current: Generation },
    #[error("rank {asked} of {asked_world} came where rank {rank} of {world} is expected")]
    WrongRank { asked: Rank, asked_world: u32, rank: Rank, world: u32 },
    #[error("rank {rank} of generation {generation} is here already")]
    Twice { rank: Rank, generation: Generation },
    #[error("the stream did not begin with an Open frame")]
    NotOpened,
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::NotYet { .. } => Self::unavailable(text),
            Refusal::Stale { .. } | Refusal::Twice { .. } => Self::failed_precondition(text),
            Refusal::WrongRank { .. } | Refusal::NotOpened => Self::invalid_argument(text),
        }
    }
}

impl Expected {
    /// Lets the caller in, once.
    fn admit(expected: Option<&Self>, open: &pb::Open) -> Result<Door, Refusal> {
        let asked = Generation::from(open.generation.unwrap_or_default());
        let Some(it) = expected.filter(|it| it.generation >= asked) else {
            return Err(Refusal::NotYet { asked });
        };
        if it.generation > asked {
            return Err(Refusal::Stale { asked, current: it.generation });
        }
        if (it.from, it.world) != (Rank(open.from_rank), open.world_size) {
            return Err(Refusal::WrongRank {
                asked: Rank(open.from_rank),
                asked_world: open.world_size,
                rank: it.from,
                world: it.world,
            });
        }
        if it.taken.swap(true, Ordering::AcqRel) {
            return Err(Refusal::Twice { rank: it.from, generation: asked });
        }
        Ok(it.door.clone())
    }
}

/// The handlers.
struct Service {
    expected: Arc<watch::Sender<Option<Expected>>>,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl ring_server::Ring for Service {
    type FlowStream = ReceiverStream<Result<pb::Receipt, Status>>;

    async fn flow(
        &self,
        request: Request<Streaming<pb::Frame>>,
    ) -> Result<Response<Self::FlowStream>, Status> {
        let mut frames = request.into_inner();
        let first = timeout(OPEN_DEADLINE, frames.message()).await;
        let Ok(Some(pb::Frame { kind: Some(pb::frame::Kind::Open(open)) })) =
            first.map_err(|_| Refusal::NotOpened)?
        else {
            return Err(Refusal::NotOpened.into());
        };
        let door = Expected::admit(self.expected.borrow().as_ref(), &open).inspect_err(|it| {
            tracing::debug!(peer = open.from_name, reason = %it, "ring stream refused");
        })?;
        tracing::debug!(peer = open.from_name, "ring stream opened");
        let (answers, receipts) = mpsc::channel(2);
        let chunk_bytes = open.chunk_bytes as usize;
        let stop = self.stop.clone();
        tokio::spawn(async move {
            let arrivals = pin!(arrivals(chunk_bytes, frames));
            let last = tokio::select! {
                last = pump(arrivals, door) => last,
                () = stop.cancelled() => None,
            };
            let answer = match last {
                Some(Receipt::Delivered) => Ok(pb::receipt::Kind::Delivered(pb::Delivered {})),
                Some(Receipt::Abort(farewell)) => Ok(pb::receipt::Kind::Abort(farewell.into())),
                Some(Receipt::Lost { .. }) | None => Err(Status::aborted("the ring service ended")),
            };
            let answer = answer.map(|kind| pb::Receipt { kind: Some(kind) });
            // A caller that is gone needs no answer.
            let _ = answers.send(answer).await;
        });
        Ok(Response::new(ReceiverStream::new(receipts)))
    }
}

/// The stream's frames as arrivals, behind the one that says that it is open.
fn arrivals(chunk_bytes: usize, frames: Streaming<pb::Frame>) -> impl Stream<Item = Arrival> {
    use futures::StreamExt as _;
    let opened = stream::iter([Arrival::Opened { chunk_bytes }]);
    opened.chain(frames.map(|frame| match frame {
        Ok(frame) => Arrival::from(frame),
        Err(status) => Arrival::Lost { detail: describe(&status) },
    }))
}

/// A status as a person would say it.
pub(crate) fn describe(status: &Status) -> String {
    let text = match std::error::Error::source(status) {
        Some(source) => rpc::innermost(source),
        None => status.message().to_owned(),
    };
    if text.is_empty() { status.code().to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use convoy_common::ids::Term;

    use super::*;

    fn open(term: u64, from_rank: u32, world_size: u32) -> pb::Open {
        let generation = Generation { term: Term(term), counter: 1 };
        pb::Open {
            generation: Some(generation.into()),
            from_rank,
            world_size,
            ..pb::Open::default()
        }
    }

    fn expected(term: u64) -> Expected {
        let generation = Generation { term: Term(term), counter: 1 };
        let (door, _) = inbox();
        Expected { generation, world: 3, from: Rank(2), door, taken: Arc::default() }
    }

    #[test]
    fn only_the_expected_rank_of_the_expected_generation_is_let_in_and_only_once() {
        let now = expected(5);
        let admit = |open| Expected::admit(Some(&now), &open).map(drop);
        assert!(matches!(admit(open(6, 2, 3)), Err(Refusal::NotYet { .. })));
        assert!(matches!(admit(open(4, 2, 3)), Err(Refusal::Stale { .. })));
        assert!(matches!(admit(open(5, 1, 3)), Err(Refusal::WrongRank { .. })));
        assert!(matches!(admit(open(5, 2, 4)), Err(Refusal::WrongRank { .. })));
        assert_eq!(admit(open(5, 2, 3)), Ok(()));
        assert!(matches!(admit(open(5, 2, 3)), Err(Refusal::Twice { .. })));
    }

    #[test]
    fn before_anyone_is_expected_callers_are_asked_to_come_back() {
        let refusal = Expected::admit(None, &open(1, 0, 2)).map(drop).unwrap_err();
        assert_eq!(Status::from(refusal).code(), tonic::Code::Unavailable);
    }
}
