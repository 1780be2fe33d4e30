//! Pauses between the tries of what must not be lost, for as long as it takes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::failure::{self, Explain};

/// The first pause; each is twice the one before, and a random half of it is left out.
const FIRST: Duration = Duration::from_secs(1);
/// A store that is back is noticed at most so much later.
const LONGEST: Duration = Duration::from_secs(30);

/// Tells how long to wait before the next try. It never says that there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    /// How many tries have failed so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// After one more try has failed: how long to wait.
    pub fn pause(&mut self) -> Duration {
        self.pause_by(chance())
    }

    /// `chance` is from 0 to 1.
    fn pause_by(&mut self, chance: f64) -> Duration {
        let doublings = self.tries.min(16);
        self.tries = self.tries.saturating_add(1);
        (FIRST * 2_u32.pow(doublings)).min(LONGEST).mul_f64(1.0 - chance / 2.0)
    }
}

/// Tries until it goes well, or fails for another reason than a store that is `away`, or has been tried
/// for so long. Each pause is logged.
pub async fn while_away<T, E: Explain + 'static, F: Future<Output = Result<T, E>>>(
    within: Duration,
    away: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E> {
    let begin = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let error = match attempt().await {
            Err(error) if away(&error) => error,
            outcome => return outcome,
        };
        let pause = backoff.pause();
        if begin.elapsed() + pause > within {
            return Err(error);
        }
        tracing::warn!(
            error = failure::in_full(&error),
            hint = error.hint(),
            next_try_s = pause.as_secs_f64(),
            "the store cannot be reached for now"
        );
        sleep(pause).await;
    }
}

/// From 0 to 1, other on every call and in every process, so that workers that failed together do
/// not try again together. The standard library seeds each state from the system's generator.
pub(super) fn chance() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_never_end() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..8).map(|_| backoff.pause_by(0.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        let mut old = Backoff { tries: u32::MAX };
        assert_eq!((old.pause_by(1.0), old.tries()), (LONGEST / 2, u32::MAX));
    }

    proptest! {
        #[test]
        fn chances_are_from_0_to_1(_turn in 0..100) {
            prop_assert!((0.0..1.0).contains(&chance()));
        }
    }
}
