//! What a new writer finds at its place, and what it may keep of it.
//!
//! Kept are the first shards in a row that have a good page and the size that it says; what lies
//! behind them is written again. That a shard's bytes are right follows from the order of writing:
//! its page comes after it. `convoy dataset verify` reads them all.

use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt as _, stream};

use super::index::{Record, Shard};
use super::journal::{self, OWNER, PLAN, Page};
use super::owner::Owner;
use super::{DatasetError, INDEX, PixelStatistics, SHARDS, shard_number, shard_path};
use crate::store::{Store, StoreError};

/// Pages that are read at a time.
const PAGES_AT_ONCE: usize = 8;

/// What the finished shards hold.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) shards: Vec<Shard>,
    pub(super) records: Vec<Record>,
    pub(super) train: u64,
    pub(super) names: Vec<u8>,
    pub(super) statistics: PixelStatistics,
}

/// Refuses a place that holds a data set.
async fn vacant(store: &Store) -> Result<(), DatasetError> {
    if store.exists(INDEX).await? {
        return Err(DatasetError::Occupied { url: store.url().to_owned() });
    }
    Ok(())
}

/// Removes the shards and pages from a number on; nothing else.
async fn clear(store: &Store, from: usize) -> Result<(), DatasetError> {
    // Pages first: a page without its shard would be a promise that is not kept.
    for left in store.list(journal::FOLDER).await? {
        if journal::page_number(&left.path).is_some_and(|number| number >= from) {
            store.delete(&left.path).await?;
        }
    }
    for left in store.list(SHARDS).await? {
        if shard_number(&left.path).is_some_and(|number| number >= from) {
            store.delete(&left.path).await?;
        }
    }
    Ok(())
}

/// Removes all shards and pages, and the plan that they were made by.
async fn clear_all(store: &Store) -> Result<(), DatasetError> {
    clear(store, 0).await?;
    // Last: shards without a plan are taken for nobody's, whatever broke this off.
    Ok(store.delete(PLAN).await?)
}

/// Takes a place for a packing without a plan.
pub(super) async fn take(store: &Store) -> Result<(), DatasetError> {
    vacant(store).await?;
    // Whoever packs there notices.
    store.delete(OWNER).await?;
    clear_all(store).await
}

/// Where a packing with a plan begins.
pub(super) struct TakenUp {
    pub(super) owner: Owner,
    pub(super) kept: Kept,
    /// Of the shards that are kept.
    pub(super) notes: Vec<Vec<u8>>,
}

/// Goes on with the packing of that plan that is there, or begins it; `restart` removes what is
/// there before. Whoever packs there has lost the place by then.
pub(super) async fn take_up(
    store: &Store,
    plan: &str,
    restart: bool,
) -> Result<TakenUp, DatasetError> {
    vacant(store).await?;
    let held = match store.get(PLAN).await {
        Ok(_) if restart => None,
        Ok(held) => Some(held),
        Err(StoreError::NotFound { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let other = |held: &[u8]| DatasetError::OtherPacking {
        url: store.url().to_owned(),
        held: String::from_utf8_lossy(held).into_owned(),
    };
    if let Some(held) = &held
        && held != plan.as_bytes()
    {
        return Err(other(held));
    }
    let owner = Owner::take_over(store).await?;
    // The one before may have come to its end in the meantime.
    vacant(store).await?;
    if held.is_none() {
        if restart {
            clear_all(store).await?;
        } else {
            clear(store, 0).await?;
        }
        return match store.create(PLAN, Bytes::from(plan.to_owned())).await {
            Ok(()) => Ok(TakenUp { owner, kept: Kept::default(), notes: Vec::new() }),
            Err(StoreError::Exists { .. }) => Err(other(&store.get(PLAN).await?)),
            Err(error) => Err(error.into()),
        };
    }
    let (kept, notes) = read_pages(store).await?;
    clear(store, kept.shards.len()).await?;
    Ok(TakenUp { owner, kept, notes })
}

async fn read_pages(store: &Store) -> Result<(Kept, Vec<Vec<u8>>), DatasetError> {
    let sizes: HashMap<String, u64> =
        store.list(SHARDS).await?.into_iter().map(|it| (it.path, it.size)).collect();
    let pages: HashMap<String, u64> =
        store.list(journal::FOLDER).await?.into_iter().map(|it| (it.path, it.size)).collect();
    let numbers = (0..).take_while(|&number| pages.contains_key(&journal::page_path(number)));
    let mut read = stream::iter(numbers)
        .map(|number| async move { store.get(&journal::page_path(number)).await })
        .buffered(PAGES_AT_ONCE);
    let mut kept = Kept::default();
    let mut notes = Vec::new();
    while let Some(data) = read.next().await {
        let Some(page) = Page::decode(&data?) else { break };
        let number = kept.shards.len();
        if sizes.get(&shard_path(number)) != Some(&page.bytes) {
            break;
        }
        let first = kept.records.len() as u64;
        kept.shards.push(Shard { bytes: page.bytes, first, hash: page.hash });
        kept.train += u64::from(page.train);
        kept.records.extend(page.records);
        kept.names.extend(page.names);
        kept.statistics.add_sums(&page.sums);
        notes.push(page.note);
    }
    Ok((kept, notes))
}
