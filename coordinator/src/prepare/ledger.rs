//! How far a packing is: what the consumer of pictures knows, and what it writes down for the one
//! that goes on after it.

use std::collections::HashMap;
use std::sync::Arc;

use convoy_common::dataset::{Class, Split};
use serde::{Deserialize, Serialize};

use super::PrepareError;
use super::source::{Entry, Source, digest_of};

/// A picture that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    /// Path below the source.
    pub(crate) file: String,
    pub(crate) why: String,
    class: String,
}

/// Written with each finished shard.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    validation: bool,
    /// Entries of that split so far.
    entries: u64,
    /// Hash over them.
    seen: String,
    /// Files passed over in the splits before.
    ignored: u64,
    /// Since the note before.
    classes: Vec<String>,
    skipped: Vec<Skipped>,
}

/// Where a packing stands.
pub(super) struct Ledger {
    /// The split that is being packed.
    pub(super) split: Split,
    /// Entries of it so far.
    pub(super) entries: u64,
    /// Over the class, name and size of them.
    seen: blake3::Hasher,
    /// Labels by class, in the order in which classes came.
    labels: HashMap<Arc<str>, u16>,
    classes: Vec<Arc<str>>,
    pub(super) skipped: Vec<Skipped>,
    /// Files passed over in the splits before.
    ignored: u64,
    /// Files passed over in this split.
    pub(super) ignored_here: u64,
    noted_classes: usize,
    noted_skipped: usize,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            split: Split::Train,
            entries: 0,
            seen: blake3::Hasher::new(),
            labels: HashMap::new(),
            classes: Vec::new(),
            skipped: Vec::new(),
            ignored: 0,
            ignored_here: 0,
            noted_classes: 0,
            noted_skipped: 0,
        }
    }

    /// Back to where the last of the notes was written; what has been packed is passed over in the
    /// source and compared.
    ///
    /// # Errors
    /// [`PrepareError::SourceChanged`] if other entries come now.
    pub(super) fn recall(notes: &[Vec<u8>], source: &Source) -> Result<Self, PrepareError> {
        let mut ledger = Self::new();
        let mut last = None;
        for note in notes {
            let note: Note = serde_json::from_slice(note).map_err(|_| PrepareError::BadNote)?;
            for class in &note.classes {
                ledger.label(&class.as_str().into())?;
            }
            ledger.skipped.extend(note.skipped.iter().cloned());
            last = Some(note);
        }
        ledger.noted();
        let Some(last) = last else { return Ok(ledger) };
        ledger.ignored = last.ignored;
        if last.validation {
            ledger.split = Split::Validation;
        }
        let mut entries = source.pictures(ledger.split).entries()?;
        while ledger.entries < last.entries {
            let entry = entries.next(&|_| false)?.ok_or(PrepareError::SourceChanged)?;
            ledger.see(&entry);
        }
        if ledger.seen().to_hex().as_str() != last.seen {
            return Err(PrepareError::SourceChanged);
        }
        Ok(ledger)
    }

    /// Counts one more entry.
    pub(super) fn see(&mut self, entry: &Entry) {
        self.entries += 1;
        let size = entry.size.to_le_bytes();
        let parts: [&[u8]; 3] = [entry.class.as_bytes(), entry.name.as_bytes(), &size];
        digest_of(&mut self.seen, &parts);
    }

    fn seen(&self) -> blake3::Hash {
        self.seen.finalize()
    }

    /// Goes over to a split, if it is the other one.
    pub(super) fn enter(&mut self, split: Split) {
        if split != self.split {
            (self.split, self.entries) = (split, 0);
            self.ignored += std::mem::take(&mut self.ignored_here);
            self.seen = blake3::Hasher::new();
        }
    }

    /// Files passed over in all.
    pub(super) fn ignored(&self) -> u64 {
        self.ignored + self.ignored_here
    }

    pub(super) fn skip(&mut self, entry: &Entry, why: String) {
        let (file, class) = (entry.shown.clone(), entry.class.to_string());
        self.skipped.push(Skipped { file, why, class });
    }

    /// The label of a class: of a new one, the next that is free.
    pub(super) fn label(&mut self, class: &Arc<str>) -> Result<u16, PrepareError> {
        if let Some(&label) = self.labels.get(class) {
            return Ok(label);
        }
        let label = u16::try_from(self.classes.len()).map_err(|_| PrepareError::TooManyClasses)?;
        self.labels.insert(Arc::clone(class), label);
        self.classes.push(Arc::clone(class));
        Ok(label)
    }

    /// Whether a class has a label already.
    pub(super) fn knows(&self, class: &str) -> bool {
        self.labels.contains_key(class)
    }

    /// What the one that goes on must know.
    pub(super) fn note(&mut self) -> Vec<u8> {
        let note = Note {
            validation: self.split == Split::Validation,
            entries: self.entries,
            seen: self.seen().to_hex().to_string(),
            ignored: self.ignored,
            classes: self.classes[self.noted_classes..].iter().map(|it| it.to_string()).collect(),
            skipped: self.skipped[self.noted_skipped..].to_vec(),
        };
        self.noted();
        serde_json::to_vec(&note).expect("invariant: a note is plain data")
    }

    fn noted(&mut self) {
        (self.noted_classes, self.noted_skipped) = (self.classes.len(), self.skipped.len());
    }

    /// All training pictures are packed: refuses a class that got none.
    pub(super) fn check_classes(&self, source: &Source) -> Result<(), PrepareError> {
        let known = source.pictures(Split::Train).classes().unwrap_or_default();
        let met = self.skipped.iter().map(|skipped| &skipped.class).filter(|it| !it.is_empty());
        let Some(class) = known.iter().chain(met).find(|class| !self.knows(class)) else {
            return Ok(());
        };
        let example = self.skipped.iter().rev().find(|skipped| skipped.class == **class);
        let example = example.map(|it| format!("{}: {}", it.file, it.why));
        Err(PrepareError::EmptyClass { place: class.clone(), example })
    }

    /// The classes in order, and for each label so far its place there.
    pub(super) fn sorted(&self, source: &Source) -> (Vec<Class>, Vec<u16>) {
        let mut keys: Vec<&Arc<str>> = self.classes.iter().collect();
        keys.sort_unstable();
        let labels = self
            .classes
            .iter()
            .map(|class| keys.binary_search(&class).unwrap_or_default() as u16)
            .collect();
        let class = |key: &&Arc<str>| Class {
            key: key.to_string(),
            title: source.titles.get(&***key).cloned().unwrap_or_default(),
        };
        (keys.iter().map(class).collect(), labels)
    }
}
