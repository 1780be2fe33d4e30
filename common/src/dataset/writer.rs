//! Writes a packed data set: shards as they fill up, then the names, then the index.
//!
//! Memory holds one shard that fills and at most one that is on its way to the store. Whatever
//! ends the writing early leaves no index, and so no data set; the next attempt takes the place.

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::index::{Contents, NamesEntry, Record, Shard, shard_header};
use super::{
    Class, DatasetError, DatasetIdentity, Encoding, INDEX, NAMES, PixelSummary, SHARDS, Split,
    names, shard_path,
};
use crate::store::{Store, StoreError};

/// How large the parts become.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A shard is closed when one more picture would take it beyond this many bytes.
    pub shard: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { shard: 64 << 20 }
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Packed {
    /// As [`super::Dataset::identity`] will say.
    pub identity: DatasetIdentity,
    /// Objects with pictures.
    pub shards: usize,
    /// Bytes of all objects together.
    pub bytes: u64,
}

/// Takes pictures in their final order, training split first.
pub struct PackWriter {
    store: Store,
    sizes: Sizes,
    open: Vec<u8>,
    first: u64,
    shards: Vec<Shard>,
    records: Vec<Record>,
    train: u64,
    names: Vec<u8>,
    upload: Option<JoinHandle<Result<(), StoreError>>>,
}

impl PackWriter {
    /// Takes an empty place, or one where an earlier writing was broken off: its shards are removed.
    ///
    /// Must be called within a tokio runtime, as all that follows.
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] if a data set is there, or what the store says.
    pub async fn start(store: Store, sizes: Sizes) -> Result<Self, DatasetError> {
        if store.exists(INDEX).await? {
            return Err(DatasetError::Occupied { url: store.url().to_owned() });
        }
        for left in store.list(SHARDS).await? {
            if is_shard(&left.path) {
                store.delete(&left.path).await?;
            }
        }
        Ok(Self {
            store,
            sizes,
            open: shard_header(0).to_vec(),
            first: 0,
            shards: Vec::new(),
            records: Vec::new(),
            train: 0,
            names: Vec::new(),
            upload: None,
        })
    }

    /// Appends one picture: an encoded JPEG of 256x256 pixels, its label and its file's name.
    ///
    /// # Errors
    /// [`DatasetError::Unpackable`] for a training picture behind a validation picture, an empty
    /// one, or one that passes 4 GiB; or what the store says of an earlier shard.
    pub async fn append(
        &mut self,
        split: Split,
        label: u16,
        name: &str,
        jpeg: &[u8],
    ) -> Result<(), DatasetError> {
        let unpackable = |detail: String| DatasetError::Unpackable { detail };
        let length = u32::try_from(jpeg.len())
            .ok()
            .filter(|&length| length > 0)
            .ok_or_else(|| unpackable(format!("{name} has {} bytes", jpeg.len())))?;
        if split == Split::Train {
            if self.train < self.records.len() as u64 {
                return Err(unpackable(format!("{name} of the training split comes too late")));
            }
            self.train += 1;
        }
        let is_open = self.first < self.records.len() as u64;
        if is_open && (self.open.len() + jpeg.len()) as u64 > self.sizes.shard {
            self.close_shard().await?;
        }
        let record =
            Record { offset: self.open.len() as u64, length, label, crc32c: crc32c::crc32c(jpeg) };
        self.records.push(record);
        self.open.extend_from_slice(jpeg);
        names::append(&mut self.names, name);
        Ok(())
    }

    /// Writes what is left, and the index last and create-only: now the data set exists.
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] if another writer was first, [`DatasetError::Unpackable`] without
    /// pictures or with classes that the format cannot hold, or what the store says.
    pub async fn finish(
        mut self,
        classes: &[String],
        pixels: &PixelSummary,
    ) -> Result<Packed, DatasetError> {
        let classes: Vec<Class> =
            classes.iter().map(|key| Class { key: key.clone(), title: String::new() }).collect();
        let classes = &classes;
        self.check(classes)?;
        self.close_shard().await?;
        self.settle().await?;
        let hash = *blake3::hash(&self.names).as_bytes();
        let entry = NamesEntry { bytes: self.names.len() as u64, hash };
        self.store.put(NAMES, Bytes::from(std::mem::take(&mut self.names))).await?;
        let index = Contents {
            encoding: Encoding::default(),
            classes,
            shards: &self.shards,
            train: self.train,
            records: &self.records,
            names: &entry,
            pixels,
        }
        .encode();
        let digest = blake3::Hash::from_slice(&index[index.len() - blake3::OUT_LEN..])
            .expect("invariant: an index ends with a hash");
        let shard_bytes: u64 = self.shards.iter().map(|shard| shard.bytes).sum();
        let bytes = shard_bytes + entry.bytes + index.len() as u64;
        match self.store.create(INDEX, Bytes::from(index)).await {
            Ok(()) => {}
            Err(StoreError::Exists { .. }) => {
                return Err(DatasetError::Occupied { url: self.store.url().to_owned() });
            }
            Err(error) => return Err(error.into()),
        }
        let identity = DatasetIdentity {
            digest: digest.to_hex().to_string(),
            train: self.train,
            validation: self.records.len() as u64 - self.train,
            classes: classes.len() as u32,
        };
        Ok(Packed { identity, shards: self.shards.len(), bytes })
    }

    fn check(&self, classes: &[Class]) -> Result<(), DatasetError> {
        let unpackable = |detail: String| Err(DatasetError::Unpackable { detail });
        if self.train == 0 {
            return unpackable("there is no image to train on".to_owned());
        }
        if classes.is_empty() || classes.len() > usize::from(u16::MAX) {
            return unpackable(format!("{} classes, and 1 to 65535 can be held", classes.len()));
        }
        let texts = classes.iter().flat_map(|class| [&class.key, &class.title]);
        if let Some(text) = texts.into_iter().find(|text| text.len() > usize::from(u16::MAX)) {
            return unpackable(format!("a class name of {} bytes", text.len()));
        }
        match self.records.iter().find(|record| usize::from(record.label) >= classes.len()) {
            Some(record) => unpackable(format!("label {} has no class", record.label)),
            None => Ok(()),
        }
    }

    async fn close_shard(&mut self) -> Result<(), DatasetError> {
        self.settle().await?;
        let number = self.shards.len();
        let next = u32::try_from(number + 1).map_err(|_| DatasetError::Unpackable {
            detail: "more shards than can be counted".to_owned(),
        })?;
        let full = std::mem::replace(&mut self.open, shard_header(next).to_vec());
        let hash = *blake3::hash(&full).as_bytes();
        self.shards.push(Shard { bytes: full.len() as u64, first: self.first, hash });
        self.first = self.records.len() as u64;
        let store = self.store.clone();
        self.upload =
            Some(tokio::spawn(
                async move { store.put(&shard_path(number), Bytes::from(full)).await },
            ));
        Ok(())
    }

    /// Waits for the shard that is on its way; the store's own deadlines bound the wait.
    async fn settle(&mut self) -> Result<(), DatasetError> {
        match self.upload.take() {
            None => Ok(()),
            Some(upload) => match upload.await {
                Ok(outcome) => Ok(outcome?),
                Err(_) => Err(DatasetError::Unpackable {
                    detail: "the upload of a shard was broken off".to_owned(),
                }),
            },
        }
    }
}

/// Whether a path is one that this writer makes, so that nothing else is ever removed.
fn is_shard(path: &str) -> bool {
    let number = path.strip_prefix(SHARDS).and_then(|rest| rest.strip_prefix('/'));
    let number = number.and_then(|rest| rest.strip_suffix(".convoy"));
    number
        .is_some_and(|number| number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}
