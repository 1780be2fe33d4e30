//! Top-1 and top-5 over the validation split.
//!
//! By the centre of every image, or by ten views of it (section 4.1 of the paper), as
//! `evaluation.crops` says. The split is cut into the same microbatches whatever the number of workers. Each rank counts its
//! share, every rank gathers all counts and adds them up in microbatch order, so the result does not
//! depend on who counted what.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use convoy_common::sampling::{EvaluationGrid, Sampler};

use super::fault::Moment;
use super::lanes::Lanes;
use super::report::EvaluationReport;
use super::trainer::Trainer;
use super::{BlockError, Phase, TrainError};
use crate::data::{Pipeline, Purpose, Request};
use crate::model::evaluate::Evaluation;

/// Microbatches handed to each lane ahead of its results: enough that none runs dry.
const AHEAD: usize = 2;
/// Bytes of one microbatch's counts on the ring.
const RECORD: usize = 32;

impl Trainer {
    /// Evaluates this rank's share and sums over the ring.
    pub(super) fn evaluate(&mut self) -> Result<Evaluation, TrainError> {
        self.control.enter(Phase::Evaluate);
        let share = Sampler::share(self.grid.microbatches(), self.rank.0, self.world);
        let grid = self.grid.clone();
        let crops = self.config.evaluation.crops;
        let wanted = share.clone().map(move |number| request(&grid, number, crops));
        let pipeline =
            Pipeline::start(Arc::clone(&self.source), self.settings, &self.runtime, wanted)?;
        let mine = count(&self.lanes, pipeline, share.len(), |_| self.check_abandoned())?;
        self.meet(Moment::Evaluate)?;
        self.control.enter(Phase::Ring);
        let (blocks, gathered_at) = self.ring.all_gather(encode(&mine)).wait_timed()?;
        self.parted = Some(gathered_at);
        let total = fold(&decode(&blocks)?);
        self.meet(Moment::Evaluated)?;
        Ok(total)
    }

    /// What the schedule and the coordinator are told of an evaluation, on every rank alike.
    pub(super) fn evaluated(&self, total: Evaluation, took: Duration) -> EvaluationReport {
        EvaluationReport {
            position: self.position,
            samples: total.samples,
            top1_correct: total.top1,
            top5_correct: total.top5,
            loss: total.loss_sum / total.samples.max(1) as f64,
            took,
            learning_rate: self.rate.rate(&self.schedule, self.position),
            schedule_done: false,
        }
    }
}

/// What one microbatch of the validation split asks of the pipeline, for so many crops of an image.
pub(crate) fn request(grid: &EvaluationGrid, number: u32, crops: u32) -> Request {
    Request {
        purpose: if crops == 1 { Purpose::Evaluate } else { Purpose::EvaluateSquares },
        epoch: 0,
        step: 0,
        microbatch: number,
        samples: grid.microbatch(number),
    }
}

/// Counts `expected` microbatches; the result is in the order of their numbers.
///
/// `progress` is told the number of microbatches done, and may end it.
pub(crate) fn count(
    lanes: &Lanes,
    mut pipeline: Pipeline,
    expected: usize,
    mut progress: impl FnMut(usize) -> Result<(), TrainError>,
) -> Result<Vec<Evaluation>, TrainError> {
    let mut done = Vec::with_capacity(expected);
    let mut sent = 0;
    while done.len() < expected {
        if sent < expected && sent - done.len() < AHEAD * lanes.len() {
            lanes.evaluate(pipeline.next().ok_or(TrainError::DataEnded)??)?;
            sent += 1;
        } else {
            done.push(lanes.counts()?);
            progress(done.len())?;
        }
    }
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, counts)| counts).collect())
}

/// The sum in microbatch order.
pub(crate) fn fold(counts: &[Evaluation]) -> Evaluation {
    counts.iter().fold(Evaluation::default(), |total, it| Evaluation {
        samples: total.samples + it.samples,
        top1: total.top1 + it.top1,
        top5: total.top5 + it.top5,
        loss_sum: total.loss_sum + it.loss_sum,
    })
}

fn encode(counts: &[Evaluation]) -> Bytes {
    let mut block = BytesMut::with_capacity(RECORD * counts.len());
    for it in counts {
        block.put_u64_le(it.samples);
        block.put_u64_le(it.top1);
        block.put_u64_le(it.top5);
        block.put_f64_le(it.loss_sum);
    }
    block.freeze()
}

fn decode(blocks: &[Bytes]) -> Result<Vec<Evaluation>, BlockError> {
    let mut counts = Vec::new();
    for (rank, block) in blocks.iter().enumerate() {
        let (records, rest) = block.as_chunks::<RECORD>();
        if !rest.is_empty() {
            return Err(BlockError::new(rank, block.len(), "whole counts"));
        }
        counts.extend(records.iter().map(|record| {
            let (fields, _) = record.as_chunks::<8>();
            Evaluation {
                samples: u64::from_le_bytes(fields[0]),
                top1: u64::from_le_bytes(fields[1]),
                top5: u64::from_le_bytes(fields[2]),
                loss_sum: f64::from_le_bytes(fields[3]),
            }
        }));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(n: u64) -> Evaluation {
        Evaluation { samples: n, top1: n / 2, top5: n - 1, loss_sum: 0.1 * n as f64 }
    }

    #[test]
    fn the_sum_is_the_same_however_microbatches_are_shared() {
        let all: Vec<Evaluation> = (1..8).map(counts).collect();
        let whole = fold(&decode(&[encode(&all)]).unwrap());
        for cut in 0..=all.len() {
            let blocks = [encode(&all[..cut]), encode(&all[cut..])];
            assert_eq!(fold(&decode(&blocks).unwrap()), whole);
        }
    }

    #[test]
    fn half_a_count_is_an_error_that_names_the_rank() {
        let block = encode(&[counts(3)]);
        let error = decode(&[block.clone(), block.slice(..31)]).unwrap_err();
        assert_eq!(error.rank, 1);
    }
}
