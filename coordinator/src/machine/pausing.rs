//! A pause: nobody makes steps, everybody keeps its state in memory, and what is held is in the store too.
//!
//! ```text
//!  Training --ordered--> boundary: all ranks snapshot, end the generation --> Paused --resume--> next
//!     ^                                                                         |   generation
//!     '------ somebody is lost before the checkpoint is there: once more -------'
//! ```
//!
//! A pause is the agreed end of a generation after which none is formed. It takes effect at a boundary
//! at which all ranks can take a snapshot, so nothing is lost with workers that do not outlive it; where
//! the store takes none for long, it takes effect without. Going on, those who are there keep
//! their state, and all others get it from them.

use std::time::Duration;

use convoy_common::exit;

use super::checkpoints::Fate;
use super::effect::{Effect, Order, Outcome};
use super::event::ConnectionId;
use super::note::Note;
use super::status::PauseStatus;
use super::{Machine, Phase};

/// All ranks are waited for so long to be able to take a snapshot.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The wish for a pause, until it is taken back.
#[derive(Clone, Debug)]
pub(super) struct Pause {
    reason: String,
    /// When the present generation was told.
    ordered: Option<Duration>,
    /// It takes effect without a checkpoint.
    forced: bool,
}

impl Pause {
    /// One that an earlier coordinator told its generation of.
    pub(super) fn ordered(reason: String, now: Duration) -> Self {
        Self { reason, ordered: Some(now), forced: false }
    }
}

impl Machine {
    pub(super) fn ask_pause(
        &mut self,
        now: Duration,
        reason: String,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        self.check_not_ending()?;
        self.check_begun("pause")?;
        if self.pause.is_none() {
            effects.push(Effect::Log(Note::PauseAccepted { reason: reason.clone() }));
            self.pause = Some(Pause { reason, ordered: None, forced: false });
            self.pause_if_due(now, effects);
        }
        Ok(())
    }

    pub(super) fn ask_resume(
        &mut self,
        now: Duration,
        effects: &mut Vec<Effect>,
    ) -> Result<(), String> {
        self.check_not_ending()?;
        self.check_begun("resume")?;
        if self.pause.take().is_none() {
            return Err("the job is not paused".to_owned());
        }
        let since = match self.phase {
            Phase::Paused { since } => Some(now.saturating_sub(since)),
            // Ranks that were told end their generation all the same, and the next one trains.
            _ => None,
        };
        effects.push(Effect::Log(Note::Resumed { paused: since }));
        if since.is_some() {
            // Whatever has not arrived by now is given up with the generation.
            self.owes_checkpoint |= self.checkpoints.fate(self.position) != Fate::Kept;
            self.next_generation(now, effects);
        }
        Ok(())
    }

    /// Tells those who train to come to a pause, if one is wished for; looked at from time to time.
    pub(super) fn pause_if_due(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Training) {
            return;
        }
        let (seated, generation) = (self.seated(), self.generation());
        let (Some(pause), Some(generation)) = (&mut self.pause, generation) else { return };
        let reason = pause.reason.clone();
        let order = match pause.ordered {
            None => {
                pause.ordered = Some(now);
                Order::Pause { generation, reason }
            }
            Some(since) if now >= since + PATIENCE && !pause.forced => {
                pause.forced = true;
                effects.push(Effect::Log(Note::PauseForced { waited: now - since }));
                Order::Regroup { generation, reason }
            }
            Some(_) => return,
        };
        for to in seated {
            effects.push(Effect::Send { to, order: order.clone() });
        }
    }

    /// A generation begins, which has not been told of a pause.
    pub(super) fn forget_pause_orders(&mut self) {
        if let Some(pause) = &mut self.pause {
            (pause.ordered, pause.forced) = (None, false);
        }
    }

    /// All have left their generation: whether that was for a pause, which begins then.
    pub(super) fn pauses(&mut self, now: Duration, effects: &mut Vec<Effect>) -> bool {
        let (Some(pause), Some(roster)) = (&self.pause, &self.roster) else { return false };
        let all_there = self.seated().len() == roster.world() as usize;
        if self.stop.is_some() || !all_there || !roster.ended_in_agreement(!pause.forced) {
            return false;
        }
        if let Some(newest) = self.members.newest(&self.seated()) {
            self.position = newest.position;
        }
        let (position, reason) = (self.position, pause.reason.clone());
        effects.push(Effect::Log(Note::Paused { position, reason }));
        self.phase = Phase::Paused { since: now };
        self.let_go_while_paused(now, effects);
        true
    }

    /// Whether the job is paused at a position that no checkpoint holds, or will hold.
    pub(super) fn pause_has_no_checkpoint(&self) -> bool {
        let forced = self.pause.as_ref().is_some_and(|it| it.forced);
        let fate = self.checkpoints.fate(self.position);
        forced && fate != Fate::Kept || matches!(fate, Fate::Abandoned(_))
    }

    /// One who has a place is gone while nobody trains.
    pub(super) fn lost_while_paused(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waits = self.checkpoints.fate(self.position) == Fate::Open;
        if self.seated().is_empty() {
            // As any job that all have left: whoever comes back goes on from the checkpoint, and pauses.
            self.phase = Phase::Waiting { until: now + self.plan.deadlines.join };
            self.look_again(now, effects);
        } else if waits && !self.pause.as_ref().is_some_and(|it| it.forced) {
            // Its part is missing: those who are left make one step more and keep that.
            self.next_generation(now, effects);
        }
    }

    /// Lets those go who want to, once what they hold is safe.
    pub(super) fn let_go_while_paused(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Paused { .. }) {
            return;
        }
        let going: Vec<ConnectionId> = self.members.which(|it| it.leaving);
        let fate = self.checkpoints.fate(self.position);
        let settled = fate != Fate::Open || self.pause_has_no_checkpoint();
        if going.is_empty() || !settled {
            return;
        }
        let stays = |it: &ConnectionId| !going.contains(it) && self.holds(*it);
        if self.seated().iter().any(stays) {
            for to in going {
                self.let_go(to, effects);
            }
        } else {
            self.stop_paused(now, "all workers were asked to leave".to_owned(), effects);
        }
    }

    /// Ends a job that is paused: what it holds is kept, or is kept now.
    pub(super) fn stop_paused(&mut self, now: Duration, reason: String, effects: &mut Vec<Effect>) {
        effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
        self.pause = None;
        if self.checkpoints.fate(self.position) == Fate::Kept {
            let message = format!("stopped while paused at {}: {reason}", self.position);
            let outcome = Outcome::stopped(exit::STOPPED, message);
            return self.close(now, outcome.with_hint(self.resume_hint()), effects);
        }
        self.stop = Some((reason, exit::STOPPED));
        self.next_generation(now, effects);
    }

    /// Since when and why, if it is paused.
    pub(super) fn pause_status(&self, now: Duration) -> Option<PauseStatus> {
        let (Phase::Paused { since }, Some(pause)) = (&self.phase, &self.pause) else {
            return None;
        };
        let last = self.checkpoints.last.as_ref().filter(|it| it.position == self.position);
        Some(PauseStatus {
            since: now.saturating_sub(*since),
            reason: pause.reason.clone(),
            checkpoint: last.map(|it| it.path.clone()),
        })
    }

    /// `for 12 s: maintenance; kept as checkpoints/1/000000000120/manifest.json`
    pub(super) fn describe_pause(&self, now: Duration) -> String {
        let Some(it) = self.pause_status(now) else { return String::new() };
        let kept = match it.checkpoint {
            Some(path) => format!("kept as {path}"),
            None if self.pause_has_no_checkpoint() => "not kept in the store".to_owned(),
            None => "its checkpoint is on its way".to_owned(),
        };
        format!("for {} s: {}; {kept}", it.since.as_secs(), it.reason)
    }
}
