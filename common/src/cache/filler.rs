//! Brings whole shards into the cache, in the order in which they will be needed.
//!
//! What should be there is a plan: the shards from the position on, across the epoch's end, as many
//! as fit. It is made anew at every look, from the position and from what the folder holds, so that
//! nothing has to be told when entries vanish or other processes fetch some. What is not in the
//! plan has been passed, and makes room.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use tokio::task::{JoinError, JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::cached::Shared;
use super::tally::Filled;
use super::{Begun, Cache, CacheError, Download};
use crate::dataset::{Dataset, ShardEntry, shard_path};
use crate::ids::Position;
use crate::store::StoreError;

/// Between two looks while shards are missing, some of which others fetch.
const LOOK: Duration = Duration::from_millis(250);

/// Between two looks while all is there.
const LOOK_AT_ALL: Duration = Duration::from_secs(1);

/// Before a shard that the store did not give is asked for again; twice as long after each failure.
const AFTER_A_FAILURE: Duration = Duration::from_secs(5);
const AFTER_FAILURES: Duration = Duration::from_secs(300);

/// Looks in a row that find the folder gone, although each makes it anew.
const GONE: u32 = 20;

/// Wrong hashes after which a shard is left alone: by then its bytes are altered in the store.
const ALTERED: u32 = 2;

/// Between two lines on how far it is; the job's progress lines tell it of one worker. A cache that is
/// smaller than the data set is filled and full by turns, as training goes on.
const TOLD: Duration = Duration::from_secs(30);

/// The task's own state.
pub(super) struct Filler {
    dataset: Dataset,
    cache: Arc<Cache>,
    limit: u64,
    shared: Arc<Shared>,
    downloads: usize,
    running: JoinSet<(usize, Result<u64, Failed>)>,
    on_their_way: HashSet<usize>,
    failures: HashMap<usize, Failure>,
    told: (Instant, Filled),
    was_filling: bool,
    /// The first time that all was there has been told.
    told_all: bool,
}

/// What went wrong with a shard.
#[derive(Debug, Default)]
struct Failure {
    times: u32,
    altered: u32,
    /// Not before that; never if there is none.
    again: Option<Instant>,
}

enum Failed {
    Store(StoreError),
    Cache(CacheError),
}

/// What a look at the folder found.
struct Look {
    begun: Option<Download>,
    shards: u64,
    of: u64,
}

impl Filler {
    pub(super) fn new(
        dataset: Dataset,
        cache: Arc<Cache>,
        limit: u64,
        shared: Arc<Shared>,
        downloads: usize,
    ) -> Self {
        Self {
            dataset,
            cache,
            limit,
            shared,
            downloads: downloads.max(1),
            running: JoinSet::new(),
            on_their_way: HashSet::new(),
            failures: HashMap::new(),
            told: (Instant::now(), Filled::default()),
            was_filling: false,
            told_all: false,
        }
    }

    /// Works until the cache is switched off, or for ever.
    pub(super) async fn run(mut self) {
        let mut gone = 0;
        while !self.shared.is_off() {
            let look = match self.look().await {
                Ok(look) => look,
                Err(error) if error.is_gone() && gone < GONE => {
                    gone += 1;
                    self.wait(LOOK).await;
                    continue;
                }
                Err(error) => return self.shared.switch_off(&error),
            };
            gone = 0;
            self.shared.tally.holds(look.shards, look.of);
            self.tell();
            let idle = look.begun.is_none();
            if let Some(download) = look.begun {
                let shard = download.shard();
                self.on_their_way.insert(shard);
                let (dataset, shared) = (self.dataset.clone(), Arc::clone(&self.shared));
                self.running
                    .spawn(async move { (shard, fetch(&dataset, download, &shared).await) });
            }
            if idle || self.running.len() >= self.downloads {
                let all = idle && look.shards >= look.of;
                self.wait(if all { LOOK_AT_ALL } else { LOOK }).await;
            }
        }
    }

    /// Waits for a shard to come, or until it is time to look again.
    async fn wait(&mut self, pause: Duration) {
        let again = Instant::now() + pause;
        let full = self.running.len() >= self.downloads;
        tokio::select! {
            Some(done) = self.running.join_next() => self.came(done),
            () = sleep_until(again), if !full => {}
        }
        while let Some(done) = self.running.try_join_next() {
            self.came(done);
        }
    }

    async fn look(&self) -> Result<Look, CacheError> {
        let position = self.shared.heading();
        let plan = plan(&self.dataset, &self.shared, position, self.limit);
        let now = Instant::now();
        let avoid: HashSet<usize> = plan
            .iter()
            .map(|(shard, _)| *shard)
            .filter(|shard| {
                self.on_their_way.contains(shard)
                    || self.shared.is_given_up(*shard)
                    || self
                        .failures
                        .get(shard)
                        .is_some_and(|it| it.again.is_none_or(|again| again > now))
            })
            .collect();
        let cache = Arc::clone(&self.cache);
        let looking = spawn_blocking(move || begin_next(&cache, &plan, &avoid));
        match looking.await {
            Ok(look) => look,
            // A panic is a bug; a runtime that ends takes this task along.
            Err(_) => Ok(Look { begun: None, shards: 0, of: 0 }),
        }
    }

    fn came(&mut self, done: Result<(usize, Result<u64, Failed>), JoinError>) {
        // A task that panicked leaves its shard out until the process ends.
        let Ok((shard, outcome)) = done else { return };
        self.on_their_way.remove(&shard);
        let failed = match outcome {
            Ok(_) => {
                self.failures.remove(&shard);
                return;
            }
            Err(failed) => failed,
        };
        let failure = self.failures.entry(shard).or_default();
        failure.times += 1;
        let pause = AFTER_A_FAILURE * 2_u32.pow((failure.times - 1).min(10));
        failure.again = Some(Instant::now() + pause.min(AFTER_FAILURES));
        let shard = shard_path(shard);
        match failed {
            Failed::Cache(CacheError::Altered { .. }) => {
                failure.altered += 1;
                failure.again = Some(Instant::now());
                if failure.altered >= ALTERED {
                    failure.again = None;
                    tracing::error!(
                        data = self.dataset.url(),
                        shard,
                        hint = "copy the data set again from its source, or pack it again",
                        "a shard is altered in the store; it is not cached"
                    );
                }
            }
            // At once, but not again and again for somebody who does not stop removing it.
            Failed::Cache(error) if error.is_gone() => {
                if failure.times == 1 {
                    failure.again = Some(Instant::now());
                }
            }
            Failed::Cache(error) => self.shared.switch_off(&error),
            Failed::Store(error) if failure.times == 1 => {
                let reason = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(shard, error = %error, reason, "a shard could not be cached; it is tried again");
            }
            Failed::Store(error) => tracing::debug!(shard, error = %error, "not cached"),
        }
    }

    /// While shards are missing, and when none is any more.
    fn tell(&mut self) {
        let (at, before) = self.told;
        let so_far = self.shared.tally.so_far();
        let elapsed = at.elapsed();
        let filling = so_far.is_filling();
        self.was_filling |= filling;
        let first = self.was_filling && !filling && !self.told_all;
        if !(first || self.was_filling && is_news(elapsed, before, so_far)) {
            return;
        }
        let since = so_far.since(before);
        let rate = since.fetched as f64 / 1e6 / elapsed.as_secs_f64().max(1e-3);
        tracing::info!(
            shards = format!("{}/{}", so_far.shards, so_far.of),
            mb_per_s = (rate * 10.0).round() / 10.0,
            hit_rate = (since.hit_rate() * 1e3).round() / 1e3,
            "{}",
            if filling { "filling the cache" } else { "the cache holds all that it should" }
        );
        self.told = (Instant::now(), so_far);
        self.was_filling = filling;
        self.told_all |= !filling;
    }
}

/// Whether a line is due again: not too soon, and of something that has changed; that shards are
/// still missing is told even so.
fn is_news(elapsed: Duration, before: Filled, now: Filled) -> bool {
    let filled = |it: Filled| (it.fetched, it.shards, it.of);
    elapsed >= TOLD && (now.is_filling() || filled(before) != filled(now))
}

/// The shards that should be here, in the order in which they will be needed.
fn plan(
    dataset: &Dataset,
    shared: &Shared,
    position: Position,
    limit: u64,
) -> Vec<(usize, ShardEntry)> {
    let shards = dataset.shards();
    let (mut plan, mut seen, mut bytes) = (Vec::new(), HashSet::new(), 0_u64);
    // An order that never names some shard must not keep this from ending.
    for shard in (shared.order)(position).take(3 * shards + 64) {
        let Some(entry) = dataset.shard(shard) else { continue };
        if !seen.insert(shard) {
            continue;
        }
        bytes = bytes.saturating_add(entry.bytes);
        if bytes > limit {
            break;
        }
        plan.push((shard, entry));
        if plan.len() == shards {
            break;
        }
    }
    plan
}

/// Begins to fetch the first shard of the plan that nobody has or fetches.
fn begin_next(
    cache: &Cache,
    plan: &[(usize, ShardEntry)],
    avoid: &HashSet<usize>,
) -> Result<Look, CacheError> {
    let present = cache.entries()?;
    let mut look = Look { begun: None, shards: 0, of: plan.len() as u64 };
    look.shards = plan.iter().filter(|(shard, _)| present.contains(shard)).count() as u64;
    let wanted: HashSet<usize> = plan.iter().map(|(shard, _)| *shard).collect();
    for (place, &(shard, entry)) in plan.iter().enumerate() {
        if present.contains(&shard) || avoid.contains(&shard) {
            continue;
        }
        let mut begun = cache.begin(shard, entry, &wanted)?;
        if let Begun::NoRoom = begun {
            // Another data set has its share of the room: what comes later has to go.
            let sooner = plan[..place].iter().map(|(shard, _)| *shard).collect();
            begun = cache.begin(shard, entry, &sooner)?;
        }
        match begun {
            Begun::Present | Begun::Busy => {}
            Begun::NoRoom => break,
            Begun::Fetch(download) => {
                look.begun = Some(download);
                break;
            }
        }
    }
    Ok(look)
}

/// Gives the bytes fetched.
async fn fetch(dataset: &Dataset, mut download: Download, shared: &Shared) -> Result<u64, Failed> {
    let mut pieces = std::pin::pin!(dataset.shard_pieces(download.shard()));
    let mut bytes = 0;
    while let Some(piece) = pieces.try_next().await.map_err(Failed::Store)? {
        let length = piece.len() as u64;
        let written = blocking(move || {
            download.write(&piece)?;
            Ok(download)
        });
        download = written.await?;
        bytes += length;
        shared.tally.fetched(length);
    }
    blocking(move || download.finish()).await?;
    Ok(bytes)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CacheError> + Send + 'static,
) -> Result<T, Failed> {
    match spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Failed::Cache),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cache_is_told_of_at_most_every_half_minute_and_only_after_a_change() {
        let full = Filled { fetched: 10, shards: 4, of: 4, ..Filled::default() };
        let later = Filled { fetched: 20, ..full };
        let read_on = Filled { hits: 500, ..full };
        let filling = Filled { shards: 3, ..full };
        let soon = TOLD - Duration::from_millis(1);
        for (elapsed, now, due) in [
            (soon, later, false),
            (TOLD, later, true),
            (TOLD, full, false),
            (TOLD, read_on, false),
            (soon, filling, false),
            (TOLD, filling, true),
        ] {
            assert_eq!(is_news(elapsed, full, now), due, "{elapsed:?} {now:?}");
        }
    }
}
