//! What a worker does when it is told to.

use std::sync::Arc;

use convoy_common::ids::Generation;
use convoy_common::schedule::ManualDrop;
use tracing::{debug, info, warn};

use super::{Agent, Event, Stage, training};
use crate::peer;
use crate::session::{Assignment, Order, Probed};
use crate::train::{Phase, Report, Reports};

impl Agent {
    pub(super) fn on_order(&mut self, order: Order) {
        match order {
            Order::Drop(drop) => self.learn(drop),
            Order::Adopted { generation, drops } => self.on_adopted(generation, drops),
            Order::StartAfresh { reason } => self.start_afresh(&reason),
            Order::Settled { generation, position } => {
                if generation == self.generation {
                    self.link.settled(position);
                }
            }
            Order::Pulse => {}
            Order::Prepare(assignment) => self.prepare(assignment),
            Order::Begin(generation) if generation == self.generation => self.begin(),
            Order::Begin(generation) => {
                warn!(%generation, "told to begin another generation; ignored")
            }
            Order::StopAfterStep { checkpoint, reason } => {
                info!(reason, checkpoint, "stopping at the next step boundary");
                self.drain.wait_for_the_end();
                self.told_to_stop.get_or_insert(reason);
                self.control.stop_after_step(checkpoint);
            }
            Order::EndGeneration { generation, reason } => {
                self.end_generation(generation, &reason);
            }
            Order::Regroup { generation, reason } => {
                if generation == self.generation {
                    info!(%generation, reason, "regrouping at the next step boundary");
                    self.control.regroup();
                }
            }
            Order::Pause { generation, reason } => {
                if generation == self.generation {
                    info!(%generation, reason, "pausing at the next step boundary");
                    self.control.pause();
                    self.told_to_pause = Some(reason);
                }
            }
            Order::TakeCheckpoint => {
                info!("taking a checkpoint as soon as all ranks can");
                self.control.take_checkpoint();
            }
            Order::Probe { number, members } => {
                let events = self.events.clone();
                tokio::spawn(async move {
                    let unreachable = peer::unreachable(members).await;
                    // Nobody listens when the agent has ended meanwhile.
                    let _ = events.send(Event::Probed(Probed { number, unreachable })).await;
                });
            }
            Order::Shutdown { .. } => {
                unreachable!("invariant: handled by the caller")
            }
        }
    }

    fn prepare(&mut self, assignment: Assignment) {
        let generation = assignment.generation;
        info!(
            %generation,
            rank = assignment.rank.0,
            world = assignment.roster.len(),
            start = %assignment.start,
            resume = ?assignment.resume,
            "preparing"
        );
        self.generation = generation;
        self.link.begin(generation);
        (self.left, self.is_over, self.starts_afresh) = (false, false, false);
        (self.verdict, self.last_word, self.told_to_pause) = (None, None, None);
        // Whatever it has not stored is given up: the generation takes a checkpoint of its own.
        self.uploader = None;
        if assignment.stop {
            self.drain.wait_for_the_end();
            self.told_to_stop.get_or_insert_with(|| "the job ends".to_owned());
        }
        self.control.begin_generation();
        self.control.enter(Phase::Prepare);
        self.control.reached(assignment.start.position);
        // Whoever is ready knows them.
        for drop in &assignment.drops {
            self.control.learn(*drop);
            self.newest_drop = self.newest_drop.max(drop.number);
        }
        self.place = Some(Arc::new(assignment.clone()));
        let (job, ring, vault) =
            (Arc::clone(&self.job), Arc::clone(&self.ring), Arc::clone(&self.vault));
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let prepared = job.prepare(assignment, &ring, &vault).await;
            // Nobody listens when the agent has ended meanwhile; then this does not matter.
            let _ = events.send(Event::Prepared(generation, prepared.map(Box::new))).await;
        });
        self.stage = Stage::Preparing(task.abort_handle());
    }

    /// The generation is over: whatever this worker does in it, it comes out with its state.
    fn end_generation(&mut self, generation: Generation, reason: &str) {
        if generation != self.generation {
            debug!(%generation, "told to leave another generation; ignored");
            return;
        }
        info!(%generation, reason, "the generation is over; this worker keeps its state");
        self.is_over = true;
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Preparing(task) => {
                task.abort();
                self.leave(None, String::new());
            }
            Stage::Ready(prepared) => {
                prepared.ring.leave();
                self.leave(None, String::new());
            }
            Stage::Training(ring) => {
                self.control.leave_generation();
                ring.leave();
                // The trainer comes back as soon as it can.
                self.stage = Stage::Training(ring);
            }
            Stage::Idle => self.leave(None, String::new()),
        }
    }

    pub(super) fn learn(&mut self, drop: ManualDrop) {
        let ManualDrop { number, divide_by, .. } = drop;
        info!(number, divide_by, "the rate is to drop as soon as all ranks know it");
        self.control.learn(drop);
        self.newest_drop = self.newest_drop.max(number);
        self.report(Report::DropKnown { number });
    }

    fn begin(&mut self) {
        let prepared = match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Ready(prepared) => prepared,
            other => {
                self.stage = other;
                warn!("told to begin before being ready; ignored");
                return;
            }
        };
        let Some(remains) = self.vault.take() else {
            warn!("told to begin without a state; ignored");
            return;
        };
        info!(generation = %self.generation, "training begins");
        self.stage = Stage::Training(prepared.ring.clone());
        let (events, job) = (self.events.clone(), Arc::clone(&self.job));
        let reports = Reports::new(self.generation, self.reports.clone());
        let control = Arc::clone(&self.control);
        training::start(job, *prepared, remains, control, reports, move |ended| {
            let _ = events.blocking_send(Event::Ended(Box::new(ended)));
        });
    }
}
