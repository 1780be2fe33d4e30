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

use super::message::{Event, Notice, Order, Stage, Who};
use super::os::Ending;
use super::verdict::{code_of, is_the_jobs_verdict, is_verdict};

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
    /// How often the coordinator and each worker are started again.
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
    /// It has said where; until it does, nobody can join.
    listening: bool,
    /// How often it died and was, or will be, started again.
    coordinator_deaths: u32,
    /// When it is to be started again.
    coordinator_due: Option<Instant>,
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
            listening: false,
            coordinator_deaths: 0,
            coordinator_due: None,
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
                // Workers that are started again find no coordinator until it listens.
                let restarts = self.restarts.iter().map(|it| it.1).filter(|_| self.listening);
                let ask = failed.map(|(_, ask_at)| ask_at);
                restarts.chain(ask).chain(self.coordinator_due).min()
            }
            Phase::Stopping { until, .. } => self.coordinator_due.into_iter().chain([until]).min(),
            Phase::Closing { until, .. } | Phase::Killing { until, .. } => Some(until),
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
            Event::Listening => {
                self.listening = true;
                // It died before it could stop the job, or while it did.
                if let Phase::Stopping { .. } = self.phase {
                    orders.push(Order::StopCoordinator);
                }
            }
            Event::StopWanted => self.stop_wanted(now, &mut orders),
            Event::Broken => self.kill(now, exit::FAILURE, &mut orders),
            Event::Job(stage) => self.job_says(now, stage),
            Event::Timer => self.timer(now, &mut orders),
        }
        self.finish(&mut orders);
        orders
    }

    /// One that died is started again: the workers go on without it, and the next one adopts them.
    fn coordinator_ended(&mut self, now: Instant, how: Ending, orders: &mut Vec<Order>) {
        let listened = std::mem::take(&mut self.listening);
        self.coordinator = false;
        let lives = matches!(self.phase, Phase::Running { .. } | Phase::Stopping { .. });
        let began = listened || self.coordinator_deaths == 0;
        // A store that is away keeps it from coming back, and the workers train on meanwhile.
        let in_vain = !began && matches!(how, Ending::Code(_)) && !self.workers.is_empty();
        if lives
            && !is_the_jobs_verdict(how, began)
            && (in_vain || self.coordinator_deaths < self.patience.restarts)
        {
            self.coordinator_deaths += u32::from(!in_vain);
            let left = self.patience.restarts - self.coordinator_deaths;
            orders.push(Order::Say(Notice::CoordinatorRestarts(how, left)));
            self.coordinator_due = Some(now + self.wait_after(how));
            return;
        }
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
        let mut patience = self.patience.after_coordinator;
        if how == Ending::Code(exit::SUPERSEDED) {
            // They train for another one, and what they hold must not go with them.
            orders.push(Order::StopWorkers);
            patience = patience.max(self.patience.grace);
        }
        self.phase = Phase::Closing { until: now + patience, code };
    }

    fn worker_ended(&mut self, now: Instant, index: usize, how: Ending, orders: &mut Vec<Order>) {
        self.workers.retain(|it| *it != index);
        let wait = self.wait_after(how);
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

    fn wait_after(&self, how: Ending) -> Duration {
        match how {
            Ending::Code(exit::UNAVAILABLE) => self.patience.before_return,
            _ => self.patience.before_restart,
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
        if self.coordinator_due.is_some_and(|due| due <= now) {
            self.coordinator_due = None;
            if let Phase::Running { .. } | Phase::Stopping { .. } = self.phase {
                orders.push(Order::RestartCoordinator);
                return;
            }
        }
        match self.phase {
            Phase::Running { failed } => {
                let listening = self.listening;
                let (due, later) = self.restarts.iter().partition(|it| it.1 <= now && listening);
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

#[cfg(test)]
mod tests;
