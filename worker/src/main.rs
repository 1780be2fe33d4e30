//! The `convoy-worker` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    convoy_worker::allocator::ensure_tuned();
    convoy_worker::cli::main()
}
