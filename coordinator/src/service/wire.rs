//! Between wire types and the machine's.
//!
//! What comes in is checked for form; whatever is wrong is said in words that name the field.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Generation, Lineage, Position, Rank, Reached};
use convoy_common::pb;
use convoy_common::schedule::ManualDrop;
use pb::coordinator_message::Kind as Out;
use pb::worker_message::Kind as In;
use serde::de::DeserializeOwned;

use super::{Facts, operate};
use crate::engine::Outgoing;
use crate::machine::{
    Assignment, CacheReport, Cause, ConnectionId, DropStage, DropStatus, Evaluation, Event, Failed,
    Finished, Hello, Left, Order, Part, Report, Resume, Seat, Stage, Standing, Status, StepReport,
    StepTimes, WorkerStatus,
};

/// Longest text of a worker that is kept, in characters.
const LONGEST: usize = 2000;

/// The first message of a call.
pub(super) fn hello(message: pb::WorkerMessage) -> Result<Hello, String> {
    let Some(In::Hello(it)) = message.kind else {
        return Err("the first message of a call must be hello".to_owned());
    };
    Ok(Hello {
        version: printable(&it.version),
        protocol: it.protocol,
        // As given: the machine refuses what is no name.
        name: it.name,
        ring_address: it.ring_address,
        device: printable(&it.device),
        lanes: it.lanes,
        pid: it.pid,
        expect_config: (!it.expect_config.is_empty()).then(|| printable(&it.expect_config)),
        cores: (it.cores > 0).then_some(it.cores),
        bf16_units: it.bf16_units,
        standing: it.standing.map(standing).transpose()?.map(Box::new),
    })
}

fn standing(it: pb::Standing) -> Result<Standing, String> {
    let some = |text: &str| (!text.is_empty()).then(|| printable(text));
    Ok(Standing {
        generation: it.generation.ok_or("a standing without its generation")?.into(),
        rank: Rank(it.rank),
        roster: it
            .roster
            .into_iter()
            .map(|it| Seat { name: it.name, ring_address: it.ring_address })
            .collect(),
        lineage: Lineage(it.lineage),
        start: reached(it.start.ok_or("a standing without its start")?)?,
        stage: match pb::Stage::try_from(it.stage) {
            Ok(pb::Stage::Out) => Stage::Out,
            Ok(pb::Stage::Preparing) => Stage::Preparing,
            Ok(pb::Stage::Training) => Stage::Training,
            Ok(pb::Stage::Ended) => Stage::Ended,
            Err(_) => return Err(format!("a standing in the unknown stage {}", it.stage)),
        },
        position: at(it.position)?,
        held: it.held.map(reached).transpose()?,
        has_unit: it.has_unit,
        owes_checkpoint: it.owes_checkpoint,
        stop: some(&it.stop),
        pause: some(&it.pause),
        newest_drop: it.newest_drop,
        leaving: some(&it.leaving),
        fingerprint: printable(&it.fingerprint),
        config_digest: printable(&it.config_digest),
        parts: it.parts.iter().map(part).collect::<Result<_, _>>()?,
    })
}

fn part(it: &pb::PartUploaded) -> Result<Part, String> {
    Ok(Part {
        entry: json("part_json", &it.part_json)?,
        shared: json("shared_json", &it.shared_json)?,
        took: Duration::try_from_secs_f64(it.seconds).unwrap_or_default(),
        state_digest: printable(&it.state_digest),
    })
}

/// Any later message of a call.
pub(super) fn said(connection: ConnectionId, message: pb::WorkerMessage) -> Result<Event, String> {
    let (generation, report) = match message.kind {
        None => return Err("a message of a kind that this version does not know".to_owned()),
        Some(In::Hello(_)) => return Err("a second hello".to_owned()),
        Some(In::Numerics(it)) => {
            return Ok(Event::Computed { connection, fingerprint: printable(&it.fingerprint) });
        }
        Some(In::Heartbeat(it)) => {
            let (phase, vitals) = (printable(&it.phase), operate::vitals(&it));
            (it.generation, Report::Heartbeat { position: at(it.position)?, phase, vitals })
        }
        Some(In::Ready(it)) => {
            (it.generation, Report::Ready { state_digest: printable(&it.state_digest) })
        }
        Some(In::Step(it)) => (it.generation, Report::Step(step(&it)?)),
        Some(In::Evaluation(it)) => (it.generation, Report::Evaluated(evaluation(&it)?)),
        Some(In::DirectiveKnown(it)) => (it.generation, Report::DropKnown { number: it.number }),
        Some(In::DirectiveApplied(it)) => {
            let position = at(it.position)?;
            (it.generation, Report::DropApplied { number: it.number, position })
        }
        Some(In::PartUploaded(it)) => {
            let Part { entry, shared, took, state_digest } = part(&it)?;
            let (position, part) = (at(it.position)?, Box::new(entry));
            let report = Report::PartUploaded { position, part, shared, took, state_digest };
            (it.generation, report)
        }
        Some(In::PartDelayed(it)) => {
            let hint = (!it.hint.is_empty()).then(|| printable(&it.hint));
            (it.generation, Report::PartDelayed { error: printable(&it.error), hint })
        }
        Some(In::PartFailed(it)) => {
            let error = printable(&it.error);
            let state_digest = printable(&it.state_digest);
            (it.generation, Report::PartFailed { position: at(it.position)?, error, state_digest })
        }
        Some(In::GenerationFailed(it)) => (
            it.generation,
            Report::Failed(Failed {
                position: at(it.position)?,
                error: printable(&it.error),
                exit_code: u8::try_from(it.exit_code)
                    .ok()
                    .filter(|code| *code != 0)
                    .unwrap_or(exit::FAILURE),
            }),
        ),
        Some(In::Left(it)) => (
            it.generation,
            Report::Left(Left {
                held: it.held.map(reached).transpose()?,
                agreed: it.agreed,
                owes_checkpoint: it.owes_checkpoint,
                kept: it.kept,
                has_unit: it.has_unit,
                blame: (!it.blame.is_empty()).then(|| printable(&it.blame)),
                error: printable(&it.error),
            }),
        ),
        Some(In::Leaving(it)) => {
            return Ok(Event::Leaving { connection, reason: printable(&it.reason) });
        }
        Some(In::Probed(it)) => {
            let unreachable = it.unreachable.iter().map(|it| printable(it)).collect();
            return Ok(Event::Probed { connection, number: it.number, unreachable });
        }
        Some(In::Finished(it)) => (
            it.generation,
            Report::Finished(Finished {
                position: at(it.position)?,
                cause: cause(it.cause)?,
                detail: printable(&it.detail),
                state_digest: printable(&it.state_digest),
            }),
        ),
    };
    // A worker without an assignment has no generation yet.
    let generation = generation.map(Generation::from).unwrap_or_default();
    Ok(Event::Said { connection, generation, report })
}

/// One line without control characters, of bounded length.
pub(super) fn printable(text: &str) -> String {
    let clean = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    clean.take(LONGEST).collect()
}

fn at(position: Option<pb::Position>) -> Result<Position, String> {
    position.map(Position::from).ok_or_else(|| "a message without its position".to_owned())
}

fn reached(it: pb::Reached) -> Result<Reached, String> {
    Ok(Reached { position: at(it.position)?, evaluated: it.evaluated })
}

fn json<T: DeserializeOwned>(field: &str, text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("{field} is not what it should be: {error}"))
}

fn cause(wire: i32) -> Result<Cause, String> {
    match pb::FinishCause::try_from(wire) {
        Ok(pb::FinishCause::Completed) => Ok(Cause::Completed),
        Ok(pb::FinishCause::Stopped) => Ok(Cause::Stopped),
        Ok(pb::FinishCause::NonFinite) => Ok(Cause::NonFinite),
        _ => Err(format!("finished with the unknown cause {wire}")),
    }
}

fn step(it: &pb::StepReport) -> Result<StepReport, String> {
    let times = it.times.unwrap_or_default();
    Ok(StepReport {
        position: at(it.position)?,
        samples: it.samples,
        loss: it.loss,
        correct: it.correct,
        learning_rate: it.learning_rate,
        times: StepTimes {
            data_wait: times.data_wait,
            compute: times.compute,
            all_reduce: times.all_reduce,
            update: times.update,
            total: times.total,
            hidden: times.hidden,
        },
        bytes_sent: it.bytes_sent,
        cache: it.cache.map(|it| CacheReport {
            shards: it.shards,
            of: it.of,
            hits: it.hits,
            misses: it.misses,
            fetched: it.fetched,
        }),
    })
}

fn evaluation(it: &pb::EvaluationReport) -> Result<Evaluation, String> {
    Ok(Evaluation {
        position: at(it.position)?,
        samples: it.samples,
        top1_correct: it.top1_correct,
        top5_correct: it.top5_correct,
        loss: it.loss,
        seconds: it.seconds,
        learning_rate: it.learning_rate,
        schedule_done: it.schedule_done,
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(kind: Option<In>) -> String {
        said(ConnectionId(1), pb::WorkerMessage { kind }).unwrap_err()
    }

    #[test]
    fn what_has_no_form_is_refused_with_the_field() {
        assert!(refused(None).contains("kind"));
        assert_eq!(refused(Some(In::Hello(pb::Hello::default()))), "a second hello");
        assert!(refused(Some(In::Step(pb::StepReport::default()))).contains("position"));
        let part = pb::PartUploaded {
            position: Some(pb::Position::default()),
            part_json: "{".to_owned(),
            ..Default::default()
        };
        assert!(refused(Some(In::PartUploaded(part))).contains("part_json"));
        let finished =
            pb::Finished { position: Some(pb::Position::default()), ..Default::default() };
        assert!(refused(Some(In::Finished(finished))).contains("cause 0"));
    }

    #[test]
    fn a_call_that_does_not_begin_with_hello_is_refused() {
        let kind = Some(In::Heartbeat(pb::Heartbeat::default()));
        assert!(hello(pb::WorkerMessage { kind }).unwrap_err().contains("hello"));
    }

    #[test]
    fn texts_of_workers_cannot_break_lines_or_fill_the_log() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(printable(&"x".repeat(1 << 20)).len(), LONGEST);
    }

    #[test]
    fn nothing_held_and_nobody_blamed_are_told_apart_from_some() {
        let heard = |left: pb::Left| {
            let kind = Some(In::Left(left));
            match said(ConnectionId(1), pb::WorkerMessage { kind }).unwrap() {
                Event::Said { report: Report::Left(it), .. } => (it.held, it.blame),
                event => panic!("{event:?}"),
            }
        };
        assert_eq!(heard(pb::Left::default()), (None, None));
        let held = Some(Reached::default());
        let (held_by, blame) = (held.map(pb::Reached::from), "b".to_owned());
        let left = pb::Left { held: held_by, blame, ..Default::default() };
        assert_eq!(heard(left), (held, Some("b".to_owned())));
        assert!(
            refused(Some(In::Left(pb::Left {
                held: Some(pb::Reached::default()),
                ..Default::default()
            })))
            .contains("position")
        );
    }

    #[test]
    fn a_failure_without_an_exit_code_is_a_failure_all_the_same() {
        let code = |exit_code| {
            let position = Some(pb::Position::default());
            let failed = pb::GenerationFailed { position, exit_code, ..Default::default() };
            let kind = Some(In::GenerationFailed(failed));
            match said(ConnectionId(1), pb::WorkerMessage { kind }).unwrap() {
                Event::Said { report: Report::Failed(it), .. } => it.exit_code,
                event => panic!("{event:?}"),
            }
        };
        assert_eq!((code(0), code(64)), (exit::FAILURE, 64));
    }
}
