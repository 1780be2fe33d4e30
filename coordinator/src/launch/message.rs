//! What the supervisor hears and says.

use super::os::Ending;

/// One of the children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The coordinator.
    Coordinator,
    /// The worker of this index.
    Worker(usize),
}

/// What the supervisor hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A child runs.
    Started(Who),
    /// A child is gone and reaped.
    Ended(Who, Ending),
    /// The coordinator says where it listens.
    Listening,
    /// The user wants the job to end: SIGINT, SIGTERM or SIGHUP.
    StopWanted,
    /// The job cannot be set up (no address in time, a worker that cannot be started).
    Broken,
    /// The job says that it is in another stage.
    Job(Stage),
    /// The deadline that [`super::supervisor::Supervisor::deadline`] named may have passed.
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
    /// Ask the workers to leave (SIGTERM).
    StopWorkers,
    /// SIGKILL to every child.
    KillAll,
    /// Start the coordinator again; the workers train on meanwhile.
    RestartCoordinator,
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
    /// It is started again, and may be so many times more.
    CoordinatorRestarts(Ending, u32),
    /// Workers outlived the coordinator and are killed.
    WorkersLeft(usize),
    /// A killed process is not gone yet; the launcher does not wait for it any longer.
    GivenUp(usize),
}
