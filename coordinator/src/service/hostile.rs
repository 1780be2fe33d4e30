//! Whatever a worker says, in whatever bytes, is understood or refused, and the machine that hears it
//! stays a machine: no panic, and its invariants hold.

use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::config::Straggler;
use convoy_common::ids::{Generation, Lineage, Position, Term};
use convoy_common::pb;
use pb::worker_message::Kind;
use prost::Message as _;

use super::{Facts, heard, told};
use crate::bytes::{bound_memory, plant, try_all};
use crate::engine::Outgoing;
use crate::machine::{
    ConnectionId, Deadlines, Effect, Event, Hello, Machine, Plan, Report, Start, invariants,
};

const MEMORY: u64 = 4 << 30;
const GENERATION: Generation = Generation { term: Term(3), counter: 1 };

fn plan() -> Plan {
    let second = Duration::from_secs(1);
    Plan {
        run: "test".to_owned(),
        term: GENERATION.term,
        lineage: Lineage(1),
        start: Start::default(),
        workers: 2,
        min_workers: 1,
        max_workers: 2,
        straggler: Straggler::Warn,
        succeeds: false,
        repeats: None,
        resolved_digest: String::new(),
        version: "1".to_owned(),
        protocol: 1,
        config_digest: String::new(),
        threads_per_lane: 1,
        fingerprint: None,
        allow_mixed_numerics: false,
        epochs: 2,
        max_steps: None,
        steps_per_epoch: 10,
        training_images: 100,
        validation_images: 20,
        evaluation_crops: 1,
        evaluate_every_epochs: 1,
        rate_moves_until: 0,
        log_every_steps: 1,
        deadlines: Deadlines::new(60 * second, 30 * second, 3 * second, 10 * second),
        fp32: true,
    }
}

fn named(name: &str) -> Hello {
    Hello {
        version: "1".to_owned(),
        protocol: 1,
        name: name.to_owned(),
        ring_address: "127.0.0.1:4000".to_owned(),
        device: "cpu".to_owned(),
        lanes: 1,
        pid: 1,
        expect_config: None,
        cores: None,
        bf16_units: false,
        standing: None,
    }
}

/// A job that waits for a second worker, one that prepares, one that trains, and one that regroups.
fn jobs() -> [Machine; 4] {
    let mut machine = Machine::new(plan(), Duration::ZERO);
    let mut steps = |events: Vec<Event>| {
        for event in events {
            machine.step(Duration::ZERO, event);
        }
        machine.clone()
    };
    let join = |number: u64, name: &str| {
        let (connection, fingerprint) = (ConnectionId(number), "f".to_owned());
        vec![
            Event::Joined { connection, hello: named(name) },
            Event::Computed { connection, fingerprint },
        ]
    };
    let ready = |number| Event::Said {
        connection: ConnectionId(number),
        generation: GENERATION,
        report: Report::Ready { state_digest: "d".to_owned() },
    };
    let waiting = steps(join(0, "a"));
    let preparing = steps(join(1, "b"));
    let training = steps(vec![ready(0), ready(1)]);
    let left = pb::Left { generation: Some(GENERATION.into()), ..Default::default() };
    let left = pb::WorkerMessage { kind: Some(Kind::Left(left)) };
    let regrouping = steps(vec![heard::said(ConnectionId(1), left).unwrap(), Event::Tick]);
    assert_eq!(waiting.status(Duration::ZERO).phase, "waiting");
    assert_eq!(preparing.status(Duration::ZERO).phase, "preparing");
    assert_eq!(training.status(Duration::ZERO).phase, "training");
    assert_eq!(regrouping.status(Duration::ZERO).phase, "regrouping");
    [waiting, preparing, training, regrouping]
}

/// What the job does about it goes over the wire as well.
fn hears(mut machine: Machine, event: Event) {
    let now = Duration::from_millis(10);
    for event in [event.clone(), event, Event::Tick] {
        for effect in machine.step(now, event) {
            if let Effect::Send { order, .. } = effect {
                told::outgoing(Outgoing::Order(order), &Facts::default()).encode_to_vec();
            }
        }
        assert_eq!(invariants::of_state(&machine), Ok(()));
    }
    told::status(machine.status(now), &Facts::default()).encode_to_vec();
}

#[test]
fn whatever_bytes_a_worker_sends_they_are_heard_or_refused() {
    bound_memory(MEMORY);
    let jobs = jobs();
    try_all("worker_message", |bytes| {
        let Ok(message) = pb::WorkerMessage::decode(&bytes[..]) else { return };
        match heard::hello(message.clone()) {
            Ok(hello) => {
                let joined = Event::Joined { connection: ConnectionId(7), hello };
                jobs.iter().for_each(|job| hears(job.clone(), joined.clone()));
            }
            Err(refusal) => assert!(!refusal.is_empty() && refusal.len() < 10_000),
        }
        match heard::said(ConnectionId(1), message) {
            Ok(event) => jobs.iter().for_each(|job| hears(job.clone(), event.clone())),
            Err(refusal) => assert!(!refusal.is_empty() && refusal.len() < 10_000),
        }
    });
}

#[test]
#[ignore = "writes the seeds of workers' messages anew"]
fn the_corpus_is_planted() {
    let generation = Some(GENERATION.into());
    let position = Some(pb::Position { epoch: 1, step: 2 });
    let at = Position { epoch: 1, step: 2 };
    let part = PartEntry {
        name: "part-3-1of2-0123456789abcdef.safetensors".to_owned(),
        size: 80,
        blake3: "0".repeat(64),
        slices: Vec::new(),
    };
    let shared = SharedState { position: at, ..SharedState::at_the_start() };
    let json = |it: serde_json::Result<String>| it.unwrap();
    let error = "the disk is gone".to_owned();
    let step = pb::StepReport {
        generation,
        position,
        samples: 8,
        loss: 1.5,
        learning_rate: 0.01,
        times: Some(pb::StepTimes { total: 0.5, ..Default::default() }),
        cache: Some(pb::CacheReport { shards: 1, of: 2, hits: 3, misses: 4, fetched: 5 }),
        ..Default::default()
    };
    let held = Some(pb::Reached { position, evaluated: true });
    let all = [
        (
            "hello",
            Kind::Hello(pb::Hello {
                version: "1".to_owned(),
                protocol: 1,
                name: "c".to_owned(),
                ring_address: "127.0.0.1:4001".to_owned(),
                device: "cpu".to_owned(),
                lanes: 1,
                ..Default::default()
            }),
        ),
        (
            "heartbeat",
            Kind::Heartbeat(pb::Heartbeat {
                generation,
                position,
                phase: "compute".to_owned(),
                ..Default::default()
            }),
        ),
        ("ready", Kind::Ready(pb::Ready { generation, state_digest: "d".to_owned() })),
        ("step", Kind::Step(step)),
        (
            "evaluation",
            Kind::Evaluation(pb::EvaluationReport {
                generation,
                position,
                samples: 20,
                top1_correct: 5,
                top5_correct: 9,
                loss: 2.0,
                ..Default::default()
            }),
        ),
        (
            "part",
            Kind::PartUploaded(pb::PartUploaded {
                generation,
                position,
                part_json: json(serde_json::to_string(&part)),
                shared_json: json(serde_json::to_string(&shared)),
                seconds: 1.0,
                state_digest: "d".to_owned(),
            }),
        ),
        (
            "part-failed",
            Kind::PartFailed(pb::PartFailed {
                generation,
                position,
                error: error.clone(),
                state_digest: "d".to_owned(),
            }),
        ),
        (
            "part-delayed",
            Kind::PartDelayed(pb::PartDelayed {
                generation,
                position,
                error: error.clone(),
                hint: "free space".to_owned(),
            }),
        ),
        (
            "failed",
            Kind::GenerationFailed(pb::GenerationFailed {
                generation,
                position,
                error: error.clone(),
                exit_code: 71,
                ..Default::default()
            }),
        ),
        (
            "finished",
            Kind::Finished(pb::Finished {
                generation,
                position,
                cause: 1,
                state_digest: "d".to_owned(),
                ..Default::default()
            }),
        ),
        ("numerics", Kind::Numerics(pb::Numerics { fingerprint: "f".to_owned() })),
        ("known", Kind::DirectiveKnown(pb::DirectiveKnown { generation, number: 1 })),
        (
            "applied",
            Kind::DirectiveApplied(pb::DirectiveApplied { generation, number: 1, position }),
        ),
        (
            "left",
            Kind::Left(pb::Left {
                generation,
                held,
                agreed: true,
                owes_checkpoint: true,
                blame: "a".to_owned(),
                error,
                ..Default::default()
            }),
        ),
        ("leaving", Kind::Leaving(pb::Leaving { reason: "SIGTERM".to_owned() })),
    ];
    for (name, kind) in all {
        let message = pb::WorkerMessage { kind: Some(kind) };
        plant("worker_message", &format!("{name}.bin"), message.encode_to_vec());
    }
}
