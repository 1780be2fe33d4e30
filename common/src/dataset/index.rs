//! The index's bytes, little-endian.
//!
//! ```text
//! header   magic 8 | version 4 | side 4 | encoding 4 | classes 4 | shards 4 | train 8
//!          validation 8 | names' bytes 8 | names' BLAKE3 32
//! classes  length 2 | key in UTF-8 | length 2 | title in UTF-8, for each, in the order of the keys
//! shards   bytes 8 | number of its first image 8 | BLAKE3 32, for each
//! images   offset 8 | length 4 | label 2 | CRC-32C 4, for each: train first, then validation
//! pixels   mean image, 3 x 256 x 256 f32 | covariance, 9 f64
//! end      BLAKE3 of all before: the data set's digest, 32
//! ```
//!
//! Images lie in the shards in the order of their numbers, so the shard of one is found from the
//! shards' first numbers. Whoever holds an [`Index`] may rely on it: every place lies within its
//! shard, every label has a class.

use bytes::Bytes;

use super::{Class, Encoding, PixelSummary, SIDE};

pub(super) const VERSION: u32 = 2;
const MAGIC: &[u8; 8] = b"CNVYDATA";
const RECORD: usize = 18;
const SHARD_ENTRY: usize = 48;
const HASH: usize = 32;
const MEAN: usize = (3 * SIDE * SIDE) as usize;
/// What stands at the start of a shard: magic, version and its number.
pub(super) const SHARD_HEADER: u64 = 16;

pub(super) fn shard_header(shard: u32) -> [u8; SHARD_HEADER as usize] {
    let mut header = [0; SHARD_HEADER as usize];
    header[..8].copy_from_slice(b"CNVYSHRD");
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..].copy_from_slice(&shard.to_le_bytes());
    header
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// From the start of the shard's object.
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) label: u16,
    pub(super) crc32c: u32,
}

impl Record {
    pub(super) const BYTES: usize = RECORD;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.label.to_le_bytes());
        out.extend_from_slice(&self.crc32c.to_le_bytes());
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, Defect> {
        Ok(Self {
            offset: cursor.u64("a record")?,
            length: cursor.u32("a record")?,
            label: cursor.u16("a record")?,
            crc32c: cursor.u32("a record")?,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shard {
    /// Size of the object.
    pub(super) bytes: u64,
    /// Number of its first image, counted over both splits.
    pub(super) first: u64,
    pub(super) hash: [u8; HASH],
}

/// What a data set consists of, without its images' bytes and names.
#[derive(Clone, Debug)]
pub(super) struct Index {
    pub(super) train: u64,
    pub(super) validation: u64,
    pub(super) encoding: Encoding,
    pub(super) classes: Vec<Class>,
    pub(super) shards: Vec<Shard>,
    pub(super) names: NamesEntry,
    pub(super) pixels: PixelSummary,
    pub(super) digest: [u8; HASH],
    /// The records as they are stored; 24 bytes each if they were unpacked.
    records: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamesEntry {
    pub(super) bytes: u64,
    pub(super) hash: [u8; HASH],
}

/// Why bytes are not an index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Defect {
    Version(u32),
    Detail(String),
}

/// What goes into an index.
pub(super) struct Contents<'a> {
    pub(super) encoding: Encoding,
    pub(super) classes: &'a [Class],
    pub(super) shards: &'a [Shard],
    pub(super) train: u64,
    pub(super) records: &'a [Record],
    pub(super) names: &'a NamesEntry,
    pub(super) pixels: &'a PixelSummary,
}

impl Contents<'_> {
    /// The index's bytes, the digest at their end.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MEAN * 4 + self.records.len() * RECORD + 4096);
        out.extend_from_slice(MAGIC);
        let (classes, shards) = (self.classes.len() as u32, self.shards.len() as u32);
        let counts = [VERSION, SIDE, self.encoding.number(), classes, shards];
        counts.iter().for_each(|count| out.extend_from_slice(&count.to_le_bytes()));
        let validation = self.records.len() as u64 - self.train;
        for size in [self.train, validation, self.names.bytes] {
            out.extend_from_slice(&size.to_le_bytes());
        }
        out.extend_from_slice(&self.names.hash);
        for text in self.classes.iter().flat_map(|class| [&class.key, &class.title]) {
            out.extend_from_slice(&(text.len() as u16).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        for shard in self.shards {
            out.extend_from_slice(&shard.bytes.to_le_bytes());
            out.extend_from_slice(&shard.first.to_le_bytes());
            out.extend_from_slice(&shard.hash);
        }
        self.records.iter().for_each(|record| record.write(&mut out));
        self.pixels.mean_image.iter().for_each(|mean| out.extend_from_slice(&mean.to_le_bytes()));
        self.pixels.covariance.iter().for_each(|it| out.extend_from_slice(&it.to_le_bytes()));
        seal(&mut out);
        out
    }
}

/// Puts the hash of all before at the end.
pub(super) fn seal(out: &mut Vec<u8>) {
    let digest = blake3::hash(out);
    out.extend_from_slice(digest.as_bytes());
}

/// A reader that never passes the end.
pub(super) struct Cursor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Defect> {
        let split = self.rest.split_at_checked(length);
        let (taken, rest) = split.ok_or_else(|| defect(format!("it ends within {what}")))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Defect> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn u16(&mut self, what: &str) -> Result<u16, Defect> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Defect> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Defect> {
        self.array(what).map(u64::from_le_bytes)
    }
}

fn defect(detail: impl Into<String>) -> Defect {
    Defect::Detail(detail.into())
}

impl Index {
    /// Reads an index, and checks all that [`Index`] promises.
    pub(super) fn decode(data: &Bytes) -> Result<Self, Defect> {
        let mut header = Cursor { rest: data };
        if header.take(MAGIC.len(), "its magic")? != MAGIC {
            return Err(defect("it does not begin as an index does"));
        }
        let version = header.u32("its version")?;
        if version != VERSION {
            return Err(Defect::Version(version));
        }
        let body = data.len().checked_sub(HASH).ok_or_else(|| defect("it is cut short"))?;
        let digest = *blake3::hash(&data[..body]).as_bytes();
        if digest != data[body..] {
            return Err(defect("it is cut short or altered: its hash does not match"));
        }
        let mut cursor = Cursor { rest: &data[MAGIC.len() + 4..body] };
        let side = cursor.u32("its header")?;
        if side != SIDE {
            return Err(defect(format!("images of {side} pixels a side instead of {SIDE}")));
        }
        let encoding = cursor.u32("its header")?;
        let encoding = Encoding::from_number(encoding)
            .ok_or_else(|| defect(format!("images in an unknown encoding ({encoding})")))?;
        let classes = cursor.u32("its header")?;
        let shards = cursor.u32("its header")?;
        let train = cursor.u64("its header")?;
        let validation = cursor.u64("its header")?;
        let names =
            NamesEntry { bytes: cursor.u64("its header")?, hash: cursor.array("its header")? };
        let classes = decode_classes(&mut cursor, classes)?;
        let images = train
            .checked_add(validation)
            .ok_or_else(|| defect("more images than can be counted"))?;
        let shards = decode_shards(&mut cursor, shards, images)?;
        let size = usize::try_from(images)
            .ok()
            .and_then(|images| images.checked_mul(RECORD))
            .ok_or_else(|| defect("more images than can be held"))?;
        let records = data.slice_ref(cursor.take(size, "its images")?);
        let pixels = decode_pixels(&mut cursor)?;
        if !cursor.rest.is_empty() {
            return Err(defect(format!("{} bytes too many", cursor.rest.len())));
        }
        let index =
            Self { train, validation, encoding, classes, shards, names, pixels, digest, records };
        index.check_records()?;
        Ok(index)
    }

    /// Images of both splits.
    pub(super) fn images(&self) -> u64 {
        self.train + self.validation
    }

    /// The record of an image, counted over both splits; `None` beyond the end.
    pub(super) fn record(&self, image: u64) -> Option<Record> {
        let start = usize::try_from(image).ok()?.checked_mul(RECORD)?;
        let mut cursor = Cursor { rest: self.records.get(start..start.checked_add(RECORD)?)? };
        Record::read(&mut cursor).ok()
    }

    /// The shard that holds an image.
    pub(super) fn shard_of(&self, image: u64) -> usize {
        self.shards.partition_point(|shard| shard.first <= image).saturating_sub(1)
    }

    fn check_records(&self) -> Result<(), Defect> {
        let mut shard = 0;
        let mut free = SHARD_HEADER;
        for image in 0..self.images() {
            while self.shards.get(shard + 1).is_some_and(|next| next.first <= image) {
                shard += 1;
                free = SHARD_HEADER;
            }
            let Some(record) = self.record(image) else { return Err(defect("it is cut short")) };
            let end = record.offset.checked_add(u64::from(record.length));
            let bytes = self.shards.get(shard).map_or(0, |shard| shard.bytes);
            match end {
                Some(end) if record.offset >= free && end <= bytes => free = end,
                _ => return Err(defect(format!("image {image} lies outside shard {shard}"))),
            }
            if !self.encoding.allows(record.length) {
                let length = record.length;
                return Err(defect(format!("image {image} has {length} bytes")));
            }
            if usize::from(record.label) >= self.classes.len() {
                let label = record.label;
                return Err(defect(format!("image {image} has label {label}, which has no class")));
            }
        }
        Ok(())
    }
}

fn decode_classes(cursor: &mut Cursor<'_>, count: u32) -> Result<Vec<Class>, Defect> {
    if count == 0 || count > u32::from(u16::MAX) {
        return Err(defect(format!("{count} classes")));
    }
    let mut classes: Vec<Class> = Vec::new();
    for number in 0..count {
        let mut text = || {
            let length = cursor.u16("its classes")?;
            let text = cursor.take(usize::from(length), "its classes")?;
            let text = std::str::from_utf8(text)
                .map_err(|_| defect(format!("the name of class {number} is not text")))?;
            Ok(text.to_owned())
        };
        let class = Class { key: text()?, title: text()? };
        if classes.last().is_some_and(|last| last.key >= class.key) {
            return Err(defect(format!("class {number} is not in order")));
        }
        classes.push(class);
    }
    Ok(classes)
}

fn decode_shards(cursor: &mut Cursor<'_>, count: u32, images: u64) -> Result<Vec<Shard>, Defect> {
    let size =
        (count as usize).checked_mul(SHARD_ENTRY).ok_or_else(|| defect("too many shards"))?;
    let mut table = Cursor { rest: cursor.take(size, "its shards")? };
    let mut shards = Vec::with_capacity(count as usize);
    let mut next = 0;
    for number in 0..count {
        let shard = Shard {
            bytes: table.u64("its shards")?,
            first: table.u64("its shards")?,
            hash: table.array("its shards")?,
        };
        let ordered = if number == 0 { shard.first == 0 } else { shard.first >= next };
        if !ordered || shard.first >= images {
            return Err(defect(format!("shard {number} begins at image {}", shard.first)));
        }
        next = shard.first + 1;
        shards.push(shard);
    }
    if images > 0 && shards.is_empty() {
        return Err(defect("images without shards"));
    }
    Ok(shards)
}

fn decode_pixels(cursor: &mut Cursor<'_>) -> Result<PixelSummary, Defect> {
    let means = cursor.take(MEAN * 4, "its mean image")?;
    let mut mean_image = Vec::with_capacity(MEAN);
    for bytes in means.chunks_exact(4) {
        let mean = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if !(0.0..=255.0).contains(&mean) {
            return Err(defect(format!("a mean pixel of {mean}")));
        }
        mean_image.push(mean);
    }
    let mut covariance = [0.0; 9];
    for value in &mut covariance {
        *value = f64::from_le_bytes(cursor.array("its covariance")?);
        if !value.is_finite() {
            return Err(defect(format!("a covariance of {value}")));
        }
    }
    Ok(PixelSummary { mean_image, covariance })
}
