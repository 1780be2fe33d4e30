//! One launch in a test's hand, without a process.

use super::{Ending::*, Event::*, Notice::*, Order::*, Who::*, *};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A coordinator and two workers run.
fn running(now: Instant) -> Supervisor {
    let mut it = Supervisor::new(Patience::new(seconds(60), 0));
    for who in [Coordinator, Worker(0), Worker(1)] {
        assert_eq!(it.step(now, Started(who)), []);
    }
    assert_eq!(it.step(now, Listening), []);
    it
}

#[test]
fn a_job_that_ends_by_itself_gives_the_launcher_its_code_once_the_workers_are_gone() {
    let now = Instant::now();
    let mut it = running(now);
    assert_eq!(it.step(now, Ended(Coordinator, Code(70))), []);
    assert_eq!(it.step(now, Ended(Worker(1), Code(0))), []);
    assert_eq!(it.step(now, Ended(Worker(0), Code(0))), [Exit(70)]);
    assert_eq!(it.deadline(), None);
}

#[test]
fn the_first_signal_asks_the_coordinator_alone() {
    let now = Instant::now();
    let mut it = running(now);
    assert_eq!(it.step(now, StopWanted), [Say(Stopping), StopCoordinator]);
    assert!(!it.is_running());
    assert_eq!(it.step(now, Ended(Worker(0), Code(75))), []);
    assert_eq!(it.step(now, Ended(Coordinator, Code(75))), []);
    assert_eq!(it.step(now, Ended(Worker(1), Code(75))), [Exit(75)]);
}

#[test]
fn the_second_signal_kills_everything_at_once() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, StopWanted);
    assert_eq!(it.step(now, StopWanted), [Say(StoppingAtOnce), KillAll]);
    assert_eq!(it.step(now, StopWanted), []);
    it.step(now, Ended(Coordinator, Signal(9)));
    it.step(now, Ended(Worker(0), Signal(9)));
    assert_eq!(it.step(now, Ended(Worker(1), Signal(9))), [Exit(130)]);
}

#[test]
fn a_coordinator_that_does_not_end_in_the_grace_period_is_killed() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, StopWanted);
    assert_eq!(it.step(now + seconds(59), Timer), []);
    assert_eq!(it.step(now + seconds(60), Timer), [Say(GraceOver), KillAll]);
    assert_eq!(it.step(now + seconds(61), Timer), [Say(GivenUp(3)), Exit(130)]);
}

#[test]
fn workers_that_outlive_the_coordinator_are_killed_within_three_seconds() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Ended(Coordinator, Code(0)));
    assert_eq!(it.deadline(), Some(now + seconds(3)));
    assert_eq!(it.step(now + seconds(3), Timer), [Say(WorkersLeft(2)), KillAll]);
    it.step(now, Ended(Worker(0), Signal(9)));
    assert_eq!(it.step(now, Ended(Worker(1), Signal(9))), [Exit(0)]);
}

#[test]
fn a_worker_that_dies_is_started_again_as_often_as_that_is_allowed() {
    let mut now = Instant::now();
    let mut it = running(now);
    it.patience.restarts = 2;
    for (left, how) in [(1, Signal(9)), (0, Code(exit::WORKER_LOST))] {
        assert_eq!(it.step(now, Ended(Worker(1), how)), [Say(WorkerEnded(1, how))]);
        assert_eq!(it.deadline(), Some(now + seconds(1)));
        assert_eq!(it.step(now, Timer), []);
        now += seconds(1);
        assert_eq!(it.step(now, Timer), [Say(WorkerRestarts(1, left)), Restart(1)]);
        assert_eq!(it.step(now, Started(Worker(1))), []);
        assert_eq!(it.deadline(), None);
    }
    // The job goes on without it.
    assert_eq!(it.step(now, Ended(Worker(1), Signal(9))), [Say(WorkerEnded(1, Signal(9)))]);
    assert!(it.is_running());
    assert_eq!(it.deadline(), None);
    // Nobody is started again whose end is a verdict, or once the job ends.
    let mut it = running(now);
    it.patience.restarts = 2;
    for how in [Code(exit::OK), Code(exit::STOPPED), Code(exit::NON_FINITE)] {
        assert_eq!(it.step(now, Ended(Worker(1), how)), [Say(WorkerEnded(1, how))]);
        it.step(now, Started(Worker(1)));
    }
    it.step(now, Ended(Worker(1), Signal(9)));
    it.step(now, Ended(Coordinator, Code(0)));
    assert_eq!(it.step(now + seconds(2), Timer), []);
    assert_eq!(it.step(now + seconds(2), Ended(Worker(0), Code(0))), [Exit(0)]);
}

#[test]
fn nobody_is_started_again_for_a_job_that_is_over() {
    let now = Instant::now();
    let mut it = running(now);
    it.patience.restarts = 1;
    it.step(now, Ended(Worker(1), Code(exit::WORKER_LOST)));
    it.step(now, Job(Stage::Over));
    assert_eq!(it.step(now + seconds(1), Timer), []);
}

#[test]
fn a_worker_that_had_no_place_comes_back_a_little_later() {
    let now = Instant::now();
    let mut it = running(now);
    it.patience.restarts = 1;
    it.step(now, Ended(Worker(1), Code(exit::UNAVAILABLE)));
    assert_eq!(it.deadline(), Some(now + seconds(5)));
    assert!(it.step(now + seconds(5), Timer).contains(&Restart(1)));
}

#[test]
fn a_worker_that_fails_is_reported_and_the_coordinator_gets_time_to_conclude() {
    let now = Instant::now();
    let mut it = running(now);
    assert_eq!(it.step(now, Ended(Worker(1), Signal(11))), [Say(WorkerEnded(1, Signal(11)))]);
    assert!(it.is_running());
    it.step(now, Ended(Coordinator, Code(71)));
    assert_eq!(it.step(now, Ended(Worker(0), Code(0))), [Exit(71)]);
}

#[test]
fn a_coordinator_that_waits_on_for_a_refused_worker_is_asked_to_stop() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Ended(Worker(1), Code(exit::BAD_INPUT)));
    let due = now + seconds(15);
    assert_eq!(it.step(due, Timer), [Say(CoordinatorAsked), StopCoordinator]);
    it.step(due, Ended(Coordinator, Code(exit::STOPPED)));
    assert_eq!(it.step(due, Ended(Worker(0), Code(0))), [Exit(exit::BAD_INPUT)]);
}

#[test]
fn when_all_workers_are_refused_the_job_ends_soon_with_their_code() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Ended(Worker(1), Code(exit::BAD_INPUT)));
    it.step(now, Ended(Worker(0), Code(exit::BAD_INPUT)));
    let due = now + seconds(3);
    assert_eq!(it.deadline(), Some(due));
    assert_eq!(it.step(due, Timer), [Say(CoordinatorAsked), StopCoordinator]);
    assert_eq!(it.step(now, Ended(Coordinator, Code(exit::STOPPED))), [Exit(exit::BAD_INPUT)]);
}

#[test]
fn a_job_that_others_train_goes_on_without_the_launchs_own_workers_until_it_waits() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Job(Stage::Runs));
    for worker in [1, 0] {
        it.step(now, Ended(Worker(worker), Signal(9)));
    }
    let due = it.deadline().expect("a look at what the job says");
    assert_eq!(it.step(due, Timer), []);
    assert_eq!((it.is_running(), it.deadline()), (true, None));
    // Now the others are gone as well.
    assert_eq!(it.step(due, Job(Stage::Waits)), []);
    let later = due + seconds(3);
    assert_eq!(it.step(later, Timer), [Say(CoordinatorAsked), StopCoordinator]);
    assert_eq!(it.step(later, Ended(Coordinator, Code(75))), [Exit(exit::WORKER_LOST)]);
}

#[test]
fn a_worker_that_is_refused_does_not_stop_a_job_that_runs() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Job(Stage::Runs));
    it.step(now, Ended(Worker(1), Code(exit::BAD_INPUT)));
    assert_eq!(it.step(now + seconds(15), Timer), []);
    assert!(it.is_running());
    it.step(now, Ended(Coordinator, Code(0)));
    assert_eq!(it.step(now, Ended(Worker(0), Code(0))), [Exit(0)]);
}

#[test]
fn workers_that_end_with_the_code_of_a_stopped_job_have_not_failed() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Ended(Worker(1), Code(exit::STOPPED)));
    it.step(now, Ended(Worker(0), Code(exit::STOPPED)));
    assert_eq!(it.deadline(), None);
    assert_eq!(it.step(now, Ended(Coordinator, Code(exit::STOPPED))), [Exit(exit::STOPPED)]);
}

#[test]
fn a_coordinator_that_crashes_ends_the_job_with_a_failure() {
    let now = Instant::now();
    let mut it = running(now);
    assert_eq!(it.step(now, Ended(Coordinator, Signal(6))), [Say(CoordinatorCrashed(6))]);
    it.step(now, Ended(Worker(0), Code(69)));
    assert_eq!(
        it.step(now, Ended(Worker(1), Code(69))),
        [Say(WorkerEnded(1, Code(69))), Exit(exit::FAILURE)]
    );
}

#[test]
fn a_coordinator_that_refuses_the_config_ends_the_launch_with_its_code() {
    let now = Instant::now();
    let mut it = Supervisor::new(Patience::new(seconds(60), 0));
    it.step(now, Started(Coordinator));
    assert_eq!(it.step(now, Ended(Coordinator, Code(64))), [Exit(64)]);
}

#[test]
fn a_launch_that_cannot_be_set_up_leaves_nobody() {
    let now = Instant::now();
    let mut it = running(now);
    assert_eq!(it.step(now, Broken), [KillAll]);
    it.step(now, Ended(Coordinator, Signal(9)));
    it.step(now, Ended(Worker(0), Signal(9)));
    assert_eq!(it.step(now, Ended(Worker(1), Signal(9))), [Exit(exit::FAILURE)]);
}

#[test]
fn a_signal_after_the_job_ended_does_not_change_its_code() {
    let now = Instant::now();
    let mut it = running(now);
    it.step(now, Ended(Coordinator, Code(0)));
    assert_eq!(it.step(now, StopWanted), [KillAll]);
    it.step(now, Ended(Worker(0), Signal(9)));
    assert_eq!(it.step(now, Ended(Worker(1), Signal(9))), [Exit(0)]);
}

#[test]
fn a_coordinator_that_dies_is_started_again_and_the_workers_go_on() {
    let mut now = Instant::now();
    let mut it = running(now);
    it.patience.restarts = 2;
    for (left, how) in [(1, Signal(9)), (0, Code(101))] {
        assert_eq!(it.step(now, Ended(Coordinator, how)), [Say(CoordinatorRestarts(how, left))]);
        now += seconds(1);
        assert_eq!(it.step(now, Timer), [RestartCoordinator]);
        assert_eq!(it.step(now, Started(Coordinator)), []);
        assert_eq!(it.step(now, Listening), []);
        assert_eq!((it.is_running(), it.deadline()), (true, None));
    }
    assert_eq!(it.step(now, Ended(Coordinator, Signal(9))), [Say(CoordinatorCrashed(9))]);
    it.step(now, Ended(Worker(0), Code(69)));
    assert_eq!(it.step(now, Ended(Worker(1), Code(69))).last(), Some(&Exit(exit::FAILURE)));
}

#[test]
fn what_a_coordinator_concludes_is_the_end_but_a_store_out_of_reach_at_a_restart_is_not() {
    let now = Instant::now();
    for code in [0, 1, 64, 69, 70, 71, 72, 73, 75, 130] {
        let mut it = running(now);
        it.patience.restarts = 2;
        // Those who train for another one are asked to leave.
        let told: &[Order] = if code == exit::SUPERSEDED { &[StopWorkers] } else { &[] };
        assert_eq!(it.step(now, Ended(Coordinator, Code(code))), told, "{code}");
        it.step(now, Ended(Worker(0), Code(0)));
        assert_eq!(it.step(now, Ended(Worker(1), Code(0))), [Exit(code)]);
    }
    let mut it = running(now);
    it.patience.restarts = 2;
    it.step(now, Ended(Coordinator, Signal(9)));
    it.step(now + seconds(1), Timer);
    it.step(now + seconds(1), Started(Coordinator));
    // However long that lasts: the workers train on.
    for attempt in 0..5 {
        let now = now + seconds(10 * attempt);
        let how = Code(exit::UNAVAILABLE);
        let again = it.step(now + seconds(1), Ended(Coordinator, how));
        assert_eq!(again, [Say(CoordinatorRestarts(how, 1))]);
        assert_eq!(it.deadline(), Some(now + seconds(6)));
        assert_eq!(it.step(now + seconds(6), Timer), [RestartCoordinator]);
        it.step(now + seconds(6), Started(Coordinator));
    }
}

#[test]
fn a_worker_lost_with_the_coordinator_is_started_again_when_that_one_listens() {
    let now = Instant::now();
    let mut it = running(now);
    it.patience.restarts = 3;
    it.step(now, Ended(Coordinator, Signal(9)));
    it.step(now, Ended(Worker(1), Signal(9)));
    let later = now + seconds(1);
    assert_eq!(it.step(later, Timer), [RestartCoordinator]);
    assert_eq!(it.step(later, Started(Coordinator)), []);
    assert_eq!(it.deadline(), None);
    it.step(later, Listening);
    assert_eq!(it.step(later, Timer), [Say(WorkerRestarts(1, 2)), Restart(1)]);
}

#[test]
fn a_stop_that_a_coordinator_did_not_live_to_see_is_told_to_the_next() {
    let now = Instant::now();
    let mut it = running(now);
    it.patience.restarts = 1;
    it.step(now, StopWanted);
    let how = Signal(9);
    assert_eq!(it.step(now, Ended(Coordinator, how)), [Say(CoordinatorRestarts(how, 0))]);
    assert_eq!(it.step(now + seconds(1), Timer), [RestartCoordinator]);
    it.step(now + seconds(1), Started(Coordinator));
    assert_eq!(it.step(now + seconds(2), Listening), [StopCoordinator]);
    // The grace of the stop bounds all of it.
    assert_eq!(it.deadline(), Some(now + seconds(60)));
}
