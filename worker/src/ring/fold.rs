//! The canonical all-reduce as one rank sees it.
//!
//! ```text
//!  running sum   rank 0 --> rank 1 --> ... --> rank W-1      each adds its own terms, in order
//!  total         rank W-1 --> rank 0 --> ... --> rank W-2    goes round as it is
//! ```
//!
//! Chunks are pipelined: while rank 1 adds to one, rank 0 sends the next. A rank sends each number
//! twice at most, once in the running sum and once in the total; the first and the last two ranks
//! send it less. Where a block of the canonical order is cut by the boundary between two ranks, the
//! running message has the open block besides the sum of those before it, so that hop has twice the
//! bytes: chunk `2i` is the sum, chunk `2i + 1` the open block.

use super::numbers;
use super::operation::{Onward, Reply};
use super::parcel::{Collective, Parcel};
use super::plan::{chunk_count, chunk_range};
use super::terms::{Carried, Terms};

/// A canonical sum over all ranks.
pub(crate) struct Fold {
    world: u32,
    rank: u32,
    /// Elements of a chunk.
    chunk: usize,
    terms: Terms,
    incoming: Carried,
    outgoing: Carried,
    /// The running sum where it has arrived, then the total.
    sum: Vec<f32>,
    /// The open block of the chunk at hand.
    open: Vec<f32>,
    running_due: u32,
    total_due: u32,
    pub(super) reply: Reply<Vec<f32>>,
}

impl Fold {
    pub(crate) fn new(
        (world, rank): (u32, u32),
        chunk_bytes: usize,
        terms: Terms,
        reply: Reply<Vec<f32>>,
    ) -> Self {
        debug_assert!(terms.is_complete(), "every microbatch of the share is there");
        let chunk = (chunk_bytes / numbers::SIZE).max(1);
        Self {
            world,
            rank,
            chunk,
            incoming: terms.order().carried(terms.share().start),
            outgoing: terms.order().carried(terms.share().end),
            sum: vec![0.0; terms.elements()],
            open: vec![0.0; chunk.min(terms.elements())],
            terms,
            running_due: 0,
            total_due: 0,
            reply,
        }
    }

    pub(crate) fn first_count(&self) -> u32 {
        if self.rank == 0 { self.chunks() * self.outgoing.streams() } else { 0 }
    }

    /// The first rank's chunk, made when it is sent.
    pub(crate) fn first(&self, number: u64, index: u32) -> Option<Parcel> {
        let range = chunk_range(self.sum.len(), self.chunk, index / self.outgoing.streams())?;
        let (mut sum, mut open) = (vec![0.0; range.len()], vec![0.0; range.len()]);
        self.terms.fold_into(range, &mut sum, &mut open);
        let wants_open = match self.outgoing {
            Carried::Sum => false,
            Carried::Open => true,
            Carried::Both => index % 2 == 1,
        };
        let data = if wants_open { &open } else { &sum };
        Some(self.running(number, 0, index, data))
    }

    pub(crate) fn accept(&mut self, parcel: Parcel) -> Result<Onward, String> {
        // The running sum comes to rank r in hop r - 1, the total in hop W - 1 + r.
        if self.rank > 0 && parcel.hop == self.rank - 1 {
            self.accept_running(&parcel)
        } else if self.rank + 1 < self.world && parcel.hop == self.world - 1 + self.rank {
            self.accept_total(&parcel).map(|onward| [onward, None])
        } else {
            let Parcel { operation, hop, .. } = parcel;
            Err(format!("operation {operation}: hop {hop} does not lead to rank {}", self.rank))
        }
    }

    /// Whether everything has arrived.
    pub(crate) fn is_complete(&self) -> bool {
        if self.rank + 1 < self.world {
            self.total_due == self.chunks()
        } else {
            self.running_due == self.chunks() * self.incoming.streams()
        }
    }

    pub(super) fn into_sum(self) -> (Vec<f32>, Reply<Vec<f32>>) {
        (self.sum, self.reply)
    }

    fn accept_running(&mut self, parcel: &Parcel) -> Result<Onward, String> {
        let streams = self.incoming.streams();
        let range = self.place(parcel, self.running_due, streams)?;
        self.running_due += 1;
        let (sum, open) = (&mut self.sum[range.clone()], &mut self.open[..range.len()]);
        let is_open = match self.incoming {
            Carried::Sum => false,
            Carried::Open => true,
            Carried::Both => parcel.index % 2 == 1,
        };
        numbers::store(if is_open { &mut *open } else { &mut *sum }, &parcel.data);
        if self.incoming == Carried::Both && !is_open {
            // Its open block comes next.
            return Ok([None, None]);
        }
        self.terms.fold_into(range.clone(), sum, open);
        // What goes on goes at once, while it is in the cache.
        let index = parcel.index / streams;
        let (sum, open) = (&self.sum[range.clone()], &self.open[..range.len()]);
        let (number, hop) = (parcel.operation, parcel.hop + 1);
        Ok(if self.rank + 1 == self.world {
            let bytes = self.sum.len() * numbers::SIZE;
            let id = (number, Collective::Fold);
            [Some(Parcel::sealed(id, (hop, index), bytes, numbers::to_bytes(sum))), None]
        } else {
            match self.outgoing {
                Carried::Sum => [Some(self.running(number, hop, index, sum)), None],
                Carried::Open => [Some(self.running(number, hop, index, open)), None],
                Carried::Both => [
                    Some(self.running(number, hop, 2 * index, sum)),
                    Some(self.running(number, hop, 2 * index + 1, open)),
                ],
            }
        })
    }

    fn accept_total(&mut self, parcel: &Parcel) -> Result<Option<Parcel>, String> {
        let range = self.place(parcel, self.total_due, 1)?;
        if self.rank > 0 && self.running_due < (parcel.index + 1) * self.incoming.streams() {
            let Parcel { operation, index, .. } = parcel;
            return Err(format!(
                "operation {operation}: the total of chunk {index} came before it"
            ));
        }
        self.total_due += 1;
        numbers::store(&mut self.sum[range], &parcel.data);
        Ok((self.rank + 2 < self.world).then(|| parcel.onward()))
    }

    /// Where a chunk lies, if it is the one that is due.
    fn place(
        &self,
        parcel: &Parcel,
        due: u32,
        streams: u32,
    ) -> Result<std::ops::Range<usize>, String> {
        let Parcel { operation, hop, index, total, .. } = parcel;
        if *index != due {
            return Err(format!(
                "operation {operation} hop {hop}: chunk {index} came where {due} was due"
            ));
        }
        let bytes = self.sum.len() * numbers::SIZE * streams as usize;
        chunk_range(self.sum.len(), self.chunk, index / streams)
            .filter(|it| *total == bytes as u64 && parcel.data.len() == it.len() * numbers::SIZE)
            .ok_or_else(|| {
                format!(
                    "operation {operation} hop {hop} chunk {index}: {} of {total} bytes do not \
                     fit a sum of {bytes}",
                    parcel.data.len()
                )
            })
    }

    /// A chunk of the running sum as it leaves this rank.
    fn running(&self, number: u64, hop: u32, index: u32, data: &[f32]) -> Parcel {
        let bytes = self.sum.len() * numbers::SIZE * self.outgoing.streams() as usize;
        Parcel::sealed((number, Collective::Fold), (hop, index), bytes, numbers::to_bytes(data))
    }

    fn chunks(&self) -> u32 {
        chunk_count(self.sum.len(), self.chunk)
    }
}
