//! Drops of the learning rate by hand: from the order to the position at which it took effect.
//!
//! ```text
//! ordered --> Writing --in the log--> Waiting --rank 0: applied--> Applied --recorded--> Effective
//!                |                      (workers are told; each says when it knows)
//!                +--cannot be written--> Failed
//! ```
//!
//! The log comes first: no worker hears of an order that a later coordinator would not find. Where
//! it takes effect is agreed on over the ring; here that is only written down and told.

use convoy_common::ids::Position;
use convoy_common::schedule::ManualDrop;

use super::effect::{Effect, Order};
use super::note::Note;
use super::plan::Start;
use super::status::{DropStage, DropStatus};
use super::{Machine, Phase};

/// The orders of the override log that this job knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Drops {
    entries: Vec<Entry>,
    /// Orders that were not taken, and why.
    refused: Vec<(u64, &'static str)>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Who waits for it.
    request: Option<u64>,
    drop: ManualDrop,
    stage: DropStage,
}

impl Drops {
    /// Those that the log holds when the job begins.
    pub(super) fn new(start: &Start) -> Self {
        let entry = |drop: &ManualDrop| Entry {
            request: None,
            drop: *drop,
            stage: match drop.at {
                // The checkpoint's state holds it.
                Some(at) if at <= start.position => DropStage::Effective(at),
                _ => DropStage::Waiting,
            },
        };
        Self { entries: start.drops.iter().map(entry).collect(), refused: Vec::new() }
    }

    /// What workers that go on from `start` have to be told: what no state holds, and what a state
    /// from before it took effect does not hold.
    pub(super) fn orders(&self, start: Position) -> Vec<ManualDrop> {
        let order = |it: &Entry| match it.stage {
            DropStage::Waiting => Some(it.drop),
            DropStage::Applied(at) | DropStage::Effective(at) if at > start => {
                Some(ManualDrop { at: Some(at), ..it.drop })
            }
            _ => None,
        };
        self.entries.iter().filter_map(order).collect()
    }

    fn next_number(&self) -> u32 {
        self.entries.iter().map(|it| it.drop.number).max().unwrap_or(0) + 1
    }

    fn find(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|it| it.drop.number == number)
    }
}

impl Machine {
    pub(super) fn order_drop(
        &mut self,
        request: u64,
        divide_by: f64,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        let ending = matches!(
            self.phase,
            Phase::Stopping { .. }
                | Phase::Finishing { .. }
                | Phase::Closing { .. }
                | Phase::Ended { .. }
        );
        if ending || self.stop.is_some() {
            self.drops.refused.push((request, "the job is ending"));
            return;
        }
        let drop = ManualDrop { number: self.drops.next_number(), divide_by, at: None };
        effects.push(Effect::Log(Note::DropOrdered { drop, reason: reason.clone() }));
        effects.push(Effect::LogDrop { drop, reason });
        let entry = Entry { request: Some(request), drop, stage: DropStage::Writing };
        self.drops.entries.push(entry);
    }

    /// The log holds the order: now workers may hear of it.
    pub(super) fn drop_logged(&mut self, number: u32, effects: &mut Vec<Effect>) {
        let Some(entry) = self.drops.find(number) else { return };
        entry.stage = DropStage::Waiting;
        let drop = entry.drop;
        // Before there is a roster it goes with the assignments, as it does between two generations;
        // an ending job leaves it to the next.
        if matches!(self.phase, Phase::Preparing { .. } | Phase::Training) {
            for to in self.seated() {
                effects.push(Effect::Send { to, order: Order::Drop(drop) });
            }
        }
    }

    pub(super) fn drop_failed(&mut self, number: u32, error: String, effects: &mut Vec<Effect>) {
        let Some(entry) = self.drops.find(number) else { return };
        entry.stage = DropStage::Failed(error.clone());
        effects.push(Effect::Log(Note::DropFailed { number, error }));
    }

    /// All ranks divided the rate at `position`.
    pub(super) fn drop_applied(
        &mut self,
        number: u32,
        position: Position,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.drops.find(number) else { return };
        if entry.stage != DropStage::Waiting {
            return;
        }
        let divide_by = entry.drop.divide_by;
        effects.push(Effect::Log(Note::DropEffective { number, position, divide_by }));
        if entry.drop.at == Some(position) {
            // Read back from the log, which has the position already.
            entry.stage = DropStage::Effective(position);
        } else {
            entry.stage = DropStage::Applied(position);
            effects.push(Effect::RecordDrop { number, position });
        }
    }

    /// The log has the position; `recorded` differs from the workers' only if it had one before.
    pub(super) fn drop_recorded(
        &mut self,
        number: u32,
        recorded: Position,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.drops.find(number) else { return };
        if let DropStage::Applied(position) = entry.stage {
            entry.stage = DropStage::Effective(position);
            if position != recorded {
                let error = format!("took effect at {position}, but its log says {recorded}");
                effects.push(Effect::Log(Note::DropFailed { number, error }));
            }
        }
    }

    /// The position is not in the log; the next checkpoint's state holds it all the same.
    pub(super) fn drop_not_recorded(
        &mut self,
        number: u32,
        error: String,
        effects: &mut Vec<Effect>,
    ) {
        let Some(entry) = self.drops.find(number) else { return };
        if let DropStage::Applied(position) = entry.stage {
            entry.stage = DropStage::Effective(position);
        }
        effects.push(Effect::Log(Note::DropFailed { number, error }));
    }

    pub(super) fn drop_statuses(&self) -> Vec<DropStatus> {
        let known = self.drops.entries.iter().map(|it| DropStatus {
            request: it.request,
            number: it.drop.number,
            divide_by: it.drop.divide_by,
            stage: it.stage.clone(),
            waiting_for: match it.stage {
                DropStage::Waiting => self.unaware_of(it.drop.number),
                _ => Vec::new(),
            },
        });
        let refused = self.drops.refused.iter().map(|(request, why)| DropStatus {
            request: Some(*request),
            number: 0,
            divide_by: 0.0,
            stage: DropStage::Failed((*why).to_owned()),
            waiting_for: Vec::new(),
        });
        known.chain(refused).collect()
    }

    /// Workers that have not said that they know the order.
    fn unaware_of(&self, number: u32) -> Vec<String> {
        if self.roster.is_none() {
            return Vec::new();
        }
        let unaware = self.members.iter().filter(|it| it.1.newest_drop < number);
        let mut names: Vec<String> = unaware.map(|it| it.1.name().to_owned()).collect();
        names.sort();
        names
    }
}
