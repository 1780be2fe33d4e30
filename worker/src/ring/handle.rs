//! What a trainer holds of a ring: a handle to submit operations, and their results to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use convoy_common::config::Wire;
use convoy_common::ids::{Generation, Rank};
use convoy_common::rpc::Address;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::engine::{self, Command, Neighbours};
use super::grpc::Call;
use super::link::Link;
use super::operation::Done;
use super::parcel::{Arrival, MAX_CHUNK_BYTES};
use super::service::RingServer;
use super::terms::Terms;
use super::{RingError, numbers};

/// One worker of a roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// As logs and errors call it.
    pub name: String,
    /// Where its ring service listens.
    pub address: Address,
}

/// What a ring is made of.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The generation; streams of any other are refused.
    pub generation: Generation,
    /// This worker's place in the roster.
    pub rank: Rank,
    /// All workers in rank order.
    pub roster: Vec<Member>,
    /// Bytes of a chunk, alike on all ranks: a multiple of 4, at most 4 MiB.
    pub chunk_bytes: usize,
    /// An operation that did not move for so long has failed.
    ///
    /// A rank whose left neighbour says that it waits too allows it a fifth more, so that all ranks
    /// come to blame the one that hangs.
    pub timeout: Duration,
    /// A neighbour whose machine acknowledges nothing for so long is lost.
    pub silence: Duration,
    /// How long neighbours may take to come.
    pub connect_timeout: Duration,
}

/// What has gone over a rank's links.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Of numbers and blocks, or about to go.
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) chunks_sent: AtomicU64,
    pub(crate) chunks_received: AtomicU64,
}

/// A handle to one generation's ring; clones share it.
///
/// Operations are numbered in the order of submission, which must be the same on all ranks, as must
/// the points at which results are waited for. When every handle is dropped, the ring ends as by
/// [`Ring::shutdown`].
#[derive(Clone, Debug)]
pub struct Ring {
    /// Unbounded, so that submitting never blocks: each entry holds the caller's own data, and the
    /// caller waits for results.
    commands: mpsc::UnboundedSender<Command>,
    traffic: Arc<Traffic>,
    left: CancellationToken,
}

impl Ring {
    /// Joins the ring: returns once the right neighbour has accepted this rank and the left one has
    /// come. Neighbours may start at different times, so both are waited for.
    ///
    /// # Errors
    /// [`RingError::BadSettings`]; [`RingError::Unreachable`], [`RingError::Refused`] or
    /// [`RingError::NotJoined`] naming the neighbour.
    pub async fn open(settings: Settings, server: &RingServer) -> Result<Self, RingError> {
        settings.check()?;
        let Settings { generation, rank, chunk_bytes, connect_timeout, .. } = settings;
        let world = settings.roster.len() as u32;
        if world == 1 {
            return Ok(Self::start(&settings, None));
        }
        let neighbours = settings.neighbours();
        let mut inbox = server.expect(generation, world, rank);
        let until = Instant::now() + connect_timeout;
        let right = &settings.roster[((rank.0 + 1) % world) as usize];
        let call = Call {
            generation,
            from: rank,
            from_name: &settings.roster[rank.0 as usize].name,
            world,
            chunk_bytes,
            peer: &right.name,
            address: &right.address,
            silence: settings.silence,
        };
        let joined = async {
            let left = neighbours.left.clone();
            match timeout_at(until, inbox.arrivals.recv()).await {
                Ok(Some(Arrival::Opened { chunk_bytes: theirs })) if theirs == chunk_bytes => {
                    Ok(())
                }
                Ok(Some(Arrival::Opened { chunk_bytes: theirs })) => Err(RingError::OutOfStep {
                    peer: left,
                    detail: format!("its chunks are of {theirs} bytes, not of {chunk_bytes}"),
                }),
                Ok(_) => {
                    let detail = "its stream ended as it began".to_owned();
                    Err(RingError::PeerLost { peer: left, detail })
                }
                Err(_) => Err(RingError::NotJoined { peer: left, after: connect_timeout }),
            }
        };
        let ((out, receipts), ()) = tokio::try_join!(call.open(connect_timeout), joined)?;
        tracing::info!(%generation, %rank, world, left = neighbours.left, right = neighbours.right, "ring joined");
        Ok(Self::start(&settings, Some(Link { out, receipts, inbox })))
    }

    /// Starts the engine on a link; without one the ring is this rank alone.
    pub(crate) fn start(settings: &Settings, link: Option<Link>) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let traffic: Arc<Traffic> = Arc::default();
        let (settings, neighbours) = (settings.clone(), settings.neighbours());
        let left = CancellationToken::new();
        let token = left.clone();
        let gauge = Arc::clone(&traffic);
        tokio::spawn(engine::run(settings, neighbours, link, received, gauge, token));
        Self { commands, traffic, left }
    }

    /// Leaves the ring at once: whoever waits for it, here or at a neighbour, waits no longer.
    ///
    /// Results that are here already are still good; all others end with [`RingError::Left`].
    pub fn leave(&self) {
        self.left.cancel();
    }

    /// Sums `data` over all ranks, element by element; the result has the same bits on every rank,
    /// and other bits for another number of ranks. `wire` is how numbers travel: what it cannot
    /// carry is rounded away, from every rank's own numbers too, also where there is one rank.
    ///
    /// All ranks must give the same number of elements.
    pub fn all_reduce(&self, data: Vec<f32>, wire: Wire) -> Pending<Vec<f32>> {
        let (reply, result) = oneshot::channel();
        // A ring that is gone drops the reply, which the waiter sees.
        let _ = self.commands.send(Command::AllReduce { data, wire, reply });
        Pending { result }
    }

    /// Sums the terms of all ranks in their canonical order: the bits do not depend on the number
    /// of ranks.
    ///
    /// All ranks must give the same order and number of elements, and shares that follow each other
    /// in the order of ranks.
    pub fn sum(&self, terms: Terms) -> Pending<Vec<f32>> {
        let (reply, result) = oneshot::channel();
        let _ = self.commands.send(Command::Sum { terms, reply });
        Pending { result }
    }

    /// Bytes of numbers and blocks that this rank has sent, without the frames around them; all of
    /// an operation's are counted when its result is there.
    pub fn bytes_sent(&self) -> u64 {
        self.traffic.bytes_sent.load(Ordering::Relaxed)
    }

    /// Chunks that went to the right neighbour, and that came from the left one. What one has sent and the
    /// other has not got is on its way, or the link between them is stuck.
    pub fn chunks(&self) -> (u64, u64) {
        let Traffic { chunks_sent, chunks_received, .. } = &*self.traffic;
        (chunks_sent.load(Ordering::Relaxed), chunks_received.load(Ordering::Relaxed))
    }

    /// Brings every rank's block to every rank, in rank order; sizes may differ and may be 0.
    pub fn all_gather(&self, block: Bytes) -> Pending<Vec<Bytes>> {
        let (reply, result) = oneshot::channel();
        let _ = self.commands.send(Command::AllGather { block, reply });
        Pending { result }
    }

    /// Ends the ring in order: waits until all operations are done and the right neighbour has
    /// everything that it needs, at most for the ring's timeout.
    ///
    /// # Errors
    /// The ring's first error, or [`RingError::Timeout`] naming the right neighbour.
    pub fn shutdown(&self) -> Pending<()> {
        let (reply, result) = oneshot::channel();
        let _ = self.commands.send(Command::Shutdown { reply });
        Pending { result }
    }
}

impl Settings {
    fn check(&self) -> Result<(), RingError> {
        let error = |reason: String| Err(RingError::BadSettings { reason });
        let world = self.roster.len();
        if world == 0 || world > 1 << 16 || self.rank.0 as usize >= world {
            return error(format!("there is no rank {} among {world}", self.rank));
        }
        let chunk = self.chunk_bytes;
        if chunk == 0 || !chunk.is_multiple_of(numbers::SIZE) || chunk > MAX_CHUNK_BYTES {
            return error(format!(
                "chunks of {chunk} bytes: they must be a multiple of {} of at most {MAX_CHUNK_BYTES}",
                numbers::SIZE
            ));
        }
        Ok(())
    }

    fn neighbours(&self) -> Neighbours {
        let world = self.roster.len();
        let rank = self.rank.0 as usize;
        Neighbours {
            left: self.roster[(rank + world - 1) % world].name.clone(),
            right: self.roster[(rank + 1) % world].name.clone(),
        }
    }
}

/// The result of an operation, once it is there.
#[derive(Debug)]
#[must_use = "an operation's result, or its error, is known only to who waits for it"]
pub struct Pending<T> {
    result: oneshot::Receiver<Result<Done<T>, RingError>>,
}

impl<T> Pending<T> {
    /// Blocks the calling thread, which must be no thread of an async runtime, until the result is
    /// there. The ring's deadline bounds it.
    ///
    /// # Errors
    /// The ring's first error.
    pub fn wait(self) -> Result<T, RingError> {
        self.wait_timed().map(|it| it.0)
    }

    /// The same, with the moment at which the result was there.
    ///
    /// # Errors
    /// The ring's first error.
    pub fn wait_timed(self) -> Result<(T, std::time::Instant), RingError> {
        let done = self.result.blocking_recv().unwrap_or(Err(RingError::Closed))?;
        Ok((done.value, done.at))
    }

    /// The same for async callers.
    ///
    /// # Errors
    /// The ring's first error.
    pub async fn done(self) -> Result<T, RingError> {
        self.result.await.unwrap_or(Err(RingError::Closed)).map(|it| it.value)
    }
}
