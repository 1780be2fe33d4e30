//! Opening a run: what is fixed, what may change, and what a damaged record says.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use convoy_common::config::{CacheFolder, Decay, RunConfig, Shuffle};
use convoy_common::failure::{Explain as _, Failure};
use convoy_common::run_record::{self, Opening, RecordError};
use convoy_common::store::Store;
use support::{S3, config, dataset, folder};

async fn open(store: &Store, config: &RunConfig, mode: Opening) -> Result<String, RecordError> {
    run_record::open_or_create(store, config, &dataset(), mode).await.map(|it| it.run_id)
}

#[tokio::test]
async fn opened_again_it_is_the_same_run() {
    let (_folder, store) = folder();
    let first = open(&store, &config(), Opening::Resume).await.unwrap();
    assert_eq!(first.len(), 16);
    assert_eq!(open(&store, &config(), Opening::Resume).await.unwrap(), first);
    let record = run_record::read(&store).await.unwrap();
    assert_eq!(record.config, config());
    assert_eq!(record.digest(), run_record::read(&store).await.unwrap().digest());
}

#[tokio::test]
async fn settings_that_leave_the_bits_alone_may_change() {
    let (_folder, store) = folder();
    let first = open(&store, &config(), Opening::Resume).await.unwrap();
    let mut other = config();
    other.run.url = "s3://elsewhere/run".to_owned();
    other.data.url = "s3://elsewhere/data".to_owned();
    other.data.prefetch = 9;
    other.data.cache = CacheFolder::Off;
    other.data.cache_size = 1 << 20;
    other.data.read_timeout = Duration::from_secs(7);
    other.cluster.workers = 5;
    other.log.every_steps = 1;
    other.checkpoint.keep_last = 1;
    other.evaluation.every_epochs = 2;
    other.train.epochs = 200;
    other.train.max_steps = Some(9);
    assert_eq!(open(&store, &other, Opening::Resume).await.unwrap(), first);
}

#[tokio::test]
async fn every_forbidden_change_is_in_the_diff() {
    let (_folder, store) = folder();
    open(&store, &config(), Opening::Resume).await.unwrap();
    let mut other = config();
    other.run.seed = 8;
    other.model.groups = 1;
    other.data.shuffle = Shuffle::Window;
    other.data.shuffle_window = 5;
    other.train.batch = 256;
    other.train.lr = 0.02;
    other.numerics.microbatch = 16;
    other.schedule = Decay::Constant.into();
    other.cluster.workers = 5;
    let mut data = dataset();
    data.digest = "d2".to_owned();
    let error =
        run_record::open_or_create(&store, &other, &data, Opening::Resume).await.unwrap_err();
    let text = Failure::from(error).to_string();
    for line in [
        "data.shuffle: was \"full\", now \"window\"",
        "data.shuffle_window: was 16, now 5",
        "dataset.digest: was \"d1\", now \"d2\"",
        "model.groups: was 2, now 1",
        "numerics.microbatch: was 32, now 16",
        "run.seed: was 7, now 8",
        "schedule.kind: was \"steps\", now \"constant\"",
        "schedule.drops: was [{\"epoch\":30,\"factor\":0.1}], now unset",
        "train.batch: was 128, now 256",
        "train.lr: was 0.01, now 0.02",
    ] {
        assert!(text.contains(&format!("\n  {line}\n")), "{line} is not in\n{text}");
    }
    assert!(!text.contains("cluster"), "{text}");
    assert!(text.contains("hint: set them back"), "{text}");
}

#[tokio::test]
async fn a_shuffle_that_is_left_open_is_the_recorded_one() {
    for recorded in [Shuffle::Full, Shuffle::Window] {
        let (_folder, store) = folder();
        let mut config = config();
        config.data.shuffle = recorded;
        let first = open(&store, &config, Opening::Resume).await.unwrap();
        config.data.shuffle = Shuffle::Auto;
        assert_eq!(open(&store, &config, Opening::Resume).await.unwrap(), first);
        assert_eq!(run_record::read(&store).await.unwrap().config.data.shuffle, recorded);
    }
}

#[tokio::test]
async fn a_record_says_how_images_are_shuffled_even_where_the_config_does_not() {
    let (_folder, store) = folder();
    let mut config = config();
    config.data.shuffle = Shuffle::Auto;
    open(&store, &config, Opening::Fresh).await.unwrap();
    assert_eq!(run_record::read(&store).await.unwrap().config.data.shuffle, Shuffle::Full);
}

#[tokio::test]
async fn images_are_shuffled_within_a_window_where_the_cache_cannot_hold_the_data_set() {
    let s3 = S3::start().await;
    let data = s3.store("data");
    for shard in ["shards/00000.convoy", "shards/00001.convoy"] {
        data.put(shard, Bytes::from(vec![7; 3000])).await.unwrap();
    }
    let mut wanted = config().data;
    wanted.shuffle = Shuffle::Auto;
    wanted.cache = CacheFolder::Auto;
    for (cache_size, shuffle) in [(6000, Shuffle::Full), (5999, Shuffle::Window)] {
        wanted.cache_size = cache_size;
        let decision = run_record::decide_shuffle(&wanted, &data).await.unwrap();
        assert_eq!((decision.shuffle, decision.data_bytes), (shuffle, Some(6000)));
    }
    // What the user says counts, and without a cache there is nothing to keep small.
    wanted.cache = CacheFolder::Off;
    let decision = run_record::decide_shuffle(&wanted, &data).await.unwrap();
    assert_eq!(decision.shuffle, Shuffle::Full, "{}", decision.reason);
    wanted.shuffle = Shuffle::Window;
    let (_folder, folder) = folder();
    let decision = run_record::decide_shuffle(&wanted, &folder).await.unwrap();
    assert_eq!(decision.shuffle, Shuffle::Window);
    wanted.shuffle = Shuffle::Auto;
    let decision = run_record::decide_shuffle(&wanted, &folder).await.unwrap();
    assert_eq!(decision.shuffle, Shuffle::Full, "{}", decision.reason);
}

#[tokio::test]
async fn under_plateau_the_cadence_of_evaluation_is_part_of_the_run() {
    let (_folder, store) = folder();
    let mut config = config();
    config.schedule =
        Decay::Plateau { min_delta: 1, patience: 3, divide_by: 10.0, max_drops: 3 }.into();
    open(&store, &config, Opening::Resume).await.unwrap();
    config.evaluation.every_epochs = 2;
    let error = open(&store, &config, Opening::Resume).await.unwrap_err();
    assert!(error.to_string().contains("evaluation.every_epochs: was 1, now 2"), "{error}");
}

#[tokio::test]
async fn a_curve_that_ends_with_the_run_fixes_where_the_run_ends() {
    for decay in [Decay::Cosine { end_lr: 0.0 }, Decay::Polynomial { power: 2.0, end_lr: 0.0 }] {
        let (_folder, store) = folder();
        let mut config = config();
        config.schedule = decay.into();
        open(&store, &config, Opening::Resume).await.unwrap();
        let mut other = config.clone();
        other.evaluation.every_epochs = 2;
        assert!(open(&store, &other, Opening::Resume).await.is_ok());
        other.train.epochs += 1;
        other.train.max_steps = Some(9);
        other.schedule.warmup_epochs = 5;
        let error = open(&store, &other, Opening::Resume).await.unwrap_err().to_string();
        for line in [
            "train.epochs: was 90, now 91",
            "train.max_steps: was unset, now 9",
            "schedule.warmup_epochs: was 0, now 5",
        ] {
            assert!(error.contains(line), "{line} is not in\n{error}");
        }
        assert!(!error.contains("evaluation"), "{error}");
    }
}

#[tokio::test]
async fn a_fresh_run_does_not_overwrite_one() {
    let (_folder, store) = folder();
    open(&store, &config(), Opening::Fresh).await.unwrap();
    let error = open(&store, &config(), Opening::Fresh).await.unwrap_err();
    assert!(matches!(error, RecordError::AlreadyThere { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--fresh"));
    store.put("run.json", Bytes::from_static(b"?")).await.unwrap();
    let error = open(&store, &config(), Opening::Fresh).await.unwrap_err();
    assert!(matches!(error, RecordError::AlreadyThere { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_record_and_one_of_another_format_are_told_apart() {
    let (_folder, store) = folder();
    for text in ["", "{", "[]", "{\"format\": 1}"] {
        store.put("run.json", Bytes::from(text)).await.unwrap();
        let error = open(&store, &config(), Opening::Resume).await.unwrap_err();
        assert!(matches!(error, RecordError::Damaged { .. }), "{text}: {error}");
        assert!(error.to_string().contains("run.json is damaged"), "{error}");
    }
    store.put("run.json", Bytes::from_static(b"{\"format\": 9}")).await.unwrap();
    let error = open(&store, &config(), Opening::Resume).await.unwrap_err();
    assert!(error.to_string().contains("has format 9"), "{error}");
}

#[tokio::test]
async fn of_many_that_open_a_new_run_at_once_all_get_the_same_one() {
    let (_folder, store) = folder();
    let openers = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { open(&store, &config(), Opening::Resume).await.unwrap() })
    });
    let mut ids: Vec<String> =
        futures::future::join_all(openers).await.into_iter().map(|it| it.unwrap()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
}
