//! `convoy launch`: its arguments, and the launch that they name.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::config;
use convoy_common::failure::Failure;
use convoy_common::telemetry::Format;

use crate::launch::{self, Device, Launch};

/// Trains on this machine: starts a coordinator and its workers, shows what they say, stops them
///
/// Every process's log is also kept in a file of its own in the config's log.folder. Launching the
/// same config again resumes from the run's newest checkpoint.
///
/// Ctrl-C (SIGINT), SIGTERM or SIGHUP ends the job after a checkpoint, a second one ends everything
/// at once. Whatever ends the launcher, no process is left behind.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy launch configs/quickstart.toml
  convoy launch configs/quickstart.toml --workers 4 --set train.lr=0.005
  convoy launch configs/alexnet-imagenet.toml --device cuda --workers 8
  convoy launch configs/quickstart.toml --log-format json 2>all.log

Exit codes (the coordinator's):
    0  the run is complete
    1  something failed that has no code of its own
    2  the command line is wrong
   64  the config, the data set or another input is wrong
   69  the store or a peer could not be reached
   70  a loss or gradient was not finite
   71  a worker was lost; the last checkpoint is intact
   72  workers held different states; the last checkpoint they agreed on is intact
   73  another coordinator works on the run
   75  stopped by a signal, after a checkpoint
  130  ended at once by a second signal, or not ended within --grace")]
pub(crate) struct Args {
    /// The run's TOML file
    config: PathBuf,
    /// Number of workers [default: the config's cluster.workers]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    workers: Option<u32>,
    /// Overrides a value of the config; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Refuses to go on with a run that exists already
    #[arg(long)]
    fresh: bool,
    /// Starts a new lineage from this checkpoint: STEP, LINEAGE/STEP, or best for the one with the
    /// fewest errors
    #[arg(long, value_name = "CHECKPOINT", conflicts_with = "fresh")]
    from: Option<String>,
    /// Trains anew with the drops by hand of the run at this URL, each at its recorded step
    #[arg(long, value_name = "RUN_URL", conflicts_with_all = ["fresh", "from"])]
    replay: Option<String>,
    /// Goes without create-only writes where the run's store has none; nothing stops a second
    /// coordinator then
    #[arg(long)]
    unfenced: bool,
    /// Where workers train
    #[arg(long, value_enum, default_value = "auto")]
    device: Device,
    /// Lanes of each worker [default: the cores shared out]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    lanes: Option<u32>,
    /// How lines on stderr look; the files are always JSON
    #[arg(long, value_enum, default_value = "text")]
    log_format: Format,
    /// Draws no progress line, also on a terminal
    #[arg(long)]
    no_progress: bool,
    /// How long the job may take to end after the first signal
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// How often the coordinator and each worker are started again when they die; the others train
    /// on meanwhile
    #[arg(long, value_name = "N", default_value_t = 3)]
    restarts: u32,
    /// The worker program [default: convoy-worker beside this program]
    #[arg(long, value_name = "PATH")]
    worker_binary: Option<PathBuf>,
    /// The coordinator program [default: this program]
    #[arg(long, value_name = "PATH", hide = true)]
    coordinator_binary: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut overrides = args.overrides;
    if let Some(workers) = args.workers {
        overrides.push(format!("cluster.workers={workers}"));
    }
    let run = config::load(&args.config, &overrides)?;
    launch::run(&Launch {
        config: args.config,
        overrides,
        run,
        fresh: args.fresh,
        from: args.from,
        replay: args.replay,
        unfenced: args.unfenced,
        device: args.device,
        lanes: args.lanes,
        format: args.log_format,
        progress: !args.no_progress,
        grace: args.grace,
        restarts: args.restarts,
        coordinator_binary: args.coordinator_binary,
        worker_binary: args.worker_binary,
    })
}
