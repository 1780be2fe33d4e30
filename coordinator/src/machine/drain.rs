//! Workers that want to go, and those that are ready to come: the generation ends for them at a boundary.
//!
//! Whoever is to leave does so when the others can do without it, with what it has on its way to the store
//! stored, and at the latest when its grace is over: then the others go on as after a loss. The last
//! ones do not leave before there is a checkpoint, whatever their grace, for what they hold would be
//! lost with them.

use std::time::Duration;

use convoy_common::exit;

use super::effect::{Effect, Order};
use super::event::ConnectionId;
use super::note::Note;
use super::operate::NOT_YET;
use super::trouble::Loss;
use super::{Machine, Phase};

/// Those who are ready to join soon after a generation began wait for so long, for company.
const SETTLE: Duration = Duration::from_secs(2);

impl Machine {
    /// An operator wants a worker to go.
    pub(super) fn ask_drain(
        &mut self,
        now: Duration,
        name: &str,
        grace: Option<Duration>,
        effects: &mut Vec<Effect>,
    ) -> Result<ConnectionId, String> {
        self.check_not_ending()?;
        let found = self.members.iter().find(|it| it.1.name() == name);
        let Some((connection, _)) = found else {
            let names = self.members.names().join(", ");
            return Err(match (&self.phase, names.is_empty()) {
                (Phase::Adopting { .. }, _) => NOT_YET.to_owned(),
                (_, true) => format!("no worker is called {name:?}, and there is none at all"),
                (_, false) => format!("no worker is called {name:?}; there are: {names}"),
            });
        };
        let grace = grace.unwrap_or(self.plan.deadlines.drain);
        self.wants_to_leave(now, connection, "an operator drains it".to_owned(), grace, effects);
        if let Some(member) = self.members.get_mut(connection) {
            // It may have been asked before, with another grace.
            member.leave = Some((now, now + grace));
        }
        Ok(connection)
    }

    /// A worker wants to go, or is to.
    pub(super) fn wants_to_leave(
        &mut self,
        now: Duration,
        connection: ConnectionId,
        reason: String,
        grace: Duration,
        effects: &mut Vec<Effect>,
    ) {
        let Some(member) = self.members.get_mut(connection).filter(|it| !it.leaving) else {
            return;
        };
        (member.leaving, member.leave) = (true, Some((now, now + grace)));
        let name = member.name().to_owned();
        effects.push(Effect::Log(Note::Leaving { name, reason }));
        let seated = self.seated().contains(&connection);
        match self.phase {
            // What it holds may be needed.
            Phase::Waiting { .. } if self.generations > 0 && seated => {
                if self.candidates().iter().any(|it| self.holds(*it)) {
                    self.let_go(connection, effects);
                } else {
                    self.next_generation(now, effects);
                }
            }
            Phase::Waiting { .. } => self.let_go(connection, effects),
            // What it holds may be needed; what is to be done follows when all have called.
            Phase::Adopting { .. } => {}
            Phase::Stopping { .. } | Phase::Finishing { .. } | Phase::Closing { .. } => {}
            _ if !seated => self.let_go(connection, effects),
            Phase::Paused { .. } => self.let_go_while_paused(now, effects),
            _ => self.regroup_if_due(now, effects),
        }
    }

    pub(super) fn holds(&self, connection: ConnectionId) -> bool {
        self.members.get(connection).is_some_and(|it| it.held.is_some())
    }

    pub(super) fn let_go(&mut self, connection: ConnectionId, effects: &mut Vec<Effect>) {
        let Some(member) = self.members.remove(connection) else { return };
        effects.push(Effect::Log(Note::Drained { name: member.name().to_owned() }));
        let reason = "the others do without this worker".to_owned();
        let order = Order::Shutdown { reason, exit_code: exit::OK };
        effects.push(Effect::Send { to: connection, order });
    }

    /// Asks the running generation to end at a boundary, if somebody is ready to join it or wants
    /// to go.
    pub(super) fn regroup_if_due(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Training) {
            return;
        }
        let seated = self.seated();
        let leaves = |it: &ConnectionId| self.members.get(*it).is_some_and(|it| it.leaving);
        let leaving: Vec<ConnectionId> = seated.iter().copied().filter(leaves).collect();
        let mut joining = self.candidates();
        joining.retain(|it| !seated.contains(it));
        if leaving.len() == seated.len() && joining.is_empty() {
            let reason = "all workers were asked to leave".to_owned();
            return self.request_stop(now, reason, effects);
        }
        if joining.is_empty() && self.waits_for_uploads(now, &leaving) {
            return;
        }
        let soon = now < self.began + SETTLE;
        if self.regroup_ordered || leaving.is_empty() && (joining.is_empty() || soon) {
            return;
        }
        let Some(generation) = self.generation() else { return };
        let (joining, leaving) = (self.members.names_of(&joining), self.members.names_of(&leaving));
        let told = |what: &str, names: &[String]| match names {
            [] => None,
            names => Some(format!("{} {what}", names.join(", "))),
        };
        let reasons: Vec<String> =
            [told("joins", &joining), told("leaves", &leaving)].into_iter().flatten().collect();
        effects.push(Effect::Log(Note::RegroupOrdered { joining, leaving }));
        for to in seated {
            let order = Order::Regroup { generation, reason: reasons.join("; ") };
            effects.push(Effect::Send { to, order });
        }
        self.regroup_ordered = true;
    }

    /// Whether those who want to go have something on their way to the store, and time for it.
    fn waits_for_uploads(&self, now: Duration, leaving: &[ConnectionId]) -> bool {
        let leaving = || leaving.iter().filter_map(|it| self.members.get(*it));
        // The other half is for the way out.
        let hurry = |(asked, until): (Duration, Duration)| now >= asked + (until - asked) / 2;
        let uploads =
            self.checkpoints.collecting() > 0 || leaving().any(|it| it.vitals.upload.is_some());
        uploads && !leaving().any(|it| it.leave.is_some_and(hurry))
    }

    /// Those whose time to leave is over go as they are. If the whole job stops, its checkpoint is waited
    /// for.
    pub(super) fn end_grace(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if self.check_not_ending().is_err() {
            return;
        }
        let late = self.members.which(|it| it.leave.is_some_and(|(_, until)| now >= until));
        for connection in late {
            // What the last one holds must not go with it.
            if self.candidates().is_empty() {
                return;
            }
            let Some((asked, until)) = self.members.get(connection).and_then(|it| it.leave) else {
                continue;
            };
            self.leave(now, connection, Loss::OutOfGrace(until - asked), effects);
        }
    }
}
