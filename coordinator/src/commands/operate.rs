//! What the commands share that ask something of a running job and wait for it.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::pb;
use pb::operate_request::What;
use serde_json::json;

use super::job::{self, Job};

/// Whom to ask, and how long to wait.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// URL or folder of the run, its config file, or host:port of its coordinator
    #[arg(value_name = "RUN|CONFIG|ADDRESS")]
    target: String,
    /// How long to wait for the job, at most 10m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Asks and waits. What is not done in time stands, and the exit code says so.
pub(crate) fn run(target: &Target, what: What) -> Result<ExitCode, Failure> {
    let (reply, status) = job::runtime()?.block_on(async {
        let mut job = Job::find(&target.target).await?;
        let run = job.status().await?;
        let reply = job.operate(what, target.timeout).await?;
        Ok::<_, Failure>((reply, run))
    })?;
    if !reply.done {
        let waited = humantime::format_duration(target.timeout);
        let text = format!("not done after {waited}; {}", reply.detail);
        let hint = "what was asked for stands; `convoy status` shows what the workers do";
        return Err(Failure::new(exit::UNAVAILABLE, text).with_hint(hint));
    }
    let text =
        if target.json { as_json(&status.run, &reply) } else { as_text(&status.run, &reply) };
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn as_json(run: &str, it: &pb::OperateReply) -> String {
    let checkpoint = (!it.checkpoint.is_empty()).then_some(&it.checkpoint);
    format!("{}\n", json!({ "run": run, "detail": it.detail, "checkpoint": checkpoint }))
}

fn as_text(run: &str, it: &pb::OperateReply) -> String {
    match it.checkpoint.as_str() {
        "" => format!("{run}: {}\n", it.detail),
        path => format!("{run}: {}; checkpoint {path}\n", it.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_names_the_run_and_the_checkpoint_if_there_is_one() {
        let reply = |checkpoint: &str| pb::OperateReply {
            done: true,
            detail: "paused at epoch 1 step 2".to_owned(),
            checkpoint: checkpoint.to_owned(),
        };
        assert_eq!(as_text("a", &reply("")), "a: paused at epoch 1 step 2\n");
        assert!(as_text("a", &reply("c/1")).ends_with("; checkpoint c/1\n"));
        let value: serde_json::Value = serde_json::from_str(&as_json("a", &reply(""))).unwrap();
        assert!(value["checkpoint"].is_null() && value["run"] == "a");
    }
}
