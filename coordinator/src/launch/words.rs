//! What the launcher says of its children, in words.

use std::time::Duration;

use convoy_common::exit;

use super::message::Notice;
use super::os::Ending;
use super::signals;

/// Says it as a log line; `name` names workers.
pub(super) fn say<'a>(notice: Notice, grace: Duration, name: impl Fn(usize) -> &'a str) {
    match notice {
        Notice::Stopping => tracing::info!(
            grace = %humantime::format_duration(grace),
            "stopping after a checkpoint; a second signal ends everything at once"
        ),
        Notice::StoppingAtOnce => tracing::warn!("second signal: ending everything at once"),
        Notice::GraceOver => tracing::error!(
            grace = %humantime::format_duration(grace),
            "coordinator did not end in time; ending everything"
        ),
        Notice::WorkerEnded(index, how) => match how {
            Ending::Code(exit::OK | exit::STOPPED) => {
                tracing::info!(worker = name(index), "worker ended");
            }
            how => tracing::error!(worker = name(index), ending = describe(how), "worker failed"),
        },
        Notice::WorkerRestarts(index, left) => {
            tracing::warn!(worker = name(index), restarts_left = left, "worker is started again");
        }
        Notice::CoordinatorAsked => {
            tracing::error!("job waits for a worker that is gone; asking coordinator to stop");
        }
        Notice::CoordinatorCrashed(number) => tracing::error!(
            ending = describe(Ending::Signal(number)),
            "coordinator crashed; launching the same config again resumes from the newest checkpoint"
        ),
        Notice::CoordinatorRestarts(how, left) => tracing::error!(
            ending = describe(how),
            restarts_left = left,
            "coordinator died and is started again; the workers train on"
        ),
        Notice::WorkersLeft(left) => {
            tracing::warn!(left, "workers outlived the coordinator; ending them");
        }
        Notice::GivenUp(left) => {
            tracing::error!(left, "killed processes are not gone yet; not waiting for them");
        }
    }
}

pub(super) fn describe(how: Ending) -> String {
    match how {
        Ending::Code(code) => format!("exit code {code} ({})", meaning(code)),
        Ending::Signal(number) => format!("signal {number} ({})", signals::name(number)),
    }
}

/// What an exit code of either program means, in a word or two.
pub(crate) fn meaning(code: u8) -> &'static str {
    match code {
        exit::OK => "done",
        exit::USAGE => "wrong command line",
        exit::BAD_INPUT => "wrong input",
        exit::UNAVAILABLE => "something could not be reached",
        exit::NON_FINITE => "non-finite loss or gradient",
        exit::WORKER_LOST => "worker lost",
        exit::DIVERGED => "workers held different states",
        exit::SUPERSEDED => "another coordinator has the run",
        exit::STOPPED => "stopped after a checkpoint",
        exit::INTERRUPTED => "interrupted",
        _ => "failure",
    }
}
