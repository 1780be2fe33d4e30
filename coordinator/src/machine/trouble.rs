//! Signs that a generation is broken, and what they come down to.
//!
//! One lost worker breaks its neighbours' rings, and theirs break those of their neighbours, so the
//! first complaint to arrive is rarely that of the culprit. While nobody is known to be lost, all
//! complaints of a moment are collected; then they name whom most blame. That alone costs nobody
//! its place: a link that breaks again and again does ([`Links`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use convoy_common::ids::Rank;

use super::event::{Departure, Left};
use super::roster::Roster;

/// A link that broke so often in a row, without a step between, costs one of its ends its place.
const OFTEN: u32 = 3;

/// Why a worker counts as lost although it did not complain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its call ended.
    Gone(Departure),
    /// It was not heard of.
    Silent(Duration),
    /// It did not get ready in time.
    NotReady(Duration),
    /// It did not leave the broken ring in time.
    NotLeft(Duration),
    /// It stood still while others waited for it.
    Stalled { phase: String, waited: Duration },
    /// It did not come to its end after others had.
    NotFinished(Duration),
    /// Its link to that worker broke again and again.
    Link { with: String },
}

impl Loss {
    /// Its call is over, so there is nothing to tell it.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }
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
            Self::NotLeft(waited) => {
                let seconds = waited.as_secs_f64();
                write!(f, "it had not left the broken ring after {seconds:.0} s")
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
            Self::Link { with } => {
                write!(f, "its link to {with} broke {OFTEN} times in a row without a step between")
            }
        }
    }
}

/// The complaints so far, in the order of their arrival.
#[derive(Clone, Debug, Default)]
pub(super) struct Trouble {
    complaints: Vec<(Rank, Left)>,
}

impl Trouble {
    pub(super) fn add(&mut self, rank: Rank, left: Left) {
        self.complaints.push((rank, left));
    }

    /// What they come down to, in a sentence.
    pub(super) fn verdict(&self, roster: &Roster) -> String {
        if let Some((culprit, by)) = self.most_blamed(roster) {
            let error = self.complaints.iter().find(|it| it.0 == by[0]).map(|it| &it.1.error);
            let (name, by) = (roster.name(culprit), roster.tell_names(&by));
            return format!("{by} blamed {name} ({})", error.map_or("", |it| it));
        }
        match self.complaints.first() {
            Some((rank, left)) => {
                format!("worker {} left the ring: {}", roster.name(*rank), left.error)
            }
            None => "the ring broke".to_owned(),
        }
    }

    /// The rank that most complaints name, and whose they are.
    fn most_blamed(&self, roster: &Roster) -> Option<(Rank, Vec<Rank>)> {
        let mut blamed: BTreeMap<Rank, Vec<Rank>> = BTreeMap::new();
        for (by, whom) in self.blame(roster) {
            blamed.entry(whom).or_default().push(by);
        }
        // One that does not complain itself is the likelier culprit.
        let complained = |rank| self.complaints.iter().any(|it| it.0 == rank);
        blamed.into_iter().max_by_key(|(rank, by)| (!complained(*rank), by.len()))
    }

    /// Who blames whom.
    fn blame(&self, roster: &Roster) -> Vec<(Rank, Rank)> {
        let blame = |it: &(Rank, Left)| {
            let whom = roster.rank_named(it.1.blame.as_deref()?)?;
            (whom != it.0).then_some((it.0, whom))
        };
        self.complaints.iter().filter_map(blame).collect()
    }
}

/// Links between workers that broke, and how often since the last step.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    broken: BTreeMap<(String, String), u32>,
}

impl Links {
    /// A step was committed: whatever was broken works.
    pub(super) fn forgive(&mut self) {
        self.broken.clear();
    }

    /// Counts the links that broke with this generation, each once. Gives the end of a link that
    /// broke too often which is to go, and the other end: whom more blame, else the higher rank.
    pub(super) fn broke(&mut self, trouble: &Trouble, roster: &Roster) -> Option<(Rank, Rank)> {
        let blame = trouble.blame(roster);
        let links: BTreeSet<(Rank, Rank)> =
            blame.iter().map(|(by, whom)| (*by.min(whom), *by.max(whom))).collect();
        let votes = |rank: Rank| blame.iter().filter(|it| it.1 == rank).count();
        let mut worst = None;
        for (low, high) in links {
            let names = (roster.name(low).to_owned(), roster.name(high).to_owned());
            let count = self.broken.entry(names).or_default();
            *count += 1;
            if *count >= OFTEN {
                let (out, stays) = if votes(low) > votes(high) { (low, high) } else { (high, low) };
                let found = (votes(out), out, stays);
                worst = worst.max(Some(found));
            }
        }
        worst.map(|(_, out, stays)| (out, stays))
    }
}
