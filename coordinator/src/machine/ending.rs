//! Every way in which training ends: a stop, an agreed end, a lost worker.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Position, Rank};

use super::checkpoints::Fate;
use super::effect::{Effect, Order, Outcome};
use super::event::{Cause, ConnectionId, Failed, Finished};
use super::note::{Abandoned, Note};
use super::trouble::{Loss, Trouble};
use super::{Machine, Phase};

/// For orders on their way when the job is interrupted.
const FLUSH: Duration = Duration::from_millis(500);
/// For a manifest on its way when the job is over.
const LAST_MANIFEST: Duration = Duration::from_secs(30);

impl Machine {
    pub(super) fn request_stop(
        &mut self,
        now: Duration,
        reason: String,
        effects: &mut Vec<Effect>,
    ) {
        match self.phase {
            Phase::Waiting { .. } | Phase::Preparing { .. } => {
                effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
                let message = format!("stopped before training began: {reason}");
                self.close(now, Outcome::stopped(exit::STOPPED, message), effects);
            }
            Phase::Training => {
                effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
                for to in self.members.connections() {
                    let order = Order::StopAfterStep { checkpoint: true, reason: reason.clone() };
                    effects.push(Effect::Send { to, order });
                }
                self.stop = Some(reason);
                self.phase = Phase::Stopping { until: now + self.plan.deadlines.finish };
            }
            // It stops already.
            _ => {}
        }
    }

    pub(super) fn interrupt(&mut self, now: Duration, reason: &str, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Closing { .. }) {
            // Everybody has been told, and how the job ended is decided.
            return self.end(effects);
        }
        let message = format!("interrupted without a checkpoint: {reason}");
        self.dismiss_all(now, Outcome::stopped(exit::INTERRUPTED, message), FLUSH, effects);
    }

    /// A worker has come to its end in agreement with the others.
    pub(super) fn finished(
        &mut self,
        now: Duration,
        rank: Rank,
        finished: Finished,
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &mut self.roster else { return };
        let (position, cause) = (finished.position, finished.cause);
        roster.set_finished(rank, finished);
        let name = roster.name(rank).to_owned();
        effects.push(Effect::Log(Note::Finished { name, position, cause }));
        self.position = self.position.max(position);
        if !matches!(self.phase, Phase::Finishing { .. }) {
            self.say_progress(effects);
            self.phase = Phase::Finishing { until: now + self.plan.deadlines.finish };
        }
        self.settle(now, effects);
    }

    /// Ends the job if all have finished and the last checkpoint is decided.
    pub(super) fn settle(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if let Phase::Closing { .. } = self.phase {
            return self.leave_if_empty(effects);
        }
        if !matches!(self.phase, Phase::Finishing { .. }) {
            return;
        }
        if let Some(roster) = &self.roster
            && let Some(groups) = roster.different_end_states()
        {
            let position = self.position;
            return self.diverge(now, position, &groups, effects);
        }
        let outcome = match self.roster.as_ref().and_then(|it| it.agreed_end()) {
            None => None,
            Some(Ok(end)) => self.outcome_of(&end),
            Some(Err(account)) => Some(
                Outcome::failed(
                    exit::FAILURE,
                    format!("workers disagree about how training ended: {account}"),
                )
                .with_hint(self.resume_hint()),
            ),
        };
        if let Some(outcome) = outcome {
            self.close(now, outcome, effects);
        }
    }

    /// Workers hold different states. The wrong bits have gone into everybody's sums, so the job goes
    /// back to the last checkpoint on which all agreed: it ends, and what is started again begins
    /// there.
    pub(super) fn diverge(
        &mut self,
        now: Duration,
        position: Position,
        groups: &[(String, Vec<Rank>)],
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &self.roster else { return };
        let (odd, account) = (roster.odd(groups), roster.tell(groups));
        let all = odd.len() == roster.world() as usize;
        let names = roster.tell_names(&odd);
        let verdict = if all {
            format!("workers {names} hold different states, and there is no majority")
        } else if odd.len() == 1 {
            format!("worker {names} holds another state than the majority")
        } else {
            format!("workers {names} hold other states than the majority")
        };
        let agreed = match &self.checkpoints.last {
            Some(kept) => format!("the last agreed checkpoint is {}", kept.path),
            None => "there is no agreed checkpoint".to_owned(),
        };
        let message = format!("{verdict} at {position} ({account}); {agreed}");
        self.checkpoints.abandon(position, Abandoned::Diverged { odd: names });
        effects.push(Effect::Log(Note::Diverged { position, account }));
        let outcome = Outcome::failed(exit::DIVERGED, message).with_hint(format!(
            "check the memory and the processor of these machines; {}",
            self.resume_hint()
        ));
        self.close(now, outcome, effects);
    }

    /// How the job ends with all ranks at this end; `None` while the final checkpoint is open.
    fn outcome_of(&self, end: &Finished) -> Option<Outcome> {
        let Finished { position, cause, detail, .. } = end;
        if *cause == Cause::NonFinite {
            let message = format!(
                "a loss or gradient was not finite in the step after {position}: {detail}; no \
                 worker committed the step"
            );
            return Some(
                Outcome::failed(exit::NON_FINITE, message).with_hint(
                    "a lower train.lr is the usual remedy; it needs a new run, or --from an older \
                 checkpoint"
                        .to_owned(),
                ),
            );
        }
        let trained_nothing = self.roster.as_ref().is_some_and(|roster| roster.start == *position);
        if !trained_nothing {
            match self.checkpoints.fate(*position) {
                Fate::Kept => {}
                Fate::Open => return None,
                Fate::Abandoned(why) => {
                    let message = format!(
                        "training ended at {position} ({cause}), but its checkpoint is not kept: \
                         {why}"
                    );
                    return Some(
                        Outcome::failed(exit::UNAVAILABLE, message).with_hint(self.resume_hint()),
                    );
                }
            }
        }
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        Some(match cause {
            Cause::Completed => {
                Outcome::completed(format!("training is complete at {position}{detail}"))
            }
            _ => {
                let reason = self.stop.as_deref().unwrap_or("a worker was told to stop");
                let message = format!("stopped at {position}{detail}: {reason}");
                Outcome::stopped(exit::STOPPED, message).with_hint(self.resume_hint())
            }
        })
    }

    pub(super) fn not_finished(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waited = self.plan.deadlines.finish;
        let Some(roster) = &self.roster else { return };
        let late = roster.unfinished();
        if late.is_empty() {
            let message = format!(
                "all workers have finished, but the final checkpoint was not published within \
                 {:.0} s",
                waited.as_secs_f64()
            );
            let outcome = Outcome::failed(exit::UNAVAILABLE, message).with_hint(self.resume_hint());
            return self.close(now, outcome, effects);
        }
        for rank in late {
            self.lose(now, rank, Loss::NotFinished(waited), effects);
        }
    }

    /// A worker's call is over, or counts as over.
    pub(super) fn leave(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        loss: Loss,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.members.remove(connection) else { return };
        let told = matches!(self.phase, Phase::Closing { .. });
        if let Loss::Silent(_) = loss
            && !told
        {
            // It may be deaf as well as mute; if not, it learns that nobody counts on it.
            let reason = format!("the coordinator gave this worker up: {loss}");
            let order = Order::Shutdown { reason, exit_code: exit::WORKER_LOST };
            effects.push(Effect::Send { to: connection, order });
        }
        match self.phase {
            Phase::Waiting { .. } => effects.push(Effect::Log(Note::LeftEarly {
                name: member.name().to_owned(),
                why: loss.to_string(),
                have: self.members.len(),
                need: self.plan.workers,
            })),
            Phase::Closing { .. } => self.leave_if_empty(effects),
            Phase::Ended { .. } => {}
            _ => {
                let rank = self.roster.as_ref().and_then(|it| it.rank_of(connection));
                if let Some(rank) = rank.filter(|rank| !self.may_go(*rank)) {
                    self.lose(now, rank, loss, effects);
                }
            }
        }
    }

    /// Whether the job can end well without this worker: it has finished, and its part of the last
    /// checkpoint is in.
    fn may_go(&self, rank: Rank) -> bool {
        let Some(roster) = &self.roster else { return true };
        matches!(self.phase, Phase::Finishing { .. })
            && roster.finished_by(rank).is_some_and(|end| {
                end.cause == Cause::NonFinite
                    || end.position == roster.start
                    || self.checkpoints.has_part(end.position, rank)
                    || self.checkpoints.fate(end.position) != Fate::Open
            })
    }

    /// A worker says that it left the generation.
    pub(super) fn complain(
        &mut self,
        now: Duration,
        rank: Rank,
        failed: Failed,
        effects: &mut Vec<Effect>,
    ) {
        let sign = match &failed.blame {
            Some(blame) => format!("it blames {blame}: {}", failed.error),
            None => failed.error.clone(),
        };
        self.falter(now, rank, sign, |trouble| trouble.add_complaint(rank, failed), effects);
    }

    /// A worker counts as lost.
    pub(super) fn lose(
        &mut self,
        now: Duration,
        rank: Rank,
        loss: Loss,
        effects: &mut Vec<Effect>,
    ) {
        let sign = loss.to_string();
        self.falter(now, rank, sign, |trouble| trouble.add_loss(rank, loss), effects);
    }

    /// Takes in one sign of a broken generation; the first one starts the search for the cause.
    fn falter(
        &mut self,
        now: Duration,
        rank: Rank,
        sign: String,
        add: impl FnOnce(&mut Trouble),
        effects: &mut Vec<Effect>,
    ) {
        let Some(roster) = &self.roster else { return };
        let (generation, name) = (roster.generation, roster.name(rank).to_owned());
        match &mut self.phase {
            Phase::Faltering { trouble, .. } => {
                add(trouble);
                effects.push(Effect::Log(Note::AlsoFaltered { name, sign }));
            }
            Phase::Preparing { .. }
            | Phase::Training
            | Phase::Stopping { .. }
            | Phase::Finishing { .. } => {
                let mut trouble = Trouble::default();
                add(&mut trouble);
                effects.push(Effect::Log(Note::Faltered { generation, name, sign }));
                let until = now + self.plan.deadlines.blame;
                self.phase = Phase::Faltering { until, trouble };
            }
            Phase::Waiting { .. } | Phase::Closing { .. } | Phase::Ended { .. } => return,
        }
        if let (Phase::Faltering { trouble, .. }, Some(roster)) = (&self.phase, &self.roster)
            && trouble.is_complete(roster)
        {
            self.conclude(now, effects);
        }
    }

    /// The generation is broken and its cause as clear as it will be.
    ///
    /// Here the job ends. This is the one place that a next generation of the survivors would
    /// replace: the roster, the culprits and the last known position are all at hand.
    pub(super) fn conclude(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let (Phase::Faltering { trouble, .. }, Some(roster)) = (&self.phase, &self.roster) else {
            return;
        };
        let verdict = trouble.verdict(roster);
        let position = trouble.position().map_or(self.position, |it| it.max(self.position));
        let message = format!("{}, at {position}", verdict.text);
        let outcome = Outcome::failed(verdict.exit_code, message).with_hint(self.resume_hint());
        self.say_progress(effects);
        self.close(now, outcome, effects);
    }

    /// Ends the job: everybody is told, and gets a moment to leave.
    pub(super) fn close(&mut self, now: Duration, outcome: Outcome, effects: &mut Vec<Effect>) {
        let moment = if self.checkpoints.publishing() > 0 {
            self.plan.deadlines.close.max(LAST_MANIFEST)
        } else {
            self.plan.deadlines.close
        };
        self.dismiss_all(now, outcome, moment, effects);
    }

    fn dismiss_all(
        &mut self,
        now: Duration,
        outcome: Outcome,
        moment: Duration,
        effects: &mut Vec<Effect>,
    ) {
        for to in self.members.connections() {
            let (reason, exit_code) = (outcome.message.clone(), outcome.exit_code);
            effects.push(Effect::Send { to, order: Order::Shutdown { reason, exit_code } });
        }
        self.checkpoints.end_generation();
        self.phase = Phase::Closing { until: now + moment, outcome };
        self.leave_if_empty(effects);
    }

    fn leave_if_empty(&mut self, effects: &mut Vec<Effect>) {
        if self.members.is_empty() && self.checkpoints.publishing() == 0 {
            self.end(effects);
        }
    }

    pub(super) fn end(&mut self, effects: &mut Vec<Effect>) {
        if let Phase::Closing { outcome, .. } = &self.phase {
            let mut outcome = outcome.clone();
            // Only now: a manifest may have been on its way.
            outcome.last_checkpoint.clone_from(&self.checkpoints.last);
            effects.push(Effect::End(outcome.clone()));
            self.phase = Phase::Ended { outcome };
        }
    }

    fn resume_hint(&self) -> String {
        if self.checkpoints.last.is_some() || self.checkpoints.publishing() > 0 {
            "start the same config again to go on from the last checkpoint".to_owned()
        } else {
            "start the same config again; there is no checkpoint, so it begins anew".to_owned()
        }
    }
}
