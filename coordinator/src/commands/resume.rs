//! `convoy resume`: goes on after a pause.

use std::process::ExitCode;

use convoy_common::failure::Failure;
use convoy_common::pb;
use pb::operate_request::What;

use super::operate::{self, Target};

/// Goes on with a job that `convoy pause` paused
///
/// Workers that came meanwhile take part from here on. Waits until training goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  convoy resume runs/quickstart

Exit codes: 0 training goes on, 1 it is not paused, 64 no such run, 69 no job runs there, or it does not
go on in time (it will when enough workers are there).")]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    operate::run(&args.target, What::Resume(pb::ResumeJob {}))
}
