//! A job in a test's hand: events go in with a time of the test's own, effects are looked at.

mod adoption;
mod drops;
mod ends;
mod joining;
mod losses;
mod operating;
mod random;
mod reaching;
mod regrouping;
mod restarts;
mod training;
mod walks;

use std::collections::BTreeMap;
use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::config::Straggler as Policy;
use convoy_common::ids::{Generation, Lineage, Position, Reached, Term};

use super::*;

/// Time between two ticks, as the engine's.
const BEAT: Duration = Duration::from_millis(500);

pub(super) fn plan(workers: u32) -> Plan {
    let seconds = Duration::from_secs;
    Plan {
        run: "test".to_owned(),
        term: Term(3),
        lineage: Lineage(1),
        succeeds: false,
        repeats: None,
        start: Start::default(),
        workers,
        min_workers: 1,
        max_workers: workers,
        straggler: Policy::Warn,
        version: "1.2.3".to_owned(),
        protocol: 1,
        config_digest: "c0".to_owned(),
        resolved_digest: "r0".to_owned(),
        threads_per_lane: 2,
        fingerprint: None,
        allow_mixed_numerics: false,
        epochs: 2,
        max_steps: None,
        steps_per_epoch: 10,
        training_images: 100,
        validation_images: 20,
        evaluation_crops: 1,
        evaluate_every_epochs: 1,
        rate_moves_until: 0,
        log_every_steps: 5,
        deadlines: Deadlines::new(seconds(60), seconds(30), seconds(3), seconds(10)),
        fp32: true,
    }
}

pub(super) fn hello(name: &str) -> Hello {
    Hello {
        version: "1.2.3".to_owned(),
        protocol: 1,
        name: name.to_owned(),
        ring_address: "127.0.0.1:4000".to_owned(),
        device: "cpu".to_owned(),
        lanes: 1,
        pid: 7,
        expect_config: None,
        cores: Some(4),
        bf16_units: false,
        standing: None,
    }
}

pub(super) fn at(epoch: u32, step: u32) -> Position {
    Position { epoch, step }
}

pub(super) fn id(number: u64) -> ConnectionId {
    ConnectionId(number)
}

pub(super) fn shared(position: Position) -> SharedState {
    SharedState {
        position,
        global_step: position.global_step(10),
        schedule: Default::default(),
        samples_seen: 10,
        last_loss: Some(1.0),
        world: 2,
        evaluations: Default::default(),
    }
}

pub(super) fn part(position: Position, rank: u64) -> Report {
    part_of(position, rank, "d1")
}

/// The part of a rank that holds a state of that digest.
pub(super) fn part_of(position: Position, rank: u64, state_digest: &str) -> Report {
    let entry = PartEntry {
        name: format!("part-3-{rank}of2-x.safetensors"),
        size: 10,
        blake3: String::new(),
        slices: Vec::new(),
    };
    let took = Duration::from_secs(1);
    Report::PartUploaded {
        position,
        part: Box::new(entry),
        shared: shared(position),
        took,
        state_digest: state_digest.to_owned(),
    }
}

pub(super) fn part_failed(position: Position, error: &str) -> Report {
    Report::PartFailed { position, error: error.to_owned(), state_digest: "d1".to_owned() }
}

pub(super) fn step_at(position: Position) -> StepReport {
    StepReport {
        position,
        samples: 10,
        loss: 2.0,
        correct: 5,
        learning_rate: 0.01,
        times: StepTimes { total: 0.5, ..StepTimes::default() },
        bytes_sent: 1000,
        cache: None,
    }
}

pub(super) fn end(position: Position, cause: Cause) -> Report {
    Report::Finished(Finished {
        position,
        cause,
        detail: String::new(),
        state_digest: "d1".to_owned(),
    })
}

pub(super) fn failed(exit_code: u8) -> Report {
    let error = "the disk is gone".to_owned();
    Report::Failed(Failed { position: at(0, 4), error, exit_code })
}

pub(super) fn reached(epoch: u32, step: u32) -> Reached {
    Reached { position: at(epoch, step), evaluated: false }
}

/// A worker leaves a broken ring.
pub(super) fn left(held: Reached, blame: Option<&str>) -> Report {
    Report::Left(Left {
        held: Some(held),
        has_unit: true,
        blame: blame.map(str::to_owned),
        error: "the ring broke".to_owned(),
        ..Left::default()
    })
}

/// A worker leaves the ring at a boundary that all agreed on.
pub(super) fn agreed(held: Reached) -> Report {
    Report::Left(Left { held: Some(held), agreed: true, has_unit: true, ..Left::default() })
}

/// The same with a snapshot.
pub(super) fn agreed_kept(held: Reached) -> Report {
    let left = Left { held: Some(held), agreed: true, kept: true, ..Left::default() };
    Report::Left(Left { has_unit: true, ..left })
}

pub(super) fn beat_at(position: Position, phase: String) -> Report {
    Report::Heartbeat { position, phase, vitals: Vitals::default() }
}

pub(super) fn ready() -> Report {
    Report::Ready { state_digest: "d0".to_owned() }
}

/// As one says it who keeps its state.
pub(super) fn ready_as_before() -> Report {
    Report::Ready { state_digest: String::new() }
}

pub(super) fn kept(position: Position) -> Kept {
    let path = format!("checkpoints/1/{:012}/manifest.json", position.global_step(10));
    Kept { position, path, bytes: 20, took: Some(Duration::from_secs(2)) }
}

/// Workers a, b, c ... have the calls 0, 1, 2 ...
pub(super) struct Job {
    pub(super) machine: Machine,
    pub(super) now: Duration,
    pub(super) effects: Vec<Effect>,
    history: Vec<(Event, Vec<Effect>)>,
}

impl Job {
    pub(super) fn new(plan: Plan) -> Self {
        let machine = Machine::new(plan, Duration::ZERO);
        Self { machine, now: Duration::ZERO, effects: Vec::new(), history: Vec::new() }
    }

    /// All have joined.
    pub(super) fn preparing(workers: u32) -> Self {
        Self::preparing_with(plan(workers))
    }

    pub(super) fn preparing_with(plan: Plan) -> Self {
        let workers = plan.workers;
        let mut job = Self::new(plan);
        for number in 0..workers {
            job.join(number);
        }
        job
    }

    /// All are ready.
    pub(super) fn training(workers: u32) -> Self {
        Self::training_with(plan(workers))
    }

    pub(super) fn training_with(plan: Plan) -> Self {
        let mut job = Self::preparing_with(plan);
        job.all_say(|_| Report::Ready { state_digest: "d0".to_owned() });
        assert_eq!(job.phase(), "training");
        job
    }

    /// The effects of one event; invariants hold after each.
    pub(super) fn on(&mut self, event: Event) -> &mut Self {
        self.effects = self.machine.step(self.now, event.clone());
        self.history.push((event, self.effects.clone()));
        assert_eq!(invariants::of_state(&self.machine), Ok(()), "{:?}", self.history);
        assert_eq!(invariants::of_history(&self.history), Ok(()), "{:?}", self.history);
        self
    }

    /// A worker joins and computes what all others do; the effects are those of both.
    pub(super) fn join(&mut self, number: u32) -> &mut Self {
        let name = char::from(b'a' + number as u8).to_string();
        let connection = id(number.into());
        self.join_as(connection, hello(&name), "f0")
    }

    /// A worker that was lost joins again; its call is the old one's plus 10.
    pub(super) fn rejoin(&mut self, number: u32) -> &mut Self {
        let name = char::from(b'a' + number as u8).to_string();
        self.join_as(id(u64::from(number) + 10), hello(&name), "f0")
    }

    pub(super) fn join_as(
        &mut self,
        connection: ConnectionId,
        hello: Hello,
        fingerprint: &str,
    ) -> &mut Self {
        let mut all = std::mem::take(&mut self.on(Event::Joined { connection, hello }).effects);
        let fingerprint = fingerprint.to_owned();
        all.append(&mut self.on(Event::Computed { connection, fingerprint }).effects);
        all.append(&mut self.answer_probes(&all.clone()));
        self.effects = all;
        self
    }

    /// The same for whoever was asked just now; what follows comes on top.
    pub(super) fn reach_all(&mut self) -> &mut Self {
        let mut all = std::mem::take(&mut self.effects);
        let more = self.answer_probes(&all);
        all.extend(more);
        self.effects = all;
        self
    }

    /// Whoever is asked whom it can reach reaches all; gives what follows from that.
    pub(super) fn answer_probes(&mut self, effects: &[Effect]) -> Vec<Effect> {
        let mut all = Vec::new();
        let mut last = effects.to_vec();
        while !last.is_empty() {
            let mut next = Vec::new();
            for effect in last {
                if let Effect::Send { to: connection, order: Order::Probe { number, .. } } = effect
                {
                    let unreachable = Vec::new();
                    let probed = Event::Probed { connection, number, unreachable };
                    next.append(&mut self.on(probed).effects);
                }
            }
            all.extend(next.iter().cloned());
            last = next;
        }
        all
    }

    pub(super) fn say(&mut self, number: u64, report: Report) -> &mut Self {
        let generation = self.machine.generation().unwrap_or_default();
        self.on(Event::Said { connection: id(number), generation, report })
    }

    /// Everybody says it; the effects are those of all.
    pub(super) fn all_say(&mut self, report: impl Fn(u64) -> Report) -> &mut Self {
        let mut all = Vec::new();
        for number in 0..u64::from(self.machine.plan.workers) {
            all.append(&mut self.say(number, report(number)).effects);
        }
        self.effects = all;
        self
    }

    pub(super) fn gone(&mut self, number: u64) -> &mut Self {
        self.on(Event::Gone { connection: id(number), why: Departure::Closed })
    }

    /// Lets time pass; those `alive` keep their hearts beating. The effects are those of all of it.
    pub(super) fn pass(&mut self, time: Duration, alive: &[u64]) -> &mut Self {
        let until = self.now + time;
        let mut all = Vec::new();
        while self.now < until {
            self.now = until.min(self.now + BEAT);
            for number in alive {
                let (position, phase) = (at(0, 0), "idle".to_owned());
                all.append(&mut self.say(*number, beat_at(position, phase)).effects);
            }
            all.append(&mut self.on(Event::Tick).effects);
        }
        self.effects = all;
        self
    }

    pub(super) fn phase(&self) -> &'static str {
        self.machine.status(self.now).phase
    }

    pub(super) fn generation(&self) -> Generation {
        self.machine.generation().expect("a generation")
    }

    pub(super) fn orders(&self) -> Vec<(u64, &Order)> {
        let orders = self.effects.iter().filter_map(|effect| match effect {
            Effect::Send { to, order } => Some((to.0, order)),
            _ => None,
        });
        orders.collect()
    }

    pub(super) fn notes(&self) -> Vec<&Note> {
        let notes = self.effects.iter().filter_map(|effect| match effect {
            Effect::Log(note) => Some(note),
            _ => None,
        });
        notes.collect()
    }

    /// What each worker is told to begin with.
    pub(super) fn assignments(&self) -> BTreeMap<u64, &Assignment> {
        let orders = self.orders().into_iter().filter_map(|(to, order)| match order {
            Order::Assign(assignment) => Some((to, assignment)),
            _ => None,
        });
        orders.collect()
    }

    /// Who is told to leave its generation at once.
    pub(super) fn ended(&self) -> Vec<u64> {
        let orders = self.orders().into_iter();
        orders.filter(|it| matches!(it.1, Order::EndGeneration { .. })).map(|it| it.0).collect()
    }

    /// Who is told to leave its generation at a boundary.
    pub(super) fn regrouped(&self) -> Vec<u64> {
        let orders = self.orders().into_iter();
        orders.filter(|it| matches!(it.1, Order::Regroup { .. })).map(|it| it.0).collect()
    }

    /// These say it, in this order; the effects are those of all.
    pub(super) fn these_say(&mut self, who: &[u64], report: impl Fn(u64) -> Report) -> &mut Self {
        let mut all = Vec::new();
        for number in who {
            all.append(&mut self.say(*number, report(*number)).effects);
        }
        self.effects = all;
        self
    }

    /// The exit code in each worker's last order.
    pub(super) fn dismissals(&self) -> Vec<(u64, u8)> {
        let code = |(to, order)| match order {
            &Order::Shutdown { exit_code, .. } => Some((to, exit_code)),
            _ => None,
        };
        self.orders().into_iter().filter_map(code).collect()
    }

    pub(super) fn publications(&self) -> Vec<&Publication> {
        let publications = self.effects.iter().filter_map(|effect| match effect {
            Effect::Publish(publication) => Some(&**publication),
            _ => None,
        });
        publications.collect()
    }

    /// Everybody leaves, and the job ends.
    pub(super) fn outcome(&mut self) -> Outcome {
        for number in 0..8 {
            self.gone(number);
        }
        if self.phase() == "waiting" {
            self.pass(DESERTED, &[]);
        }
        self.machine.outcome().cloned().unwrap_or_else(|| panic!("no outcome: {}", self.phase()))
    }
}
