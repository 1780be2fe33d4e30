//! What every store must do, checked on a folder, on an S3 server in this process, and on any S3
//! endpoint given by the environment.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[path = "support/disk.rs"]
mod disk;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy_common::exit;
use convoy_common::failure::Explain as _;
use convoy_common::store::{PIECE, Settings, Store, StoreError, Stored};
use support::{BUCKET, S3, folder, settings};

/// The suite. `store` is empty.
async fn conforms(store: Store) {
    store.probe().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), [], "the probe cleans up after itself");

    objects_are_written_read_and_removed(&store).await;
    one_writer_creates(&store).await;
    listings_are_of_folders(&store).await;
    large_objects_are_whole(&store).await;
}

async fn objects_are_written_read_and_removed(store: &Store) {
    let path = "a/b.bin";
    assert!(matches!(store.get(path).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.size(path).await, Err(StoreError::NotFound { .. })));
    assert!(!store.exists(path).await.unwrap());

    store.put(path, Bytes::from_static(b"one")).await.unwrap();
    store.put_chunks(path, vec!["two".into(), "-and-".into(), "three".into()]).await.unwrap();
    assert_eq!(store.get(path).await.unwrap(), "two-and-three");
    assert_eq!(store.size(path).await.unwrap(), 13);
    assert_eq!(store.get_range(path, 4..7).await.unwrap(), "and");
    assert_eq!(store.get_range(path, 4..4).await.unwrap(), "");
    assert_eq!(store.get_ranges(path, &[8..13, 0..3]).await.unwrap(), ["three", "two"]);
    // Beyond the end: an error or fewer bytes, but never others.
    if let Ok(bytes) = store.get_range(path, 8..20).await {
        assert_eq!(bytes, "three");
    }
    assert_eq!(store.within("a").get("b.bin").await.unwrap(), "two-and-three");

    store.delete(path).await.unwrap();
    store.delete(path).await.unwrap();
    assert!(!store.exists(path).await.unwrap());
}

/// A bucket's alone: each store of its own has connections of its own, which die with their runtime.
async fn a_killed_writers_upload_is_taken_back(open: impl Fn() -> Store) {
    let (store, writers) = (open(), open());
    let writer = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    writer
        .spawn(async move { writers.put_chunks("killed", vec![vec![7; PIECE].into(); 12]).await });
    let start = Instant::now();
    let mut found = Vec::new();
    while found.is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20), "no upload begins");
        found = store.unfinished("").await.unwrap();
    }
    writer.shutdown_background();
    assert_eq!(store.list("").await.unwrap(), []);
    assert!(store.take_back(&found[0]).await.unwrap());
    assert!(!store.take_back(&found[0]).await.unwrap(), "it is gone");
    assert_eq!(store.unfinished("").await.unwrap(), []);
    assert!(!store.exists("killed").await.unwrap());
}

async fn one_writer_creates(store: &Store) {
    let path = "created.json";
    store.create(path, Bytes::from_static(b"mine")).await.unwrap();
    let second = store.create(path, Bytes::from_static(b"yours")).await.unwrap_err();
    assert!(matches!(second, StoreError::Exists { .. }), "{second}");
    assert_eq!(store.get(path).await.unwrap(), "mine");
    store
        .create(path, Bytes::from_static(b"mine"))
        .await
        .expect("the same bytes are taken for a request sent twice");
    store.delete(path).await.unwrap();
}

async fn listings_are_of_folders(store: &Store) {
    for path in ["x/2", "x/1", "x/deep/3", "xy/4"] {
        store.put(path, Bytes::from(path)).await.unwrap();
    }
    let found = store.list("x").await.unwrap();
    let expected = [("x/1", 3), ("x/2", 3), ("x/deep/3", 8)];
    assert_eq!(found, expected.map(|(path, size)| Stored { path: path.to_owned(), size }));
    assert_eq!(store.list("").await.unwrap().len(), 4);
    assert_eq!(store.within("x").list("deep").await.unwrap()[0].path, "deep/3");
    assert_eq!(store.list("absent").await.unwrap(), []);
    for path in ["x/2", "x/1", "x/deep/3", "xy/4"] {
        store.delete(path).await.unwrap();
    }
}

async fn large_objects_are_whole(store: &Store) {
    let chunks: Vec<Bytes> = (0..5u8).map(|i| vec![i; PIECE / 2 + usize::from(i)].into()).collect();
    store.put_chunks("large", chunks.clone()).await.unwrap();
    assert_eq!(store.get("large").await.unwrap(), chunks.concat());
    store.delete("large").await.unwrap();
}

#[tokio::test]
async fn a_folder_conforms() {
    let (_folder, store) = folder();
    conforms(store).await;
}

#[tokio::test]
async fn an_s3_server_conforms() {
    let server = S3::start().await;
    conforms(server.store("some/prefix")).await;
    a_killed_writers_upload_is_taken_back(|| server.store("some/prefix")).await;
}

/// Run with `--ignored` (nextest: `--run-ignored only`) with CONVOY_TEST_S3_ENDPOINT, the AWS_*
/// keys, and CONVOY_TEST_S3_BUCKET (default `convoy`), a bucket that exists.
#[tokio::test]
#[ignore = "needs an S3 server: CONVOY_TEST_S3_ENDPOINT"]
async fn the_given_s3_endpoint_conforms() {
    let endpoint = std::env::var("CONVOY_TEST_S3_ENDPOINT").expect("CONVOY_TEST_S3_ENDPOINT");
    let bucket = std::env::var("CONVOY_TEST_S3_BUCKET").unwrap_or_else(|_| BUCKET.to_owned());
    let mut settings = Settings::from_env();
    settings.variables.insert("AWS_ENDPOINT_URL".to_owned(), endpoint);
    let prefix = format!("conformance-{}", std::process::id());
    let url = format!("s3://{bucket}/{prefix}");
    conforms(Store::open_with(&url, &settings).unwrap()).await;
    a_killed_writers_upload_is_taken_back(|| Store::open_with(&url, &settings).unwrap()).await;
    let missing = Store::open_with("s3://convoy-no-such-bucket/x", &settings).unwrap();
    let error = missing.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::NoBucket { .. }), "{error:?}");
}

#[tokio::test]
async fn wrong_credentials_are_named() {
    let server = S3::start().await;
    let wrong = settings(&server.endpoint, "another-secret");
    let store = Store::open_with(&format!("s3://{BUCKET}/x"), &wrong).unwrap();
    for error in [store.probe().await.unwrap_err(), store.get("a").await.unwrap_err()] {
        assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains("AWS_SECRET_ACCESS_KEY"));
        assert_eq!(error.exit_code(), exit::BAD_INPUT);
    }
    let mut unknown = server.settings();
    unknown.variables.insert("AWS_ACCESS_KEY_ID".to_owned(), "AKIANOBODY".to_owned());
    let store = Store::open_with(&format!("s3://{BUCKET}/x"), &unknown).unwrap();
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_found_out_and_can_be_used_without() {
    let server = S3::start_without_conditions().await;
    let store = server.store("x");
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::NotFenced { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("--unfenced"));
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
    assert_eq!(store.list("").await.unwrap(), [], "the probe cleans up after itself");

    let store = store.unfenced();
    store.create("term", Bytes::from_static(b"one")).await.unwrap();
    store.create("term", Bytes::from_static(b"one")).await.unwrap();
    let second = store.create("term", Bytes::from_static(b"two")).await.unwrap_err();
    assert!(matches!(second, StoreError::Exists { .. }), "{second}");
    assert_eq!(store.get("term").await.unwrap(), "one");
}

#[tokio::test]
async fn what_ails_a_store_is_told_with_a_hint_and_whether_it_may_pass() {
    let server = S3::start().await;
    let proxy = faulty::Proxy::start(&server.endpoint).await;
    let mut settings = server.settings();
    settings.variables.insert("AWS_ENDPOINT_URL".to_owned(), proxy.endpoint.clone());
    settings.limits.retries = 0;
    let store = Store::open_with(&format!("s3://{BUCKET}/x"), &settings).unwrap();
    use faulty::Mishap::{Refuse, Status};
    for (mishap, said) in [
        (Status(507), "there is no room left"),
        (Status(500), "fails to"),
        (Status(503), "fails to"),
        (Status(403), "is denied"),
        (Status(409), "fails to"),
        (Refuse, "cannot reach"),
    ] {
        proxy.fail("/x/", Some(mishap));
        let error = store.put("part", Bytes::from_static(b"1")).await.unwrap_err();
        assert!(error.to_string().contains(said), "{mishap:?}: {error}");
        assert!(error.hint().is_some() && error.may_pass(), "{mishap:?}: {error:?}");
    }
    proxy.fail("", None);
    store.put("part", Bytes::from_static(b"1")).await.unwrap();
    let other = store.create("part", Bytes::from_static(b"2")).await.unwrap_err();
    assert!(!other.may_pass(), "{other:?}");
}

#[tokio::test]
async fn a_folder_that_is_full_or_not_writable_is_told_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "no folder").unwrap();
    let store = Store::open(folder.path().to_str().unwrap()).unwrap();
    let error = store.put("file/part", Bytes::from_static(b"1")).await.unwrap_err();
    assert!(error.hint().is_some() && error.may_pass(), "{error:?}");
    // Mounting takes root.
    let Some(disk) = disk::Disk::of(64) else { return };
    let store = Store::open(disk.path().to_str().unwrap()).unwrap();
    let error = store.put("part", vec![1; 1 << 20].into()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }) && error.may_pass(), "{error:?}");
    assert_eq!(store.list("").await.unwrap(), []);
    assert!(store.unfinished("").await.unwrap().is_empty(), "nothing half-written is left");
    disk::resize(disk.path(), 4096);
    store.put("part", vec![1; 1 << 20].into()).await.unwrap();
}

#[tokio::test]
async fn a_missing_bucket_is_named() {
    let server = S3::start().await;
    let store = Store::open_with("s3://no-such-bucket/x", &server.settings()).unwrap();
    for error in [store.probe().await.unwrap_err(), store.list("a").await.unwrap_err()] {
        assert!(matches!(error, StoreError::NoBucket { .. }), "{error:?}");
        assert!(error.to_string().contains("s3://no-such-bucket"), "{error}");
    }
}

#[tokio::test]
async fn an_endpoint_where_nobody_listens_is_named_soon() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let store = Store::open_with(&format!("s3://{BUCKET}/x"), &settings(&endpoint, "s")).unwrap();
    let start = Instant::now();
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&endpoint), "{error}");
    assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let mut settings = settings(&endpoint, "s");
    settings.limits.probe = Duration::from_secs(1);
    let store = Store::open_with(&format!("s3://{BUCKET}/x"), &settings).unwrap();
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_name_that_no_bucket_can_have_is_bad_input() {
    let s3 = S3::start().await;
    let store = Store::open_with("s3://Not_a.Name-/x", &s3.settings()).unwrap();
    let error = store.get("o").await.unwrap_err();
    assert!(matches!(error, StoreError::BadUrl { .. }), "{error:?}");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
}

#[tokio::test]
async fn of_many_creators_at_once_exactly_one_succeeds() {
    let (_folder, store) = folder();
    for round in 0..20 {
        let path = format!("race-{round}");
        let creators = (0..8).map(|writer| {
            let (store, path) = (store.clone(), path.clone());
            tokio::spawn(async move { store.create(&path, Bytes::from(vec![writer; 9])).await })
        });
        let outcomes = futures::future::join_all(creators).await;
        let won: Vec<_> = outcomes.iter().map(|it| it.as_ref().unwrap().is_ok()).collect();
        assert_eq!(won.iter().filter(|it| **it).count(), 1);
        let winner = won.iter().position(|it| *it).unwrap();
        assert_eq!(store.get(&path).await.unwrap(), vec![winner as u8; 9]);
    }
}

#[tokio::test]
async fn reading_from_a_folder_that_is_not_there_leaves_nothing_behind() {
    let (folder, store) = folder();
    assert_eq!(store.list("").await.unwrap(), []);
    assert!(!store.exists("a").await.unwrap());
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn folders_may_have_any_name() {
    let folder = tempfile::TempDir::new().unwrap();
    for name in ["a b", "100%", "käse", "x#1", "q?y=1", "%41"] {
        let path = folder.path().join(name).join("run");
        let store = Store::open(path.to_str().unwrap()).unwrap();
        store.put("o", Bytes::from(name)).await.unwrap();
        assert!(path.join("o").is_file(), "{name}");
        let again = Store::open(store.url()).unwrap();
        assert_eq!(again.get("o").await.unwrap(), name);
        assert_eq!(again.list("").await.unwrap().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_store_and_a_grpc_client_live_in_one_process() {
    let server = S3::start().await;
    server.store("x").probe().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let outcome = tonic::transport::Endpoint::new(address).unwrap().connect().await;
    assert!(outcome.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_given_up_leaves_no_piece_in_the_bucket() {
    let s3 = S3::start().await;
    let store = s3.store("given-up");
    let pieces = || {
        let all = std::fs::read_dir(s3.path("")).unwrap();
        let name = |it: std::io::Result<std::fs::DirEntry>| it.unwrap().file_name();
        all.map(name).filter(|it| it.to_string_lossy().contains(".part-")).count()
    };
    let until = async |done: &dyn Fn(usize) -> bool| {
        let start = Instant::now();
        while !done(pieces()) {
            assert!(start.elapsed() < Duration::from_secs(40), "{} pieces", pieces());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        done = store.put_chunks("large", vec![vec![7; PIECE].into(); 16]) => panic!("{done:?}"),
        () = until(&|number| number > 0) => {}
    }
    until(&|number| number == 0).await;
    assert!(!store.exists("large").await.unwrap());
}

/// A large object's writer behind a proxy, and the same bucket without it.
async fn behind_a_proxy() -> (S3, faulty::Proxy, Store, Store) {
    let s3 = S3::start().await;
    let proxy = faulty::Proxy::start(&s3.endpoint).await;
    let mut settings = s3.settings();
    settings.variables.insert("AWS_ENDPOINT_URL".to_owned(), proxy.endpoint.clone());
    settings.limits.retries = 1;
    let store = Store::open_with(&format!("s3://{BUCKET}/pieces"), &settings).unwrap();
    let direct = s3.store("pieces");
    (s3, proxy, store, direct)
}

/// What only the requests to end an upload, well or not, have in their path.
const ENDS: &str = "?uploadId=";

#[tokio::test(flavor = "multi_thread")]
async fn a_large_object_whose_last_answer_is_lost_is_written() {
    let (_s3, proxy, store, direct) = behind_a_proxy().await;
    let chunks = || vec![Bytes::from(vec![7; PIECE]); 2];
    for round in 0..2 {
        proxy.fail(ENDS, Some(faulty::Mishap::CutAfter(0)));
        let path = format!("large-{round}");
        store.put_chunks(&path, chunks()).await.unwrap();
        assert_eq!(direct.size(&path).await.unwrap(), 2 * PIECE as u64);
        assert!(direct.unfinished("").await.unwrap().is_empty());
    }
    // One that cannot end is none, and another try may go well.
    proxy.fail(ENDS, Some(faulty::Mishap::Status(404)));
    let error = store.put_chunks("never", chunks()).await.unwrap_err();
    assert!(error.may_pass(), "{error:?}");
    assert!(!direct.exists("never").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_may_not_be_taken_back_keeps_its_marker_and_one_that_is_over_does_not() {
    let (_s3, proxy, store, direct) = behind_a_proxy().await;
    let chunks = || vec![Bytes::from(vec![7; PIECE]); 2];
    proxy.fail(ENDS, Some(faulty::Mishap::Status(403)));
    store.put_chunks("denied", chunks()).await.unwrap_err();
    // It is tried in the background, too.
    tokio::time::sleep(Duration::from_millis(300)).await;
    direct.put_chunks("denied", chunks()).await.unwrap();
    let left = direct.unfinished("").await.unwrap();
    assert_eq!(left.len(), 1);
    let error = store.take_back(&left[0]).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied { .. }), "{error:?}");
    assert_eq!(direct.unfinished("").await.unwrap(), left);
    assert!(direct.take_back(&left[0]).await.unwrap());
    assert!(direct.unfinished("").await.unwrap().is_empty());

    proxy.fail("?delete", Some(faulty::Mishap::Refuse));
    store.put_chunks("done", chunks()).await.unwrap();
    let left = direct.unfinished("").await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(direct.take_back(&left[0]).await.unwrap());
    assert!(direct.unfinished("").await.unwrap().is_empty());
    assert_eq!(direct.size("done").await.unwrap(), 2 * PIECE as u64);
}

#[tokio::test]
async fn what_a_probe_has_left_goes_with_a_later_one() {
    let (folder, store) = folder();
    store.put("probe/0123", Bytes::from_static(b"first")).await.unwrap();
    store.probe().await.unwrap();
    assert!(store.exists("probe/0123").await.unwrap(), "somebody may be at it");
    let hours = std::time::SystemTime::now() - Duration::from_secs(7200);
    let file = folder.path().join("a run/probe/0123");
    std::fs::File::options().write(true).open(file).unwrap().set_modified(hours).unwrap();
    store.probe().await.unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}
