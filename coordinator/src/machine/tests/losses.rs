use convoy_common::exit;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_lost_worker_is_named_rather_than_its_neighbours() {
    let mut job = Job::training(3);
    job.on(Event::ManifestPublished(kept(at(0, 5))));
    // The neighbours' complaints come first.
    job.say(0, failed(None, None));
    assert!(matches!(job.notes()[..], [Note::Faltered { .. }]));
    job.say(2, failed(Some("b"), None));
    assert!(job.orders().is_empty(), "the cause is not known yet");
    job.gone(1);
    assert_eq!(job.dismissals(), [(0, exit::WORKER_LOST), (2, exit::WORKER_LOST)]);
    let outcome = job.outcome();
    assert_eq!(outcome.message, "worker b was lost: its connection closed, at epoch 0 step 4");
    assert_eq!(outcome.exit_code, exit::WORKER_LOST);
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 5))));
    assert_eq!(
        outcome.hint.as_deref(),
        Some("start the same config again to go on from the last checkpoint")
    );
}

#[test]
fn the_search_for_the_cause_ends_after_a_moment() {
    let mut job = Job::training(3);
    job.gone(1).pass(SECOND * 2, &[0, 2]);
    assert_eq!(job.dismissals(), [(0, exit::WORKER_LOST), (2, exit::WORKER_LOST)]);
    assert!(job.outcome().message.starts_with("worker b was lost: its connection closed"));
}

#[test]
fn a_worker_that_is_not_heard_of_is_lost() {
    let mut job = Job::training(2);
    job.pass(SECOND * 3, &[0]);
    assert_eq!(job.phase(), "training");
    job.pass(SECOND * 2, &[0]);
    let outcome = job.outcome();
    assert!(
        outcome.message.starts_with("worker b was lost: it was not heard of for 3.5 s"),
        "{outcome:?}"
    );
}

#[test]
fn one_that_blames_itself_is_the_cause_and_gives_the_exit_code() {
    let mut job = Job::training(3);
    job.say(0, failed(Some("b"), None));
    job.say(1, failed(None, Some(exit::FAILURE)));
    job.say(2, failed(Some("b"), None));
    assert_eq!(job.dismissals().len(), 3, "all have been heard, so there is nothing to wait for");
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::FAILURE);
    assert!(outcome.message.starts_with("worker b failed: the ring broke"));
}

#[test]
fn one_that_is_there_and_blamed_by_others_is_named() {
    let mut job = Job::training(3);
    job.say(0, failed(Some("b"), None)).say(2, failed(Some("b"), None));
    job.pass(SECOND * 2, &[0, 1, 2]);
    let outcome = job.outcome();
    assert!(
        outcome.message.starts_with("worker b was lost: a, c blamed it (the ring broke)"),
        "{outcome:?}"
    );
}

#[test]
fn a_lone_complaint_is_told_as_it_is() {
    let mut job = Job::training(2);
    job.say(0, failed(None, None)).pass(SECOND * 2, &[0, 1]);
    assert!(job.outcome().message.starts_with("worker a left its generation: the ring broke"));
}

#[test]
fn workers_that_live_and_do_not_move_are_found() {
    let mut job = Job::training(2);
    let beat = |phase: &str| Report::Heartbeat { position: at(0, 2), phase: phase.to_owned() };
    let mut dismissals = Vec::new();
    for _ in 0..2000 {
        job.now += SECOND;
        job.say(0, beat("ring")).say(1, beat("data")).on(Event::Tick);
        dismissals.extend(job.dismissals());
    }
    assert_eq!(dismissals, [(0, exit::WORKER_LOST), (1, exit::WORKER_LOST)]);
    let outcome = job.outcome();
    let expected = "worker b was lost: it made no progress for 900 s, in phase \"data\"";
    assert!(outcome.message.starts_with(expected), "{outcome:?}");
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
            let report = Report::Heartbeat { position: at(0, 1), phase: "evaluate".to_owned() };
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
fn a_checkpoint_that_was_complete_is_still_published_when_a_worker_is_lost() {
    let mut job = Job::training(2);
    job.say(1, part(at(0, 5), 1)).gone(1);
    assert_eq!(job.say(0, part(at(0, 5), 0)).publications().len(), 1);
    job.pass(SECOND * 2, &[0]).gone(0);
    assert_eq!(job.machine.outcome(), None, "the manifest is on its way");
    job.on(Event::ManifestPublished(kept(at(0, 5))));
    let outcome = job.machine.outcome().expect("the end");
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 5))));
}

#[test]
fn the_job_ends_even_if_dismissed_workers_do_not_leave() {
    let mut job = Job::training(2);
    job.gone(1).pass(SECOND * 2, &[0]);
    job.pass(SECOND * 5, &[0]);
    assert!(job.machine.outcome().is_some());
}
