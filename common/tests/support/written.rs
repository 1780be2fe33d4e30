//! Checkpoints of a small state, for tests to write and to find again.

#![expect(unreachable_pub, reason = "each test file uses its own share")]
#![allow(dead_code, reason = "each test file uses its own share")]

use bytes::Bytes;
use convoy_common::checkpoint::{
    Checkpoints, EncodedPart, Header, Keep, Manifest, SharedState, Slice, StateLayout, Tally,
    TensorSpec, encode_part,
};
use convoy_common::ids::{Lineage, Position, Term};

use crate::support::{config, dataset};

pub fn layout() -> StateLayout {
    let spec =
        |name: &str, shape: &[usize]| TensorSpec { name: name.to_owned(), shape: shape.to_vec() };
    StateLayout::new(vec![
        spec("fc6.weight", &[300, 4096]),
        spec("fc6.bias", &[300]),
        spec("fc6.weight.momentum", &[300, 4096]),
        spec("step", &[]),
    ])
}

/// Bytes of one slice, a function of `seed`, tensor and first row.
pub fn content(layout: &StateLayout, slice: &Slice, seed: u64) -> Bytes {
    let key = (seed, slice.tensor, slice.rows.start);
    let pattern = blake3::hash(format!("{key:?}").as_bytes());
    let bytes = layout.slice_bytes(slice);
    pattern.as_bytes().iter().copied().cycle().take(bytes).collect::<Vec<u8>>().into()
}

pub fn parts(layout: &StateLayout, term: Term, world: u32, seed: u64) -> Vec<EncodedPart> {
    (0..world)
        .map(|rank| {
            let share = layout.share(rank, world);
            let data: Vec<Bytes> = layout.slices()[share.clone()]
                .iter()
                .map(|slice| content(layout, slice, seed))
                .collect();
            encode_part(layout, term, rank, world, share, &data).unwrap()
        })
        .collect()
}

pub fn header(layout: &StateLayout, term: Term, step: u64, world: u32) -> Header {
    Header {
        run_id: "0123456789abcdef".to_owned(),
        record_digest: "d".to_owned(),
        lineage: Lineage(1),
        parent: None,
        term,
        model: config().model,
        dataset: dataset(),
        shared: SharedState {
            position: Position { epoch: 0, step: step as u32 },
            global_step: step,
            schedule: Default::default(),
            samples_seen: step * 128,
            last_loss: Some(0.1 + 0.2),
            world,
            evaluations: Default::default(),
        },
        tensors: layout.tensors().to_vec(),
    }
}

/// Keeps the newest alone.
pub fn keep_last(last: u32) -> Keep {
    Keep { last, best: false }
}

/// Writes a whole checkpoint, its parts by `world` ranks.
pub async fn write(checkpoints: &Checkpoints, step: u64, world: u32, term: Term) -> Manifest {
    write_evaluated(checkpoints, step, world, term, None).await
}

/// The same for a state with so many errors of 100.
pub async fn write_evaluated(
    checkpoints: &Checkpoints,
    step: u64,
    world: u32,
    term: Term,
    errors: Option<u64>,
) -> Manifest {
    let layout = layout();
    let parts = parts(&layout, term, world, step);
    for part in &parts {
        checkpoints.upload_part(Lineage(1), step, part).await.unwrap();
    }
    let entries = parts.into_iter().map(|part| part.entry).collect();
    let mut header = header(&layout, term, step, world);
    header.shared.evaluations.here =
        errors.map(|top1_errors| Tally { images: 100, top1_errors, top5_errors: 3 });
    let manifest = Manifest::assemble(header, entries).unwrap();
    checkpoints.publish(&manifest).await.unwrap();
    manifest
}
