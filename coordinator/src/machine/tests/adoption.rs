//! A new coordinator finds workers that went on without one.

use convoy_common::exit;
use convoy_common::ids::Rank;
use convoy_common::schedule::ManualDrop;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Of the coordinator that is gone.
const BEFORE: Generation = Generation { term: Term(2), counter: 4 };

/// Workers a, b, c ... of a generation of the term before.
pub(super) fn seats(world: u32) -> Vec<Seat> {
    let name = |number: u32| char::from(b'a' + number as u8).to_string();
    let ring_address = || "127.0.0.1:4000".to_owned();
    (0..world).map(|it| Seat { name: name(it), ring_address: ring_address() }).collect()
}

/// The worker of that rank, which trains.
pub(super) fn standing(rank: u32, world: u32, position: Position) -> Standing {
    Standing {
        generation: BEFORE,
        rank: Rank(rank),
        roster: seats(world),
        lineage: Lineage(1),
        start: reached(0, 2),
        stage: Stage::Training,
        position,
        held: None,
        has_unit: true,
        owes_checkpoint: false,
        stop: None,
        pause: None,
        newest_drop: 0,
        leaving: None,
        fingerprint: "f0".to_owned(),
        config_digest: "r0".to_owned(),
        parts: Vec::new(),
    }
}

/// The same, out of the ring.
fn out(rank: u32, world: u32, held: Option<Reached>) -> Standing {
    let position = held.map_or(at(0, 2), |it| it.position);
    Standing { stage: Stage::Out, held, ..standing(rank, world, position) }
}

fn waiting_part(position: Position, rank: u64) -> Part {
    match part(position, rank) {
        Report::PartUploaded { part, shared, took, state_digest, .. } => {
            Part { entry: *part, shared, took, state_digest }
        }
        report => panic!("{report:?}"),
    }
}

impl Job {
    /// The worker of that number calls this coordinator after it has lost the one before.
    pub(super) fn calls(&mut self, number: u32, standing: Standing) -> &mut Self {
        let name = char::from(b'a' + number as u8).to_string();
        let connection = id(number.into());
        let hello = Hello { standing: Some(Box::new(standing)), ..hello(&name) };
        self.on(Event::Joined { connection, hello })
    }

    fn adopted(&self) -> Vec<u64> {
        let orders = self.orders().into_iter();
        orders.filter(|it| matches!(it.1, Order::Adopted(_))).map(|it| it.0).collect()
    }

    fn afresh(&self) -> Vec<u64> {
        let orders = self.orders().into_iter();
        orders.filter(|it| matches!(it.1, Order::StartAfresh { .. })).map(|it| it.0).collect()
    }
}

#[test]
fn a_generation_that_is_all_there_goes_on_without_a_pause() {
    let mut job = Job::new(plan(2));
    job.calls(1, standing(1, 2, at(0, 5)));
    assert_eq!(job.phase(), "adopting");
    assert_eq!(job.machine.status(job.now).detail, "1 of 2 workers of generation 2.4 have called");
    assert_eq!(job.orders(), [(1, &Order::Welcome)]);
    job.calls(0, standing(0, 2, at(0, 6)));
    assert_eq!(job.adopted(), [0, 1]);
    assert!(job.ended().is_empty() && job.assignments().is_empty());
    assert_eq!((job.phase(), job.generation()), ("training", BEFORE));
    assert_eq!(job.machine.status(job.now).position, at(0, 6));

    // What they say of the generation counts, as if it had been formed here.
    job.say(0, Report::Step(step_at(at(0, 7))));
    assert_eq!(job.machine.status(job.now).position, at(0, 7));
    // The next one is of this term.
    job.gone(1);
    job.say(0, left(reached(0, 7), Some("b")));
    let next = job.assignments()[&0].generation;
    assert_eq!(next, Generation { term: Term(3), counter: 5 });
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
}

#[test]
fn who_does_not_call_in_time_is_lost_and_the_others_go_on_with_what_they_hold() {
    let mut job = Job::new(plan(3));
    job.calls(0, standing(0, 3, at(0, 5))).calls(2, standing(2, 3, at(0, 5)));
    job.pass(SECOND * 4, &[0, 2]);
    assert_eq!(job.phase(), "adopting");
    job.pass(SECOND, &[0, 2]);
    assert_eq!((job.adopted(), job.ended()), (vec![0, 2], vec![0, 2]));
    let lost = |it: &&Note| matches!(it, Note::Lost { name, .. } if name == "b");
    assert!(job.notes().iter().any(lost), "{:?}", job.notes());
    job.these_say(&[0, 2], |it| left(reached(0, 5 + it as u32 / 2), None));
    let assignments = job.assignments();
    assert_eq!(assignments[&2].resume, Resume::Keep);
    assert!(matches!(&assignments[&0].resume, Resume::Redo(seat) if seat.name == "c"));

    // It was only slow, and is a new worker now.
    job.calls(1, standing(1, 3, at(0, 5)));
    assert_eq!((job.afresh(), job.adopted()), (vec![1], vec![]));
}

#[test]
fn a_worker_that_is_there_anew_is_not_waited_for_long() {
    let mut job = Job::new(plan(2));
    job.join(1);
    job.calls(0, standing(0, 2, at(0, 5)));
    assert_eq!(job.phase(), "adopting");
    job.pass(SECOND * 2, &[0, 1]);
    assert_eq!((job.adopted(), job.ended()), (vec![0], vec![0]));
    job.reach_all().say(0, left(reached(0, 5), None));
    let assignments = job.assignments();
    assert_eq!(assignments[&0].resume, Resume::Keep);
    assert!(!assignments.contains_key(&1), "its links were not tried yet");
    job.say(0, ready_as_before());
    job.pass(SECOND, &[0, 1]);
    job.reach_all().pass(SECOND * 3, &[0, 1]);
    assert_eq!(job.regrouped(), [0]);
}

#[test]
fn places_are_kept_for_those_who_are_still_to_call() {
    let mut job = Job::new(plan(2));
    job.calls(0, standing(0, 2, at(0, 5)));
    job.join_as(id(7), hello("z"), "f0");
    assert!(matches!(job.effects[1], Effect::Refuse { refusal: Refusal::Full { .. }, .. }));
    assert_eq!(job.calls(1, standing(1, 2, at(0, 5))).adopted(), [0, 1]);
    assert_eq!(job.phase(), "training");
}

#[test]
fn whoever_was_between_two_generations_regroups_with_what_it_holds() {
    // They had left when their coordinator died.
    let mut job = Job::new(plan(2));
    job.calls(0, out(0, 2, Some(reached(0, 5)))).calls(1, out(1, 2, Some(reached(0, 6))));
    assert_eq!(job.adopted(), [0, 1]);
    assert!(matches!(&job.assignments()[&0].resume, Resume::Redo(_)));
    assert_eq!(job.assignments()[&1].resume, Resume::Keep);

    // One had got its place in the next generation already, and is getting ready.
    let mut job = Job::new(plan(2));
    let older = Generation { counter: 3, ..BEFORE };
    job.calls(0, Standing { generation: older, ..out(0, 2, Some(reached(0, 2))) });
    let held = Some(reached(0, 2));
    let prepares = Standing { stage: Stage::Preparing, held, ..standing(1, 2, at(0, 2)) };
    job.calls(1, prepares);
    assert_eq!((job.afresh(), job.adopted(), job.ended()), (vec![0], vec![1], vec![1]));
    job.say(1, left(reached(0, 2), None));
    assert_eq!(job.assignments()[&1].resume, Resume::Keep);
    job.say(1, ready_as_before());
    assert_eq!(job.phase(), "training");
    // The other one joins.
    job.on(Event::Computed { connection: id(0), fingerprint: "f0".to_owned() });
    job.reach_all();
    job.pass(SECOND * 3, &[0, 1]);
    assert_eq!(job.regrouped(), [1]);
}

#[test]
fn a_generation_of_which_nobody_holds_anything_gives_way_to_the_one_before() {
    let mut job = Job::new(plan(2));
    let older = Generation { counter: 3, ..BEFORE };
    job.calls(0, Standing { generation: older, ..out(0, 2, Some(reached(0, 2))) });
    job.calls(1, Standing { stage: Stage::Preparing, ..standing(1, 2, at(0, 2)) });
    assert_eq!((job.afresh(), job.adopted()), (vec![1], vec![0]));
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
}

#[test]
fn when_those_who_called_are_gone_again_the_job_begins_as_any_other() {
    let mut job = Job::new(plan(2));
    job.calls(0, standing(0, 2, at(0, 5)));
    job.gone(0);
    job.pass(SECOND * 5, &[]);
    assert_eq!(job.phase(), "waiting");
    job.join_as(id(10), hello("a"), "f0").join_as(id(11), hello("b"), "f0");
    assert!(job.assignments().values().all(|it| it.resume == Resume::Seed));
    assert_eq!(job.assignments().len(), 2);
}

#[test]
fn states_of_another_line_of_history_or_another_kind_of_machine_are_not_gone_on_from() {
    let other = Standing { lineage: Lineage(2), ..standing(0, 1, at(0, 5)) };
    let mut job = Job::new(plan(1));
    assert_eq!(job.calls(0, other.clone()).afresh(), [0]);
    assert_eq!(job.phase(), "waiting");
    job.on(Event::Computed { connection: id(0), fingerprint: "f0".to_owned() });
    assert_eq!(job.assignments()[&0].resume, Resume::Seed);

    // Unless this line repeats it: then its states are the same, and only its name changes.
    let mut job = Job::new(Plan { repeats: Some(Lineage(2)), ..plan(1) });
    assert_eq!((job.calls(0, other).adopted(), job.ended()), (vec![0], vec![0]));
    job.say(0, left(reached(0, 5), None));
    let assignment = job.assignments()[&0];
    assert_eq!((&assignment.resume, assignment.lineage), (&Resume::Keep, Lineage(1)));

    let mut job = Job::new(Plan { fingerprint: Some("f9".to_owned()), ..plan(1) });
    assert_eq!(job.calls(0, standing(0, 1, at(0, 5))).afresh(), [0]);
}

#[test]
fn a_generation_that_works_by_another_config_ends_and_the_next_one_works_by_the_new() {
    let mut job = Job::new(plan(1));
    let other = Standing { config_digest: "r1".to_owned(), ..standing(0, 1, at(0, 5)) };
    assert_eq!(job.calls(0, other).ended(), [0]);
    job.say(0, left(reached(0, 5), None));
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
}

#[test]
fn a_state_older_than_the_checkpoint_that_a_term_begins_with_is_not_gone_back_to() {
    let start = Start {
        position: at(0, 6),
        checkpoint: Some(kept(at(0, 6))),
        state_digest: Some("d6".to_owned()),
        drops: Vec::new(),
    };
    let mut job = Job::new(Plan { start: start.clone(), ..plan(1) });
    assert_eq!(job.calls(0, standing(0, 1, at(0, 5))).afresh(), [0]);
    let mut job = Job::new(Plan { start, ..plan(1) });
    assert_eq!(job.calls(0, standing(0, 1, at(0, 6))).adopted(), [0]);
}

#[test]
fn a_worker_that_has_known_a_later_term_is_not_given_orders() {
    let mut job = Job::new(plan(1));
    let later = Generation { term: Term(4), counter: 1 };
    job.calls(0, Standing { generation: later, ..standing(0, 1, at(0, 5)) });
    assert!(matches!(
        job.effects[1],
        Effect::Refuse { refusal: Refusal::Superseded { theirs: 4, ours: 3 }, .. }
    ));
}

#[test]
fn a_checkpoint_whose_parts_waited_is_published_and_one_that_lacks_a_part_is_made_up_for() {
    let mut job = Job::new(plan(2));
    let with = |rank: u32| Standing {
        parts: vec![waiting_part(at(0, 4), rank.into()), waiting_part(at(0, 5), rank.into())],
        ..standing(rank, 2, at(0, 5))
    };
    job.calls(0, with(0)).calls(1, with(1));
    let positions: Vec<Position> = job.publications().iter().map(|it| it.shared.position).collect();
    assert_eq!(positions, [at(0, 4), at(0, 5)]);
    assert!(job.publications().iter().all(|it| it.generation == BEFORE));
    // The living may still upload parts in the name of the term before.
    job.on(Event::ManifestPublished(kept(at(0, 5))));
    assert!(job.effects.iter().any(|it| matches!(it, Effect::Prune { living: Term(2) })));
    let settled = Order::Settled { generation: BEFORE, position: at(0, 5) };
    assert_eq!(job.orders(), [(0, &settled), (1, &settled)]);

    let mut job = Job::new(plan(2));
    job.calls(0, with(0));
    job.pass(SECOND * 5, &[0]);
    assert!(job.publications().is_empty());
    job.say(0, left(reached(0, 5), None));
    assert!(job.assignments()[&0].owes_checkpoint);
}

#[test]
fn a_stop_that_was_agreed_on_and_an_end_that_was_come_to_stay() {
    let mut job = Job::new(plan(2));
    let told = Standing { stop: Some("SIGTERM".to_owned()), ..standing(0, 2, at(0, 5)) };
    job.calls(0, told).calls(1, standing(1, 2, at(0, 5)));
    assert_eq!(job.phase(), "stopping");
    let stops =
        job.orders().iter().filter(|it| matches!(it.1, Order::StopAfterStep { .. })).count();
    assert_eq!(stops, 2);

    let mut job = Job::new(plan(2));
    let ended = |rank| Standing { stage: Stage::Ended, ..standing(rank, 2, at(2, 0)) };
    let parts = |rank: u32| vec![waiting_part(at(2, 0), rank.into())];
    for rank in 0..2 {
        job.calls(rank, Standing { parts: parts(rank), ..ended(rank) });
    }
    assert_eq!(job.publications().len(), 1);
    job.all_say(|_| end(at(2, 0), Cause::Completed));
    job.on(Event::ManifestPublished(kept(at(2, 0))));
    assert_eq!(job.outcome().exit_code, exit::OK);
}

#[test]
fn a_stop_while_workers_are_waited_for_is_told_to_them_when_they_have_come() {
    let mut job = Job::new(plan(2));
    job.calls(0, standing(0, 2, at(0, 5)));
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    assert_eq!(job.phase(), "adopting");
    job.calls(1, standing(1, 2, at(0, 5)));
    assert_eq!((job.phase(), job.adopted()), ("stopping", vec![0, 1]));

    let mut job = Job::new(plan(2));
    job.calls(0, standing(0, 2, at(0, 5)));
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    job.gone(0).pass(SECOND * 5, &[]);
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
}

#[test]
fn whoever_wants_to_go_goes_once_the_job_goes_on() {
    let mut job = Job::new(plan(2));
    let leaving = Some("SIGTERM".to_owned());
    job.calls(0, Standing { leaving, ..standing(0, 2, at(0, 5)) });
    job.calls(1, standing(1, 2, at(0, 5)));
    assert_eq!(job.regrouped(), [0, 1]);
    job.these_say(&[0, 1], |_| agreed(reached(0, 6)));
    assert_eq!(job.dismissals(), [(0, exit::OK)]);
}

#[test]
fn orders_of_the_log_are_told_again_and_an_effect_that_was_not_recorded_is() {
    let order = ManualDrop { number: 1, divide_by: 10.0, at: None };
    let start = Start { drops: vec![order], ..Start::default() };
    let mut job = Job::new(Plan { start, ..plan(1) });
    job.calls(0, standing(0, 1, at(0, 5)));
    let adoption = Adoption { generation: BEFORE, drops: vec![order] };
    assert!(job.orders().contains(&(0, &Order::Adopted(adoption))));
    job.say(0, Report::DropApplied { number: 1, position: at(0, 4) });
    assert!(job.effects.iter().any(
        |it| matches!(it, Effect::RecordDrop { number: 1, position } if *position == at(0, 4))
    ));
}

#[test]
fn a_coordinator_whose_term_is_over_ends_without_a_word_to_the_workers() {
    let mut job = Job::training(2);
    job.on(Event::Superseded { term: Term(4), address: "10.0.0.2:7171".to_owned() });
    assert!(job.orders().is_empty());
    let outcome = job.machine.outcome().expect("an end").clone();
    assert_eq!(outcome.exit_code, exit::SUPERSEDED);
    assert!(outcome.message.contains("10.0.0.2:7171"), "{}", outcome.message);
    assert_eq!(outcome.hint.as_deref(), Some("ask that one: convoy status 10.0.0.2:7171"));
}

#[test]
fn a_pause_outlives_the_coordinator_that_ordered_it() {
    let start = Start {
        position: at(0, 6),
        checkpoint: Some(kept(at(0, 6))),
        state_digest: Some("d6".to_owned()),
        drops: Vec::new(),
    };
    let pause = || Some("maintenance".to_owned());
    let paused = |rank| Standing { pause: pause(), ..out(rank, 2, Some(reached(0, 6))) };
    let mut job = Job::new(Plan { start, ..plan(2) });
    job.calls(0, paused(0)).calls(1, paused(1));
    assert_eq!(job.phase(), "paused");
    let status = job.machine.status(job.now).pause.expect("paused");
    assert_eq!(status.reason, "maintenance");
    assert!(status.checkpoint.is_some() && job.assignments().is_empty());
    job.on(Event::Asked { request: 1, wish: Wish::Resume });
    let resumes: Vec<&Resume> = job.assignments().values().map(|it| &it.resume).collect();
    assert_eq!(resumes, [&Resume::Keep; 2]);

    // It had been ordered, and had not come about.
    let mut job = Job::new(plan(2));
    let told = |rank| Standing { pause: pause(), ..standing(rank, 2, at(0, 5)) };
    job.calls(0, told(0)).calls(1, told(1));
    assert_eq!(job.phase(), "training");
    job.all_say(|_| agreed_kept(reached(0, 6)));
    assert_eq!(job.phase(), "paused");

    // One is lost meanwhile: the others make one step more, and pause there.
    let mut job = Job::new(plan(3));
    let of_three = |rank| Standing { pause: pause(), ..out(rank, 3, Some(reached(0, 6))) };
    job.calls(0, of_three(0)).calls(1, of_three(1));
    job.pass(SECOND * 5, &[0, 1]);
    job.these_say(&[0, 1], |_| ready_as_before());
    assert_eq!(job.phase(), "training");
    assert!(job.orders().iter().any(|it| matches!(it.1, Order::Pause { .. })));
}

#[test]
fn a_worker_that_holds_a_state_comes_before_a_new_one_of_its_name() {
    // Somebody has started the job a second time, workers and all.
    let mut job = Job::new(Plan { succeeds: true, ..plan(1) });
    job.join_as(id(9), hello("a"), "f0");
    job.calls(0, standing(0, 1, at(0, 5)));
    assert!(matches!(
        &job.effects[1],
        Effect::Refuse { to, refusal: Refusal::Duplicate(name) } if *to == id(9) && name == "a"
    ));
    assert_eq!((job.adopted(), job.phase()), (vec![0], "training"));

    // The other one has called already, and this one takes its time.
    let mut job = Job::new(Plan { succeeds: true, ..plan(2) });
    job.join_as(id(9), hello("a"), "f0");
    job.calls(1, standing(1, 2, at(0, 5)));
    job.pass(SECOND, &[1, 9]);
    assert_eq!(job.calls(0, standing(0, 2, at(0, 5))).adopted(), [0, 1]);
}

#[test]
fn a_successor_begins_and_stops_nothing_before_workers_have_had_time_to_call() {
    let successor = || Job::new(Plan { succeeds: true, ..plan(1) });
    let mut job = successor();
    assert_eq!(job.phase(), "adopting");
    job.join_as(id(0), hello("a"), "f0");
    assert!(job.assignments().is_empty());
    job.pass(SECOND * 5, &[0]);
    assert_eq!(job.assignments().len(), 1, "nobody came");

    // One that trains comes before time is up, and the stop is a stop with a checkpoint.
    let mut job = successor();
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    assert!(job.machine.outcome().is_none());
    assert_eq!(job.calls(0, standing(0, 1, at(0, 5))).adopted(), [0]);
    assert_eq!(job.phase(), "stopping");

    let mut job = successor();
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    job.pass(SECOND * 5, &[]);
    assert!(job.machine.outcome().is_some());
}
