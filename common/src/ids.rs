//! The names of things: newtypes, so that a rank is never taken for a step.
//!
//! They are plain values without behaviour beyond order and display. Wire forms convert at the
//! doors of the services; nothing else knows them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::pb;

/// One life of a coordinator; counts from 1.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Term(pub u64);

/// One fixed roster: the term that made it and a counter within the term.
///
/// Two terms never make the same one, so a frame of another ring is told apart by this alone.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Generation {
    /// The coordinator's term that formed it.
    pub term: Term,
    /// Counts from 1 within the term.
    pub counter: u32,
}

/// A worker's place in the roster, 0..W.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Rank(pub u32);

/// One line of history within a run: a restore from an older checkpoint on purpose starts another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Lineage(pub u64);

/// The state before step `step` of epoch `epoch`; both count from 0.
///
/// Everything random is a function of the run record, the position and the sample.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done within this epoch.
    pub step: u32,
}

impl Position {
    /// The position after one more step, when an epoch has `steps_per_epoch` of them.
    #[must_use]
    pub fn next(self, steps_per_epoch: u32) -> Self {
        if self.step + 1 < steps_per_epoch {
            Self { epoch: self.epoch, step: self.step + 1 }
        } else {
            Self { epoch: self.epoch + 1, step: 0 }
        }
    }

    /// Steps done since the start of the run.
    pub fn global_step(self, steps_per_epoch: u32) -> u64 {
        u64::from(self.epoch) * u64::from(steps_per_epoch) + u64::from(self.step)
    }
}

/// How far a state has come. States of one run that have come equally far have equal bits.
///
/// Each unit of it is one collective that all ranks have to take part in, a step or an evaluation:
/// nobody can be ahead of another by more than one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reached {
    /// Before which step it is.
    pub position: Position,
    /// The validation split has been evaluated with it.
    pub evaluated: bool,
}

impl Reached {
    /// Whether one step or one evaluation leads from here to `newer`.
    pub fn is_just_before(self, newer: Self, steps_per_epoch: u32) -> bool {
        if newer.evaluated {
            self == Self { evaluated: false, ..newer }
        } else {
            self.position.next(steps_per_epoch) == newer.position
        }
    }
}

impl fmt::Display for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let evaluated = if self.evaluated { " (evaluated)" } else { "" };
        write!(f, "{}{evaluated}", self.position)
    }
}

impl From<Reached> for pb::Reached {
    fn from(it: Reached) -> Self {
        Self { position: Some(it.position.into()), evaluated: it.evaluated }
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.counter)
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} step {}", self.epoch, self.step)
    }
}

impl From<Generation> for pb::GenerationId {
    fn from(it: Generation) -> Self {
        Self { term: it.term.0, counter: it.counter }
    }
}

impl From<pb::GenerationId> for Generation {
    fn from(it: pb::GenerationId) -> Self {
        Self { term: Term(it.term), counter: it.counter }
    }
}

impl From<Position> for pb::Position {
    fn from(it: Position) -> Self {
        Self { epoch: it.epoch, step: it.step }
    }
}

impl From<pb::Position> for Position {
    fn from(it: pb::Position) -> Self {
        Self { epoch: it.epoch, step: it.step }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_step_of_an_epoch_is_followed_by_the_first_of_the_next() {
        let last = Position { epoch: 2, step: 6 };
        assert_eq!(last.next(7), Position { epoch: 3, step: 0 });
        assert_eq!(last.next(8), Position { epoch: 2, step: 7 });
        assert_eq!(last.next(7).global_step(7), last.global_step(7) + 1);
    }

    #[test]
    fn a_state_is_just_before_another_if_one_step_or_evaluation_lies_between() {
        let reached =
            |step, evaluated| Reached { position: Position { epoch: 0, step }, evaluated };
        assert!(reached(3, false).is_just_before(reached(4, false), 7));
        assert!(reached(3, true).is_just_before(reached(4, false), 7));
        assert!(reached(4, false).is_just_before(reached(4, true), 7));
        for (older, newer) in [
            (reached(3, false), reached(4, true)),
            (reached(4, true), reached(4, true)),
            (reached(4, false), reached(4, false)),
            (reached(2, false), reached(4, false)),
            (reached(5, false), reached(4, false)),
        ] {
            assert!(!older.is_just_before(newer, 7), "{older} {newer}");
        }
    }

    #[test]
    fn a_later_term_makes_higher_generations_whatever_their_counters() {
        let old = Generation { term: Term(1), counter: 9 };
        let new = Generation { term: Term(2), counter: 1 };
        assert!(new > old);
    }
}
