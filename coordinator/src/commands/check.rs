//! To be written.

use std::process::ExitCode;

use convoy_common::failure::Failure;

/// To be written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> Result<ExitCode, Failure> {
    Ok(ExitCode::SUCCESS)
}
