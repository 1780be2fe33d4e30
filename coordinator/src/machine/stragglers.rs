//! Names those whom the others wait for, as long as they do, and evicts them where that is wanted.
//!
//! Who that is follows from heartbeats alone ([`super::lateness`]). A line in the log says when it begins
//! and when it is over; the status says it all the while.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use convoy_common::config::Straggler as Policy;
use convoy_common::ids::Generation;

use super::effect::Effect;
use super::event::ConnectionId;
use super::lateness::{Pace, Patience, Seen, judge};
use super::note::Note;
use super::report::{Arrival, Vitals};
use super::trouble::Loss;
use super::{Machine, Phase};

/// The shortest wait that is worth a word.
const FLOOR: Duration = Duration::from_secs(2);
/// The same before the length of a step is known.
const FIRST: Duration = Duration::from_secs(10);
/// The same for an upload, which holds up nobody at first.
const UPLOAD: Duration = Duration::from_secs(5);
/// Heartbeats over which a worker's pace is taken, and the fewest steps.
const WINDOW: (usize, u64) = (8, 4);
/// A worker that the others wait for, or that is slower than they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Straggler {
    /// Who.
    pub name: String,
    /// What it is doing: a phase of its heartbeats, `receive`, `upload` or `silent`.
    pub phase: String,
    /// For how long; of a slow one, how much longer each step takes.
    pub time: Duration,
    /// In words.
    pub account: String,
}

/// What a worker's heartbeats of late come to.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    generation: Generation,
    arrivals: VecDeque<Arrival>,
    received: u64,
    /// When a chunk came last, as far as is known.
    moved: Duration,
}

impl Track {
    pub(super) fn hear(&mut self, now: Duration, generation: Generation, vitals: &Vitals) {
        if self.generation != generation {
            *self = Self { generation, moved: now, ..Self::default() };
        }
        if self.received != vitals.chunks.1 {
            (self.received, self.moved) = (vitals.chunks.1, now);
        }
        self.arrivals.push_back(vitals.arrival);
        while self.arrivals.len() > WINDOW.0 {
            self.arrivals.pop_front();
        }
    }

    /// Of the last steps: microbatches, and seconds between two steps, for data and for computing, each of
    /// one step.
    fn pace(&self) -> Option<Pace> {
        let (first, last) = (self.arrivals.front()?, self.arrivals.back()?);
        let steps = last.steps.checked_sub(first.steps).filter(|it| *it >= WINDOW.1)? as f64;
        let microbatches = last.microbatches.checked_sub(first.microbatches)? as f64 / steps;
        (microbatches > 0.0).then(|| Pace {
            microbatches,
            between: (last.between - first.between) / steps,
            data: (last.data - first.data) / steps,
            compute: (last.compute - first.compute) / steps,
        })
    }
}

/// Who is named now, and since when.
#[derive(Clone, Debug, Default)]
pub(super) struct Stragglers {
    now: Vec<Straggler>,
    since: BTreeMap<(String, String), Duration>,
}

impl Stragglers {
    pub(super) fn now(&self) -> Vec<Straggler> {
        self.now.clone()
    }

    /// All of them in a line.
    pub(super) fn account(&self) -> String {
        let all: Vec<&str> = self.now.iter().map(|it| it.account.as_str()).collect();
        all.join("; ")
    }
}

impl Machine {
    /// Names those who hold the others up, and evicts them where that is wanted and lasts too long.
    pub(super) fn watch_stragglers(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let trains = matches!(self.phase, Phase::Training | Phase::Stopping { .. });
        let mut found = if trains { judge(&self.seen(now), self.patience()) } else { Vec::new() };
        // Who waits for a store that fails is named with the store, and is not slow.
        found.retain(|it| {
            it.straggler.phase != "upload" || !self.outage.concerns(&it.straggler.name)
        });
        let mut since = std::mem::take(&mut self.stragglers.since);
        let mut too_long = Vec::new();
        for it in &found {
            let key = (it.straggler.name.clone(), it.straggler.phase.clone());
            let began = match since.remove(&key) {
                Some(began) => began,
                None => {
                    effects.push(Effect::Log(Note::Straggles(it.straggler.clone())));
                    now
                }
            };
            self.stragglers.since.insert(key, began);
            let waited = if it.slow { Some(now - began) } else { it.kept_waiting };
            if waited.is_some_and(|it| it > self.plan.deadlines.straggler) {
                too_long.push((it.connection, it.straggler.account.clone()));
            }
        }
        for ((name, phase), began) in since {
            effects.push(Effect::Log(Note::KeepsUp { name, phase, lasted: now - began }));
        }
        self.stragglers.now = found.into_iter().map(|it| it.straggler).collect();
        let left = self.seated().len().saturating_sub(too_long.len());
        let enough = left >= (self.plan.min_workers as usize).max(1);
        if self.plan.straggler == Policy::Evict && enough && matches!(self.phase, Phase::Training) {
            for (connection, account) in too_long {
                let limit = self.plan.deadlines.straggler;
                self.leave(now, connection, Loss::Straggler { account, limit }, effects);
            }
        }
    }

    /// What is known of those in the running generation, in the order of the ring.
    fn seen(&self, now: Duration) -> Vec<Seen> {
        let seated = self.seated();
        let of = |connection: &ConnectionId| {
            let it = self.members.get(*connection)?;
            let silence = now.saturating_sub(it.heard);
            Some(Seen {
                connection: *connection,
                name: it.name().to_owned(),
                // One that has not said where it is has just begun.
                position: it.position?,
                phase: it.phase.clone(),
                in_phase: it.vitals.in_phase + silence,
                silence,
                upload: it.vitals.upload.map(|it| it + silence),
                sent: it.vitals.chunks.0,
                received: it.vitals.chunks.1,
                still: now.saturating_sub(it.track.moved),
                pace: it.track.pace(),
            })
        };
        let all: Vec<Seen> = seated.iter().filter_map(of).collect();
        // Nobody is behind somebody of whom nothing is known.
        if all.len() == seated.len() { all } else { Vec::new() }
    }

    fn patience(&self) -> Patience {
        let step = self.pace.typical_step();
        let wait = match step.is_zero() {
            true => FIRST,
            // Within a progress line's time.
            false => (3 * step).min(self.plan.log_every_steps.max(1) * step).max(FLOOR),
        };
        let took = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let evaluation = self.pace.last_evaluation.as_ref().map(|it| took(it.seconds));
        let upload = self.checkpoints.last.as_ref().and_then(|it| it.took);
        Patience {
            wait,
            evaluation: evaluation.map_or(10 * wait.max(FIRST), |it| (2 * it).max(2 * wait)),
            upload: upload.map_or(UPLOAD, |it| (3 * it).max(UPLOAD)),
        }
    }
}
