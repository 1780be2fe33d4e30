//! The words and levels of what the machine tells.
//!
//! From these lines alone one can tell the job's story: who joined, which generation, the loss
//! curve, rate drops, where a step's time goes, checkpoints, evaluations, and why it ended.

use tracing::{error, info, warn};

use crate::machine::{Ending, Note, Outcome, Progress};

/// Writes one line.
pub(super) fn tell(note: &Note) {
    match note {
        Note::Joined { hello, have, need } => info!(
            worker = hello.name,
            device = hello.device,
            lanes = hello.lanes,
            pid = hello.pid,
            ring = hello.ring_address,
            have,
            need,
            "worker joined"
        ),
        Note::Refused { name, refusal } => {
            warn!(worker = name, reason = %refusal, hint = refusal.hint(), "worker refused");
        }
        Note::LeftEarly { name, why, have, need } => {
            warn!(worker = name, why, have, need, "worker without a rank left");
        }
        Note::Fingerprint { name, fingerprint, of_run: None } => {
            info!(worker = name, fingerprint, "numerics as the run's");
        }
        Note::Fingerprint { name, fingerprint, of_run } => {
            warn!(
                worker = name,
                fingerprint, of_run, "worker computes other bits; let in all the same"
            );
        }
        Note::Bf16Possible => info!(
            hint = "numerics.precision = \"bf16\" may be faster; it can be chosen for a new run",
            "all workers have units for bf16, and this run computes in fp32"
        ),
        Note::Formed { generation, roster, position, from } => {
            let seats = roster.iter().enumerate();
            let roster: Vec<String> =
                seats.map(|(rank, it)| format!("{rank}={}@{}", it.name, it.ring_address)).collect();
            info!(
                %generation,
                world = roster.len(),
                roster = roster.join(" "),
                epoch = position.epoch,
                step = position.step,
                from,
                "generation formed"
            );
        }
        Note::Adopted { generation, roster, missing, position, whole } => {
            let roster: Vec<&str> = roster.iter().map(|it| it.name.as_str()).collect();
            let (roster, missing) = (roster.join(" "), missing.join(" "));
            let (epoch, step) = (position.epoch, position.step);
            if *whole {
                info!(%generation, roster, epoch, step, "adopted the running generation");
            } else {
                warn!(
                    %generation,
                    roster,
                    missing,
                    epoch,
                    step,
                    "adopted what is left of the running generation; it regroups"
                );
            }
        }
        Note::StartsAfresh { name, reason } => {
            warn!(worker = name, reason, "worker drops what it holds and begins anew");
        }
        Note::Ready { name, ready, of } => info!(worker = name, ready, of, "worker ready"),
        Note::Began { generation, state_digest } => {
            info!(%generation, state_digest, "training begins");
        }
        Note::Progress(progress) => tell_progress(progress),
        Note::RateChanged { position, from, to } => {
            info!(epoch = position.epoch, step = position.step, from, to, "learning rate changed")
        }
        Note::Evaluated(it) => {
            let share = |correct: u64| rounded(correct as f64 / (it.samples.max(1)) as f64, 4);
            info!(
                epoch = it.position.epoch,
                step = it.position.step,
                images = it.samples,
                top1 = share(it.top1_correct),
                top5 = share(it.top5_correct),
                loss = rounded(it.loss, 4),
                seconds = rounded(it.seconds, 2),
                lr = it.learning_rate,
                schedule_done = it.schedule_done,
                "evaluated"
            );
        }
        Note::CheckpointPublished(kept) => info!(
            epoch = kept.position.epoch,
            step = kept.position.step,
            bytes = kept.bytes,
            seconds = kept.took.map(|it| rounded(it.as_secs_f64(), 2)),
            path = kept.path,
            "checkpoint published"
        ),
        Note::CheckpointAbandoned { position, why } => warn!(
            epoch = position.epoch,
            step = position.step,
            why = %why,
            "checkpoint abandoned; training goes on"
        ),
        Note::StoreFails { who, error, hint, lasts } => warn!(
            who,
            error,
            hint,
            since_s = rounded(lasts.as_secs_f64(), 1),
            "checkpoints wait because the run's store fails; training goes on"
        ),
        Note::StoreWorks { lasted } => info!(
            after_s = rounded(lasted.as_secs_f64(), 1),
            "the run's store takes checkpoints again"
        ),
        Note::Diverged { position, account } => error!(
            epoch = position.epoch,
            step = position.step,
            account,
            "workers hold different states"
        ),
        Note::StopAccepted { reason } => info!(reason, "stopping"),
        Note::DropOrdered { drop, reason } => {
            info!(number = drop.number, divide_by = drop.divide_by, reason, "rate to be dropped");
        }
        Note::DropEffective { number, position, divide_by } => info!(
            number,
            divide_by,
            epoch = position.epoch,
            step = position.step,
            "rate dropped by hand"
        ),
        Note::DropFailed { number, error } => warn!(number, error, "override log is incomplete"),
        Note::Finished { name, position, cause } => info!(
            worker = name,
            epoch = position.epoch,
            step = position.step,
            %cause,
            "worker finished"
        ),
        Note::Lost { name, why } => warn!(worker = name, why, "worker lost"),
        Note::Regrouping { generation, reason, agreed: true } => {
            info!(%generation, reason, "generation over; workers keep their state");
        }
        Note::Regrouping { generation, reason, agreed: false } => {
            warn!(%generation, reason, "generation over; workers keep their state");
        }
        Note::Left { name, held } => {
            let held = held.map_or("nothing".to_owned(), |it| it.to_string());
            info!(worker = name, held, "worker left the ring");
        }
        Note::TooFew { have, need } => {
            warn!(have, need, "too few workers to go on; waiting for more");
        }
        Note::RegroupOrdered { joining, leaving } => info!(
            joining = joining.join(" "),
            leaving = leaving.join(" "),
            "regrouping at the next step boundary"
        ),
        Note::PauseAccepted { reason } => info!(reason, "pausing"),
        Note::PauseForced { waited } => warn!(
            seconds = waited.as_secs(),
            "workers cannot take a checkpoint; pausing without one"
        ),
        Note::Paused { position, reason } => {
            info!(epoch = position.epoch, step = position.step, reason, "job paused");
        }
        Note::Resumed { paused } => {
            info!(paused_s = paused.map(|it| rounded(it.as_secs_f64(), 1)), "job goes on");
        }
        Note::CheckpointAsked { position } => {
            info!(epoch = position.epoch, step = position.step, "a checkpoint is asked for")
        }
        Note::Straggles(it) => warn!(
            worker = it.name,
            phase = it.phase,
            seconds = rounded(it.time.as_secs_f64(), 2),
            account = it.account,
            "a worker holds the others up"
        ),
        Note::KeepsUp { name, phase, lasted } => info!(
            worker = name,
            phase,
            seconds = rounded(lasted.as_secs_f64(), 1),
            "it does not any more"
        ),
        Note::Unreachable { name, with, retry } => warn!(
            worker = name,
            with = with.join(" "),
            retry_s = retry.as_secs(),
            "no place for a worker whose links to others do not work"
        ),
        Note::Barred { name, time } => {
            warn!(worker = name, seconds = time.as_secs(), "no place for this worker for a while");
        }
        Note::Leaving { name, reason } => info!(worker = name, reason, "worker wants to leave"),
        Note::Drained { name } => info!(worker = name, "worker left in order"),
        Note::Faltered { generation, name, sign } => {
            warn!(%generation, worker = name, sign, "generation broken; looking for the cause");
        }
        Note::AlsoFaltered { name, sign } => warn!(worker = name, sign, "also broken"),
        Note::Ignored { name, what, generation } => {
            tracing::debug!(worker = name, what, %generation, "message ignored");
        }
        Note::WasAway { gap } => warn!(
            seconds = rounded(gap.as_secs_f64(), 1),
            "coordinator itself stood still; nobody is lost for that"
        ),
    }
}

fn tell_progress(it: &Progress) {
    let milliseconds = |seconds: f64| rounded(seconds * 1e3, 1);
    info!(
        epoch = it.position.epoch,
        step = it.position.step,
        global_step = it.global_step,
        loss = rounded(it.loss, 4),
        top1 = rounded(it.top1, 4),
        lr = it.learning_rate,
        images_per_second = rounded(it.images_per_second, 1),
        data_ms = milliseconds(it.times.data_wait),
        compute_ms = milliseconds(it.times.compute),
        all_reduce_ms = milliseconds(it.times.all_reduce),
        hidden_ms = milliseconds(it.times.hidden),
        sent_mb = rounded(it.bytes_sent as f64 / 1e6, 3),
        update_ms = milliseconds(it.times.update),
        step_ms = milliseconds(it.times.total),
        cached = it.cache.map(|it| format!("{}/{}", it.shards, it.of)),
        cache_hits =
            it.cache.map(|it| { rounded(it.hits as f64 / (it.hits + it.misses).max(1) as f64, 3) }),
        cache_mb_s = it.cache.map(|_| rounded(it.fetched_per_second / 1e6, 1)),
        eta_s = it.eta.map(|it| it.as_secs()),
        "progress"
    );
}

/// Writes the last line.
pub(super) fn tell_end(outcome: &Outcome) {
    let Outcome { kind, exit_code, message, hint, last_checkpoint } = outcome;
    let last_checkpoint = last_checkpoint.as_ref().map_or("none", |it| it.path.as_str());
    let hint = hint.as_deref();
    match kind {
        Ending::Completed => info!(outcome = message, last_checkpoint, exit_code, "job complete"),
        Ending::Stopped => {
            info!(outcome = message, hint, last_checkpoint, exit_code, "job stopped")
        }
        Ending::Failed => error!(outcome = message, hint, last_checkpoint, exit_code, "job failed"),
    }
}

/// For people: digits beyond these say nothing.
fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
