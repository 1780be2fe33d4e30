//! Signs that a generation is broken, and what they come down to.
//!
//! One lost worker breaks its neighbours' rings, and theirs break those of their neighbours, so the
//! first complaint to arrive is rarely that of the culprit. While nobody is known to be lost, all
//! complaints of a moment are collected; then they name whom most blame. That alone costs nobody
//! its place: a link that breaks again and again does ([`Links`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::Rank;

use super::event::Departure;
use super::report::Left;
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
    /// Its link to that worker does not work, as either of them says.
    Cut { with: String },
    /// It was asked to leave and had not come to it when its time was over.
    OutOfGrace(Duration),
    /// The others waited for it for longer than the limit.
    Straggler { account: String, limit: Duration },
}

impl Loss {
    /// Its call is over, so there is nothing to tell it.
    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone(_))
    }

    /// What the worker exits with.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::OutOfGrace(_) => exit::OK,
            _ => exit::WORKER_LOST,
        }
    }

    /// How long it is barred the first time, if it may be lost again for the same on coming back at once. A
    /// link that is cut is tried before its end gets a place; one that only breaks under load shows nothing
    /// then, nor does a slow worker.
    pub(super) fn bar(&self) -> Option<Duration> {
        match self {
            Self::Cut { .. } => Some(Duration::from_secs(5)),
            Self::Link { .. } | Self::Straggler { .. } => Some(Duration::from_secs(30)),
            _ => None,
        }
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
            Self::Cut { with } => {
                write!(f, "its link to {with} broke and does not work when it is tried again")
            }
            Self::OutOfGrace(grace) => {
                let seconds = grace.as_secs_f64();
                write!(f, "it was asked to leave and had not come to it after {seconds:.0} s")
            }
            Self::Straggler { account, limit } => {
                let seconds = limit.as_secs_f64();
                write!(f, "the others waited for it for more than {seconds:.0} s: {account}")
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

    /// Counts the links that broke with this generation, each once, and says which end of each is to go
    /// if it breaks too often: whom more blame, else the higher rank. The worst comes first.
    pub(super) fn broke(&mut self, trouble: &Trouble, roster: &Roster) -> Vec<Broken> {
        let blame = trouble.blame(roster);
        let links: BTreeSet<(Rank, Rank)> =
            blame.iter().map(|(by, whom)| (*by.min(whom), *by.max(whom))).collect();
        let votes = |rank: Rank| blame.iter().filter(|it| it.1 == rank).count();
        let mut broken = Vec::new();
        for (low, high) in links {
            let names = (roster.name(low).to_owned(), roster.name(high).to_owned());
            let count = self.broken.entry(names).or_default();
            *count += 1;
            let (out, stays) = if votes(low) > votes(high) { (low, high) } else { (high, low) };
            broken.push(Broken { too_often: *count >= OFTEN, votes: votes(out), out, stays });
        }
        broken.sort_by_key(|it| std::cmp::Reverse((it.too_often, it.votes, it.out)));
        broken
    }
}

/// A link that broke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    /// And did so too often.
    pub(super) too_often: bool,
    votes: usize,
    /// The end that is to go, if one is.
    pub(super) out: Rank,
    /// The other one.
    pub(super) stays: Rank,
}
