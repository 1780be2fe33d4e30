//! A new coordinator goes on with the generation that the one before left behind.
//!
//! ```text
//! Waiting --a worker of an earlier term calls--> Adopting --all of its generation--> Training
//! (a successor)  ------------ begins ------------>  |
//!                                                   |  |
//!                  not all in time, or half-formed -+  '- all gone again --> Waiting
//!                                                   v
//!                                              Regrouping
//! ```
//!
//! Workers step on without a coordinator, so nothing is known but what they say when they call: the
//! generation, how far they are in it, what they hold and which parts of checkpoints wait. The
//! newest generation of which somebody holds a state counts. If all of it are there and in its ring,
//! they are told so and nothing else: training has not paused. In every other case the generation is
//! ended and the next one goes on with the states that are held, as after the loss of a worker.
//! What belongs to an older generation is dropped: its history may have parted from the newer one's.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Generation, Position, Rank, Reached};

use super::admission::{self, Likeness, Refusal};
use super::effect::{Adoption, Effect, Order, Seat};
use super::event::{ConnectionId, Hello, Stage, Standing};
use super::members::Member;
use super::note::Note;
use super::pausing::Pause;
use super::report::Report;
use super::roster::Roster;
use super::{Machine, Phase};

/// A worker that has begun anew in the place of one that called no coordinator yet may have taken its name
/// from one that lives, which gets so long.
const ANEW: Duration = Duration::from_secs(2);
/// Calls that nobody has, for those of a generation who did not come.
const NOBODY: u64 = u64::MAX;

impl Standing {
    /// Whether there is a state that training could go on from.
    fn holds_a_state(&self) -> bool {
        self.held.is_some() || matches!(self.stage, Stage::Training | Stage::Ended)
    }

    fn is_in_the_ring(&self) -> bool {
        matches!(self.stage, Stage::Training | Stage::Ended)
    }
}

impl Machine {
    /// Whether what the worker has may be of use: it comes from an earlier coordinator of this run's
    /// line of history, and this one has not begun.
    pub(super) fn may_adopt(&self, hello: &Hello) -> bool {
        let undecided = match self.phase {
            Phase::Adopting { .. } => true,
            Phase::Waiting { .. } => self.generations == 0,
            _ => false,
        };
        let known = |it: &Standing| {
            let of_run = it.lineage == self.plan.lineage || Some(it.lineage) == self.plan.repeats;
            let alike = admission::compare(
                &it.fingerprint,
                self.fingerprint.as_deref(),
                self.plan.allow_mixed_numerics,
            );
            // What is older than the checkpoint that this term begins with has been left behind.
            let newest = it.held.map_or(it.position, |held| held.position.max(it.position));
            of_run
                && newest >= self.origin().position
                && it.generation.term < self.plan.term
                && it.generation.counter > 0
                && it.roster.windows(2).all(|pair| pair[0].name < pair[1].name)
                && !matches!(alike, Likeness::Other(_))
                && it.roster.get(it.rank.0 as usize).is_some_and(|seat| seat.name == hello.name)
        };
        undecided && hello.standing.as_deref().is_some_and(known)
    }

    /// Places that are kept for those of the generation who have not called yet.
    pub(super) fn reserved(&self, hello: &Hello) -> usize {
        if !matches!(self.phase, Phase::Adopting { .. }) {
            return 0;
        }
        let Some(standing) = self.counting() else { return 0 };
        let missing =
            standing.roster.iter().filter(|seat| self.members.named(&seat.name).is_none());
        missing.filter(|seat| seat.name != hello.name).count()
    }

    /// One that holds a state comes before a new worker that has its name: somebody may have started
    /// the job anew while its workers were training.
    pub(super) fn make_way_for(&mut self, hello: &Hello, effects: &mut Vec<Effect>) {
        let has_it = |it: &Member| it.name() == hello.name && it.hello.standing.is_none();
        for to in self.members.which(has_it) {
            let (name, refusal) = (hello.name.clone(), Refusal::Duplicate(hello.name.clone()));
            self.members.remove(to);
            effects.push(Effect::Log(Note::Refused { name, refusal: refusal.clone() }));
            effects.push(Effect::Refuse { to, refusal });
        }
    }

    /// One that may be adopted was let in.
    pub(super) fn called_again(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(member) = self.members.get_mut(connection)
            && let Some(standing) = member.hello.standing.as_deref()
        {
            // It was let in under its fingerprint before.
            (member.cleared, member.spoke) = (true, true);
            member.newest_drop = standing.newest_drop;
            member.leaving = standing.leaving.is_some();
            member.leave = member.leaving.then(|| (now, now + self.plan.deadlines.drain));
            if self.fingerprint.is_none() {
                self.fingerprint = Some(standing.fingerprint.clone());
                effects.push(Effect::RecordFingerprint(standing.fingerprint.clone()));
            }
        }
        if let Phase::Waiting { .. } = self.phase {
            self.phase = Phase::Adopting { until: now + self.plan.deadlines.adopt };
        }
        self.adopt_if_complete(now, effects);
    }

    /// Tells one whose state is of no use to begin as a new worker does.
    pub(super) fn start_afresh(
        &mut self,
        to: ConnectionId,
        reason: &str,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(member) = self.members.get_mut(to) {
            (member.cleared, member.held, member.hello.standing) = (false, None, None);
            let (name, reason) = (member.name().to_owned(), reason.to_owned());
            effects.push(Effect::Log(Note::StartsAfresh { name, reason: reason.clone() }));
            let order = Order::StartAfresh { reason };
            effects.push(Effect::Send { to, order });
        }
    }

    /// What those say who count; all of one generation know its roster alike.
    fn counting(&self) -> Option<&Standing> {
        let all = || self.members.iter().filter_map(|(_, it)| it.hello.standing.as_deref());
        let newest = |it: &&Standing| it.generation;
        all()
            .filter(|it| it.holds_a_state())
            .max_by_key(newest)
            .or_else(|| all().max_by_key(newest))
    }

    /// Nobody of the generation is missing, or who is missing has begun anew under its name; unless it only
    /// seems so, and one that trains calls in a moment.
    pub(super) fn adopt_if_complete(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Phase::Adopting { until } = self.phase else { return };
        let Some(standing) = self.counting() else { return };
        let there = |seat: &Seat| self.members.named(&seat.name);
        let called = |seat: &Seat| there(seat).is_some_and(|it| it.hello.standing.is_some());
        if standing.roster.iter().all(called) {
            self.adopt(now, effects);
        } else if standing.roster.iter().all(|seat| there(seat).is_some()) {
            self.phase = Phase::Adopting { until: until.min(now + ANEW) };
        }
    }

    /// Goes on with whoever of the generation is there.
    pub(super) fn adopt(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(first) = self.counting().cloned() else {
            // Those who called are gone again.
            self.phase = Phase::Waiting { until: now + self.plan.deadlines.join };
            return match self.stop.take() {
                Some((reason, _)) => self.request_stop(now, reason, effects),
                None => self.form_if_all_are_there(now, effects),
            };
        };
        let crew = self.crew(&first, effects);
        let of = |name: &str| crew.iter().find(|it| it.1.rank == rank_named(&first, name));
        let calls = first.roster.iter().zip(0..).map(|(seat, place)| {
            let call = of(&seat.name).map_or(ConnectionId(NOBODY - place), |it| it.0);
            (call, seat.clone())
        });
        // With what it began with, there is nothing to be kept yet.
        let fresh = first.start == self.origin();
        let mut roster =
            Roster::new(first.generation, (first.start, fresh), calls.collect::<Vec<_>>());
        for (call, standing) in &crew {
            let out = standing.stage == Stage::Out;
            if let Some(member) = self.members.get_mut(*call) {
                member.held = standing.held.filter(|_| out);
                member.has_unit = standing.has_unit;
                member.owes_checkpoint |= standing.owes_checkpoint;
                member.position = Some(standing.position);
            }
            if let Some(reason) = &standing.pause {
                // It ended its generation for that, or will.
                self.pause.get_or_insert(Pause::ordered(reason.clone(), now));
            }
            if out {
                let pauses = standing.pause.is_some();
                roster.set_left(standing.rank, pauses, pauses);
            }
            if let Some(reason) = &standing.stop {
                self.stop.get_or_insert((reason.clone(), exit::STOPPED));
            }
        }
        let missing: Vec<String> = first
            .roster
            .iter()
            .filter(|seat| of(&seat.name).is_none())
            .map(|seat| seat.name.clone())
            .collect();
        let generation = first.generation;
        self.generations = generation.counter;
        self.compared = crew.iter().any(|it| it.1.is_in_the_ring() || it.1.pause.is_some());
        let position = crew.iter().map(|it| it.1.position).max();
        self.position = position.unwrap_or(first.start.position);
        (self.moved, self.began) = (now, now);
        self.roster = Some(roster);
        self.phase = Phase::Training;
        let world = first.roster.len() as u32;
        let crew_trains = crew.iter().all(|it| it.1.is_in_the_ring());
        let whole = missing.is_empty()
            && first.lineage == self.plan.lineage
            && (self.plan.min_workers..=self.plan.max_workers).contains(&world)
            // Those of one generation must work by one config.
            && crew.iter().all(|it| it.1.config_digest == self.plan.resolved_digest)
            && crew_trains;
        effects.push(Effect::Log(Note::Adopted {
            generation,
            roster: first.roster.clone(),
            missing: missing.clone(),
            position: self.position,
            whole,
        }));
        let drops = self.drops.orders(first.start.position);
        for (to, _) in &crew {
            let order = Order::Adopted(Adoption { generation, drops: drops.clone() });
            effects.push(Effect::Send { to: *to, order });
        }
        self.collect_what_waited(now, generation, crew, effects);
        if !matches!(self.phase, Phase::Training) {
            return;
        }
        if !missing.is_empty() {
            self.missed(now, &missing, effects);
        } else if !whole {
            let reason = if crew_trains {
                "the coordinator has changed, and not all of the generation work by its config"
            } else {
                "the coordinator has changed, and the generation had ended"
            };
            self.break_up(now, reason.to_owned(), effects);
        } else if self.stop.is_some() {
            self.enter_stopping(now, effects);
        } else {
            self.regroup_if_due(now, effects);
        }
    }

    /// Those of the generation that counts; all others begin as new workers.
    fn crew(
        &mut self,
        first: &Standing,
        effects: &mut Vec<Effect>,
    ) -> Vec<(ConnectionId, Standing)> {
        let (mut crew, mut others) = (Vec::new(), Vec::new());
        for (call, member) in self.members.iter() {
            let Some(standing) = member.hello.standing.as_deref() else { continue };
            let alike = |it: &Standing| {
                (it.generation, it.lineage, it.start)
                    == (first.generation, first.lineage, first.start)
                    && it.roster == first.roster
            };
            if alike(standing) {
                crew.push((call, standing.clone()));
            } else {
                others.push(call);
            }
        }
        for call in others {
            let reason = format!("it is not of generation {}, which goes on", first.generation);
            self.start_afresh(call, &reason, effects);
        }
        for (call, _) in &crew {
            if let Some(member) = self.members.get_mut(*call) {
                member.hello.standing = None;
            }
        }
        crew
    }

    /// Where this term would begin, if nobody held anything.
    fn origin(&self) -> Reached {
        let kept = self.checkpoints.last.as_ref();
        let position = kept.map_or(self.plan.start.position, |it| it.position);
        Reached { position, evaluated: false }
    }

    /// Parts that were stored while no coordinator was there.
    fn collect_what_waited(
        &mut self,
        now: Duration,
        generation: Generation,
        crew: Vec<(ConnectionId, Standing)>,
        effects: &mut Vec<Effect>,
    ) {
        for (call, standing) in crew {
            if standing.lineage != self.plan.lineage {
                continue;
            }
            for part in standing.parts {
                let report = Report::PartUploaded {
                    position: part.shared.position,
                    part: Box::new(part.entry),
                    shared: part.shared,
                    took: part.took,
                    state_digest: part.state_digest,
                };
                self.hear(now, call, generation, report, effects);
            }
        }
    }

    /// Some of the generation did not call the new coordinator.
    fn missed(&mut self, now: Duration, missing: &[String], effects: &mut Vec<Effect>) {
        let waited = self.plan.deadlines.adopt.as_secs_f64();
        let why = format!(
            "it is gone, or did not call the new coordinator within {waited:.0} s of the first"
        );
        for name in missing {
            effects.push(Effect::Log(Note::Lost { name: name.clone(), why: why.clone() }));
        }
        let text = format!("worker {} was lost: {why}", missing.join(", "));
        self.lost(now, text, exit::WORKER_LOST, effects);
    }

    /// Tells those of the generation what need not be reported again.
    pub(super) fn settle_parts(&self, position: Position, effects: &mut Vec<Effect>) {
        let Some(generation) = self.generation() else { return };
        if let Phase::Closing { .. } = self.phase {
            return;
        }
        for to in self.seated() {
            effects.push(Effect::Send { to, order: Order::Settled { generation, position } });
        }
    }

    /// `1 of 2 workers of generation 1.3 have called`
    pub(super) fn calls(&self) -> String {
        let Some(standing) = self.counting() else {
            return "waits for workers that may train for the coordinator before".to_owned();
        };
        let came = |name: &str| self.members.named(name).is_some();
        let have = standing.roster.iter().filter(|seat| came(&seat.name)).count();
        let (of, generation) = (standing.roster.len(), standing.generation);
        format!("{have} of {of} workers of generation {generation} have called")
    }
}

fn rank_named(standing: &Standing, name: &str) -> Rank {
    let place = standing.roster.iter().position(|it| it.name == name);
    Rank(place.map_or(u32::MAX, |it| it as u32))
}
