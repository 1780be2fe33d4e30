//! A packed data set as its index tells it: what there is, and where it lies.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::index::{Defect, Index, Record, VERSION};
use super::journal::PLAN;
use super::{
    DatasetError, DatasetIdentity, Encoding, INDEX, NAMES, SHARDS, Split, names, shard_path,
};
use crate::store::{Store, StoreError};

/// How long a read may take where nobody says so; the default of `data.read_timeout`.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// A packed data set; cheap to clone.
#[derive(Clone)]
pub struct Dataset {
    pub(super) store: Store,
    pub(super) index: Arc<Index>,
    read_timeout: Duration,
    /// [`super::Class::shown`] of each.
    classes: Arc<[String]>,
}

/// Where an image lies, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// Number of its shard.
    pub shard: usize,
    /// Of its first byte, from the start of the shard.
    pub offset: u64,
    /// In bytes.
    pub length: u32,
    /// Its number over both splits.
    pub(super) image: u64,
    label: u16,
    crc32c: u32,
    encoding: Encoding,
}

impl Location {
    /// Its bytes within the shard.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + u64::from(self.length)
    }

    /// The image, if these are its bytes.
    pub fn check(&self, bytes: Bytes) -> Option<Encoded> {
        let good = bytes.len() == self.length as usize && crc32c::crc32c(&bytes) == self.crc32c;
        good.then_some(Encoded { bytes, label: self.label, encoding: self.encoding })
    }
}

/// A shard, as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardEntry {
    /// Size of the object.
    pub bytes: u64,
    /// BLAKE3 of the whole object.
    pub hash: [u8; 32],
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
                let unfinished =
                    !store.list(SHARDS).await?.is_empty() || store.exists(PLAN).await?;
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
        let (index, read_timeout) = (Arc::new(index), READ_TIMEOUT);
        Ok(Self { store, index, read_timeout, classes })
    }

    /// The same with another limit on how long a read may take, with all its tries; 30 s if this is
    /// never called.
    #[must_use]
    pub fn with_read_timeout(self, read_timeout: Duration) -> Self {
        Self { read_timeout, ..self }
    }

    /// How long a read may take.
    pub(crate) fn read_timeout(&self) -> Duration {
        self.read_timeout
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

    /// Size and hash of a shard; nothing for a number that the index does not list.
    pub fn shard(&self, shard: usize) -> Option<ShardEntry> {
        let shard = self.index.shards.get(shard)?;
        Some(ShardEntry { bytes: shard.bytes, hash: shard.hash })
    }

    /// Whether it lies in a folder of this machine.
    pub fn is_local(&self) -> bool {
        self.store.file_of("").is_some()
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

    /// Where pictures of a split lie, in the order asked for.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchImage`]
    pub fn locate(&self, split: Split, indices: &[u64]) -> Result<Vec<Location>, DatasetError> {
        let location = |&index: &u64| {
            let (image, record) = self.record(split, index)?;
            let Record { offset, length, label, crc32c } = record;
            let shard = self.index.shard_of(image);
            let encoding = self.index.encoding;
            Ok(Location { shard, offset, length, image, label, crc32c, encoding })
        };
        indices.iter().map(location).collect()
    }

    /// Reads pictures of a split, in the order asked for.
    ///
    /// # Errors
    /// [`DatasetError::NoSuchImage`], [`DatasetError::AlteredImage`] with the picture's name, or
    /// what the store says.
    pub async fn read(&self, split: Split, indices: &[u64]) -> Result<Vec<Encoded>, DatasetError> {
        self.read_at(self.locate(split, indices)?).await
    }

    /// What is said of a shard that is not what the index lists.
    pub(crate) fn mismatch(&self, shard: usize, detail: impl Into<String>) -> DatasetError {
        let url = self.store.url().to_owned();
        DatasetError::ShardMismatch { url, shard: shard_path(shard), detail: detail.into() }
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

    /// What is said of an image whose bytes are not its own.
    pub(super) async fn altered(&self, shard: usize, image: u64) -> DatasetError {
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
                None => return Err(self.mismatch(number, "it is not there")),
            }
        }
        Ok(())
    }
}
