//! Reads a packed data set by range, and checks every byte that it hands out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::index::{Defect, Index, Record, VERSION};
use super::{
    DatasetError, DatasetIdentity, Encoding, INDEX, NAMES, SHARDS, Split, names, shard_path,
};
use crate::store::{Store, StoreError};

/// Shards that are read from at a time for one call.
const CONCURRENT_SHARDS: usize = 16;

/// A packed data set; cheap to clone.
#[derive(Clone)]
pub struct Dataset {
    pub(super) store: Store,
    pub(super) index: Arc<Index>,
    /// [`super::Class::shown`] of each.
    classes: Arc<[String]>,
}

/// A picture as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// In the form that `encoding` says.
    pub bytes: Bytes,
    /// Number of its class.
    pub label: u16,
    /// That of the data set.
    pub encoding: Encoding,
}

impl Dataset {
    /// Reads the index, checks it, and compares the shards' sizes with it.
    ///
    /// # Errors
    /// [`DatasetError::Missing`], [`DatasetError::BadIndex`], [`DatasetError::Version`],
    /// [`DatasetError::ShardMismatch`], or what the store says.
    pub async fn open(store: Store) -> Result<Self, DatasetError> {
        let dataset = Self::open_index(store).await?;
        dataset.compare_sizes().await?;
        Ok(dataset)
    }

    /// Reads the index and checks it, without a look at the shards: for [`Self::inspect`].
    ///
    /// # Errors
    /// [`DatasetError::Missing`], [`DatasetError::BadIndex`], [`DatasetError::Version`], or what the
    /// store says.
    pub async fn open_index(store: Store) -> Result<Self, DatasetError> {
        let url = store.url().to_owned();
        let data = match store.get(INDEX).await {
            Ok(data) => data,
            Err(StoreError::NotFound { .. }) => {
                let unfinished = !store.list(SHARDS).await?.is_empty();
                return Err(DatasetError::Missing { url, unfinished });
            }
            Err(error) => return Err(error.into()),
        };
        let index = Index::decode(&data).map_err(|defect| match defect {
            Defect::Version(found) => {
                DatasetError::Version { url: url.clone(), found, expected: VERSION }
            }
            Defect::Detail(detail) => DatasetError::BadIndex { url: url.clone(), detail },
        })?;
        let classes = index.classes.iter().map(super::Class::shown).collect();
        Ok(Self { store, index: Arc::new(index), classes })
    }

    /// What tells it from another.
    pub fn identity(&self) -> DatasetIdentity {
        DatasetIdentity {
            digest: blake3::Hash::from_bytes(self.index.digest).to_hex().to_string(),
            train: self.index.train,
            validation: self.index.validation,
            classes: self.index.classes.len() as u32,
        }
    }

    /// Where it lies.
    pub fn url(&self) -> &str {
        self.store.url()
    }

    /// Pictures in a split.
    pub fn len(&self, split: Split) -> u64 {
        match split {
            Split::Train => self.index.train,
            Split::Validation => self.index.validation,
        }
    }

    /// Whether a split has no pictures.
    pub fn is_empty(&self, split: Split) -> bool {
        self.len(split) == 0
    }

    /// In which form the pictures are stored.
    pub fn encoding(&self) -> Encoding {
        self.index.encoding
    }

    /// The classes' names, each with its title; a label is a place in it.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Mean of the training pictures, `3 x 256 x 256` (channels R G B), 0 to 255.
    pub fn mean_image(&self) -> &[f32] {
        &self.index.pixels.mean_image
    }

    /// Covariance of R, G and B over the training split, row by row.
    pub fn covariance(&self) -> &[f64; 9] {
        &self.index.pixels.covariance
    }

    /// Number of shards, which [`Self::verify_shard`] takes.
    pub fn shards(&self) -> usize {
        self.index.shards.len()
    }

    /// The first picture of each shard that holds some of the split, numbered within the split:
    /// ascending from 0. Those of the training split are the data set's first shards.
    pub fn shard_starts(&self, split: Split) -> Vec<u64> {
        let (first, end) = match split {
            Split::Train => (0, self.index.train),
            Split::Validation => (self.index.train, self.index.images()),
        };
        let shards = &self.index.shards;
        let next = |number: usize| shards.get(number + 1).map_or(u64::MAX, |shard| shard.first);
        let held = shards.iter().enumerate();
        let held = held.filter(|(number, shard)| shard.first < end && next(*number) > first);
        held.map(|(_, shard)| shard.first.max(first) - first).collect()
    }

    /// The label of a picture; 0 beyond the end of the split, where there is none.
    pub fn label(&self, split: Split, index: u64) -> u16 {
        self.record(split, index).map_or(0, |(_, record)| record.label)
    }

    /// Reads pictures of a split, in the order asked for, with one call to the store per shard.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchImage`], [`DatasetError::AlteredImage`] with the picture's name, or
    /// what the store says.
    pub async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, DatasetError> {
        let mut by_shard: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
        for (slot, &index) in indices.iter().enumerate() {
            let (image, record) = self.record(split, index)?;
            let shard = self.index.shard_of(image);
            by_shard.entry(shard).or_default().push(Place { slot, image, record });
        }
        let parts: Vec<Vec<(usize, Encoded)>> = stream::iter(by_shard)
            .map(|(shard, places)| self.read_shard(shard, places))
            .buffer_unordered(CONCURRENT_SHARDS)
            .try_collect()
            .await?;
        let mut found: HashMap<usize, Encoded> = parts.into_iter().flatten().collect();
        let in_order: Option<Vec<Encoded>> =
            (0..indices.len()).map(|slot| found.remove(&slot)).collect();
        Ok(in_order.expect("invariant: every slot was asked of one shard"))
    }

    /// Reads a whole shard and compares its hash with the index.
    ///
    /// # Errors
    /// [`DatasetError::ShardMismatch`], or what the store says.
    pub async fn verify_shard(&self, shard: usize) -> Result<(), DatasetError> {
        let Some(expected) = self.index.shards.get(shard) else {
            return Err(self.mismatch(shard, "the index does not list it".to_owned()));
        };
        let data = self.store.get(&shard_path(shard)).await?;
        if *blake3::hash(&data).as_bytes() != expected.hash {
            return Err(self.mismatch(shard, "its hash differs".to_owned()));
        }
        Ok(())
    }

    /// The file name of a picture, as `train/CLASS/FILE`.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchImage`], [`DatasetError::BadIndex`] if the names are not those that
    /// the index belongs to, or what the store says.
    pub async fn name(&self, split: Split, index: u64) -> Result<String, DatasetError> {
        let (image, record) = self.record(split, index)?;
        let data = self.store.get(NAMES).await?;
        let name = (*blake3::hash(&data).as_bytes() == self.index.names.hash)
            .then(|| names::name_at(&data, image))
            .flatten();
        let name = name.ok_or_else(|| DatasetError::BadIndex {
            url: self.store.url().to_owned(),
            detail: format!("{NAMES} does not belong to it"),
        })?;
        let class = &self.index.classes[usize::from(record.label)].key;
        Ok(format!("{}/{class}/{name}", split.folder()))
    }

    fn record(&self, split: Split, index: u64) -> Result<(u64, Record), DatasetError> {
        let len = self.len(split);
        let first = match split {
            Split::Train => 0,
            Split::Validation => self.index.train,
        };
        let record = (index < len).then(|| self.index.record(first + index)).flatten();
        match record {
            Some(record) => Ok((first + index, record)),
            None => Err(DatasetError::NoSuchImage {
                url: self.store.url().to_owned(),
                split: split.folder(),
                index,
                len,
            }),
        }
    }

    async fn read_shard(
        &self,
        shard: usize,
        mut places: Vec<Place>,
    ) -> Result<Vec<(usize, Encoded)>, DatasetError> {
        places.sort_by_key(|place| place.record.offset);
        let ranges: Vec<_> = places
            .iter()
            .map(|Place { record, .. }| record.offset..record.offset + u64::from(record.length))
            .collect();
        let data = self.store.get_ranges(&shard_path(shard), &ranges).await?;
        let mut encoded = Vec::with_capacity(places.len());
        for (at, place) in places.iter().enumerate() {
            let Place { slot, image, record } = *place;
            let bytes = data.get(at).cloned().unwrap_or_default();
            if bytes.len() != record.length as usize || crc32c::crc32c(&bytes) != record.crc32c {
                return Err(self.altered(shard, image).await);
            }
            let encoding = self.index.encoding;
            encoded.push((slot, Encoded { bytes, label: record.label, encoding }));
        }
        Ok(encoded)
    }

    async fn altered(&self, shard: usize, image: u64) -> DatasetError {
        let (split, index) = match image.checked_sub(self.index.train) {
            None => (Split::Train, image),
            Some(index) => (Split::Validation, index),
        };
        // The name is a courtesy: without it the number has to do.
        let name = self.name(split, index).await.unwrap_or_else(|_| split.folder().to_owned());
        DatasetError::AlteredImage {
            url: self.store.url().to_owned(),
            shard: shard_path(shard),
            image: format!("{name} (number {index})"),
        }
    }

    async fn compare_sizes(&self) -> Result<(), DatasetError> {
        let listed = self.store.list(SHARDS).await?;
        let sizes: HashMap<&str, u64> =
            listed.iter().map(|stored| (stored.path.as_str(), stored.size)).collect();
        for (number, shard) in self.index.shards.iter().enumerate() {
            match sizes.get(shard_path(number).as_str()) {
                Some(&size) if size == shard.bytes => {}
                Some(size) => {
                    let expected = shard.bytes;
                    let detail = format!("{size} bytes where the index says {expected}");
                    return Err(self.mismatch(number, detail));
                }
                None => return Err(self.mismatch(number, "it is not there".to_owned())),
            }
        }
        Ok(())
    }

    pub(super) fn mismatch(&self, shard: usize, detail: String) -> DatasetError {
        let url = self.store.url().to_owned();
        DatasetError::ShardMismatch { url, shard: shard_path(shard), detail }
    }
}

/// A picture that was asked for.
#[derive(Clone, Copy)]
struct Place {
    /// Its place in the answer.
    slot: usize,
    /// Its number over both splits.
    image: u64,
    record: Record,
}
