//! What always holds, as pure functions: tests apply them to whatever they do, debug builds of the
//! engine to every step.

use std::collections::{BTreeMap, BTreeSet};

use convoy_common::exit;
use convoy_common::ids::{Generation, Position, Reached};

use super::checkpoints::LIMIT;
use super::{
    Cause, ConnectionId, Effect, Event, Machine, Order, Phase, Publication, Report, Resume, Stage,
    Standing,
};

/// The first invariant of a state that does not hold, by name.
pub fn of_state(machine: &Machine) -> Result<(), &'static str> {
    let names = machine.members.names();
    let unique: BTreeSet<&String> = names.iter().collect();
    check(unique.len() == names.len(), "no two workers have one name")?;
    let stay = machine.members.which(|it| !it.leaving).len();
    check(stay <= machine.plan.max_workers as usize, "there are no more workers than places")?;
    check(
        machine.checkpoints.collecting() <= LIMIT,
        "checkpoints on their way are bounded in number",
    )?;
    let early = matches!(
        machine.phase,
        Phase::Waiting { .. }
            | Phase::Adopting { .. }
            | Phase::Closing { .. }
            | Phase::Ended { .. }
    );
    check(early || machine.roster.is_some(), "nothing trains without a roster")?;
    if let Some(roster) = &machine.roster {
        let seats = roster.seats();
        check(seats.windows(2).all(|pair| pair[0].name < pair[1].name), "ranks follow the names")?;
        // That of an earlier coordinator may have had more.
        let own = roster.generation.term == machine.plan.term;
        check(
            !own || roster.world() <= machine.plan.max_workers + 1,
            "a generation has no more than all places, and one that hands over its state",
        )?;
        let runs = matches!(
            machine.phase,
            Phase::Preparing { .. } | Phase::Training | Phase::Stopping { .. }
        );
        let seated = machine.seated().len() as u32;
        check(!runs || seated == roster.world(), "who is in a running generation is connected")?;
        let paused = matches!(machine.phase, Phase::Paused { .. });
        check(
            !paused || roster.connections().all(|it| roster.has_left(it.0)),
            "nobody is in a ring while the job is paused",
        )?;
        check(
            paused <= machine.pause.is_some() && !(paused && machine.stop.is_some()),
            "a job is paused because somebody wants it and nobody wants its end",
        )?;
        let trains = matches!(machine.phase, Phase::Training);
        check(
            !trains || roster.world() >= machine.plan.min_workers,
            "below min_workers nothing trains",
        )?;
    }
    Ok(())
}

/// The first invariant of a history that does not hold, by name.
pub fn of_history(history: &[(Event, Vec<Effect>)]) -> Result<(), &'static str> {
    let mut seen = Seen::default();
    for (event, effects) in history {
        seen.event(event);
        for effect in effects {
            seen.effect(effect)?;
        }
    }
    Ok(())
}

/// What a history has shown so far.
#[derive(Debug, Default)]
struct Seen {
    welcome: BTreeSet<ConnectionId>,
    dismissed: BTreeSet<ConnectionId>,
    assigned: BTreeMap<ConnectionId, Generation>,
    generation: Option<Generation>,
    /// How many each has.
    worlds: BTreeMap<Generation, usize>,
    /// What each call said to have of an earlier coordinator's generation.
    standings: BTreeMap<ConnectionId, Standing>,
    /// What each call held when it left a generation.
    left: BTreeMap<(Generation, ConnectionId), Option<Reached>>,
    /// The digest that each call said to be ready with.
    ready: BTreeMap<(Generation, ConnectionId), String>,
    completed: BTreeSet<ConnectionId>,
    publications: BTreeSet<String>,
    /// Of the state that each call said to hold at each checkpoint.
    digests: BTreeMap<ConnectionId, BTreeMap<Position, (Generation, String)>>,
    fingerprints: u32,
    ended: bool,
}

impl Seen {
    fn event(&mut self, event: &Event) {
        if let Event::Joined { connection, hello } = event
            && let Some(standing) = hello.standing.as_deref()
        {
            self.standings.insert(*connection, standing.clone());
        }
        let Event::Said { connection, generation, report } = event else { return };
        match report {
            Report::Ready { state_digest } => {
                self.ready.insert((*generation, *connection), state_digest.clone());
            }
            Report::Left(left) => {
                // What is said twice was dropped the second time.
                self.left.entry((*generation, *connection)).or_insert(left.held);
            }
            // Whoever has no place in the generation holds nothing of it.
            Report::PartUploaded { position, state_digest, .. }
                if self.assigned.get(connection) == Some(generation) =>
            {
                let digests = self.digests.entry(*connection).or_default();
                digests.insert(*position, (*generation, state_digest.clone()));
            }
            Report::Finished(end) if end.cause == Cause::Completed => {
                self.completed.insert(*connection);
            }
            _ => {}
        }
    }

    fn effect(&mut self, effect: &Effect) -> Result<(), &'static str> {
        check(!self.ended, "nothing follows the end")?;
        match effect {
            Effect::Send { to, order } => self.order(*to, order),
            Effect::Refuse { to, .. } => {
                check(
                    !self.assigned.contains_key(to),
                    "nobody is refused after being given a rank",
                )?;
                check(self.dismissed.insert(*to), "nobody is dismissed twice")
            }
            Effect::Publish(publication) => self.publication(publication),
            Effect::End(outcome) => {
                self.ended = true;
                let world = self.generation.and_then(|it| self.worlds.get(&it).copied());
                check(
                    outcome.exit_code != exit::OK || Some(self.completed.len()) >= world,
                    "a job succeeds only if every rank completed",
                )
            }
            Effect::RecordFingerprint(_) => {
                self.fingerprints += 1;
                check(self.fingerprints == 1, "a run's fingerprint is recorded once")
            }
            Effect::Prune { .. }
            | Effect::LogDrop { .. }
            | Effect::RecordDrop { .. }
            | Effect::Log(_) => Ok(()),
        }
    }

    fn order(&mut self, to: ConnectionId, order: &Order) -> Result<(), &'static str> {
        check(!self.dismissed.contains(&to), "nobody is told anything after being dismissed")?;
        check(
            self.welcome.contains(&to) || *order == Order::Welcome,
            "the first order is a welcome",
        )?;
        match order {
            Order::Welcome => check(self.welcome.insert(to), "nobody is welcomed twice"),
            Order::Assign(assignment) => {
                let generation = assignment.generation;
                check(self.generation.is_none_or(|last| last <= generation), "generations ascend")?;
                self.generation = Some(generation);
                self.worlds.insert(generation, assignment.roster.len());
                let before = self.assigned.insert(to, generation);
                let held = match before {
                    None => None,
                    Some(before) => *self
                        .left
                        .get(&(before, to))
                        .ok_or("nobody is in two generations at once")?,
                };
                let start = assignment.start;
                check(
                    held.is_none_or(|it| it <= start),
                    "a generation goes on from the newest state that its workers hold",
                )?;
                check(
                    assignment.resume != Resume::Keep || held == Some(start),
                    "who keeps its state holds the one that is gone on from",
                )
            }
            Order::Begin(generation) => {
                check(self.generation == Some(*generation), "one generation runs at a time")?;
                let mut digests = BTreeSet::new();
                for (connection, assigned) in &self.assigned {
                    if assigned == generation {
                        let digest = self.ready.get(&(*generation, *connection));
                        let digest = digest.ok_or("training begins when all are ready")?;
                        // Who keeps its state does not hash it.
                        digests.extend(Some(digest).filter(|it| !it.is_empty()));
                    }
                }
                check(digests.len() <= 1, "training begins from equal bits")
            }
            Order::StopAfterStep { .. } => {
                check(self.assigned.contains_key(&to), "only who trains is told to stop")
            }
            Order::Drop(_) => {
                check(self.assigned.contains_key(&to), "only who trains is told to drop the rate")
            }
            Order::TakeCheckpoint => {
                check(self.assigned.contains_key(&to), "only who trains is told to keep its state")
            }
            Order::Probe { .. } => Ok(()),
            Order::EndGeneration { generation, .. }
            | Order::Regroup { generation, .. }
            | Order::Pause { generation, .. } => check(
                self.assigned.get(&to) == Some(generation),
                "only who is in a generation is told to leave it",
            ),
            Order::Adopted(adoption) => self.adopted(to, adoption.generation),
            Order::StartAfresh { .. } => {
                check(!self.assigned.contains_key(&to), "whoever has a place keeps its state")?;
                check(self.standings.remove(&to).is_some(), "only what is held can be dropped")
            }
            Order::Settled { generation, .. } => check(
                self.assigned.get(&to) == Some(generation),
                "only who is in a generation is told of its checkpoints",
            ),
            Order::Shutdown { .. } => {
                self.dismissed.insert(to);
                Ok(())
            }
        }
    }

    fn adopted(&mut self, to: ConnectionId, generation: Generation) -> Result<(), &'static str> {
        check(
            self.generation.is_none_or(|it| it == generation),
            "one generation is adopted, and before any is formed",
        )?;
        let standing = self.standings.get(&to).filter(|it| it.generation == generation);
        let standing = standing.ok_or("only who says to be in a generation is adopted with it")?;
        self.worlds.insert(generation, standing.roster.len());
        if standing.stage == Stage::Out {
            self.left.entry((generation, to)).or_insert(standing.held);
        }
        for part in &standing.parts {
            let digests = self.digests.entry(to).or_default();
            let said = (generation, part.state_digest.clone());
            digests.insert(part.shared.position, said);
        }
        self.generation = Some(generation);
        check(self.assigned.insert(to, generation).is_none(), "nobody is adopted twice")
    }

    fn publication(&mut self, publication: &Publication) -> Result<(), &'static str> {
        check(
            self.worlds.get(&publication.generation) == Some(&publication.parts.len()),
            "a checkpoint has the parts of all ranks",
        )?;
        let names: BTreeSet<&String> = publication.parts.iter().map(|it| &it.name).collect();
        check(names.len() == publication.parts.len(), "no part is in a checkpoint twice")?;
        for (call, digests) in &self.digests {
            // What was said in another generation was discarded with it.
            if let Some((generation, digest)) = digests.get(&publication.shared.position)
                && *generation == publication.generation
            {
                check(
                    *digest == publication.state_digest || self.dismissed.contains(call),
                    "what is published is what every rank holds",
                )?;
            }
        }
        let key = format!("{} {}", publication.generation, publication.shared.position);
        check(self.publications.insert(key), "a checkpoint is published once")
    }
}

fn check(holds: bool, name: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(name) }
}
