//! `convoy workers`: who works on a running job, and letting one of them go.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use convoy_common::failure::Failure;
use convoy_common::ids::Position;
use convoy_common::pb;
use pb::operate_request::What;
use serde_json::{Value, json};

use super::job::{self, Job};
use super::operate::{self, Target};

/// Lists the workers of a running job, and lets one of them go
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy workers list runs/quickstart
  convoy workers drain runs/quickstart worker-1 --grace 20s")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// All workers that are connected: rank, phase, how long they are in it, whom the others wait for
    #[command(after_help = "Exit codes: 0 a job answers, 64 no such run, 69 no job runs there.")]
    List {
        /// URL or folder of the run, its config file, or host:port of its coordinator
        #[arg(value_name = "RUN|CONFIG|ADDRESS")]
        target: String,
        /// Prints one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Lets a worker go at the next step boundary, once what it has to store is stored
    ///
    /// The others go on without it. The last worker leaves a checkpoint, and the job ends with exit code 75.
    #[command(
        after_help = "Exit codes: 0 it has left, 1 no such worker, 64 no such run, 69 no job \
        runs there, or it has not left in time (it will)."
    )]
    Drain {
        #[command(flatten)]
        target: Target,
        /// The worker's name
        name: String,
        /// It goes after so long at the latest, as if it were lost [default: cluster.drain_grace]
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        grace: Option<Duration>,
    },
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::List { target, json } => list(&target, json),
        Command::Drain { target, name, grace } => {
            // Zero is no grace at all, and not the default.
            let grace_seconds = grace.map_or(0.0, |it| it.as_secs_f64().max(1e-3));
            operate::run(&target, What::Drain(pb::DrainWorker { name, grace_seconds }))
        }
    }
}

fn list(target: &str, json: bool) -> Result<ExitCode, Failure> {
    let status = job::runtime()?.block_on(async {
        let mut job = Job::find(target).await?;
        job.status().await
    })?;
    let text = if json { format!("{}\n", as_json(&status)) } else { as_text(&status) };
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn at(position: Option<pb::Position>) -> Position {
    position.map(Position::from).unwrap_or_default()
}

fn trouble<'a>(status: &'a pb::StatusReply, name: &str) -> Option<&'a pb::Straggler> {
    status.stragglers.iter().find(|it| it.name == name)
}

fn as_json(it: &pb::StatusReply) -> Value {
    let worker = |worker: &pb::WorkerStatus| {
        let Position { epoch, step } = at(worker.position);
        json!({
            "name": worker.name,
            "rank": (worker.rank >= 0).then_some(worker.rank),
            "device": worker.device,
            "phase": worker.phase,
            "seconds_in_phase": worker.seconds_in_phase,
            "seconds_since_heard": worker.seconds_since_heard,
            "position": { "epoch": epoch, "step": step },
            "leaving": worker.leaving,
            "straggles": trouble(it, &worker.name).map(|it| &it.account),
        })
    };
    json!({ "run": it.run, "workers": it.workers.iter().map(worker).collect::<Vec<_>>() })
}

fn as_text(it: &pb::StatusReply) -> String {
    let width = it.workers.iter().map(|it| it.name.len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    // Writing to a text cannot fail.
    let _ = writeln!(text, "{:<width$} RANK  DEVICE   PHASE       SINCE   HEARD  NOTE", "NAME");
    for worker in &it.workers {
        let rank = if worker.rank >= 0 { worker.rank.to_string() } else { "-".to_owned() };
        let account = trouble(it, &worker.name).map_or("", |it| it.account.as_str());
        let note = match (worker.leaving, account) {
            (true, "") => "leaving",
            (true, _) | (false, _) => account,
        };
        let line = format!(
            "{:<width$} {rank:>4}  {:<7}  {:<10} {:>5.1} s {:>5.1} s  {note}",
            worker.name,
            worker.device,
            worker.phase,
            worker.seconds_in_phase,
            worker.seconds_since_heard,
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_line_that_says_if_the_others_wait_for_it() {
        let worker = |name: &str, rank| pb::WorkerStatus {
            name: name.to_owned(),
            rank,
            device: "cpu".to_owned(),
            phase: "compute".to_owned(),
            seconds_in_phase: 12.0,
            leaving: rank < 0,
            ..Default::default()
        };
        let straggler = pb::Straggler {
            name: "a".to_owned(),
            account: "b waits for it".to_owned(),
            ..Default::default()
        };
        let status = pb::StatusReply {
            workers: vec![worker("a", 0), worker("b", -1)],
            stragglers: vec![straggler],
            ..Default::default()
        };
        let text = as_text(&status);
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(lines[0], "a       0  cpu      compute     12.0 s   0.0 s  b waits for it");
        assert!(lines[1].starts_with("b       -  cpu") && lines[1].ends_with("leaving"), "{text}");
        let value = as_json(&status);
        assert_eq!(value["workers"][0]["straggles"], "b waits for it");
        assert!(value["workers"][1]["rank"].is_null());
    }
}
