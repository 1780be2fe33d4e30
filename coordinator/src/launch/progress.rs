//! What the live progress line says, from the coordinator's Status.
//!
//! The text is a pure function of the reply. A coordinator that does not answer leaves the line as
//! it is: whether it lives is the supervisor's matter, which is told the job's stage from here.

use std::time::Duration;

use convoy_common::pb::coordinator_client::CoordinatorClient;
use convoy_common::pb::{EvaluationReport, StatusReply, StatusRequest};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Endpoint;

use super::console::Progress;
use super::message::{Event, Stage};

const EVERY: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(2);

/// One state of the progress line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// Steps committed since the run's start.
    pub(super) step: u64,
    /// Steps of the whole run; 0 while unknown.
    pub(super) steps: u64,
    /// What stands beside the bar.
    pub(super) text: String,
}

/// Asks the coordinator at `url` twice a second, shows what it says and tells the supervisor when the
/// job's stage is another one, until dropped.
pub(super) async fn follow(url: String, progress: Progress, events: mpsc::Sender<Event>) {
    let Ok(endpoint) = Endpoint::from_shared(url) else { return };
    let channel = endpoint.connect_timeout(ANSWER).timeout(ANSWER).connect_lazy();
    let mut client = CoordinatorClient::new(channel);
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tick.tick().await;
        if let Ok(reply) = client.status(StatusRequest {}).await {
            let status = reply.into_inner();
            progress.show(view(&status));
            let stage = stage(&status.phase);
            if told.replace(stage) != Some(stage) && events.send(Event::Job(stage)).await.is_err() {
                return;
            }
        }
    }
}

fn stage(phase: &str) -> Stage {
    match phase {
        "waiting" => Stage::Waits,
        "completed" | "stopped" | "failed" => Stage::Over,
        _ => Stage::Runs,
    }
}

fn view(status: &StatusReply) -> View {
    let per_epoch = u64::from(status.steps_per_epoch);
    let steps = u64::from(status.epochs) * per_epoch;
    let position = status.position.unwrap_or_default();
    let step = u64::from(position.epoch) * per_epoch + u64::from(position.step);
    let text = match (&status.last_step, status.phase.as_str()) {
        (Some(last), "training" | "stopping") => {
            let mut parts = vec![
                // People count epochs from one.
                format!("epoch {}/{}", (position.epoch + 1).min(status.epochs), status.epochs),
                format!("step {}/{per_epoch}", position.step),
                format!("loss {:.4}", last.loss),
                format!("top-1 {}", percent(u64::from(last.correct), u64::from(last.samples))),
            ];
            if let Some(evaluation) = &status.last_evaluation {
                parts.push(held_out(evaluation));
            }
            parts.push(format!("{:.1} images/s", status.images_per_second));
            parts.push(format!("lr {}", last.learning_rate));
            if status.phase == "stopping" {
                parts.push("stopping".to_owned());
            } else {
                parts.push(format!("ETA {}", eta(status.eta_seconds)));
            }
            parts.join("  ")
        }
        (_, "waiting") => {
            format!("waiting for workers: {} of {}", status.workers.len(), status.workers_wanted)
        }
        (_, phase) if status.detail.is_empty() => phase.to_owned(),
        (_, phase) => format!("{phase}: {}", status.detail),
    };
    View { step: step.min(steps), steps, text }
}

fn held_out(evaluation: &EvaluationReport) -> String {
    format!("held-out {}", percent(evaluation.top1_correct, evaluation.samples))
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// `-` for what is not a time: nothing is known before the first steps.
fn eta(seconds: f64) -> String {
    match Duration::try_from_secs_f64(seconds.round()) {
        Ok(left) if seconds > 0.0 => humantime::format_duration(left).to_string(),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use convoy_common::pb::{Position, StepReport, WorkerStatus};

    use super::*;

    fn training() -> StatusReply {
        StatusReply {
            phase: "training".to_owned(),
            epochs: 10,
            steps_per_epoch: 120,
            position: Some(Position { epoch: 2, step: 30 }),
            images_per_second: 81.24,
            eta_seconds: 83.4,
            last_step: Some(StepReport {
                samples: 32,
                correct: 20,
                loss: 1.23456,
                learning_rate: 0.01,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn the_line_says_epoch_step_loss_top_1_speed_rate_and_time_left() {
        let view = view(&training());
        assert_eq!((view.step, view.steps), (270, 1200));
        assert_eq!(
            view.text,
            "epoch 3/10  step 30/120  loss 1.2346  top-1 62.5 %  81.2 images/s  lr 0.01  ETA 1m 23s"
        );
    }

    #[test]
    fn the_last_evaluation_stands_beside_the_batch() {
        let status = StatusReply {
            last_evaluation: Some(EvaluationReport {
                samples: 400,
                top1_correct: 361,
                ..Default::default()
            }),
            ..training()
        };
        assert!(view(&status).text.contains("top-1 62.5 %  held-out 90.2 %"));
    }

    #[test]
    fn a_job_waits_or_runs_or_is_over() {
        assert_eq!(stage("waiting"), Stage::Waits);
        for phase in ["preparing", "training", "stopping", "regrouping"] {
            assert_eq!(stage(phase), Stage::Runs, "{phase}");
        }
        for phase in ["completed", "stopped", "failed"] {
            assert_eq!(stage(phase), Stage::Over, "{phase}");
        }
    }

    #[test]
    fn before_training_it_says_who_is_waited_for() {
        let status = StatusReply {
            phase: "waiting".to_owned(),
            workers_wanted: 4,
            workers: vec![WorkerStatus::default()],
            ..Default::default()
        };
        let view = view(&status);
        assert_eq!((view.steps, view.text.as_str()), (0, "waiting for workers: 1 of 4"));
    }

    #[test]
    fn a_time_left_that_is_no_number_is_a_dash() {
        for seconds in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            assert_eq!(eta(seconds), "-");
        }
    }
}
