//! A worker that was asked to leave does so in time, whoever does not answer.
//!
//! The coordinator lets it go once the others can do without it, and at the latest when its grace is over.
//! This is the same deadline on the worker's side, for a coordinator that is out of reach: whoever takes
//! the machine away will not wait. The job's last checkpoint is worth waiting for, so a worker that is
//! told to stop with all others stays as long as that takes.

use std::time::Duration;

use convoy_common::exit;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::{Agent, Stage};

/// The coordinator's word may be on its way when the grace is over.
const WORD: Duration = Duration::from_secs(1);

/// How long a worker that was asked to leave stays at most.
#[derive(Debug, Default)]
pub(super) struct Drain {
    until: Option<Instant>,
    stops: bool,
}

impl Drain {
    pub(super) fn begin(&mut self, grace: Duration) {
        self.until = Some(Instant::now() + grace + WORD);
    }

    /// The whole job stops.
    pub(super) fn wait_for_the_end(&mut self) {
        self.stops = true;
    }

    /// Returns when there is no more time; never, where there is no hurry.
    pub(super) async fn is_over(&self) {
        match self.until.filter(|_| !self.stops) {
            Some(until) => sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

impl Agent {
    /// Leaves at once; the others go on as after a loss.
    pub(super) fn go_now(&self) -> u8 {
        warn!("the time to leave is over; leaving without waiting for the others");
        self.control.abandon();
        match &self.stage {
            Stage::Training(ring) => ring.leave(),
            Stage::Ready(prepared) => prepared.ring.leave(),
            Stage::Idle | Stage::Preparing(_) => {}
        }
        exit::OK
    }
}
