//! What operators ask of a running job: a checkpoint, a pause, its end, and that a worker goes.

use convoy_common::exit;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

impl Job {
    fn ask(&mut self, request: u64, wish: Wish) -> &mut Self {
        self.on(Event::Asked { request, wish })
    }

    fn pause(&mut self) -> &mut Self {
        self.ask(1, Wish::Pause { reason: "maintenance".to_owned() })
    }

    /// All come to the pause at that step, with their parts stored.
    fn come_to_a_pause(&mut self, who: &[u64], step: u32) -> &mut Self {
        self.these_say(who, |_| agreed_kept(reached(0, step)));
        self.these_say(who, |number| part(at(0, step), number))
    }

    fn answer(&self, request: u64) -> Answered {
        let answers = self.machine.status(self.now).answers;
        let own = answers.into_iter().find(|it| it.request == request);
        own.expect("an answer").stage
    }

    fn told_to_pause(&self) -> Vec<u64> {
        let orders = self.orders().into_iter();
        orders.filter(|it| matches!(it.1, Order::Pause { .. })).map(|it| it.0).collect()
    }

    fn told_to_keep(&self) -> Vec<u64> {
        let orders = self.orders().into_iter();
        orders.filter(|it| *it.1 == Order::TakeCheckpoint).map(|it| it.0).collect()
    }
}

fn done(detail: &str, position: Position) -> Answered {
    Answered::Done { detail: detail.to_owned(), checkpoint: Some(kept(position).path) }
}

fn refused(why: &str) -> Answered {
    Answered::Refused(why.to_owned())
}

/// A job of two that is paused at step 3 with a checkpoint.
fn paused() -> Job {
    let mut job = Job::training(2);
    job.pause().come_to_a_pause(&[0, 1], 3);
    assert_eq!(job.publications().len(), 1);
    job.on(Event::ManifestPublished(kept(at(0, 3))));
    assert_eq!(job.phase(), "paused");
    job
}

#[test]
fn a_checkpoint_that_is_asked_for_is_answered_when_it_is_published() {
    let mut job = Job::training(2);
    job.say(0, Report::Step(step_at(at(0, 4)))).ask(7, Wish::Checkpoint);
    assert_eq!(job.told_to_keep(), [0, 1]);
    // An older one is no answer.
    job.on(Event::ManifestPublished(kept(at(0, 2))));
    assert_eq!(job.answer(7), Answered::Waiting);
    job.say(0, Report::Step(step_at(at(0, 5)))).on(Event::ManifestPublished(kept(at(0, 5))));
    assert_eq!(job.answer(7), done("kept epoch 0 step 5", at(0, 5)));
    // What is kept already need not be kept again.
    job.ask(8, Wish::Checkpoint);
    assert!(job.told_to_keep().is_empty());
    assert_eq!(job.answer(8), done("kept epoch 0 step 5", at(0, 5)));
}

#[test]
fn a_checkpoint_that_is_asked_for_outlives_the_generation_and_says_if_it_fails() {
    let mut job = Job::training(2);
    job.say(0, Report::Step(step_at(at(0, 4)))).ask(7, Wish::Checkpoint).gone(1);
    job.say(0, left(reached(0, 4), None)).say(0, ready_as_before());
    assert_eq!(job.told_to_keep(), [0]);
    job.on(Event::ManifestFailed { position: at(0, 5), error: "full".to_owned() });
    assert_eq!(job.answer(7), refused("the checkpoint at epoch 0 step 5: full"));
    // Between two generations the next one owes it.
    job.gone(0).rejoin(0).ask(8, Wish::Checkpoint);
    job.say(10, ready());
    assert_eq!(job.told_to_keep(), [10]);
}

#[test]
fn nothing_is_asked_of_a_job_that_has_not_begun_or_is_ending() {
    let mut early = Job::new(plan(2));
    early.join(0).ask(1, Wish::Checkpoint).pause();
    let nothing = "training has not begun, so there is nothing to pause";
    assert_eq!(early.answer(1), refused("training has not begun, so there is nothing to keep"));
    assert!(early.machine.answers().iter().any(|it| it.stage == refused(nothing)));
    let mut job = Job::training(2);
    job.ask(2, Wish::Resume);
    assert_eq!(job.answer(2), refused("the job is not paused"));
    job.ask(3, Wish::Drain { name: "z".to_owned(), grace: None });
    assert_eq!(job.answer(3), refused("no worker is called \"z\"; there are: a, b"));
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    for (request, wish) in [(4, Wish::Checkpoint), (5, Wish::Resume)] {
        job.ask(request, wish);
        assert_eq!(job.answer(request), refused("the job is ending"));
    }
}

#[test]
fn whatever_is_asked_while_workers_are_waited_for_is_to_be_asked_again() {
    let mut job = Job::new(Plan { succeeds: true, ..plan(1) });
    for (request, wish) in [
        (1, Wish::Checkpoint),
        (2, Wish::Pause { reason: "asked".to_owned() }),
        (3, Wish::Resume),
        (4, Wish::Drain { name: "a".to_owned(), grace: None }),
    ] {
        job.ask(request, wish);
        let Answered::Refused(why) = job.answer(request) else { panic!("{request}") };
        assert!(why.contains("ask again"), "{why}");
    }
}

#[test]
fn a_pause_takes_effect_at_an_agreed_boundary_and_all_keep_their_state() {
    let mut job = Job::training(2);
    job.pause();
    assert_eq!(job.told_to_pause(), [0, 1]);
    assert_eq!(job.phase(), "training");
    job.say(1, agreed_kept(reached(0, 3)));
    assert_eq!(job.phase(), "regrouping");
    job.say(0, agreed_kept(reached(0, 3)));
    assert!(job.assignments().is_empty());
    assert_eq!((job.phase(), job.answer(1)), ("paused", Answered::Waiting));
    job.these_say(&[0, 1], |number| part(at(0, 3), number));
    job.on(Event::ManifestPublished(kept(at(0, 3))));
    assert_eq!(job.answer(1), done("paused at epoch 0 step 3", at(0, 3)));
    // It may last.
    job.pass(SECOND * 4000, &[0, 1]);
    let status = job.machine.status(job.now);
    let path = kept(at(0, 3)).path;
    assert_eq!(status.detail, format!("for 4000 s: maintenance; kept as {path}"));
    assert_eq!(status.pause.expect("a pause").since, SECOND * 4000);

    job.ask(2, Wish::Resume);
    for assignment in job.assignments().values() {
        assert_eq!((&assignment.resume, assignment.start), (&Resume::Keep, reached(0, 3)));
        assert!(!assignment.stop && !assignment.owes_checkpoint);
    }
    assert_eq!(job.answer(2), Answered::Waiting);
    job.these_say(&[0, 1], |_| ready_as_before());
    assert_eq!(job.phase(), "training");
    assert!(matches!(job.answer(2), Answered::Done { .. }));
    assert!(job.told_to_pause().is_empty());
}

#[test]
fn who_comes_while_the_job_is_paused_takes_part_when_it_goes_on() {
    let mut job = paused();
    job.gone(1);
    assert_eq!(job.phase(), "paused");
    job.rejoin(1);
    assert!(job.assignments().is_empty());
    job.pass(SECOND * 5, &[0, 11]).ask(2, Wish::Resume);
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
    assert!(matches!(job.assignments()[&11].resume, Resume::State(_)));
}

#[test]
fn a_worker_lost_before_the_pause_has_its_checkpoint_makes_the_others_pause_again() {
    let mut job = Job::training(2);
    job.pause().these_say(&[0, 1], |_| agreed_kept(reached(0, 3)));
    job.say(0, part(at(0, 3), 0)).gone(1);
    assert_eq!(job.assignments()[&0].resume, Resume::Keep);
    job.say(0, ready_as_before());
    assert_eq!(job.told_to_pause(), [0]);
    job.come_to_a_pause(&[0], 4).on(Event::ManifestPublished(kept(at(0, 4))));
    assert_eq!(
        (job.phase(), job.answer(1)),
        ("paused", done("paused at epoch 0 step 4", at(0, 4)))
    );
    // Nor does one that is lost before the boundary keep the others from it.
    let mut job = Job::training(2);
    job.pause().gone(1).say(0, left(reached(0, 3), None)).say(0, ready_as_before());
    assert_eq!(job.told_to_pause(), [0]);
}

#[test]
fn a_store_that_takes_nothing_does_not_keep_the_job_from_its_pause_for_ever() {
    let mut job = Job::training(2);
    job.pause().pass(SECOND * 31, &[0, 1]);
    assert_eq!(job.regrouped(), [0, 1]);
    assert!(job.notes().iter().any(|it| matches!(it, Note::PauseForced { .. })));
    job.these_say(&[0, 1], |_| agreed(reached(0, 3)));
    assert_eq!(job.phase(), "paused");
    let (detail, checkpoint) = ("paused at epoch 0 step 3 without a checkpoint".to_owned(), None);
    assert_eq!(job.answer(1), Answered::Done { detail, checkpoint });
    // Without a snapshot, before that, it is just another boundary.
    let mut job = Job::training(2);
    job.pause().these_say(&[0, 1], |_| agreed(reached(0, 3)));
    job.these_say(&[0, 1], |_| ready_as_before());
    assert_eq!(job.told_to_pause(), [0, 1]);
}

#[test]
fn a_pause_that_is_taken_back_before_its_boundary_is_none() {
    let mut job = Job::training(2);
    job.pause().ask(2, Wish::Resume);
    assert_eq!(job.answer(1), refused("it was resumed"));
    job.these_say(&[0, 1], |_| agreed_kept(reached(0, 3)));
    assert_eq!(job.assignments().len(), 2);
    job.these_say(&[0, 1], |_| ready_as_before());
    assert_eq!(job.phase(), "training");
}

#[test]
fn a_paused_job_that_is_stopped_ends_with_the_checkpoint_that_it_has() {
    let mut job = paused();
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    assert_eq!(job.dismissals(), [(0, exit::STOPPED), (1, exit::STOPPED)]);
    let outcome = job.outcome();
    assert_eq!(outcome.message, "stopped while paused at epoch 0 step 3: asked");
    assert_eq!(outcome.last_checkpoint, Some(kept(at(0, 3))));

    // One whose checkpoint is on its way takes another.
    let mut job = Job::training(2);
    job.pause().these_say(&[0, 1], |_| agreed_kept(reached(0, 3)));
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    assert!(job.assignments().values().all(|it| it.stop && it.resume == Resume::Keep));
}

#[test]
fn workers_drained_from_a_paused_job_go_and_the_last_one_leaves_a_checkpoint() {
    let drain = |name: &str| Wish::Drain { name: name.to_owned(), grace: None };
    let mut job = paused();
    job.ask(2, drain("a"));
    assert_eq!(job.dismissals(), [(0, exit::OK)]);
    assert!(matches!(job.answer(2), Answered::Done { .. }));
    job.ask(3, drain("b"));
    assert_eq!(job.dismissals(), [(1, exit::STOPPED)]);
    assert_eq!(job.outcome().exit_code, exit::STOPPED);

    // Before the checkpoint is there nobody goes.
    let mut job = Job::training(2);
    job.pause().these_say(&[0, 1], |_| agreed_kept(reached(0, 3)));
    job.ask(2, drain("a"));
    assert!(job.dismissals().is_empty());
    job.these_say(&[0, 1], |number| part(at(0, 3), number));
    job.on(Event::ManifestPublished(kept(at(0, 3))));
    assert_eq!(job.dismissals(), [(0, exit::OK)]);
}

#[test]
fn a_paused_job_that_all_workers_have_left_ends_as_any_other() {
    let mut job = paused();
    job.gone(0).gone(1);
    assert_eq!(job.phase(), "waiting");
    job.pass(DESERTED, &[]);
    let outcome = job.machine.outcome().expect("the end");
    assert_eq!(
        (outcome.exit_code, &outcome.last_checkpoint),
        (exit::WORKER_LOST, &Some(kept(at(0, 3))))
    );
    // One who comes back goes on from the checkpoint, and pauses.
    let mut job = paused();
    job.gone(0).gone(1).rejoin(1);
    assert_eq!(job.assignments()[&11].resume, Resume::Checkpoint(kept(at(0, 3)).path));
    job.say(11, Report::Ready { state_digest: "d1".to_owned() });
    assert_eq!(job.told_to_pause(), [11]);
}

#[test]
fn who_does_not_come_to_the_boundary_in_its_grace_goes_as_it_is() {
    let mut job = Job::training(3);
    let grace = Some(SECOND * 5);
    job.ask(1, Wish::Drain { name: "b".to_owned(), grace });
    assert_eq!(job.regrouped(), [0, 1, 2]);
    job.pass(SECOND * 4, &[0, 1, 2]);
    assert!(job.dismissals().is_empty());
    job.pass(SECOND, &[0, 1, 2]);
    assert_eq!(job.dismissals(), [(1, exit::OK)]);
    assert_eq!(job.ended(), [0, 2]);
    assert!(matches!(job.answer(1), Answered::Done { .. }));
    job.these_say(&[0, 2], |_| left(reached(0, 3), None));
    assert_eq!(job.assignments().len(), 2);
    // The grace of the config holds for one that asks by itself.
    let mut job = Job::training(2);
    job.on(Event::Leaving { connection: id(1), reason: "SIGTERM".to_owned() });
    job.pass(SECOND * 29, &[0, 1]);
    assert!(job.dismissals().is_empty());
    assert_eq!(job.pass(SECOND, &[0, 1]).dismissals(), [(1, exit::OK)]);
}

#[test]
fn what_is_on_its_way_to_the_store_is_stored_before_a_worker_goes() {
    let drain = || Wish::Drain { name: "b".to_owned(), grace: Some(SECOND * 10) };
    let mut job = Job::training(2);
    job.say(0, part(at(0, 2), 0)).ask(1, drain());
    assert!(job.regrouped().is_empty());
    assert_eq!(job.say(1, part(at(0, 2), 1)).publications().len(), 1);
    assert_eq!(job.on(Event::Tick).regrouped(), [0, 1]);
    // It is known to upload though no part is in.
    let uploads = |time: Option<u64>| Report::Heartbeat {
        position: at(0, 2),
        phase: "data".to_owned(),
        vitals: Vitals { upload: time.map(Duration::from_secs), ..Vitals::default() },
    };
    let mut job = Job::training(2);
    job.say(1, uploads(Some(1))).ask(1, drain());
    assert!(job.regrouped().is_empty());
    job.say(1, uploads(None));
    assert_eq!(job.on(Event::Tick).regrouped(), [0, 1]);
    // Half of the grace is for the way out.
    let mut job = Job::training(2);
    job.say(0, part(at(0, 2), 0)).ask(1, drain()).pass(SECOND * 5, &[0, 1]);
    assert_eq!(job.regrouped(), [0, 1]);
}

#[test]
fn the_last_one_does_not_go_without_a_checkpoint_however_short_its_grace() {
    let mut job = Job::training(2);
    for (request, name) in [(1, "a"), (2, "b")] {
        job.ask(request, Wish::Drain { name: name.to_owned(), grace: Some(SECOND) });
    }
    assert_eq!(job.phase(), "stopping");
    job.pass(SECOND * 60, &[0, 1]);
    assert!(job.dismissals().is_empty());
    job.these_say(&[0, 1], |_| end(at(0, 3), Cause::Stopped));
    job.these_say(&[0, 1], |number| part(at(0, 3), number));
    job.on(Event::ManifestPublished(kept(at(0, 3))));
    assert_eq!(job.outcome().exit_code, exit::STOPPED);
}
