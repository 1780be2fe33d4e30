//! Whatever comes from the coordinator's address, in whatever bytes, is an order or an error.

use bytes::{BufMut as _, Bytes, BytesMut};
use convoy_common::config::Source;
use convoy_common::pb;
use convoy_common::rpc::CONTROL_MESSAGE_LIMIT;
use http_body_util::Full;
use pb::coordinator_message::Kind;
use prost::Message as _;
use tonic::codec::BufferSettings;
use tonic_prost::ProstCodec;

use super::Orders;
use crate::bytes::{bound_memory, plant, try_all};

/// With the libraries that are mapped.
const MEMORY: u64 = 16 << 30;

/// The orders of a call whose answer has this body.
fn orders(body: Bytes) -> Orders {
    type Codec = ProstCodec<pb::WorkerMessage, pb::CoordinatorMessage>;
    let decoder = Codec::raw_decoder(BufferSettings::default());
    let limit = Some(CONTROL_MESSAGE_LIMIT);
    let stream = tonic::Streaming::new_request(decoder, Full::new(body), None, limit);
    Orders { url: "http://there".to_owned(), stream }
}

/// As gRPC frames a message.
fn framed(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(message);
    body.freeze()
}

#[test]
fn whatever_bytes_the_coordinator_sends_they_are_an_order_or_an_error() {
    bound_memory(MEMORY);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    try_all("coordinator_message", |bytes| {
        for body in [framed(&bytes), Bytes::from(bytes)] {
            runtime.block_on(async {
                match orders(body.clone()).welcome().await {
                    Ok(_) => {}
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
                let mut orders = orders(body);
                // A body has one message in it, or a few.
                for _ in 0..100 {
                    match orders.next().await {
                        Ok(_) => {}
                        Err(error) => return assert!(!error.to_string().is_empty()),
                    }
                }
                panic!("it goes on for ever");
            });
        }
    });
}

#[test]
#[ignore = "writes the seeds of the coordinator's messages anew"]
fn the_corpus_is_planted() {
    let text = "run = { url = 'r' }\ndata = { url = 'd' }";
    let config =
        Source::new("t.toml".as_ref(), &[]).with_environment(Vec::new()).resolve_text(text);
    let generation = Some(pb::GenerationId { term: 3, counter: 1 });
    let position = Some(pb::Position { epoch: 1, step: 2 });
    let member = pb::Member { name: "a".to_owned(), ring_address: "127.0.0.1:4000".to_owned() };
    let directive = pb::Directive { number: 1, divide_by: 10.0, at: position };
    let reason = "SIGTERM".to_owned();
    let assignment = pb::Assignment {
        generation,
        rank: 0,
        roster: vec![member.clone(), pb::Member { name: "b".to_owned(), ..member.clone() }],
        lineage: 1,
        position,
        directives: vec![directive],
        resume: pb::Resume::State.into(),
        peer: Some(member),
        ..Default::default()
    };
    for (name, kind) in [
        (
            "welcome",
            Kind::Welcome(pb::Welcome {
                run_id: "r".to_owned(),
                config_json: config.unwrap().config.to_json(),
                record_digest: "d".to_owned(),
            }),
        ),
        ("refused", Kind::Refused(pb::Refused { reason: "no".to_owned(), ..Default::default() })),
        ("assignment", Kind::Assignment(assignment)),
        ("begin", Kind::Begin(pb::Begin { generation })),
        (
            "stop",
            Kind::StopAfterStep(pb::StopAfterStep { checkpoint: true, reason: reason.clone() }),
        ),
        ("drop", Kind::Directive(directive)),
        (
            "end-generation",
            Kind::EndGeneration(pb::EndGeneration { generation, reason: reason.clone() }),
        ),
        ("regroup", Kind::Regroup(pb::Regroup { generation, reason: reason.clone() })),
        ("shutdown", Kind::Shutdown(pb::Shutdown { reason, exit_code: 75 })),
    ] {
        let message = pb::CoordinatorMessage { kind: Some(kind) };
        plant("coordinator_message", &format!("{name}.bin"), message.encode_to_vec());
    }
}
