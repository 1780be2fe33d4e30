//! From one generation to the next: what survivors hold, who joins, who leaves, too few.

use convoy_common::exit;
use convoy_common::schedule::ManualDrop;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn seat(name: &str) -> Seat {
    Seat { name: name.to_owned(), ring_address: "127.0.0.1:4000".to_owned() }
}

fn with_min(workers: u32, min_workers: u32) -> Plan {
    Plan { min_workers, ..plan(workers) }
}

#[test]
fn the_newest_state_counts_and_whoever_is_behind_makes_the_step_again() {
    let mut job = Job::training(4);
    job.say(0, Report::Step(step_at(at(0, 4)))).gone(0);
    job.say(1, left(reached(0, 4), None)).say(2, left(reached(0, 5), None));
    job.say(3, left(reached(0, 4), None));
    let assignments = job.assignments();
    assert!(assignments.values().all(|it| it.start == reached(0, 5)));
    assert_eq!(assignments[&1].resume, Resume::Redo(seat("c")));
    assert_eq!(assignments[&2].resume, Resume::Keep);
    assert_eq!(assignments[&3].resume, Resume::Redo(seat("c")));
    assert_eq!(job.machine.status(job.now).position, at(0, 5));
}

#[test]
fn an_evaluation_is_a_unit_of_progress_too() {
    let mut job = Job::training(3);
    let evaluated = Reached { position: at(1, 0), evaluated: true };
    job.gone(2).say(0, left(evaluated, None)).say(1, left(reached(1, 0), None));
    assert_eq!(job.assignments()[&1].resume, Resume::Redo(seat("a")));
    assert_eq!(job.assignments()[&0].start, evaluated);
}

#[test]
fn the_job_may_go_back_by_the_step_that_died_with_its_only_owner() {
    let mut job = Job::training(2);
    job.say(0, Report::Step(step_at(at(0, 5)))).gone(0);
    job.say(1, left(reached(0, 4), None)).say(1, ready_as_before());
    assert_eq!(job.machine.status(job.now).position, at(0, 4));
    job.say(1, Report::Step(step_at(at(0, 5))));
    assert_eq!(job.machine.status(job.now).position, at(0, 5));
}

#[test]
fn a_worker_lost_while_others_leave_or_prepare_is_just_one_more() {
    let mut job = Job::training(4);
    job.gone(3).say(0, left(reached(0, 1), None)).gone(1);
    job.say(2, left(reached(0, 1), None));
    assert_eq!(job.assignments().len(), 2);
    job.say(0, ready_as_before()).gone(2);
    assert_eq!(job.ended(), [0]);
    job.say(0, left(reached(0, 1), None)).say(0, ready_as_before());
    assert_eq!((job.phase(), job.generation().counter), ("training", 3));
}

#[test]
fn without_any_state_left_the_job_goes_back_to_the_checkpoint() {
    let mut job = Job::training(2);
    job.on(Event::ManifestPublished(kept(at(0, 5)))).gone(1);
    job.say(0, left(reached(0, 7), None)).rejoin(1);
    job.say(0, ready_as_before()).pass(SECOND * 3, &[0, 11]);
    assert_eq!(job.regrouped(), [0]);
    // The only one that holds a state dies while it gives it to the other.
    job.say(0, agreed(reached(0, 8)));
    assert_eq!(job.assignments()[&11].resume, Resume::State(seat("a")));
    job.gone(0);
    let nothing = Report::Left(Left::default());
    job.say(11, nothing);
    let path = kept(at(0, 5)).path;
    assert_eq!(job.assignments()[&11].resume, Resume::Checkpoint(path));
    assert_eq!(job.assignments()[&11].start, reached(0, 5));
}

#[test]
fn a_joiner_prepares_while_others_train_and_costs_them_one_boundary() {
    let mut job = Job::training(2);
    job.gone(1).say(0, left(reached(0, 2), None)).say(0, ready_as_before());
    job.now += SECOND * 3;
    job.on(Event::Joined { connection: id(7), hello: hello("b") });
    assert_eq!(job.orders(), [(7, &Order::Welcome)]);
    assert_eq!(job.phase(), "training");
    job.on(Event::Computed { connection: id(7), fingerprint: "f0".to_owned() });
    assert!(job.regrouped().is_empty(), "nobody knows whether it can be reached");
    let effects = job.effects.clone();
    job.effects = job.answer_probes(&effects);
    assert_eq!(job.regrouped(), [0]);
    job.on(Event::Tick);
    assert!(job.orders().is_empty(), "once is enough");
    job.say(0, agreed(reached(0, 5)));
    let assignments = job.assignments();
    assert_eq!(assignments[&0].resume, Resume::Keep);
    assert_eq!(assignments[&7].resume, Resume::State(seat("a")));
    // Only who has got the state hashes it.
    job.say(0, ready_as_before()).say(7, ready());
    assert_eq!(job.phase(), "training");
}

#[test]
fn joiners_that_are_ready_soon_after_one_another_come_in_together() {
    let mut job = Job::training(3);
    job.gone(1).gone(2).say(0, left(reached(0, 2), None)).say(0, ready_as_before());
    job.rejoin(1);
    assert!(job.regrouped().is_empty(), "the generation has just begun");
    job.rejoin(2).pass(SECOND * 3, &[0, 11, 12]);
    assert_eq!(job.regrouped(), [0]);
    job.say(0, agreed(reached(0, 3)));
    assert_eq!(job.assignments().len(), 3);
}

#[test]
fn a_joiner_of_another_kind_is_refused_and_nobody_is_held_up() {
    let mut job = Job::training(2);
    job.gone(1).say(0, left(reached(0, 2), None)).say(0, ready_as_before());
    job.now += SECOND * 3;
    job.join_as(id(8), hello("x"), "f1");
    assert!(job.effects.iter().any(|it| matches!(it, Effect::Refuse { .. })));
    assert!(job.regrouped().is_empty());
}

#[test]
fn a_donor_that_dies_is_replaced_by_another_one() {
    let mut job = Job::training(3);
    job.gone(2).these_say(&[0, 1], |_| left(reached(0, 2), None));
    job.these_say(&[0, 1], |_| ready_as_before());
    job.rejoin(2).pass(SECOND * 3, &[0, 1, 12]);
    job.these_say(&[0, 1], |_| agreed(reached(0, 3)));
    let Resume::State(donor) = &job.assignments()[&12].resume.clone() else { panic!("no donor") };
    let (donor, other) = if donor.name == "a" { (0, 1) } else { (1, 0) };
    job.gone(donor);
    job.say(other, left(reached(0, 3), None)).say(12, Report::Left(Left::default()));
    let name = if other == 0 { "a" } else { "b" };
    assert_eq!(job.assignments()[&12].resume, Resume::State(seat(name)));
}

#[test]
fn below_min_workers_the_job_waits_with_its_state_and_goes_on_when_enough_are_back() {
    let mut job = Job::training_with(with_min(3, 2));
    job.gone(1).gone(2).say(0, left(reached(0, 2), None));
    assert!(matches!(job.notes()[..], [.., Note::TooFew { have: 1, need: 2 }]));
    assert_eq!(job.phase(), "waiting");
    let detail = job.machine.status(job.now).detail;
    assert_eq!(detail, "1 of 2 workers needed to go on are there (a)");
    job.rejoin(1);
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
    assert_eq!(job.assignments()[&11].resume, Resume::State(seat("a")));
}

#[test]
fn if_nobody_comes_back_in_time_what_is_held_is_kept_and_the_job_ends() {
    let mut job = Job::training_with(with_min(2, 2));
    job.gone(1).say(0, left(reached(0, 2), None)).pass(SECOND * 60, &[0]);
    let assignment = job.assignments()[&0];
    assert!(assignment.stop);
    assert_eq!(assignment.resume, Resume::Keep);
    job.say(0, ready_as_before());
    assert_eq!(job.phase(), "stopping");
    job.say(0, end(at(0, 2), Cause::Stopped)).say(0, part(at(0, 2), 0));
    job.on(Event::ManifestPublished(kept(at(0, 2))));
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::WORKER_LOST);
    assert_eq!(
        outcome.message,
        "stopped at epoch 0 step 2: worker b was lost: its connection closed; 1 of 2 workers \
         (cluster.min_workers) were there after 60 s"
    );
}

#[test]
fn the_last_survivor_lost_while_it_waits_ends_the_job() {
    let mut job = Job::training_with(with_min(2, 2));
    job.gone(1).say(0, left(reached(0, 2), None)).gone(0);
    assert_eq!(job.outcome().exit_code, exit::WORKER_LOST);
}

#[test]
fn who_is_asked_to_leave_goes_at_a_boundary_and_ends_well() {
    let mut job = Job::training(3);
    job.on(Event::Leaving { connection: id(1), reason: "SIGTERM".to_owned() });
    assert_eq!(job.regrouped(), [0, 1, 2]);
    job.these_say(&[0, 1, 2], |_| agreed(reached(0, 3)));
    assert_eq!(job.dismissals(), [(1, exit::OK)]);
    assert_eq!(job.assignments().keys().copied().collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_state_that_only_a_leaving_worker_has_does_not_go_with_it() {
    let mut job = Job::training(2);
    job.on(Event::Leaving { connection: id(1), reason: "SIGTERM".to_owned() });
    // It got the last step, and the other one's ring broke before.
    job.say(1, agreed(reached(0, 3))).say(0, left(reached(0, 2), Some("b")));
    assert!(job.dismissals().is_empty());
    assert_eq!(job.assignments()[&0].resume, Resume::Redo(seat("b")));
    job.these_say(&[0, 1], |_| ready_as_before());
    assert_eq!(job.regrouped(), [0, 1]);
    job.these_say(&[0, 1], |_| agreed(reached(0, 4)));
    assert_eq!(job.dismissals(), [(1, exit::OK)]);
}

#[test]
fn when_all_are_asked_to_leave_the_job_stops_with_a_checkpoint() {
    let mut job = Job::training(2);
    let leave = |it: u64| Event::Leaving { connection: id(it), reason: "SIGTERM".to_owned() };
    job.on(leave(0));
    assert_eq!(job.regrouped(), [0, 1]);
    job.on(leave(1));
    assert_eq!(job.phase(), "stopping");
    let stops =
        job.orders().iter().filter(|it| matches!(it.1, Order::StopAfterStep { .. })).count();
    assert_eq!(stops, 2);
    // The first order had reached the ring already.
    job.these_say(&[0, 1], |_| agreed(reached(0, 3)));
    assert!(job.assignments().values().all(|it| it.stop));
    job.these_say(&[0, 1], |_| ready_as_before());
    job.these_say(&[0, 1], |_| end(at(0, 3), Cause::Stopped));
    job.these_say(&[0, 1], |number| part(at(0, 3), number));
    job.on(Event::ManifestPublished(kept(at(0, 3))));
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
}

#[test]
fn one_without_a_rank_may_leave_at_any_time() {
    let mut job = Job::new(plan(2));
    job.join(0).on(Event::Leaving { connection: id(0), reason: "SIGTERM".to_owned() });
    assert_eq!(job.dismissals(), [(0, exit::OK)]);
    job.join_as(id(5), hello("a"), "f0").join(1);
    assert_eq!(job.phase(), "preparing");
}

#[test]
fn a_stop_between_two_generations_takes_its_checkpoint_where_they_meet() {
    let mut job = Job::training(2);
    job.gone(1).on(Event::StopRequested { reason: "asked".to_owned() });
    assert!(job.dismissals().is_empty());
    job.say(0, left(reached(0, 2), None));
    assert!(job.assignments()[&0].stop);
    job.say(0, ready_as_before());
    assert_eq!(job.phase(), "stopping");
}

#[test]
fn a_drop_that_died_with_its_step_takes_effect_at_the_same_position_again() {
    let mut job = Job::training(2);
    job.on(Event::DropOrdered { request: 1, divide_by: 10.0, reason: "asked".to_owned() });
    job.on(Event::DropLogged { number: 1 });
    job.say(0, Report::Step(step_at(at(0, 5))));
    job.say(0, Report::DropApplied { number: 1, position: at(0, 5) }).gone(0);
    job.say(1, left(reached(0, 4), None));
    let drop = ManualDrop { number: 1, divide_by: 10.0, at: Some(at(0, 5)) };
    assert_eq!(job.assignments()[&1].drops, [drop]);
}

fn digest_is(digest: &str) -> Report {
    Report::Ready { state_digest: digest.to_owned() }
}

#[test]
fn a_job_that_lost_all_its_workers_goes_on_from_its_newest_checkpoint_if_one_comes_back() {
    let mut job = Job::training(1);
    job.say(0, Report::Step(step_at(at(0, 7)))).say(0, part(at(0, 5), 0));
    job.on(Event::ManifestPublished(kept(at(0, 5)))).gone(0);
    assert_eq!(job.phase(), "waiting");
    job.pass(SECOND * 9, &[]);
    assert_eq!(job.phase(), "waiting");
    // From here on it may take as long as a first worker.
    job.on(Event::Joined { connection: id(10), hello: hello("a") }).pass(SECOND * 25, &[]);
    job.on(Event::Computed { connection: id(10), fingerprint: "f0".to_owned() });
    let assignment = job.assignments()[&10];
    assert_eq!(assignment.resume, Resume::Checkpoint(kept(at(0, 5)).path));
    assert_eq!((assignment.start, assignment.stop), (reached(0, 5), false));
    job.say(10, digest_is("d1"));
    assert_eq!(job.phase(), "training");
    job.say(10, Report::Step(step_at(at(0, 6))));
    assert_eq!(job.machine.status(job.now).position, at(0, 6));
}

#[test]
fn what_is_restored_from_a_checkpoint_of_this_term_has_to_have_its_digest_too() {
    let mut job = Job::training(1);
    job.say(0, part(at(0, 5), 0)).on(Event::ManifestPublished(kept(at(0, 5)))).gone(0).rejoin(0);
    job.say(10, digest_is("d2")).gone(10);
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::FAILURE);
    assert!(outcome.message.contains("d2") && outcome.message.contains("d1"), "{outcome:?}");
}

#[test]
fn without_a_checkpoint_it_begins_anew_and_with_nobody_back_it_ends() {
    let mut job = Job::training(2);
    job.say(0, Report::Step(step_at(at(0, 7)))).gone(1).gone(0);
    job.rejoin(1);
    assert_eq!(job.assignments()[&11].resume, Resume::Seed);
    job.gone(11).pass(DESERTED - BEAT, &[]);
    assert_eq!(job.phase(), "waiting");
    job.pass(BEAT, &[]);
    assert_eq!(job.outcome().exit_code, exit::WORKER_LOST);

    let mut short = plan(1);
    short.deadlines.join = SECOND * 2;
    let mut job = Job::training_with(short);
    job.gone(0).pass(SECOND * 2, &[]);
    let outcome = job.outcome();
    assert!(outcome.message.ends_with("nobody is left"), "{outcome:?}");
}

#[test]
fn a_worker_that_still_prepares_is_somebody_left() {
    let mut job = Job::training(2);
    job.gone(1).say(0, left(reached(0, 2), None)).say(0, ready_as_before());
    job.on(Event::Joined { connection: id(11), hello: hello("b") }).gone(0);
    assert_eq!((job.phase(), job.dismissals()), ("waiting", vec![]));
    job.pass(SECOND * 20, &[]);
    job.on(Event::Computed { connection: id(11), fingerprint: "f0".to_owned() });
    assert_eq!(job.assignments()[&11].resume, Resume::Seed);

    // It does not prepare for ever.
    let mut job = Job::training(1);
    job.gone(0).on(Event::Joined { connection: id(10), hello: hello("a") });
    job.pass(SECOND * 31, &[]);
    assert_eq!(job.dismissals(), [(10, exit::WORKER_LOST)]);
    assert_eq!(job.outcome().exit_code, exit::WORKER_LOST);
}

#[test]
fn workers_that_come_and_die_do_not_keep_a_deserted_job_for_ever() {
    let mut job = Job::training(1);
    job.gone(0);
    for call in 0..12 {
        job.on(Event::Joined { connection: id(100 + call), hello: hello("a") });
        job.pass(SECOND * 5, &[]).gone(100 + call);
    }
    assert_eq!(job.machine.outcome().map(|it| it.exit_code), Some(exit::WORKER_LOST));
}

#[test]
fn a_job_without_workers_that_is_asked_to_stop_does_not_wait_for_them_and_stops() {
    let mut job = Job::training(1);
    job.on(Event::ManifestPublished(kept(at(0, 5))));
    job.gone(0).on(Event::StopRequested { reason: "asked".to_owned() });
    let outcome = job.machine.outcome().expect("the end");
    assert_eq!(outcome.exit_code, exit::STOPPED);
    assert!(outcome.message.contains("asked; before that, worker a was lost"), "{outcome:?}");
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 5))));
}

#[test]
fn who_has_only_taken_over_the_newest_state_cannot_tell_how_it_came_about() {
    let taken_over = |held| {
        let left = Left { held: Some(held), error: "broke".to_owned(), ..Left::default() };
        Report::Left(left)
    };
    let mut job = Job::training(3);
    job.say(0, taken_over(reached(0, 5))).say(1, left(reached(0, 5), None));
    job.say(2, left(reached(0, 4), None));
    assert_eq!(job.assignments()[&2].resume, Resume::Redo(seat("b")));
    // Where nobody can, the whole state goes over.
    let mut job = Job::training(2);
    job.say(0, taken_over(reached(0, 5))).say(1, left(reached(0, 4), None));
    assert_eq!(job.assignments()[&1].resume, Resume::State(seat("a")));
}

#[test]
fn a_job_that_waited_and_is_asked_to_stop_says_that_it_stops() {
    let mut job = Job::training_with(with_min(2, 2));
    job.gone(1).say(0, left(reached(0, 2), None));
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    let status = job.machine.status(job.now);
    assert_eq!((status.phase, status.detail.as_str()), ("stopping", "asked"));
    assert!(job.assignments()[&0].stop);
}

#[test]
fn an_end_that_all_agreed_on_is_told_apart_from_a_broken_generation() {
    let agreed_on = |job: &Job| {
        let told = job.notes().into_iter().find_map(|note| match note {
            Note::Regrouping { agreed, .. } => Some(*agreed),
            _ => None,
        });
        told.expect("a note")
    };
    let mut job = Job::training(2);
    job.on(Event::Leaving { connection: id(1), reason: "SIGTERM".to_owned() });
    assert!(agreed_on(job.say(0, agreed(reached(0, 3)))));
    let mut job = Job::training(2);
    assert!(!agreed_on(job.gone(1)));
}
