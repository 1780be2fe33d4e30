use convoy_common::exit;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LAST: Position = Position { epoch: 2, step: 0 };

fn stop() -> Event {
    Event::StopRequested { reason: "SIGTERM".to_owned() }
}

/// All parts of the checkpoint at `position` are in and its manifest is published.
fn keep(job: &mut Job, position: Position) {
    job.all_say(|number| part(position, number));
    assert_eq!(job.publications().len(), 1);
    job.on(Event::ManifestPublished(kept(position)));
}

#[test]
fn a_complete_run_ends_well_once_its_last_checkpoint_is_published() {
    let mut job = Job::training(2);
    job.all_say(|_| end(LAST, Cause::Completed));
    assert!(job.orders().is_empty(), "the manifest is missing");
    keep(&mut job, LAST);
    assert_eq!(job.dismissals(), [(0, exit::OK), (1, exit::OK)]);
    let outcome = job.outcome();
    assert_eq!((outcome.kind, outcome.exit_code), (Ending::Completed, exit::OK));
    assert_eq!(outcome.last_checkpoint, Some(kept(LAST)));
}

#[test]
fn parts_may_come_before_or_after_the_end_they_belong_to() {
    let mut job = Job::training(2);
    job.say(0, part(LAST, 0)).say(0, end(LAST, Cause::Completed));
    job.say(1, end(LAST, Cause::Completed)).say(1, part(LAST, 1));
    assert_eq!(job.publications().len(), 1);
    // Their work is done; leaving now harms nothing.
    job.gone(0).gone(1);
    job.on(Event::ManifestPublished(kept(LAST)));
    assert_eq!(job.outcome().exit_code, exit::OK);
}

#[test]
fn a_run_with_nothing_left_to_train_needs_no_new_checkpoint() {
    let mut plan = plan(1);
    plan.start.position = LAST;
    let mut job = Job::preparing_with(plan);
    job.say(0, Report::Ready { state_digest: "d0".to_owned() });
    job.say(0, end(LAST, Cause::Completed));
    assert_eq!(job.outcome().exit_code, exit::OK);
}

#[test]
fn a_stop_takes_a_checkpoint_and_ends_with_its_own_code() {
    let mut job = Job::training(2);
    job.on(stop());
    let order = Order::StopAfterStep { checkpoint: true, reason: "SIGTERM".to_owned() };
    assert_eq!(job.orders(), [(0, &order), (1, &order)]);
    assert_eq!(job.phase(), "stopping");
    assert!(job.on(stop()).effects.is_empty(), "once is enough");

    job.all_say(|_| end(at(0, 7), Cause::Stopped));
    keep(&mut job, at(0, 7));
    assert_eq!(job.dismissals(), [(0, exit::STOPPED), (1, exit::STOPPED)]);
    let outcome = job.outcome();
    assert_eq!((outcome.kind, outcome.exit_code), (Ending::Stopped, exit::STOPPED));
    assert_eq!(outcome.message, "stopped at epoch 0 step 7: SIGTERM");
}

#[test]
fn a_stop_that_a_worker_brought_into_the_ring_counts_too() {
    let mut job = Job::training(2);
    job.all_say(|_| end(at(0, 7), Cause::Stopped));
    keep(&mut job, at(0, 7));
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
}

#[test]
fn a_run_that_completes_while_it_stops_is_complete() {
    let mut job = Job::training(1);
    job.on(stop()).say(0, end(LAST, Cause::Completed));
    keep(&mut job, LAST);
    assert_eq!(job.outcome().exit_code, exit::OK);
}

#[test]
fn a_stop_before_training_just_ends() {
    let mut waiting = Job::new(plan(2));
    waiting.join(0).on(stop());
    assert_eq!(waiting.dismissals(), [(0, exit::STOPPED)]);
    assert_eq!(waiting.outcome().exit_code, exit::STOPPED);

    let mut preparing = Job::preparing(2);
    preparing.on(stop());
    assert_eq!(preparing.dismissals(), [(0, exit::STOPPED), (1, exit::STOPPED)]);
    assert_eq!(preparing.outcome().exit_code, exit::STOPPED);

    let mut nobody = Job::new(plan(2));
    assert!(matches!(nobody.on(stop()).effects[..], [_, Effect::End(_)]));
}

#[test]
fn an_interruption_ends_everything_at_once() {
    for prepare in [Job::new, Job::preparing_with] {
        let mut job = prepare(plan(2));
        job.on(Event::Interrupted { reason: "second SIGINT".to_owned() });
        job.pass(SECOND, &[]);
        assert_eq!(job.machine.outcome().expect("the end").exit_code, exit::INTERRUPTED);
    }
    let mut job = Job::training(2);
    job.on(stop()).on(Event::Interrupted { reason: "second SIGINT".to_owned() });
    assert_eq!(job.dismissals(), [(0, exit::INTERRUPTED), (1, exit::INTERRUPTED)]);
    assert_eq!(job.outcome().exit_code, exit::INTERRUPTED);
}

#[test]
fn a_non_finite_step_ends_the_job_with_its_own_code_and_no_new_checkpoint() {
    let mut job = Job::training(2);
    job.all_say(|_| {
        Report::Finished(Finished {
            position: at(0, 3),
            cause: Cause::NonFinite,
            detail: "the loss is NaN".to_owned(),
            state_digest: "d1".to_owned(),
        })
    });
    assert_eq!(job.dismissals(), [(0, exit::NON_FINITE), (1, exit::NON_FINITE)]);
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::NON_FINITE);
    assert!(outcome.message.contains("epoch 0 step 3: the loss is NaN"), "{outcome:?}");
}

#[test]
fn ends_that_differ_are_an_error_that_names_them() {
    let cases: [(&str, &dyn Fn(u64) -> Report); 2] = [
        ("position", &|number| end(at(1, number as u32), Cause::Stopped)),
        ("cause", &|number| end(LAST, if number == 0 { Cause::Completed } else { Cause::Stopped })),
    ];
    for (what, report) in cases {
        let mut job = Job::training(2);
        let outcome = job.all_say(report).outcome();
        assert_eq!(outcome.exit_code, exit::FAILURE, "{what}");
        assert!(outcome.message.starts_with("workers disagree about how training ended: a: "));
        assert!(outcome.message.contains("; b: "), "{}", outcome.message);
    }
}

#[test]
fn ends_in_different_states_are_a_divergence() {
    let mut job = Job::training(2);
    job.all_say(|number| {
        Report::Finished(Finished {
            position: LAST,
            cause: Cause::Completed,
            detail: String::new(),
            state_digest: format!("d{number}"),
        })
    });
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::DIVERGED);
    assert!(outcome.message.starts_with("workers a, b hold different states"), "{outcome:?}");
}

#[test]
fn a_final_checkpoint_that_cannot_be_kept_is_a_failure() {
    let mut job = Job::training(2);
    keep(&mut job, at(1, 0));
    job.say(0, part(LAST, 0));
    job.say(1, part_failed(LAST, "denied"));
    job.all_say(|_| end(LAST, Cause::Completed));
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::UNAVAILABLE);
    assert!(outcome.message.contains("the part of worker b was not stored: denied"), "{outcome:?}");
    assert_eq!(outcome.last_checkpoint, Some(kept(at(1, 0))));

    let mut job = Job::training(2);
    job.all_say(|_| end(LAST, Cause::Completed)).all_say(|number| part(LAST, number));
    job.on(Event::ManifestFailed { position: LAST, error: "superseded".to_owned() });
    let message = job.outcome().message;
    assert!(message.contains("its checkpoint is not kept: superseded; nothing of"), "{message}");
}

fn delayed() -> Report {
    let (error, hint) = ("the bucket is full".to_owned(), Some("remove objects".to_owned()));
    Report::PartDelayed { error, hint }
}

#[test]
fn an_end_in_an_outage_says_what_is_saved_and_what_can_be_done() {
    let mut job = Job::training(2);
    keep(&mut job, at(1, 0));
    job.say(0, part(LAST, 0)).say(1, delayed());
    job.say(1, part_failed(LAST, "given up after 600 s: the bucket is full"));
    job.all_say(|_| end(LAST, Cause::Completed));
    let outcome = job.outcome();
    assert_eq!(outcome.exit_code, exit::UNAVAILABLE);
    for said in ["of worker b was not stored: given up after 600 s: the bucket is full", "saved is"]
    {
        assert!(outcome.message.contains(said), "{outcome:?}");
    }
    assert!(outcome.hint.unwrap().starts_with("remove objects; then start the same config again"));

    let mut job = Job::training(1);
    job.say(0, part(LAST, 0)).say(0, end(LAST, Cause::Completed));
    job.on(Event::StoreFails { error: "nobody answers".to_owned(), hint: None });
    job.pass(SECOND * 901, &[0]).gone(0).pass(SECOND * 31, &[]);
    let outcome = job.outcome();
    let text = "was not published within 900 s: nobody answers; nothing of the run is saved";
    assert!(outcome.message.ends_with(text), "{outcome:?}");
}

#[test]
fn workers_that_wait_for_the_store_at_the_end_are_not_taken_for_stuck() {
    let mut plan = plan(2);
    plan.deadlines = plan.deadlines.with_last_checkpoint(SECOND * 3600);
    let mut job = Job::training_with(plan);
    job.say(0, Report::Step(step_at(at(1, 9))));
    for _ in 0..120 {
        for number in 0..2 {
            let (position, phase) = (LAST, "checkpoint".to_owned());
            job.say(number, beat_at(position, phase)).say(number, delayed());
        }
        job.now += SECOND * 30;
        for number in 0..2 {
            let (position, phase) = (LAST, "checkpoint".to_owned());
            job.say(number, beat_at(position, phase));
        }
        job.on(Event::Tick);
        assert_eq!(job.phase(), "training");
    }
    let trouble = job.machine.status(job.now).store_trouble.expect("an outage");
    assert_eq!(
        (trouble.who, trouble.error.as_str()),
        (vec!["a".into(), "b".into()], "the bucket is full")
    );
    assert!(trouble.lasts >= SECOND * 3600);
    job.all_say(|number| part(LAST, number));
    assert_eq!(job.machine.status(job.now).store_trouble, None);
    job.on(Event::ManifestPublished(kept(LAST))).all_say(|_| end(LAST, Cause::Completed));
    assert_eq!(job.outcome().exit_code, exit::OK);
}

#[test]
fn a_final_checkpoint_that_does_not_come_has_a_deadline() {
    let mut job = Job::training(1);
    job.say(0, end(LAST, Cause::Completed)).pass(SECOND * 901, &[0]);
    assert_eq!(job.dismissals(), [(0, exit::UNAVAILABLE)]);
}

#[test]
fn one_that_does_not_come_to_its_end_is_named() {
    for first_ends in [true, false] {
        let mut job = Job::training(2);
        job.on(stop());
        if first_ends {
            job.say(0, end(at(0, 7), Cause::Stopped));
        } else {
            job.all_say(|_| Report::Heartbeat {
                position: at(0, 0),
                phase: "idle".to_owned(),
                vitals: Vitals::default(),
            });
        }
        job.pass(SECOND * 903, &[0, 1]);
        let lost: Vec<u64> = job.dismissals().into_iter().map(|it| it.0).collect();
        assert_eq!(lost, if first_ends { vec![1] } else { vec![0, 1] });
        let named = "worker b was lost: it had not come to its end 900 s";
        if first_ends {
            // The other one keeps its state, and what it has finished is finished again.
            assert_eq!(job.machine.status(job.now).phase, "regrouping");
            assert!(job.machine.status(job.now).detail.starts_with(named));
        } else {
            let outcome = job.outcome();
            assert_eq!(outcome.exit_code, exit::WORKER_LOST);
            assert!(outcome.message.contains(named), "{outcome:?}");
        }
    }
}

#[test]
fn one_lost_before_its_part_is_in_makes_the_others_end_again() {
    let mut job = Job::training(2);
    job.all_say(|_| end(LAST, Cause::Completed)).say(0, part(LAST, 0)).gone(1);
    assert_eq!(job.ended(), [0]);
    job.say(0, left(Reached { position: LAST, evaluated: true }, None));
    assert!(job.assignments()[&0].owes_checkpoint);
    job.say(0, ready_as_before()).say(0, end(LAST, Cause::Completed));
    assert!(job.orders().is_empty(), "the checkpoint is missing");
    job.say(0, part(LAST, 0));
    job.on(Event::ManifestPublished(kept(LAST)));
    assert_eq!(job.outcome().exit_code, exit::OK);
}

#[test]
fn nothing_moves_after_the_end() {
    let mut job = Job::training(1);
    keep(&mut job, LAST);
    job.say(0, end(LAST, Cause::Completed)).outcome();
    for event in [stop(), Event::Tick, Event::Joined { connection: id(9), hello: hello("z") }] {
        assert!(job.on(event).effects.is_empty());
    }
}
