//! What a packing leaves behind for the one that goes on after it was broken off.
//!
//! ```text
//! unfinished/plan        what is being packed and how, in the packer's own words
//! unfinished/owner       which packing is at it ([`super::owner`])
//! unfinished/00000.bin   what the index will need of shard 0; written after the shard itself
//! ```
//!
//! Each finished shard has a page of its own, so that none is ever rewritten. The pages of a data
//! set that has its index mean nothing, and whoever wrote the index removes them.
//!
//! ```text
//! page  magic 8 | version 4 | shard's bytes 8 | shard's BLAKE3 32 | training images 4
//!       images 4 | records 18 each | names' bytes 8 | names | pixel sums
//!       note's bytes 4 | note | BLAKE3 of all before 32
//! ```

use futures::{StreamExt as _, stream};

use super::index::{Cursor, Defect, Record, VERSION, seal};
use super::{PixelSums, numbered};
use crate::store::Store;

/// Folder of plan and pages under the data set's URL.
pub(super) const FOLDER: &str = "unfinished";

/// Path of the plan.
pub(super) const PLAN: &str = "unfinished/plan";

/// Path of what [`super::owner`] writes.
pub(super) const OWNER: &str = "unfinished/owner";

const MAGIC: &[u8; 8] = b"CNVYPAGE";
const HASH: usize = 32;

const DELETED_AT_ONCE: usize = 16;

/// Path of a shard's page.
pub(super) fn page_path(shard: usize) -> String {
    format!("{FOLDER}/{shard:05}.bin")
}

/// The shard whose page lies there.
pub(super) fn page_number(path: &str) -> Option<usize> {
    numbered(path, FOLDER, ".bin")
}

/// Removes the pages of a data set that has its index. One that stays does no harm.
pub(super) async fn remove_pages(store: &Store) {
    let pages = match store.list(FOLDER).await {
        Ok(pages) => pages,
        Err(error) => return tracing::warn!(%error, "the packing's journal could not be listed"),
    };
    stream::iter(pages.into_iter().filter(|it| page_number(&it.path).is_some()))
        .for_each_concurrent(DELETED_AT_ONCE, |page| async move {
            if let Err(error) = store.delete(&page.path).await {
                tracing::warn!(%error, page = page.path, "a page of the packing could not be removed");
            }
        })
        .await;
}

/// What is known of one finished shard.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) bytes: u64,
    pub(super) hash: [u8; HASH],
    /// Images of the training split among `records`; they come first.
    pub(super) train: u32,
    /// With the packer's own labels.
    pub(super) records: Vec<Record>,
    /// As [`super::names`] has them.
    pub(super) names: Vec<u8>,
    pub(super) sums: PixelSums,
    /// Whatever the packer needs to go on behind this shard.
    pub(super) note: Vec<u8>,
}

impl Page {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            PixelSums::BYTES + self.records.len() * Record::BYTES + self.names.len() + 4096,
        );
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&self.hash);
        out.extend_from_slice(&self.train.to_le_bytes());
        out.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        self.records.iter().for_each(|record| record.write(&mut out));
        out.extend_from_slice(&(self.names.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.names);
        self.sums.write(&mut out);
        out.extend_from_slice(&(self.note.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.note);
        seal(&mut out);
        out
    }

    /// `None` if the bytes are not a whole page of this version.
    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let (body, hash) = data.split_last_chunk::<HASH>()?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        Self::read(body).ok()
    }

    fn read(body: &[u8]) -> Result<Self, Defect> {
        let what = "a page";
        let mut cursor = Cursor { rest: body };
        if cursor.take(MAGIC.len(), what)? != MAGIC {
            return Err(Defect::Detail("no page".to_owned()));
        }
        match cursor.u32(what)? {
            VERSION => {}
            other => return Err(Defect::Version(other)),
        }
        let bytes = cursor.u64(what)?;
        let hash = cursor.array(what)?;
        let train = cursor.u32(what)?;
        let count = cursor.u32(what)?;
        let records = (0..count).map(|_| Record::read(&mut cursor)).collect::<Result<_, _>>()?;
        let names = usize::try_from(cursor.u64(what)?).unwrap_or(usize::MAX);
        let names = cursor.take(names, what)?.to_vec();
        let sums = PixelSums::read(
            cursor
                .take(PixelSums::BYTES, what)?
                .try_into()
                .expect("invariant: so many bytes were taken"),
        );
        let note = cursor.u32(what)? as usize;
        let note = cursor.take(note, what)?.to_vec();
        Ok(Self { bytes, hash, train, records, names, sums, note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_from_its_bytes_and_not_from_altered_or_cut_ones() {
        let record = Record { offset: 16, length: 3, label: 2, crc32c: 5 };
        let page = Page {
            bytes: 19,
            hash: [7; 32],
            train: 1,
            records: vec![record, record],
            names: b"\x01\0a\x01\0b".to_vec(),
            sums: PixelSums::default(),
            note: b"note".to_vec(),
        };
        let bytes = page.encode();
        assert_eq!(Page::decode(&bytes), Some(page));
        for place in (0..bytes.len()).step_by(50_021) {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            assert_eq!(Page::decode(&altered), None);
            assert_eq!(Page::decode(&bytes[..place]), None);
        }
    }
}
