//! Reads from a store that misbehaves: what can be recovered is, nothing hangs, no byte is wrong.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/faulty.rs"]
mod faulty;
mod support;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use convoy_common::dataset::{Dataset, DatasetError, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::exit;
use convoy_common::failure::Explain as _;
use convoy_common::store::{Store, StoreError};
use faulty::{Mishap, Proxy};
use support::{BUCKET, S3, settings};

/// For one read with all its tries.
const WITHIN: Duration = Duration::from_millis(1600);

/// An object of so many bytes, which differ from place to place.
const SIZE: usize = 300_000;

fn content() -> Bytes {
    (0..SIZE).map(|at| (at * 7 + at / 251) as u8).collect()
}

/// A server with the object in it, the proxy before it, and the store seen through the proxy.
async fn faulty() -> (S3, Proxy, Store) {
    let server = S3::start().await;
    server.store("x").put("object", content()).await.unwrap();
    let proxy = Proxy::start(&server.endpoint).await;
    let store =
        Store::open_with(&format!("s3://{BUCKET}/x"), &settings(&proxy.endpoint, "test-secret"));
    (server, proxy, store.unwrap())
}

const ALL: [Mishap; 9] = [
    Mishap::Status(500),
    Mishap::Status(503),
    Mishap::Status(429),
    Mishap::Refuse,
    Mishap::CutAfter(1000),
    Mishap::StallAfter(usize::MAX),
    Mishap::StallAfter(70_000),
    Mishap::Short,
    Mishap::Drip(100),
];

#[tokio::test]
async fn a_mishap_that_passes_is_overcome_within_the_time_and_the_bytes_are_right() {
    let (_server, proxy, store) = faulty().await;
    for mishap in ALL {
        for times in [1, 2] {
            proxy.plan(move |asked| (asked.number < times).then_some(mishap));
            let begin = Instant::now();
            let bytes = store.read_range("object", 100..200_100, WITHIN).await;
            assert_eq!(bytes.unwrap(), content().slice(100..200_100), "{mishap:?}");
            assert!(begin.elapsed() < WITHIN, "{mishap:?}: {:?}", begin.elapsed());
            assert_eq!(proxy.asked().len(), times + 1, "{mishap:?}");
        }
    }
}

#[tokio::test]
async fn a_mishap_that_stays_is_given_up_in_time_with_the_object_the_tries_and_a_hint() {
    let (_server, proxy, store) = faulty().await;
    let within = WITHIN / 2;
    for mishap in ALL {
        proxy.plan(move |_| Some(mishap));
        let begin = Instant::now();
        let error = store.read_range("object", 0..SIZE as u64, within).await.unwrap_err();
        let took = begin.elapsed();
        assert!(took < 2 * within, "{mishap:?}: {took:?}");
        let StoreError::GaveUp { tries, ref source, .. } = error else {
            panic!("{mishap:?}: {error:?}")
        };
        assert!(tries >= 2 && tries as usize == proxy.asked().len(), "{mishap:?}: {tries}");
        let text = error.to_string();
        assert!(text.contains("s3://convoy/x/object") && text.contains("tries in"), "{text}");
        assert!(!source.to_string().is_empty());
        assert!(error.hint().unwrap().contains("data.read_timeout"));
        assert_eq!(error.exit_code(), exit::UNAVAILABLE);
    }
}

#[tokio::test]
async fn what_another_try_cannot_mend_is_told_at_once() {
    let (_server, proxy, store) = faulty().await;
    let error = store.read_range("absent", 0..10, WITHIN).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    assert_eq!(proxy.asked().len(), 1);
    for (status, meaning) in [(403, "denied"), (400, "cannot read"), (416, "cannot read")] {
        proxy.plan(move |_| Some(Mishap::Status(status)));
        let error = store.read_range("object", 0..10, WITHIN).await.unwrap_err();
        assert!(error.to_string().contains(meaning), "{status}: {error:?}");
        assert_eq!(proxy.asked().len(), 1, "{status}");
    }
    proxy.plan(|_| None);
    // Beyond the end there is nothing to wait for.
    let begin = Instant::now();
    assert!(store.read_range("object", SIZE as u64 - 5..SIZE as u64 + 5, WITHIN).await.is_err());
    assert!(begin.elapsed() < WITHIN);
    // A server that knows no ranges.
    proxy.plan(|_| Some(Mishap::Whole));
    let error = store.read_range("object", 5..10, WITHIN).await.unwrap_err();
    assert!(matches!(error, StoreError::GaveUp { tries: 3, .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_listening_is_given_up_in_time() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let store = Store::open_with(&format!("s3://{BUCKET}/x"), &settings(&endpoint, "s")).unwrap();
    let begin = Instant::now();
    let error = store.read_range("object", 0..10, WITHIN / 4).await.unwrap_err();
    assert!(matches!(error, StoreError::GaveUp { .. }), "{error:?}");
    assert!(begin.elapsed() < WITHIN, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn near_ranges_are_one_request_and_come_in_the_order_asked_for() {
    let (_server, proxy, store) = faulty().await;
    let ranges = [5000..9000, 100..200, 299_000..300_000, 150..160, 7..7];
    let found = store.read_ranges("object", &ranges, WITHIN).await.unwrap();
    for (bytes, range) in found.iter().zip(&ranges) {
        assert_eq!(*bytes, content().slice(range.start as usize..range.end as usize));
    }
    assert_eq!(
        proxy.asked().iter().map(|it| it.range).collect::<Vec<_>>(),
        [Some((100, 9000)), Some((299_000, 300_000))]
    );
}

/// A data set of `COUNT` images in four shards or so.
const COUNT: u64 = 40;

fn image(number: u64) -> Vec<u8> {
    (0..3000 + number * 13).map(|at| (at * 11 + number * 29 + at / 256) as u8).collect()
}

async fn pack(store: Store) {
    let mut writer = PackWriter::start(store, Sizes { shard: 40_000 }).await.unwrap();
    for number in 0..COUNT {
        let name = format!("{number}.jpg");
        writer.append(Split::Train, 0, &name, &image(number)).await.unwrap();
    }
    writer.finish(&["only".to_owned()], &PixelStatistics::default().summary()).await.unwrap();
}

#[tokio::test]
async fn a_data_set_is_read_through_mishaps_of_every_kind_at_once() {
    let (server, proxy, store) = faulty().await;
    pack(server.store("x/data")).await;
    let dataset = Dataset::open(store.within("data")).await.unwrap().with_read_timeout(WITHIN * 4);
    // Of each range every second answer goes wrong, each time in another way.
    let good = Mutex::new(HashMap::new());
    proxy.plan(move |asked| {
        let kinds = [&ALL[..5], &ALL[7..8], &[Mishap::Flip]].concat();
        let mut good = good.lock().unwrap();
        let is_good = good.entry((asked.path.clone(), asked.range)).or_insert(true);
        *is_good = !*is_good;
        (!*is_good).then(|| kinds[asked.number % kinds.len()])
    });
    for turn in 0..4 {
        let wanted: Vec<u64> = (0..COUNT).map(|at| (at * 7 + turn) % COUNT).collect();
        let images = dataset.read(Split::Train, &wanted).await.unwrap();
        for (encoded, number) in images.iter().zip(wanted) {
            assert_eq!(encoded.bytes, image(number), "{number}");
        }
    }
    for shard in 0..dataset.shards() {
        // A bit that flips on the way shows in the hash of the whole shard.
        match dataset.verify_shard(shard).await {
            Ok(()) => {}
            Err(error) => assert!(error.to_string().contains("its hash differs"), "{error}"),
        }
    }
    assert!(proxy.asked().len() > 20);
}

#[tokio::test]
async fn an_image_that_stays_altered_is_named_with_its_shard_after_three_readings() {
    let (server, proxy, store) = faulty().await;
    pack(server.store("x/data")).await;
    let dataset = Dataset::open(store.within("data")).await.unwrap().with_read_timeout(WITHIN);
    proxy.plan(|asked| asked.path.contains("00001").then_some(Mishap::Flip));
    let last = COUNT - 1;
    assert_eq!(dataset.read(Split::Train, &[last]).await.unwrap()[0].bytes, image(last));
    let begin = Instant::now();
    let error = dataset.read(Split::Train, &[0, 13, last]).await.unwrap_err();
    assert!(matches!(error, DatasetError::AlteredImage { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("shards/00001.convoy") && text.contains("train/only/13.jpg"), "{text}");
    assert!(begin.elapsed() < WITHIN);
    let flipped = proxy.asked().iter().filter(|it| it.path.contains("00001")).count();
    assert_eq!(flipped, 3);
}
