//! Decides what happens to the children: who is told to end, when they are killed, and with which
//! code the launcher ends.
//!
//! A pure machine: events and the time go in, orders come out, so that every path is tested
//! without a process. It knows no process, no signal handler and no clock.
//!
//! ```text
//! Running --signal--> Stopping --coordinator ended--> Closing --workers gone--> done
//!    |                   |  second signal, deadline      | deadline
//!    |                   v                               v
//!    +--broken-------> Killing <-------------------------+
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use convoy_common::exit;

/// One of the children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The coordinator.
    Coordinator,
    /// The worker of this index.
    Worker(usize),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It exited with this code.
    Code(u8),
    /// A signal of this number killed it.
    Signal(i32),
}

/// What the supervisor hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A child runs.
    Started(Who),
    /// A child is gone and reaped.
    Ended(Who, Ending),
    /// The user wants the job to end: SIGINT, SIGTERM or SIGHUP.
    StopWanted,
    /// The job cannot be set up (no address in time, a worker that cannot be started).
    Broken,
    /// The job says that it is in another stage.
    Job(Stage),
    /// The deadline that [`Supervisor::deadline`] named may have passed.
    Timer,
}

/// What the job says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It waits for workers.
    Waits,
    /// It has the workers that it needs, wherever they come from.
    Runs,
    /// It is over.
    Over,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Ask the coordinator to stop the job after a checkpoint (SIGTERM).
    StopCoordinator,
    /// SIGKILL to every child.
    KillAll,
    /// Start the worker of this index again.
    Restart(usize),
    /// Tell the user.
    Say(Notice),
    /// The launcher ends with this code.
    Exit(u8),
}

/// What the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// The first signal: the job ends after a checkpoint.
    Stopping,
    /// The second signal: everything is killed.
    StoppingAtOnce,
    /// The coordinator did not end within the grace period.
    GraceOver,
    /// A worker ended before the job did.
    WorkerEnded(usize, Ending),
    /// It is started again, and may be so many times more.
    WorkerRestarts(usize, u32),
    /// A worker failed and the coordinator did not draw the conclusion; it is asked to stop.
    CoordinatorAsked,
    /// A signal killed the coordinator.
    CoordinatorCrashed(i32),
    /// Workers outlived the coordinator and are killed.
    WorkersLeft(usize),
    /// A killed process is not gone yet; the launcher does not wait for it any longer.
    GivenUp(usize),
}

/// How long each wait may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the coordinator to end after the first signal: it takes a checkpoint.
    pub(super) grace: Duration,
    /// For the coordinator to end the job by itself after a worker failed.
    pub(super) after_worker_failed: Duration,
    /// The same after the last worker failed.
    pub(super) after_all_failed: Duration,
    /// For the workers to end after the coordinator did.
    pub(super) after_coordinator: Duration,
    /// For killed processes to be gone.
    pub(super) after_kill: Duration,
    /// Before a worker that died is started again.
    pub(super) before_restart: Duration,
    /// Before one is that had no place, or did not reach the coordinator.
    pub(super) before_return: Duration,
    /// How often each worker is started again.
    pub(super) restarts: u32,
}

impl Patience {
    /// The waits with the given grace period. What follows the coordinator's end stays below 5 s
    /// together, the time within which nothing may be left.
    pub(super) fn new(grace: Duration, restarts: u32) -> Self {
        Self {
            grace,
            before_restart: Duration::from_secs(1),
            before_return: Duration::from_secs(5),
            restarts,
            after_worker_failed: Duration::from_secs(15),
            after_all_failed: Duration::from_secs(3),
            after_coordinator: Duration::from_secs(3),
            after_kill: Duration::from_secs(1),
        }
    }
}

#[derive(Debug)]
enum Phase {
    /// `failed`: how the first worker that failed did, and when the coordinator is asked to stop.
    Running {
        failed: Option<(Ending, Instant)>,
    },
    Stopping {
        until: Instant,
        failed: Option<Ending>,
    },
    Closing {
        until: Instant,
        code: u8,
    },
    Killing {
        until: Instant,
        code: u8,
    },
    Over,
}

/// The state of one launch.
#[derive(Debug)]
pub(super) struct Supervisor {
    phase: Phase,
    patience: Patience,
    coordinator: bool,
    /// What the job said last; until it says anything, it waits.
    stage: Stage,
    /// How the worker that failed last did.
    last_failure: Option<Ending>,
    /// Indices of the workers that run.
    workers: Vec<usize>,
    /// How often each worker died and was, or will be, started again.
    deaths: BTreeMap<usize, u32>,
    /// Workers that are to be started again, and when.
    restarts: Vec<(usize, Instant)>,
}

impl Supervisor {
    /// Nothing runs yet.
    pub(super) fn new(patience: Patience) -> Self {
        let phase = Phase::Running { failed: None };
        Self {
            phase,
            patience,
            coordinator: false,
            stage: Stage::Waits,
            last_failure: None,
            workers: Vec::new(),
            deaths: BTreeMap::new(),
            restarts: Vec::new(),
        }
    }

    /// Whether workers should (still) be started.
    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// When [`Event::Timer`] is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running { failed } => {
                let restarts = self.restarts.iter().map(|it| it.1);
                restarts.chain(failed.map(|(_, ask_at)| ask_at)).min()
            }
            Phase::Stopping { until, .. }
            | Phase::Closing { until, .. }
            | Phase::Killing { until, .. } => Some(until),
            Phase::Over => None,
        }
    }

    /// Takes in one event and says what follows.
    pub(super) fn step(&mut self, now: Instant, event: Event) -> Vec<Order> {
        let mut orders = Vec::new();
        match event {
            Event::Started(Who::Coordinator) => self.coordinator = true,
            Event::Started(Who::Worker(index)) => self.workers.push(index),
            Event::Ended(Who::Coordinator, how) => self.coordinator_ended(now, how, &mut orders),
            Event::Ended(Who::Worker(index), how) => {
                self.worker_ended(now, index, how, &mut orders);
            }
            Event::StopWanted => self.stop_wanted(now, &mut orders),
            Event::Broken => self.kill(now, exit::FAILURE, &mut orders),
            Event::Job(stage) => self.job_says(now, stage),
            Event::Timer => self.timer(now, &mut orders),
        }
        self.finish(&mut orders);
        orders
    }

    /// A restart of a crashed coordinator belongs here, once workers can be adopted by it.
    fn coordinator_ended(&mut self, now: Instant, how: Ending, orders: &mut Vec<Order>) {
        self.coordinator = false;
        let code = match how {
            Ending::Code(code) => code,
            Ending::Signal(_) => exit::FAILURE,
        };
        let code = match self.phase {
            Phase::Running { .. } => code,
            // It stopped because the launcher asked, and the launcher asked because of a worker.
            Phase::Stopping { failed: Some(how), .. } if code == exit::STOPPED => code_of(how),
            Phase::Stopping { .. } => code,
            Phase::Closing { .. } | Phase::Killing { .. } | Phase::Over => return,
        };
        if let Ending::Signal(number) = how {
            orders.push(Order::Say(Notice::CoordinatorCrashed(number)));
        }
        self.phase = Phase::Closing { until: now + self.patience.after_coordinator, code };
    }

    fn worker_ended(&mut self, now: Instant, index: usize, how: Ending, orders: &mut Vec<Order>) {
        self.workers.retain(|it| *it != index);
        // The coordinator hands its workers the code that the job ends with.
        let failed = ![exit::OK, exit::STOPPED].map(Ending::Code).contains(&how);
        match &mut self.phase {
            Phase::Running { failed: first } => {
                orders.push(Order::Say(Notice::WorkerEnded(index, how)));
                if !failed {
                    return;
                }
                self.last_failure = Some(how);
                let deaths = self.deaths.entry(index).or_default();
                // A job that has begun goes on without it; one that has not waits for it in vain.
                let needed = is_verdict(how) && *deaths == 0;
                if !is_verdict(how) && *deaths < self.patience.restarts {
                    *deaths += 1;
                    let wait = match how {
                        Ending::Code(exit::UNAVAILABLE) => self.patience.before_return,
                        _ => self.patience.before_restart,
                    };
                    self.restarts.push((index, now + wait));
                } else if self.workers.is_empty() && self.restarts.is_empty() {
                    // Nobody is left whom the coordinator could wait for.
                    let soon = now + self.patience.after_all_failed;
                    let (_, ask_at) = first.get_or_insert((how, soon));
                    *ask_at = (*ask_at).min(soon);
                } else if needed {
                    first.get_or_insert((how, now + self.patience.after_worker_failed));
                }
            }
            Phase::Stopping { .. } | Phase::Closing { .. } if failed => {
                orders.push(Order::Say(Notice::WorkerEnded(index, how)));
            }
            Phase::Stopping { .. }
            | Phase::Closing { .. }
            | Phase::Killing { .. }
            | Phase::Over => {}
        }
    }

    /// A job that others trained may come to wait for workers that this launch does not have any more.
    fn job_says(&mut self, now: Instant, stage: Stage) {
        self.stage = stage;
        if let Phase::Running { failed } = &mut self.phase
            && stage == Stage::Waits
            && self.workers.is_empty()
            && self.restarts.is_empty()
            && let Some(how) = self.last_failure
        {
            failed.get_or_insert((how, now + self.patience.after_all_failed));
        }
    }

    fn stop_wanted(&mut self, now: Instant, orders: &mut Vec<Order>) {
        match self.phase {
            Phase::Running { .. } => {
                orders.push(Order::Say(Notice::Stopping));
                self.stop(now, None, orders);
            }
            Phase::Stopping { .. } => {
                orders.push(Order::Say(Notice::StoppingAtOnce));
                self.kill(now, exit::INTERRUPTED, orders);
            }
            // The job has ended already, with this code.
            Phase::Closing { code, .. } => self.kill(now, code, orders),
            Phase::Killing { .. } | Phase::Over => {}
        }
    }

    fn timer(&mut self, now: Instant, orders: &mut Vec<Order>) {
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        match self.phase {
            Phase::Running { failed } => {
                let (due, later) = self.restarts.iter().partition(|it| it.1 <= now);
                self.restarts = later;
                let due: Vec<(usize, Instant)> = due;
                // A job that is over gives its own code to workers, which are not missed.
                for (index, _) in due.into_iter().filter(|_| self.stage != Stage::Over) {
                    let deaths = self.deaths.get(&index).copied().unwrap_or_default();
                    let left = self.patience.restarts.saturating_sub(deaths);
                    orders.push(Order::Say(Notice::WorkerRestarts(index, left)));
                    orders.push(Order::Restart(index));
                }
                let Some((how, _)) = failed.filter(|it| it.1 <= now) else { return };
                if self.stage != Stage::Waits {
                    // Others train it.
                    self.phase = Phase::Running { failed: None };
                } else {
                    orders.push(Order::Say(Notice::CoordinatorAsked));
                    self.stop(now, Some(how), orders);
                }
            }
            Phase::Stopping { .. } => {
                orders.push(Order::Say(Notice::GraceOver));
                self.kill(now, exit::INTERRUPTED, orders);
            }
            Phase::Closing { code, .. } => {
                orders.push(Order::Say(Notice::WorkersLeft(self.workers.len())));
                self.kill(now, code, orders);
            }
            Phase::Killing { code, .. } => {
                let left = self.workers.len() + usize::from(self.coordinator);
                orders.push(Order::Say(Notice::GivenUp(left)));
                orders.push(Order::Exit(code));
                self.phase = Phase::Over;
            }
            Phase::Over => {}
        }
    }

    fn stop(&mut self, now: Instant, failed: Option<Ending>, orders: &mut Vec<Order>) {
        orders.push(Order::StopCoordinator);
        self.phase = Phase::Stopping { until: now + self.patience.grace, failed };
    }

    fn kill(&mut self, now: Instant, code: u8, orders: &mut Vec<Order>) {
        if matches!(self.phase, Phase::Killing { .. } | Phase::Over) {
            return;
        }
        orders.push(Order::KillAll);
        self.phase = Phase::Killing { until: now + self.patience.after_kill, code };
    }

    fn finish(&mut self, orders: &mut Vec<Order>) {
        if self.coordinator || !self.workers.is_empty() {
            return;
        }
        if let Phase::Closing { code, .. } | Phase::Killing { code, .. } = self.phase {
            orders.push(Order::Exit(code));
            self.phase = Phase::Over;
        }
    }
}

/// Whether another attempt of the same worker would end the same way.
fn is_verdict(how: Ending) -> bool {
    matches!(
        how,
        Ending::Code(
            exit::OK
                | exit::USAGE
                | exit::BAD_INPUT
                | exit::NON_FINITE
                | exit::DIVERGED
                | exit::STOPPED
        )
    )
}

/// What a job ends with that was stopped because of a worker: what is wrong with the input or with the
/// machine is the worker's to say, everything else is a loss.
fn code_of(how: Ending) -> u8 {
    match how {
        Ending::Code(code @ (exit::USAGE | exit::BAD_INPUT | exit::UNAVAILABLE)) => code,
        Ending::Code(_) | Ending::Signal(_) => exit::WORKER_LOST,
    }
}

#[cfg(test)]
mod tests {
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
}
