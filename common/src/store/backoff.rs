//! Pauses between the tries of what must not be lost, for as long as it takes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use tokio::time::{Instant, sleep};

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
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::store::StoreError;

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_away_is_tried_for_so_long_and_what_fails_otherwise_once() {
        let away = || StoreError::Unreachable {
            endpoint: "http://127.0.0.1:1".to_owned(),
            url: "s3://b/o".to_owned(),
            source: "nobody listens".into(),
        };
        let tried = async |back_after: u32, other: bool| {
            let tries = Cell::new(0);
            let begin = Instant::now();
            let outcome = while_away(Duration::from_secs(60), StoreError::is_away, || {
                tries.set(tries.get() + 1);
                let outcome = match tries.get() {
                    it if it > back_after => Ok(it),
                    _ if other => Err(StoreError::NotFound { url: "s3://b/o".to_owned() }),
                    _ => Err(away()),
                };
                async { outcome }
            });
            (outcome.await, tries.get(), begin.elapsed())
        };
        assert!(matches!(tried(3, false).await, (Ok(4), 4, _)));
        let (outcome, tries, took) = tried(u32::MAX, false).await;
        assert!(outcome.unwrap_err().is_away() && tries >= 4);
        assert!((Duration::from_secs(20)..=Duration::from_secs(60)).contains(&took), "{took:?}");
        let (outcome, tries, _) = tried(u32::MAX, true).await;
        assert!(matches!(outcome, Err(StoreError::NotFound { .. })) && tries == 1);
    }

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
