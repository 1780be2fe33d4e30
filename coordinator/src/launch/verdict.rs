//! What the end of a child says about the job.

use convoy_common::exit;

use super::os::Ending;

/// Whether a coordinator that ended so has drawn a conclusion about the job, and did not just die.
/// One that never `began` may have met a store that was out of reach for a while.
pub(super) fn is_the_jobs_verdict(how: Ending, began: bool) -> bool {
    match how {
        Ending::Code(exit::UNAVAILABLE | exit::BAD_INPUT) => began,
        Ending::Code(exit::FAILURE | exit::WORKER_LOST | exit::SUPERSEDED | exit::INTERRUPTED) => {
            true
        }
        how => is_verdict(how),
    }
}

/// Whether another attempt of the same worker would end the same way.
pub(super) fn is_verdict(how: Ending) -> bool {
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
pub(super) fn code_of(how: Ending) -> u8 {
    match how {
        Ending::Code(code @ (exit::USAGE | exit::BAD_INPUT | exit::UNAVAILABLE)) => code,
        Ending::Code(_) | Ending::Signal(_) => exit::WORKER_LOST,
    }
}
