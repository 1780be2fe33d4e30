//! Every way in which training ends: a stop, an agreed end, nobody left.

use std::time::Duration;

use convoy_common::exit;
use convoy_common::ids::{Position, Rank, Term};

use super::checkpoints::Fate;
use super::effect::{Effect, Order, Outcome};
use super::event::ConnectionId;
use super::note::{Abandoned, Note};
use super::report::{Cause, Finished};
use super::trouble::Loss;
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
        // What workers hold is kept, and what they have not begun with needs no keeping.
        let untouched = match self.phase {
            Phase::Waiting { .. } => self.members.newest(&self.members.connections()).is_none(),
            Phase::Preparing { .. } => self.roster.as_ref().is_some_and(|it| it.fresh),
            _ => false,
        };
        if let Phase::Waiting { .. } = self.phase
            && self.generations > 0
            && self.members.is_empty()
        {
            effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
            // What the last ones held went with them; nobody is waited for any more.
            let last = self.last_loss.as_ref().map_or("all workers had left", |it| it.0.as_str());
            let message = format!("stopped at {}: {reason}; before that, {last}", self.position);
            let outcome = Outcome::stopped(exit::STOPPED, message).with_hint(self.resume_hint());
            return self.close(now, outcome, effects);
        }
        if let Phase::Paused { .. } = self.phase {
            return self.stop_paused(now, reason, effects);
        }
        if untouched {
            effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
            let message = match self.generations {
                0 | 1 => format!("stopped before training began: {reason}"),
                _ => format!("stopped before training went on: {reason}"),
            };
            return self.close(now, Outcome::stopped(exit::STOPPED, message), effects);
        }
        if self.stop.is_some() {
            return;
        }
        match self.phase {
            Phase::Training => {
                effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
                self.stop = Some((reason, exit::STOPPED));
                self.enter_stopping(now, effects);
            }
            Phase::Waiting { .. } => {
                effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
                self.stop = Some((reason, exit::STOPPED));
                self.next_generation(now, effects);
            }
            // The next generation, or the one that prepares, stops where it begins.
            Phase::Adopting { .. }
            | Phase::Preparing { .. }
            | Phase::Faltering { .. }
            | Phase::Regrouping { .. } => {
                effects.push(Effect::Log(Note::StopAccepted { reason: reason.clone() }));
                self.stop = Some((reason, exit::STOPPED));
            }
            // It stops already.
            _ => {}
        }
    }

    /// Tells those who train to come to an end.
    pub(super) fn enter_stopping(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some((reason, _)) = self.stop.clone() else { return };
        for to in self.seated() {
            let order = Order::StopAfterStep { checkpoint: true, reason: reason.clone() };
            effects.push(Effect::Send { to, order });
        }
        self.phase = Phase::Stopping { until: now + self.plan.deadlines.finish };
    }

    pub(super) fn interrupt(&mut self, now: Duration, reason: &str, effects: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Closing { .. }) {
            // Everybody has been told, and how the job ended is decided.
            return self.end(effects);
        }
        let message = format!("interrupted without a checkpoint: {reason}");
        self.dismiss_all(now, Outcome::stopped(exit::INTERRUPTED, message), FLUSH, effects);
    }

    /// Another coordinator has the run. What workers do is its business: they are told nothing.
    pub(super) fn superseded(&mut self, term: Term, address: &str, effects: &mut Vec<Effect>) {
        let own = self.plan.term;
        let message = format!(
            "term {own} is over: the coordinator at {address} has taken the run over (term {term})"
        );
        let mut outcome = Outcome::failed(exit::SUPERSEDED, message)
            .with_hint(format!("ask that one: convoy status {address}"));
        outcome.last_checkpoint.clone_from(&self.checkpoints.last);
        effects.push(Effect::End(outcome.clone()));
        self.phase = Phase::Ended { outcome };
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
        let trained_nothing = self.roster.as_ref().is_some_and(|it| it.trained_nothing(*position));
        if !trained_nothing {
            match self.checkpoints.fate(*position) {
                Fate::Kept => {}
                Fate::Open => return None,
                Fate::Abandoned(why) => {
                    let message = format!(
                        "training ended at {position} ({cause}), but its checkpoint is not kept: \
                         {why}; {}",
                        self.saved()
                    );
                    return Some(
                        Outcome::failed(exit::UNAVAILABLE, message).with_hint(self.store_hint()),
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
                let (reason, exit_code) = match &self.stop {
                    Some((reason, exit_code)) => (reason.as_str(), *exit_code),
                    None => ("a worker was told to stop", exit::STOPPED),
                };
                let message = format!("stopped at {position}{detail}: {reason}");
                let outcome = match exit_code {
                    exit::STOPPED => Outcome::stopped(exit_code, message),
                    _ => Outcome::failed(exit_code, message),
                };
                outcome.with_hint(self.resume_hint())
            }
        })
    }

    pub(super) fn not_finished(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let waited = self.plan.deadlines.finish;
        let Some(roster) = &self.roster else { return };
        let late = roster.unfinished();
        if late.is_empty() {
            let trouble = self.outage.status(now);
            let message = format!(
                "all workers have finished, but the final checkpoint was not published within \
                 {:.0} s{}; {}",
                waited.as_secs_f64(),
                trouble.map_or(String::new(), |it| format!(": {}", it.error)),
                self.saved()
            );
            let outcome = Outcome::failed(exit::UNAVAILABLE, message).with_hint(self.store_hint());
            return self.close(now, outcome, effects);
        }
        let late: Vec<ConnectionId> =
            late.into_iter().filter_map(|rank| roster.connection(rank)).collect();
        for connection in late {
            self.lose(now, connection, Loss::NotFinished(waited), effects);
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
        let Some(name) = self.members.get(connection).map(|it| it.name().to_owned()) else {
            return;
        };
        let rank = self.roster.as_ref().and_then(|it| it.rank_of(connection));
        match self.phase {
            Phase::Ended { .. } => {}
            Phase::Closing { .. } => {
                self.members.remove(connection);
                self.leave_if_empty(effects);
            }
            Phase::Waiting { .. } => {
                self.forget(connection, &loss, effects);
                let (have, need) = (self.members.len(), self.plan.workers);
                let why = loss.to_string();
                effects.push(Effect::Log(Note::LeftEarly { name: name.clone(), why, have, need }));
                if rank.is_some() {
                    self.last_loss =
                        Some((format!("worker {name} was lost: {loss}"), exit::WORKER_LOST));
                }
            }
            _ => match rank {
                Some(rank) if self.may_go(rank) => {
                    self.members.remove(connection);
                }
                Some(_) if loss.is_gone() => {
                    self.members.remove(connection);
                    let why = loss.to_string();
                    effects.push(Effect::Log(Note::Lost { name: name.clone(), why }));
                    let text = format!("worker {name} was lost: {loss}");
                    self.lost(now, text, exit::WORKER_LOST, effects);
                }
                Some(_) => self.lose(now, connection, loss, effects),
                None => {
                    self.forget(connection, &loss, effects);
                    let (have, need) = (self.members.len(), self.plan.workers);
                    let why = loss.to_string();
                    effects.push(Effect::Log(Note::LeftEarly { name, why, have, need }));
                }
            },
        }
    }

    /// Removes one that has no part in a generation.
    fn forget(&mut self, connection: ConnectionId, loss: &Loss, effects: &mut Vec<Effect>) {
        self.members.remove(connection);
        if !loss.is_gone() {
            let reason = format!("the coordinator gave this worker up: {loss}");
            let order = Order::Shutdown { reason, exit_code: loss.exit_code() };
            effects.push(Effect::Send { to: connection, order });
        }
    }

    /// Whether the job can end well without this worker: it has finished, and its part of the last
    /// checkpoint is in.
    fn may_go(&self, rank: Rank) -> bool {
        let Some(roster) = &self.roster else { return true };
        matches!(self.phase, Phase::Finishing { .. })
            && roster.finished_by(rank).is_some_and(|end| {
                end.cause == Cause::NonFinite
                    || roster.trained_nothing(end.position)
                    || self.checkpoints.has_part(end.position, rank)
                    || self.checkpoints.fate(end.position) != Fate::Open
            })
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
        // Who watches has been told more than that checkpoints on their way are given up.
        drop(self.checkpoints.end_generation());
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

    /// How much of the run is in the store.
    fn saved(&self) -> String {
        match &self.checkpoints.last {
            Some(kept) => format!("saved is what came before {}: {}", kept.position, kept.path),
            None => "nothing of the run is saved".to_owned(),
        }
    }

    /// What to do where a checkpoint is missing.
    fn store_hint(&self) -> String {
        let hint = self.outage.status(self.now).and_then(|it| it.hint);
        match hint {
            Some(hint) => format!("{hint}; then {}", self.resume_hint()),
            None => self.resume_hint(),
        }
    }

    pub(super) fn resume_hint(&self) -> String {
        if self.checkpoints.last.is_some() || self.checkpoints.publishing() > 0 {
            "start the same config again to go on from the last checkpoint".to_owned()
        } else {
            "start the same config again; there is no checkpoint, so it begins anew".to_owned()
        }
    }
}
