//! `convoy pause`: stops making steps, and keeps everything.

use std::process::ExitCode;

use convoy_common::failure::Failure;
use convoy_common::pb;
use pb::operate_request::What;

use super::operate::{self, Target};

/// Pauses a running job at its next step boundary, with its state in the workers' memory
///
/// A checkpoint of that position is taken besides, so that nothing is lost with a worker that does not
/// outlive the pause. Waits until both are there. `convoy resume` goes on with the same bits.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy pause runs/quickstart
  convoy pause 127.0.0.1:7171 --reason 'the switch is exchanged' --timeout 5m

Exit codes: 0 paused, 1 refused, 64 no such run, 69 no job runs there, or it is not paused in time (it
will be).")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// For logs and status
    #[arg(long, default_value = "convoy pause")]
    reason: String,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    operate::run(&args.target, What::Pause(pb::PauseJob { reason: args.reason }))
}
