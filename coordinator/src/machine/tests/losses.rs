use convoy_common::exit;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_lost_worker_is_known_at_once_and_the_others_leave_the_ring_and_go_on() {
    let mut job = Job::training(3);
    job.say(0, Report::Step(step_at(at(0, 4))));
    job.gone(1);
    assert_eq!(job.ended(), [0, 2]);
    assert_eq!(job.phase(), "regrouping");
    assert_eq!(job.machine.status(job.now).detail, "worker b was lost: its connection closed");
    job.say(0, left(reached(0, 4), Some("b")));
    assert!(job.orders().is_empty(), "c is still in the ring");
    job.say(2, left(reached(0, 4), None));
    let assignments = job.assignments();
    let ranks: Vec<(u64, u32)> = assignments.iter().map(|(to, it)| (*to, it.rank.0)).collect();
    assert_eq!(ranks, [(0, 0), (2, 1)]);
    for assignment in assignments.values() {
        assert_eq!(assignment.generation.counter, 2);
        assert_eq!((&assignment.resume, assignment.start), (&Resume::Keep, reached(0, 4)));
        assert!(!assignment.stop);
    }
    job.these_say(&[0, 2], |_| ready_as_before());
    let begin = Order::Begin(job.generation());
    assert_eq!(job.orders(), [(0, &begin), (2, &begin)]);
    assert_eq!(job.phase(), "training");
}

#[test]
fn when_nobody_is_left_the_job_ends_with_what_the_last_one_was_lost_by() {
    let mut job = Job::training(2);
    job.on(Event::ManifestPublished(kept(at(0, 5))));
    job.gone(0).gone(1);
    let outcome = job.outcome();
    assert_eq!(
        outcome.message,
        "worker b was lost: its connection closed, at epoch 0 step 0; nobody is left"
    );
    assert_eq!(outcome.exit_code, exit::WORKER_LOST);
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 5))));
    assert_eq!(
        outcome.hint.as_deref(),
        Some("start the same config again to go on from the last checkpoint")
    );

    let mut job = Job::training(1);
    assert_eq!(job.say(0, failed(exit::UNAVAILABLE)).dismissals(), [(0, exit::UNAVAILABLE)]);
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::UNAVAILABLE);
    assert!(outcome.message.starts_with("worker a failed: the disk is gone"), "{outcome:?}");
}

#[test]
fn a_worker_that_is_not_heard_of_is_lost_alone() {
    let mut job = Job::training(2);
    job.pass(SECOND * 3, &[0]);
    assert_eq!(job.phase(), "training");
    job.pass(SECOND * 2, &[0]);
    assert_eq!(job.dismissals(), [(1, exit::WORKER_LOST)]);
    assert_eq!(job.ended(), [0]);
}

#[test]
fn one_that_cannot_go_on_leaves_the_others_alone_unless_the_input_is_bad() {
    for exit_code in [exit::FAILURE, exit::UNAVAILABLE] {
        let mut job = Job::training(2);
        job.say(1, failed(exit_code));
        assert_eq!(job.dismissals(), [(1, exit_code)]);
        assert_eq!(job.ended(), [0]);
    }
    for exit_code in [exit::BAD_INPUT, exit::NON_FINITE, exit::DIVERGED] {
        let mut job = Job::training(2);
        job.say(1, failed(exit_code));
        assert_eq!(job.dismissals(), [(0, exit_code), (1, exit_code)]);
        let outcome = job.outcome();
        assert_eq!(outcome.exit_code, exit_code);
        assert_eq!(outcome.message, "worker b failed: the disk is gone, at epoch 0 step 4");
    }
}

#[test]
fn a_ring_that_breaks_without_a_loss_is_formed_again_with_all() {
    let mut job = Job::training(3);
    job.say(0, left(reached(0, 4), Some("b")));
    assert!(matches!(job.notes()[..], [Note::Faltered { .. }]));
    assert!(job.orders().is_empty(), "somebody may turn out to be lost");
    job.say(2, left(reached(0, 4), Some("b")));
    let detail = job.machine.status(job.now).detail;
    assert_eq!(detail, "a, c blamed b (the ring broke)");
    // The one that is blamed computes on.
    job.pass(SECOND, &[0, 1, 2]);
    assert_eq!(job.ended(), [1]);
    job.say(1, left(reached(0, 4), None));
    assert_eq!(job.assignments().len(), 3);
    assert!(job.dismissals().is_empty());
}

#[test]
fn all_complaints_being_in_there_is_nothing_to_wait_for() {
    let mut job = Job::training(2);
    job.these_say(&[0, 1], |_| left(reached(0, 4), Some("a")));
    assert_eq!(job.assignments().len(), 2);
}

#[test]
fn a_loss_that_shows_while_complaints_come_in_is_the_cause() {
    let mut job = Job::training(3);
    job.say(0, left(reached(0, 4), Some("b"))).gone(1);
    assert_eq!(job.ended(), [2]);
    job.say(2, left(reached(0, 4), Some("a")));
    assert_eq!(job.assignments().len(), 2);
}

/// The ring breaks with these complaints, and a new one forms unless somebody has to go.
fn breaks(job: &mut Job, who: &[u64], blame: impl Fn(u64) -> Option<&'static str>) -> Vec<u64> {
    let held = job.machine.roster.as_ref().expect("a roster").start;
    job.these_say(who, |number| left(held, blame(number)));
    let out = job.dismissals().into_iter().map(|it| it.0).collect();
    job.these_say(who, |_| ready_as_before());
    out
}

#[test]
fn a_link_that_breaks_three_times_without_a_step_costs_the_end_that_more_blame_its_place() {
    let mut job = Job::training(3);
    let blame = |number: u64| Some(if number == 1 { "a" } else { "b" });
    for _ in 0..2 {
        assert_eq!(breaks(&mut job, &[0, 1, 2], blame), [0; 0]);
        assert_eq!(job.phase(), "training");
    }
    assert_eq!(breaks(&mut job, &[0, 1, 2], blame), [1]);
    assert_eq!(job.phase(), "training");
    assert_eq!(job.machine.status(job.now).workers.len(), 2);

    // Of two that blame each other it is the higher rank.
    let mut job = Job::training(2);
    let blame = |number: u64| Some(if number == 0 { "b" } else { "a" });
    for _ in 0..2 {
        assert_eq!(breaks(&mut job, &[0, 1], blame), [0; 0]);
    }
    assert_eq!(breaks(&mut job, &[0, 1], blame), [1]);
}

#[test]
fn a_step_between_forgives_a_link_that_broke() {
    let mut job = Job::training(2);
    let blame = |number: u64| Some(if number == 0 { "b" } else { "a" });
    for step in 1..6 {
        assert_eq!(breaks(&mut job, &[0, 1], blame), [0; 0]);
        job.say(0, Report::Step(step_at(at(0, step))));
        job.machine.roster.as_mut().expect("a roster").start = reached(0, step);
    }
    assert_eq!(job.phase(), "training");
}

#[test]
fn one_that_does_not_leave_the_broken_ring_is_lost() {
    let mut job = Job::training(3);
    job.gone(1).say(0, left(reached(0, 1), None));
    job.pass(SECOND * 31, &[0, 2]);
    assert_eq!(job.dismissals(), [(2, exit::WORKER_LOST)]);
    assert_eq!(job.assignments().len(), 1);
}

#[test]
fn workers_that_live_and_do_not_move_are_found() {
    let mut job = Job::training(2);
    let beat = |phase: &str| beat_at(at(0, 2), phase.to_owned());
    let mut dismissals = Vec::new();
    let mut ended = Vec::new();
    for _ in 0..1000 {
        job.now += SECOND;
        job.say(0, beat("ring")).say(1, beat("data")).on(Event::Tick);
        dismissals.extend(job.dismissals());
        ended.extend(job.ended());
        if !dismissals.is_empty() {
            break;
        }
    }
    assert_eq!(dismissals, [(1, exit::WORKER_LOST)]);
    assert_eq!(ended, [0]);
    let detail = job.machine.status(job.now).detail;
    assert_eq!(detail, "worker b was lost: it made no progress for 900 s, in phase \"data\"");
}

#[test]
fn an_evaluation_by_ten_views_may_take_ten_times_as_long() {
    for (crops, allowed) in [(1, 1000), (10, 10_000)] {
        let plan = Plan { validation_images: 2000, evaluation_crops: crops, ..plan(1) };
        let mut job = Job::preparing_with(plan);
        job.say(0, Report::Ready { state_digest: "d0".to_owned() });
        // 20 images a second.
        job.say(0, Report::Step(step_at(at(0, 1))));
        let (begin, generation) = (job.now, job.generation());
        while job.phase() == "training" && job.now < begin + SECOND * 30_000 {
            job.now += SECOND;
            let report = beat_at(at(0, 1), "evaluate".to_owned());
            let said = Event::Said { connection: id(0), generation, report };
            // Without the invariants, which look at all that has happened each time.
            job.machine.step(job.now, said);
            job.machine.step(job.now, Event::Tick);
        }
        let waited = (job.now - begin).as_secs();
        assert!((allowed..=allowed + 2).contains(&waited), "{crops} views: {waited} s");
    }
}

#[test]
fn the_last_part_of_a_checkpoint_counts_even_if_the_generation_is_over() {
    let mut job = Job::training(2);
    job.say(1, part(at(0, 5), 1)).gone(1);
    assert_eq!(job.say(0, part(at(0, 5), 0)).publications().len(), 1);
    job.gone(0);
    assert_eq!(job.machine.outcome(), None, "the manifest is on its way");
    job.on(Event::ManifestPublished(kept(at(0, 5)))).pass(DESERTED, &[]);
    let outcome = job.machine.outcome().expect("the end");
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 5))));
}

#[test]
fn a_checkpoint_that_is_abandoned_with_its_generation_is_owed_by_the_next() {
    let mut job = Job::training(2);
    job.say(0, part(at(0, 5), 0)).gone(1);
    job.say(0, left(reached(0, 6), None));
    assert!(job.notes().iter().any(|note| matches!(
        note,
        Note::CheckpointAbandoned { why: Abandoned::GenerationOver, .. }
    )));
    assert!(job.assignments()[&0].owes_checkpoint);
    // The next one may take it at the same position.
    job.say(0, ready_as_before());
    assert_eq!(job.say(0, part(at(0, 5), 0)).publications().len(), 1);
}

#[test]
fn what_one_generation_could_not_store_the_next_one_may() {
    // A part that could not be stored, and a manifest: before the next generation and in it.
    for lost in 0..3 {
        let mut job = Job::training(2);
        let failed = Event::ManifestFailed { position: at(0, 5), error: "no".to_owned() };
        if lost == 0 {
            job.say(0, part_failed(at(0, 5), "no"));
        } else {
            job.all_say(|number| part(at(0, 5), number));
            assert_eq!(job.publications().len(), 1);
        }
        if lost == 1 {
            job.on(failed.clone());
        }
        job.gone(1).say(0, left(reached(0, 5), None)).say(0, ready_as_before());
        if lost == 2 {
            job.on(failed);
            assert!(matches!(job.notes()[..], [Note::CheckpointAbandoned { .. }]));
        }
        job.on(Event::StopRequested { reason: "SIGTERM".to_owned() });
        job.say(0, part(at(0, 5), 0)).say(0, end(at(0, 5), Cause::Stopped));
        job.on(Event::ManifestPublished(kept(at(0, 5))));
        assert_eq!(job.outcome().exit_code, exit::STOPPED, "{lost}");
    }
}

#[test]
fn the_job_ends_even_if_dismissed_workers_do_not_leave() {
    let mut job = Job::training(2);
    job.say(1, failed(exit::BAD_INPUT));
    job.pass(SECOND * 6, &[0, 1]);
    assert!(job.machine.outcome().is_some());
}
