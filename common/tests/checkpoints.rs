//! Checkpoints from writing to restoring, over a folder and over S3, and everything that may be
//! wrong with one.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;
#[path = "support/written.rs"]
mod written;

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use convoy_common::checkpoint::{
    CheckpointError, Checkpoints, Claim, Manifest, ManifestError, PartProblem, StateLayout,
    TensorSpec, encode_part, locate_with, slice_hash, state_digest,
};
use convoy_common::ids::{Lineage, Position, Term};
use convoy_common::run_record::{self, Opening};
use convoy_common::schedule::ManualDrop;
use convoy_common::store::{Settings, Store};
use support::{S3, config, dataset, folder};
use written::{content, header, keep_last, layout, parts, write, write_evaluated};

async fn round_trip(store: Store) {
    let layout = layout();
    let hashes: Vec<String> =
        layout.slices().iter().map(|slice| slice_hash(&content(&layout, slice, 7))).collect();
    let expected = state_digest(&layout, &hashes);
    for world in 1..=3 {
        let checkpoints = Checkpoints::new(store.within(&format!("world{world}")));
        let written = write(&checkpoints, 7, world, Term(1)).await;
        assert_eq!(written.state_digest, expected, "one state has one digest");
        assert_eq!(written.parts.len(), world as usize);

        let read = checkpoints.read("checkpoints/1/000000000007/manifest.json").await.unwrap();
        assert_eq!(read, written);
        checkpoints.verify(&read).await.unwrap();
        let mut seen = HashMap::new();
        checkpoints
            .load(&read, &layout, |slice, bytes| {
                assert!(bytes == content(&layout, slice, 7), "{slice:?}");
                *seen.entry(slice.clone()).or_insert(0) += 1;
            })
            .await
            .unwrap();
        assert_eq!(seen.len(), layout.slices().len());
        assert!(seen.values().all(|times| *times == 1));
    }
}

#[tokio::test]
async fn a_checkpoint_comes_back_from_a_folder_whatever_the_number_of_workers() {
    let (_folder, store) = folder();
    round_trip(store).await;
}

#[tokio::test]
async fn a_checkpoint_comes_back_from_s3_whatever_the_number_of_workers() {
    let server = S3::start().await;
    round_trip(server.store("run")).await;
}

/// The problem that both `verify` and `load` find.
async fn problem(checkpoints: &Checkpoints, manifest: &Manifest) -> (PartProblem, PartProblem) {
    let part = |outcome: Result<(), CheckpointError>| match outcome {
        Err(CheckpointError::Part { problem, part, .. }) => {
            assert_eq!(part, manifest.parts[1].name);
            problem
        }
        other => panic!("expected a bad part, got {other:?}"),
    };
    let verified = part(checkpoints.verify(manifest).await);
    let loaded = part(checkpoints.load(manifest, &layout(), |_, _| {}).await);
    (verified, loaded)
}

#[tokio::test]
async fn a_flipped_byte_a_short_part_and_a_missing_part_are_each_named() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write(&checkpoints, 5, 2, Term(1)).await;
    let path = format!("{}/{}", manifest.folder(), manifest.parts[1].name);
    let good = store.get(&path).await.unwrap();

    let mut flipped = good.to_vec();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    store.put(&path, flipped.into()).await.unwrap();
    let slice = Some("step/0000000".to_owned());
    assert_eq!(
        problem(&checkpoints, &manifest).await,
        (PartProblem::Altered { slice: None }, PartProblem::Altered { slice })
    );

    let expected = good.len() as u64;
    store.put(&path, good.slice(..good.len() - 4)).await.unwrap();
    let short = PartProblem::Size { expected, found: expected - 4 };
    assert_eq!(problem(&checkpoints, &manifest).await, (short.clone(), short));

    store.delete(&path).await.unwrap();
    let missing = (PartProblem::Missing, PartProblem::Missing);
    assert_eq!(problem(&checkpoints, &manifest).await, missing);

    store.put(&path, good).await.unwrap();
    checkpoints.verify(&manifest).await.unwrap();
}

#[tokio::test]
async fn restoring_takes_the_newest_good_one_and_says_what_it_skipped() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    assert!(checkpoints.newest_good(Lineage(1)).await.unwrap().found.is_none());
    let good = write(&checkpoints, 10, 1, Term(1)).await;
    let short = write(&checkpoints, 20, 1, Term(1)).await;
    store.delete(&format!("{}/{}", short.folder(), short.parts[0].name)).await.unwrap();
    let newer = write(&checkpoints, 30, 1, Term(1)).await;
    let mut text: serde_json::Value =
        serde_json::from_slice(&store.get(&newer.path()).await.unwrap()).unwrap();
    text["format"] = 99.into();
    store.put(&newer.path(), text.to_string().into()).await.unwrap();
    let torn = write(&checkpoints, 40, 1, Term(1)).await;
    store.put(&torn.path(), Bytes::from_static(b"{\"format\": 2,")).await.unwrap();

    let search = checkpoints.newest_good(Lineage(1)).await.unwrap();
    assert_eq!(search.found.unwrap(), (good.path(), good));
    let reasons: Vec<String> = search.skipped.iter().map(|it| it.reason.to_string()).collect();
    assert_eq!(reasons.len(), 3);
    assert!(reasons[0].contains("is damaged"), "{reasons:?}");
    assert!(reasons[1].contains("has format 99, this version of Convoy reads format 2"));
    assert!(reasons[2].contains("is missing"));

    let listing = checkpoints.list().await.unwrap();
    let steps: Vec<u64> = listing.checkpoints.iter().map(|it| it.global_step).collect();
    assert_eq!(steps, [20, 10]);
    assert_eq!(listing.skipped.len(), 2);
}

/// Every number, text and truth value below `value`, as paths of keys.
fn leaves(value: &serde_json::Value, at: &str, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(key, it)| leaves(it, &format!("{at}/{key}"), found));
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, it)| leaves(it, &format!("{at}/{i}"), found));
        }
        serde_json::Value::Null => {}
        _ => found.push(at.to_owned()),
    }
}

#[tokio::test]
async fn no_field_of_a_manifest_can_be_altered_unseen() {
    use serde_json::Value;
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write_evaluated(&checkpoints, 10, 2, Term(1), Some(7)).await;
    let text: Value = serde_json::from_slice(&store.get(&manifest.path()).await.unwrap()).unwrap();
    let mut fields = Vec::new();
    leaves(&text, "", &mut fields);
    assert!(fields.len() > 40 && fields.contains(&"/shared/position/step".to_owned()));
    for field in fields {
        let mut altered = text.clone();
        let value = altered.pointer_mut(&field).unwrap();
        *value = match &*value {
            Value::Bool(it) => Value::Bool(!it),
            Value::Number(it) if it.is_u64() => (it.as_u64().unwrap() + 1).into(),
            Value::Number(it) => (it.as_f64().unwrap() * 1.5).into(),
            it => format!("{}0", it.as_str().unwrap()).into(),
        };
        store.put(&manifest.path(), altered.to_string().into()).await.unwrap();
        let read = checkpoints.read(&manifest.path()).await;
        assert!(read.is_err(), "{field} was altered and nobody saw it");
    }
}

#[tokio::test]
async fn what_is_pruned_during_a_search_is_no_bad_checkpoint() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    write(&checkpoints, 10, 1, Term(1)).await;
    for step in 2..12 {
        let (writer, reader) = (checkpoints.clone(), checkpoints.clone());
        let writes = async move {
            write(&writer, step * 10, 1, Term(1)).await;
            writer.prune(Lineage(1), keep_last(1), Term(1)).await.unwrap();
        };
        let reads = async move {
            for _ in 0..8 {
                let search = reader.newest_good(Lineage(1)).await.unwrap();
                assert!(search.found.is_some() && search.skipped.is_empty(), "{search:?}");
                assert!(reader.list().await.unwrap().skipped.is_empty());
            }
        };
        tokio::join!(writes, reads);
    }
}

#[tokio::test]
async fn without_its_manifest_there_is_no_checkpoint() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write(&checkpoints, 10, 2, Term(1)).await;
    store.delete(&manifest.path()).await.unwrap();
    assert!(checkpoints.newest_good(Lineage(1)).await.unwrap().found.is_none());
    let error = checkpoints.read(&manifest.path()).await.unwrap_err();
    assert!(matches!(error, CheckpointError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_is_published_once_and_only_with_all_its_parts() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write(&checkpoints, 10, 2, Term(1)).await;
    checkpoints.publish(&manifest).await.expect("the same state counts as the same checkpoint");

    let layout = layout();
    let other = parts(&layout, Term(1), 2, 99);
    let entries: Vec<_> = other.iter().map(|part| part.entry.clone()).collect();
    let other_manifest =
        Manifest::assemble(header(&layout, Term(1), 10, 2), entries.clone()).unwrap();
    let error = checkpoints.publish(&other_manifest).await.unwrap_err();
    assert!(
        matches!(error, CheckpointError::Part { problem: PartProblem::Missing, .. }),
        "{error}"
    );
    for part in &other {
        checkpoints.upload_part(Lineage(1), 10, part).await.unwrap();
    }
    let error = checkpoints.publish(&other_manifest).await.unwrap_err();
    assert!(matches!(error, CheckpointError::Exists { .. }), "{error}");
    checkpoints.verify(&manifest).await.expect("another attempt leaves the first one's parts");

    let assemble = |parts| Manifest::assemble(header(&layout, Term(1), 10, 2), parts);
    let absent = assemble(entries[..1].to_vec()).unwrap_err();
    assert!(matches!(absent, ManifestError::Few { expected: 6, found: 3 }), "{absent}");
    let twice = assemble([&entries[..], &entries[..1]].concat()).unwrap_err();
    assert!(matches!(twice, ManifestError::Twice(_)), "{twice}");
}

#[tokio::test]
async fn a_checkpoint_of_another_net_is_refused() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store);
    let manifest = write(&checkpoints, 10, 1, Term(1)).await;
    let mut tensors = layout().tensors().to_vec();
    tensors[0].shape[0] = 301;
    let error =
        checkpoints.load(&manifest, &StateLayout::new(tensors), |_, _| {}).await.unwrap_err();
    assert!(error.to_string().contains("fc6.weight [300, 4096]"), "{error}");
}

#[tokio::test]
async fn what_is_removed_while_it_is_read_is_told_apart_from_what_is_damaged() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write(&checkpoints, 10, 1, Term(1)).await;
    let part = format!("{}/{}", manifest.folder(), manifest.parts[0].name);
    store.delete(&part).await.unwrap();
    let damaged = checkpoints.verify(&manifest).await.unwrap_err();
    assert!(matches!(damaged, CheckpointError::Part { .. }), "{damaged:?}");
    store.delete(&manifest.path()).await.unwrap();
    for error in [
        checkpoints.verify(&manifest).await.unwrap_err(),
        checkpoints.load(&manifest, &layout(), |_, _| {}).await.unwrap_err(),
    ] {
        assert!(matches!(error, CheckpointError::Removed { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn of_two_claimants_of_a_term_one_wins_and_the_other_learns_who() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store);
    assert_eq!(checkpoints.newest_term().await.unwrap(), None);
    for round in 1..=10 {
        let claims = (0..4).map(|claimant| {
            let checkpoints = checkpoints.clone();
            let address = format!("host{claimant}:1");
            tokio::spawn(async move { checkpoints.claim_next(&address).await.unwrap() })
        });
        let claims: Vec<Claim> =
            futures::future::join_all(claims).await.into_iter().map(|it| it.unwrap()).collect();
        let mut won: Vec<u64> = Vec::new();
        for claim in &claims {
            if let Claim::Won(record) = claim {
                won.push(record.term.0);
            }
        }
        won.sort_unstable();
        let count = won.len();
        won.dedup();
        assert!(!won.is_empty() && won.len() == count, "round {round}: {claims:?}");
        for claim in &claims {
            if let Claim::Lost(winner) = claim {
                assert!(claims.contains(&Claim::Won(winner.clone())));
            }
        }
    }
}

#[tokio::test]
async fn a_coordinator_of_a_past_term_publishes_and_prunes_nothing() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store);
    checkpoints.claim_next("a:1").await.unwrap();
    let manifest = write(&checkpoints, 10, 1, Term(1)).await;
    checkpoints.claim_next("b:1").await.unwrap();
    for outcome in [
        checkpoints.publish(&manifest).await,
        checkpoints.prune(Lineage(1), keep_last(1), Term(1)).await.map(drop),
    ] {
        let error = outcome.unwrap_err();
        assert!(matches!(error, CheckpointError::Superseded { own: 1, newest: 2 }), "{error}");
    }
}

#[tokio::test]
async fn a_url_leads_to_run_record_and_checkpoint() {
    let (_folder, store) = folder();
    let settings = Settings::default();
    let error = locate_with(store.url(), &settings).await.unwrap_err();
    assert!(error.to_string().contains("there is no run at"), "{error}");
    let record =
        run_record::open_or_create(&store, &config(), &dataset(), Opening::Fresh).await.unwrap();
    let error = locate_with(store.url(), &settings).await.unwrap_err();
    assert!(matches!(error, CheckpointError::NotFound { .. }), "{error}");

    let checkpoints = Checkpoints::new(store.clone());
    let first = write(&checkpoints, 10, 1, Term(1)).await;
    let second = write(&checkpoints, 20, 1, Term(1)).await;
    let newest = locate_with(store.url(), &settings).await.unwrap();
    assert_eq!((newest.record, newest.manifest), (record, second));
    let one = locate_with(&store.url_of(&first.path()), &settings).await.unwrap();
    assert_eq!(one.manifest, first);
    assert_eq!(checkpoints.named("1/10").await.unwrap().1, first);
    assert_eq!(checkpoints.named("10").await.unwrap().1, first);
    assert!(checkpoints.named("nonsense").await.is_err());
}

/// Not a check of speed: prints what it takes on this machine (`--no-capture` to see it).
#[tokio::test]
#[ignore = "measures: 240 MB through hashing and a folder"]
async fn speed_of_a_part() {
    let spec = TensorSpec { name: "w".to_owned(), shape: vec![6500, 9216] };
    let layout = StateLayout::new(vec![spec]);
    let data: Vec<Bytes> = layout.slices().iter().map(|slice| content(&layout, slice, 1)).collect();
    let megabytes = layout.bytes() as f64 / 1e6;
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store);
    let all = 0..layout.slices().len();
    let say = |what: &str, start: Instant| {
        let seconds = start.elapsed().as_secs_f64();
        println!("{what}: {megabytes:.0} MB in {seconds:.3} s, {:.0} MB/s", megabytes / seconds);
    };
    let start = Instant::now();
    let part = encode_part(&layout, Term(1), 0, 1, all, &data).unwrap();
    say("encode", start);
    let start = Instant::now();
    checkpoints.upload_part(Lineage(1), 1, &part).await.unwrap();
    say("upload to a folder, synced", start);
    let manifest = Manifest::assemble(header(&layout, Term(1), 1, 1), vec![part.entry]).unwrap();
    checkpoints.publish(&manifest).await.unwrap();
    let start = Instant::now();
    checkpoints.verify(&manifest).await.unwrap();
    say("verify", start);
    let mut state = vec![0u8; layout.bytes() as usize];
    let mut at = 0;
    let start = Instant::now();
    checkpoints
        .load(&manifest, &layout, |_, bytes| {
            state[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        })
        .await
        .unwrap();
    say("load", start);
}

#[tokio::test]
async fn the_override_log_keeps_orders_and_where_they_took_effect_and_nothing_twice() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store);
    let term = Term(1);
    assert!(matches!(checkpoints.claim_next("a:1").await.unwrap(), Claim::Won(_)));
    let order = |number| ManualDrop { number, divide_by: 10.0, at: None };
    let lineage = Lineage(1);
    assert_eq!(checkpoints.overrides(lineage).await.unwrap(), []);
    for number in [1, 2] {
        checkpoints.log_drop(lineage, term, order(number), "it stalls").await.unwrap();
    }
    let again = checkpoints.log_drop(lineage, term, order(2), "it stalls").await.unwrap_err();
    assert!(matches!(again, CheckpointError::Taken { .. }), "{again}");
    let at = Position { epoch: 1, step: 2 };
    assert_eq!(checkpoints.record_effect(lineage, 1, at).await.unwrap(), at);
    let other = Position { epoch: 9, step: 9 };
    assert_eq!(checkpoints.record_effect(lineage, 1, other).await.unwrap(), at);

    let log = checkpoints.overrides(lineage).await.unwrap();
    let orders: Vec<ManualDrop> = log.iter().map(|it| it.order()).collect();
    assert_eq!(orders, [ManualDrop { at: Some(at), ..order(1) }, order(2)]);
    assert_eq!(log[0].record.reason, "it stalls");
    checkpoints.copy_overrides(Lineage(2), &log).await.unwrap();
    assert_eq!(checkpoints.overrides(Lineage(2)).await.unwrap(), log);

    assert!(matches!(checkpoints.claim_next("b:1").await.unwrap(), Claim::Won(_)));
    let late = checkpoints.log_drop(lineage, term, order(3), "").await.unwrap_err();
    assert!(matches!(late, CheckpointError::Superseded { own: 1, newest: 2 }), "{late}");
}
