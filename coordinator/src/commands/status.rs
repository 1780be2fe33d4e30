//! `convoy status`: what a running job is doing.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use convoy_common::failure::Failure;
use convoy_common::ids::Position;
use convoy_common::pb;
use serde_json::{Value, json};

use super::job::{self, Job};

/// Shows what a running job is doing: phase, workers, loss, rate, speed, checkpoints
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy status runs/quickstart
  convoy status 127.0.0.1:7171 --json | jq .phase

Exit codes: 0 a job answers, 64 no such run, 69 no job runs there.")]
pub(crate) struct Args {
    /// URL or folder of the run, or host:port of its coordinator
    #[arg(value_name = "RUN|ADDRESS")]
    target: String,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let status = job::runtime()?.block_on(async {
        let mut job = Job::find(&args.target).await?;
        job.status().await
    })?;
    let text = if args.json { format!("{}\n", as_json(&status)) } else { as_text(&status) };
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn at(position: Option<pb::Position>) -> Position {
    position.map(Position::from).unwrap_or_default()
}

/// When a pause began, by this machine's clock.
fn since(it: &pb::PauseStatus) -> String {
    let ago = Duration::try_from_secs_f64(it.seconds).unwrap_or_default();
    let began = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_seconds(began).to_string()
}

fn as_json(it: &pb::StatusReply) -> Value {
    let position = |it: Option<pb::Position>| {
        let Position { epoch, step } = at(it);
        json!({ "epoch": epoch, "step": step })
    };
    json!({
        "run": it.run,
        "url": it.url,
        "term": it.term,
        "generation": it.generation.as_ref().map(|it| it.counter),
        "phase": it.phase,
        "detail": it.detail,
        "position": position(it.position),
        "global_step": at(it.position).global_step(it.steps_per_epoch),
        "epochs": it.epochs,
        "steps_per_epoch": it.steps_per_epoch,
        "workers_wanted": it.workers_wanted,
        "workers": it.workers.iter().map(|worker| json!({
            "name": worker.name,
            "rank": (worker.rank >= 0).then_some(worker.rank),
            "device": worker.device,
            "phase": worker.phase,
            "position": position(worker.position),
            "seconds_since_heard": worker.seconds_since_heard,
            "seconds_in_phase": worker.seconds_in_phase,
            "leaving": worker.leaving,
        })).collect::<Vec<_>>(),
        "pause": it.pause.as_ref().map(|it| json!({
            "seconds": it.seconds,
            "since": since(it),
            "reason": it.reason,
            "checkpoint": (!it.checkpoint.is_empty()).then_some(&it.checkpoint),
        })),
        "stragglers": it.stragglers.iter().map(|it| json!({
            "name": it.name,
            "phase": it.phase,
            "seconds": it.seconds,
            "account": it.account,
        })).collect::<Vec<_>>(),
        "last_step": it.last_step.as_ref().map(|step| json!({
            "position": position(step.position),
            "samples": step.samples,
            "loss": step.loss,
            "correct": step.correct,
            "learning_rate": step.learning_rate,
        })),
        "images_per_second": it.images_per_second,
        "last_evaluation": it.last_evaluation.as_ref().map(|it| json!({
            "position": position(it.position),
            "samples": it.samples,
            "top1_correct": it.top1_correct,
            "top5_correct": it.top5_correct,
            "loss": it.loss,
        })),
        "last_checkpoint": (!it.last_checkpoint.is_empty()).then_some(&it.last_checkpoint),
        "eta_seconds": (it.eta_seconds > 0.0).then_some(it.eta_seconds),
        "drops": it.drops.iter().map(|drop| json!({
            "number": drop.number,
            "divide_by": drop.divide_by,
            "stage": drop.stage,
            "position": drop.position.map(|it| position(Some(it))),
            "waiting_for": drop.waiting_for,
        })).collect::<Vec<_>>(),
        "store_trouble": it.store_trouble.as_ref().map(|it| json!({
            "who": it.who,
            "error": it.error,
            "hint": (!it.hint.is_empty()).then_some(&it.hint),
            "seconds": it.seconds,
        })),
    })
}

fn as_text(it: &pb::StatusReply) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{name:<11} {value}");
    };
    let detail = if it.detail.is_empty() { String::new() } else { format!(": {}", it.detail) };
    line("run", format!("{} ({}), term {}", it.run, it.url, it.term));
    line("phase", format!("{}{detail}", it.phase));
    if let Some(pause) = &it.pause {
        line("paused", format!("since {} ({})", since(pause), pause.reason));
    }
    let position = at(it.position);
    line(
        "position",
        format!(
            "epoch {} of {}, step {} of {} ({} in all)",
            position.epoch,
            it.epochs,
            position.step,
            it.steps_per_epoch,
            position.global_step(it.steps_per_epoch)
        ),
    );
    if let Some(step) = &it.last_step {
        let top1 = 100.0 * f64::from(step.correct) / f64::from(step.samples.max(1));
        let rate = step.learning_rate;
        line("last step", format!("loss {:.4}, top-1 {top1:.1} %, rate {rate}", step.loss));
    }
    if it.images_per_second > 0.0 {
        let left = match it.eta_seconds {
            seconds if seconds > 0.0 => {
                let left = Duration::from_secs(seconds as u64);
                format!(", {} left", humantime::format_duration(left))
            }
            _ => String::new(),
        };
        line("speed", format!("{:.1} images/s{left}", it.images_per_second));
    }
    if let Some(it) = &it.last_evaluation {
        let share = |correct: u64| 100.0 * correct as f64 / it.samples.max(1) as f64;
        let (top1, top5, at) = (share(it.top1_correct), share(it.top5_correct), at(it.position));
        line("evaluated", format!("top-1 {top1:.1} %, top-5 {top5:.1} % at {at}"));
    }
    if !it.last_checkpoint.is_empty() {
        line("checkpoint", it.last_checkpoint.clone());
    }
    if let Some(it) = &it.store_trouble {
        let lasts = humantime::format_duration(Duration::from_secs(it.seconds as u64));
        let who = it.who.join(", ");
        line("store", format!("checkpoints wait since {lasts}: it fails {who}: {}", it.error));
        if !it.hint.is_empty() {
            line("", format!("hint: {}", it.hint));
        }
    }
    for drop in &it.drops {
        let what = match drop.stage.as_str() {
            "effective" => format!("since {}", at(drop.position)),
            "waiting" if !drop.waiting_for.is_empty() => {
                format!("waiting for {}", drop.waiting_for.join(", "))
            }
            "failed" => format!("failed: {}", drop.error),
            other => other.to_owned(),
        };
        line("drop", format!("{}: rate divided by {}, {what}", drop.number, drop.divide_by));
    }
    line("workers", format!("{} of {}", it.workers.len(), it.workers_wanted));
    let width = it.workers.iter().map(|it| it.name.len()).max().unwrap_or(0).max(4);
    let _ = writeln!(text, "\n{:<width$} RANK  DEVICE   PHASE       HEARD  POSITION", "NAME");
    for worker in &it.workers {
        let rank = if worker.rank >= 0 { worker.rank.to_string() } else { "-".to_owned() };
        let _ = writeln!(
            text,
            "{:<width$} {rank:>4}  {:<7}  {:<10} {:>4.1} s  {}",
            worker.name,
            worker.device,
            worker.phase,
            worker.seconds_since_heard,
            at(worker.position)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> pb::StatusReply {
        let position = Some(pb::Position { epoch: 1, step: 2 });
        pb::StatusReply {
            run: "test".to_owned(),
            url: "file:///run".to_owned(),
            term: 3,
            phase: "training".to_owned(),
            position,
            epochs: 2,
            steps_per_epoch: 10,
            workers_wanted: 2,
            workers: vec![pb::WorkerStatus {
                name: "worker-0".to_owned(),
                device: "cpu".to_owned(),
                phase: "compute".to_owned(),
                position,
                seconds_since_heard: 0.25,
                ..Default::default()
            }],
            drops: vec![pb::DropStatus {
                number: 1,
                divide_by: 10.0,
                stage: "waiting".to_owned(),
                waiting_for: vec!["worker-1".to_owned()],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn the_text_has_a_line_for_what_is_known_and_one_for_each_worker() {
        let text = as_text(&status());
        for part in [
            "run         test (file:///run), term 3\n",
            "position    epoch 1 of 2, step 2 of 10 (12 in all)\n",
            "drop        1: rate divided by 10, waiting for worker-1\n",
            "workers     1 of 2\n",
            "worker-0    0  cpu      compute     0.2 s  ",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(!text.contains("evaluated"), "{text}");
    }

    #[test]
    fn a_store_that_fails_is_told_with_its_cause_and_what_to_do() {
        let trouble = pb::StoreTrouble {
            who: vec!["worker-1".to_owned(), "the coordinator".to_owned()],
            error: "there is no room left for x".to_owned(),
            hint: "free space".to_owned(),
            seconds: 125.4,
        };
        let status = pb::StatusReply { store_trouble: Some(trouble), ..status() };
        let text = as_text(&status);
        let line = "store       checkpoints wait since 2m 5s: it fails worker-1, the coordinator: \
                    there is no room left for x\n            hint: free space\n";
        assert!(text.contains(line), "{text}");
        assert_eq!(as_json(&status)["store_trouble"]["hint"], "free space");
    }

    #[test]
    fn the_json_form_leaves_out_nothing_and_has_null_for_what_is_unknown() {
        let value = as_json(&status());
        assert_eq!(value["global_step"], 12);
        assert_eq!(value["workers"][0]["rank"], 0);
        assert_eq!(value["drops"][0]["waiting_for"][0], "worker-1");
        assert!(value["last_evaluation"].is_null() && value["eta_seconds"].is_null());
    }
}
