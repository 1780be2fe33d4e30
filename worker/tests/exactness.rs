//! The promise: the same bits of weights and momentum on any cluster.
//!
//! Every comparison is one of digests of the whole state, after each step. What differs between
//! numerics (exchange of the head, blocks, reduction of what cannot depend on ranks) is a variant,
//! and each variant has bits of its own, which must be the same for any number of ranks and lanes.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "../../common/tests/support/mod.rs"]
mod remote;
#[expect(dead_code, reason = "the other tests use the rest")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use convoy_common::cache::CachedDataset;
use convoy_common::checkpoint::Manifest;
use convoy_common::config::CacheFolder;
use convoy_common::dataset::{Dataset, PackWriter, PixelStatistics, Sizes, Split};
use convoy_common::ids::Position;
use convoy_common::store::Store;
use convoy_worker::data;
use convoy_worker::model::Net;
use convoy_worker::state;
use convoy_worker::train::{Fault, Moment, TrainError};
use support::{Cluster, Kill, Lived, calm};

/// 22 images in batches of 8: three steps an epoch, the last one of 6.
const STEPS: u64 = 4;

/// Numerics under which the promise must hold; a new kind of numerics is one more line.
const VARIANTS: [&[&str]; 10] = [
    &["numerics.head_exchange=factors"],
    &["numerics.head_exchange=gradients"],
    &["numerics.head_exchange=gradients", "numerics.block=2"],
    &["numerics.head_exchange=auto", "numerics.block=3"],
    // Three microbatches, the last of two samples, and two in the short batch.
    &["numerics.microbatch=3", "numerics.head_exchange=gradients"],
    &["model.groups=1", "model.dropout=0", "numerics.microbatch=1"],
    &["numerics.precision=bf16"],
    &["model.name=alexnet-bn", "numerics.head_exchange=gradients"],
    &["model.name=alexnet-owt", "train.optimizer=lars", "train.lr=1.0"],
    // Three groups of five small shards.
    &["data.shuffle=window", "data.shuffle_window=2"],
];

/// Clusters by the lanes of their ranks; the last one has more ranks than microbatches.
const CLUSTERS: [&[u32]; 6] = [&[2], &[2, 1], &[1, 2, 1], &[1, 1], &[1, 1, 2, 1], &[1, 1, 1, 1, 1]];

/// Digests of the state after each step, by rank.
type Diary = Arc<Mutex<BTreeMap<(u32, Position), String>>>;

fn digest(net: &Net) -> String {
    state::digest(net, &state::layout(net)).unwrap()
}

/// Writes the state after each step down.
fn watch(diary: &Diary, rank: u32) -> Fault {
    let diary = Arc::clone(diary);
    Arc::new(move |moment, position, net| {
        if moment == Moment::Committed {
            diary.lock().unwrap().insert((rank, position), digest(net));
        }
        Ok(())
    })
}

/// Trains and gives the digest after each step, which all ranks must share.
fn train(
    cluster: &mut Cluster,
    lanes: &[u32],
    from: Option<&Manifest>,
) -> (BTreeMap<Position, String>, Vec<Lived>) {
    let diary = Diary::default();
    let lived = cluster.run_with(lanes, from, calm, &|rank, _| Some(watch(&diary, rank)));
    let mut digests = BTreeMap::new();
    for ((rank, position), digest) in diary.lock().unwrap().iter() {
        let first = digests.entry(*position).or_insert_with(|| digest.clone());
        assert_eq!(first, digest, "rank {rank} of {lanes:?} at {position}");
    }
    for rank in &lived {
        rank.outcome.as_ref().unwrap();
    }
    (digests, lived)
}

fn cluster(variant: &[&str], steps: u64) -> Cluster {
    let steps = format!("train.max_steps={steps}");
    let more = [steps.as_str(), "evaluation.every_epochs=0", "schedule.kind=constant"];
    Cluster::new(&[variant, &more].concat())
}

#[test]
fn any_number_of_workers_and_lanes_comes_to_the_same_bits_after_every_step() {
    let mut seen = BTreeSet::new();
    for (number, variant) in VARIANTS.into_iter().enumerate() {
        let (expected, _) = train(&mut cluster(variant, STEPS), &[1], None);
        assert_eq!(expected.len() as u64, STEPS);
        // The first two on every cluster, the others on half of them each.
        let all = number < 2;
        let clusters = CLUSTERS.into_iter().enumerate();
        for (_, lanes) in clusters.filter(|(it, _)| all || it % 2 == number % 2) {
            let (found, lived) = train(&mut cluster(variant, STEPS), lanes, None);
            assert_eq!(found, expected, "{variant:?} on {lanes:?}");
            assert_eq!(lived[0].digest, expected.values().last().unwrap().as_str());
        }
        seen.extend(expected.into_values());
    }
    // Otherwise the variants would prove nothing that one of them does not.
    assert_eq!(seen.len() as u64, STEPS * VARIANTS.len() as u64);
}

#[test]
fn a_run_stopped_at_any_step_goes_on_with_the_same_bits_on_another_number_of_workers() {
    let worlds: [&[u32]; 4] = [&[1, 1, 1], &[2], &[1, 1, 1, 1], &[1, 2]];
    for variant in [
        &["numerics.head_exchange=factors"],
        &["numerics.head_exchange=gradients"],
        &["data.shuffle=window"],
    ] {
        let (expected, _) = train(&mut cluster(variant, STEPS), &[1], None);
        for stop in 1..STEPS {
            let (before, after) = (worlds[stop as usize % 4], worlds[(stop as usize + 1) % 4]);
            let mut cluster = cluster(variant, STEPS);
            cluster.config.train.max_steps = Some(stop);
            let (mut found, lived) = train(&mut cluster, before, None);
            let manifest = cluster.publish(&lived, stop);
            cluster.config.train.max_steps = Some(STEPS);
            found.extend(train(&mut cluster, after, Some(&manifest)).0);
            assert_eq!(found, expected, "{variant:?}: {before:?}, at step {stop} {after:?}");
        }
    }
}

/// Packs the drawn images into shards of a few each.
async fn pack(store: Store) {
    let images = support::images();
    let bytes = images.train.iter().map(|image| image.bytes.len() as u64).max().unwrap();
    let mut writer = PackWriter::start(store, Sizes { shard: 5 * bytes }).await.unwrap();
    for (split, images) in [(Split::Train, &images.train), (Split::Validation, &images.validation)]
    {
        for (number, image) in images.iter().enumerate() {
            let name = format!("{number}.jpg");
            writer.append(split, image.label, &name, &image.bytes).await.unwrap();
        }
    }
    let classes = ["class-0", "class-1", "class-2"].map(str::to_owned);
    writer.finish(&classes, &PixelStatistics::default().summary()).await.unwrap();
}

#[test]
fn the_bits_are_those_of_the_folder_whether_images_come_from_a_bucket_or_a_cold_or_a_warm_cache() {
    let folder = tempfile::tempdir().unwrap();
    let there = tokio::runtime::Runtime::new().unwrap();
    let local = Store::open(folder.path().join("data").to_str().unwrap()).unwrap();
    let bucket = there.block_on(async {
        let s3 = remote::S3::start().await;
        pack(local.clone()).await;
        pack(s3.store("data")).await;
        s3
    });
    for shuffle in [&["data.shuffle=full"][..], &["data.shuffle=window", "data.shuffle_window=2"]] {
        // Two epochs and a bit, with evaluations in between and at the end.
        let run = |lanes: &[u32], store: Store, cache: Option<(&str, u64)>| {
            let mut cluster = cluster(shuffle, 7);
            cluster.config.evaluation.every_epochs = 1;
            if let Some((name, bytes)) = cache {
                let path = folder.path().join(shuffle[0]).join(name);
                cluster.config.data.cache = CacheFolder::Folder(path.display().to_string());
                cluster.config.data.cache_size = bytes;
            } else {
                cluster.config.data.cache = CacheFolder::Off;
            }
            let source: CachedDataset = there.block_on(async {
                data::cached(Dataset::open(store).await.unwrap(), &cluster.config).await
            });
            let starts = source.dataset().shard_starts(Split::Train);
            assert!(starts.len() >= 4, "{starts:?}");
            cluster.read_from(Arc::new(source.clone()), starts);
            let (digests, lived) = train(&mut cluster, lanes, None);
            let evaluations = lived[0].evaluations.iter().map(|it| it.loss.to_bits()).collect();
            let of = digests.into_values().collect::<Vec<_>>();
            let filled = source.filled();
            drop((cluster, source));
            ((of, evaluations), filled)
        };
        let (expected, _): ((Vec<String>, Vec<u64>), _) = run(&[1], local.clone(), None);
        assert_eq!((expected.0.len(), expected.1.len()), (7, 3));
        let remote = || bucket.store("data");
        assert_eq!(run(&[1, 1], remote(), None).0, expected, "{shuffle:?}");
        let cold = run(&[1, 1], remote(), Some(("whole", 1 << 30)));
        let warm = run(&[1, 1], remote(), Some(("whole", 1 << 30)));
        assert_eq!((&cold.0, &warm.0), (&expected, &expected), "{shuffle:?}");
        assert!(warm.1.unwrap().hits > 0);
        // One that holds two shards or so of six.
        let small = run(&[1], remote(), Some(("small", 200_000)));
        assert_eq!(small.0, expected, "{shuffle:?}");
    }
    drop(there);
}

#[test]
fn the_fast_sum_does_depend_on_the_number_of_workers() {
    // If it did not, these tests could not tell a canonical sum from any other.
    let fast = ["numerics.reduction=fast"];
    let digests: BTreeSet<String> = CLUSTERS
        .iter()
        .map(|lanes| train(&mut cluster(&fast, 2), lanes, None).1[0].digest.clone())
        .collect();
    assert!(digests.len() > 2, "{digests:?}");
    // Lanes it does not depend on, and rounding on the wire counts on one rank, too.
    let of = |more: &[&str], lanes: &[u32]| {
        train(&mut cluster(&[&fast[..], more].concat(), 2), lanes, None).1[0].digest.clone()
    };
    assert_eq!(of(&[], &[1, 1]), of(&[], &[2, 2]));
    assert_ne!(of(&["numerics.wire=bf16"], &[1]), of(&[], &[1]));
    assert_eq!(of(&["numerics.wire=bf16"], &[1, 1]), of(&["numerics.wire=bf16"], &[2, 1]));
}

/// Kills the connections of one rank at one moment of one step.
fn cut(at: Position, moment: Moment, kill: Kill) -> Fault {
    Arc::new(move |now, position, _| {
        if (now, position) == (moment, at) {
            kill();
            return Err(TrainError::Abandoned);
        }
        Ok(())
    })
}

#[test]
fn a_cut_at_any_moment_of_a_step_leaves_every_rank_whole() {
    // Small chunks, so that a cut in the middle of the exchange is one.
    let chunks = "cluster.ring_chunk=4KiB";
    let at = Position { epoch: 0, step: 2 };
    for exchange in ["numerics.head_exchange=factors", "numerics.head_exchange=gradients"] {
        let (expected, _) = train(&mut cluster(&[exchange], STEPS), &[1], None);
        let all = exchange.ends_with("factors");
        let moments = [Moment::Ring, Moment::Update, Moment::Data, Moment::Compute];
        for moment in moments.into_iter().take(if all { 4 } else { 1 }) {
            for victim in 0..3 {
                let mut cluster = cluster(&[exchange, chunks], 1000);
                cluster.config.train.epochs = 1000;
                let lived = cluster.run_with(&[1, 1, 1], None, calm, &|rank, kill| {
                    (rank == victim).then(|| cut(at, moment, kill))
                });
                for (rank, lived) in lived.iter().enumerate() {
                    let what = format!("rank {rank}, victim {victim} at {moment:?}");
                    assert!(lived.outcome.is_err(), "{what}");
                    assert_eq!(lived.digest, expected[&lived.position], "{what}");
                }
                // Who dies may have had what it should have handed on, or what others wait for.
                let steps: Vec<u64> = lived.iter().map(|it| it.position.global_step(3)).collect();
                let (first, last) = (steps.iter().min().unwrap(), steps.iter().max().unwrap());
                assert!(last - first <= 1 && steps[victim as usize] == 2, "{steps:?}");
            }
        }
    }
}

#[test]
fn a_bit_that_flips_in_one_workers_weights_shows_in_its_digest_at_the_next_checkpoint() {
    let mut cluster = cluster(&[], 4);
    let flip: Fault = Arc::new(|moment, position, net: &mut Net| {
        if (moment, position) == (Moment::Committed, Position { epoch: 0, step: 2 }) {
            let mut row = net.read_rows(2, 0..1).unwrap();
            row[0] ^= 1;
            net.write_rows(2, 0..1, &row).unwrap();
        }
        Ok(())
    });
    let lived =
        cluster.run_with(&[1, 1, 1], None, calm, &|rank, _| (rank == 1).then(|| Arc::clone(&flip)));
    let said: Vec<&String> = lived.iter().map(|it| it.said.last().unwrap()).collect();
    assert_eq!(said[0], said[2], "the others have the same, if wrong, gradients");
    assert_ne!(said[0], said[1]);
    assert_eq!(said[1], &lived[1].digest);
}

#[test]
fn the_bytes_that_a_rank_sends_are_those_of_its_plan() {
    let mut cluster = cluster(&["numerics.head_exchange=factors"], 1);
    let steps = |lived: &[Lived]| lived[0].steps[0].bytes_sent;
    assert_eq!(steps(&train(&mut cluster, &[1], None).1), 0);
    let (_, lived) = train(&mut cluster, &[1, 1], None);
    let spec = convoy_worker::model::Spec::of(&cluster.config.model, 3).unwrap();
    let trunk = 4 * spec.trunk_len() as u64;
    let row: usize = spec.linears().iter().map(|it| it.inputs + it.outputs).sum();
    // Control word, count and statistics of two microbatches, and the rows of four samples.
    let block = 5 + 4 + 2 * 24 + 4 * 4 * row as u64;
    assert_eq!(steps(&lived), trunk + block);
    assert!(lived[0].steps[0].times.hidden <= lived[0].steps[0].times.compute);
}

#[test]
#[ignore = "takes minutes; deploy/test --full exactness runs it"]
fn the_real_alexnet_comes_to_the_same_bits_on_one_two_and_three_workers() {
    for precision in ["numerics.precision=fp32", "numerics.precision=bf16"] {
        let real = || {
            let mut cluster = cluster(&["model.narrow=1", precision], 10);
            cluster.classes = 10;
            cluster
        };
        let (expected, _) = train(&mut real(), &[1], None);
        for lanes in [&[1, 1][..], &[1, 1, 1]] {
            let (found, _) = train(&mut real(), lanes, None);
            assert_eq!(found, expected, "{precision} on {lanes:?}");
        }
    }
}
