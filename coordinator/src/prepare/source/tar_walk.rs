//! Goes over the members of a tar, reading or passing over each.
//!
//! Members are looked at and never unpacked, so that no name in an archive can lead anywhere.

use std::io;

use tar::{Archive, EntryType};

use super::is_picture;
use super::stream::Passing;

const BLOCK: u64 = 512;

/// A walk over a tar, between two members.
pub(super) struct TarWalk {
    reader: Box<dyn Passing>,
    /// Bytes of the last member that have not been read, and its padding.
    pending: u64,
    /// Of them its content.
    content: u64,
    /// Where the next header begins, counted over unpacked bytes.
    position: u64,
}

/// A member's header.
pub(super) struct Member {
    /// As it stands in the archive.
    path: Vec<u8>,
    pub(super) size: u64,
    /// Where its content begins.
    pub(super) start: u64,
    kind: EntryType,
}

impl TarWalk {
    pub(super) fn new(reader: Box<dyn Passing>) -> Self {
        Self { reader, pending: 0, content: 0, position: 0 }
    }

    /// The next member, or nothing at the archive's end.
    pub(super) fn next(&mut self) -> io::Result<Option<Member>> {
        self.reader.pass(self.pending)?;
        self.position += self.pending;
        (self.pending, self.content) = (0, 0);
        let mut archive = Archive::new(&mut self.reader);
        let Some(entry) = archive.entries()?.next() else {
            if self.reader.position() == self.position {
                let what = "it has no end mark, as one that was cut off behind a member";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
            }
            self.reader.finish()?;
            return Ok(None);
        };
        let entry = entry?;
        let kind = entry.header().entry_type();
        // Of a sparse file the archive holds less than its size.
        let stored = if kind.is_gnu_sparse() { entry.header().entry_size()? } else { entry.size() };
        let member = Member {
            path: entry.path_bytes().into_owned(),
            size: entry.size(),
            start: self.position + entry.raw_file_position(),
            kind,
        };
        self.position += entry.raw_file_position();
        self.content = stored;
        let padded = stored.checked_next_multiple_of(BLOCK);
        self.pending = padded.ok_or_else(|| io::Error::other("a member of impossible size"))?;
        Ok(Some(member))
    }

    /// The content of the member that came last.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.content as usize];
        self.reader.read_exact(&mut bytes)?;
        self.position += self.content;
        self.pending -= self.content;
        self.content = 0;
        Ok(bytes)
    }

    /// Bytes of the underlying file that were gone through.
    pub(super) fn gone_through(&self) -> u64 {
        self.reader.gone_through()
    }
}

impl Member {
    /// The last part of its path.
    pub(super) fn name(&self) -> String {
        let end = self.path.iter().rposition(|&byte| byte != b'/').map_or(0, |at| at + 1);
        let name = self.path[..end].rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        String::from_utf8_lossy(name).into_owned()
    }

    pub(super) fn shown(&self) -> String {
        super::place::one_line(&String::from_utf8_lossy(&self.path))
    }

    pub(super) fn is_file(&self) -> bool {
        self.kind.is_file() || self.kind.is_contiguous()
    }

    /// Whether its name is a picture's, and not a hidden one.
    pub(super) fn is_picture(&self) -> bool {
        let name = self.name();
        is_picture(name.as_bytes()) && !name.starts_with('.') && !self.kind.is_dir()
    }

    /// A file that is a tar by its name.
    pub(super) fn is_tar(&self) -> bool {
        self.is_file() && self.name().to_ascii_lowercase().ends_with(".tar")
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind.is_dir()
    }

    /// Why it must not be taken for a picture whatever its name.
    pub(super) fn objection(&self) -> Option<String> {
        let leads_out = self.path.starts_with(b"/")
            || self.path.split(|&byte| byte == b'/').any(|part| part == b"..");
        let what = match self.kind {
            _ if leads_out => "its path leads out of the archive",
            EntryType::Regular | EntryType::Continuous => return None,
            EntryType::Symlink => "a symbolic link in an archive",
            EntryType::Link => "a hard link in an archive",
            EntryType::Char | EntryType::Block => "a device in an archive",
            EntryType::Fifo => "a pipe in an archive",
            EntryType::GNUSparse => "a sparse file in an archive",
            _ => "no regular file in an archive",
        };
        Some(what.to_owned())
    }
}
