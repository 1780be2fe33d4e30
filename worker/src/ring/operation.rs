//! One collective operation as one rank sees it: what it sends first, and what it does with each
//! chunk that arrives.
//!
//! After its own chunks of hop 0 an operation only reacts: every arrival is checked against the
//! plan, put in its place, and handed on. It knows no wires, clocks or other operations. A chunk
//! that has been received is handed on as it came, without another copy or checksum.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use convoy_common::config::Wire;
use tokio::sync::oneshot;

use super::RingError;
use super::fold::Fold;
use super::numbers;
use super::parcel::{Collective, Parcel};
use super::plan::{GatherPlan, ReducePlan, chunk_count, chunk_range};

/// Largest block of an all-gather, in bytes; a peer cannot make this rank allocate more.
const MAX_BLOCK_BYTES: u64 = 4 << 30;
/// What is set aside for a block before its bytes are there.
const FIRST_RESERVE: usize = 64 << 20;

/// Where the result goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<Done<T>, RingError>>;

/// A result, and when it was there.
#[derive(Debug)]
pub(crate) struct Done<T> {
    pub(crate) value: T,
    pub(crate) at: Instant,
}

/// Gives the result to whoever waits.
pub(crate) fn deliver<T>(reply: Reply<T>, value: T) {
    // A receiver that is gone has given up waiting, which is its right.
    let _ = reply.send(Ok(Done { value, at: Instant::now() }));
}

/// What goes to the right after an arrival.
pub(crate) type Onward = [Option<Parcel>; 2];

/// An operation in flight.
pub(crate) enum Operation {
    Reduce(Reduce),
    Gather(Gather),
    Fold(Fold),
}

impl Operation {
    pub(crate) fn collective(&self) -> Collective {
        match self {
            Self::Reduce(_) => Collective::AllReduce,
            Self::Gather(_) => Collective::AllGather,
            Self::Fold(_) => Collective::Fold,
        }
    }

    /// How many chunks this rank sends in hop 0.
    pub(crate) fn first_count(&self) -> u32 {
        match self {
            Self::Reduce(it) => chunk_count(it.plan.segment(it.plan.outgoing(0)).len(), it.chunk),
            Self::Gather(it) => chunk_count(it.own.len(), it.chunk),
            Self::Fold(it) => it.first_count(),
        }
    }

    /// Chunk `index` of hop 0.
    ///
    /// An all-reduce's own chunk is read when it is sent; its sum cannot come back, and so the data
    /// cannot have changed, before that.
    pub(crate) fn first(&self, number: u64, index: u32) -> Option<Parcel> {
        let id = (number, self.collective());
        match self {
            Self::Reduce(it) => {
                let segment = it.plan.segment(it.plan.outgoing(0));
                let range = chunk_range(segment.len(), it.chunk, index)?;
                let data = &it.data[segment.start + range.start..segment.start + range.end];
                let total = segment.len() * numbers::size(it.wire);
                Some(Parcel::sealed(id, (0, index), total, numbers::encode(it.wire, data)))
            }
            Self::Gather(it) => {
                let range = chunk_range(it.own.len(), it.chunk, index)?;
                Some(Parcel::sealed(id, (0, index), it.own.len(), it.own.slice(range)))
            }
            Self::Fold(it) => it.first(number, index),
        }
    }

    /// Takes a chunk in; what comes back goes to the right.
    ///
    /// # Errors
    /// What does not fit the plan, as a text. The operation is of no more use then.
    pub(crate) fn accept(&mut self, parcel: Parcel) -> Result<Onward, String> {
        if parcel.collective != self.collective() {
            let (ours, theirs) = (self.collective(), parcel.collective);
            return Err(format!(
                "operation {} is {ours:?} here and {theirs:?} there",
                parcel.operation
            ));
        }
        match self {
            Self::Reduce(it) => it.accept(parcel).map(|onward| [onward, None]),
            Self::Gather(it) => it.accept(parcel).map(|onward| [onward, None]),
            Self::Fold(it) => it.accept(parcel),
        }
    }

    /// Whether everything has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        match self {
            Self::Reduce(it) => it.arrivals.hops_left == 0,
            Self::Gather(it) => it.arrivals.hops_left == 0,
            Self::Fold(it) => it.is_complete(),
        }
    }

    /// Ends the operation; whoever waits gets the result, or the error if there is one.
    pub(crate) fn finish(self, error: Option<&RingError>) {
        match (self, error) {
            (Self::Reduce(it), None) => deliver(it.reply, it.data),
            (Self::Reduce(it), Some(error)) => drop(it.reply.send(Err(error.clone()))),
            (Self::Gather(it), None) => it.deliver(),
            (Self::Gather(it), Some(error)) => drop(it.reply.send(Err(error.clone()))),
            (Self::Fold(it), None) => {
                let (sum, reply) = it.into_sum();
                deliver(reply, sum);
            }
            (Self::Fold(it), Some(error)) => drop(it.reply.send(Err(error.clone()))),
        }
    }
}

/// Which chunk is due next in each hop: chunks of one hop arrive in order, hops interleave.
struct Arrivals {
    due: Vec<u32>,
    hops_left: u32,
}

impl Arrivals {
    fn new(hops: u32) -> Self {
        Self { due: vec![0; hops as usize], hops_left: hops }
    }

    /// Whether the chunk is the next of its hop.
    fn check(&self, parcel: &Parcel) -> Result<(), String> {
        let Parcel { operation, hop, index, .. } = parcel;
        match self.due.get(*hop as usize) {
            None => Err(format!("operation {operation} has no hop {hop}")),
            Some(due) if due != index => Err(format!(
                "operation {operation} hop {hop}: chunk {index} came where {due} was due"
            )),
            Some(_) => Ok(()),
        }
    }

    /// Counts a chunk of a hop of `count` chunks.
    fn count(&mut self, hop: u32, count: u32) {
        let due = &mut self.due[hop as usize];
        *due += 1;
        if *due == count {
            self.hops_left -= 1;
        }
    }

    fn is_last_hop(&self, hop: u32) -> bool {
        hop as usize + 1 == self.due.len()
    }
}

/// A sum over ranks, in place.
pub(crate) struct Reduce {
    plan: ReducePlan,
    /// Elements of a chunk.
    chunk: usize,
    data: Vec<f32>,
    wire: Wire,
    arrivals: Arrivals,
    reply: Reply<Vec<f32>>,
}

impl Reduce {
    pub(crate) fn new(
        (world, rank): (u32, u32),
        chunk_bytes: usize,
        (mut data, wire): (Vec<f32>, Wire),
        reply: Reply<Vec<f32>>,
    ) -> Self {
        let plan = ReducePlan { elements: data.len(), world, rank };
        let chunk = (chunk_bytes / numbers::size(wire)).max(1);
        // A rank's own numbers get what those of the others get on the way.
        numbers::round(wire, &mut data);
        Self { plan, chunk, data, wire, arrivals: Arrivals::new(plan.hops()), reply }
    }

    fn accept(&mut self, parcel: Parcel) -> Result<Option<Parcel>, String> {
        self.arrivals.check(&parcel)?;
        let Parcel { operation, collective, hop, index, total, .. } = parcel;
        let segment = self.plan.segment(self.plan.incoming(hop));
        let size = numbers::size(self.wire);
        let bytes = segment.len() * size;
        let count = chunk_count(segment.len(), self.chunk);
        let range = chunk_range(segment.len(), self.chunk, index)
            .filter(|it| total == bytes as u64 && parcel.data.len() == it.len() * size)
            .ok_or_else(|| {
                format!(
                    "operation {operation} hop {hop} chunk {index}: {} of {total} bytes do not \
                     fit a segment of {bytes}",
                    parcel.data.len()
                )
            })?;
        let place = &mut self.data[segment.start + range.start..segment.start + range.end];
        let onward = if self.plan.reduces(hop) {
            numbers::add_from(self.wire, place, &parcel.data);
            numbers::round(self.wire, place);
            // The sum goes on at once, while it is in the cache.
            let sum = numbers::encode(self.wire, place);
            Some(Parcel::sealed((operation, collective), (hop + 1, index), bytes, sum))
        } else {
            numbers::store_from(self.wire, place, &parcel.data);
            (!self.arrivals.is_last_hop(hop)).then(|| parcel.onward())
        };
        self.arrivals.count(hop, count);
        Ok(onward)
    }
}

/// Everyone's block, for everyone.
pub(crate) struct Gather {
    plan: GatherPlan,
    /// Bytes of a chunk.
    chunk: usize,
    own: Bytes,
    /// The others' blocks, by the hop in which they arrive.
    blocks: Vec<Block>,
    arrivals: Arrivals,
    reply: Reply<Vec<Bytes>>,
}

/// A block on its way in.
#[derive(Default)]
struct Block {
    /// Its size, once its first chunk has told it.
    total: Option<u64>,
    bytes: BytesMut,
}

impl Gather {
    pub(crate) fn new(
        (world, rank): (u32, u32),
        chunk: usize,
        own: Bytes,
        reply: Reply<Vec<Bytes>>,
    ) -> Self {
        let plan = GatherPlan { world, rank };
        let blocks = (0..plan.hops()).map(|_| Block::default()).collect();
        Self { plan, chunk, own, blocks, arrivals: Arrivals::new(plan.hops()), reply }
    }

    fn accept(&mut self, parcel: Parcel) -> Result<Option<Parcel>, String> {
        self.arrivals.check(&parcel)?;
        let Parcel { operation, hop, index, total, .. } = parcel;
        let place = format_args!("operation {operation} hop {hop} chunk {index}").to_string();
        let length =
            usize::try_from(total).ok().filter(|_| total <= MAX_BLOCK_BYTES).ok_or_else(|| {
                format!("{place}: a block of {total} bytes is above the limit of {MAX_BLOCK_BYTES}")
            })?;
        let block = &mut self.blocks[hop as usize];
        if *block.total.get_or_insert(total) != total {
            return Err(format!("{place}: the block's size changed"));
        }
        let range = chunk_range(length, self.chunk, index)
            .filter(|it| it.len() == parcel.data.len())
            .ok_or_else(|| format!("{place}: {} bytes do not fit", parcel.data.len()))?;
        if range.start == 0 {
            block.bytes.reserve(length.min(FIRST_RESERVE));
        }
        block.bytes.extend_from_slice(&parcel.data);
        let onward = (!self.arrivals.is_last_hop(hop)).then(|| parcel.onward());
        self.arrivals.count(hop, chunk_count(length, self.chunk));
        Ok(onward)
    }

    /// Gives all blocks in rank order to whoever waits.
    fn deliver(self) {
        let mut blocks = vec![Bytes::new(); self.plan.world as usize];
        blocks[self.plan.rank as usize] = self.own;
        for (hop, block) in (0..).zip(self.blocks) {
            blocks[self.plan.incoming(hop) as usize] = block.bytes.freeze();
        }
        deliver(self.reply, blocks);
    }
}
