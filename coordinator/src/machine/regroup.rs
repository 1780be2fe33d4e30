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
use convoy_common::ids::Rank;

use super::effect::{Effect, Order, Outcome};
use super::event::ConnectionId;
use super::note::Note;
use super::report::{Failed, Left};
use super::trouble::{Broken, Loss, Trouble};
use super::{Machine, Phase};

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
        roster.set_left(rank, left.agreed, left.kept);
        if left.held.is_some_and(|held| held > roster.start) {
            self.links.forgive();
        }
        if let Some(member) = roster.connection(rank).and_then(|it| self.members.get_mut(it)) {
            (member.held, member.owes_checkpoint) = (left.held, left.owes_checkpoint);
            member.has_unit = left.has_unit;
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
        let ends = |it: Broken| {
            let (out, stays) = (roster.connection(it.out)?, roster.connection(it.stays)?);
            Some((it, out, stays, roster.name(it.stays).to_owned()))
        };
        let broken: Vec<_> =
            self.links.broke(trouble, roster).into_iter().filter_map(ends).collect();
        if let Some((Broken { too_often: true, .. }, out, _, with)) = broken.first().cloned() {
            self.links.forgive();
            return self.lose(now, out, Loss::Link { with }, effects);
        }
        for (_, out, stays, _) in broken {
            self.try_link(now, out, stays, effects);
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
            let order = Order::Shutdown { reason, exit_code: loss.exit_code() };
            effects.push(Effect::Send { to: connection, order });
        }
        if let Some(first) = loss.bar() {
            let time = self.reach.bar(now, &name, first);
            effects.push(Effect::Log(Note::Barred { name: name.clone(), time }));
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
            Phase::Paused { .. } => self.lost_while_paused(now, effects),
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
        let complete = matches!(self.phase, Phase::Regrouping { .. }) && self.staying().is_empty();
        if complete && !self.pauses(now, effects) {
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
        let staying = self.candidates();
        if staying.is_empty() && going.is_empty() && self.stop.is_some() {
            return self.nobody_is_left(now, effects);
        }
        if staying.is_empty() && !going.is_empty() {
            // They are the last ones: what they hold must not go with them.
            let reason = "all workers were asked to leave".to_owned();
            self.stop.get_or_insert((reason, exit::STOPPED));
            let newest = self.members.newest(&going);
            let mut last = going;
            last.sort_by_key(|it| self.members.newest(&[*it]) != newest);
            for to in last.split_off(last.len().min(self.plan.max_workers as usize)) {
                self.let_go(to, effects);
            }
            return self.form(now, &last, true, effects);
        }
        // What only those hold who want to go is taken over before they may: there is a place for one of
        // them, and for one who stays, whatever happens.
        let newest = self.members.newest(&going);
        if self.members.newest(&staying) < newest {
            let places = self.plan.max_workers as usize;
            let (mut keepers, mut takers) = (going, staying);
            keepers.sort_by_key(|it| self.members.newest(&[*it]) != newest);
            keepers.truncate(places.saturating_sub(1).max(1));
            takers.sort_by_key(|it| !self.holds(*it));
            takers.truncate(places.saturating_sub(keepers.len()).max(1));
            let all = [keepers, takers].concat();
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
        let (have, need) = (self.candidates(), self.plan.min_workers);
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
}
