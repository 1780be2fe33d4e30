//! Whole data sets in a folder, and everything that can be wrong with one.

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;

use super::index::{Contents, Defect, Index, NamesEntry, Record, Shard, seal};
use super::*;
use crate::image::Rgb8;
use crate::store::Store;

fn store(folder: &TempDir) -> Store {
    Store::open(&format!("file://{}", folder.path().display())).unwrap()
}

fn classes() -> Vec<String> {
    vec!["apple".to_owned(), "pear".to_owned(), "plum".to_owned()]
}

/// Stands for a picture's bytes; the pack looks into none.
fn content(split: Split, number: u64) -> Vec<u8> {
    let length = 20 + (number * 37 % 60) as usize;
    (0..length).map(|at| (at as u64 * 7 + number * 13 + split as u64 * 101) as u8).collect()
}

const COUNTS: [(Split, u64); 2] = [(Split::Train, 23), (Split::Validation, 9)];

async fn write(folder: &TempDir) -> Packed {
    let mut writer = PackWriter::start(store(folder), Sizes { shard: 300 }).await.unwrap();
    for (split, count) in COUNTS {
        for number in 0..count {
            let name = format!("{number}.jpg");
            let content = content(split, number);
            writer.append(split, (number % 3) as u16, &name, &content).await.unwrap();
        }
    }
    writer.finish(&classes(), &PixelStatistics::default().summary()).await.unwrap()
}

#[tokio::test]
async fn what_was_packed_is_read_back_in_any_order_over_many_shards() {
    let folder = TempDir::new().unwrap();
    let packed = write(&folder).await;
    assert!(packed.shards > 3);
    let dataset = Dataset::open(store(&folder)).await.unwrap();
    assert_eq!(dataset.identity(), packed.identity);
    assert_eq!(dataset.classes(), classes());
    assert_eq!(dataset.mean_image().len(), 3 * 256 * 256);
    for (split, count) in COUNTS {
        assert_eq!(dataset.len(split), count);
        let mut indices: Vec<u64> = (0..count).map(|at| at * 5 % count).collect();
        indices.push(0);
        // On a task of its own, as a worker's pipeline has it.
        let (reader, wanted) = (dataset.clone(), indices.clone());
        let read = tokio::spawn(async move { reader.read(split, &wanted).await });
        for (encoded, &index) in read.await.unwrap().unwrap().iter().zip(&indices) {
            assert_eq!(encoded.bytes, content(split, index), "{split:?} {index}");
            assert_eq!(encoded.label, (index % 3) as u16);
            assert_eq!(dataset.label(split, index), encoded.label);
        }
    }
    for shard in 0..packed.shards {
        dataset.verify_shard(shard).await.unwrap();
    }
    let name = dataset.name(Split::Validation, 4).await.unwrap();
    assert_eq!(name, "val/pear/4.jpg");
}

#[tokio::test]
async fn the_first_images_of_the_shards_cut_each_split_as_the_shards_do() {
    let folder = TempDir::new().unwrap();
    let packed = write(&folder).await;
    let dataset = Dataset::open(store(&folder)).await.unwrap();
    let (train, validation) =
        (dataset.shard_starts(Split::Train), dataset.shard_starts(Split::Validation));
    for (starts, (split, count)) in [(&train, COUNTS[0]), (&validation, COUNTS[1])] {
        assert_eq!(starts[0], 0, "{split:?}");
        assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:?}");
        assert!(*starts.last().unwrap() < count, "{starts:?}");
    }
    // No shard holds pictures of both splits.
    assert_eq!(train.len() + validation.len(), packed.shards);
    // A shard holds what its size says: a cut elsewhere would put bytes into another one.
    for (number, start) in train.iter().enumerate() {
        let end = train.get(number + 1).copied().unwrap_or(23);
        let bytes: usize = (*start..end).map(|it| content(Split::Train, it).len()).sum();
        let stored = std::fs::metadata(folder.path().join(shard_path(number))).unwrap().len();
        assert_eq!(stored, 16 + bytes as u64, "shard {number}");
    }
}

#[tokio::test]
async fn the_same_images_make_the_same_bytes_and_one_changed_byte_another_digest() {
    let (a, b) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let digest = write(&a).await.identity.digest;
    assert_eq!(write(&b).await.identity.digest, digest);
    let other = TempDir::new().unwrap();
    let mut writer = PackWriter::start(store(&other), Sizes::default()).await.unwrap();
    writer.append(Split::Train, 0, "a.jpg", b"other").await.unwrap();
    let summary = PixelStatistics::default().summary();
    let packed = writer.finish(&classes(), &summary).await.unwrap();
    assert_ne!(packed.identity.digest, digest);
}

#[tokio::test]
async fn an_image_beyond_the_end_is_refused() {
    let folder = TempDir::new().unwrap();
    write(&folder).await;
    let dataset = Dataset::open(store(&folder)).await.unwrap();
    for index in [9, 23, u64::MAX] {
        let outcome = dataset.read(Split::Validation, &[0, index]).await;
        assert!(matches!(outcome, Err(DatasetError::NoSuchImage { len: 9, .. })));
    }
}

#[tokio::test]
async fn a_place_without_an_index_is_no_data_set_and_says_if_a_packing_was_broken_off() {
    let folder = TempDir::new().unwrap();
    let outcome = Dataset::open(store(&folder)).await;
    assert!(matches!(outcome, Err(DatasetError::Missing { unfinished: false, .. })));
    write(&folder).await;
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    let outcome = Dataset::open(store(&folder)).await;
    assert!(matches!(outcome, Err(DatasetError::Missing { unfinished: true, .. })));
    // The next packing clears the remains away, and nothing else.
    let stranger = folder.path().join(SHARDS).join("notes.txt");
    std::fs::write(&stranger, "mine").unwrap();
    drop(PackWriter::start(store(&folder), Sizes::default()).await.unwrap());
    assert!(stranger.exists() && !folder.path().join(shard_path(0)).exists());
}

const PLAN: &str = "a plan";

/// Packs as [`write`] does, with shards of four pictures and a note in each; `stop` shards after
/// the beginning it is broken off. Returns the notes that it was given, and what came of it.
async fn write_on(folder: &TempDir, stop: usize) -> (Vec<Vec<u8>>, Option<Packed>) {
    let sizes = Sizes { shard: 10_000 };
    let (mut writer, notes) =
        PackWriter::resume(store(folder), sizes, Encoding::Original, PLAN, false).await.unwrap();
    let mut left = stop;
    let mut taken = 0;
    for (split, count) in COUNTS {
        for number in 0..count {
            taken += 1;
            if taken <= writer.images() {
                continue;
            }
            if number % 4 == 0 && taken > 1 && writer.must_close(split, 10_000) {
                writer.close(taken.to_string().into_bytes()).await.unwrap();
                left -= 1;
                if left == 0 {
                    writer.settle().await.unwrap();
                    return (notes, None);
                }
            }
            let name = format!("{number}.jpg");
            writer.push(split, (number % 3) as u16, &name, &content(split, number)).unwrap();
            if split == Split::Train {
                let mut sums = PixelSums::default();
                sums.add(&[number as u8; RAW_BYTES]);
                writer.add_sums(&sums);
            }
        }
    }
    assert_eq!(writer.counts(Split::Train), [8, 8, 7]);
    assert_eq!(writer.counts(Split::Validation), [3, 3, 3]);
    let class = |key: &str, title: &str| Class { key: key.to_owned(), title: title.to_owned() };
    let classes = [class("a", "apple"), class("b", ""), class("c", "plum")];
    (notes, Some(writer.finish_as(&classes, &[2, 0, 1], Vec::new()).await.unwrap()))
}

fn files(folder: &TempDir) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder.path()).unwrap().display().to_string();
                files.push((name, std::fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn a_packing_that_was_broken_off_is_gone_on_with_and_gives_the_same_bytes() {
    let whole = TempDir::new().unwrap();
    let (notes, packed) = write_on(&whole, usize::MAX).await;
    assert!(notes.is_empty());
    let dataset = Dataset::open(store(&whole)).await.unwrap();
    assert_eq!(dataset.identity(), packed.unwrap().identity);
    assert_eq!(dataset.classes(), ["a apple", "b", "c plum"]);
    assert_eq!(dataset.encoding(), Encoding::Original);
    assert_eq!(dataset.label(Split::Train, 1), 0, "labels are exchanged at the end");
    assert_eq!(dataset.mean_image()[5], 11.0);
    let folder = TempDir::new().unwrap();
    assert!(write_on(&folder, 2).await.1.is_none());
    assert!(write_on(&folder, 3).await.1.is_none());
    // A page without its shard, and whatever comes behind it, counts for nothing.
    std::fs::remove_file(folder.path().join(shard_path(4))).unwrap();
    let (notes, packed) = write_on(&folder, usize::MAX).await;
    assert_eq!(notes, [b"5".to_vec(), b"9".to_vec(), b"13".to_vec(), b"17".to_vec()]);
    assert!(packed.is_some());
    assert!(files(&folder) == files(&whole), "no page is left, and all bytes are the same");
}

#[tokio::test]
async fn a_plan_without_a_finished_shard_stays_and_the_shards_behind_it_are_kept() {
    let folder = TempDir::new().unwrap();
    let begin = || {
        let (store, sizes) = (store(&folder), Sizes { shard: 10_000 });
        PackWriter::resume(store, sizes, Encoding::Original, PLAN, false)
    };
    drop(begin().await.unwrap());
    let outcome = Dataset::open(store(&folder)).await;
    assert!(matches!(outcome, Err(DatasetError::Missing { unfinished: true, .. })));
    let plan = folder.path().join("unfinished/plan");
    assert!(plan.exists());
    assert!(write_on(&folder, 1).await.0.is_empty());
    assert!(plan.exists(), "a later attempt has nothing to compare with");
    let (writer, notes) = begin().await.unwrap();
    assert_eq!((writer.images(), notes.len()), (4, 1));
    assert!(folder.path().join(shard_path(0)).exists());
}

#[tokio::test]
async fn what_another_plan_began_is_kept_until_a_restart_is_asked_for() {
    let folder = TempDir::new().unwrap();
    write_on(&folder, 2).await;
    let resume = |restart| {
        let (store, sizes) = (store(&folder), Sizes::default());
        PackWriter::resume(store, sizes, Encoding::Original, "another plan", restart)
    };
    let Err(DatasetError::OtherPacking { held, .. }) = resume(false).await else {
        panic!("was taken up")
    };
    assert_eq!(held, PLAN);
    assert!(folder.path().join(shard_path(1)).exists());
    let (writer, notes) = resume(true).await.unwrap();
    assert_eq!((writer.images(), notes.len()), (0, 0));
    assert!(!folder.path().join(shard_path(1)).exists());
}

/// Begins with a plan, and pushes so many pictures, each for a shard of its own.
async fn begun(folder: &TempDir, pictures: u64, restart: bool) -> PackWriter {
    let (store, sizes) = (store(folder), Sizes { shard: 100 });
    let (mut writer, _) =
        PackWriter::resume(store, sizes, Encoding::Original, PLAN, restart).await.unwrap();
    for number in writer.images()..pictures {
        writer.append(Split::Train, 0, "a.jpg", &[number as u8; 90]).await.unwrap();
    }
    writer
}

fn one_class() -> [Class; 1] {
    [Class { key: "a".to_owned(), title: String::new() }]
}

#[tokio::test]
async fn a_packing_whose_place_another_one_takes_ends_and_leaves_all_to_that_one() {
    for restart in [false, true] {
        let folder = TempDir::new().unwrap();
        let mut first = begun(&folder, 3, false).await;
        first.settle().await.unwrap();
        let second = begun(&folder, 2, restart).await;
        first.close(Vec::new()).await.unwrap();
        let page = folder.path().join("unfinished/00002.bin");
        assert!(matches!(first.settle().await, Err(DatasetError::TakenOver { .. })));
        assert!(!page.exists(), "restart {restart}");
        let outcome = first.finish_as(&one_class(), &[0], Vec::new()).await;
        let Err(error) = outcome else { panic!("was taken for a data set") };
        assert!(crate::failure::Explain::hint(&error).unwrap().contains("two destinations"));
        assert!(!folder.path().join(INDEX).exists());
        second.finish_as(&one_class(), &[0], Vec::new()).await.unwrap();
        let dataset = Dataset::open(store(&folder)).await.unwrap();
        assert_eq!(dataset.len(Split::Train), 2);
        for shard in 0..2 {
            dataset.verify_shard(shard).await.unwrap();
        }
        assert!(!folder.path().join("unfinished/owner").exists());
    }
}

#[tokio::test]
async fn shards_that_were_changed_behind_the_writers_back_get_no_index() {
    for (damage, said) in [(None, "it is not there"), (Some(&b"short"[..]), "has 5 bytes")] {
        let folder = TempDir::new().unwrap();
        let mut writer = begun(&folder, 3, false).await;
        writer.settle().await.unwrap();
        let path = folder.path().join(shard_path(1));
        match damage {
            None => std::fs::remove_file(&path).unwrap(),
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
        }
        let outcome = writer.finish_as(&one_class(), &[0], Vec::new()).await;
        let Err(error) = outcome else { panic!("was taken for a data set") };
        assert!(error.to_string().contains(said), "{error}");
        assert!(!folder.path().join(INDEX).exists());
        let again = begun(&folder, 3, false).await;
        again.finish_as(&one_class(), &[0], Vec::new()).await.unwrap();
        Dataset::open(store(&folder)).await.unwrap();
    }
}

#[tokio::test]
async fn a_place_with_a_data_set_is_not_packed_into() {
    let folder = TempDir::new().unwrap();
    write(&folder).await;
    let outcome = PackWriter::start(store(&folder), Sizes::default()).await;
    assert!(matches!(outcome, Err(DatasetError::Occupied { .. })));
}

#[tokio::test]
async fn a_shard_that_is_missing_or_of_another_size_is_named_at_opening() {
    let folder = TempDir::new().unwrap();
    write(&folder).await;
    let path = folder.path().join(shard_path(2));
    let whole = std::fs::read(&path).unwrap();
    for damage in [None, Some(&whole[..whole.len() - 1])] {
        match damage {
            None => std::fs::remove_file(&path).unwrap(),
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
        }
        let Err(error) = Dataset::open(store(&folder)).await else { panic!("was taken") };
        assert!(matches!(error, DatasetError::ShardMismatch { .. }));
        assert!(error.to_string().contains("shards/00002.convoy"), "{error}");
    }
}

#[tokio::test]
async fn an_altered_image_is_named_when_it_is_read_and_others_still_come() {
    let folder = TempDir::new().unwrap();
    write(&folder).await;
    let path = folder.path().join(shard_path(0));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let dataset = Dataset::open(store(&folder)).await.unwrap();
    let error = dataset.read(Split::Train, &[5, 0]).await.unwrap_err();
    assert!(matches!(error, DatasetError::AlteredImage { .. }));
    assert!(error.to_string().contains("train/apple/0.jpg"), "{error}");
    assert_eq!(dataset.read(Split::Train, &[5]).await.unwrap().len(), 1);
    let error = dataset.verify_shard(0).await.unwrap_err();
    assert!(error.to_string().contains("shards/00000.convoy"), "{error}");
}

#[tokio::test]
async fn an_index_of_another_version_or_cut_or_altered_is_refused() {
    let folder = TempDir::new().unwrap();
    write(&folder).await;
    let path = folder.path().join(INDEX);
    let whole = std::fs::read(&path).unwrap();
    let mut newer = whole.clone();
    newer[8] = 9;
    std::fs::write(&path, &newer).unwrap();
    let outcome = Dataset::open(store(&folder)).await;
    assert!(matches!(outcome, Err(DatasetError::Version { found: 9, expected: 2, .. })));
    let mut altered = whole.clone();
    altered[60] ^= 4;
    for bad in [&whole[..whole.len() / 2], &whole[..3], b"", &altered] {
        std::fs::write(&path, bad).unwrap();
        let outcome = Dataset::open(store(&folder)).await;
        assert!(matches!(outcome, Err(DatasetError::BadIndex { .. })), "{} bytes", bad.len());
    }
}

#[tokio::test]
async fn what_the_format_cannot_hold_is_refused_by_the_writer() {
    let folder = TempDir::new().unwrap();
    let start = || PackWriter::start(store(&folder), Sizes::default());
    let summary = PixelStatistics::default().summary();
    let mut writer = start().await.unwrap();
    assert!(writer.append(Split::Train, 0, "empty.jpg", b"").await.is_err());
    writer.append(Split::Validation, 0, "a.jpg", b"a").await.unwrap();
    assert!(writer.append(Split::Train, 0, "late.jpg", b"b").await.is_err());
    assert!(writer.finish(&classes(), &summary).await.is_err(), "nothing to train on");
    let mut writer = start().await.unwrap();
    writer.append(Split::Train, 3, "a.jpg", b"a").await.unwrap();
    assert!(writer.finish(&classes(), &summary).await.is_err(), "a label without a class");
    assert!(!folder.path().join(INDEX).exists());
}

/// An index as the writer makes it, small but for the mean image.
fn index_bytes() -> Vec<u8> {
    let record = |offset, label| Record { offset, length: 10, label, crc32c: 7 };
    let class = |key| Class { key, title: String::new() };
    Contents {
        encoding: Encoding::Jpeg256,
        classes: &classes().into_iter().map(class).collect::<Vec<_>>(),
        shards: &[
            Shard { bytes: 36, first: 0, hash: [1; 32] },
            Shard { bytes: 26, first: 2, hash: [2; 32] },
        ],
        train: 2,
        records: &[record(16, 0), record(26, 2), record(16, 1)],
        names: &NamesEntry { bytes: 3, hash: [3; 32] },
        pixels: &PixelStatistics::default().summary(),
    }
    .encode()
}

/// Bytes before the mean image, where an index can lie about itself.
const TELLING: usize = 84 + 3 * 4 + 13 + 2 * 48 + 3 * 18;

fn resealed(mut bytes: Vec<u8>) -> Bytes {
    bytes.truncate(bytes.len() - 32);
    seal(&mut bytes);
    Bytes::from(bytes)
}

#[test]
fn an_index_whose_hash_is_right_but_whose_images_lie_elsewhere_is_refused() {
    assert!(Index::decode(&resealed(index_bytes())).is_ok());
    let records = TELLING - 3 * 18;
    let lies = [
        (16, 1, true),       // originals may have any size,
        (16, 2, false),      // raw pixels not,
        (16, 3, false),      // and nobody knows a fourth encoding
        (86, b'z', false),   // classes out of order
        (records, 0, false), // within the shard's header
        (records + 8, 200, false),
        (records + 12, 9, false),
        (records + 18, 17, false),
    ];
    for (place, value, holds) in lies {
        let mut bytes = index_bytes();
        bytes[place] = value;
        match Index::decode(&resealed(bytes)) {
            Ok(_) => assert!(holds, "byte {place}"),
            Err(defect) => assert!(!holds && matches!(defect, Defect::Detail(_)), "byte {place}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The hash at the end is made to fit again, so that only the parser stands in the way.
    #[test]
    fn a_lying_index_gives_an_error_or_keeps_what_an_index_promises(
        flips in prop::collection::vec((0..TELLING, any::<u8>()), 1..5),
        cut in prop::option::of(0..TELLING),
    ) {
        let mut bytes = index_bytes();
        for (place, value) in flips {
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut + 32);
        }
        if let Ok(index) = Index::decode(&resealed(bytes)) {
            for image in 0..index.images() {
                let record = index.record(image).unwrap();
                let shard = &index.shards[index.shard_of(image)];
                prop_assert!(record.offset + u64::from(record.length) <= shard.bytes);
                prop_assert!(usize::from(record.label) < index.classes.len());
            }
            prop_assert!(index.record(index.images()).is_none());
        }
    }

    #[test]
    fn any_flipped_byte_of_an_index_is_noticed(place: prop::sample::Index, flip in 1_u8..) {
        let mut bytes = index_bytes();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        prop_assert!(Index::decode(&Bytes::from(bytes)).is_err());
    }
}

#[test]
fn statistics_are_the_mean_and_the_covariance_and_do_not_depend_on_who_sums_what() {
    let picture = |red: u8, green: u8| {
        let pixels = [red, green, 10].repeat(256 * 256);
        Rgb8::new(256, 256, pixels).unwrap()
    };
    let pictures = [picture(0, 200), picture(100, 100), picture(200, 0), picture(100, 100)];
    let mut all = PixelStatistics::default();
    pictures.iter().for_each(|picture| all.add(picture));
    let (mut left, mut right) = (PixelStatistics::default(), PixelStatistics::default());
    left.add(&pictures[3]);
    pictures[..3].iter().rev().for_each(|picture| right.add(picture));
    left.merge(&right);
    assert_eq!(left, all);
    let summary = all.summary();
    let place = 256 * 256;
    assert_eq!((summary.mean_image[0], summary.mean_image[place]), (100.0, 100.0));
    assert_eq!(summary.mean_image[2 * place + 5], 10.0);
    // Red is 0, 100, 200, 100: variance 5000; green moves against it; blue is still.
    let expected = [5000.0, -5000.0, 0.0, -5000.0, 5000.0, 0.0, 0.0, 0.0, 0.0];
    for (value, expected) in summary.covariance.iter().zip(expected) {
        assert!((value - expected).abs() < 1e-6, "{value} for {expected}");
    }
}
