//! What operators ask of the running job, on the wire.

use std::time::Duration;

use convoy_common::pb;
use pb::operate_request::What;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::{LONGEST_PATIENCE, heard};
use crate::engine::{Handle, Input};
use crate::machine::{Answered, Arrival, Event, PauseStatus, Straggler, Vitals, Wish};

/// Hands the wish over and waits for its answer as long as the request says.
pub(super) async fn operate(
    engine: &Handle,
    request: u64,
    it: pb::OperateRequest,
) -> Result<pb::OperateReply, Status> {
    let patience = Duration::try_from_secs_f64(it.patience_seconds).unwrap_or_default();
    let until = Instant::now() + patience.min(LONGEST_PATIENCE);
    let what = it.what.ok_or_else(|| Status::invalid_argument("nothing is asked for"))?;
    let wish = match what {
        What::Checkpoint(_) => Wish::Checkpoint,
        What::Pause(it) => Wish::Pause { reason: heard::printable(&it.reason) },
        What::Resume(_) => Wish::Resume,
        What::Drain(it) => {
            let grace = Duration::try_from_secs_f64(it.grace_seconds).unwrap_or_default();
            let grace = Some(grace).filter(|it| !it.is_zero());
            Wish::Drain { name: heard::printable(&it.name), grace }
        }
    };
    let mut watch = engine.watch();
    let over = || Status::unavailable("the job is over");
    if !engine.send(Input::Event(Event::Asked { request, wish })).await {
        return Err(over());
    }
    let decided = watch.wait_for(|status| {
        let own = status.answers.iter().find(|it| it.request == request);
        own.is_some_and(|it| it.stage != Answered::Waiting)
    });
    // Late is an answer, too.
    let status = match timeout_at(until, decided).await {
        Ok(Ok(status)) => status.clone(),
        Ok(Err(_)) => return Err(over()),
        Err(_) => engine.status(),
    };
    let own = status.answers.into_iter().find(|it| it.request == request);
    match own.map(|it| it.stage) {
        Some(Answered::Done { detail, checkpoint }) => {
            let checkpoint = checkpoint.unwrap_or_default();
            Ok(pb::OperateReply { done: true, detail, checkpoint })
        }
        Some(Answered::Refused(why)) => Err(Status::failed_precondition(why)),
        Some(Answered::Waiting) | None => {
            let detail = match status.detail.as_str() {
                "" => format!("the job is {}", status.phase),
                detail => format!("the job is {}: {detail}", status.phase),
            };
            Ok(pb::OperateReply { done: false, detail, checkpoint: String::new() })
        }
    }
}

/// What a heartbeat tells besides position and phase. Times that are none count as zero.
pub(super) fn vitals(it: &pb::Heartbeat) -> Vitals {
    let duration = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let number = |seconds: f64| if seconds.is_finite() { seconds } else { 0.0 };
    let arrival = it.arrival.unwrap_or_default();
    Vitals {
        in_phase: duration(it.seconds_in_phase),
        upload: Some(duration(it.seconds_of_upload)).filter(|it| !it.is_zero()),
        arrival: Arrival {
            steps: arrival.steps,
            microbatches: arrival.microbatches,
            between: number(arrival.between),
            data: number(arrival.data),
            compute: number(arrival.compute),
        },
        chunks: (it.chunks_sent, it.chunks_received),
    }
}

pub(super) fn pause(it: PauseStatus) -> pb::PauseStatus {
    pb::PauseStatus {
        seconds: it.since.as_secs_f64(),
        reason: it.reason,
        checkpoint: it.checkpoint.unwrap_or_default(),
    }
}

pub(super) fn straggler(it: Straggler) -> pb::Straggler {
    let Straggler { name, phase, time, account } = it;
    pb::Straggler { name, phase, seconds: time.as_secs_f64(), account }
}
