//! Workers that are killed, at any moment, while they fill a cache together: as real processes.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use convoy_common::cache::{Begun, Cache};
use convoy_common::dataset::ShardEntry;
use tempfile::TempDir;

const FOLDER: &str = "CONVOY_TEST_CACHE";
const SEED: &str = "CONVOY_TEST_SEED";
const DIGEST: &str = "5f0c00000000000000000000000000000000000000000000000000000000e1ab";
const SHARDS: usize = 12;
/// Of five shards or so.
const LIMIT: u64 = 5 * 200_000;
/// At least as many; more where hardly a download was under way at a kill.
const ROUNDS: u64 = 40;
const AT_MOST: Duration = Duration::from_secs(60);
/// What a worker says when it begins, for processes take as long to start as the machine likes.
const FILLING: &str = "filling";

fn shard(number: usize) -> Vec<u8> {
    (0..180_000 + 3000 * number).map(|at| (at * 5 + number * 17 + at / 253) as u8).collect()
}

fn entry(bytes: &[u8]) -> ShardEntry {
    ShardEntry { bytes: bytes.len() as u64, hash: *blake3::hash(bytes).as_bytes() }
}

/// Numbers as chance would have them.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The life of a worker: fetches shards until it is killed, and looks at what others have fetched.
#[test]
#[ignore = "another test starts it, and kills it"]
fn a_worker_that_fills_the_cache_for_ever() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let mut chance = Chance(std::env::var(SEED).unwrap().parse().unwrap());
    let shards: Vec<Vec<u8>> = (0..SHARDS).map(shard).collect();
    let cache = Cache::open(Path::new(&folder), DIGEST, LIMIT).unwrap();
    println!("{FILLING}");
    loop {
        let number = chance.below(SHARDS as u64) as usize;
        let bytes = &shards[number];
        if let Begun::Fetch(mut download) =
            cache.begin(number, entry(bytes), &HashSet::new()).unwrap()
        {
            for piece in bytes.chunks(8_000) {
                download.write(piece).unwrap();
                sleep(Duration::from_micros(chance.below(200)));
            }
            download.finish().unwrap();
        }
        all_entries_are_whole(Path::new(&folder));
    }
}

/// Comes back when it is at work.
fn start(folder: &Path, seed: u64) -> Child {
    let mut worker = Command::new(std::env::current_exe().unwrap())
        .args(["a_worker_that_fills_the_cache_for_ever", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(worker.stdout.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains(FILLING)), "a worker failed by itself");
    worker
}

/// Gives their number.
fn all_entries_are_whole(folder: &Path) -> usize {
    let mut entries = 0;
    for file in fs::read_dir(folder.join(DIGEST)).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|it| it == "convoy") {
            let number: usize = path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            // It may be gone by now, but what is there is whole.
            if let Ok(bytes) = fs::read(&path) {
                assert!(bytes == shard(number), "{} is not whole", path.display());
                entries += 1;
            }
        }
    }
    entries
}

fn bytes_in(folder: &Path) -> u64 {
    let files = fs::read_dir(folder.join(DIGEST)).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn workers_killed_at_any_moment_leave_no_bad_entry_no_lock_and_never_pass_the_limit() {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    let mut chance = Chance(7);
    let (mut entries_seen, mut parts_left) = (0, 0);
    let begin = Instant::now();
    for round in 0.. {
        let enough = round >= ROUNDS && parts_left >= 10 && entries_seen >= 40;
        if enough || begin.elapsed() > AT_MOST {
            break;
        }
        let mut workers = [start(root, 2 * round), start(root, 2 * round + 1)];
        for worker in &mut workers {
            sleep(Duration::from_micros(chance.below(80_000)));
            assert!(worker.try_wait().unwrap().is_none(), "a worker failed by itself");
            worker.kill().unwrap();
        }
        for worker in &mut workers {
            worker.wait().unwrap();
        }
        if !root.join(DIGEST).exists() {
            continue;
        }
        entries_seen += all_entries_are_whole(root);
        let is_part = |it: &fs::DirEntry| it.path().extension().is_some_and(|it| it == "part");
        parts_left += fs::read_dir(root.join(DIGEST)).unwrap().flatten().filter(is_part).count();
        assert!(bytes_in(root) <= LIMIT, "{} bytes", bytes_in(root));
    }
    // Otherwise nothing was under way when they were killed.
    assert!(parts_left >= 10 && entries_seen >= 40, "{parts_left} parts, {entries_seen} entries");

    let cache = Cache::open(root, DIGEST, LIMIT).unwrap();
    for number in 0..SHARDS {
        let bytes = shard(number);
        match cache.begin(number, entry(&bytes), &HashSet::new()).unwrap() {
            Begun::Present => {}
            Begun::Fetch(mut download) => {
                download.write(&bytes).unwrap();
                download.finish().unwrap();
            }
            other => panic!("shard {number}: {other:?}, although nobody lives"),
        }
        assert!(cache.entries().unwrap().contains(&number));
    }
    all_entries_are_whole(root);
    assert!(bytes_in(root) <= LIMIT);
}

#[test]
fn what_does_not_fit_its_hash_never_gets_its_name_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let cache = Cache::open(folder.path(), DIGEST, LIMIT).unwrap();
    let bytes = shard(0);
    let mut flipped = bytes.clone();
    flipped[9] ^= 1;
    let longer = [&bytes[..], b"x"].concat();
    for wrong in [&flipped[..], &bytes[1..], &longer, b""] {
        let begun = cache.begin(0, entry(&bytes), &HashSet::new()).unwrap();
        let Begun::Fetch(mut download) = begun else { panic!("{begun:?}") };
        // While it is under way, nobody else fetches it.
        let other = Cache::open(folder.path(), DIGEST, LIMIT).unwrap();
        let begun = other.begin(0, entry(&bytes), &HashSet::new()).unwrap();
        assert!(matches!(begun, Begun::Busy), "{begun:?}");
        let written = wrong.chunks(50_000).try_for_each(|piece| download.write(piece));
        assert!(written.and_then(|()| download.finish()).is_err());
        assert_eq!(bytes_in(folder.path()), 0);
        assert!(cache.entries().unwrap().is_empty());
    }
}
