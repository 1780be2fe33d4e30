//! From the machine's orders and its status to what goes over the wire.

use convoy_common::pb;
use convoy_common::schedule::ManualDrop;
use pb::coordinator_message::Kind as Out;

use super::{Facts, operate};
use crate::engine::Outgoing;
use crate::machine::{
    Assignment, DropStage, DropStatus, Order, Resume, Seat, Status, WorkerStatus,
};

/// What a worker is told.
pub(super) fn outgoing(it: Outgoing, facts: &Facts) -> pb::CoordinatorMessage {
    let kind = match it {
        Outgoing::Refusal(refusal) => {
            let exit_code = refusal.exit_code().into();
            Out::Refused(pb::Refused {
                reason: refusal.to_string(),
                hint: refusal.hint(),
                exit_code,
            })
        }
        Outgoing::Order(Order::Welcome) => Out::Welcome(pb::Welcome {
            run_id: facts.run_id.clone(),
            config_json: facts.config_json.clone(),
            record_digest: facts.record_digest.clone(),
            term: facts.term,
        }),
        Outgoing::Pulse => Out::Pulse(pb::Pulse {}),
        Outgoing::Order(Order::Adopted(it)) => Out::Adopted(pb::Adopted {
            generation: Some(it.generation.into()),
            directives: it.drops.into_iter().map(directive).collect(),
        }),
        Outgoing::Order(Order::StartAfresh { reason }) => {
            Out::StartAfresh(pb::StartAfresh { reason })
        }
        Outgoing::Order(Order::Settled { generation, position }) => Out::Settled(pb::Settled {
            generation: Some(generation.into()),
            position: Some(position.into()),
        }),
        Outgoing::Order(Order::Assign(it)) => Out::Assignment(assignment(it)),
        Outgoing::Order(Order::Begin(it)) => Out::Begin(pb::Begin { generation: Some(it.into()) }),
        Outgoing::Order(Order::StopAfterStep { checkpoint, reason }) => {
            Out::StopAfterStep(pb::StopAfterStep { checkpoint, reason })
        }
        Outgoing::Order(Order::Drop(it)) => Out::Directive(directive(it)),
        Outgoing::Order(Order::EndGeneration { generation, reason }) => {
            Out::EndGeneration(pb::EndGeneration { generation: Some(generation.into()), reason })
        }
        Outgoing::Order(Order::Regroup { generation, reason }) => {
            Out::Regroup(pb::Regroup { generation: Some(generation.into()), reason })
        }
        Outgoing::Order(Order::Pause { generation, reason }) => {
            Out::Pause(pb::Pause { generation: Some(generation.into()), reason })
        }
        Outgoing::Order(Order::TakeCheckpoint) => Out::TakeCheckpoint(pb::TakeCheckpoint {}),
        Outgoing::Order(Order::Probe { number, seats }) => {
            let members = seats.into_iter().map(member).collect();
            Out::Probe(pb::Probe { number, members })
        }
        Outgoing::Order(Order::Shutdown { reason, exit_code }) => {
            Out::Shutdown(pb::Shutdown { reason, exit_code: exit_code.into() })
        }
    };
    pb::CoordinatorMessage { kind: Some(kind) }
}

fn member(seat: Seat) -> pb::Member {
    pb::Member { name: seat.name, ring_address: seat.ring_address }
}

fn assignment(it: Assignment) -> pb::Assignment {
    let (resume, manifest, peer) = match it.resume {
        Resume::Seed => (pb::Resume::Checkpoint, None, None),
        Resume::Checkpoint(path) => (pb::Resume::Checkpoint, Some(path), None),
        Resume::Keep => (pb::Resume::Keep, None, None),
        Resume::Redo(seat) => (pb::Resume::Redo, None, Some(member(seat))),
        Resume::State(seat) => (pb::Resume::State, None, Some(member(seat))),
    };
    pb::Assignment {
        generation: Some(it.generation.into()),
        rank: it.rank.0,
        roster: it.roster.into_iter().map(member).collect(),
        lineage: it.lineage.0,
        position: Some(it.start.position.into()),
        evaluated: it.start.evaluated,
        manifest: manifest.unwrap_or_default(),
        directives: it.drops.into_iter().map(directive).collect(),
        resume: resume.into(),
        peer,
        owes_checkpoint: it.owes_checkpoint,
        stop: it.stop,
    }
}

fn directive(it: ManualDrop) -> pb::Directive {
    let at = it.at.map(pb::Position::from);
    pb::Directive { number: it.number, divide_by: it.divide_by, at }
}

/// What became of an order to drop the rate.
pub(super) fn drop_status(it: DropStatus) -> pb::DropStatus {
    let (stage, position, error) = match it.stage {
        DropStage::Writing => ("writing", None, String::new()),
        DropStage::Waiting => ("waiting", None, String::new()),
        DropStage::Applied(at) | DropStage::Effective(at) => ("effective", Some(at), String::new()),
        DropStage::Failed(error) => ("failed", None, error),
    };
    pb::DropStatus {
        number: it.number,
        divide_by: it.divide_by,
        stage: stage.to_owned(),
        position: position.map(pb::Position::from),
        waiting_for: it.waiting_for,
        error,
    }
}

/// What whoever asks is told.
pub(super) fn status(it: Status, facts: &Facts) -> pb::StatusReply {
    let generation = it.generation.map(pb::GenerationId::from);
    pb::StatusReply {
        run: facts.run.clone(),
        url: facts.url.clone(),
        term: facts.term,
        generation,
        phase: it.phase.to_owned(),
        detail: it.detail,
        workers_wanted: facts.workers,
        workers: it.workers.into_iter().map(worker).collect(),
        position: Some(it.position.into()),
        epochs: facts.epochs,
        steps_per_epoch: facts.steps_per_epoch,
        last_step: it.last_step.map(|step| pb::StepReport {
            generation,
            position: Some(step.position.into()),
            samples: step.samples,
            loss: step.loss,
            correct: step.correct,
            learning_rate: step.learning_rate,
            times: Some(pb::StepTimes {
                data_wait: step.times.data_wait,
                compute: step.times.compute,
                all_reduce: step.times.all_reduce,
                update: step.times.update,
                total: step.times.total,
                hidden: step.times.hidden,
            }),
            bytes_sent: step.bytes_sent,
            cache: step.cache.map(|it| pb::CacheReport {
                shards: it.shards,
                of: it.of,
                hits: it.hits,
                misses: it.misses,
                fetched: it.fetched,
            }),
        }),
        images_per_second: it.images_per_second,
        last_evaluation: it.last_evaluation.map(|it| pb::EvaluationReport {
            generation,
            position: Some(it.position.into()),
            samples: it.samples,
            top1_correct: it.top1_correct,
            top5_correct: it.top5_correct,
            loss: it.loss,
            seconds: it.seconds,
            learning_rate: it.learning_rate,
            schedule_done: it.schedule_done,
        }),
        last_checkpoint: it.last_checkpoint.map(|it| it.path).unwrap_or_default(),
        eta_seconds: it.eta.map_or(0.0, |it| it.as_secs_f64()),
        drops: it.drops.into_iter().filter(|it| it.number > 0).map(drop_status).collect(),
        store_trouble: it.store_trouble.map(|it| pb::StoreTrouble {
            who: it.who,
            error: it.error,
            hint: it.hint.unwrap_or_default(),
            seconds: it.lasts.as_secs_f64(),
        }),
        pause: it.pause.map(operate::pause),
        stragglers: it.stragglers.into_iter().map(operate::straggler).collect(),
    }
}

fn worker(it: WorkerStatus) -> pb::WorkerStatus {
    pb::WorkerStatus {
        name: it.name,
        rank: it.rank.and_then(|rank| i32::try_from(rank.0).ok()).unwrap_or(-1),
        device: it.device,
        position: Some(it.position.into()),
        phase: it.phase,
        seconds_since_heard: it.silence.as_secs_f64(),
        seconds_in_phase: it.in_phase.as_secs_f64(),
        leaving: it.leaving,
    }
}
