//! What a data set consists of, and whether every byte of it is as it was packed.

use bytes::Bytes;

use super::{Dataset, DatasetError, NAMES, Split, names, shard_path};
use crate::store::StoreError;

impl Dataset {
    /// How many pictures of a split each class has.
    pub fn counts(&self, split: Split) -> Vec<u64> {
        let mut counts = vec![0; self.classes().len()];
        (0..self.len(split)).for_each(|image| counts[usize::from(self.label(split, image))] += 1);
        counts
    }

    /// Size of a shard as the index has it, in bytes; 0 beyond the last.
    pub fn shard_bytes(&self, shard: usize) -> u64 {
        self.index.shards.get(shard).map_or(0, |shard| shard.bytes)
    }

    /// Reads the names and compares them with the index.
    ///
    /// # Errors
    /// [`DatasetError::BadIndex`] if they are not those that belong to it, or what the store says.
    pub async fn names(&self) -> Result<Bytes, DatasetError> {
        let alien = || DatasetError::BadIndex {
            url: self.url().to_owned(),
            detail: format!("{NAMES} does not belong to it"),
        };
        match self.store.get(NAMES).await {
            Ok(names) if *blake3::hash(&names).as_bytes() == self.index.names.hash => Ok(names),
            Ok(_) | Err(StoreError::NotFound { .. }) => Err(alien()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a whole shard and compares its hash and every picture's checksum with the index;
    /// returns all that does not hold. `names` are those of [`Self::names`], or empty.
    ///
    /// # Errors
    /// What the store says, other than that the shard is not there.
    pub async fn inspect(
        &self,
        shard: usize,
        names: &Bytes,
    ) -> Result<Vec<DatasetError>, DatasetError> {
        let data = match self.store.get(&shard_path(shard)).await {
            Ok(data) => data,
            Err(StoreError::NotFound { .. }) => {
                return Ok(vec![self.mismatch(shard, "it is not there")]);
            }
            Err(error) => return Err(error.into()),
        };
        let (dataset, names) = (self.clone(), names.clone());
        // Hashing works a core to the full.
        let compared =
            tokio::task::spawn_blocking(move || dataset.compare(shard, &data, &names)).await;
        compared.map_err(|_| self.mismatch(shard, "comparing it was broken off"))
    }

    fn compare(&self, shard: usize, data: &[u8], names: &[u8]) -> Vec<DatasetError> {
        let Some(expected) = self.index.shards.get(shard) else {
            return vec![self.mismatch(shard, "the index does not list it")];
        };
        let mut problems = Vec::new();
        if data.len() as u64 != expected.bytes {
            let detail = format!("{} bytes where the index says {}", data.len(), expected.bytes);
            problems.push(self.mismatch(shard, detail));
        } else if *blake3::hash(data).as_bytes() != expected.hash {
            problems.push(self.mismatch(shard, "its hash differs"));
        }
        let end = self.index.shards.get(shard + 1).map_or(self.index.images(), |shard| shard.first);
        for image in expected.first..end {
            let Some(record) = self.index.record(image) else { break };
            let start = usize::try_from(record.offset).unwrap_or(usize::MAX);
            let bytes =
                start.checked_add(record.length as usize).and_then(|end| data.get(start..end));
            if bytes.map(crc32c::crc32c) != Some(record.crc32c) {
                problems.push(self.altered_image(shard, image, record.label, names));
            }
        }
        problems
    }

    fn altered_image(&self, shard: usize, image: u64, label: u16, names: &[u8]) -> DatasetError {
        let (split, index) = match image.checked_sub(self.index.train) {
            None => (Split::Train, image),
            Some(index) => (Split::Validation, index),
        };
        let key = self.index.classes.get(usize::from(label)).map_or("", |class| &class.key);
        let name = names::name_at(names, image).unwrap_or_default();
        DatasetError::AlteredImage {
            url: self.url().to_owned(),
            shard: shard_path(shard),
            image: format!("{}/{key}/{name} (number {index})", split.folder()),
        }
    }
}
