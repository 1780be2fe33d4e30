use proptest::prelude::*;

use super::*;
use crate::random::{Random, Stream};

/// What all ranks together work on in one step, in the order of ranks.
fn step_of(sampler: &Sampler, epoch: u32, step: u32, world: u32) -> Vec<SampleRef> {
    let v = sampler.microbatches(step);
    (0..world)
        .flat_map(|rank| Sampler::share(v, rank, world))
        .flat_map(|index| sampler.microbatch(epoch, step, index))
        .collect()
}

/// Starts of shards of these sizes, and how many samples there are.
fn shards(sizes: &[u64]) -> (Vec<u64>, u64) {
    let mut samples = 0;
    let start = |&size: &u64| {
        samples += size;
        samples - size
    };
    (sizes.iter().map(start).collect(), samples)
}

/// A full order, or one with a window over shards of the given sizes.
fn sampler(seed: u64, sizes: &[u64], batch: u32, microbatch: u32, window: Option<u32>) -> Sampler {
    let (starts, samples) = shards(sizes);
    let sampler = Sampler::new(seed, samples, batch, microbatch).in_shards(&starts);
    window.into_iter().fold(sampler, Sampler::with_window)
}

proptest! {
    #[test]
    fn every_sample_is_used_exactly_once_in_an_epoch(
        seed: u64, epoch: u32, sizes in prop::collection::vec(1_u64..60, 0..20), batch in 1_u32..90,
        microbatch in 1_u32..40, world in 1_u32..12, window in prop::option::of(1_u32..25),
    ) {
        let samples: u64 = sizes.iter().sum();
        let sampler = sampler(seed, &sizes, batch, microbatch, window);
        let mut seen = vec![0; samples as usize];
        for step in 0..sampler.steps_per_epoch() {
            let drawn = step_of(&sampler, epoch, step, world);
            prop_assert_eq!(drawn.len() as u32, sampler.batch_size(step));
            for (place, sample) in drawn.iter().enumerate() {
                prop_assert_eq!(sample.slot as usize, place, "slots in order, over all ranks");
                seen[sample.index as usize] += 1;
            }
        }
        prop_assert!(seen.iter().all(|&times| times == 1), "{:?}", seen);
    }

    #[test]
    fn a_step_is_the_same_for_any_microbatch_and_number_of_workers(
        seed: u64, epoch: u32, lengths in prop::collection::vec(1_u64..60, 1..20),
        batch in 1_u32..90, sizes in (1_u32..40, 1_u32..40), worlds in (1_u32..12, 1_u32..12),
        window in prop::option::of(1_u32..25),
    ) {
        let one = sampler(seed, &lengths, batch, sizes.0, window);
        let other = sampler(seed, &lengths, batch, sizes.1, window);
        for step in 0..one.steps_per_epoch() {
            prop_assert_eq!(
                step_of(&one, epoch, step, worlds.0),
                step_of(&other, epoch, step, worlds.1)
            );
        }
    }

    #[test]
    fn all_steps_but_the_last_are_full_and_none_is_empty(
        samples: u64, batch in 1_u32.., microbatch in 1_u32..,
    ) {
        let samples = samples % (u64::from(batch) * 1_000_000);
        let sampler = Sampler::new(0, samples, batch, microbatch);
        let steps = sampler.steps_per_epoch();
        if let Some(last) = steps.checked_sub(1) {
            let full = u64::from(last) * u64::from(batch);
            prop_assert_eq!(full + u64::from(sampler.batch_size(last)), samples);
            prop_assert!(sampler.batch_size(last) > 0);
            prop_assert!(last == 0 || sampler.batch_size(last - 1) == batch);
        }
        prop_assert_eq!(sampler.batch_size(steps), 0);
        prop_assert_eq!(sampler.microbatches(steps), 0);
        prop_assert!(sampler.microbatch(0, steps, 0).is_empty());
    }

    #[test]
    fn shares_partition_the_microbatches_evenly(v: u32, world in 1_u32..300) {
        let mut next = 0;
        for rank in 0..world {
            let share = Sampler::share(v, rank, world);
            prop_assert_eq!(share.start, next);
            prop_assert!((v / world..=v.div_ceil(world)).contains(&(share.end - share.start)));
            next = share.end;
        }
        prop_assert_eq!(next, v);
        prop_assert!(Sampler::share(v, world, world).is_empty());
    }

    #[test]
    fn evaluation_sees_every_sample_once_in_order(
        samples in 0_u64..600, microbatch in 1_u32..40, world in 1_u32..12,
    ) {
        let grid = EvaluationGrid::new(samples, microbatch);
        let seen: Vec<u64> = (0..world)
            .flat_map(|rank| Sampler::share(grid.microbatches(), rank, world))
            .flat_map(|index| grid.microbatch(index))
            .map(|sample| sample.index)
            .collect();
        prop_assert_eq!(seen, (0..samples).collect::<Vec<_>>());
        prop_assert!(grid.microbatch(grid.microbatches()).is_empty());
    }
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own() {
    let order = |seed, epoch| {
        Sampler::new(seed, 100, 100, 100)
            .microbatch(epoch, 0, 0)
            .iter()
            .map(|sample| sample.index)
            .collect::<Vec<_>>()
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
}

#[test]
fn imagenet_at_batch_128_has_10010_steps_the_last_of_15() {
    let sampler = Sampler::new(0, 1_281_167, 128, 32);
    assert_eq!(sampler.steps_per_epoch(), 10_010);
    assert_eq!(sampler.batch_size(10_008), 128);
    assert_eq!((sampler.batch_size(10_009), sampler.microbatches(10_009)), (15, 1));
}

#[test]
fn impossible_sizes_do_no_harm() {
    let sampler = Sampler::new(0, 5, 0, 0);
    assert_eq!((sampler.steps_per_epoch(), sampler.batch_size(4)), (5, 1));
    assert_eq!(Sampler::new(0, u64::MAX, 1, 1).steps_per_epoch(), u32::MAX);
    assert_eq!(Sampler::share(5, 0, 0), 0..5);
    assert!(sampler.microbatch(0, 0, u32::MAX).is_empty());
}

/// The shard of each place of an epoch.
fn shards_in_order(sampler: &Sampler, epoch: u32) -> Vec<usize> {
    let order = sampler.epoch(epoch);
    let samples = order.samples(0..sampler.samples);
    samples.map(|it| sampler.starts.partition_point(|&start| start <= it) - 1).collect()
}

proptest! {
    #[test]
    fn shards_are_announced_in_the_order_in_which_they_are_opened_and_without_end(
        seed: u64, epoch in 0_u32..1000, sizes in prop::collection::vec(1_u64..40, 1..16),
        batch in 1_u32..50, step in 0_u32..30, window in 1_u32..20,
    ) {
        let sampler = sampler(seed, &sizes, batch, 4, Some(window));
        let groups = sizes.len().div_ceil(window as usize);
        let (from, all) = (step * batch, shards_in_order(&sampler, epoch));
        let needed: std::collections::HashSet<usize> =
            all.iter().copied().skip(from as usize).collect();
        let announced: Vec<usize> = sampler.shards_from(epoch, step).take(100).collect();
        prop_assert_eq!(announced.len(), 100);
        // What is needed for the rest of the epoch comes first, each shard once. Of the group that
        // is open, shards whose samples are all behind may be among them.
        let behind: Vec<usize> = sampler.shards_from(epoch, 0).take(sizes.len()).collect();
        let rest = if (from as usize) < all.len() {
            let first = behind.iter().position(|it| *it == announced[0]).unwrap();
            &behind[first..]
        } else {
            &[]
        };
        prop_assert_eq!(&announced[..rest.len()], rest);
        prop_assert!(needed.iter().all(|it| rest.contains(it)));
        prop_assert!(rest.len() <= needed.len() + sizes.len().div_ceil(groups));
        // Then comes the whole of the next epoch.
        let next: Vec<usize> = sampler.shards_from(epoch + 1, 0).take(100 - rest.len()).collect();
        prop_assert_eq!(&announced[rest.len()..], next);
        let mut once = behind.clone();
        once.sort_unstable();
        prop_assert_eq!(once, (0..sizes.len()).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_shards_are_open_than_the_window_and_those_of_the_next_group(
        seed: u64, sizes in prop::collection::vec(20_u64..60, 4..24), window in 2_u32..8,
        world in 1_u32..5, prefetch in 1_u32..4,
    ) {
        // Batches of 12 in microbatches of 3; a group has at least 20 samples a shard.
        let sampler = sampler(seed, &sizes, 12, 3, Some(window));
        let reach = u64::from(12 * (1 + prefetch * world.div_ceil(4)));
        let groups = sizes.len().div_ceil(window as usize);
        let largest = sizes.len().div_ceil(groups);
        let smallest = 20 * (sizes.len() / groups) as u64;
        // Places in flight reach over so many group borders, at most.
        let bound = largest * (1 + reach.div_ceil(smallest) as usize);
        for step in 0..2 * sampler.steps_per_epoch() {
            let open = open_shards(&sampler, step, world, prefetch);
            prop_assert!(open <= bound, "{open} open at step {step}, {bound} allowed");
        }
    }
}

/// Shards of which `world` ranks hold or read samples when each has microbatches of `prefetch`
/// ahead, from a step on that is counted from the first epoch's start.
fn open_shards(sampler: &Sampler, step: u32, world: u32, prefetch: u32) -> usize {
    let steps = sampler.steps_per_epoch();
    let mut orders: Vec<EpochOrder> = Vec::new();
    let mut open = std::collections::HashSet::new();
    for rank in 0..world {
        let ahead = (step..).flat_map(|step| {
            let v = sampler.microbatches(step % steps);
            Sampler::share(v, rank, world).map(move |index| (step / steps, step % steps, index))
        });
        // One that is computed, and those that are prefetched.
        for (epoch, step, index) in ahead.take(1 + prefetch as usize) {
            if !orders.iter().any(|order| order.epoch() == epoch) {
                orders.push(sampler.epoch(epoch));
            }
            let order = orders.iter().find(|order| order.epoch() == epoch).unwrap();
            let samples = sampler.microbatch_in(order, step, index);
            open.extend(
                samples.iter().map(|sample| {
                    sampler.starts.partition_point(|&start| start <= sample.index) - 1
                }),
            );
        }
    }
    open.len()
}

/// About 400 shards of 1,600 to 4,800 images, as packing to a number of bytes makes them uneven.
fn imagenet() -> Vec<u64> {
    let mut random = Random::new(5, Stream::Drawing, 0, 0, 0);
    let (mut left, mut sizes) = (1_281_167_u64, Vec::new());
    while left > 0 {
        let size = (1_600 + u64::from(random.below(3_201))).min(left);
        sizes.push(size);
        left -= size;
    }
    sizes
}

/// How well an order mixes: the mean distance of a sample from its place in the split, over that of
/// a full shuffle (n / 3), and the share of neighbours that are of one shard.
fn quality(sampler: &Sampler, epoch: u32) -> (f64, f64) {
    let n = sampler.samples;
    let mut seen = vec![false; n as usize];
    let (mut distance, mut neighbours, mut before) = (0, 0_u64, usize::MAX);
    let order = sampler.epoch(epoch);
    for (place, sample) in order.samples(0..n).enumerate() {
        assert!(!std::mem::replace(&mut seen[sample as usize], true), "{sample} comes twice");
        distance += sample.abs_diff(place as u64);
        let shard = sampler.starts.partition_point(|&start| start <= sample);
        neighbours += u64::from(shard == before);
        before = shard;
    }
    assert!(seen.iter().all(|it| *it), "every sample comes");
    let third = n as f64 / 3.0;
    (distance as f64 / n as f64 / third, neighbours as f64 / (n - 1) as f64)
}

/// The bounds that [`super::order`] states.
#[test]
fn at_imagenets_size_a_window_of_16_shards_mixes_nearly_as_well_as_a_full_shuffle() {
    let sizes = imagenet();
    assert!((390..=410).contains(&sizes.len()), "{}", sizes.len());
    let windowed = sampler(7, &sizes, 128, 32, Some(16));
    let (displacement, neighbours) = quality(&windowed, 3);
    assert!((0.9..1.1).contains(&displacement), "{displacement} of a full shuffle");
    assert!(neighbours < 1.25 / 16.0, "{neighbours} of neighbours are of one shard");
    let full = sampler(7, &sizes, 128, 32, None);
    let (displacement, neighbours) = quality(&full, 3);
    assert!((0.99..1.01).contains(&displacement), "{displacement}");
    assert!(neighbours < 1.25 / sizes.len() as f64, "{neighbours}");
}

#[test]
fn at_imagenets_size_two_groups_of_shards_are_open_at_most() {
    let sizes = imagenet();
    let sampler = sampler(7, &sizes, 256, 32, Some(16));
    let steps = sampler.steps_per_epoch();
    let mut most = 0;
    // So many steps are in flight at a time, so that every border of groups is met, of which there
    // are six in a quarter of an epoch, and that of the epochs.
    for step in (0..steps / 4).chain(steps - 17..steps + 17).step_by(17) {
        most = most.max(open_shards(&sampler, step, 8, 16));
    }
    // 16 at a time within a group: at its border the shards of both are open.
    assert!((17..=32).contains(&most), "{most}");
}

#[test]
fn the_shards_of_a_group_are_others_in_another_epoch() {
    let sampler = sampler(7, &[10; 64], 10, 10, Some(16));
    let group = |epoch| -> std::collections::BTreeSet<usize> {
        sampler.shards_from(epoch, 0).take(16).collect()
    };
    let common = group(0).intersection(&group(1)).count();
    assert!(common < 12, "{common} of 16");
}

#[test]
fn a_window_over_all_shards_opens_every_one_at_once() {
    let sampler = sampler(7, &[30, 50, 40], 20, 10, Some(3));
    let open = open_shards(&sampler, 0, 1, 1);
    assert_eq!(open, 3);
    assert_eq!(
        sampler.shards_from(0, 0).take(3).collect::<std::collections::BTreeSet<_>>().len(),
        3
    );
}

#[test]
fn the_last_group_is_not_left_with_a_single_shard() {
    let sampler = sampler(7, &[10; 17], 10, 10, Some(16));
    let order = shards_in_order(&sampler, 0);
    let last: std::collections::HashSet<usize> =
        order[order.len() - 20..].iter().copied().collect();
    assert!(last.len() > 4, "{last:?}");
}

/// Which samples a seed means is part of every run record: these were computed when the order was
/// first released.
#[test]
fn the_orders_of_a_run_stay_as_they_are() {
    let sizes = [9, 7, 8, 10, 6];
    let first = |sampler: Sampler| -> Vec<u64> { sampler.epoch(3).samples(0..8).collect() };
    assert_eq!(first(sampler(42, &sizes, 8, 4, None)), [10, 39, 14, 38, 17, 31, 1, 37]);
    assert_eq!(first(sampler(42, &sizes, 8, 4, Some(2))), [38, 39, 37, 36, 35, 34, 19, 17]);
}

#[test]
fn impossible_shards_do_no_harm() {
    for starts in [&[][..], &[5], &[0, 0, 3, 2, 100], &[u64::MAX]] {
        let sampler = Sampler::new(1, 10, 4, 2).in_shards(starts).with_window(0);
        let mut all: Vec<u64> = sampler.epoch(0).samples(0..20).collect();
        all.sort_unstable();
        assert_eq!(all, (0..10).collect::<Vec<_>>(), "{starts:?}");
    }
    let empty = Sampler::new(1, 0, 4, 2).in_shards(&[0, 5]).with_window(3);
    assert_eq!(empty.epoch(0).samples(0..3).count(), 0);
    assert_eq!(empty.shards_from(0, 0).count(), 0);
    assert_eq!(Sampler::new(1, 0, 4, 2).shards_from(0, 0).count(), 0);
}
