//! The `convoy` command.

use std::process::ExitCode;

use convoy_common::{exit, processor};

fn main() -> ExitCode {
    if !processor::fits_or_says_so() {
        return ExitCode::from(exit::FAILURE);
    }
    convoy_coordinator::cli::main()
}
