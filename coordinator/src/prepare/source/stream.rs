//! Reads a part of a file or object from front to back, in blocks, and can pass over bytes.
//!
//! From a store the next block is fetched while this one is used, so that many streams at once hide
//! the store's latency. Deadlines and retries are the store's.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use convoy_common::store::StoreError;
use tokio::task::JoinHandle;

use super::super::PrepareError;
use super::place::{Place, Remote};

/// Bytes read at a time from this machine and from a store.
const LOCAL_BLOCK: usize = 256 << 10;
const REMOTE_BLOCK: u64 = 1 << 20;
/// What may stand behind a tar's end; archivers fill up a block of some kilobytes.
const MOST_PADDING: u64 = 64 << 20;

/// A reader that can pass over bytes without reading them, or at a pinch by reading them.
pub(super) trait Passing: Read + Send {
    /// Passes over so many bytes; an error if there are fewer.
    fn pass(&mut self, bytes: u64) -> io::Result<()>;

    /// Bytes of the underlying file that were gone through.
    fn gone_through(&self) -> u64;

    /// Bytes that were read or passed over.
    fn position(&self) -> u64;

    /// Goes to the end and looks whether all that was read was right, where the form tells.
    fn finish(&mut self) -> io::Result<()>;
}

/// A range of a file or object.
pub(super) struct Stream {
    origin: Origin,
    start: u64,
    position: u64,
    end: u64,
    /// Bytes that were read last, and where they begin.
    block: Bytes,
    block_start: u64,
}

enum Origin {
    Local { file: File, block: usize },
    Remote(Box<Fetching>),
}

struct Fetching {
    remote: Remote,
    ahead: Option<Ahead>,
}

struct Ahead {
    start: u64,
    fetch: JoinHandle<Result<Bytes, StoreError>>,
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.fetch.abort();
    }
}

impl Stream {
    /// Opens a range, which lies within the file.
    pub(super) fn open(place: &Place, range: Range<u64>) -> Result<Self, PrepareError> {
        Self::with_block(place, range, LOCAL_BLOCK)
    }

    /// For a walk over headers alone: reads little at a time, and nothing ahead.
    pub(super) fn for_headers(place: &Place, range: Range<u64>) -> Result<Self, PrepareError> {
        Self::with_block(place, range, 1024)
    }

    fn with_block(place: &Place, range: Range<u64>, block: usize) -> Result<Self, PrepareError> {
        let origin = match place {
            Place::Local(path) => {
                let file = Place::open_local(path).map_err(|source| place.unreadable(source))?;
                Origin::Local { file, block }
            }
            Place::Remote(remote) => {
                Origin::Remote(Box::new(Fetching { remote: remote.clone(), ahead: None }))
            }
        };
        Ok(Self {
            origin,
            start: range.start,
            position: range.start,
            end: range.end,
            block: Bytes::new(),
            block_start: range.start,
        })
    }

    /// Makes the block hold the byte at the position, which is before the end.
    fn load(&mut self) -> io::Result<()> {
        let held = self.block_start..self.block_start + self.block.len() as u64;
        if held.contains(&self.position) {
            return Ok(());
        }
        let left = self.end - self.position;
        self.block = match &mut self.origin {
            Origin::Local { file, block } => {
                let mut buffer = vec![0; left.min(*block as u64) as usize];
                let read = file.read_at(&mut buffer, self.position)?;
                buffer.truncate(read);
                buffer.into()
            }
            Origin::Remote(fetching) => {
                let Fetching { remote, ahead } = fetching.as_mut();
                let fetch = |range: Range<u64>| remote.clone().fetch(range);
                let range = self.position..self.position + left.min(REMOTE_BLOCK);
                let next = range.end..self.end.min(range.end + REMOTE_BLOCK);
                let block = match ahead.take() {
                    Some(mut ahead) if ahead.start == self.position => {
                        remote.runtime.block_on(&mut ahead.fetch).map_err(io::Error::other)?
                    }
                    _ => remote.runtime.block_on(fetch(range)),
                };
                let start = next.start;
                if !next.is_empty() {
                    *ahead = Some(Ahead { start, fetch: remote.runtime.spawn(fetch(next)) });
                }
                block.map_err(io::Error::other)?
            }
        };
        self.block_start = self.position;
        if self.block.is_empty() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.end || into.is_empty() {
            return Ok(0);
        }
        self.load()?;
        let held = &self.block[(self.position - self.block_start) as usize..];
        let taken = held.len().min(into.len());
        into[..taken].copy_from_slice(&held[..taken]);
        self.position += taken as u64;
        Ok(taken)
    }
}

impl Passing for Stream {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        match self.position.checked_add(bytes) {
            Some(position) if position <= self.end => {
                self.position = position;
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn gone_through(&self) -> u64 {
        self.position - self.start
    }

    fn position(&self) -> u64 {
        self.position - self.start
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream that is unpacked on the way.
pub(super) struct Gunzipped {
    unpacked: flate2::read::MultiGzDecoder<Stream>,
    position: u64,
}

impl Gunzipped {
    pub(super) fn new(stream: Stream) -> Self {
        Self { unpacked: flate2::read::MultiGzDecoder::new(stream), position: 0 }
    }
}

impl Read for Gunzipped {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.unpacked.read(into)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Passing for Gunzipped {
    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.by_ref().take(bytes), &mut io::sink())?;
        if passed == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn gone_through(&self) -> u64 {
        self.unpacked.get_ref().gone_through()
    }

    fn position(&self) -> u64 {
        self.position
    }

    /// The checksum of all bytes stands behind the last one.
    fn finish(&mut self) -> io::Result<()> {
        let behind = io::copy(&mut self.by_ref().take(MOST_PADDING), &mut io::sink())?;
        if behind < MOST_PADDING {
            Ok(())
        } else {
            Err(io::Error::other("too much behind its end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_range_is_read_and_passed_over_to_its_end_and_not_beyond() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..700_000_u32).map(|at| (at / 3) as u8).collect();
        file.write_all(&bytes).unwrap();
        let place = Place::Local(file.path().to_owned());
        for open in [Stream::open, Stream::for_headers] {
            let mut stream = open(&place, 100..650_000).unwrap();
            let mut some = vec![0; 5000];
            stream.read_exact(&mut some).unwrap();
            assert_eq!(some, bytes[100..5100]);
            stream.pass(400_000).unwrap();
            stream.read_exact(&mut some).unwrap();
            assert_eq!(some, bytes[405_100..410_100]);
            assert_eq!(stream.gone_through(), 410_000);
            assert!(stream.pass(300_000).is_err());
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, bytes[410_100..650_000]);
        }
        let mut beyond = Stream::open(&place, 699_000..800_000).unwrap();
        assert!(beyond.read_to_end(&mut Vec::new()).is_err(), "the file is shorter");
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let place = Place::Local("/dev/zero".into());
        assert!(Stream::open(&place, 0..10).is_err());
        assert!(matches!(place.kind(), Err(PrepareError::Special { .. })));
    }
}
