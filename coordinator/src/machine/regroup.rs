//! From one generation to the next: who is left keeps its state, and the job goes on.
//!
//! ```text
//!  Training --a worker is lost-----------------> Regrouping --all have left--> next generation
//!     |--complaints, nobody lost--> Faltering ------^  ^ |
//!     '--all agree to end it------------------------ --' '--too few--> Waiting --enough--> next
//! ```
//!
//! Whoever is in the broken generation says what it holds. States differ by one step or one
//! evaluation at most, because both need all ranks. The newest one counts: a worker that is one
//! behind makes the step again from what a peer has of it, and one that holds nothing gets the
//! state of a peer. A checkpoint is gone back to only if nobody holds anything; a job that all
//! have left waits a moment for somebody to do that with.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Generation, Rank, Reached};

use super::effect::{Assignment, Effect, Order, Outcome, Resume, Seat};
use super::event::{ConnectionId, Failed, Left};
use super::note::{Abandoned, Note};
use super::roster::Roster;
use super::trouble::{Loss, Trouble};
use super::{Machine, Phase};

/// Those who are ready to join soon after a generation began wait for so long, for company.
const SETTLE: Duration = Duration::from_secs(2);

impl Machine {
    /// A worker is out of its generation's ring and keeps its state.
    pub(super) fn left(
        &mut self,
        now: Duration,
        rank: Rank,
        left: Left,
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &mut self.roster else { return };
        let (generation, name) = (roster.generation, roster.name(rank).to_owned());
        roster.set_left(rank);
        if left.held.is_some_and(|held| held > roster.start) {
            self.links.forgive();
        }
        if let Some(member) = roster.connection(rank).and_then(|it| self.members.get_mut(it)) {
            (member.held, member.owes_checkpoint) = (left.held, left.owes_checkpoint);
        }
        let sign = match &left.blame {
            Some(blame) => format!("it blames {blame}: {}", left.error),
            None => left.error.clone(),
        };
        match &mut self.phase {
            Phase::Regrouping { .. } => {
                effects.push(Effect::Log(Note::Left { name, held: left.held }));
                self.regroup_if_complete(now, effects);
            }
            Phase::Faltering { trouble, .. } => {
                effects.push(Effect::Log(Note::AlsoFaltered { name, sign }));
                trouble.add(rank, left);
                if self.staying().is_empty() {
                    self.conclude(now, effects);
                }
            }
            _ if left.agreed => {
                // The others come to the same boundary, or their rings break.
                let reason = "all ranks agreed to regroup".to_owned();
                self.enter_regrouping(now, reason, true, effects);
                self.regroup_if_complete(now, effects);
            }
            _ => {
                effects.push(Effect::Log(Note::Faltered { generation, name, sign }));
                let mut trouble = Trouble::default();
                trouble.add(rank, left);
                self.phase = Phase::Faltering { until: now + self.plan.deadlines.blame, trouble };
                if self.staying().is_empty() {
                    self.conclude(now, effects);
                }
            }
        }
    }

    /// The generation is broken, nobody is known to be lost, and it is as clear as it will be why.
    pub(super) fn conclude(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let (Phase::Faltering { trouble, .. }, Some(roster)) = (&self.phase, &self.roster) else {
            return;
        };
        let reason = trouble.verdict(roster);
        if self.position > roster.start.position {
            self.links.forgive();
        }
        let out = self.links.broke(trouble, roster).and_then(|(out, stays)| {
            Some((roster.connection(out)?, Loss::Link { with: roster.name(stays).to_owned() }))
        });
        if let Some((connection, loss)) = out {
            self.links.forgive();
            return self.lose(now, connection, loss, effects);
        }
        self.break_up(now, reason, effects);
    }

    /// A worker cannot go on.
    pub(super) fn failed(
        &mut self,
        now: Duration,
        rank: Rank,
        failed: Failed,
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &self.roster else { return };
        let Failed { position, error, exit_code } = failed;
        let text = format!("worker {} failed: {error}", roster.name(rank));
        if matches!(exit_code, exit::BAD_INPUT | exit::NON_FINITE | exit::DIVERGED) {
            // What is wrong is wrong for everybody.
            let position = position.max(self.position);
            let outcome = Outcome::failed(exit_code, format!("{text}, at {position}"));
            let outcome = outcome.with_hint(self.resume_hint());
            self.say_progress(effects);
            return self.close(now, outcome, effects);
        }
        let Some(connection) = roster.connection(rank) else { return };
        let Some(member) = self.members.remove(connection) else { return };
        let order = Order::Shutdown { reason: error.clone(), exit_code };
        effects.push(Effect::Send { to: connection, order });
        let name = member.name().to_owned();
        effects.push(Effect::Log(Note::Lost { name, why: error }));
        self.lost(now, text, exit_code, effects);
    }

    /// A worker counts as lost, whether its call is still there or not.
    pub(super) fn lose(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        loss: Loss,
        effects: &mut Vec<Effect>,
    ) {
        let name = self.name_of(connection);
        if self.members.remove(connection).is_some() {
            // It may be deaf as well as mute; if not, it learns that nobody counts on it.
            let reason = format!("the coordinator gave this worker up: {loss}");
            let order = Order::Shutdown { reason, exit_code: exit::WORKER_LOST };
            effects.push(Effect::Send { to: connection, order });
        }
        effects.push(Effect::Log(Note::Lost { name: name.clone(), why: loss.to_string() }));
        let text = format!("worker {name} was lost: {loss}");
        self.lost(now, text, exit::WORKER_LOST, effects);
    }

    /// One of the generation is not there any more.
    pub(super) fn lost(
        &mut self,
        now: Duration,
        text: String,
        exit_code: u8,
        effects: &mut Vec<Effect>,
    ) {
        self.last_loss = Some((text.clone(), exit_code));
        match self.phase {
            Phase::Regrouping { .. } => self.regroup_if_complete(now, effects),
            _ => self.break_up(now, text, effects),
        }
    }

    /// Ends the generation: who is still in its ring is told to leave it.
    pub(super) fn break_up(&mut self, now: Duration, reason: String, effects: &mut Vec<Effect>) {
        let Some(generation) = self.generation() else { return };
        for to in self.staying() {
            let order = Order::EndGeneration { generation, reason: reason.clone() };
            effects.push(Effect::Send { to, order });
        }
        self.enter_regrouping(now, reason, false, effects);
        self.regroup_if_complete(now, effects);
    }

    fn enter_regrouping(
        &mut self,
        now: Duration,
        reason: String,
        agreed: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(generation) = self.generation() else { return };
        self.say_progress(effects);
        effects.push(Effect::Log(Note::Regrouping { generation, reason, agreed }));
        self.phase = Phase::Regrouping { until: now + self.plan.deadlines.prepare };
        self.regroup_ordered = false;
    }

    /// Those of the generation that are connected.
    pub(super) fn seated(&self) -> Vec<ConnectionId> {
        let Some(roster) = &self.roster else { return Vec::new() };
        let connections = roster.connections().map(|it| it.1);
        connections.filter(|it| self.members.get(*it).is_some()).collect()
    }

    /// Those of the generation that are connected and still in its ring.
    fn staying(&self) -> Vec<ConnectionId> {
        let Some(roster) = &self.roster else { return Vec::new() };
        let all = roster.connections().filter(|it| !roster.has_left(it.0)).map(|it| it.1);
        all.filter(|it| self.members.get(*it).is_some()).collect()
    }

    pub(super) fn regroup_if_complete(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Regrouping { .. }) && self.staying().is_empty() {
            self.next_generation(now, effects);
        }
    }

    /// Some computed for too long, or hang.
    pub(super) fn not_left(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waited = self.plan.deadlines.prepare;
        for connection in self.staying() {
            self.lose(now, connection, Loss::NotLeft(waited), effects);
        }
    }

    /// Forms the next generation of who is there, or waits for more, or ends the job.
    pub(super) fn next_generation(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let going = self.members.which(|it| it.cleared && it.leaving);
        let staying = self.members.candidates();
        if staying.is_empty() && going.is_empty() && self.stop.is_some() {
            return self.nobody_is_left(now, effects);
        }
        if staying.is_empty() && !going.is_empty() {
            // They are the last ones: what they hold must not go with them.
            let reason = "all workers were asked to leave".to_owned();
            self.stop.get_or_insert((reason, exit::STOPPED));
            return self.form(now, &going, true, effects);
        }
        // What only those hold who want to go is kept before they may.
        if self.members.newest(&staying) < self.members.newest(&going) {
            let mut all = [going, staying].concat();
            // Those who have nothing yet wait for a place.
            all.sort_by_key(|it| !self.holds(*it));
            all.truncate(self.plan.workers as usize);
            return self.form(now, &all, self.stop.is_some(), effects);
        }
        for to in going {
            self.let_go(to, effects);
        }
        let (have, need) = (staying.len() as u32, self.plan.min_workers);
        if have >= need || self.stop.is_some() {
            return self.form(now, &staying, self.stop.is_some(), effects);
        }
        effects.push(Effect::Log(Note::TooFew { have, need }));
        self.phase = Phase::Waiting { until: now + self.plan.deadlines.join };
    }

    /// Nobody came to make up for those who were lost: what the others hold is kept.
    pub(super) fn too_few_came(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.members.is_empty() {
            return self.nobody_is_left(now, effects);
        }
        let (have, need) = (self.members.candidates(), self.plan.min_workers);
        let waited = self.plan.deadlines.join.as_secs_f64();
        let lost = self.last_loss.as_ref().map_or(String::new(), |it| format!("{}; ", it.0));
        let reason = format!(
            "{lost}{} of {need} workers (cluster.min_workers) were there after {waited:.0} s",
            have.len()
        );
        if self.members.newest(&have).is_none() {
            // There is nothing to keep.
            let outcome = Outcome::failed(exit::WORKER_LOST, reason);
            let outcome = outcome.with_hint(self.resume_hint());
            return self.close(now, outcome, effects);
        }
        self.stop = Some((reason, exit::WORKER_LOST));
        self.next_generation(now, effects);
    }

    pub(super) fn nobody_is_left(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let (text, exit_code) = self
            .last_loss
            .clone()
            .unwrap_or_else(|| ("all workers have left".to_owned(), exit::WORKER_LOST));
        let message = format!("{text}, at {}; nobody is left", self.position);
        let outcome = Outcome::failed(exit_code, message).with_hint(self.resume_hint());
        self.close(now, outcome, effects);
    }

    /// Makes a generation of these and tells them their places.
    pub(super) fn form(
        &mut self,
        now: Duration,
        of: &[ConnectionId],
        stop: bool,
        effects: &mut Vec<Effect>,
    ) {
        let mut owes_checkpoint = self.owes_checkpoint;
        self.outage.end_generation();
        for position in self.checkpoints.end_generation() {
            let why = Abandoned::GenerationOver;
            effects.push(Effect::Log(Note::CheckpointAbandoned { position, why }));
            owes_checkpoint = true;
        }
        self.generations += 1;
        let generation = Generation { term: self.plan.term, counter: self.generations };
        let manifest = self.checkpoints.last.as_ref();
        let origin = Reached {
            position: manifest.map_or(self.plan.start.position, |it| it.position),
            evaluated: false,
        };
        // What was restored and not compared yet is restored again, with its digest.
        let restored = |it: &Reached| !self.compared && *it == origin;
        let newest = self.members.newest(of).filter(|it| !restored(it));
        let start = newest.unwrap_or(origin);
        let manifest = manifest.map(|it| it.path.clone());
        if newest.is_none() {
            self.compared = false;
        }
        let mut workers = Vec::new();
        for connection in of {
            let Some(member) = self.members.get_mut(*connection) else { continue };
            owes_checkpoint |= std::mem::take(&mut member.owes_checkpoint);
            let seat = Seat {
                name: member.name().to_owned(),
                ring_address: member.hello.ring_address.clone(),
            };
            workers.push((*connection, seat));
        }
        self.owes_checkpoint = owes_checkpoint;
        let mut roster = Roster::new(generation, (start, newest.is_none()), workers);
        if roster.fresh {
            roster.restores.clone_from(&self.checkpoints.last_digest);
        }
        let seats = roster.seats();
        let holding = |to: &ConnectionId| self.members.get(*to).and_then(|it| it.held);
        let donors: Vec<Seat> = roster
            .connections()
            .filter(|(_, to)| newest.is_some() && holding(to) == newest)
            .filter_map(|(rank, _)| seats.get(rank.0 as usize).cloned())
            .collect();
        let donor_names: Vec<&str> = donors.iter().map(|it| it.name.as_str()).collect();
        let from = match (&newest, &manifest) {
            (Some(_), _) => format!("the state of {}", donor_names.join(", ")),
            (None, Some(path)) => path.clone(),
            (None, None) => "seed".to_owned(),
        };
        let position = start.position;
        effects.push(Effect::Log(Note::Formed {
            generation,
            roster: seats.clone(),
            position,
            from,
        }));
        let drops = self.drops.orders(position);
        for (rank, to) in roster.connections() {
            let Some(member) = self.members.get_mut(to) else { continue };
            // They come with the assignment.
            let newest_drop = drops.iter().map(|it| it.number).max().unwrap_or(0);
            member.newest_drop = member.newest_drop.max(newest_drop);
            let held = member.held.take();
            // Each donor gives to about equally many.
            let donor = donors.get(rank.0 as usize % donors.len().max(1)).cloned();
            let resume = match (newest, held, donor) {
                (Some(newest), Some(held), _) if held == newest => Resume::Keep,
                (Some(newest), Some(held), Some(donor))
                    if held.is_just_before(newest, self.plan.steps_per_epoch) =>
                {
                    Resume::Redo(donor)
                }
                (Some(_), _, Some(donor)) => Resume::State(donor),
                _ => manifest.clone().map_or(Resume::Seed, Resume::Checkpoint),
            };
            let assignment = Assignment {
                generation,
                rank,
                roster: seats.clone(),
                lineage: self.plan.lineage,
                start,
                resume,
                owes_checkpoint,
                stop,
                drops: drops.clone(),
            };
            effects.push(Effect::Send { to, order: Order::Assign(assignment) });
        }
        self.position = position;
        self.roster = Some(roster);
        self.phase = Phase::Preparing { until: now + self.plan.deadlines.prepare };
    }

    /// A worker wants to go.
    pub(super) fn wants_to_leave(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.members.get_mut(connection).filter(|it| !it.leaving) else {
            return;
        };
        (member.leaving, member.heard, member.spoke) = (true, now, true);
        let name = member.name().to_owned();
        effects.push(Effect::Log(Note::Leaving { name, reason }));
        let seated = self.seated().contains(&connection);
        match self.phase {
            // What it holds may be needed.
            Phase::Waiting { .. } if self.generations > 0 && seated => {
                if self.members.candidates().iter().any(|it| self.holds(*it)) {
                    self.let_go(connection, effects);
                } else {
                    self.next_generation(now, effects);
                }
            }
            Phase::Waiting { .. } => self.let_go(connection, effects),
            // What it holds may be needed; what is to be done follows when all have called.
            Phase::Adopting { .. } => {}
            Phase::Stopping { .. } | Phase::Finishing { .. } | Phase::Closing { .. } => {}
            _ if !seated => self.let_go(connection, effects),
            _ => self.regroup_if_due(now, effects),
        }
    }

    fn holds(&self, connection: ConnectionId) -> bool {
        self.members.get(connection).is_some_and(|it| it.held.is_some())
    }

    fn let_go(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(connection) else { return };
        effects.push(Effect::Log(Note::Drained { name: member.name().to_owned() }));
        let reason = "the others do without this worker".to_owned();
        let order = Order::Shutdown { reason, exit_code: exit::OK };
        effects.push(Effect::Send { to: connection, order });
    }

    /// Asks the running generation to end at a boundary, if somebody is ready to join it or wants
    /// to go.
    pub(super) fn regroup_if_due(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Training) {
            return;
        }
        let seated = self.seated();
        let leaves = |it: &ConnectionId| self.members.get(*it).is_some_and(|it| it.leaving);
        let leaving: Vec<ConnectionId> = seated.iter().copied().filter(leaves).collect();
        let mut joining = self.members.candidates();
        joining.retain(|it| !seated.contains(it));
        if leaving.len() == seated.len() && joining.is_empty() {
            let reason = "all workers were asked to leave".to_owned();
            return self.request_stop(now, reason, effects);
        }
        let soon = now < self.began + SETTLE;
        if self.regroup_ordered || leaving.is_empty() && (joining.is_empty() || soon) {
            return;
        }
        let Some(generation) = self.generation() else { return };
        let (joining, leaving) = (self.members.names_of(&joining), self.members.names_of(&leaving));
        let told = |what: &str, names: &[String]| match names {
            [] => None,
            names => Some(format!("{} {what}", names.join(", "))),
        };
        let reasons: Vec<String> =
            [told("joins", &joining), told("leaves", &leaving)].into_iter().flatten().collect();
        effects.push(Effect::Log(Note::RegroupOrdered { joining, leaving }));
        for to in seated {
            let order = Order::Regroup { generation, reason: reasons.join("; ") };
            effects.push(Effect::Send { to, order });
        }
        self.regroup_ordered = true;
    }
}
