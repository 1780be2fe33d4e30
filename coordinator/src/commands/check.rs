//! `convoy check`: the resolved config, or everything that is wrong with it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use convoy_common::config::{ConfigError, Resolved, Source};
use convoy_common::exit;
use convoy_common::failure::Failure;
use serde_json::json;

/// Checks a config and prints it as it resolves, each value with its meaning and where it came from
///
/// Values come from, later ones winning: the paper's recipe, the file, environment variables such
/// as CONVOY_TRAIN_BATCH, and --set. All problems are told at once; the exit code is then 64.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy check configs/quickstart.toml
  convoy check my.toml --set train.batch=64 --set run.url=s3://bucket/run
  convoy check my.toml --json | jq .config.train")]
pub(crate) struct Args {
    /// The config, a TOML file
    config: PathBuf,
    /// Sets one value, whatever the file says; may be repeated
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Prints one JSON object: {config, digest} or {problems}
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let outcome = Source::new(&args.config, &args.set).resolve();
    if !args.json {
        let resolved = outcome?;
        let heading =
            format!("# {}, resolved; digest {}", args.config.display(), resolved.config.digest());
        return print(&format!("{heading}\n\n{}", resolved.to_toml()), ExitCode::SUCCESS);
    }
    match outcome {
        Ok(resolved) => print(&format!("{}\n", resolved_json(&resolved)), ExitCode::SUCCESS),
        Err(error) => {
            print(&format!("{}\n", problems_json(&error)), ExitCode::from(exit::BAD_INPUT))
        }
    }
}

fn resolved_json(resolved: &Resolved) -> serde_json::Value {
    json!({ "config": resolved.config, "digest": resolved.config.digest() })
}

fn problems_json(error: &ConfigError) -> serde_json::Value {
    json!({ "file": error.config, "problems": error.problems })
}

/// Writes to standard output; a reader that went away (`| head`) is no failure.
fn print(text: &str, code: ExitCode) -> Result<ExitCode, Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::FAILURE, error))
        }
        _ => Ok(code),
    }
}
