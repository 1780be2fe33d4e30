//! Exit codes of both programs; README lists them.

/// The work is done.
pub const OK: u8 = 0;
/// Something failed that has no code of its own.
pub const FAILURE: u8 = 1;
/// The command line is wrong (clap's own code).
pub const USAGE: u8 = 2;
/// The config, the data set or another input is wrong (`EX_USAGE` family: trying again cannot help).
pub const BAD_INPUT: u8 = 64;
/// A peer, the coordinator or the store could not be reached.
pub const UNAVAILABLE: u8 = 69;
/// A loss or a gradient was not finite; no rank committed the step.
pub const NON_FINITE: u8 = 70;
/// A worker was lost and the job ended at its last checkpoint.
pub const WORKER_LOST: u8 = 71;
/// Workers held different states; the job ended at the last checkpoint on which they agreed.
pub const DIVERGED: u8 = 72;
/// Another coordinator works on the run, or has taken it over.
pub const SUPERSEDED: u8 = 73;
/// Stopped by a signal or by `convoy stop`, after a checkpoint.
pub const STOPPED: u8 = 75;
/// A second signal: stopped at once, without a checkpoint.
pub const INTERRUPTED: u8 = 130;
