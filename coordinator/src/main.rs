//! The `convoy` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    convoy_coordinator::cli::main()
}
