//! Writes a packed data set: shards as they fill up, then the names, then the index.
//!
//! Memory holds one shard that fills, one that is on its way to the store, and what the index will
//! say. Whatever ends the writing early leaves no index, and so no data set. A writer that was told
//! a plan keeps a page for every finished shard ([`super::journal`]), and the next one with the same
//! plan goes on behind them.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::index::{Contents, NamesEntry, Record, Shard, shard_header};
use super::journal::{self, OWNER, PLAN, Page};
use super::owner::Owner;
use super::resume::{self, Kept, TakenUp};
use super::{
    Class, DatasetError, DatasetIdentity, Encoding, INDEX, NAMES, PixelStatistics, PixelSummary,
    PixelSums, SHARDS, Split, names, shard_path,
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
///
/// No shard holds pictures of both splits.
pub struct PackWriter {
    store: Store,
    sizes: Sizes,
    encoding: Encoding,
    open: Vec<u8>,
    /// Number of the open shard's first image.
    first: u64,
    /// Where the open shard's names begin.
    first_name: usize,
    shards: Vec<Shard>,
    records: Vec<Record>,
    train: u64,
    names: Vec<u8>,
    /// Of the finished shards.
    statistics: PixelStatistics,
    /// Of the open shard.
    sums: PixelSums,
    /// Of a writer that keeps pages.
    owner: Option<Owner>,
    upload: Option<JoinHandle<Result<(), DatasetError>>>,
}

impl PackWriter {
    /// Takes an empty place, or one where an earlier writing was broken off: its shards are removed.
    /// Nothing is kept for a later writer. Pictures are JPEGs of 256x256 pixels.
    ///
    /// Must be called within a tokio runtime, as all that follows.
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] if a data set is there, or what the store says.
    pub async fn start(store: Store, sizes: Sizes) -> Result<Self, DatasetError> {
        resume::take(&store).await?;
        Ok(Self::of(store, sizes, Encoding::default(), Kept::default(), None))
    }

    /// Takes an empty place, or goes on where a writer with the same plan was broken off; `restart`
    /// removes what such a writer left instead, whatever its plan was.
    ///
    /// `plan` says in the caller's words what decides about the bytes. Also returned are the notes
    /// of [`Self::close`] for the shards that are there, in their order. A writer that is still at it
    /// there ends with [`DatasetError::TakenOver`].
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] if a data set is there, [`DatasetError::OtherPacking`] if one with
    /// another plan was begun, or what the store says.
    pub async fn resume(
        store: Store,
        sizes: Sizes,
        encoding: Encoding,
        plan: &str,
        restart: bool,
    ) -> Result<(Self, Vec<Vec<u8>>), DatasetError> {
        let TakenUp { owner, kept, notes } = resume::take_up(&store, plan, restart).await?;
        Ok((Self::of(store, sizes, encoding, kept, Some(owner)), notes))
    }

    fn of(
        store: Store,
        sizes: Sizes,
        encoding: Encoding,
        kept: Kept,
        owner: Option<Owner>,
    ) -> Self {
        let Kept { shards, records, train, names, statistics } = kept;
        Self {
            store,
            sizes,
            encoding,
            open: shard_header(shards.len() as u32).to_vec(),
            first: records.len() as u64,
            first_name: names.len(),
            shards,
            records,
            train,
            names,
            statistics,
            sums: PixelSums::default(),
            owner,
            upload: None,
        }
    }

    /// Pictures taken so far.
    pub fn images(&self) -> u64 {
        self.records.len() as u64
    }

    /// Those of them that lie in finished shards.
    pub fn finished_images(&self) -> u64 {
        self.first
    }

    /// How many pictures of a split have each label, up to the greatest label of all.
    pub fn counts(&self, split: Split) -> Vec<u64> {
        let labels = self.records.iter().map(|record| usize::from(record.label) + 1).max();
        let mut counts = vec![0; labels.unwrap_or(0)];
        let (train, validation) = self.records.split_at(self.train as usize);
        let records = match split {
            Split::Train => train,
            Split::Validation => validation,
        };
        records.iter().for_each(|record| counts[usize::from(record.label)] += 1);
        counts
    }

    /// Whether the open shard must be closed before so many bytes of a split are appended.
    pub fn must_close(&self, split: Split, bytes: u64) -> bool {
        let open = self.first < self.images();
        let holds = if self.train < self.images() { Split::Validation } else { Split::Train };
        open && (split != holds || self.open.len() as u64 + bytes > self.sizes.shard)
    }

    /// Appends one picture, closing the open shard before if it must be.
    ///
    /// # Errors
    /// As [`Self::push`], or what the store says of an earlier shard.
    pub async fn append(
        &mut self,
        split: Split,
        label: u16,
        name: &str,
        picture: &[u8],
    ) -> Result<(), DatasetError> {
        if self.must_close(split, picture.len() as u64) {
            self.close(Vec::new()).await?;
        }
        self.push(split, label, name, picture)
    }

    /// Appends one picture to the open shard: its bytes in the data set's encoding, its label and
    /// its file's name.
    ///
    /// # Errors
    /// [`DatasetError::Unpackable`] for a training picture behind a validation picture, or one of a
    /// size that the encoding does not have.
    pub fn push(
        &mut self,
        split: Split,
        label: u16,
        name: &str,
        picture: &[u8],
    ) -> Result<(), DatasetError> {
        let unpackable = |detail: String| DatasetError::Unpackable { detail };
        let length = u32::try_from(picture.len())
            .ok()
            .filter(|&length| length > 0 && self.encoding.allows(length))
            .ok_or_else(|| unpackable(format!("{name} has {} bytes", picture.len())))?;
        if split == Split::Train {
            if self.train < self.images() {
                return Err(unpackable(format!("{name} of the training split comes too late")));
            }
            self.train += 1;
        }
        let offset = self.open.len() as u64;
        self.records.push(Record { offset, length, label, crc32c: crc32c::crc32c(picture) });
        self.open.extend_from_slice(picture);
        names::append(&mut self.names, name);
        Ok(())
    }

    /// Adds the pixels of training pictures that were pushed since the last [`Self::close`].
    pub fn add_sums(&mut self, sums: &PixelSums) {
        self.sums.merge(sums);
    }

    /// Closes the open shard and sends it off; `note` is kept with it for [`Self::resume`].
    ///
    /// # Errors
    /// [`DatasetError::TakenOver`], or what the store says, of an earlier shard.
    pub async fn close(&mut self, note: Vec<u8>) -> Result<(), DatasetError> {
        self.settle().await?;
        let number = self.shards.len();
        let next = u32::try_from(number + 1).map_err(|_| DatasetError::Unpackable {
            detail: "more shards than can be counted".to_owned(),
        })?;
        let full = std::mem::replace(&mut self.open, shard_header(next).to_vec());
        let shard = Shard {
            bytes: full.len() as u64,
            first: self.first,
            hash: *blake3::hash(&full).as_bytes(),
        };
        self.statistics.add_sums(&self.sums);
        let page = self.owner.clone().map(|owner| (owner, self.page(&shard, note)));
        self.sums.clear();
        self.shards.push(shard);
        self.first = self.images();
        self.first_name = self.names.len();
        let store = self.store.clone();
        self.upload = Some(tokio::spawn(async move {
            let (path, full) = (shard_path(number), Bytes::from(full));
            let Some((owner, page)) = page else { return Ok(store.put(&path, full).await?) };
            owner.put(&path, full).await?;
            owner.put(&journal::page_path(number), Bytes::from(page)).await
        }));
        Ok(())
    }

    fn page(&self, shard: &Shard, note: Vec<u8>) -> Vec<u8> {
        Page {
            bytes: shard.bytes,
            hash: shard.hash,
            train: self.train.saturating_sub(shard.first) as u32,
            records: self.records[shard.first as usize..].to_vec(),
            names: self.names[self.first_name..].to_vec(),
            sums: self.sums.clone(),
            note,
        }
        .encode()
    }

    /// Waits for the shard that is on its way; the store's own deadlines bound the wait.
    ///
    /// # Errors
    /// [`DatasetError::TakenOver`] if another writer was begun there, or what the store says.
    pub async fn settle(&mut self) -> Result<(), DatasetError> {
        match self.upload.take() {
            None => Ok(()),
            Some(upload) => match upload.await {
                Ok(outcome) => outcome,
                Err(_) => Err(DatasetError::Unpackable {
                    detail: "the upload of a shard was broken off".to_owned(),
                }),
            },
        }
    }

    /// Writes what is left, and the index last and create-only: now the data set exists. Labels are
    /// places in `classes`, which must be in order.
    ///
    /// # Errors
    /// As [`Self::finish_as`].
    pub async fn finish(
        self,
        classes: &[String],
        pixels: &PixelSummary,
    ) -> Result<Packed, DatasetError> {
        let class = |key: &String| Class { key: key.clone(), title: String::new() };
        let classes: Vec<Class> = classes.iter().map(class).collect();
        let labels: Vec<u16> = (0..=u16::MAX).take(classes.len()).collect();
        self.conclude(&classes, &labels, Some(pixels), Vec::new()).await
    }

    /// The same, where the label `n` so far is to become `labels[n]`, a place in `classes`, and the
    /// pixels are those of [`Self::add_sums`].
    ///
    /// # Errors
    /// [`DatasetError::Occupied`] if another writer was first, [`DatasetError::TakenOver`] if one was
    /// begun there since, [`DatasetError::Disturbed`] if a shard is not as it was written,
    /// [`DatasetError::Unpackable`] without pictures or with classes that the format cannot hold, or
    /// what the store says.
    pub async fn finish_as(
        self,
        classes: &[Class],
        labels: &[u16],
        note: Vec<u8>,
    ) -> Result<Packed, DatasetError> {
        self.conclude(classes, labels, None, note).await
    }

    async fn conclude(
        mut self,
        classes: &[Class],
        labels: &[u16],
        pixels: Option<&PixelSummary>,
        note: Vec<u8>,
    ) -> Result<Packed, DatasetError> {
        self.check(classes, labels)?;
        if self.first < self.images() {
            self.close(note).await?;
        }
        self.settle().await?;
        self.check_owner().await?;
        for record in &mut self.records {
            record.label = labels[usize::from(record.label)];
        }
        let hash = *blake3::hash(&self.names).as_bytes();
        let entry = NamesEntry { bytes: self.names.len() as u64, hash };
        let names = Bytes::from(std::mem::take(&mut self.names));
        match &self.owner {
            Some(owner) => owner.put(NAMES, names).await?,
            None => self.store.put(NAMES, names).await?,
        }
        let summed = self.statistics.summary();
        let index = Contents {
            encoding: self.encoding,
            classes,
            shards: &self.shards,
            train: self.train,
            records: &self.records,
            names: &entry,
            pixels: pixels.unwrap_or(&summed),
        }
        .encode();
        let digest = blake3::Hash::from_slice(&index[index.len() - blake3::OUT_LEN..])
            .expect("invariant: an index ends with a hash");
        let shard_bytes: u64 = self.shards.iter().map(|shard| shard.bytes).sum();
        let bytes = shard_bytes + entry.bytes + index.len() as u64;
        self.compare_sizes().await?;
        self.check_owner().await?;
        match self.store.create(INDEX, Bytes::from(index)).await {
            Ok(()) => {}
            Err(StoreError::Exists { .. }) => {
                return Err(DatasetError::Occupied { url: self.store.url().to_owned() });
            }
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = self.check_owner().await {
            // One that began meanwhile may not have seen the index, and removes the shards.
            if matches!(error, DatasetError::TakenOver { .. }) {
                self.store.delete(INDEX).await?;
            }
            return Err(error);
        }
        if self.owner.is_some() {
            self.remove_journal().await;
        }
        let identity = DatasetIdentity {
            digest: digest.to_hex().to_string(),
            train: self.train,
            validation: self.images() - self.train,
            classes: classes.len() as u32,
        };
        Ok(Packed { identity, shards: self.shards.len(), bytes })
    }

    async fn check_owner(&self) -> Result<(), DatasetError> {
        match &self.owner {
            Some(owner) => owner.check().await,
            None => Ok(()),
        }
    }

    /// Refuses if a shard is missing or of another size than it was written with.
    async fn compare_sizes(&self) -> Result<(), DatasetError> {
        let listed = self.store.list(SHARDS).await?;
        let sizes: HashMap<String, u64> = listed.into_iter().map(|it| (it.path, it.size)).collect();
        for (number, shard) in self.shards.iter().enumerate() {
            let path = shard_path(number);
            let detail = match sizes.get(&path) {
                Some(size) if *size == shard.bytes => continue,
                Some(size) => format!("it has {size} bytes, and {} were written", shard.bytes),
                None => "it is not there".to_owned(),
            };
            let url = self.store.url().to_owned();
            return Err(DatasetError::Disturbed { url, shard: path, detail });
        }
        Ok(())
    }

    /// The data set is there: its journal means nothing now, and what stays of it does no harm.
    async fn remove_journal(&self) {
        journal::remove_pages(&self.store).await;
        for path in [PLAN, OWNER] {
            if let Err(error) = self.store.delete(path).await {
                tracing::warn!(%error, path, "a part of the packing's journal could not be removed");
            }
        }
    }

    fn check(&self, classes: &[Class], labels: &[u16]) -> Result<(), DatasetError> {
        let unpackable = |detail: String| Err(DatasetError::Unpackable { detail });
        if self.train == 0 {
            return unpackable("there is no image to train on".to_owned());
        }
        if classes.is_empty() || classes.len() > usize::from(u16::MAX) {
            return unpackable(format!("{} classes, and 1 to 65535 can be held", classes.len()));
        }
        let mut texts = classes.iter().flat_map(|class| [&class.key, &class.title]);
        if let Some(text) = texts.find(|text| text.len() > usize::from(u16::MAX)) {
            return unpackable(format!("a class name of {} bytes", text.len()));
        }
        if let Some(pair) = classes.windows(2).find(|pair| pair[0].key >= pair[1].key) {
            return unpackable(format!("class {:?} before {:?}", pair[0].key, pair[1].key));
        }
        let has_class = |label: u16| {
            labels.get(usize::from(label)).is_some_and(|&it| usize::from(it) < classes.len())
        };
        match self.records.iter().find(|record| !has_class(record.label)) {
            Some(record) => unpackable(format!("label {} has no class", record.label)),
            None => Ok(()),
        }
    }
}
