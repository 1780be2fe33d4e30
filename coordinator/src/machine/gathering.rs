//! From the first worker to the first step: joining, assigning, getting ready.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::Rank;

use super::admission::{self, Door, Likeness};
use super::effect::{Effect, Order, Outcome};
use super::event::{ConnectionId, Hello};
use super::note::Note;
use super::roster::Roster;
use super::trouble::Loss;
use super::{Machine, Phase};

impl Machine {
    pub(super) fn join(
        &mut self,
        now: Duration,
        to: ConnectionId,
        hello: Hello,
        effects: &mut Vec<Effect>,
    ) {
        let ending = matches!(
            self.phase,
            Phase::Stopping { .. }
                | Phase::Finishing { .. }
                | Phase::Closing { .. }
                | Phase::Ended { .. }
        );
        let adopts = self.may_adopt(&hello);
        if adopts {
            self.make_way_for(&hello, effects);
        }
        let taken = self.members.which(|it| !it.leaving).len() + self.reserved(&hello);
        let door = if ending || self.stop.is_some() && !adopts {
            Door::Ending
        } else if taken >= self.plan.max_workers as usize {
            // Some may have yet to say what they compute; their places are taken all the same. Those
            // who want to go make room.
            Door::Full
        } else {
            Door::Open
        };
        if let Err(refusal) = admission::decide(&hello, &self.plan, &self.members, door) {
            // A name that was refused for its form is not fit for a log either.
            let name = hello.name.escape_debug().take(64).collect();
            effects.push(Effect::Log(Note::Refused { name, refusal: refusal.clone() }));
            effects.push(Effect::Refuse { to, refusal });
            return;
        }
        let stale = !adopts && hello.standing.is_some();
        self.members.add(to, hello.clone(), now);
        let (have, need) = (self.members.len(), self.plan.workers);
        effects.push(Effect::Log(Note::Joined { hello, have, need }));
        effects.push(Effect::Send { to, order: Order::Welcome });
        if adopts {
            self.called_again(now, to, effects);
        } else if stale {
            self.start_afresh(to, "the job has gone on without this worker", effects);
        }
    }

    /// A worker that was taken has computed its fingerprint.
    pub(super) fn computed(
        &mut self,
        now: Duration,
        to: ConnectionId,
        fingerprint: String,
        effects: &mut Vec<Effect>,
    ) {
        let over = matches!(self.phase, Phase::Closing { .. } | Phase::Ended { .. });
        let Some(member) = self.members.get_mut(to).filter(|it| !over && !it.cleared) else {
            return;
        };
        (member.heard, member.spoke) = (now, true);
        let name = member.name().to_owned();
        let of_run = self.fingerprint.as_deref();
        let mut differs = None;
        match admission::compare(&fingerprint, of_run, self.plan.allow_mixed_numerics) {
            Likeness::First => {
                self.fingerprint = Some(fingerprint.clone());
                effects.push(Effect::RecordFingerprint(fingerprint.clone()));
            }
            Likeness::Same => {}
            Likeness::Tolerated => differs = self.fingerprint.clone(),
            Likeness::Other(refusal) => {
                self.members.remove(to);
                effects.push(Effect::Log(Note::Refused { name, refusal: refusal.clone() }));
                effects.push(Effect::Refuse { to, refusal });
                return;
            }
        }
        member.cleared = true;
        effects.push(Effect::Log(Note::Fingerprint { name, fingerprint, of_run: differs }));
        self.probe_if_due(now, effects);
        match self.phase {
            Phase::Waiting { .. } if self.generations > 0 => self.look_again(now, effects),
            Phase::Waiting { .. } => self.form_if_all_are_there(now, effects),
            _ => self.regroup_if_due(now, effects),
        }
    }

    /// Forms the first generation, once there are enough for it.
    pub(super) fn form_if_all_are_there(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let all = self.candidates();
        if (all.len() as u32) < self.plan.workers {
            return;
        }
        // The precision of a run is fixed with its first step: later the word would come too late.
        let new = self.plan.start.checkpoint.is_none() && self.plan.fp32;
        if new && self.members.iter().all(|(_, it)| it.hello.bf16_units) {
            effects.push(Effect::Log(Note::Bf16Possible));
        }
        self.form(now, &all, false, effects);
    }

    /// One more is there while the job waits for enough to go on.
    pub(super) fn look_again(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.candidates().len() as u32 >= self.plan.min_workers {
            self.next_generation(now, effects);
        }
    }

    pub(super) fn ready(
        &mut self,
        now: Duration,
        rank: Rank,
        state_digest: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &mut self.roster else { return };
        roster.set_ready(rank, state_digest);
        let (name, ready, of) = (roster.name(rank).to_owned(), roster.ready(), roster.world());
        effects.push(Effect::Log(Note::Ready { name, ready, of }));
        if ready == of {
            self.begin(now, effects);
        }
    }

    /// Begins if all hold the bits that they should.
    fn begin(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(roster) = &self.roster else { return };
        let generation = roster.generation;
        let state_digest = match roster.agreed_state() {
            Ok(state_digest) => state_digest,
            Err(groups) => {
                let outcome = self.different_states(roster, &groups);
                return self.close(now, outcome, effects);
            }
        };
        if let Some(expected) = &roster.restores
            && *expected != state_digest
        {
            let outcome = Outcome::failed(
                exit::FAILURE,
                format!(
                    "all workers restored a state of digest {state_digest}, but that of the \
                     checkpoint is {expected}"
                ),
            );
            let outcome =
                outcome.with_hint("run the version of Convoy that wrote the checkpoint".to_owned());
            return self.close(now, outcome, effects);
        }
        for (_, to) in roster.connections() {
            effects.push(Effect::Send { to, order: Order::Begin(generation) });
        }
        effects.push(Effect::Log(Note::Began { generation, state_digest }));
        (self.moved, self.began, self.compared) = (now, now, true);
        self.forget_pause_orders();
        if self.desk.wants_checkpoint() {
            self.order_checkpoint(effects);
        }
        if self.stop.is_some() {
            self.enter_stopping(now, effects);
        } else {
            self.phase = Phase::Training;
            self.pause_if_due(now, effects);
            self.regroup_if_due(now, effects);
        }
    }

    fn different_states(&self, roster: &Roster, groups: &[(String, Vec<Rank>)]) -> Outcome {
        let odd = roster.odd(groups);
        Outcome::failed(
            exit::FAILURE,
            format!(
                "workers do not hold equal states before the first step; odd: {} ({})",
                roster.tell_names(&odd),
                roster.tell(groups)
            ),
        )
        .with_hint(
            "the same libtorch and the same kind of processor are needed on all machines"
                .to_owned(),
        )
    }

    pub(super) fn nobody_came(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.generations > 0 {
            return self.too_few_came(now, effects);
        }
        let waited = self.plan.deadlines.join.as_secs_f64();
        let message = format!("{} after {waited:.0} s", self.attendance());
        let outcome = Outcome::failed(exit::UNAVAILABLE, message).with_hint(
            "start the missing workers with `convoy-worker join --coordinator ADDRESS`, or set \
             cluster.workers or cluster.join_timeout otherwise"
                .to_owned(),
        );
        self.close(now, outcome, effects);
    }

    /// `1 of 2 workers joined (a)`
    pub(super) fn attendance(&self) -> String {
        let names = self.members.names();
        let (have, mut need) = (names.len(), self.plan.workers);
        if self.generations > 0 {
            need = self.plan.min_workers;
        }
        let names =
            if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
        match self.generations {
            0 => format!("{have} of {need} workers joined{names}"),
            _ => format!("{have} of {need} workers needed to go on are there{names}"),
        }
    }

    pub(super) fn not_ready(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let late = self.roster.as_ref().map(Roster::not_ready).unwrap_or_default();
        let of = |rank| self.roster.as_ref().and_then(|it| it.connection(rank));
        let late: Vec<ConnectionId> = late.into_iter().filter_map(of).collect();
        for connection in late {
            self.lose(now, connection, Loss::NotReady(self.plan.deadlines.prepare), effects);
        }
    }
}
