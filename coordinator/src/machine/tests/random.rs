//! Whatever happens in whatever order, the invariants hold and the job ends.

use proptest::prelude::*;

use super::adoption::standing;
use super::walks::walks;
use super::*;

#[derive(Clone, Debug)]
enum Act {
    Join(u32),
    /// Without its fingerprint.
    JoinMute(u32),
    Compute(u32, u8),
    /// As one that has lost an earlier coordinator.
    CallAgain(u32, u32, u8, Option<u32>),
    Leave(u64),
    WantToLeave(u64),
    Say(u64, Word),
    Stale(u64, Word),
    Stop,
    Interrupt,
    Publish,
    FailToPublish,
    StoreFails,
    StoreWorks,
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
    PartDelayed,
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
        1 => Just(Word::PartDelayed),
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
        2 => (0u32..4, 3u32..5, 0u8..4, proptest::option::of(0u32..20))
            .prop_map(|(who, counter, stage, held)| Act::CallAgain(who, counter, stage, held)),
        1 => (0u64..4).prop_map(Act::Leave),
        1 => (0u64..4).prop_map(Act::WantToLeave),
        20 => (0u64..4, word()).prop_map(|(who, word)| Act::Say(who, word)),
        1 => (0u64..4, word()).prop_map(|(who, word)| Act::Stale(who, word)),
        1 => Just(Act::Stop),
        1 => prop_oneof![3 => Just(Act::Publish), 1 => Just(Act::Interrupt)],
        4 => Just(Act::Publish),
        1 => Just(Act::FailToPublish),
        1 => prop_oneof![Just(Act::StoreFails), Just(Act::StoreWorks)],
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
        Word::PartDelayed => Report::PartDelayed { error: "no".to_owned(), hint: None },
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

pub(super) fn wish(what: u8, who: u8) -> Wish {
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
            Act::CallAgain(who, counter, stage, held) => {
                let name = char::from(b'a' + *who as u8).to_string();
                let connection = id(self.next);
                self.calls[*who as usize] = Some(self.next);
                self.next += 1;
                let position = held.map_or(at(0, 2), |step| at(step / 10, step % 10));
                let out = *stage == 0;
                let standing = Standing {
                    generation: Generation { term: Term(2), counter: *counter },
                    stage: [Stage::Out, Stage::Preparing, Stage::Training, Stage::Ended]
                        [usize::from(*stage)],
                    held: held.filter(|_| out).map(|_| Reached { position, evaluated: false }),
                    stop: (position.step == 7).then(|| "asked".to_owned()),
                    leaving: (position.step == 8).then(|| "asked".to_owned()),
                    ..standing(*who, (*who + 1).max(2), position)
                };
                let standing = Some(Box::new(standing));
                self.job
                    .on(Event::Joined { connection, hello: Hello { standing, ..hello(&name) } });
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
            Act::StoreFails => {
                self.job.on(Event::StoreFails { error: "no".to_owned(), hint: None });
            }
            Act::StoreWorks => {
                self.job.on(Event::StoreWorks);
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

proptest! {
    #![proptest_config(walks(256))]

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
        // The books say in the end what came of each manifest, if only that the store took too long.
        while !world.publishing.is_empty() {
            world.act(&Act::FailToPublish);
        }
        // From here on nobody says anything, and time passes.
        world.job.pass(Duration::from_secs(120), &[]);
        prop_assert!(world.job.machine.outcome().is_some(), "{}", world.job.phase());
    }
}
