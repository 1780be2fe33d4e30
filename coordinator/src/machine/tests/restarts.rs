//! A job goes on with whoever is left, whatever is lost: workers, or the coordinator.
//!
//! The workers here do what they are told, one step after the other, and hold what real ones would. A
//! coordinator that is lost is a new machine that knows of them only what they say when they call.

use proptest::prelude::*;

use super::adoption::standing;
use super::random::wish;
use super::walks::walks;
use super::*;

/// What a worker has, whoever coordinates.
#[derive(Clone, Debug)]
struct Hand {
    who: u32,
    held: Option<Reached>,
    place: Option<Assignment>,
    in_ring: bool,
}

/// Workers by their calls, and those who have none for the moment.
struct Cluster {
    job: Job,
    plan: Plan,
    hands: BTreeMap<u64, Hand>,
    away: Vec<Hand>,
    next: u64,
    /// Manifests on their way.
    publishing: Vec<Position>,
    /// The newest state that there has been.
    newest: Option<Reached>,
    formed: Option<Generation>,
}

#[derive(Clone, Debug)]
enum Deed {
    Join(u32),
    Kill(u8),
    Drain(u8),
    /// All make a step.
    Step,
    /// Only some get what the others have already, and one that has it dies.
    TornStep(u8, u8),
    Pass(u16),
    /// The coordinator dies; of the workers some die with it, some cannot call yet, and the others make
    /// so many steps before they do.
    Restart {
        dies: u8,
        cut: u8,
        steps: u8,
    },
    /// One that could not calls.
    Return,
    /// A checkpoint exists.
    Checkpoint,
    Ask(u8, u8),
    /// A manifest is published.
    Publish,
    /// All wait in the ring for that one for longer than they should.
    Stall(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        6 => (0u32..4).prop_map(Deed::Join),
        2 => any::<u8>().prop_map(Deed::Kill),
        1 => any::<u8>().prop_map(Deed::Drain),
        8 => Just(Deed::Step),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(some, dies)| Deed::TornStep(some, dies)),
        3 => (0u16..3000).prop_map(Deed::Pass),
        3 => (0u8..16, 0u8..16, 0u8..4)
            .prop_map(|(dies, cut, steps)| Deed::Restart { dies: dies & cut, cut, steps }),
        3 => Just(Deed::Return),
        1 => Just(Deed::Checkpoint),
        3 => (0u8..4, 0u8..4).prop_map(|(what, who)| Deed::Ask(what, who)),
        2 => Just(Deed::Publish),
        1 => any::<u8>().prop_map(Deed::Stall),
    ]
}

impl Cluster {
    fn new(plan: Plan) -> Self {
        Self {
            job: Job::new(plan.clone()),
            plan,
            hands: BTreeMap::new(),
            away: Vec::new(),
            next: 0,
            publishing: Vec::new(),
            newest: None,
            formed: None,
        }
    }

    /// Follows all orders until nobody has any.
    fn obey(&mut self) {
        for round in 0.. {
            let orders: Vec<(u64, Order)> =
                self.job.orders().into_iter().map(|(to, it)| (to, it.clone())).collect();
            // No exchange of words goes on for ever.
            assert!(round < 200, "{orders:?}");
            let refused: Vec<u64> = self
                .job
                .effects
                .iter()
                .filter_map(|it| match it {
                    Effect::Refuse { to, .. } => Some(to.0),
                    _ => None,
                })
                .collect();
            self.publishing.extend(self.job.publications().iter().map(|it| it.shared.position));
            self.job.effects.clear();
            for call in refused {
                self.away.extend(self.hands.remove(&call).filter(|it| it.place.is_some()));
            }
            if orders.is_empty() {
                return;
            }
            let mut more = Vec::new();
            for (to, order) in orders {
                self.follow(to, order);
                more.append(&mut self.job.effects);
            }
            self.job.effects = more;
        }
    }

    fn follow(&mut self, to: u64, order: Order) {
        let Some(hand) = self.hands.get_mut(&to) else { return };
        match order {
            Order::Assign(it) => {
                let held = hand.held;
                let new = self.formed.replace(it.generation) != Some(it.generation);
                assert!(!hand.in_ring, "in two rings at once");
                match it.resume {
                    Resume::Seed | Resume::Checkpoint(_) => {
                        // One that is that of the checkpoint may be restored as well.
                        let origin =
                            Reached { position: self.plan.start.position, evaluated: false };
                        let none = self.newest.is_none_or(|it| it == origin);
                        assert!(none || !new, "somebody holds a state");
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
                (hand.held, hand.in_ring) = (Some(it.start), true);
                hand.place = Some(it);
                self.job.say(to, ready_as_before());
            }
            Order::EndGeneration { generation, .. } => {
                assert_eq!(hand.place.as_ref().map(|it| it.generation), Some(generation));
                hand.in_ring = false;
                let report = left(hand.held.expect("a state"), None);
                self.job.say(to, report);
            }
            Order::Regroup { generation, .. } => {
                // All come to the same boundary.
                if hand.in_ring
                    && let Some(held) = hand.held
                    && hand.place.as_ref().is_some_and(|it| it.generation == generation)
                {
                    hand.in_ring = false;
                    self.job.say(to, agreed(held));
                }
            }
            Order::Pause { generation, .. } => {
                if hand.in_ring
                    && let Some(held) = hand.held
                    && hand.place.as_ref().is_some_and(|it| it.generation == generation)
                {
                    hand.in_ring = false;
                    self.job.say(to, agreed_kept(held));
                    let mut all = std::mem::take(&mut self.job.effects);
                    self.job.say(to, part(held.position, to));
                    all.append(&mut self.job.effects);
                    self.job.effects = all;
                }
            }
            Order::Probe { number, .. } => {
                let (connection, unreachable) = (id(to), Vec::new());
                self.job.on(Event::Probed { connection, number, unreachable });
            }
            Order::Adopted(it) => {
                assert_eq!(hand.place.as_ref().map(|it| it.generation), Some(it.generation));
                self.newest = self.newest.max(hand.held);
            }
            Order::StartAfresh { .. } => {
                let own = hand.place.as_ref().map(|it| it.generation);
                let origin = self.plan.start.position;
                let left_behind = hand.held.is_none_or(|it| it.position < origin);
                let newer = |it: &Hand| {
                    it.held.is_some() && it.place.as_ref().map(|it| it.generation) > own
                };
                assert!(
                    left_behind
                        || self.job.machine.generation().is_some()
                        || self.hands.values().any(newer),
                    "a state is dropped only for that of a newer generation or checkpoint"
                );
                let hand = self.hands.get_mut(&to).expect("looked at above");
                (hand.held, hand.place, hand.in_ring) = (None, None, false);
                let fingerprint = "f0".to_owned();
                self.job.on(Event::Computed { connection: id(to), fingerprint });
            }
            Order::Shutdown { .. } => self.gone(to),
            _ => {}
        }
    }

    /// One computes while all others wait in the ring.
    fn stall(&mut self, who: usize) {
        let all = self.seated();
        let Some(newest) = self.newest.filter(|_| all.len() > 1) else { return };
        if self.job.phase() != "training" {
            return;
        }
        for (number, call) in all.iter().enumerate() {
            let phase = if number == who % all.len() { "compute" } else { "ring" }.to_owned();
            let in_phase = Duration::from_secs(70);
            let vitals = Vitals { in_phase, ..Vitals::default() };
            let position = newest.position;
            self.job.say(*call, Report::Heartbeat { position, phase, vitals });
        }
        self.job.on(Event::Tick);
    }

    fn gone(&mut self, call: u64) {
        self.hands.remove(&call);
        self.job.gone(call);
        if self.hands.values().all(|it| it.held.is_none()) {
            self.newest = None;
        }
    }

    fn step(&mut self, who: &[u64]) {
        let Some(newest) = self.newest.filter(|_| self.job.phase() == "training") else { return };
        let next = Reached { position: newest.position.next(10), evaluated: false };
        for call in who {
            if let Some(hand) = self.hands.get_mut(call) {
                hand.held = Some(next);
            }
        }
        self.newest = Some(next);
    }

    /// Those of the running generation, by rank.
    fn seated(&self) -> Vec<u64> {
        self.job.machine.seated().iter().map(|it| it.0).collect()
    }

    fn nth(&self, number: u8) -> Option<u64> {
        self.hands.keys().copied().nth(usize::from(number) % self.hands.len().max(1))
    }

    fn is_there(&self, who: u32) -> bool {
        self.hands.values().chain(&self.away).any(|it| it.who == who)
    }

    fn call(&mut self, hand: Hand) {
        let (call, name) = (self.next, char::from(b'a' + hand.who as u8).to_string());
        self.next += 1;
        let standing = hand.place.as_ref().map(|place| {
            let position = hand.held.unwrap_or(place.start).position;
            Box::new(Standing {
                generation: place.generation,
                rank: place.rank,
                roster: place.roster.clone(),
                lineage: place.lineage,
                start: place.start,
                stage: if hand.in_ring { Stage::Training } else { Stage::Out },
                held: hand.held.filter(|_| !hand.in_ring),
                ..standing(0, 1, position)
            })
        });
        let new = standing.is_none();
        self.hands.insert(call, hand);
        self.job
            .on(Event::Joined { connection: id(call), hello: Hello { standing, ..hello(&name) } });
        self.obey();
        if new {
            let fingerprint = "f0".to_owned();
            self.job.on(Event::Computed { connection: id(call), fingerprint });
        }
    }

    /// Nobody hears of a coordinator; those of a generation that is whole make steps, and the others'
    /// rings break, which leaves some of them one step behind.
    fn restart(&mut self, dies: u8, cut: u8, steps: u8) {
        let mut all: Vec<Hand> = std::mem::take(&mut self.hands).into_values().collect();
        all.retain(|it| dies & (1 << it.who) == 0);
        self.away.retain(|it| dies & (1 << it.who) == 0);
        let alive: Vec<u32> = all.iter().map(|it| it.who).collect();
        for hand in all.iter_mut().filter(|it| it.in_ring) {
            let Some(place) = &hand.place else { continue };
            let whole = place.roster.iter().all(|seat| {
                let who = u32::from(seat.name.as_bytes()[0] - b'a');
                alive.contains(&who)
            });
            let more = match whole {
                true => u32::from(steps),
                false => u32::from(steps > 1 && hand.who.is_multiple_of(2)),
            };
            for _ in 0..more {
                let position = hand.held.expect("a state").position.next(10);
                hand.held = Some(Reached { position, evaluated: false });
            }
            hand.in_ring = whole;
        }
        self.plan.term = Term(self.plan.term.0 + 1);
        self.job = Job::new(self.plan.clone());
        (self.newest, self.formed) = (None, None);
        self.publishing.clear();
        let (away, there): (Vec<Hand>, Vec<Hand>) =
            all.into_iter().partition(|it| cut & (1 << it.who) != 0);
        self.away.extend(away);
        for hand in there {
            self.call(hand);
            self.obey();
        }
    }

    fn act(&mut self, deed: &Deed) {
        match deed {
            Deed::Join(who) if !self.is_there(*who) => {
                self.call(Hand { who: *who, held: None, place: None, in_ring: false });
            }
            Deed::Join(_) => {}
            Deed::Kill(number) => {
                if let Some(call) = self.nth(*number) {
                    self.gone(call);
                }
            }
            Deed::Drain(number) => {
                if let Some(call) = self.nth(*number) {
                    let reason = "asked".to_owned();
                    self.job.on(Event::Leaving { connection: id(call), reason });
                }
            }
            Deed::Step => {
                let all = self.seated();
                self.step(&all);
            }
            Deed::TornStep(some, dies) => {
                let all = self.seated();
                let (some, dies) = (usize::from(*some), usize::from(*dies));
                if all.len() > 1 && self.job.phase() == "training" {
                    let have = &all[..1 + some % all.len()];
                    self.step(have);
                    self.gone(all[dies % all.len()]);
                }
            }
            Deed::Pass(milliseconds) => {
                let alive: Vec<u64> = self.hands.keys().copied().collect();
                self.job.pass(Duration::from_millis((*milliseconds).into()), &alive);
            }
            Deed::Restart { dies, cut, steps } => self.restart(*dies, *cut, *steps),
            Deed::Return => {
                if let Some(hand) = self.away.pop() {
                    self.call(hand);
                }
            }
            Deed::Ask(what, who) => {
                let request = self.next;
                self.next += 1;
                self.job.on(Event::Asked { request, wish: wish(*what, *who) });
            }
            Deed::Publish => {
                if let Some(position) = self.publishing.pop() {
                    self.job.on(Event::ManifestPublished(kept(position)));
                }
            }
            Deed::Stall(who) => self.stall(usize::from(*who)),
            Deed::Checkpoint => {
                if let Some(newest) = self.newest {
                    self.job.on(Event::ManifestPublished(kept(newest.position)));
                    self.plan.start = Start {
                        position: newest.position,
                        checkpoint: Some(kept(newest.position)),
                        ..Start::default()
                    };
                }
            }
        }
        self.obey();
    }
}

proptest! {
    #![proptest_config(walks(384))]

    /// Losses, joins, drains and restarts of the coordinator in any order, also in the middle of a
    /// step: as long as anybody who can be reached holds a state, nobody goes back by more than a
    /// step, and what is left always goes on.
    #[test]
    fn a_job_goes_on_with_whoever_is_left(
        workers in 1u32..5,
        min_workers in 1u32..3,
        deeds in proptest::collection::vec(deed(), 0..100),
    ) {
        let min_workers = min_workers.min(workers);
        let mut cluster = Cluster::new(Plan { min_workers, straggler: Policy::Evict, ..plan(workers) });
        for deed in (0..workers.min(4)).map(Deed::Join).chain(deeds) {
            cluster.act(&deed);
            if cluster.job.machine.outcome().is_some() {
                // The operator starts it again; workers that were cut off may still call.
                cluster.restart(0, 15, 0);
                continue;
            }
            let phase = cluster.job.phase();
            let there = cluster.job.machine.candidates().len() as u32;
            let obedient =
                ["waiting", "adopting", "training", "paused", "stopping", "failed", "stopped"];
            let all_obey = obedient.contains(&phase);
            prop_assert!(all_obey, "{phase}");
            if cluster.newest.is_some() && there >= min_workers {
                prop_assert_ne!(phase, "waiting", "{} of {}", there, min_workers);
            }
        }
        // Whoever is still waited for is not waited for long.
        cluster.act(&Deed::Pass(6000));
        prop_assert_ne!(cluster.job.phase(), "adopting");
    }
}
