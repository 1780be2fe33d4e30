//! From what workers send to the machine's facts: checked for form, and what is wrong is said in words
//! that name the field.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Generation, Lineage, Position, Rank, Reached};
use convoy_common::pb;
use pb::worker_message::Kind as In;
use serde::de::DeserializeOwned;

use super::operate;
use crate::machine::{
    CacheReport, Cause, ConnectionId, Evaluation, Event, Failed, Finished, Hello, Left, Part,
    Report, Seat, Stage, Standing, StepReport, StepTimes,
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
