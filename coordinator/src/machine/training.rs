//! What workers say while they train: steps, evaluations, parts of checkpoints.

use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::ids::{Generation, Position, Rank};

use super::checkpoints::Collected;
use super::effect::Effect;
use super::event::{ConnectionId, Kept};
use super::note::{Abandoned, Note};
use super::report::{Evaluation, Report, StepReport};
use super::trouble::Loss;
use super::{Machine, Phase};

impl Machine {
    /// Hears a worker. Whoever speaks lives, whatever it says.
    pub(super) fn hear(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        generation: Generation,
        report: Report,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.members.get_mut(connection) else { return };
        (member.heard, member.spoke) = (now, true);
        let current = self.roster.as_ref().filter(|it| it.generation == generation);
        let rank = current.and_then(|it| it.rank_of(connection));
        if let Report::Heartbeat { position, phase, vitals } = report {
            let position = rank.map(|_| position);
            if member.position != position || member.phase != phase {
                self.moved = now;
            }
            (member.position, member.phase) = (position, phase);
            member.track.hear(now, generation, &vitals);
            member.vitals = vitals;
            return;
        }
        let what = report.kind();
        let Some(rank) = rank.filter(|rank| self.has_use_for(&report, *rank)) else {
            return self.ignore(connection, what, generation, effects);
        };
        // Trying again is no progress.
        if !matches!(report, Report::PartDelayed { .. }) {
            self.moved = now;
        }
        match report {
            Report::Heartbeat { .. } => {}
            Report::Ready { state_digest } => self.ready(now, rank, state_digest, effects),
            Report::Step(step) => self.stepped(step, effects),
            Report::Evaluated(evaluation) => self.evaluated(evaluation, effects),
            Report::DropKnown { number } => {
                if let Some(member) = self.members.get_mut(connection) {
                    member.newest_drop = member.newest_drop.max(number);
                }
            }
            Report::DropApplied { number, position } => {
                self.drop_applied(number, position, effects);
            }
            Report::PartUploaded { position, part, shared, took, state_digest } => {
                let who = self.name_of(connection);
                self.outage.works(now, &who, effects);
                if self.agrees(now, rank, position, &state_digest, effects) {
                    self.collect(now, rank, (*part, state_digest), shared, took, effects);
                }
            }
            Report::PartDelayed { error, hint } => {
                let who = self.name_of(connection);
                self.outage.fails(now, who, (error, hint), effects);
            }
            Report::PartFailed { position, error, state_digest } => {
                if !self.agrees(now, rank, position, &state_digest, effects) {
                    return;
                }
                let name = self.name_of(connection);
                let why = Abandoned::PartFailed { name, error };
                self.abandon_checkpoint(now, position, why, effects);
            }
            Report::Left(left) => self.left(now, rank, left, effects),
            Report::Failed(failed) => self.failed(now, rank, failed, effects),
            Report::Finished(finished) => self.finished(now, rank, finished, effects),
        }
    }

    fn has_use_for(&self, report: &Report, rank: Rank) -> bool {
        let runs = matches!(
            self.phase,
            Phase::Training | Phase::Stopping { .. } | Phase::Finishing { .. }
        );
        let falters = matches!(
            self.phase,
            Phase::Faltering { .. } | Phase::Regrouping { .. } | Phase::Paused { .. }
        );
        let prepares = matches!(self.phase, Phase::Preparing { .. });
        // What rank 0 had to tell may come when the generation is broken already.
        let tells = (runs || falters) && rank.0 == 0;
        let in_ring = self.roster.as_ref().is_some_and(|it| !it.has_left(rank));
        match report {
            Report::Heartbeat { .. } => true,
            Report::Ready { .. } => prepares,
            // Steps and evaluations are the same on every rank; the lowest one tells them.
            Report::Step(step) => tells && step.position > self.position,
            // One that is made again by a worker that lagged behind may have been told before.
            Report::Evaluated(it) => {
                let last = self.pace.last_evaluation.as_ref();
                tells && last.is_none_or(|last| last.position < it.position)
            }
            Report::DropApplied { .. } => tells,
            Report::DropKnown { .. } => true,
            // The last part of a checkpoint may come when a worker is lost already.
            Report::PartUploaded { position, shared, .. } => {
                (runs || falters) && shared.position == *position
            }
            Report::PartDelayed { .. } => runs || falters,
            Report::PartFailed { .. } => runs || falters,
            Report::Finished(_) => runs,
            Report::Left(_) => (runs || falters || prepares) && in_ring,
            Report::Failed(_) => runs || falters || prepares,
        }
    }

    fn stepped(&mut self, step: StepReport, effects: &mut Vec<Effect>) {
        // The rate is that of the step itself, so it changed at the position before the step.
        self.rate(self.position, step.learning_rate, effects);
        self.position = step.position;
        self.links.forgive();
        self.pace.step(step);
        if self.pace.is_due(&self.plan) {
            self.say_progress(effects);
        }
    }

    fn evaluated(&mut self, evaluation: Evaluation, effects: &mut Vec<Effect>) {
        self.say_progress(effects);
        effects.push(Effect::Log(Note::Evaluated(evaluation.clone())));
        self.rate(evaluation.position, evaluation.learning_rate, effects);
        self.pace.last_evaluation = Some(evaluation);
    }

    fn rate(&mut self, position: Position, to: f64, effects: &mut Vec<Effect>) {
        let by_plan = self.plan.global_step(position) < self.plan.rate_moves_until;
        if let Some(from) = self.pace.rate_changed(to)
            && !by_plan
        {
            effects.push(Effect::Log(Note::RateChanged { position, from, to }));
        }
    }

    pub(super) fn say_progress(&mut self, effects: &mut Vec<Effect>) {
        if let Some(progress) = self.pace.say(&self.plan) {
            effects.push(Effect::Log(Note::Progress(progress)));
        }
    }

    /// Compares the states of all ranks at a checkpoint; false if the job ends because they differ.
    fn agrees(
        &mut self,
        now: Duration,
        rank: Rank,
        position: Position,
        state_digest: &str,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(roster) = &self.roster else { return true };
        let compared = self.checkpoints.compare(roster, rank, position, state_digest.to_owned());
        match compared {
            None => true,
            Some(groups) => {
                self.diverge(now, position, &groups, effects);
                false
            }
        }
    }

    fn collect(
        &mut self,
        now: Duration,
        rank: Rank,
        part: (PartEntry, String),
        shared: SharedState,
        took: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &self.roster else { return };
        let position = shared.position;
        let collected = self.checkpoints.add(roster, rank, part, shared, took);
        let late = matches!(collected, Collected::Late);
        match collected {
            Collected::Waiting | Collected::Late => {
                if let Some(oldest) = self.checkpoints.surplus() {
                    self.say_abandoned(oldest, Abandoned::Overtaken, effects);
                }
                if late && !self.checkpoints.has_part(position, rank) {
                    self.settle_parts(position, effects);
                }
            }
            Collected::Abandoned(why) => {
                self.say_abandoned(position, why, effects);
                self.settle(now, effects);
            }
            Collected::Complete(publication) => {
                for position in self.checkpoints.overtaken_by(position) {
                    self.say_abandoned(position, Abandoned::Overtaken, effects);
                }
                effects.push(Effect::Publish(publication));
            }
        }
    }

    pub(super) fn abandon_checkpoint(
        &mut self,
        now: Duration,
        position: Position,
        why: Abandoned,
        effects: &mut Vec<Effect>,
    ) {
        self.desk.abandoned(position, &why);
        if self.checkpoints.abandon(position, why.clone()) {
            self.say_abandoned(position, why, effects);
        }
        self.settle(now, effects);
        self.let_go_while_paused(now, effects);
    }

    /// The manifest cannot be published, and trying again would not help.
    pub(super) fn not_published(
        &mut self,
        now: Duration,
        position: Position,
        error: String,
        effects: &mut Vec<Effect>,
    ) {
        let (present, why) = (self.generation(), Abandoned::NotPublished { error });
        self.desk.abandoned(position, &why);
        if self.checkpoints.not_published(position, present, why.clone()) {
            self.say_abandoned(position, why, effects);
        }
        self.settle(now, effects);
        self.let_go_while_paused(now, effects);
    }

    fn say_abandoned(&mut self, position: Position, why: Abandoned, effects: &mut Vec<Effect>) {
        effects.push(Effect::Log(Note::CheckpointAbandoned { position, why }));
        self.settle_parts(position, effects);
    }

    pub(super) fn published(&mut self, now: Duration, kept: Kept, effects: &mut Vec<Effect>) {
        self.owes_checkpoint = false;
        self.checkpoints.published(kept.clone());
        let position = kept.position;
        effects.push(Effect::Log(Note::CheckpointPublished(kept)));
        self.settle_parts(position, effects);
        let of_generation = self.generation().map_or(self.plan.term, |it| it.term);
        effects.push(Effect::Prune { living: of_generation.min(self.plan.term) });
        self.settle(now, effects);
        self.let_go_while_paused(now, effects);
    }

    /// Workers live and nothing moves: whoever does not wait for others holds them up.
    pub(super) fn check_progress(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waited = now.saturating_sub(self.moved);
        if waited < self.allowance() {
            return;
        }
        let Some(roster) = &self.roster else { return };
        let stalled: Vec<(ConnectionId, String)> = self
            .members
            .iter()
            .filter(|(connection, _)| roster.rank_of(*connection).is_some())
            .map(|(connection, it)| (connection, it.phase.clone()))
            .collect();
        if stalled.iter().all(|it| it.1 == "ring") {
            // Nobody can be named; a new ring may do.
            let reason =
                format!("all workers waited in the ring for {:.0} s", waited.as_secs_f64());
            return self.break_up(now, reason, effects);
        }
        for (connection, phase) in stalled {
            if phase != "ring" {
                self.lose(now, connection, Loss::Stalled { phase, waited }, effects);
            }
        }
    }

    /// How long training may stand still: ten times the longest step of late, or an evaluation at a
    /// tenth of the training's speed, and in any case the floor.
    fn allowance(&self) -> Duration {
        let mut longest = self.pace.longest_step() * 10;
        let speed = self.pace.images_per_second();
        if speed > 0.0 && self.members.iter().any(|(_, it)| it.phase == "evaluate") {
            let views = self.plan.validation_images * u64::from(self.plan.evaluation_crops);
            let seconds = 10.0 * views as f64 / speed;
            longest = longest.max(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
        if self.members.iter().any(|(_, it)| it.phase == "checkpoint") {
            // The last one waits for its store, and that has a deadline of its own.
            longest = longest.max(self.plan.deadlines.finish);
        }
        longest.max(self.plan.deadlines.stall)
    }
}

impl Report {
    fn kind(&self) -> &'static str {
        match self {
            Self::Heartbeat { .. } => "heartbeat",
            Self::Ready { .. } => "ready",
            Self::Step(_) => "step",
            Self::Evaluated(_) => "evaluation",
            Self::DropKnown { .. } => "drop known",
            Self::DropApplied { .. } => "drop applied",
            Self::PartUploaded { .. } => "part uploaded",
            Self::PartDelayed { .. } => "part delayed",
            Self::PartFailed { .. } => "part failed",
            Self::Left(_) => "left",
            Self::Failed(_) => "generation failed",
            Self::Finished(_) => "finished",
        }
    }
}
