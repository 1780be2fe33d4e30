//! The `convoy-worker` command.

use std::process::ExitCode;

use convoy_common::{exit, processor};

fn main() -> ExitCode {
    if !processor::fits_or_says_so() {
        return ExitCode::from(exit::FAILURE);
    }
    convoy_worker::allocator::ensure_tuned();
    convoy_worker::cli::main()
}
