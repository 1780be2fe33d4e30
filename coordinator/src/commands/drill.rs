//! `convoy drill`: its arguments, and the rehearsal that they name.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use convoy_common::config;
use convoy_common::failure::Failure;

use crate::drill::{self, Cutter, Drill, Kind};
use crate::launch::Device;

/// Rehearses failures: trains under random faults, and compares the end with a quiet run's
///
/// Starts a coordinator and workers of the config on this machine, in stores of their own, and inflicts
/// the faults that follow from --seed, each after the job has recovered from the one before. Then the
/// same config makes as many steps without faults, and both states are compared. With --reference, or
/// a schedule that depends on the run's end, the job runs to the config's own end.
///
/// Kinds of faults:
///   kill                SIGKILL of a worker, which is started again
///   stop                SIGSTOP of a worker for longer than cluster.liveness_timeout
///   blink               the same for less
///   drain               SIGTERM of a worker, which is started again
///   cut                 the way between two workers refuses, resets or swallows for some seconds
///   cut-coordinator     the way between a worker and the coordinator does
///   store               an S3 store behind an http:// endpoint refuses, resets, is slow or answers 503
///   coordinator         SIGKILL of the coordinator, which is started again
///   coordinator+worker  the same and a worker at once
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "\
Examples:
  convoy drill configs/quickstart.toml --workers 3 --faults 20
  convoy drill my.toml --workers 4 --faults 200 --seed 7 --json >report.json
  convoy drill my.toml --workers 2 --faults 5 --kinds kill,drain --keep drill-1

Exit codes: 0 equal states, no sample lost or doubled, nothing left behind; 1 not so, or the job
did not come to its end; 64 the config cannot be drilled; 130 interrupted."
)]
pub(crate) struct Args {
    /// The run's TOML file
    config: PathBuf,
    /// Number of workers, at least 2 [default: the config's cluster.workers]
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u32).range(2..=64))]
    workers: Option<u32>,
    /// How many faults
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    faults: u32,
    /// What everything random is drawn from; the same one gives the same faults [default: from the
    /// clock, and printed]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only these kinds of faults [default: all that are possible]
    #[arg(long, value_name = "KIND,..", value_delimiter = ',')]
    kinds: Option<Vec<Kind>>,
    /// What ways are cut with: `auto` takes namespaces where they are allowed
    #[arg(long, value_enum, default_value = "auto")]
    network: Cutter,
    /// Overrides a value of the config; may be given more than once
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Prints one JSON object on stdout: hash_equal, samples_lost, faults (a list of them with kind,
    /// detection_seconds, pause_seconds and more), ...; what happens meanwhile goes to stderr
    #[arg(long)]
    json: bool,
    /// State digest at the config's end, as `convoy checkpoints show` prints it, in place of a quiet
    /// run
    #[arg(long, value_name = "DIGEST", value_parser = digest)]
    reference: Option<String>,
    /// Workers of the quiet run [default: as many as in the other]
    #[arg(long, value_name = "N", conflicts_with = "reference", value_parser = clap::value_parser!(u32).range(1..=64))]
    reference_workers: Option<u32>,
    /// Where workers train
    #[arg(long, value_enum, default_value = "auto")]
    device: Device,
    /// Lanes of each worker [default: the cores shared out]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    lanes: Option<u32>,
    /// The worker program [default: convoy-worker beside this program]
    #[arg(long, value_name = "PATH")]
    worker: Option<PathBuf>,
    /// Keeps logs, stores and report.json in this folder, which must be empty or new
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// How long the job may take to recover from a fault, or to make a step
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = patience)]
    patience: Duration,
}

/// A state's digest as it is printed in full: 64 hexadecimal digits.
fn digest(text: &str) -> Result<String, String> {
    let is_digest = text.len() == 64 && text.bytes().all(|it| it.is_ascii_hexdigit());
    is_digest.then(|| text.to_ascii_lowercase()).ok_or_else(|| {
        "give all 64 hexadecimal digits, as `convoy checkpoints show --json` prints them".to_owned()
    })
}

/// A time in which a process can be started at all.
fn patience(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let enough = time >= Duration::from_secs(1);
    enough.then_some(time).ok_or_else(|| "no job recovers in less than a second".to_owned())
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut run = config::load(&args.config, &args.overrides)?;
    let workers = args.workers.unwrap_or(run.cluster.workers);
    if workers < 2 {
        let text = "a drill needs two workers at least: with one there is nobody to go on";
        return Err(Failure::new(convoy_common::exit::BAD_INPUT, text)
            .with_hint("say how many with --workers"));
    }
    // Whether it can have so many is said before anything is started.
    for workers in [args.reference_workers, Some(workers)].into_iter().flatten() {
        let more = [args.overrides.clone(), vec![format!("cluster.workers={workers}")]].concat();
        run = config::load(&args.config, &more)?;
    }
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.as_secs() % 1_000_000
    });
    drill::run(&Drill {
        config: args.config,
        overrides: args.overrides,
        run,
        workers,
        faults: args.faults,
        seed,
        kinds: args.kinds,
        network: args.network,
        json: args.json,
        reference: args.reference,
        reference_workers: args.reference_workers,
        worker: args.worker,
        device: args.device,
        lanes: args.lanes,
        keep: args.keep,
        patience: args.patience,
    })
}
