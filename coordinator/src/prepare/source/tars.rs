//! Pictures in tars, streamed: many streams at once, which take turns.
//!
//! ```text
//! ILSVRC2012_img_train.tar        ┌> n01440764.tar ─┐
//!   outer headers, read first  ───┼> n01443537.tar ─┼─> one picture of each in turn
//!                                 └> ... 64 of them ┘
//! ```
//!
//! The class tars are taken in a fixed random order, 64 at a time, and one that ends makes room for
//! the next; so a shard holds about as much of each of 64 classes that have nothing to do with each
//! other. Archives that hold pictures at once take turns in the same way. What an archive says of
//! itself is not believed: paths, links and devices lead nowhere (see [`super::tar_walk`]).

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use convoy_common::sampling::Permutation;

use super::super::PrepareError;
use super::super::picture::MOST_FILE_BYTES;
use super::labels::{Labels, Matching};
use super::place::{Kind, Place, one_line};
use super::stream::{Gunzipped, Passing, Stream};
use super::tar_walk::{Member, TarWalk};
use super::{Content, Entries, Entry, Pictures, digest_of, is_wnid, stem};

/// Streams that are open at a time.
const OPEN: usize = 64;

/// Key of the order of class tars.
const ORDER: u64 = 0x0063_6f6e_766f_7922;

/// The pictures of one split in one archive or several.
pub(super) struct Tars {
    lanes: Vec<Lane>,
    /// Known beforehand for class tars and labels.
    classes: Option<Vec<String>>,
    labels: Option<Labels>,
}

/// One stream of pictures.
struct Lane {
    archive: Place,
    range: Range<u64>,
    gzip: bool,
    /// What it is called, and the class of all its pictures if it is a class tar.
    name: String,
    class: Option<Arc<str>>,
}

/// An archive by its place.
pub(super) struct Archive {
    pub(super) place: Place,
    size: u64,
    gzip: bool,
}

/// What an archive holds, as far as its beginning shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Tars named by class.
    ClassTars,
    /// Pictures whose names end in a WordNet id.
    NamedPictures,
    /// Pictures whose names say nothing of their class.
    Pictures,
}

impl Archive {
    /// Whether a file name is that of an archive.
    pub(super) fn has_name(name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        [".tar", ".tar.gz", ".tgz"].iter().any(|extension| name.ends_with(extension))
    }

    pub(super) fn at(place: Place) -> Result<Self, PrepareError> {
        let gzip = place.name().to_ascii_lowercase().ends_with("gz");
        match place.kind()? {
            Kind::File(size) => Ok(Self { place, size, gzip }),
            Kind::Folder => {
                let reason = "it is a folder".to_owned();
                Err(PrepareError::BadPlace { place: place.shown(), reason })
            }
        }
    }

    fn walk(&self, headers_alone: bool) -> Result<TarWalk, PrepareError> {
        let open = if headers_alone && !self.gzip { Stream::for_headers } else { Stream::open };
        Ok(TarWalk::new(unpacked(open(&self.place, 0..self.size)?, self.gzip)))
    }

    /// Looks at its first members.
    pub(super) fn holds(&self) -> Result<Holds, PrepareError> {
        let mut walk = self.walk(true)?;
        while let Some(member) = walk.next().map_err(|error| broken(&self.place, error))? {
            if member.is_tar() {
                return Ok(Holds::ClassTars);
            }
            if member.is_picture() {
                let named = wnid_of(&member.name()).is_some();
                return Ok(if named { Holds::NamedPictures } else { Holds::Pictures });
            }
        }
        Err(PrepareError::NothingInArchive { place: self.place.shown() })
    }

    /// The class tars in it, from its headers alone.
    fn class_tars(&self) -> Result<Vec<Lane>, PrepareError> {
        if self.gzip {
            return Err(PrepareError::GzippedClassTars { place: self.place.shown() });
        }
        let mut walk = self.walk(true)?;
        let mut lanes = Vec::new();
        while let Some(member) = walk.next().map_err(|error| broken(&self.place, error))? {
            if !member.is_tar() || member.objection().is_some() {
                continue;
            }
            let range = member.start..member.start + member.size;
            if range.end > self.size {
                let error = std::io::ErrorKind::UnexpectedEof.into();
                return Err(broken(&self.place, error));
            }
            let name = member.name();
            let class = name[..name.len() - ".tar".len()].into();
            let archive = self.place.clone();
            lanes.push(Lane { archive, range, gzip: false, name, class: Some(class) });
        }
        Ok(lanes)
    }
}

fn unpacked(stream: Stream, gzip: bool) -> Box<dyn Passing> {
    if gzip { Box::new(Gunzipped::new(stream)) } else { Box::new(stream) }
}

fn broken(place: &Place, source: std::io::Error) -> PrepareError {
    match place.unreadable(source) {
        PrepareError::Unreadable { place, source } => {
            // The tar reader's words hold bytes of the archive.
            let mut text = source.to_string();
            let mut cause = std::error::Error::source(&source);
            while let Some(deeper) = cause {
                text = format!("{text}: {deeper}");
                cause = deeper.source();
            }
            let source = std::io::Error::new(source.kind(), one_line(&text));
            PrepareError::BrokenArchive { place, source }
        }
        other => other,
    }
}

impl Tars {
    /// Pictures in tars named by class, within one archive or several.
    pub(super) fn of_class_tars(archives: &[Archive]) -> Result<Self, PrepareError> {
        let mut lanes = Vec::new();
        for archive in archives {
            lanes.extend(archive.class_tars()?);
        }
        lanes.sort_by(|one, other| (&one.class, &one.name).cmp(&(&other.class, &other.name)));
        let mut classes: Vec<String> =
            lanes.iter().filter_map(|lane| lane.class.as_deref()).map(str::to_owned).collect();
        classes.dedup();
        let order = Permutation::new(ORDER, 0, lanes.len() as u64);
        let mut places: Vec<usize> = (0..lanes.len()).collect();
        places.sort_by_key(|&lane| order.at(lane as u64));
        let mut lanes: Vec<Option<Lane>> = lanes.into_iter().map(Some).collect();
        let lanes = places.into_iter().filter_map(|place| lanes[place].take()).collect();
        Ok(Self { lanes, classes: Some(classes), labels: None })
    }

    /// Pictures whose names end in a WordNet id.
    pub(super) fn of_named_pictures(archives: Vec<Archive>) -> Self {
        Self { lanes: Self::whole(archives), classes: None, labels: None }
    }

    /// Pictures whose classes a label file says. What lies on this machine is compared with the
    /// labels before anything is packed; what does not, as it comes.
    pub(super) fn labelled(
        archives: Vec<Archive>,
        labels: Labels,
        classes: &[String],
    ) -> Result<Self, PrepareError> {
        if archives.iter().all(|it| matches!(it.place, Place::Local(_)) && !it.gzip) {
            let mut matching = labels.matching();
            for archive in &archives {
                let mut walk = archive.walk(true)?;
                while let Some(it) = walk.next().map_err(|error| broken(&archive.place, error))? {
                    if it.is_picture() {
                        matching.class_of(&it.name());
                    }
                }
            }
            matching.finish()?;
        }
        let lanes = Self::whole(archives);
        Ok(Self { lanes, classes: Some(classes.to_vec()), labels: Some(labels) })
    }

    fn whole(archives: Vec<Archive>) -> Vec<Lane> {
        let lane = |archive: Archive| Lane {
            name: archive.place.name(),
            range: 0..archive.size,
            gzip: archive.gzip,
            archive: archive.place,
            class: None,
        };
        archives.into_iter().map(lane).collect()
    }
}

impl Pictures for Tars {
    fn classes(&self) -> Option<&[String]> {
        self.classes.as_deref()
    }

    fn bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.range.end - lane.range.start).sum()
    }

    fn fingerprint(&self, hasher: &mut blake3::Hasher) {
        for lane in &self.lanes {
            let (start, end) = (lane.range.start.to_le_bytes(), lane.range.end.to_le_bytes());
            let class = lane.class.as_deref().unwrap_or_default();
            digest_of(hasher, &[lane.name.as_bytes(), class.as_bytes(), &start, &end]);
        }
        if let Some(labels) = &self.labels {
            labels.fingerprint(hasher);
        }
    }

    fn entries(&self) -> Result<Box<dyn Entries + '_>, PrepareError> {
        Ok(Box::new(Turns {
            waiting: self.lanes.iter().collect(),
            open: VecDeque::new(),
            matching: self.labels.as_ref().map(Labels::matching),
            seen: HashSet::new(),
            ignored: 0,
        }))
    }
}

/// The open streams, the next one first.
struct Turns<'a> {
    waiting: VecDeque<&'a Lane>,
    open: VecDeque<Open<'a>>,
    matching: Option<Matching>,
    /// Hashes of class and name, to find what comes twice: 16 bytes a picture.
    seen: HashSet<[u8; 16]>,
    ignored: u64,
}

struct Open<'a> {
    lane: &'a Lane,
    walk: TarWalk,
    /// Bytes that have been counted as gone through.
    counted: u64,
}

impl Open<'_> {
    fn weight(&mut self) -> u64 {
        let gone_through = self.walk.gone_through();
        let weight = gone_through.saturating_sub(self.counted);
        self.counted = gone_through;
        weight
    }
}

impl Entries for Turns<'_> {
    fn next(&mut self, wanted: &dyn Fn(&str) -> bool) -> Result<Option<Entry>, PrepareError> {
        loop {
            while self.open.len() < OPEN
                && let Some(lane) = self.waiting.pop_front()
            {
                let stream = Stream::open(&lane.archive, lane.range.clone())?;
                let walk = TarWalk::new(unpacked(stream, lane.gzip));
                self.open.push_back(Open { lane, walk, counted: 0 });
            }
            let Some(mut open) = self.open.pop_front() else {
                return match self.matching.take() {
                    Some(matching) => matching.finish().map(|()| None),
                    None => Ok(None),
                };
            };
            if let Some(entry) = self.next_of(&mut open, wanted)? {
                self.open.push_back(open);
                return Ok(Some(entry));
            }
        }
    }

    fn ignored(&self) -> u64 {
        self.ignored
    }
}

impl Turns<'_> {
    /// The next picture of one stream; nothing at its end.
    fn next_of(
        &mut self,
        open: &mut Open<'_>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Option<Entry>, PrepareError> {
        let lane = open.lane;
        let broken = |error| match broken(&lane.archive, error) {
            // Of a thousand in one archive.
            PrepareError::BrokenArchive { place, source } if lane.class.is_some() => {
                let place = format!("{} in {place}", one_line(&lane.name));
                PrepareError::BrokenArchive { place, source }
            }
            other => other,
        };
        while let Some(member) = open.walk.next().map_err(broken)? {
            if !member.is_picture() {
                self.ignored += u64::from(!member.is_folder());
                continue;
            }
            let name = member.name();
            let (class, objection) = match (&open.lane.class, &mut self.matching) {
                (Some(class), _) => (Arc::clone(class), member.objection()),
                (None, Some(matching)) => match matching.class_of(&name) {
                    Some(class) => (class, member.objection()),
                    None => continue,
                },
                (None, None) => match wnid_of(&name) {
                    Some(class) => (class.into(), member.objection()),
                    None => {
                        let why = "its name does not end in a WordNet id".to_owned();
                        ("".into(), Some(why))
                    }
                },
            };
            let objection = objection.or_else(|| self.objection(&class, &name, &member));
            let content = match objection {
                Some(why) => Content::Unusable(why),
                None if !wanted(&name) => Content::Passed,
                None => Content::Bytes(open.walk.read().map_err(broken)?),
            };
            let shown = match &open.lane.class {
                Some(class) => format!("{class}/{}", member.shown()),
                None => format!("{}/{}", one_line(&open.lane.name), member.shown()),
            };
            let (size, weight) = (member.size, open.weight());
            return Ok(Some(Entry { class, name, shown, size, weight, content }));
        }
        Ok(None)
    }

    /// Whether it is too large or came before.
    fn objection(&mut self, class: &str, name: &str, member: &Member) -> Option<String> {
        let mut hasher = blake3::Hasher::new();
        digest_of(&mut hasher, &[class.as_bytes(), name.as_bytes()]);
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        if !self.seen.insert(hash) {
            return Some("a picture of that class and name came before".to_owned());
        }
        (member.size > MOST_FILE_BYTES).then(|| {
            format!("a file of {} bytes is too large (at most {MOST_FILE_BYTES})", member.size)
        })
    }
}

/// The WordNet id at the end of a picture's name: `anything_n01440764.JPEG`.
fn wnid_of(name: &str) -> Option<&str> {
    let (_, last) = stem(name).rsplit_once('_')?;
    is_wnid(last).then_some(last)
}
