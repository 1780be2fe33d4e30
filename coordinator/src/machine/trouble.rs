//! Finds the root cause of a broken generation.
//!
//! One lost worker breaks its neighbours' rings, and theirs break those of their neighbours, so the
//! first complaint to arrive is rarely that of the culprit. For a moment all signs are collected;
//! then the strongest decides:
//!
//! 1. a worker that is gone, or silent, without having said why;
//! 2. a worker that blames itself;
//! 3. the worker that most others blame;
//! 4. whoever complained first.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Position, Rank};

use super::event::{Departure, Failed};
use super::roster::Roster;

/// Why a worker counts as lost although it did not complain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its call ended.
    Gone(Departure),
    /// It was not heard of.
    Silent(Duration),
    /// It did not get ready in time.
    NotReady(Duration),
    /// It stood still while others waited for it.
    Stalled { phase: String, waited: Duration },
    /// It did not come to its end after others had.
    NotFinished(Duration),
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(why) => write!(f, "{why}"),
            Self::Silent(silence) => {
                write!(f, "it was not heard of for {:.1} s", silence.as_secs_f64())
            }
            Self::NotReady(waited) => {
                write!(f, "it was not ready after {:.0} s", waited.as_secs_f64())
            }
            Self::Stalled { phase, waited } => {
                let seconds = waited.as_secs_f64();
                write!(f, "it made no progress for {seconds:.0} s, in phase {phase:?}")
            }
            Self::NotFinished(waited) => {
                let seconds = waited.as_secs_f64();
                write!(
                    f,
                    "it had not come to its end {seconds:.0} s after being asked or others had"
                )
            }
        }
    }
}

/// The signs so far, by rank.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    losses: BTreeMap<Rank, Loss>,
    complaints: Vec<(Rank, Failed)>,
}

/// What the signs come down to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Who did it; empty if nobody can be named.
    pub(super) culprits: Vec<Rank>,
    /// What happened, in a sentence.
    pub(super) text: String,
    pub(super) exit_code: u8,
}

impl Trouble {
    pub(super) fn add_loss(&mut self, rank: Rank, loss: Loss) {
        self.losses.entry(rank).or_insert(loss);
    }

    pub(super) fn add_complaint(&mut self, rank: Rank, failed: Failed) {
        if !self.has_complained(rank) {
            self.complaints.push((rank, failed));
        }
    }

    fn has_complained(&self, rank: Rank) -> bool {
        self.complaints.iter().any(|it| it.0 == rank)
    }

    /// Whether every worker has been heard: more waiting brings nothing.
    pub(super) fn is_complete(&self, roster: &Roster) -> bool {
        roster
            .connections()
            .all(|(rank, _)| self.losses.contains_key(&rank) || self.has_complained(rank))
    }

    pub(super) fn verdict(&self, roster: &Roster) -> Verdict {
        let unexplained: Vec<(Rank, &Loss)> = self
            .losses
            .iter()
            .filter(|(rank, _)| !self.has_complained(**rank))
            .map(|(rank, loss)| (*rank, loss))
            .collect();
        if !unexplained.is_empty() {
            let told: Vec<String> = unexplained
                .iter()
                .map(|(rank, loss)| format!("worker {} was lost: {loss}", roster.name(*rank)))
                .collect();
            let culprits = unexplained.iter().map(|it| it.0).collect();
            return Verdict { culprits, text: told.join("; "), exit_code: exit::WORKER_LOST };
        }
        if let Some((rank, failed)) = self.complaints.iter().find(|it| it.1.exit_code.is_some()) {
            let text = format!("worker {} failed: {}", roster.name(*rank), failed.error);
            let exit_code = failed.exit_code.unwrap_or(exit::WORKER_LOST);
            return Verdict { culprits: vec![*rank], text, exit_code };
        }
        if let Some((culprit, by)) = self.most_blamed(roster) {
            let name = roster.name(culprit);
            let error = &self.complaints.iter().find(|it| it.0 == by[0]).map(|it| &it.1.error);
            let text = format!(
                "worker {name} was lost: {} blamed it ({})",
                roster.tell_names(&by),
                error.map_or("", |it| it)
            );
            return Verdict { culprits: vec![culprit], text, exit_code: exit::WORKER_LOST };
        }
        let text = match self.complaints.first() {
            Some((rank, failed)) => {
                format!("worker {} left its generation: {}", roster.name(*rank), failed.error)
            }
            None => "a worker was lost".to_owned(),
        };
        Verdict { culprits: Vec::new(), text, exit_code: exit::WORKER_LOST }
    }

    /// The rank that most complaints name, and whose they are.
    fn most_blamed(&self, roster: &Roster) -> Option<(Rank, Vec<Rank>)> {
        let mut blamed: BTreeMap<Rank, Vec<Rank>> = BTreeMap::new();
        for (by, failed) in &self.complaints {
            if let Some(whom) = failed.blame.as_deref().and_then(|name| roster.rank_named(name)) {
                blamed.entry(whom).or_default().push(*by);
            }
        }
        // One that does not complain itself is the likelier culprit.
        blamed.into_iter().max_by_key(|(rank, by)| (!self.has_complained(*rank), by.len()))
    }

    /// The last position that anybody committed.
    pub(super) fn position(&self) -> Option<Position> {
        self.complaints.iter().map(|it| it.1.position).max()
    }
}
