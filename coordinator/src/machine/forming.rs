//! Makes a generation of those who are there, and tells each what to begin with.

use std::time::Duration;

use convoy_common::ids::{Generation, Reached};

use super::effect::{Assignment, Effect, Order, Resume, Seat};
use super::event::ConnectionId;
use super::note::{Abandoned, Note};
use super::roster::Roster;
use super::{Machine, Phase};

impl Machine {
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
        let donors_who = |fits: &dyn Fn(&ConnectionId) -> bool| -> Vec<Seat> {
            roster
                .connections()
                .filter(|(_, to)| newest.is_some() && holding(to) == newest && fits(to))
                .filter_map(|(rank, _)| seats.get(rank.0 as usize).cloned())
                .collect()
        };
        let donors = donors_who(&|_| true);
        // Who took over the newest state from a peer cannot tell how it came about.
        let tellers = donors_who(&|to| self.members.get(*to).is_some_and(|it| it.has_unit));
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
            let one_of = |all: &[Seat]| all.get(rank.0 as usize % all.len().max(1)).cloned();
            let resume = match (newest, held, one_of(&tellers), one_of(&donors)) {
                (Some(newest), Some(held), ..) if held == newest => Resume::Keep,
                (Some(newest), Some(held), Some(teller), _)
                    if held.is_just_before(newest, self.plan.steps_per_epoch) =>
                {
                    Resume::Redo(teller)
                }
                (Some(_), _, _, Some(donor)) => Resume::State(donor),
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
}
