//! Bytes of every format that is read from outside, almost right and altogether wrong: each gives what
//! it says or an error, without a panic, a hang, or memory without bounds.
//!
//! [`hostile`](../hostile.rs) harms whole runs and data sets; here each format is tried by itself, from
//! a committed corpus. Messages, archives and parameters of nets are tried where they are read, in the
//! other crates.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/bytes.rs"]
mod bytes;
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::{bound_memory, corpus, plant, try_all};
use convoy_common::checkpoint::{
    Checkpoints, Header, Keep, Manifest, SharedState, StateLayout, TensorSpec, encode_part,
};
use convoy_common::config::{RunConfig, Source};
use convoy_common::dataset::{Dataset, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::failure::Explain;
use convoy_common::ids::{Lineage, Position, Term};
use convoy_common::image::{Limits, decode_within};
use convoy_common::run_record::{self, Opening};
use convoy_common::schedule::ManualDrop;
use convoy_common::store::Store;
use support::{config, dataset};
use tempfile::TempDir;

const MEMORY: u64 = 4 << 30;
/// For one case, on a busy machine.
const LONG: Duration = Duration::from_secs(20);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// An error tells where and is of bounded length.
fn heard<T, E: Explain>(outcome: Result<T, E>) -> Option<T> {
    match outcome {
        Ok(it) => Some(it),
        Err(error) => {
            let text = convoy_common::failure::Failure::new(1, error.to_string()).to_string();
            assert!(!text.is_empty() && text.len() < 20_000, "{} bytes", text.len());
            error.hint();
            None
        }
    }
}

fn store(folder: &Path) -> Store {
    Store::open(folder.to_str().unwrap()).unwrap()
}

#[test]
#[ignore = "writes the seeds of a data set and of a run anew"]
fn the_corpus_is_planted() {
    let (runtime, folder) = (runtime(), TempDir::new().unwrap());
    let file = |path: &str| std::fs::read(folder.path().join(path)).unwrap();
    runtime.block_on(async {
        a_data_set(&store(&folder.path().join("data"))).await;
        a_run(&store(&folder.path().join("run"))).await;
    });
    // The rest is the mean image and the hash of all.
    plant("index", "beginning.bin", &file("data/index.bin")[..4096]);
    plant("shard", "two.convoy", file("data/shards/00000.convoy"));
    for (place, format) in FILES {
        plant(format, "whole.json", file(&format!("run/{place}")));
    }
}

/// Two images in one shard.
async fn a_data_set(store: &Store) {
    let mut writer = PackWriter::start(store.clone(), Sizes::default()).await.unwrap();
    for (split, name) in [(Split::Train, "a.jpg"), (Split::Validation, "b.jpg")] {
        writer.append(split, 0, name, name.as_bytes()).await.unwrap();
    }
    writer.finish(&["x".to_owned()], &PixelStatistics::default().summary()).await.unwrap();
}

/// A run with everything that a run can have.
async fn a_run(store: &Store) {
    run_record::open_or_create(store, &config(), &dataset(), Opening::Fresh).await.unwrap();
    run_record::record_fingerprint(store, "f1").await.unwrap();
    let checkpoints = Checkpoints::new(store.clone());
    checkpoints.claim_next("127.0.0.1:1").await.unwrap();
    let lineage = checkpoints.new_lineage(None).await.unwrap().lineage;
    let drop = ManualDrop { number: 1, divide_by: 10.0, at: None };
    checkpoints.log_drop(lineage, Term(1), drop, "by hand").await.unwrap();
    checkpoints.record_effect(lineage, 1, Position { epoch: 0, step: 3 }).await.unwrap();
    let tensors = vec![TensorSpec { name: "w".to_owned(), shape: vec![6, 3] }];
    let layout = StateLayout::new(tensors.clone());
    let part = encode_part(&layout, Term(1), 0, 1, 0..1, &[vec![7; 72].into()]).unwrap();
    checkpoints.upload_part(lineage, 5, &part).await.unwrap();
    plant("part", "one.safetensors", part.chunks.concat());
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
}

#[test]
fn a_config_is_read_or_refused() {
    bound_memory(MEMORY);
    try_all("config", |bytes| {
        let Ok(text) = String::from_utf8(bytes) else { return };
        let start = Instant::now();
        let resolved =
            Source::new("case.toml".as_ref(), &[]).with_environment(Vec::new()).resolve_text(&text);
        match resolved {
            // What is taken can be written down and read back.
            Ok(it) => {
                let again = RunConfig::from_json(&it.config.to_json()).unwrap();
                assert_eq!(again, it.config);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        assert!(start.elapsed() < LONG);
    });
}

#[test]
fn a_picture_is_decoded_or_refused_within_its_limits() {
    bound_memory(MEMORY);
    let limits = Limits { side: 4096, pixels: 1 << 20 };
    try_all("picture", |bytes| {
        let start = Instant::now();
        if let Ok(image) = decode_within(&bytes, limits) {
            assert_eq!(image.pixels.len(), (image.width * image.height * 3) as usize);
            assert!(u64::from(image.width) * u64::from(image.height) <= limits.pixels);
        }
        assert!(start.elapsed() < LONG);
    });
}

#[test]
fn an_index_is_read_or_refused_and_so_are_the_shards_that_it_names() {
    bound_memory(MEMORY);
    let runtime = runtime();
    let shard = std::fs::read(corpus("shard").join("two.convoy")).unwrap();
    let read = |index: &[u8], shard: &[u8]| {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("shards")).unwrap();
        std::fs::write(folder.path().join("index.bin"), index).unwrap();
        std::fs::write(folder.path().join("shards/00000.convoy"), shard).unwrap();
        let all = async {
            let Some(dataset) = heard(Dataset::open(store(folder.path())).await) else { return };
            for split in Split::ALL {
                for index in (0..dataset.len(split).min(5)).chain([u64::MAX]) {
                    heard(dataset.read(split, &[index]).await);
                    heard(dataset.name(split, index).await);
                }
            }
            for number in 0..dataset.shards().min(5) {
                heard(dataset.verify_shard(number).await);
            }
        };
        let done = runtime.block_on(async { tokio::time::timeout(LONG, all).await });
        assert!(done.is_ok(), "it hangs");
    };
    try_all("index", |index| read(&index, &shard));
    let folder = TempDir::new().unwrap();
    runtime.block_on(a_data_set(&store(folder.path())));
    let index = std::fs::read(folder.path().join("index.bin")).unwrap();
    try_all("shard", |shard| read(&index, &shard));
}

/// The files of a run, by their place in it and the format that they are seeds of.
const FILES: [(&str, &str); 7] = [
    ("run.json", "run_record"),
    ("terms/1.json", "term"),
    ("lineages/1.json", "lineage"),
    ("overrides/1/1.json", "override"),
    ("overrides/1/effective/1.json", "effect"),
    ("checkpoints/1/000000000005/manifest.json", "manifest"),
    ("fingerprint.json", "fingerprint"),
];

/// Everything that reads a run.
async fn read_run(folder: &Path) {
    let checkpoints = Checkpoints::new(store(folder));
    heard(run_record::read(checkpoints.store()).await);
    heard(run_record::fingerprint(checkpoints.store()).await);
    heard(checkpoints.list().await);
    heard(checkpoints.newest_good(Lineage(1)).await);
    heard(checkpoints.overrides(Lineage(1)).await);
    heard(checkpoints.best(Lineage(1)).await);
    heard(checkpoints.named("1/5").await);
    heard(checkpoints.newest_term().await);
    heard(checkpoints.lineages().await);
    heard(checkpoints.still_in(Term(1)).await);
    heard(checkpoints.prune(Lineage(1), Keep { last: 1, best: true }, Term(1)).await);
}

#[test]
fn each_file_of_a_run_is_read_or_refused() {
    bound_memory(MEMORY);
    let runtime = runtime();
    for (place, format) in FILES {
        try_all(format, |bytes| {
            let folder = TempDir::new().unwrap();
            for (other, of) in FILES {
                let path = folder.path().join(other);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                let whole = || bytes::seeds(of).remove(0);
                let content = if other == place { bytes.clone() } else { whole() };
                std::fs::write(path, content).unwrap();
            }
            let all = async { tokio::time::timeout(LONG, read_run(folder.path())).await };
            assert!(runtime.block_on(all).is_ok(), "{place}: it hangs");
        });
    }
}
