//! The one task that owns a generation's ring.
//!
//! It reacts to five things: a submission, an arrival from the left, room towards the right, a word
//! from the right, a deadline. It always takes arrivals while it waits for room, so a ring whose
//! wires are all full still moves; what it takes is bounded by the operations' own size, and what
//! arrives for operations not yet submitted here by [`EARLY_BYTES`].
//!
//! The arithmetic runs on this task: adding, checking and copying one chunk of 256 KiB takes a few
//! tens of microseconds, less than handing it to another thread and back would cost under load, and
//! every turn of the loop ends in an await.
//!
//! A hang stops the whole ring, so every rank's deadline passes at about the same time. Before a
//! rank blames its left neighbour it tells the right one that it waits too; who was told so grants
//! its neighbour some time more, in which the verdict comes round. So all ranks blame the one that
//! said nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use convoy_common::config::Wire;
use convoy_common::ids::{Generation, Rank};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::fold::Fold;
use super::handle::{Settings, Traffic};
use super::link::Link;
use super::operation::{Gather, Operation, Reduce, Reply, deliver};
use super::outbox::Outbox;
use super::parcel::{Arrival, BadParcel, Outgoing, Parcel, Receipt};
use super::terms::Terms;
use super::{RingError, alone, farewell};

/// Bytes that may wait for operations which this rank has not submitted; then it stops reading.
const EARLY_BYTES: usize = 64 << 20;
/// How many operations a neighbour can be ahead before it must be mistaken.
const EARLY_OPERATIONS: u64 = 1024;

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    AllReduce { data: Vec<f32>, wire: Wire, reply: Reply<Vec<f32>> },
    Sum { terms: Terms, reply: Reply<Vec<f32>> },
    AllGather { block: Bytes, reply: Reply<Vec<Bytes>> },
    Shutdown { reply: Reply<()> },
}

/// The names to blame.
#[derive(Clone, Debug)]
pub(crate) struct Neighbours {
    pub left: String,
    pub right: String,
}

/// Runs a ring to its end; without a link it is one rank alone.
pub(crate) async fn run(
    settings: Settings,
    neighbours: Neighbours,
    link: Option<Link>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    traffic: Arc<Traffic>,
    left: CancellationToken,
) {
    let Some(mut link) = link else { return alone::run(&mut commands).await };
    let mut engine = Engine::new(&settings, neighbours, traffic);
    let turned = tokio::select! {
        biased;
        () = left.cancelled() => Err(RingError::Left),
        turned = engine.turn(&mut link, &mut commands) => turned,
    };
    match turned {
        Ok(reply) => {
            let outcome = tokio::select! {
                biased;
                () = left.cancelled() => Err(RingError::Left),
                outcome = engine.flush(link) => outcome,
            };
            if let Some(reply) = reply {
                // Who asked may have stopped waiting.
                match outcome {
                    Ok(()) => deliver(reply, ()),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        }
        Err(error) => {
            let (generation, rank) = (settings.generation, settings.rank);
            if error == RingError::Left {
                tracing::info!(%generation, %rank, "left the ring");
            } else {
                tracing::warn!(%generation, %rank, blame = error.blame(), %error, "ring ended");
            }
            engine.fail(&error);
            farewell::end(link, &mut commands, &error).await;
        }
    }
}

/// An operation and how long it has stood still.
struct InFlight {
    operation: Operation,
    /// When it last moved.
    moved: Instant,
    /// The right neighbour was told that this rank waits.
    told: bool,
    /// The left neighbour told that it waits too.
    left_waits: bool,
}

impl InFlight {
    /// When something must be done about its standing still.
    fn due(&self, limit: Duration) -> Instant {
        self.moved
            + match (self.told, self.left_waits) {
                (false, _) => limit * 4 / 5,
                (true, false) => limit,
                (true, true) => limit * 6 / 5,
            }
    }
}

/// A generation's state.
struct Engine {
    generation: Generation,
    rank: Rank,
    /// World size and rank, as plans take them.
    place: (u32, u32),
    chunk_bytes: usize,
    limit: Duration,
    neighbours: Neighbours,
    in_flight: BTreeMap<u64, InFlight>,
    /// The number of the next submission; they count from 1.
    next: u64,
    outbox: Outbox,
    /// Parcels of operations that are not submitted here yet.
    early: BTreeMap<u64, Vec<Parcel>>,
    early_bytes: usize,
    left_ended: bool,
    traffic: Arc<Traffic>,
}

impl Engine {
    fn new(settings: &Settings, neighbours: Neighbours, traffic: Arc<Traffic>) -> Self {
        Self {
            generation: settings.generation,
            rank: settings.rank,
            place: (settings.roster.len() as u32, settings.rank.0),
            chunk_bytes: settings.chunk_bytes,
            limit: settings.timeout,
            neighbours,
            in_flight: BTreeMap::new(),
            next: 1,
            outbox: Outbox::default(),
            early: BTreeMap::new(),
            early_bytes: 0,
            left_ended: false,
            traffic,
        }
    }

    /// Works until the ring is to be shut down and everything is sent, or until it fails.
    async fn turn(
        &mut self,
        link: &mut Link,
        commands: &mut mpsc::UnboundedReceiver<Command>,
    ) -> Result<Option<Reply<()>>, RingError> {
        let mut closing = None;
        let mut right_open = true;
        let mut tick = std::pin::pin!(sleep_until(Instant::now()));
        loop {
            if closing.is_some() && self.in_flight.is_empty() && self.outbox.is_empty() {
                return Ok(closing.flatten());
            }
            tokio::select! {
                command = commands.recv(), if closing.is_none() => match command {
                    Some(Command::Shutdown { reply }) => closing = Some(Some(reply)),
                    None => closing = Some(None),
                    Some(Command::AllReduce { data, wire, reply }) => {
                        let operation =
                            Reduce::new(self.place, self.chunk_bytes, (data, wire), reply);
                        self.submit(Operation::Reduce(operation), tick.as_mut())?;
                    }
                    Some(Command::Sum { terms, reply }) => {
                        let operation = Fold::new(self.place, self.chunk_bytes, terms, reply);
                        self.submit(Operation::Fold(operation), tick.as_mut())?;
                    }
                    Some(Command::AllGather { block, reply }) => {
                        let operation = Gather::new(self.place, self.chunk_bytes, block, reply);
                        self.submit(Operation::Gather(operation), tick.as_mut())?;
                    }
                },
                arrival = link.inbox.arrivals.recv(),
                    if !self.left_ended && self.early_bytes < EARLY_BYTES =>
                {
                    self.arrive(arrival.ok_or(RingError::Closed)?)?;
                }
                room = link.out.reserve(), if right_open && !self.outbox.is_empty() => match room {
                    Ok(room) => self.send(room),
                    // The receipts say why.
                    Err(_) => right_open = false,
                },
                receipt = link.receipts.next() => return Err(self.right_gone(receipt)),
                () = tick.as_mut(), if !self.in_flight.is_empty() => self.look(tick.as_mut())?,
            }
        }
    }

    /// Ends the stream to the right and waits until it says that it has everything.
    async fn flush(&self, link: Link) -> Result<(), RingError> {
        let Link { out, mut receipts, inbox } = link;
        drop(out);
        let peer = self.neighbours.right.clone();
        let outcome = match timeout(self.limit, receipts.next()).await {
            Ok(Some(Receipt::Delivered)) => Ok(()),
            Ok(receipt) => Err(self.right_gone(receipt)),
            Err(_) => Err(RingError::Timeout { peer, operation: self.next - 1, after: self.limit }),
        };
        drop(inbox);
        tracing::debug!(generation = %self.generation, rank = %self.rank, "ring shut down");
        outcome
    }

    /// Starts an operation, with what has arrived of it before.
    fn submit(
        &mut self,
        operation: Operation,
        mut tick: std::pin::Pin<&mut Sleep>,
    ) -> Result<(), RingError> {
        let number = self.next;
        self.next += 1;
        self.outbox.open(number, operation.first_count());
        let moved = Instant::now();
        let entry = InFlight { operation, moved, told: false, left_waits: false };
        let due = entry.due(self.limit);
        if tick.is_elapsed() || due < tick.deadline() {
            tick.as_mut().reset(due);
        }
        self.in_flight.insert(number, entry);
        for parcel in self.early.remove(&number).unwrap_or_default() {
            self.early_bytes -= parcel.data.len();
            self.accept(parcel)?;
        }
        // What is not there yet will not come from one who has left.
        if self.left_ended && self.in_flight.contains_key(&number) {
            return Err(self.left_lost("it left the ring".to_owned()));
        }
        Ok(())
    }

    fn arrive(&mut self, arrival: Arrival) -> Result<(), RingError> {
        if matches!(arrival, Arrival::Parcel(_)) {
            self.traffic.chunks_received.fetch_add(1, Ordering::Relaxed);
        }
        match arrival {
            Arrival::Opened { .. } => Ok(()),
            Arrival::Parcel(parcel) if self.in_flight.contains_key(&parcel.operation) => {
                self.accept(parcel)
            }
            Arrival::Parcel(parcel) => self.keep(parcel),
            Arrival::Stalled { operation } => {
                if let Some(it) = self.in_flight.get_mut(&operation) {
                    it.left_waits = true;
                }
                Ok(())
            }
            Arrival::Abort(farewell) => Err(farewell::meaning(&self.neighbours.left, farewell)),
            Arrival::Ended if self.in_flight.is_empty() => {
                self.left_ended = true;
                Ok(())
            }
            Arrival::Ended => Err(self.left_lost("it left the ring".to_owned())),
            Arrival::Lost { detail } => Err(self.left_lost(detail)),
            Arrival::Bad(bad) => {
                let (peer, detail) = (self.neighbours.left.clone(), bad.to_string());
                Err(match bad {
                    BadParcel::Checksum { .. } => RingError::Corrupt { peer, detail },
                    _ => RingError::OutOfStep { peer, detail },
                })
            }
        }
    }

    /// Keeps a parcel for an operation that is still to come.
    fn keep(&mut self, parcel: Parcel) -> Result<(), RingError> {
        let number = parcel.operation;
        if number < self.next || number >= self.next + EARLY_OPERATIONS {
            return Err(self.out_of_step(format!(
                "operation {number} is not in flight; the next is {}",
                self.next
            )));
        }
        self.early_bytes += parcel.data.len();
        self.early.entry(number).or_default().push(parcel);
        Ok(())
    }

    /// Gives a parcel to its operation.
    fn accept(&mut self, parcel: Parcel) -> Result<(), RingError> {
        let number = parcel.operation;
        let Some(it) = self.in_flight.get_mut(&number) else {
            return Err(self.out_of_step(format!("operation {number} got more than its plan")));
        };
        let onward = match it.operation.accept(parcel) {
            Ok(onward) => onward,
            Err(detail) => return Err(self.out_of_step(detail)),
        };
        (it.moved, it.told, it.left_waits) = (Instant::now(), false, false);
        for parcel in onward.into_iter().flatten() {
            self.count(&parcel);
            self.outbox.push(parcel);
        }
        self.settle(number);
        Ok(())
    }

    fn send(&mut self, room: mpsc::Permit<'_, Outgoing>) {
        let in_flight = &self.in_flight;
        let first = |number, index| in_flight.get(&number)?.operation.first(number, index);
        let Some(outgoing) = self.outbox.pop(first) else { return };
        let number = match &outgoing {
            Outgoing::Parcel(parcel) if parcel.hop == 0 => {
                self.count(parcel);
                Some(parcel.operation)
            }
            _ => None,
        };
        if matches!(outgoing, Outgoing::Parcel(_)) {
            self.traffic.chunks_sent.fetch_add(1, Ordering::Relaxed);
        }
        room.send(outgoing);
        if let Some(number) = number {
            self.settle(number);
        }
    }

    /// Counts what is sent once it is known, so that a result's bytes are counted before the result
    /// is delivered.
    fn count(&self, parcel: &Parcel) {
        self.traffic.bytes_sent.fetch_add(parcel.data.len() as u64, Ordering::Relaxed);
    }

    /// Delivers the result of an operation that has received all and given all of its own.
    fn settle(&mut self, number: u64) {
        let complete = self.in_flight.get(&number).is_some_and(|it| it.operation.is_complete());
        if complete && self.outbox.own_is_sent(number) {
            self.outbox.complete(number);
            if let Some(it) = self.in_flight.remove(&number) {
                it.operation.finish(None);
            }
        }
    }

    /// Looks for operations that stand still, and sets the clock for the next look.
    fn look(&mut self, tick: std::pin::Pin<&mut Sleep>) -> Result<(), RingError> {
        let now = Instant::now();
        let limit = self.limit;
        for (&number, it) in &mut self.in_flight {
            if it.due(limit) > now {
                continue;
            }
            if it.told {
                // With everything received, only the way to the right can hold it up.
                let received = it.operation.is_complete();
                let Neighbours { left, right } = &self.neighbours;
                let peer = if received { right } else { left }.clone();
                let after = now - it.moved;
                return Err(RingError::Timeout { peer, operation: number, after });
            }
            it.told = true;
            self.outbox.push_word(Outgoing::Stalled { operation: number });
        }
        if let Some(due) = self.in_flight.values().map(|it| it.due(limit)).min() {
            tick.reset(due);
        }
        Ok(())
    }

    /// Ends all operations with an error.
    fn fail(&mut self, error: &RingError) {
        for (_, it) in std::mem::take(&mut self.in_flight) {
            it.operation.finish(Some(error));
        }
        self.early.clear();
        self.outbox = Outbox::default();
    }

    fn left_lost(&self, detail: String) -> RingError {
        RingError::PeerLost { peer: self.neighbours.left.clone(), detail }
    }

    fn out_of_step(&self, detail: String) -> RingError {
        RingError::OutOfStep { peer: self.neighbours.left.clone(), detail }
    }

    /// The right neighbour spoke, or fell silent, before this rank was done.
    fn right_gone(&self, receipt: Option<Receipt>) -> RingError {
        let peer = &self.neighbours.right;
        let detail = match receipt {
            Some(Receipt::Abort(farewell)) => return farewell::meaning(peer, farewell),
            Some(Receipt::Lost { detail }) => detail,
            Some(Receipt::Delivered) => "it left the ring".to_owned(),
            None => "its stream ended".to_owned(),
        };
        RingError::PeerLost { peer: peer.clone(), detail }
    }
}
