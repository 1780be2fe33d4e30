//! Whatever the left neighbour sends, in whatever bytes, an operation takes it or refuses it.

use bytes::Bytes;
use convoy_common::config::Wire;
use convoy_common::pb;
use prost::Message as _;
use tokio::sync::oneshot;

use super::fold::Fold;
use super::operation::{Gather, Operation, Reduce};
use super::parcel::{Arrival, Collective, Outgoing, Parcel};
use super::terms::{Order, Terms};
use crate::bytes::{bound_memory, plant, try_all};

/// With the libraries that are mapped.
const MEMORY: u64 = 16 << 30;
const ELEMENTS: usize = 10;

/// One of each kind, as rank 1 of 3 has them.
fn operations() -> Vec<Operation> {
    let place = (3, 1);
    let data = || vec![0.5; ELEMENTS];
    let mut all = vec![
        Operation::Reduce(Reduce::new(place, 8, (data(), Wire::Fp32), oneshot::channel().0)),
        Operation::Reduce(Reduce::new(place, 8, (data(), Wire::Bf16), oneshot::channel().0)),
        Operation::Gather(Gather::new(place, 8, Bytes::from_static(b"own"), oneshot::channel().0)),
    ];
    for block in [1, 2] {
        let mut terms = Terms::new(Order { microbatches: 6, block }, 2..4, ELEMENTS);
        (2..4).for_each(|number| terms.add(number, data()));
        all.push(Operation::Fold(Fold::new(place, 8, terms, oneshot::channel().0)));
    }
    all
}

#[test]
fn whatever_bytes_a_neighbour_sends_they_are_taken_or_refused() {
    bound_memory(MEMORY);
    try_all("frame", |bytes| {
        let Ok(frame) = pb::Frame::decode(&bytes[..]) else { return };
        match Arrival::from(frame.clone()) {
            Arrival::Parcel(parcel) => take(&parcel),
            Arrival::Bad(bad) => assert!(!bad.to_string().is_empty()),
            _ => {}
        }
        // The same with a checksum that is right: only the plan stands in the way then.
        if let Some(pb::frame::Kind::Chunk(mut chunk)) = frame.kind {
            chunk.checksum = crc32c::crc32c(&chunk.data);
            let frame = pb::Frame { kind: Some(pb::frame::Kind::Chunk(chunk)) };
            if let Arrival::Parcel(parcel) = Arrival::from(frame) {
                take(&parcel);
            }
        }
    });
}

/// Every operation is offered it, again and again, under every collective's name.
fn take(parcel: &Parcel) {
    for collective in [Collective::AllReduce, Collective::AllGather, Collective::Fold] {
        for mut operation in operations() {
            for _ in 0..3 {
                let parcel = Parcel { collective, ..parcel.clone() };
                match operation.accept(parcel) {
                    Ok(onward) => onward.into_iter().flatten().for_each(|it| {
                        pb::Frame::from(Outgoing::Parcel(it)).encode_to_vec();
                    }),
                    Err(refusal) => {
                        assert!(!refusal.is_empty());
                        break;
                    }
                }
                if operation.is_complete() {
                    break;
                }
            }
        }
    }
}

#[test]
#[ignore = "writes the seeds of frames anew"]
fn the_corpus_is_planted() {
    for (number, operation) in operations().iter().enumerate() {
        for index in 0..operation.first_count().min(2) {
            let Some(parcel) = operation.first(5, index) else { continue };
            let frame = pb::Frame::from(Outgoing::Parcel(parcel));
            plant("frame", &format!("chunk-{number}-{index}.bin"), frame.encode_to_vec());
        }
    }
    let stalled = pb::Frame::from(Outgoing::Stalled { operation: 3 });
    plant("frame", "stalled.bin", stalled.encode_to_vec());
}
