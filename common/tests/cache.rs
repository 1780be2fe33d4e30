//! The cache of shards: between a real S3 server, a proxy that misbehaves, and readers that share a
//! folder.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/disk.rs"]
mod disk;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use convoy_common::cache::{CachedDataset, Order, Settings};
use convoy_common::dataset::{Dataset, DatasetError, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::ids::Position;
use convoy_common::store::Store;
use faulty::{Mishap, Proxy};
use rustix::fs::{FlockOperation, flock};
use support::{BUCKET, S3, settings};
use tempfile::TempDir;

const IMAGES: u64 = 60;
/// Of one shard, about; the images of 60 make eight.
const SHARD: u64 = 30_000;
const SOON: Duration = Duration::from_secs(20);

fn image(number: u64) -> Vec<u8> {
    (0..3000 + number * 13).map(|at| (at * 11 + number * 29 + at / 256) as u8).collect()
}

/// A data set in a bucket behind a proxy, and a folder for its cache.
struct Place {
    server: S3,
    proxy: Proxy,
    folder: TempDir,
}

impl Place {
    async fn new() -> Self {
        let server = S3::start().await;
        let sizes = Sizes { shard: SHARD };
        let mut writer = PackWriter::start(server.store("data"), sizes).await.unwrap();
        for number in 0..IMAGES {
            let name = format!("{number}.jpg");
            writer.append(Split::Train, 0, &name, &image(number)).await.unwrap();
        }
        let pixels = PixelStatistics::default().summary();
        writer.finish(&["only".to_owned()], &pixels).await.unwrap();
        let proxy = Proxy::start(&server.endpoint).await;
        Self { server, proxy, folder: TempDir::new().unwrap() }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    async fn dataset(&self) -> Dataset {
        let settings = settings(&self.proxy.endpoint, "test-secret");
        let store = Store::open_with(&format!("s3://{BUCKET}/data"), &settings).unwrap();
        Dataset::open(store).await.unwrap().with_read_timeout(Duration::from_secs(5))
    }

    async fn open(&self, limit: u64) -> CachedDataset {
        self.open_at(Some(self.root()), limit).await
    }

    async fn open_at(&self, folder: Option<PathBuf>, limit: u64) -> CachedDataset {
        let dataset = self.dataset().await;
        let shards = dataset.shards();
        // A step needs one shard, the next the one behind it.
        let order: Order = Arc::new(move |position: Position| {
            Box::new((position.step as usize..).map(move |at| at % shards))
        });
        CachedDataset::open(dataset, Settings { folder, limit, downloads: 2 }, order).await
    }

    /// The entries, by number of shard.
    fn entries(&self) -> BTreeMap<usize, PathBuf> {
        files(&self.root(), "convoy")
    }
}

fn files(root: &Path, extension: &str) -> BTreeMap<usize, PathBuf> {
    let mut found = BTreeMap::new();
    for folder in fs::read_dir(root).into_iter().flatten().flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            let path = file.path();
            if path.extension().is_some_and(|it| it == extension) {
                let stem = path.file_stem().unwrap().to_str().unwrap();
                found.insert(stem.parse().unwrap(), path);
            }
        }
    }
    found
}

/// Every image, in an order of its own in each turn.
async fn reads_all(dataset: &CachedDataset, turn: u64) {
    let wanted: Vec<u64> = (0..IMAGES).map(|at| (at * 7 + turn) % IMAGES).collect();
    for wanted in wanted.chunks(9) {
        let images = dataset.read(Split::Train, wanted).await.unwrap();
        for (encoded, &number) in images.iter().zip(wanted) {
            assert_eq!(encoded.bytes, image(number), "{number}");
        }
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < SOON, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_filled(dataset: &CachedDataset) {
    let shards = dataset.dataset().shards() as u64;
    until("all shards are here", || dataset.filled().unwrap().shards == shards).await;
}

/// Removes the folder, although the cache may put something into it meanwhile.
fn remove_all(folder: impl AsRef<Path>) {
    while let Err(error) = fs::remove_dir_all(&folder) {
        assert_eq!(error.kind(), std::io::ErrorKind::DirectoryNotEmpty, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_come_from_the_store_at_once_and_from_the_cache_once_it_has_them() {
    let place = Place::new().await;
    // So slow that the first reads meet an empty cache.
    place.proxy.plan(|asked| {
        let (start, end) = asked.range?;
        (end - start > 20_000).then_some(Mishap::Drip(4000))
    });
    let cold = place.open(1 << 30).await;
    reads_all(&cold, 1).await;
    assert!(cold.filled().unwrap().misses > 0);
    until_filled(&cold).await;
    place.proxy.plan(|_| None);
    reads_all(&cold, 2).await;
    assert_eq!(place.proxy.asked().len(), 0, "all is here");
    assert!(cold.filled().unwrap().hits >= IMAGES);
    assert!(cold.filled().unwrap().fetched >= (IMAGES - 1) * 3000);
    drop(cold);
    // Another process, later: nothing is fetched, even if the bucket is gone.
    let warm = place.open(1 << 30).await;
    place.proxy.plan(|_| Some(Mishap::Status(404)));
    reads_all(&warm, 3).await;
    assert_eq!(place.proxy.asked().len(), 0);
    assert_eq!(warm.filled().unwrap().hit_rate(), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_share_a_folder_fetch_each_shard_once() {
    let place = Place::new().await;
    place.proxy.plan(|_| None);
    // Locks are of open files, so that three in one process are as three processes.
    let workers = [place.open(1 << 30).await, place.open(1 << 30).await, place.open(1 << 30).await];
    for worker in &workers {
        until_filled(worker).await;
    }
    let shards = workers[0].dataset().shards();
    assert_eq!(shards, 8);
    assert_eq!(place.proxy.asked().len(), shards, "each shard is one piece");
    let fetched: u64 = workers.iter().map(|it| it.filled().unwrap().fetched).sum();
    let bytes: u64 = (0..shards).map(|it| workers[0].dataset().shard(it).unwrap().bytes).sum();
    assert_eq!(fetched, bytes);
    for worker in &workers {
        reads_all(worker, 4).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_entry_is_noticed_dropped_and_fetched_again() {
    let place = Place::new().await;
    let dataset = place.open(1 << 30).await;
    until_filled(&dataset).await;
    let whole: BTreeMap<usize, Vec<u8>> =
        place.entries().iter().map(|(shard, path)| (*shard, fs::read(path).unwrap())).collect();
    let is_whole = || {
        let entries = place.entries();
        entries.len() == whole.len()
            && entries.iter().all(|(shard, path)| fs::read(path).is_ok_and(|it| it == whole[shard]))
    };
    assert!(is_whole());
    type Damage = fn(&Path, &[u8]);
    let damages: [Damage; 4] = [
        |path, bytes| {
            let mut bytes = bytes.to_vec();
            bytes[100] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        |path, bytes| fs::write(path, &bytes[..bytes.len() - 1]).unwrap(),
        |path, _| fs::write(path, b"").unwrap(),
        |path, _| fs::remove_file(path).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        damage(&place.entries()[&number], &whole[&number]);
        reads_all(&dataset, number as u64).await;
        until("the entry is whole again", is_whole).await;
    }
    // Everything at once, while it is read.
    remove_all(place.root());
    reads_all(&dataset, 8).await;
    until("all entries are here again", is_whole).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_removed_while_shards_come_into_it_is_filled_again() {
    let place = Place::new().await;
    // A second for each shard.
    place.proxy.plan(|_| Some(Mishap::Drip(300)));
    let dataset = place.open(1 << 30).await;
    until("some are on their way", || !files(&place.root(), "part").is_empty()).await;
    remove_all(place.root());
    place.proxy.plan(|_| None);
    until_filled(&dataset).await;
    reads_all(&dataset, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_damaged_in_the_store_as_well_is_named_and_the_others_are_cached() {
    let place = Place::new().await;
    let path = place.server.path(&format!("{BUCKET}/data/shards/00002.convoy"));
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    let dataset = place.open(1 << 30).await;
    until("the others are here", || place.entries().len() == 7).await;
    assert!(!place.entries().contains_key(&2));
    let mut errors = Vec::new();
    for number in 0..IMAGES {
        match dataset.read(Split::Train, &[number]).await {
            Ok(images) => assert_eq!(images[0].bytes, image(number)),
            Err(error) => errors.push(error),
        }
    }
    assert_eq!(errors.len(), 1, "one image holds the altered byte");
    assert!(matches!(errors[0], DatasetError::AlteredImage { .. }));
    assert!(errors[0].to_string().contains("shards/00002.convoy"), "{}", errors[0]);
}

/// Bytes in the folder, at a moment at which nobody changes it.
fn bytes_held(root: &Path) -> u64 {
    let Ok(lock) = fs::File::open(root.join("lock")) else { return 0 };
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let of = |extension| {
        files(root, extension).into_values().map(|it| fs::metadata(it).map_or(0, |it| it.len()))
    };
    of("convoy").chain(of("part")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_cannot_hold_all_follows_training_across_the_epochs_end_within_its_limit() {
    let place = Place::new().await;
    let limit = 3 * SHARD + 5000;
    let over = Arc::new(AtomicBool::new(false));
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = std::thread::spawn({
        let (root, over, watching) = (place.root(), Arc::clone(&over), Arc::clone(&watching));
        move || {
            while watching.load(Ordering::Relaxed) {
                over.fetch_or(bytes_held(&root) > limit, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let workers = [place.open(limit).await, place.open(limit).await];
    let dataset = workers[0].dataset();
    let shards = dataset.shards();
    // As many as fit of those that come next; the last shard of all is a small one.
    let next = |step: usize| -> Vec<usize> {
        let mut bytes = 0;
        let fits = |shard: &usize| {
            bytes += dataset.shard(*shard).unwrap().bytes;
            bytes <= limit
        };
        (step..step + shards).map(|at| at % shards).take_while(fits).collect()
    };
    assert_eq!((next(0), next(1)), (vec![0, 1, 2], vec![1, 2, 3]));
    for step in [0, 1, 4, shards - 1] {
        let position = Position { epoch: 0, step: step as u32 };
        workers.iter().for_each(|it| it.heading_for(position));
        let expected = next(step);
        let holds = || expected.iter().all(|shard| place.entries().contains_key(shard));
        until("what comes next is here", holds).await;
        reads_all(&workers[0], step as u64).await;
    }
    watching.store(false, Ordering::Relaxed);
    watcher.join().unwrap();
    assert!(!over.load(Ordering::Relaxed), "more than the limit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lower_limit_takes_effect_when_the_cache_is_opened() {
    let place = Place::new().await;
    until_filled(&place.open(1 << 30).await).await;
    let dataset = place.open(2 * SHARD).await;
    assert!(bytes_held(&place.root()) <= 2 * SHARD);
    reads_all(&dataset, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_used_or_stops_being_one_leaves_training_to_the_store() {
    let place = Place::new().await;
    let file = place.folder.path().join("file");
    fs::write(&file, "no folder").unwrap();
    for folder in [None, Some(file.join("cache"))] {
        let dataset = place.open_at(folder, 1 << 30).await;
        assert!(dataset.filled().is_none());
        reads_all(&dataset, 1).await;
    }
    // So few at a time that the filler is at it when the folder goes.
    place.proxy.plan(|asked| {
        let (start, end) = asked.range?;
        (end - start > 20_000).then_some(Mishap::Drip(4000))
    });
    let dataset = place.open(1 << 30).await;
    remove_all(place.root());
    while let Err(error) = fs::write(place.root(), "no folder") {
        assert_eq!(error.kind(), std::io::ErrorKind::IsADirectory, "{error}");
        remove_all(place.root());
    }
    reads_all(&dataset, 2).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    reads_all(&dataset, 3).await;
    assert_eq!(fs::read(place.root()).unwrap(), b"no folder");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_leaves_the_cache_with_what_fits_and_training_to_the_store() {
    // Mounting takes root.
    let Some(disk) = disk::Disk::of(100) else { return };
    let place = Place::new().await;
    // It believes to have room for all, and has it for two or three of eight.
    let dataset = place.open_at(Some(disk.path().join("cache")), 1 << 30).await;
    for epoch in 1..4 {
        reads_all(&dataset, epoch).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Nothing at all may fit any more.
    fs::write(disk.path().join("other"), vec![0; 1 << 20]).unwrap_err();
    reads_all(&dataset, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_come_into_the_cache_through_mishaps_and_never_with_wrong_bytes() {
    let place = Place::new().await;
    // The first answer of each to a read, whoever else reads meanwhile.
    let had = Mutex::new(HashSet::new());
    place.proxy.plan(move |asked| {
        let kinds = [Mishap::Flip, Mishap::CutAfter(5000), Mishap::Status(503), Mishap::Short];
        let is_first = had.lock().unwrap().insert((asked.path.clone(), asked.range));
        is_first.then(|| kinds[asked.number % kinds.len()])
    });
    let dataset = place.open(1 << 30).await;
    reads_all(&dataset, 1).await;
    until("most shards are here", || place.entries().len() >= 6).await;
    place.proxy.plan(|_| None);
    for (shard, path) in place.entries() {
        let hash = *blake3::hash(&fs::read(path).unwrap()).as_bytes();
        assert_eq!(hash, dataset.dataset().shard(shard).unwrap().hash, "{shard}");
    }
    reads_all(&dataset, 2).await;
}
