//! Whatever lies below a run's URL is read with care: altered, cut, replaced or absurd bytes give an
//! error that names the object, or are not noticed because they do no harm. Never a panic, a hang, or
//! memory without bounds.
//!
//! Cases that once did harm stay in `hostile.proptest-regressions` beside this file.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::path::Path;
use std::sync::Once;
use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy_common::checkpoint::{
    Checkpoints, Header, Keep, Manifest, Parent, SharedState, StateLayout, TensorSpec, encode_part,
};
use convoy_common::dataset::{Dataset, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::failure::Explain;
use convoy_common::ids::{Lineage, Position, Term};
use convoy_common::run_record::{self, Opening};
use convoy_common::schedule::ManualDrop;
use convoy_common::store::Store;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use support::{config, dataset};
use tempfile::TempDir;

/// Address space of this process: what asks for more than that ends it, and so fails the test.
const MEMORY: u64 = 4 << 30;
/// For all that reads one run.
const LONG: Duration = Duration::from_secs(20);

/// As many cases as CONVOY_FUZZ_CASES says, or as every change can afford.
fn fuzzing() -> ProptestConfig {
    let cases = std::env::var("CONVOY_FUZZ_CASES").ok().and_then(|it| it.parse().ok());
    let beside = FileFailurePersistence::WithSource("proptest-regressions");
    ProptestConfig {
        cases: cases.unwrap_or(32),
        failure_persistence: Some(Box::new(beside)),
        ..ProptestConfig::default()
    }
}

fn bound_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let maximum = getrlimit(Resource::As).maximum;
        setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum }).unwrap();
    });
}

/// A run with everything that a run can have.
async fn a_run(folder: &Path) {
    let store = Store::open(folder.to_str().unwrap()).unwrap();
    run_record::open_or_create(&store, &config(), &dataset(), Opening::Fresh).await.unwrap();
    run_record::record_fingerprint(&store, "f1").await.unwrap();
    let checkpoints = Checkpoints::new(store);
    checkpoints.claim_next("127.0.0.1:1").await.unwrap();
    let lineage = checkpoints.new_lineage(None).await.unwrap().lineage;
    let drop = ManualDrop { number: 1, divide_by: 10.0, at: None };
    checkpoints.log_drop(lineage, Term(1), drop, "by hand").await.unwrap();
    checkpoints.record_effect(lineage, 1, Position { epoch: 0, step: 3 }).await.unwrap();
    let tensors = vec![TensorSpec { name: "w".to_owned(), shape: vec![6, 3] }];
    let layout = StateLayout::new(tensors.clone());
    let part = encode_part(&layout, Term(1), 0, 1, 0..1, &[vec![7; 72].into()]).unwrap();
    checkpoints.upload_part(lineage, 5, &part).await.unwrap();
    let header = Header {
        run_id: "r".to_owned(),
        record_digest: "d".to_owned(),
        lineage,
        parent: None,
        term: Term(1),
        model: config().model,
        dataset: dataset(),
        shared: SharedState { global_step: 5, ..SharedState::at_the_start() },
        tensors,
    };
    let manifest = Manifest::assemble(header, vec![part.entry]).unwrap();
    checkpoints.publish(&manifest).await.unwrap();
    let checkpoint = manifest.path();
    checkpoints.new_lineage(Some(Parent { lineage, checkpoint })).await.unwrap();
}

/// Everything that reads a run. What it finds does not matter here, only that each error says where.
async fn read_all(folder: &Path) {
    let store = Store::open(folder.to_str().unwrap()).unwrap();
    let checkpoints = Checkpoints::new(store.clone());
    fn heard<T, E: Explain>(outcome: Result<T, E>) {
        if let Err(error) = outcome {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 10_000, "{text}");
            error.hint();
        }
    }
    heard(run_record::read(&store).await);
    heard(run_record::fingerprint(&store).await);
    heard(run_record::open_or_create(&store, &config(), &dataset(), Opening::Resume).await);
    heard(checkpoints.list().await);
    for lineage in [Lineage(1), Lineage(2)] {
        heard(checkpoints.newest_good(lineage).await);
        heard(checkpoints.overrides(lineage).await);
        heard(checkpoints.best(lineage).await);
        heard(checkpoints.prunable(lineage, Keep { last: 1, best: true }).await);
    }
    heard(checkpoints.named("1/5").await);
    heard(checkpoints.newest_term().await);
    heard(checkpoints.lineages().await);
    heard(checkpoints.claim_next("127.0.0.1:2").await);
    heard(checkpoints.new_lineage(None).await);
}

/// Where its files are, and what it looked like.
fn files_of(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// What is done to one file.
#[derive(Clone, Debug)]
enum Harm {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Replace(Vec<u8>),
    /// A value somewhere in its JSON becomes another one; in what is no JSON nothing happens.
    Value(prop::sample::Index, Value),
    Remove,
}

fn harm() -> impl Strategy<Value = Harm> {
    let index = any::<prop::sample::Index>;
    let value = prop::sample::select(vec![
        json!(null),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1_u64 << 40),
        json!(1e308),
        json!(""),
        json!("../../../../etc/passwd"),
        json!("9".repeat(5000)),
        json!([]),
        json!({}),
        json!(true),
        json!([[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]),
    ]);
    prop_oneof![
        1 => (index(), 1_u8..).prop_map(|(at, by)| Harm::Flip(at, by)),
        1 => index().prop_map(Harm::Cut),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Harm::Replace),
        4 => (index(), value).prop_map(|(at, value)| Harm::Value(at, value)),
        1 => Just(Harm::Remove),
    ]
}

fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, it)| places(it, &format!("{at}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, it)| places(it, &format!("{at}/{i}"), found));
        }
        _ => {}
    }
}

fn harmed(bytes: &[u8], harm: &Harm) -> Option<Vec<u8>> {
    let mut harmed = bytes.to_vec();
    match harm {
        Harm::Flip(at, by) if !bytes.is_empty() => harmed[at.index(bytes.len())] ^= by,
        Harm::Flip(..) => {}
        Harm::Cut(at) => harmed.truncate(at.index(bytes.len() + 1)),
        Harm::Replace(other) => harmed.clone_from(other),
        Harm::Value(at, value) => {
            if let Ok(mut text) = serde_json::from_slice::<Value>(bytes) {
                let mut found = Vec::new();
                places(&text, "", &mut found);
                *text.pointer_mut(&found[at.index(found.len())]).unwrap() = value.clone();
                harmed = serde_json::to_vec(&text).unwrap();
            }
        }
        Harm::Remove => return None,
    }
    Some(harmed)
}

/// Does each harm to the file that it chooses below `folder`.
fn do_harm(folder: &Path, harms: &[(prop::sample::Index, Harm)]) {
    let files = files_of(folder);
    for (which, harm) in harms {
        let (path, bytes) = which.get(&files);
        match harmed(bytes, harm) {
            Some(bytes) => std::fs::write(path, bytes).unwrap(),
            // Another one may have removed it.
            None => drop(std::fs::remove_file(path)),
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(fuzzing())]

    #[test]
    fn a_run_with_harmed_files_is_read_to_an_end(
        harms in prop::collection::vec((any::<prop::sample::Index>(), harm()), 1..4),
    ) {
        bound_memory();
        let folder = TempDir::new().unwrap();
        let runtime = runtime();
        runtime.block_on(a_run(folder.path()));
        do_harm(folder.path(), &harms);
        let start = Instant::now();
        let all = async { tokio::time::timeout(LONG, read_all(folder.path())).await };
        prop_assert!(runtime.block_on(all).is_ok(), "not done after {:?}", start.elapsed());
    }

    #[test]
    fn files_whose_names_are_numbers_beyond_all_others_do_no_harm(
        folder in prop::sample::select(vec!["terms", "ended", "lineages", "overrides/1", "overrides/1/effective"]),
        number in prop::sample::select(vec![u64::MAX, u64::MAX - 1, 0, 1 << 40]),
        text in prop::sample::select(vec!["{}", "[]", "", "null"]),
    ) {
        bound_memory();
        let place = TempDir::new().unwrap();
        let runtime = runtime();
        runtime.block_on(a_run(place.path()));
        let folder = place.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{number}.json")), text).unwrap();
        let all = async { tokio::time::timeout(LONG, read_all(place.path())).await };
        prop_assert!(runtime.block_on(all).is_ok());
    }

    #[test]
    fn a_data_set_with_harmed_files_is_read_to_an_end(
        harms in prop::collection::vec((any::<prop::sample::Index>(), harm()), 1..3),
    ) {
        bound_memory();
        let folder = TempDir::new().unwrap();
        let runtime = runtime();
        runtime.block_on(async {
            let store = Store::open(folder.path().to_str().unwrap()).unwrap();
            let mut writer = PackWriter::start(store, Sizes::default()).await.unwrap();
            for (split, name) in [(Split::Train, "a.jpg"), (Split::Train, "b.jpg"), (Split::Validation, "c.jpg")] {
                writer.append(split, 0, name, name.as_bytes()).await.unwrap();
            }
            writer.finish(&["x".to_owned()], &PixelStatistics::default().summary()).await.unwrap();
        });
        do_harm(folder.path(), &harms);
        let all = async {
            tokio::time::timeout(LONG, async {
                let store = Store::open(folder.path().to_str().unwrap()).unwrap();
                let Ok(dataset) = Dataset::open(store).await else { return };
                for split in Split::ALL {
                    let count = dataset.len(split).min(9);
                    for index in 0..count + 1 {
                        let _ = dataset.read(split, &[index, u64::MAX]).await;
                        if let Ok(read) = dataset.read(split, &[index]).await {
                            let name: Bytes = read[0].bytes.clone();
                            let whole = [&b"a.jpg"[..], b"b.jpg", b"c.jpg"].contains(&&name[..]);
                            assert!(whole, "altered bytes were handed out: {name:?}");
                        }
                        let _ = dataset.name(split, index).await;
                    }
                }
                for shard in 0..dataset.shards().min(9) + 1 {
                    let _ = dataset.verify_shard(shard).await;
                }
            })
            .await
        };
        prop_assert!(runtime.block_on(all).is_ok());
    }
}
