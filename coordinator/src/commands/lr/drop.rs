//! `convoy lr drop`: divides the learning rate of a running job.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::Position;
use convoy_common::pb;
use serde_json::json;

use crate::commands::job::{self, Job};

/// Divides the learning rate of a running job and prints the step at which that took effect
///
/// The order is written into the run's override log first, and takes effect at the first step that
/// all workers know of it. The log then says where that was, so that the run can be repeated with
/// `convoy launch CONFIG --replay RUN`. A run that is restored with --from an older checkpoint
/// keeps the drops up to that checkpoint; later ones stay in the old line of history.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy lr drop runs/alexnet
  convoy lr drop 127.0.0.1:7171 --divide-by 2 --reason 'the loss stalls'

Exit codes: 0 in effect, 64 no such run, 69 no job runs there, or some worker has not taken part in
time (the order stands).")]
pub(crate) struct Args {
    /// URL or folder of the run, or host:port of its coordinator
    #[arg(value_name = "RUN|ADDRESS")]
    target: String,
    /// What the rate is divided by [default: schedule.divide_by under plateau, else 10]
    #[arg(long, value_name = "NUMBER")]
    divide_by: Option<f64>,
    /// For the override log
    #[arg(long, default_value = "")]
    reason: String,
    /// How long to wait for the workers
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Some(divide_by) = args.divide_by
        && !(divide_by > 1.0 && divide_by <= 1000.0)
    {
        let text = format!("--divide-by must be more than 1 and at most 1000, is {divide_by}");
        return Err(Failure::new(exit::BAD_INPUT, text).with_hint("10 is the paper's"));
    }
    let request = pb::DropRateRequest {
        divide_by: args.divide_by.unwrap_or(0.0),
        reason: args.reason,
        patience_seconds: args.timeout.as_secs_f64(),
    };
    let reply = job::runtime()?.block_on(async {
        let mut job = Job::find(&args.target).await?;
        job.drop_rate(request).await
    })?;
    let drop = reply.drop.unwrap_or_default();
    let position = drop.position.map(Position::from);
    if args.json {
        let value = json!({
            "number": drop.number,
            "divide_by": drop.divide_by,
            "stage": drop.stage,
            "epoch": position.map(|it| it.epoch),
            "step": position.map(|it| it.step),
            "global_step": position.map(|it| it.global_step(reply.steps_per_epoch)),
            "waiting_for": drop.waiting_for,
        });
        say(&format!("{value}\n"));
    }
    match position {
        Some(position) => {
            if !args.json {
                let Position { epoch, step } = position;
                let (by, number) = (drop.divide_by, drop.number);
                let global = position.global_step(reply.steps_per_epoch);
                say(&format!(
                    "rate divided by {by} from step {step} of epoch {epoch} on (step {global} of \
                     the run); order {number} of the override log\n"
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        None => {
            let waited = humantime::format_duration(args.timeout);
            Err(Failure::new(exit::UNAVAILABLE, late(&drop, &waited.to_string())).with_hint(
                "the order stands and takes effect once all workers know it; `convoy status` \
                 shows when",
            ))
        }
    }
}

fn late(drop: &pb::DropStatus, waited: &str) -> String {
    let for_what = match (drop.stage.as_str(), drop.waiting_for.as_slice()) {
        ("writing", _) => "the store to take it into the override log".to_owned(),
        (_, []) => "the job's next step".to_owned(),
        (_, [one]) => format!("worker {one}"),
        (_, many) => format!("workers {}", many.join(", ")),
    };
    format!("order {} is not in effect after {waited}; it waits for {for_what}", drop.number)
}

fn say(text: &str) {
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_is_late_says_for_whom_it_waits() {
        let told = |stage: &str, names: &[&str]| {
            let waiting_for = names.iter().map(|it| (*it).to_owned()).collect();
            let stage = stage.to_owned();
            late(&pb::DropStatus { number: 2, stage, waiting_for, ..Default::default() }, "1m")
        };
        assert_eq!(
            told("waiting", &["b"]),
            "order 2 is not in effect after 1m; it waits for worker b"
        );
        assert!(told("waiting", &["b", "c"]).ends_with("workers b, c"));
        assert!(told("waiting", &[]).ends_with("it waits for the job's next step"));
        assert!(told("writing", &[]).ends_with("override log"));
    }
}
