use super::*;

use convoy_common::schedule::ManualDrop;

fn ask(job: &mut Job, request: u64) {
    let reason = "it stalls".to_owned();
    job.on(Event::DropOrdered { request, divide_by: 10.0, reason });
}

fn order(number: u32, at: Option<Position>) -> ManualDrop {
    ManualDrop { number, divide_by: 10.0, at }
}

/// Who was told of which order.
fn told(job: &Job) -> Vec<(u64, u32)> {
    let drops = job.orders().into_iter().filter_map(|(to, order)| match order {
        Order::Drop(drop) => Some((to, drop.number)),
        _ => None,
    });
    drops.collect()
}

fn written(job: &Job) -> Vec<u32> {
    let numbers = job.effects.iter().filter_map(|effect| match effect {
        Effect::LogDrop { drop, .. } => Some(drop.number),
        _ => None,
    });
    numbers.collect()
}

fn recorded(job: &Job) -> Vec<(u32, Position)> {
    let positions = job.effects.iter().filter_map(|effect| match effect {
        Effect::RecordDrop { number, position } => Some((*number, *position)),
        _ => None,
    });
    positions.collect()
}

fn status(job: &Job, request: u64) -> DropStatus {
    let drops = job.machine.status(job.now).drops;
    drops.into_iter().find(|it| it.request == Some(request)).expect("an order")
}

#[test]
fn an_order_is_in_the_log_before_any_worker_hears_of_it() {
    let mut job = Job::training(2);
    ask(&mut job, 7);
    assert_eq!((written(&job), told(&job)), (vec![1], vec![]));
    assert_eq!(status(&job, 7).stage, DropStage::Writing);
    job.on(Event::DropLogged { number: 1 });
    assert_eq!(told(&job), [(0, 1), (1, 1)]);
}

#[test]
fn an_order_waits_for_the_workers_that_have_not_said_to_know_it() {
    let mut job = Job::training(2);
    ask(&mut job, 7);
    job.on(Event::DropLogged { number: 1 });
    assert_eq!(status(&job, 7).waiting_for, ["a", "b"]);
    job.say(0, Report::DropKnown { number: 1 });
    assert_eq!(status(&job, 7).waiting_for, ["b"]);
    job.say(1, Report::DropKnown { number: 1 });
    assert_eq!(status(&job, 7).waiting_for, [] as [&str; 0]);
    assert_eq!(status(&job, 7).stage, DropStage::Waiting);
}

#[test]
fn an_order_is_in_effect_where_rank_0_says_and_once_the_log_says_so() {
    let mut job = Job::training(2);
    ask(&mut job, 7);
    job.on(Event::DropLogged { number: 1 });
    job.say(1, Report::DropApplied { number: 1, position: at(0, 9) });
    assert!(recorded(&job).is_empty(), "rank 0 alone tells");
    job.say(0, Report::DropApplied { number: 1, position: at(0, 4) });
    assert_eq!(recorded(&job), [(1, at(0, 4))]);
    assert_eq!(status(&job, 7).stage, DropStage::Applied(at(0, 4)));
    job.on(Event::DropRecorded { number: 1, position: at(0, 4) });
    assert_eq!(status(&job, 7).stage, DropStage::Effective(at(0, 4)));
    job.say(0, Report::DropApplied { number: 1, position: at(0, 6) });
    assert!(recorded(&job).is_empty(), "once");
}

#[test]
fn an_order_that_cannot_be_written_is_told_to_nobody() {
    let mut job = Job::training(1);
    ask(&mut job, 7);
    job.on(Event::DropFailed { number: 1, error: "full".to_owned() });
    assert_eq!(status(&job, 7).stage, DropStage::Failed("full".to_owned()));
    assert!(told(&job).is_empty());
    ask(&mut job, 8);
    assert_eq!(written(&job), [2], "its number may be in the log all the same");
}

#[test]
fn a_position_that_the_log_has_otherwise_is_worth_a_warning() {
    let mut job = Job::training(1);
    ask(&mut job, 7);
    job.on(Event::DropLogged { number: 1 });
    job.say(0, Report::DropApplied { number: 1, position: at(0, 4) });
    job.on(Event::DropRecorded { number: 1, position: at(0, 3) });
    assert!(matches!(job.notes()[..], [Note::DropFailed { number: 1, .. }]));
}

#[test]
fn an_order_from_before_there_are_workers_comes_with_their_assignments() {
    let mut job = Job::new(plan(1));
    ask(&mut job, 7);
    job.on(Event::DropLogged { number: 1 });
    assert!(told(&job).is_empty());
    job.join(0);
    let assigned = job.orders().into_iter().find_map(|(_, it)| match it {
        Order::Assign(assignment) => Some(assignment.drops.clone()),
        _ => None,
    });
    assert_eq!(assigned, Some(vec![order(1, None)]));
    assert!(status(&job, 7).waiting_for.is_empty(), "whoever is assigned knows it");
}

#[test]
fn a_resumed_job_repeats_what_came_after_its_checkpoint_at_the_recorded_position() {
    let drops = vec![order(1, Some(at(0, 2))), order(2, Some(at(0, 6))), order(3, None)];
    let start = Start { position: at(0, 4), drops, ..Start::default() };
    let mut job = Job::new(Plan { start, ..plan(1) });
    job.join(0);
    let assigned = job.orders().into_iter().find_map(|(_, it)| match it {
        Order::Assign(assignment) => Some(assignment.drops.clone()),
        _ => None,
    });
    assert_eq!(assigned, Some(vec![order(2, Some(at(0, 6))), order(3, None)]));
    job.say(0, Report::Ready { state_digest: "d0".to_owned() });
    job.say(0, Report::DropApplied { number: 2, position: at(0, 6) });
    assert!(recorded(&job).is_empty(), "the log has it");
    job.say(0, Report::DropApplied { number: 3, position: at(0, 5) });
    assert_eq!(recorded(&job), [(3, at(0, 5))]);
    ask(&mut job, 7);
    assert_eq!(written(&job), [4]);
}

#[test]
fn a_job_that_is_ending_takes_no_orders() {
    let mut job = Job::training(1);
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    ask(&mut job, 7);
    assert!(written(&job).is_empty());
    assert_eq!(status(&job, 7).stage, DropStage::Failed("the job is ending".to_owned()));
}

#[test]
fn an_order_that_reaches_the_log_of_an_ending_job_is_left_to_the_next() {
    let mut job = Job::training(1);
    ask(&mut job, 7);
    job.on(Event::StopRequested { reason: "asked".to_owned() });
    job.on(Event::DropLogged { number: 1 });
    assert!(told(&job).is_empty());
    assert_eq!(status(&job, 7).stage, DropStage::Waiting);
}

#[test]
fn what_rank_0_tells_counts_even_if_the_generation_is_broken_already() {
    for lost in [true, false] {
        let mut job = Job::training(2);
        ask(&mut job, 7);
        job.on(Event::DropLogged { number: 1 });
        // Regrouping, or still in search of the cause.
        if lost {
            job.gone(1);
        } else {
            job.say(1, left(reached(1, 0), Some("a")));
        }
        assert_eq!(job.phase(), "regrouping");
        job.say(0, Report::Step(step_at(at(1, 0))));
        job.say(0, Report::DropApplied { number: 1, position: at(1, 0) });
        assert_eq!(recorded(&job), [(1, at(1, 0))]);
        let evaluation = Evaluation {
            position: at(1, 0),
            samples: 20,
            top1_correct: 10,
            top5_correct: 15,
            loss: 1.0,
            seconds: 4.0,
            learning_rate: 0.01,
            schedule_done: false,
        };
        job.say(0, Report::Evaluated(evaluation.clone()));
        let status = job.machine.status(job.now);
        assert_eq!((status.position, status.last_evaluation), (at(1, 0), Some(evaluation)));
    }
}

#[test]
fn the_next_rank_0_tells_what_the_last_one_could_not_and_once_is_enough() {
    let mut job = Job::training(2);
    for (request, number) in [(7, 1), (8, 2)] {
        ask(&mut job, request);
        job.on(Event::DropLogged { number });
    }
    job.say(0, Report::DropApplied { number: 1, position: at(0, 3) });
    // It divided the rate a second time, and took the news with it.
    job.gone(0).say(1, left(reached(0, 6), None)).say(1, ready_as_before());
    assert_eq!(job.phase(), "training");
    job.say(1, Report::DropApplied { number: 1, position: at(0, 3) });
    assert!(recorded(&job).is_empty(), "that is known");
    job.say(1, Report::DropApplied { number: 2, position: at(0, 5) });
    assert_eq!(recorded(&job), [(2, at(0, 5))]);
    assert_eq!(status(&job, 8).stage, DropStage::Applied(at(0, 5)));
}
