//! Checkpoints on their way: which ranks' parts are in, and what became of earlier ones.
//!
//! Training never waits for any of this.

use std::collections::BTreeMap;
use std::time::Duration;

use convoy_common::checkpoint::{PartEntry, SharedState};
use convoy_common::ids::{Generation, Position, Rank};

use super::effect::Publication;
use super::event::Kept;
use super::note::Abandoned;
use super::roster::{Roster, agreed, by_rank};

/// Checkpoints that may be on their way at once; more mean that parts never arrive.
pub(super) const LIMIT: usize = 8;

#[derive(Clone, Debug)]
struct Part {
    entry: PartEntry,
    shared: SharedState,
    took: Duration,
    state_digest: String,
}

/// The checkpoints of the present generation that are not in the store yet, and the newest that is.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoints {
    collecting: BTreeMap<Position, BTreeMap<Rank, Part>>,
    /// Of the whole state, as each rank computed it.
    digests: BTreeMap<Position, BTreeMap<Rank, String>>,
    /// With the generation that took each.
    publishing: BTreeMap<Position, Generation>,
    /// Of the states that are being published.
    promised: BTreeMap<Position, String>,
    /// By the present generation.
    abandoned: BTreeMap<Position, Abandoned>,
    pub(super) last: Option<Kept>,
    /// Of that one's state, if it is known.
    pub(super) last_digest: Option<String>,
}

/// What follows from one more part.
#[derive(Debug)]
pub(super) enum Collected {
    /// Others are missing.
    Waiting,
    /// All are in.
    Complete(Box<Publication>),
    /// It cannot be made.
    Abandoned(Abandoned),
    /// The part is of a checkpoint that is decided already.
    Late,
}

/// What is known of one checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It exists.
    Kept,
    /// It will not exist.
    Abandoned(Abandoned),
    /// Neither yet.
    Open,
}

impl Checkpoints {
    pub(super) fn new(last: Option<Kept>, last_digest: Option<String>) -> Self {
        Self { last, last_digest, ..Self::default() }
    }

    /// Takes in the digest of a rank's whole state; says who holds what, once all are known and they
    /// differ.
    pub(super) fn compare(
        &mut self,
        roster: &Roster,
        rank: Rank,
        position: Position,
        state_digest: String,
    ) -> Option<Vec<(String, Vec<Rank>)>> {
        let digests = self.digests.entry(position).or_default();
        digests.insert(rank, state_digest);
        if digests.len() == roster.world() as usize {
            return agreed(self.digests.remove(&position)?.into_iter()).err();
        }
        while self.digests.len() > LIMIT {
            self.digests.pop_first();
        }
        None
    }

    pub(super) fn add(
        &mut self,
        roster: &Roster,
        rank: Rank,
        (entry, state_digest): (PartEntry, String),
        shared: SharedState,
        took: Duration,
    ) -> Collected {
        let position = shared.position;
        if self.is_decided(position) {
            return Collected::Late;
        }
        let parts = self.collecting.entry(position).or_default();
        parts.insert(rank, Part { entry, shared, took, state_digest });
        if parts.len() < roster.world() as usize {
            return Collected::Waiting;
        }
        let parts = self.collecting.remove(&position).unwrap_or_default();
        // What ranks know alike is plain data, so equal values print alike.
        let accounts = agreed(by_rank(parts.values().map(|it| format!("{:?}", it.shared))));
        let Some(first) = parts.values().next() else { return Collected::Late };
        if let Err(groups) = accounts {
            let odd = groups.iter().skip(1).flat_map(|group| &group.1);
            let why = Abandoned::Disagreement {
                odd: odd.map(|rank| roster.name(*rank).to_owned()).collect(),
            };
            self.abandoned.insert(position, why.clone());
            return Collected::Abandoned(why);
        }
        let publication = Publication {
            generation: roster.generation,
            shared: first.shared.clone(),
            state_digest: first.state_digest.clone(),
            uploads_took: parts.values().map(|it| it.took).max().unwrap_or_default(),
            parts: parts.into_values().map(|it| it.entry).collect(),
        };
        self.publishing.insert(position, roster.generation);
        self.promised.insert(position, publication.state_digest.clone());
        Collected::Complete(Box::new(publication))
    }

    /// The checkpoints that will never be complete now that the one at `newer` is: each rank
    /// uploads one after the other.
    pub(super) fn overtaken_by(&mut self, newer: Position) -> Vec<Position> {
        let older: Vec<Position> = self.collecting.range(..newer).map(|it| *it.0).collect();
        for position in &older {
            self.abandon(*position, Abandoned::Overtaken);
        }
        older
    }

    /// The oldest one, if there are more on their way than there can be.
    pub(super) fn surplus(&mut self) -> Option<Position> {
        if self.collecting.len() <= LIMIT {
            return None;
        }
        let oldest = *self.collecting.keys().next()?;
        self.abandon(oldest, Abandoned::Overtaken);
        Some(oldest)
    }

    /// Gives one up; false if that was done before.
    pub(super) fn abandon(&mut self, position: Position, why: Abandoned) -> bool {
        self.collecting.remove(&position);
        self.publishing.remove(&position);
        self.promised.remove(&position);
        let new = !self.abandoned.contains_key(&position);
        self.abandoned.entry(position).or_insert(why);
        while self.abandoned.len() > LIMIT {
            self.abandoned.pop_first();
        }
        new
    }

    pub(super) fn published(&mut self, kept: Kept) {
        self.publishing.remove(&kept.position);
        let digest = self.promised.remove(&kept.position);
        if self.last.as_ref().is_none_or(|last| last.position <= kept.position) {
            (self.last, self.last_digest) = (Some(kept), digest);
        }
    }

    pub(super) fn fate(&self, position: Position) -> Fate {
        if self.last.as_ref().is_some_and(|it| it.position == position) {
            return Fate::Kept;
        }
        self.abandoned.get(&position).map_or(Fate::Open, |why| Fate::Abandoned(why.clone()))
    }

    /// Whether the rank's part of an open checkpoint is in.
    pub(super) fn has_part(&self, position: Position, rank: Rank) -> bool {
        self.publishing.contains_key(&position)
            || self.collecting.get(&position).is_some_and(|parts| parts.contains_key(&rank))
    }

    /// Manifests that are being published.
    pub(super) fn publishing(&self) -> usize {
        self.publishing.len()
    }

    /// Checkpoints that wait for parts.
    pub(super) fn collecting(&self) -> usize {
        self.collecting.len()
    }

    /// The manifest of a checkpoint of the generation `present`, or of one before it, could not be
    /// published; false if that is known. What an earlier one did not bring about the present one may.
    pub(super) fn not_published(
        &mut self,
        position: Position,
        present: Option<Generation>,
        why: Abandoned,
    ) -> bool {
        match self.publishing.remove(&position) {
            Some(generation) if Some(generation) != present => {
                self.promised.remove(&position);
                true
            }
            _ => self.abandon(position, why),
        }
    }

    /// Forgets what waits for parts, because the generation is over; gives what that was. Nothing is
    /// abandoned for good: the next generation may take one at the same position.
    pub(super) fn end_generation(&mut self) -> Vec<Position> {
        self.digests.clear();
        self.abandoned.clear();
        std::mem::take(&mut self.collecting).into_keys().collect()
    }

    fn is_decided(&self, position: Position) -> bool {
        // Once a later one exists, an earlier one has been published or overtaken.
        let passed = self.last.as_ref().is_some_and(|it| it.position >= position);
        passed || self.publishing.contains_key(&position) || self.fate(position) != Fate::Open
    }
}
