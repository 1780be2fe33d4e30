//! Whatever a peer gives of a step, in whatever bytes, is a step of this net or is refused.

use bytes::Bytes;
use convoy_common::config::Source;
use convoy_common::ids::{Position, Reached};
use convoy_common::pb;
use prost::Message as _;

use super::exchange;
use super::head_plan::Widths;
use super::redo::{Collector, sealed};
use crate::bytes::{bound_memory, plant, try_all};
use crate::model::Spec;

/// With the libraries that are mapped.
const MEMORY: u64 = 16 << 30;
const LAYERS: [Widths; 2] =
    [Widths { name: "fc6", inputs: 3, outputs: 2 }, Widths { name: "fc7", inputs: 2, outputs: 1 }];

fn spec() -> Spec {
    let text = "run = { url = 'r' }\ndata = { url = 'd' }\nmodel = { narrow = 16 }";
    let config =
        Source::new("t.toml".as_ref(), &[]).with_environment(Vec::new()).resolve_text(text);
    Spec::of(&config.unwrap().config.model, 3).unwrap()
}

#[test]
fn whatever_a_block_holds_it_is_read_or_refused() {
    bound_memory(MEMORY);
    try_all("block", |bytes| {
        let block = Bytes::from(bytes);
        for blocks in [vec![block.clone()], vec![block.clone(), block]] {
            match exchange::decode(&blocks, &LAYERS) {
                Ok(_) => {}
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}

#[test]
fn whatever_pieces_of_a_step_a_peer_sends_they_are_taken_or_refused() {
    bound_memory(MEMORY);
    let (spec, from) = (spec(), Reached { position: Position::default(), evaluated: false });
    let good = pb::RedoPiece::decode(&crate::bytes::seeds("redo_piece").remove(0)[..]).unwrap();
    try_all("redo_piece", |bytes| {
        let Ok(piece) = pb::RedoPiece::decode(&bytes[..]) else { return };
        // As it is, and with a hash that is right.
        let kinds = piece.kind.clone().map(sealed);
        for piece in [Some(piece), kinds].into_iter().flatten() {
            for (first, second) in [(piece.clone(), piece.clone()), (good.clone(), piece)] {
                let collected = Collector::new(from, first, &spec, 8).and_then(|mut it| {
                    it.add(second.clone())?;
                    it.add(second)?;
                    it.finish()
                });
                if let Err(refusal) = collected {
                    assert!(!refusal.is_empty());
                }
            }
        }
    });
}

#[test]
#[ignore = "writes the seeds of blocks and of pieces of a step anew"]
fn the_corpus_is_planted() {
    let statistics = [exchange::Statistics { loss: 1.5, correct: 1, samples: 2, images: 7 }];
    let factors: Vec<_> = LAYERS
        .iter()
        .map(|it| crate::model::Factors {
            rows: 2,
            activations: vec![0.5; 2 * it.inputs],
            deltas: vec![0.25; 2 * it.outputs],
        })
        .collect();
    let wishes = super::control::Wishes::default();
    plant("block", "two-samples.bin", exchange::encode(wishes, true, &statistics, &factors));
    plant("block", "idle.bin", exchange::encode(wishes, true, &[], &[]));

    let spec = spec();
    let linears = spec.linears();
    let layer = |number: usize| {
        let (inputs, outputs) = (linears[number].inputs as u64, linears[number].outputs as u64);
        pb::RedoLayer { dense: 0, rows: 2, activations: 2 * inputs, deltas: 2 * outputs }
    };
    let dense = (linears[1].inputs as u64 + 1) * linears[1].outputs as u64;
    let step = pb::RedoStep {
        loss: 1.5,
        correct: 1,
        samples: 2,
        images: 7,
        agreed: Some(pb::Agreed::default()),
        trunk: spec.trunk_len() as u64,
        layers: vec![layer(0), pb::RedoLayer { dense, ..Default::default() }, layer(2)],
    };
    let evaluation = pb::RedoEvaluation { samples: 9, top1: 4, top5: 8, loss_sum: 0.5 };
    use pb::redo_piece::Kind;
    for (name, kind) in [
        ("a-step", Kind::Step(step)),
        ("evaluation", Kind::Evaluation(evaluation)),
        ("numbers", Kind::Data(Bytes::from_static(&[0; 64]))),
    ] {
        plant("redo_piece", &format!("{name}.bin"), sealed(kind).encode_to_vec());
    }
}
