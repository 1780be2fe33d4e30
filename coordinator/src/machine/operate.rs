//! What operators ask of a running job, and what became of it.
//!
//! A wish is taken or refused at once, and fulfilled later: at a boundary that all ranks agree on. Who
//! asked looks for the answer by the number of the request. The last answers are kept, so that nobody who
//! looks in time misses one.

use std::collections::VecDeque;
use std::time::Duration;

use convoy_common::ids::Position;

use super::effect::{Effect, Order};
use super::event::ConnectionId;
use super::note::{Abandoned, Note};
use super::{Machine, Phase};

/// Answers that are kept.
const MOST: usize = 64;

/// Why nothing is asked of workers that have yet to call.
pub(super) const NOT_YET: &str = "this coordinator is new and still waits for the workers of the one \
                                  before; ask again in some seconds";

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Keep the state at the next boundary.
    Checkpoint,
    /// Stop making steps at a boundary, with all state in the workers' memory.
    Pause {
        /// For logs and status.
        reason: String,
    },
    /// Go on after a pause.
    Resume,
    /// Let a worker go as soon as the others can do without it.
    Drain {
        /// Which.
        name: String,
        /// After so long it goes anyway; none: as the config says.
        grace: Option<Duration>,
    },
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub request: u64,
    /// How far it has come.
    pub stage: Answered,
}

/// How far a wish has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It stands.
    Waiting,
    /// It is fulfilled.
    Done {
        /// In words.
        detail: String,
        /// The checkpoint that was made for it.
        checkpoint: Option<String>,
    },
    /// It is not, and will not be.
    Refused(String),
}

/// A wish that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// A checkpoint of this position or a later one.
    Checkpoint(Position),
    Pause,
    Resume,
    Drain(ConnectionId, String),
}

/// The wishes of operators.
#[derive(Clone, Debug, Default)]
pub(super) struct Desk {
    standing: Vec<(u64, Standing)>,
    answers: VecDeque<Answer>,
}

impl Desk {
    fn answer(&mut self, request: u64, stage: Answered) {
        self.answers.push_back(Answer { request, stage });
        while self.answers.len() > MOST {
            self.answers.pop_front();
        }
    }

    /// Whether a checkpoint is wished for.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.standing.iter().any(|it| matches!(it.1, Standing::Checkpoint(_)))
    }

    /// A checkpoint will not exist, so it fulfils nobody's wish.
    pub(super) fn abandoned(&mut self, position: Position, why: &Abandoned) {
        let lost = |it: &Standing| matches!(it, Standing::Checkpoint(from) if *from <= position);
        let (failed, standing): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.standing).into_iter().partition(|it| lost(&it.1));
        self.standing = standing;
        for (request, _) in failed {
            self.answer(request, Answered::Refused(format!("the checkpoint at {position}: {why}")));
        }
    }
}

impl Machine {
    /// An operator asks for something.
    pub(super) fn asked(
        &mut self,
        now: Duration,
        request: u64,
        wish: Wish,
        effects: &mut Vec<Effect>,
    ) {
        let taken = match wish {
            Wish::Checkpoint => self.ask_checkpoint(effects),
            Wish::Pause { reason } => {
                self.ask_pause(now, reason, effects).map(|()| Standing::Pause)
            }
            Wish::Resume => self.ask_resume(now, effects).map(|()| Standing::Resume),
            Wish::Drain { name, grace } => {
                let asked = self.ask_drain(now, &name, grace, effects);
                asked.map(|connection| Standing::Drain(connection, name))
            }
        };
        match taken {
            Ok(standing) => self.desk.standing.push((request, standing)),
            Err(why) => self.desk.answer(request, Answered::Refused(why)),
        }
    }

    /// Why nothing can be asked of the job any more.
    pub(super) fn check_not_ending(&self) -> Result<(), String> {
        let ending = matches!(
            self.phase,
            Phase::Stopping { .. }
                | Phase::Finishing { .. }
                | Phase::Closing { .. }
                | Phase::Ended { .. }
        );
        if ending || self.stop.is_some() { Err("the job is ending".to_owned()) } else { Ok(()) }
    }

    /// Why nothing can be asked of the job yet.
    pub(super) fn check_begun(&self, what: &str) -> Result<(), String> {
        match (self.generations, &self.phase) {
            (0, Phase::Adopting { .. }) => Err(NOT_YET.to_owned()),
            (0, _) => Err(format!("training has not begun, so there is nothing to {what}")),
            _ => Ok(()),
        }
    }

    fn ask_checkpoint(&mut self, effects: &mut Vec<Effect>) -> Result<Standing, String> {
        self.check_not_ending()?;
        self.check_begun("keep")?;
        let (position, last) = (self.position, self.checkpoints.last.as_ref());
        let is_kept = last.is_some_and(|it| it.position >= position);
        if !is_kept {
            effects.push(Effect::Log(Note::CheckpointAsked { position }));
            match self.phase {
                Phase::Training => self.order_checkpoint(effects),
                // A pause keeps what it pauses at.
                Phase::Paused { .. } => {}
                // The next generation takes it, or the one that prepares is asked when it begins.
                _ => self.owes_checkpoint = true,
            }
        }
        Ok(Standing::Checkpoint(position))
    }

    pub(super) fn order_checkpoint(&self, effects: &mut Vec<Effect>) {
        for to in self.seated() {
            effects.push(Effect::Send { to, order: Order::TakeCheckpoint });
        }
    }

    /// Answers the wishes that are fulfilled, and those that cannot be any more.
    pub(super) fn answer_wishes(&mut self) {
        let standing = std::mem::take(&mut self.desk.standing);
        for (request, wish) in standing {
            match self.fate_of(&wish) {
                Some(stage) => self.desk.answer(request, stage),
                None => self.desk.standing.push((request, wish)),
            }
        }
    }

    fn fate_of(&self, wish: &Standing) -> Option<Answered> {
        let done = |detail: String, checkpoint| Some(Answered::Done { detail, checkpoint });
        let over = match &self.phase {
            Phase::Closing { outcome, .. } | Phase::Ended { outcome } => Some(&outcome.message),
            _ => None,
        };
        match wish {
            Standing::Checkpoint(from) => {
                if let Some(kept) = self.checkpoints.last.as_ref().filter(|it| it.position >= *from)
                {
                    return done(format!("kept {}", kept.position), Some(kept.path.clone()));
                }
            }
            Standing::Pause => {
                if let Some(pause) = self.pause_status(self.now) {
                    let at = self.position;
                    match pause.checkpoint {
                        Some(path) => return done(format!("paused at {at}"), Some(path)),
                        None if self.pause_has_no_checkpoint() => {
                            return done(format!("paused at {at} without a checkpoint"), None);
                        }
                        None => {}
                    }
                } else if self.pause.is_none() {
                    return Some(Answered::Refused("it was resumed".to_owned()));
                }
            }
            Standing::Resume => {
                if matches!(self.phase, Phase::Training) {
                    return done(format!("going on from {}", self.position), None);
                }
            }
            Standing::Drain(connection, name) => {
                if self.members.get(*connection).is_none() {
                    return done(format!("worker {name} has left"), None);
                }
                if let Phase::Closing { .. } = self.phase {
                    // It is about to.
                    return None;
                }
            }
        }
        over.map(|why| Answered::Refused(format!("the job ended: {why}")))
    }

    /// The last answers, and the wishes that stand.
    pub(super) fn answers(&self) -> Vec<Answer> {
        let standing = self.desk.standing.iter();
        let standing = standing.map(|it| Answer { request: it.0, stage: Answered::Waiting });
        self.desk.answers.iter().cloned().chain(standing).collect()
    }
}
