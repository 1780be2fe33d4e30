use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn any_random() -> impl Strategy<Value = Random> {
    (any::<u64>(), 0..Stream::ALL.len(), any::<u32>(), any::<u32>(), any::<u64>()).prop_map(
        |(seed, stream, epoch, step, sample)| {
            Random::new(seed, Stream::ALL[stream], epoch, step, sample)
        },
    )
}

fn words(mut random: Random, count: usize) -> Vec<u32> {
    (0..count).map(|_| random.next_u32()).collect()
}

proptest! {
    #[test]
    fn equal_arguments_give_equal_numbers(random in any_random()) {
        prop_assert_eq!(words(random.clone(), 50), words(random, 50));
    }

    #[test]
    fn a_fill_gives_the_words_of_single_draws_however_it_is_split(
        random in any_random(),
        parts in prop::collection::vec(0_usize..200, 0..8),
    ) {
        let mut filling = random.clone();
        let mut filled = Vec::new();
        for part in parts {
            let mut out = vec![0; part];
            filling.fill_u32(&mut out);
            filled.extend(out);
            filled.push(filling.next_u32());
        }
        prop_assert_eq!(&filled, &words(random, filled.len()));
    }

    #[test]
    fn a_fill_gives_the_normals_of_single_draws_however_it_is_split(
        mut random in any_random(),
        before in 0_usize..4,
        parts in prop::collection::vec(0_usize..700, 1..5),
    ) {
        for _ in 0..before {
            random.next_u32();
        }
        let mut whole = random.clone();
        let mut single = random.clone();
        let mut filled = Vec::new();
        for part in parts {
            let mut out = vec![0.0; part];
            random.fill_normal(&mut out, 0.01);
            filled.extend(out);
        }
        let mut expected = vec![0.0; filled.len()];
        whole.fill_normal(&mut expected, 0.01);
        prop_assert_eq!(&filled, &expected);
        let std = f64::from(0.01_f32);
        for value in filled {
            prop_assert_eq!(value, (single.normal() * std) as f32);
        }
    }

    #[test]
    fn draws_stay_within_their_bounds(mut random in any_random(), n in 1_u32..) {
        for _ in 0..20 {
            prop_assert!(random.below(n) < n);
            let unit = random.unit();
            prop_assert!((0.0..1.0).contains(&unit));
            prop_assert!(random.normal().abs() < 6.77);
        }
    }
}

#[test]
fn a_change_of_any_argument_changes_all_numbers() {
    let mut blocks = HashSet::new();
    let mut count = 0;
    for seed in [0, 1, 1 << 32, u64::MAX] {
        for stream in Stream::ALL {
            for epoch in [0, 1, 2, u32::MAX] {
                for step in [0, 1, u32::MAX] {
                    for sample in [0, 1, 1 << 32, u64::MAX] {
                        let drawn = words(Random::new(seed, stream, epoch, step, sample), 8);
                        for block in drawn.chunks(4) {
                            blocks.insert(block.to_vec());
                            count += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(blocks.len(), count, "a block occurred twice");
}

#[test]
fn the_key_loses_nothing_of_stream_and_epoch() {
    // The inverse of `mix`, from the inverse of each of its operations.
    fn unmix(x: u64) -> u64 {
        let unshift = |x: u64, by: u32| (0..64 / by + 1).fold(x, |y, _| x ^ y >> by);
        let x = unshift(x, 31).wrapping_mul(0x3196_42b2_d24d_8ec3);
        let x = unshift(x, 27).wrapping_mul(0x96de_1b17_3f11_9089);
        unshift(x, 30).wrapping_sub(0x9e37_79b9_7f4a_7c15)
    }
    for seed in [0, 12, u64::MAX] {
        for stream in Stream::ALL {
            for epoch in [0, 1, 90, u32::MAX] {
                let [low, high] = key(seed, stream, epoch);
                let back = unmix(u64::from(high) << 32 | u64::from(low)) ^ mix(seed);
                assert_eq!(back, (stream as u64) << 32 | u64::from(epoch));
            }
        }
    }
}

/// Worked out by another program in another language; a change would change every run.
#[test]
fn the_numbers_of_a_run_stay_as_they_are() {
    let mut random = Random::new(42, Stream::Crop, 3, 17, 1_000_000);
    assert_eq!(
        [random.next_u32(), random.next_u32(), random.below(30), random.below(30)],
        [42_342_630, 4_009_673, 9, 19]
    );
    let mut weights = [0.0; 4];
    Random::new(42, Stream::Weights, 0, 0, 5).fill_normal(&mut weights, 0.01);
    assert_eq!(weights.map(f32::to_bits), [0x3c52_cfa1, 0x3c45_8756, 0xbc57_48c0, 0x3c1d_64b8]);
}

#[test]
fn none_below_nought_or_one_is_nought() {
    let mut random = Random::new(1, Stream::Order, 0, 0, 0);
    assert_eq!((random.below(0), random.below(1)), (0, 0));
}

/// Chi-square of `counts` against equal expectations, in standard deviations from its mean.
fn surprise(counts: &[u64]) -> f64 {
    let cells = counts.len() as f64;
    let expected = counts.iter().sum::<u64>() as f64 / cells;
    let chi: f64 = counts.iter().map(|&n| (n as f64 - expected).powi(2) / expected).sum();
    (chi - (cells - 1.0)) / (2.0 * (cells - 1.0)).sqrt()
}

#[test]
fn bounded_draws_are_uniform_also_where_the_bound_is_large() {
    for n in [2, 3, 30, 257] {
        let mut counts = vec![0; n as usize];
        let mut random = Random::new(9, Stream::Crop, 0, 0, u64::from(n));
        for _ in 0..200_000 {
            counts[random.below(n) as usize] += 1;
        }
        assert!(surprise(&counts).abs() < 4.5, "{n}: {counts:?}");
    }
    // At three quarters of 2^32 a multiplication without rejection would give the first value of
    // every three twice as often as the others.
    let n = 3 << 30;
    let mut counts = [0; 3];
    let mut random = Random::new(9, Stream::Crop, 0, 0, 0);
    for _ in 0..200_000 {
        counts[(random.below(n) % 3) as usize] += 1;
    }
    assert!(surprise(&counts).abs() < 4.5, "{counts:?}");
}

#[test]
fn first_words_are_uniform_over_samples_steps_and_epochs() {
    let draw: [&dyn Fn(u32) -> Random; 4] = [
        &|i| Random::new(1, Stream::Flip, 0, 0, u64::from(i)),
        &|i| Random::new(1, Stream::Flip, 0, i, 0),
        &|i| Random::new(1, Stream::Flip, i, 0, 0),
        &|i| Random::new(u64::from(i), Stream::Flip, 0, 0, 0),
    ];
    for (which, random) in draw.iter().enumerate() {
        let mut high = vec![0; 256];
        let mut low = vec![0; 256];
        let mut pairs = vec![0; 256];
        let mut last = 0;
        for i in 0..100_000 {
            let word = random(i).next_u32();
            high[(word >> 24) as usize] += 1;
            low[(word & 255) as usize] += 1;
            pairs[((last >> 28) << 4 | word >> 28) as usize] += 1;
            last = word;
        }
        for counts in [high, low, pairs] {
            assert!(surprise(&counts).abs() < 4.5, "case {which}: {}", surprise(&counts));
        }
    }
}

#[test]
fn normals_have_the_moments_and_tails_of_a_normal_distribution() {
    let count = 1_000_000;
    let mut drawn = vec![0.0; count];
    Random::new(3, Stream::Weights, 0, 0, 0).fill_normal(&mut drawn, 1.0);
    let moment =
        |power: i32| drawn.iter().map(|&z| f64::from(z).powi(power)).sum::<f64>() / count as f64;
    let deviations = [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)];
    for (power, expected, variance) in deviations {
        let error = (moment(power) - expected) / (variance / count as f64).sqrt();
        assert!(error.abs() < 4.5, "moment {power} is {error} deviations off");
    }
    let beyond = |limit: f32| drawn.iter().filter(|z| z.abs() > limit).count() as f64;
    for (limit, share) in [(1.0, 0.317_310_5), (2.0, 0.045_500_3), (3.0, 0.002_699_8)] {
        let expected = share * count as f64;
        let error = (beyond(limit) - expected) / (expected * (1.0 - share)).sqrt();
        assert!(error.abs() < 4.5, "beyond {limit}: {error} deviations off");
    }
    let neighbours: f64 =
        drawn.windows(2).map(|w| f64::from(w[0]) * f64::from(w[1])).sum::<f64>() / 1000.0;
    assert!(neighbours.abs() < 4.5, "neighbours correlate: {neighbours}");
}
