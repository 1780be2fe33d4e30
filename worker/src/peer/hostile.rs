//! Whatever a peer sends in place of a piece of its state, the state is taken as it was or refused.

use std::sync::Arc;

use convoy_common::checkpoint::{SharedState, slice_hash, state_digest};
use convoy_common::config::{Model, Source};
use convoy_common::ids::Reached;
use convoy_common::pb;
use pb::state_piece::Kind;
use prost::Message as _;

use super::intake::{Intake, Refused, head};
use crate::bytes::{bound_memory, plant, try_all};
use crate::model::{Device, Net, Spec};
use crate::state;

/// With the libraries that are mapped.
const MEMORY: u64 = 16 << 30;
const START: Reached =
    Reached { position: convoy_common::ids::Position { epoch: 0, step: 0 }, evaluated: false };

fn model() -> Model {
    let text = "run = { url = 'r' }\ndata = { url = 'd' }\nmodel = { narrow = 16 }";
    let config =
        Source::new("t.toml".as_ref(), &[]).with_environment(Vec::new()).resolve_text(text);
    config.unwrap().config.model
}

fn spec() -> Spec {
    Spec::of(&model(), 3).unwrap()
}

fn net() -> Net {
    Net::initialised(spec(), &model(), 1, Device::CPU).unwrap()
}

fn piece(kind: Kind) -> pb::StatePiece {
    pb::StatePiece { kind: Some(kind) }
}

/// What a peer sends that holds `net`, and the digest of it.
fn pieces(net: &Net) -> (Vec<pb::StatePiece>, String) {
    let layout = state::layout(net);
    let shared = serde_json::to_string(&SharedState::at_the_start()).unwrap();
    let (mut all, mut hashes) = (vec![piece(Kind::Head(head(shared, None)))], Vec::new());
    for (number, slice) in layout.slices().iter().enumerate() {
        let data = net.read_rows(slice.tensor, slice.rows.clone()).unwrap();
        let hash = slice_hash(&data);
        hashes.push(hash.clone());
        let rows = pb::StateRows { slice: number as u32, hash, data: data.into() };
        all.push(piece(Kind::Rows(rows)));
    }
    let digest = state_digest(&layout, &hashes);
    all.push(piece(Kind::End(pb::StateEnd { digest: digest.clone() })));
    (all, digest)
}

/// The digest of what was taken, from the net itself.
fn take(all: impl IntoIterator<Item = pb::StatePiece>, at: Reached) -> Result<String, Refused> {
    let empty = Net::zeroed(spec(), Device::CPU).unwrap();
    let layout = Arc::new(state::layout(&empty));
    let mut intake = Intake::new(empty, layout);
    for piece in all {
        intake.add(piece)?;
    }
    let (remains, told) = intake.finish(at)?;
    assert_eq!(pieces(&remains.net).1, told);
    Ok(told)
}

#[test]
fn a_state_comes_over_whole_or_not_at_all() {
    let (all, digest) = pieces(&net());
    assert_eq!(take(all.clone(), START).unwrap(), digest);
    for missing in 0..all.len() {
        let rest = all.iter().enumerate().filter(|it| it.0 != missing).map(|it| it.1.clone());
        assert!(take(rest, START).is_err(), "without piece {missing}");
        let twice = all[..=missing].iter().chain(&all[missing..]).cloned();
        assert!(take(twice, START).is_err(), "with piece {missing} twice");
    }
    let later = Reached { evaluated: true, ..START };
    let Err(Refused::Bad(why)) = take(all, later) else { panic!("the state of another position") };
    assert!(why.contains("the state at"), "{why}");
}

#[test]
fn whatever_comes_in_place_of_a_piece_is_what_was_sent_or_refused() {
    bound_memory(MEMORY);
    let (all, digest) = pieces(&net());
    let last = all.len() - 1;
    try_all("state_piece", |bytes| {
        let Ok(odd) = pb::StatePiece::decode(&bytes[..]) else { return };
        for place in [0, 1, last] {
            let mut all = all.clone();
            all[place] = odd.clone();
            match take(all, START) {
                Ok(taken) => assert_eq!(taken, digest),
                Err(Refused::Bad(why)) => assert!(!why.is_empty()),
                Err(Refused::Model(error)) => panic!("unchecked: {error}"),
            }
        }
    });
}

#[test]
#[ignore = "writes the seeds of pieces of a state anew"]
fn the_corpus_is_planted() {
    let (all, _) = pieces(&net());
    let last = all.len() - 1;
    for (name, number) in [("head", 0), ("rows", 1), ("end", last)] {
        plant("state_piece", &format!("{name}.bin"), all[number].encode_to_vec());
    }
}
