//! How many random walks there are, and from which seed.

use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::ProptestConfig;
use proptest::test_runner::RngSeed;

/// As many walks as CONVOY_WALK_CASES says, or `cases`, which every change can afford; from the seed
/// CONVOY_WALK_SEED, or one of the clock. Both are printed, so that a failure can be had again.
pub(super) fn walks(cases: u32) -> ProptestConfig {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let cases = number("CONVOY_WALK_CASES").and_then(|it| it.try_into().ok()).unwrap_or(cases);
    let seed = number("CONVOY_WALK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_micros() as u64
    });
    println!("CONVOY_WALK_CASES={cases} CONVOY_WALK_SEED={seed}");
    let rng_seed = RngSeed::Fixed(seed);
    ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}
