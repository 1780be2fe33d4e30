//! `convoy stop`: ends a running job with a checkpoint.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::checkpoint::Checkpoints;
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::pb;
use convoy_common::store::Store;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::job::{self, Job, JobError};

/// Between two looks at the job.
const LOOK: Duration = Duration::from_millis(200);
/// For the run's store to name its newest checkpoint.
const STORE: Duration = Duration::from_secs(30);

/// Ends a running job at its next step boundary, with a checkpoint
///
/// Waits until the job has ended. The same config goes on from there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy stop runs/quickstart
  convoy stop 127.0.0.1:7171 --reason 'the node is needed' --timeout 10m

Exit codes: 0 the job has ended or, with --no-wait, will; 64 no such run, 69 no job runs there, or it
has not ended in time.")]
pub(crate) struct Args {
    /// URL or folder of the run, or host:port of its coordinator
    #[arg(value_name = "RUN|ADDRESS")]
    target: String,
    /// For the logs
    #[arg(long, default_value = "convoy stop")]
    reason: String,
    /// How long to wait for the job's end
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Asks, and does not wait for the end
    #[arg(long)]
    no_wait: bool,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let last = job::runtime()?.block_on(stop(&args))?;
    let text = if args.json {
        let checkpoint = (!last.last_checkpoint.is_empty()).then_some(&last.last_checkpoint);
        let value = json!({
            "run": last.run, "phase": last.phase, "detail": last.detail,
            "last_checkpoint": checkpoint,
        });
        format!("{value}\n")
    } else {
        let detail =
            if last.detail.is_empty() { String::new() } else { format!(": {}", last.detail) };
        let checkpoint = match last.last_checkpoint.as_str() {
            "" => "no checkpoint yet".to_owned(),
            path => format!("last checkpoint {path}"),
        };
        format!("{} {}{detail}; {checkpoint}\n", last.run, last.phase)
    };
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

/// What is known of a job whose coordinator left between two looks: its run's store tells whether
/// there is a checkpoint.
async fn left(mut last: pb::StatusReply) -> pb::StatusReply {
    let newest = async {
        let store = Store::open(&last.url).ok()?;
        let listing = Checkpoints::new(store).list().await.ok()?;
        listing.checkpoints.into_iter().next()
    };
    if let Ok(Some(newest)) = timeout(STORE, newest).await {
        last.last_checkpoint = newest.path;
    }
    (last.phase, last.detail) = ("ended".to_owned(), String::new());
    last
}

/// The last that the job said of itself.
async fn stop(args: &Args) -> Result<pb::StatusReply, Failure> {
    let until = Instant::now() + args.timeout;
    let mut job = Job::find(&args.target).await?;
    let before = job.status().await?;
    job.stop(args.reason.clone()).await?;
    let mut last = match job.status().await {
        Ok(status) => status,
        // The end of the job was faster than its answer.
        Err(JobError::NoAnswer { .. }) => return Ok(left(before).await),
        Err(error) => return Err(error.into()),
    };
    if args.no_wait {
        return Ok(last);
    }
    let is_over =
        |it: &pb::StatusReply| ["completed", "stopped", "failed"].contains(&it.phase.as_str());
    while Instant::now() < until {
        sleep(LOOK).await;
        match job.status().await {
            Ok(status) => last = status,
            Err(JobError::NoAnswer { .. }) => return Ok(left(last).await),
            Err(error) => return Err(error.into()),
        }
        if is_over(&last) {
            return Ok(last);
        }
    }
    let waited = humantime::format_duration(args.timeout);
    let text = format!("the job is {} still after {waited}: {}", last.phase, last.detail);
    let hint = "it ends at its next step boundary; `convoy status` shows what its workers do";
    Err(Failure::new(exit::UNAVAILABLE, text).with_hint(hint))
}
