//! What pruning removes, what it leaves, and what it sweeps of writers that are gone.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;
#[path = "support/written.rs"]
mod written;

use std::time::{Duration, Instant, SystemTime};

use convoy_common::checkpoint::{CheckpointError, Checkpoints, Keep, Parent, locate_with};
use convoy_common::ids::{Lineage, Term};
use convoy_common::run_record::{self, Opening};
use convoy_common::store::{PIECE, Settings};
use support::{BUCKET, S3, config, dataset, folder};
use written::{keep_last, layout, parts, write, write_evaluated};

#[tokio::test]
async fn pruning_keeps_the_newest_ones_and_what_another_lineage_began_with() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    for step in [10, 20, 30, 40, 50] {
        write(&checkpoints, step, 1, Term(1)).await;
    }
    checkpoints.new_lineage(None).await.unwrap();
    let checkpoint = "checkpoints/1/000000000020/manifest.json".to_owned();
    let parent = Parent { lineage: Lineage(1), checkpoint };
    let second = checkpoints.new_lineage(Some(parent)).await.unwrap();
    assert_eq!(second.lineage, Lineage(2));
    let pruned = checkpoints.prune(Lineage(1), keep_last(2), Term(1)).await.unwrap();
    assert_eq!(pruned.removed.len(), 2);
    let left: Vec<u64> = checkpoints
        .list()
        .await
        .unwrap()
        .checkpoints
        .into_iter()
        .map(|it| it.global_step)
        .collect();
    assert_eq!(left, [50, 40, 20]);
    assert_eq!(store.list("checkpoints").await.unwrap().len(), 6, "parts go with manifests");
    let begin = checkpoints.newest_good(Lineage(2)).await.unwrap().found.unwrap();
    assert_eq!(begin.1.shared.global_step, 20, "a new lineage starts from its parent");
}

#[tokio::test]
async fn the_one_with_the_fewest_errors_stays_and_has_a_name() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    run_record::open_or_create(&store, &config(), &dataset(), Opening::Fresh).await.unwrap();
    checkpoints.new_lineage(None).await.unwrap();
    write(&checkpoints, 5, 1, Term(1)).await;
    let error = checkpoints.named("best").await.unwrap_err();
    assert!(matches!(error, CheckpointError::NoBest { lineage: 1, .. }), "{error}");
    // Of the two with 20 errors the earlier one; what was not evaluated never counts.
    for (step, errors) in
        [(10, Some(30)), (20, Some(20)), (30, Some(20)), (40, None), (50, Some(25))]
    {
        write_evaluated(&checkpoints, step, 1, Term(1), errors).await;
    }
    let keep = Keep { last: 2, best: true };
    checkpoints.prune(Lineage(1), keep, Term(1)).await.unwrap();
    let listing = checkpoints.list().await.unwrap().checkpoints;
    let left: Vec<_> = listing
        .iter()
        .map(|it| (it.global_step, it.evaluation.map(|tally| tally.top1_errors)))
        .collect();
    assert_eq!(left, [(50, Some(25)), (40, None), (20, Some(20))]);
    for name in ["best", "1/best", "checkpoints/1/best"] {
        assert_eq!(checkpoints.named(name).await.unwrap().1.shared.global_step, 20, "{name}");
    }
    assert!(checkpoints.named("1best").await.is_err());
    let located = locate_with(&format!("{}@best", store.url()), &Settings::default()).await;
    let best = located.unwrap().manifest;
    assert_eq!(best.shared.global_step, 20);

    // A lineage that began with it has it as its best until it makes a better one.
    let parent = Parent { lineage: Lineage(1), checkpoint: best.path() };
    checkpoints.new_lineage(Some(parent)).await.unwrap();
    assert_eq!(checkpoints.named("best").await.unwrap().1, best);

    let pruned = checkpoints.prune(Lineage(1), keep_last(2), Term(1)).await.unwrap();
    assert!(pruned.removed.is_empty(), "the parent of a lineage stays anyway");
}

#[tokio::test]
async fn pruning_never_takes_the_newest_good_one() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    write(&checkpoints, 10, 1, Term(1)).await;
    write(&checkpoints, 20, 1, Term(1)).await;
    let newest = write(&checkpoints, 30, 1, Term(1)).await;
    let path = format!("{}/{}", newest.folder(), newest.parts[0].name);
    let mut bytes = store.get(&path).await.unwrap().to_vec();
    bytes[1000] ^= 1;
    store.put(&path, bytes.into()).await.unwrap();
    let prunable = checkpoints.prunable(Lineage(1), keep_last(1)).await.unwrap();
    let pruned = checkpoints.prune(Lineage(1), keep_last(1), Term(1)).await.unwrap();
    assert_eq!(pruned.removed, ["checkpoints/1/000000000010/manifest.json"]);
    assert_eq!(pruned.removed, prunable);
    let found = checkpoints.newest_good(Lineage(1)).await.unwrap().found.unwrap();
    assert_eq!(found.1.shared.global_step, 20);
}

#[tokio::test]
async fn left_overs_are_swept_and_what_may_be_an_upload_under_way_is_not() {
    let (_folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write(&checkpoints, 10, 1, Term(2)).await;
    for term in [Term(1), Term(2)] {
        let layout = layout();
        for part in parts(&layout, term, 2, 3) {
            for step in [5, 10, 20] {
                checkpoints.upload_part(Lineage(1), step, &part).await.unwrap();
            }
        }
    }
    // Two of each, but for those of the living term beyond the checkpoint.
    let pruned = checkpoints.prune(Lineage(1), keep_last(3), Term(2)).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.swept), (0, 10));
    let left = store.list("checkpoints").await.unwrap();
    assert!(left.iter().all(|object| !object.path.contains("/part-1-")));
    assert!(left.iter().all(|object| !object.path.contains("/000000000005/")));
    assert_eq!(left.len(), 4);
    checkpoints.verify(&manifest).await.unwrap();
}

/// As a writer leaves it that is killed in the middle of an upload.
fn half_written(folder: &tempfile::TempDir, step: u64, name: &str) -> std::path::PathBuf {
    let file = folder.path().join(format!("a run/checkpoints/1/{step:012}/{name}#1"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "half a part").unwrap();
    file
}

/// Begins to upload a large object and ends, with all its tasks at once, as a process does that is
/// killed.
fn killed_during_an_upload(s3: &S3, path: &str) {
    let store = s3.store("");
    let object = path.to_owned();
    let writer = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    writer.spawn(async move { store.put_chunks(&object, vec![vec![7; PIECE].into(); 32]).await });
    let sent = || upload_of(s3, path).map_or(0, |id| pieces_in(s3, &id));
    let start = Instant::now();
    while sent() == 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "no piece comes");
        std::thread::sleep(Duration::from_millis(2));
    }
    writer.shutdown_background();
    // What was on its way arrives or does not; the server reads a broken connection in a moment.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(50));
        while !s3.is_idle() {
            assert!(start.elapsed() < Duration::from_secs(40), "the server is at it for ever");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The id of the upload that has a marker beside the object.
fn upload_of(s3: &S3, path: &str) -> Option<String> {
    let object = s3.path(BUCKET).join(path);
    let name = object.file_name().unwrap().to_str().unwrap().to_owned();
    let beside = std::fs::read_dir(object.parent().unwrap()).ok()?;
    let marker = beside.map(|it| it.unwrap()).find(|it| {
        let file = it.file_name().into_string().unwrap();
        file.starts_with(&name) && file.ends_with(".uploading")
    });
    std::fs::read_to_string(marker?.path()).ok().filter(|id| !id.is_empty())
}

/// Pieces of an unfinished upload, which this server keeps beside its buckets; of all with an empty id.
fn pieces_in(s3: &S3, id: &str) -> usize {
    let all = std::fs::read_dir(s3.path("")).unwrap();
    let names = all.map(|it| it.unwrap().file_name().into_string().unwrap());
    names.filter(|it| it.contains(id) && it.contains(".part-")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_in_pieces_of_killed_writers_are_swept_and_those_of_the_living_are_not() {
    let s3 = S3::start().await;
    let checkpoints = Checkpoints::new(s3.store(""));
    let manifest = write(&checkpoints, 10, 1, Term(2)).await;
    let path = |step: u64, name: &str| format!("checkpoints/1/{step:012}/{name}");
    let [dead, living, foreign] = [
        path(20, "part-1-0of1-ff.safetensors"),
        path(30, "part-2-0of1-ff.safetensors"),
        path(20, "notes.txt"),
    ];
    tokio::task::block_in_place(|| {
        for object in [&dead, &living, &foreign] {
            killed_during_an_upload(&s3, object);
        }
    });
    let store = checkpoints.store();
    let unfinished = async || {
        let all = store.unfinished("").await.unwrap();
        all.into_iter().map(|it| it.object).collect::<Vec<_>>()
    };
    assert_eq!(unfinished().await, [&*foreign, &dead, &living]);
    assert_eq!(store.list("checkpoints").await.unwrap().len(), 2, "nobody takes them for objects");
    let before = pieces_in(&s3, "");
    let pruned = checkpoints.prune(Lineage(1), keep_last(3), Term(2)).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.swept), (0, 1));
    assert_eq!(unfinished().await, [&*foreign, &living]);
    assert!(pieces_in(&s3, "") < before);
    checkpoints.verify(&manifest).await.unwrap();
    // The next coordinator leaves nothing of the one that is gone.
    checkpoints.claim_next("x").await.unwrap();
    checkpoints.prune(Lineage(1), keep_last(3), Term(3)).await.unwrap();
    assert_eq!(unfinished().await, [&*foreign]);
    for it in store.unfinished("").await.unwrap() {
        assert!(store.take_back(&it).await.unwrap());
    }
    assert_eq!(pieces_in(&s3, ""), 0);
    // An upload that comes to its end leaves nothing but its object.
    store.put_chunks("large", vec![vec![7; PIECE + 1].into(); 2]).await.unwrap();
    assert_eq!(store.size("large").await.unwrap(), 2 * (PIECE as u64 + 1));
    assert!(unfinished().await.is_empty() && pieces_in(&s3, "") == 0);
}

fn record(folder: &tempfile::TempDir, path: &str) -> std::path::PathBuf {
    let file = folder.path().join("a run").join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "half a record").unwrap();
    file
}

#[tokio::test]
async fn half_written_parts_of_killed_writers_are_swept_and_those_of_the_living_are_not() {
    let (folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    let manifest = write(&checkpoints, 10, 1, Term(2)).await;
    let dead = half_written(&folder, 20, "part-1-0of1-ff.safetensors");
    let beside = half_written(&folder, 10, "part-1-0of1-ff.safetensors");
    let overtaken = half_written(&folder, 9, "part-2-0of1-ff.safetensors");
    let living = half_written(&folder, 30, "part-2-0of1-ff.safetensors");
    let foreign = half_written(&folder, 20, "notes.txt");
    let manifest_before = half_written(&folder, 10, "manifest.json");
    let manifest_after = half_written(&folder, 11, "manifest.json");
    let (old, new) = (record(&folder, "terms/1.json#1"), record(&folder, "terms/2.json#1"));
    let hour = Duration::from_secs(3600);
    std::fs::File::open(&old).unwrap().set_modified(SystemTime::now() - hour).unwrap();
    let pruned = checkpoints.prune(Lineage(1), keep_last(3), Term(2)).await.unwrap();
    assert_eq!((pruned.removed.len(), pruned.swept), (0, 5));
    assert!(!manifest_before.exists() && manifest_after.exists());
    assert!(!old.exists() && new.exists());
    assert!(
        !overtaken.exists()
            && !dead.exists()
            && !beside.exists()
            && living.exists()
            && foreign.exists()
    );
    checkpoints.verify(&manifest).await.unwrap();
    let dead = half_written(&folder, 40, "part-2-0of1-ff.safetensors");
    checkpoints.claim_next("x").await.unwrap();
    checkpoints.prune(Lineage(1), keep_last(3), Term(3)).await.unwrap();
    assert!(!dead.exists() && !dead.parent().unwrap().exists(), "the folder goes with it");
}

#[tokio::test]
async fn what_is_pruned_leaves_no_folder_behind() {
    let (folder, store) = folder();
    let checkpoints = Checkpoints::new(store.clone());
    for step in [10, 20] {
        write(&checkpoints, step, 2, Term(1)).await;
    }
    checkpoints.prune(Lineage(1), keep_last(1), Term(1)).await.unwrap();
    let left = std::fs::read_dir(folder.path().join("a run/checkpoints/1")).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    assert_eq!(left, ["000000000020"]);
}
