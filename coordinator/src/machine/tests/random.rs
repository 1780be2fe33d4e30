//! Whatever happens in whatever order, the invariants hold and the job ends.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Join(u32),
    /// Without its fingerprint.
    JoinMute(u32),
    Compute(u32, u8),
    Leave(u64),
    WantToLeave(u64),
    Say(u64, Word),
    Stale(u64, Word),
    Stop,
    Interrupt,
    Publish,
    FailToPublish,
    Drop(u8),
    Ask(u8, u8),
    /// Whoever was asked whom it reaches says so: all, or not.
    Answer(bool),
    Pass(u16),
}

#[derive(Clone, Debug)]
enum Word {
    Beat,
    Ready(u8),
    Step(u32),
    Part(u32),
    OddPart(u32),
    PartFailed(u32),
    Failed(u8),
    Left(Option<(u32, bool)>, bool, Option<u8>),
    Finished(u32, u8, u8),
    Dropped(u32, u32),
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        4 => Just(Word::Beat),
        6 => prop_oneof![9 => Just(0u8), 1 => Just(1)].prop_map(Word::Ready),
        4 => (1u32..20).prop_map(Word::Step),
        6 => (18u32..21).prop_map(Word::Part),
        1 => (18u32..21).prop_map(Word::OddPart),
        1 => (18u32..21).prop_map(Word::PartFailed),
        1 => (1u32..3, 1u32..20).prop_map(|(number, step)| Word::Dropped(number, step)),
        1 => (1u8..80).prop_map(Word::Failed),
        6 => (
            proptest::option::of((0u32..20, any::<bool>())),
            any::<bool>(),
            proptest::option::of(0u8..4),
        )
            .prop_map(|(held, agreed, blame)| Word::Left(held, agreed, blame)),
        4 => (19u32..21, 0u8..3, 0u8..8).prop_map(|(at, cause, digest)| Word::Finished(at, cause, digest)),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u32..4).prop_map(Act::Join),
        1 => (0u32..4).prop_map(Act::JoinMute),
        2 => (0u32..4, 0u8..2).prop_map(|(who, fingerprint)| Act::Compute(who, fingerprint)),
        1 => (0u64..4).prop_map(Act::Leave),
        1 => (0u64..4).prop_map(Act::WantToLeave),
        20 => (0u64..4, word()).prop_map(|(who, word)| Act::Say(who, word)),
        1 => (0u64..4, word()).prop_map(|(who, word)| Act::Stale(who, word)),
        1 => Just(Act::Stop),
        1 => prop_oneof![3 => Just(Act::Publish), 1 => Just(Act::Interrupt)],
        4 => Just(Act::Publish),
        1 => Just(Act::FailToPublish),
        1 => (0u8..3).prop_map(Act::Drop),
        2 => (0u8..4, 0u8..5).prop_map(|(what, who)| Act::Ask(what, who)),
        4 => prop_oneof![4 => Just(true), 1 => Just(false)].prop_map(Act::Answer),
        2 => (0u16..4000).prop_map(Act::Pass),
    ]
}

fn report(who: u64, word: &Word) -> Report {
    let position = |step: u32| at(step / 10, step % 10);
    match *word {
        Word::Beat => beat_at(at(0, 1), "compute".to_owned()),
        Word::Ready(digest) => Report::Ready { state_digest: digest.to_string() },
        Word::Step(step) => Report::Step(step_at(position(step))),
        Word::Part(step) => part(position(step), who),
        Word::OddPart(step) => part_of(position(step), who, "bad"),
        Word::PartFailed(step) => part_failed(position(step), "no"),
        Word::Dropped(number, step) => Report::DropApplied { number, position: position(step) },
        Word::Failed(exit_code) => {
            let error = "broken".to_owned();
            Report::Failed(Failed { position: at(0, 1), error, exit_code })
        }
        Word::Left(held, agreed, blame) => Report::Left(Left {
            held: held.map(|(step, evaluated)| Reached { position: position(step), evaluated }),
            agreed,
            owes_checkpoint: agreed,
            kept: agreed && blame.is_none(),
            has_unit: true,
            blame: blame.map(|it| char::from(b'a' + it).to_string()),
            error: "broken".to_owned(),
        }),
        Word::Finished(step, cause, digest) => Report::Finished(Finished {
            position: position(step),
            cause: [Cause::Completed, Cause::Stopped, Cause::NonFinite][usize::from(cause)],
            detail: String::new(),
            state_digest: (digest / 7).to_string(),
        }),
    }
}

/// A job with its workers' calls, of which each is used once, and manifests on their way.
struct World {
    job: Job,
    calls: [Option<u64>; 4],
    next: u64,
    publishing: Vec<Position>,
    /// Questions that wait for an answer.
    probes: Vec<(ConnectionId, u32)>,
}

fn wish(what: u8, who: u8) -> Wish {
    match what {
        0 => Wish::Checkpoint,
        1 => Wish::Pause { reason: "asked".to_owned() },
        2 => Wish::Resume,
        _ => {
            let grace = Some(Duration::from_secs(u64::from(who)));
            Wish::Drain { name: char::from(b'a' + who).to_string(), grace }
        }
    }
}

impl World {
    fn act(&mut self, act: &Act) {
        match act {
            Act::Join(who) => {
                let name = char::from(b'a' + *who as u8).to_string();
                let connection = id(self.next);
                self.calls[*who as usize] = Some(self.next);
                self.next += 1;
                self.job.on(Event::Joined { connection, hello: hello(&name) });
                let publications = self.take_publications();
                self.publishing.extend(publications);
                self.job.on(Event::Computed { connection, fingerprint: "f0".to_owned() });
            }
            Act::Compute(who, fingerprint) => {
                if let Some(call) = self.calls[*who as usize] {
                    let fingerprint = format!("f{fingerprint}");
                    self.job.on(Event::Computed { connection: id(call), fingerprint });
                }
            }
            Act::JoinMute(who) => {
                let name = char::from(b'a' + *who as u8).to_string();
                let connection = id(self.next);
                self.calls[*who as usize] = Some(self.next);
                self.next += 1;
                self.job.on(Event::Joined { connection, hello: hello(&name) });
            }
            Act::Leave(who) => {
                if let Some(call) = self.calls[*who as usize].take() {
                    self.job.gone(call);
                }
            }
            Act::WantToLeave(who) => {
                if let Some(call) = self.calls[*who as usize] {
                    let reason = "asked".to_owned();
                    self.job.on(Event::Leaving { connection: id(call), reason });
                }
            }
            Act::Say(who, word) => {
                if let Some(call) = self.calls[*who as usize] {
                    self.job.say(call, report(*who, word));
                }
            }
            Act::Stale(who, word) => {
                if let Some(call) = self.calls[*who as usize] {
                    let generation = Generation { term: Term(2), counter: 9 };
                    let report = report(*who, word);
                    self.job.on(Event::Said { connection: id(call), generation, report });
                }
            }
            Act::Stop => {
                self.job.on(Event::StopRequested { reason: "asked".to_owned() });
            }
            Act::Interrupt => {
                self.job.on(Event::Interrupted { reason: "asked".to_owned() });
            }
            Act::Publish => {
                if let Some(position) = self.publishing.pop() {
                    self.job.on(Event::ManifestPublished(kept(position)));
                }
            }
            Act::FailToPublish => {
                if let Some(position) = self.publishing.pop() {
                    self.job.on(Event::ManifestFailed { position, error: "no".to_owned() });
                }
            }
            Act::Drop(outcome) => {
                let (request, reason) = (self.next, "asked".to_owned());
                self.job.on(Event::DropOrdered { request, divide_by: 10.0, reason });
                let number = self.job.effects.iter().find_map(|effect| match effect {
                    Effect::LogDrop { drop, .. } => Some(drop.number),
                    _ => None,
                });
                match (number, outcome) {
                    (Some(number), 0) => {
                        self.job.on(Event::DropFailed { number, error: "no".to_owned() });
                    }
                    (Some(number), _) => {
                        self.job.on(Event::DropLogged { number });
                    }
                    (None, _) => {}
                }
            }
            Act::Ask(what, who) => self.ask(wish(*what, *who)),
            Act::Answer(all) => {
                if let Some((connection, number)) = self.probes.pop() {
                    let unreachable = if *all { Vec::new() } else { vec!["a".to_owned()] };
                    self.job.on(Event::Probed { connection, number, unreachable });
                }
            }
            Act::Pass(milliseconds) => {
                self.job.now += Duration::from_millis((*milliseconds).into());
                self.job.on(Event::Tick);
            }
        }
        let new = self.take_publications();
        self.publishing.extend(new);
        for (to, order) in self.job.orders() {
            if let Order::Probe { number, .. } = order {
                self.probes.push((id(to), *number));
            }
        }
    }

    fn ask(&mut self, wish: Wish) {
        let request = self.next;
        self.next += 1;
        self.job.on(Event::Asked { request, wish });
    }

    fn take_publications(&self) -> Vec<Position> {
        self.job.publications().iter().map(|it| it.shared.position).collect()
    }
}

/// A cluster whose workers do what they are told, one step after the other.
struct Cluster {
    world: World,
    /// What the worker of each call holds, and the generation that it is in.
    holds: BTreeMap<u64, (Option<Reached>, Option<Generation>)>,
    /// The newest state that there has been.
    newest: Option<Reached>,
    formed: Option<Generation>,
}

#[derive(Clone, Debug)]
enum Deed {
    Join(u32),
    Kill(u64),
    Drain(u64),
    /// All make a step, except that those from the given place on are lost before they have it.
    Step,
    /// Only some get what the others have already, and one that has it dies.
    TornStep(u8, u8),
    Pass(u16),
    Ask(u8, u8),
    /// A manifest is published.
    Publish,
    /// All wait in the ring for that one for longer than they should.
    Stall(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0u32..4).prop_map(Deed::Join),
        2 => (0u64..4).prop_map(Deed::Kill),
        1 => (0u64..4).prop_map(Deed::Drain),
        8 => Just(Deed::Step),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(some, dies)| Deed::TornStep(some, dies)),
        3 => (0u16..3000).prop_map(Deed::Pass),
        3 => (0u8..4, 0u8..4).prop_map(|(what, who)| Deed::Ask(what, who)),
        2 => Just(Deed::Publish),
        1 => any::<u8>().prop_map(Deed::Stall),
    ]
}

impl Cluster {
    /// Follows all orders until nobody has any.
    fn obey(&mut self) {
        loop {
            let new = self.world.take_publications();
            self.world.publishing.extend(new);
            let orders: Vec<(u64, Order)> =
                self.world.job.orders().into_iter().map(|(to, it)| (to, it.clone())).collect();
            self.world.job.effects.clear();
            if orders.is_empty() {
                return;
            }
            let mut more = Vec::new();
            for (to, order) in orders {
                self.follow(to, order);
                more.append(&mut self.world.job.effects);
            }
            self.world.job.effects = more;
        }
    }

    fn follow(&mut self, to: u64, order: Order) {
        match order {
            Order::Welcome => {
                self.holds.insert(to, (None, None));
            }
            Order::Assign(it) => {
                let Some((held, _)) = self.holds.get(&to).copied() else { return };
                let new = self.formed.replace(it.generation) != Some(it.generation);
                match it.resume {
                    Resume::Seed | Resume::Checkpoint(_) => {
                        assert!(self.newest.is_none() || !new, "somebody holds a state");
                    }
                    Resume::Keep => assert_eq!(held, Some(it.start)),
                    Resume::Redo(_) => {
                        assert!(held.expect("a state").is_just_before(it.start, 10));
                    }
                    Resume::State(_) => assert_ne!(held, Some(it.start)),
                }
                if let Some(newest) = self.newest {
                    assert!(
                        it.start == newest || it.start.is_just_before(newest, 10),
                        "progress went back from {newest} to {}",
                        it.start
                    );
                }
                self.newest = Some(it.start);
                self.holds.insert(to, (Some(it.start), Some(it.generation)));
                self.world.job.say(to, ready_as_before());
            }
            Order::EndGeneration { .. } => {
                let Some((held, _)) = self.holds.get(&to).copied() else { return };
                self.world.job.say(to, left(held.expect("a state"), None));
            }
            Order::Regroup { generation, .. } => {
                // All come to the same boundary.
                if let Some((Some(held), Some(of))) = self.holds.get(&to).copied()
                    && of == generation
                {
                    self.world.job.say(to, agreed(held));
                }
            }
            Order::Pause { generation, .. } => {
                if let Some((Some(held), Some(of))) = self.holds.get(&to).copied()
                    && of == generation
                {
                    self.world.job.say(to, agreed_kept(held));
                    let mut all = std::mem::take(&mut self.world.job.effects);
                    self.world.job.say(to, part(held.position, to));
                    all.append(&mut self.world.job.effects);
                    self.world.job.effects = all;
                }
            }
            Order::Probe { number, .. } => {
                let (connection, unreachable) = (id(to), Vec::new());
                self.world.job.on(Event::Probed { connection, number, unreachable });
            }
            Order::Shutdown { .. } => {
                self.gone(to);
            }
            _ => {}
        }
    }

    /// One computes while all others wait in the ring.
    fn stall(&mut self, who: usize) {
        let all = self.seated();
        let Some(newest) = self.newest.filter(|_| all.len() > 1) else { return };
        if self.world.job.phase() != "training" {
            return;
        }
        for (number, call) in all.iter().enumerate() {
            let phase = if number == who % all.len() { "compute" } else { "ring" }.to_owned();
            let in_phase = Duration::from_secs(70);
            let vitals = Vitals { in_phase, ..Vitals::default() };
            let position = newest.position;
            self.world.job.say(*call, Report::Heartbeat { position, phase, vitals });
        }
        self.world.job.on(Event::Tick);
    }

    fn gone(&mut self, call: u64) {
        for it in &mut self.world.calls {
            *it = it.filter(|it| *it != call);
        }
        self.holds.remove(&call);
        self.world.job.gone(call);
        if self.holds.values().all(|it| it.0.is_none()) {
            self.newest = None;
        }
    }

    fn step(&mut self, who: &[u64]) {
        let Some(newest) = self.newest.filter(|_| self.world.job.phase() == "training") else {
            return;
        };
        let next = Reached { position: newest.position.next(10), evaluated: false };
        for call in who {
            self.holds.entry(*call).and_modify(|it| it.0 = Some(next));
        }
        self.newest = Some(next);
    }

    /// Those of the running generation, by rank.
    fn seated(&self) -> Vec<u64> {
        self.world.job.machine.seated().iter().map(|it| it.0).collect()
    }

    fn act(&mut self, deed: &Deed) {
        match deed {
            Deed::Join(who) if self.world.calls[*who as usize].is_none() => {
                self.world.act(&Act::JoinMute(*who));
                let call = self.world.next - 1;
                self.obey();
                let fingerprint = "f0".to_owned();
                self.world.job.on(Event::Computed { connection: id(call), fingerprint });
            }
            Deed::Kill(who) => {
                if let Some(call) = self.world.calls[*who as usize] {
                    self.gone(call);
                }
            }
            Deed::Drain(who) => self.world.act(&Act::WantToLeave(*who)),
            Deed::Step => {
                let all = self.seated();
                self.step(&all);
            }
            Deed::TornStep(some, dies) => {
                let all = self.seated();
                let (some, dies) = (usize::from(*some), usize::from(*dies));
                if all.len() > 1 && self.world.job.phase() == "training" {
                    let have = &all[..1 + some % all.len()];
                    self.step(have);
                    self.gone(all[dies % all.len()]);
                }
            }
            Deed::Join(_) => {}
            Deed::Ask(what, who) => self.world.ask(wish(*what, *who)),
            Deed::Publish => self.world.act(&Act::Publish),
            Deed::Stall(who) => self.stall(usize::from(*who)),
            Deed::Pass(milliseconds) => {
                let alive: Vec<u64> = self.holds.keys().copied().collect();
                self.world.job.pass(Duration::from_millis((*milliseconds).into()), &alive);
            }
        }
        self.obey();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn invariants_hold_and_every_job_ends(
        workers in 1u32..4,
        acts in proptest::collection::vec(act(), 0..120),
    ) {
        let mut world = World {
            job: Job::new(plan(workers)),
            calls: [None; 4],
            next: 0,
            publishing: Vec::new(),
            probes: Vec::new(),
        };
        for act in &acts {
            world.act(act);
        }
        // From here on nobody says anything, and time passes.
        world.job.pass(Duration::from_secs(120), &[]);
        prop_assert!(world.job.machine.outcome().is_some(), "{}", world.job.phase());
    }

    /// Losses, joins and drains in any order, also in the middle of a step: as long as anybody
    /// holds a state, nobody goes back by more than a step, and what is left always goes on.
    #[test]
    fn a_job_goes_on_with_whoever_is_left(
        workers in 1u32..5,
        min_workers in 1u32..3,
        deeds in proptest::collection::vec(deed(), 0..80),
    ) {
        let min_workers = min_workers.min(workers);
        let world = World {
            job: Job::new(Plan { min_workers, straggler: Policy::Evict, ..plan(workers) }),
            calls: [None; 4],
            next: 0,
            publishing: Vec::new(),
            probes: Vec::new(),
        };
        let mut cluster = Cluster { world, holds: BTreeMap::new(), newest: None, formed: None };
        for deed in (0..workers.min(4)).map(Deed::Join).chain(deeds) {
            cluster.act(&deed);
            if cluster.world.job.machine.outcome().is_some() {
                return Ok(());
            }
            let phase = cluster.world.job.phase();
            let there = cluster.world.job.machine.candidates().len() as u32;
            let all_obey = ["waiting", "training", "paused", "stopping", "failed", "stopped"].contains(&phase);
            prop_assert!(all_obey, "{phase}");
            if cluster.newest.is_some() && there >= min_workers {
                prop_assert_ne!(phase, "waiting", "{} of {}", there, min_workers);
            }
        }
    }
}
