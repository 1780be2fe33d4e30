//! What a trainer does between two steps, and where a generation begins.
//!
//! [`boundary`](super::boundary) says what is due; here it is done: drops by hand, evaluation, schedule,
//! checkpoint, end, in this order. A generation begins at the boundary at which the one before
//! ended, which may have come anywhere between them, so whatever was done there is known and not
//! done again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use convoy_common::checkpoint::Tally;
use convoy_common::ids::Position;
use convoy_common::schedule::Observation;
use tracing::{info, warn};

use super::boundary::{Agreed, Boundary, Snapshot};
use super::control::Phase;
use super::fault::Moment;
use super::redo::Redo;
use super::remains::{Outputs, Unit};
use super::report::{Cause, Report};
use super::step::Stepped;
use super::times::Stopwatch;
use super::trainer::{Ending, Trainer};
use super::{EvaluationReport, StepTimes, TrainError};
use crate::model::evaluate::Evaluation;

impl Trainer {
    /// What is left to do where the generation begins; says if that is where it ends.
    pub(super) fn enter(&mut self) -> Result<Option<Ending>, TrainError> {
        self.tell_drops_again();
        if self.boundary.is_some() {
            return self.cross(true);
        }
        if self.schedule.done || self.timetable.is_complete(self.position) {
            let detail = "there was nothing left to train".to_owned();
            return Ok(Some(self.ending(Cause::Completed, detail)));
        }
        Ok(self.stop.then(|| self.ending(Cause::Stopped, String::new())))
    }

    /// Does what is due at the boundary that the state is at; says if the generation ends there.
    ///
    /// Where a generation begins, what was done in the one before is not done again, and checkpoints
    /// wait for the next boundary unless no later one will do.
    pub(super) fn cross(&mut self, at_entry: bool) -> Result<Option<Ending>, TrainError> {
        let Some(Boundary { mut agreed, evaluated, .. }) = self.boundary else { return Ok(None) };
        if at_entry {
            (agreed.regroup, agreed.pause, agreed.keep) = (false, false, false);
            agreed.stop |= self.stop;
            agreed.stop_checkpoint |= self.stop;
        }
        if agreed.keep {
            self.owed = true;
            self.control.checkpoint_heard();
        }
        self.drop_by_hand(agreed);
        let mut due = self.timetable.due(self.position, agreed);
        self.due |= matches!(due.checkpoint, Snapshot::Take | Snapshot::Final | Snapshot::Owed);
        if due.evaluate && !evaluated {
            let start = Instant::now();
            let total = self.evaluate()?;
            self.observe(total, start.elapsed());
        }
        if due.evaluate && self.schedule.done {
            (due.end, due.checkpoint) = (Some(Cause::Completed), Snapshot::Final);
        }
        if at_entry && due.end.is_none() {
            due.checkpoint = Snapshot::No;
        } else if self.owed
            && due.end.is_none()
            && due.checkpoint == Snapshot::No
            && agreed.slots_free
        {
            due.checkpoint = Snapshot::Take;
        }
        let best = self.boundary.is_some_and(|it| it.best);
        if self.config.checkpoint.keep_best && best {
            self.due = true;
            if due.end != Some(Cause::Regroup) {
                due.checkpoint = due.checkpoint.of_the_best();
            }
        }
        self.keep(due.checkpoint)?;
        Ok(due.end.map(|cause| self.ending(cause, String::new())))
    }

    /// Makes the step or evaluation that other ranks have had already, from what they took from the
    /// ring.
    pub(super) fn make_again(&mut self, redo: Redo) -> Result<(), TrainError> {
        info!(from = %redo.unit.from, "making again what other ranks have had");
        match redo.unit.outputs {
            Outputs::Evaluation(total) => {
                self.observe(total, Duration::ZERO);
                Ok(())
            }
            Outputs::Step(outputs) => {
                let lr = self.rate.rate(&self.schedule, self.position);
                let watch = Stopwatch::start();
                match self.complete(outputs, lr, watch, StepTimes::default(), 0)? {
                    Stepped::Committed(committed) => self.advance(lr, &committed),
                    // The others found it finite, or they would not have it.
                    Stepped::NonFinite { .. } => Err(TrainError::Torn),
                }
            }
        }
    }

    /// Lets those orders of the override log take effect that all ranks know.
    fn drop_by_hand(&mut self, agreed: Agreed) {
        for drop in self.schedule.due(&self.control.drops(), agreed.newest_drop, self.position) {
            self.schedule = self.rate.drop_by_hand(&self.schedule, drop);
            let lr = self.rate.rate(&self.schedule, self.position);
            let (number, Position { epoch, step }) = (drop.number, drop.at);
            info!(number, epoch, step, lr, "a drop by hand takes effect");
            if self.rank.0 == 0 {
                self.tell(Report::DropApplied { number, position: self.position });
            }
        }
    }

    /// The news of a drop may have died with the rank that was to tell it.
    fn tell_drops_again(&self) {
        if self.rank.0 == 0 {
            for drop in &self.schedule.manual {
                self.tell(Report::DropApplied { number: drop.number, position: drop.at });
            }
        }
    }

    /// Lets the schedule and the coordinator see an evaluation.
    fn observe(&mut self, total: Evaluation, took: Duration) {
        self.unit =
            Some(Arc::new(Unit { from: self.reached(), outputs: Outputs::Evaluation(total) }));
        let mut report: EvaluationReport = self.evaluated(total, took);
        let errors = report.samples - report.top1_correct;
        let (schedule, observation) = self.rate.observe(&self.schedule, errors);
        self.schedule = schedule;
        let tally = Tally {
            images: report.samples,
            top1_errors: errors,
            top5_errors: report.samples - report.top5_correct,
        };
        let fewest_errors = self.evaluations.fewest_errors;
        if tally.images > 0 {
            self.evaluations = self.evaluations.with(tally);
        }
        if let Some(boundary) = &mut self.boundary {
            boundary.evaluated = true;
            boundary.best = self.evaluations.fewest_errors != fewest_errors;
        }
        report.learning_rate = self.rate.rate(&self.schedule, self.position);
        report.schedule_done = self.schedule.done;
        if let Observation::Dropped { .. } = observation {
            info!(
                epoch = self.position.epoch,
                lr = report.learning_rate,
                "the learning rate drops"
            );
        }
        if self.rank.0 == 0 {
            self.tell(Report::Evaluation(report));
        }
    }

    fn keep(&mut self, snapshot: Snapshot) -> Result<(), TrainError> {
        let Position { epoch, step } = self.position;
        match snapshot {
            Snapshot::No | Snapshot::Owed => return Ok(()),
            Snapshot::Skip => {
                if self.rank.0 == 0 {
                    warn!(
                        epoch,
                        step, "a checkpoint is skipped: the one before is still being uploaded"
                    );
                }
                return Ok(());
            }
            Snapshot::Take => self.control.enter(Phase::Checkpoint),
            Snapshot::Final => {
                self.control.enter(Phase::Checkpoint);
                self.uploader.make_room(&self.control)?;
            }
        }
        // Before it can end.
        self.control.upload_begins();
        self.uploader.take(&self.net, self.shared())?;
        self.kept = Some(self.position);
        (self.due, self.owed) = (false, false);
        self.meet(Moment::Snapshot)
    }
}
