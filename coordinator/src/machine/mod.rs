//! Decides everything about a job: a pure function of state, time and event.
//!
//! ```text
//! Waiting --all joined--> Preparing --all ready, equal bits--> Training <--> Paused
//!    ^                      ^     |                              |  stop wanted
//!    |            next      |     |                              v
//!    |         generation   |     |                           Stopping
//!    |                      |     |                              |  first worker finished
//!    |                      |     +--- a worker is lost, ---+    v
//!    |                      |          or the ring breaks   | Finishing --final manifest--+
//!    |                      |                               v                             v
//!    '-----too few--- Regrouping <---why is known--- Faltering     nobody came --> Closing -> Ended
//! ```
//!
//! Time is an argument and every wait has a deadline, so each path is tested without waiting. The
//! machine does no I/O, holds no clock and writes no log: what is to be done comes out as
//! [`Effect`]s, decisions among them as typed [`Note`]s. Coordinator calls never lie on a step's
//! path: workers report, they do not ask.

mod admission;
mod adoption;
mod checkpoints;
mod drain;
mod drops;
mod effect;
mod ending;
mod event;
mod forming;
mod gathering;
pub mod invariants;
mod lateness;
mod members;
mod note;
mod operate;
mod outage;
mod pace;
mod pausing;
mod plan;
mod reach;
mod regroup;
mod report;
mod roster;
mod status;
mod stragglers;
mod training;
mod trouble;

#[cfg(test)]
mod tests;

use std::time::Duration;

use convoy_common::ids::{Generation, Position};

pub use admission::Refusal;
pub use effect::{Adoption, Assignment, Effect, Ending, Order, Outcome, Publication, Resume, Seat};
pub use event::{ConnectionId, Departure, Event, Hello, Kept, Part, Stage, Standing};
pub use note::{Abandoned, Note};
pub use operate::{Answer, Answered, Wish};
pub use pace::Progress;
pub use plan::{Deadlines, Plan, Start};
pub use report::{
    Arrival, CacheReport, Cause, Evaluation, Failed, Finished, Left, Report, StepReport, StepTimes,
    Vitals,
};
pub use status::{DropStage, DropStatus, PauseStatus, Status, StoreTrouble, WorkerStatus};
pub use stragglers::Straggler;

use checkpoints::Checkpoints;
use drops::Drops;
use members::Members;
use operate::Desk;
use outage::Outage;
use pace::Pace;
use pausing::Pause;
use reach::Reach;
use roster::Roster;
use stragglers::Stragglers;
use trouble::{Links, Loss, Trouble};

/// A gap between two steps of the machine that means that this process itself stood still.
/// Its owner ticks several times a second.
const AWAY: Duration = Duration::from_secs(2);
/// A job that all its workers have left waits for so long for one to come back.
const DESERTED: Duration = Duration::from_secs(10);

/// A job's state.
#[derive(Clone, Debug)]
pub struct Machine {
    plan: Plan,
    phase: Phase,
    members: Members,
    /// The running generation, or the last one.
    roster: Option<Roster>,
    /// What the run's first worker computed, once it is known.
    fingerprint: Option<String>,
    /// Generations formed in this term.
    generations: u32,
    checkpoints: Checkpoints,
    /// Of the run's store.
    outage: Outage,
    pace: Pace,
    /// Drops of the rate by hand.
    drops: Drops,
    /// The last committed one that is known.
    position: Position,
    /// Why the job is to stop, if it is, and the exit code of that.
    stop: Option<(String, u8)>,
    /// What the last lost worker was lost by, and the exit code of a job that ends with it.
    last_loss: Option<(String, u8)>,
    /// Links between workers that broke of late.
    links: Links,
    /// Who can reach whom.
    reach: Reach,
    /// Whom the others wait for.
    stragglers: Stragglers,
    /// What operators wish for.
    desk: Desk,
    /// A pause is wished for, or is there.
    pause: Option<Pause>,
    /// The generation was asked to end at a boundary.
    regroup_ordered: bool,
    /// A checkpoint was abandoned or missed with a generation, and none was made since.
    owes_checkpoint: bool,
    /// When the generation began to train.
    began: Duration,
    /// A generation has begun since the job went on from the seed or a checkpoint last, so the states
    /// were compared.
    compared: bool,
    /// Since when there has been no worker at all.
    deserted: Option<Duration>,
    /// When training last showed any progress.
    moved: Duration,
    /// When the machine was asked last.
    now: Duration,
}

#[derive(Clone, Debug)]
enum Phase {
    Waiting {
        until: Duration,
    },
    /// Workers of an earlier coordinator call; the rest of their generation is waited for.
    Adopting {
        until: Duration,
    },
    Preparing {
        until: Duration,
    },
    Training,
    Stopping {
        until: Duration,
    },
    Finishing {
        until: Duration,
    },
    /// The ring is broken, and nobody is known to be lost yet.
    Faltering {
        until: Duration,
        trouble: Trouble,
    },
    /// The generation is over; its workers leave the ring and say what they hold.
    Regrouping {
        until: Duration,
    },
    /// Nobody trains because somebody wants it so; workers keep their state.
    Paused {
        since: Duration,
    },
    Closing {
        until: Duration,
        outcome: Outcome,
    },
    Ended {
        outcome: Outcome,
    },
}

impl Machine {
    /// A job that waits for its workers from `now` on.
    pub fn new(plan: Plan, now: Duration) -> Self {
        Self {
            phase: match plan.succeeds {
                true => Phase::Adopting { until: now + plan.deadlines.adopt },
                false => Phase::Waiting { until: now + plan.deadlines.join },
            },
            members: Members::default(),
            roster: None,
            fingerprint: plan.fingerprint.clone(),
            generations: 0,
            checkpoints: Checkpoints::new(
                plan.start.checkpoint.clone(),
                plan.start.state_digest.clone(),
            ),
            outage: Outage::default(),
            pace: Pace::default(),
            drops: Drops::new(&plan.start),
            position: plan.start.position,
            stop: None,
            last_loss: None,
            links: Links::default(),
            reach: Reach::default(),
            stragglers: Stragglers::default(),
            desk: Desk::default(),
            pause: None,
            regroup_ordered: false,
            owes_checkpoint: false,
            began: now,
            compared: false,
            deserted: Some(now),
            moved: now,
            now,
            plan,
        }
    }

    /// Takes in what happened at `now` and says what is to be done about it, in order.
    pub fn step(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        if matches!(self.phase, Phase::Ended { .. }) {
            return effects;
        }
        self.notice_absence(now, &mut effects);
        match event {
            Event::Joined { connection, hello } => self.join(now, connection, hello, &mut effects),
            Event::Computed { connection, fingerprint } => {
                self.computed(now, connection, fingerprint, &mut effects);
            }
            Event::Gone { connection, why } => {
                self.leave(now, connection, Loss::Gone(why), &mut effects);
            }
            Event::Said { connection, generation, report } => {
                self.hear(now, connection, generation, report, &mut effects);
            }
            Event::Leaving { connection, reason } => {
                let grace = self.plan.deadlines.drain;
                self.wants_to_leave(now, connection, reason, grace, &mut effects);
            }
            Event::Superseded { term, address } => {
                self.superseded(term, &address, &mut effects);
            }
            Event::StopRequested { reason } => self.request_stop(now, reason, &mut effects),
            Event::Interrupted { reason } => self.interrupt(now, &reason, &mut effects),
            Event::ManifestPublished(kept) => self.published(now, kept, &mut effects),
            Event::ManifestFailed { position, error } => {
                self.not_published(now, position, error, &mut effects);
            }
            Event::StoreFails { error, hint } => {
                let who = outage::COORDINATOR.to_owned();
                self.outage.fails(now, who, (error, hint), &mut effects);
            }
            Event::StoreWorks => self.outage.works(now, outage::COORDINATOR, &mut effects),
            Event::DropOrdered { request, divide_by, reason } => {
                self.order_drop(request, divide_by, reason, &mut effects);
            }
            Event::DropLogged { number } => self.drop_logged(number, &mut effects),
            Event::DropFailed { number, error } => self.drop_failed(number, error, &mut effects),
            Event::DropRecorded { number, position } => {
                self.drop_recorded(number, position, &mut effects);
            }
            Event::DropNotRecorded { number, error } => {
                self.drop_not_recorded(number, error, &mut effects);
            }
            Event::Asked { request, wish } => self.asked(now, request, wish, &mut effects),
            Event::Probed { connection, number, unreachable } => {
                self.probed(now, connection, number, &unreachable, &mut effects);
            }
            Event::Tick => self.check_deadlines(now, &mut effects),
        }
        self.answer_wishes();
        let since = self.deserted.unwrap_or(now);
        self.deserted = self.members.is_empty().then_some(since);
        effects
    }

    /// Whether the job is over.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Ended { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// What the job is doing at `now`.
    pub fn status(&self, now: Duration) -> Status {
        let (phase, detail) = self.describe(now);
        let mut workers: Vec<WorkerStatus> = self
            .members
            .iter()
            .map(|(connection, member)| WorkerStatus {
                name: member.name().to_owned(),
                rank: self.roster.as_ref().and_then(|it| it.rank_of(connection)),
                device: member.hello.device.clone(),
                position: member.position.unwrap_or(self.position),
                phase: member.phase.clone(),
                silence: now.saturating_sub(member.heard),
                in_phase: member.vitals.in_phase + now.saturating_sub(member.heard),
                leaving: member.leaving,
            })
            .collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            generation: self.generation(),
            phase,
            detail,
            workers,
            position: self.position,
            last_step: self.pace.last_step.clone(),
            images_per_second: self.pace.images_per_second(),
            last_evaluation: self.pace.last_evaluation.clone(),
            last_checkpoint: self.checkpoints.last.clone(),
            eta: self.pace.eta(self.position, &self.plan),
            drops: self.drop_statuses(),
            store_trouble: self.outage.status(now),
            pause: self.pause_status(now),
            stragglers: self.stragglers.now(),
            answers: self.answers(),
        }
    }

    fn describe(&self, now: Duration) -> (&'static str, String) {
        match &self.phase {
            Phase::Waiting { .. } => ("waiting", self.attendance()),
            Phase::Adopting { .. } => ("adopting", self.calls()),
            Phase::Preparing { .. } => match (&self.stop, &self.roster) {
                // It stops where this generation would begin.
                (Some((reason, _)), _) => ("stopping", reason.clone()),
                (None, roster) => {
                    let (ready, of) = roster.as_ref().map_or((0, 0), |it| (it.ready(), it.world()));
                    ("preparing", format!("{ready} of {of} workers are ready"))
                }
            },
            Phase::Training => ("training", self.stragglers.account()),
            Phase::Paused { .. } => ("paused", self.describe_pause(now)),
            Phase::Stopping { .. } => {
                ("stopping", self.stop.as_ref().map_or(String::new(), |it| it.0.clone()))
            }
            Phase::Finishing { .. } => {
                ("stopping", "waiting for the last workers and the final checkpoint".to_owned())
            }
            Phase::Faltering { trouble, .. } => match &self.roster {
                Some(roster) => ("regrouping", trouble.verdict(roster)),
                None => ("regrouping", String::new()),
            },
            Phase::Regrouping { .. } => {
                let last = self.last_loss.as_ref().map_or(String::new(), |it| it.0.clone());
                ("regrouping", last)
            }
            Phase::Closing { outcome, until } => {
                let left = until.saturating_sub(now).as_secs_f64();
                let word = outcome.kind.word();
                (word, format!("{} (leaving within {left:.0} s)", outcome.message))
            }
            Phase::Ended { outcome } => (outcome.kind.word(), outcome.message.clone()),
        }
    }

    fn generation(&self) -> Option<Generation> {
        self.roster.as_ref().map(|it| it.generation)
    }

    /// Silence means nothing while this process itself stood still, as when a machine is suspended.
    fn notice_absence(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let gap = now.saturating_sub(self.now);
        self.now = now;
        if gap > AWAY {
            self.members.forgive(now);
            self.moved = now;
            self.deserted = self.deserted.map(|_| now);
            effects.push(Effect::Log(Note::WasAway { gap }));
        }
    }

    fn check_deadlines(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Deadlines { liveness, prepare, .. } = self.plan.deadlines;
        self.watch_stragglers(now, effects);
        self.probe_if_due(now, effects);
        self.end_grace(now, effects);
        for (connection, silence) in self.members.silent(now, liveness, prepare) {
            self.leave(now, connection, Loss::Silent(silence), effects);
        }
        match self.phase {
            Phase::Waiting { until } if now >= until => self.nobody_came(now, effects),
            Phase::Waiting { .. }
                if self.generations > 0
                    && self.deserted.is_some_and(|since| now >= since + DESERTED) =>
            {
                self.nobody_is_left(now, effects);
            }
            Phase::Adopting { until } if now >= until => self.adopt(now, effects),
            Phase::Preparing { until } if now >= until => self.not_ready(now, effects),
            Phase::Training => {
                self.check_progress(now, effects);
                self.pause_if_due(now, effects);
                self.regroup_if_due(now, effects);
            }
            Phase::Stopping { until } if now >= until => self.not_finished(now, effects),
            Phase::Finishing { until } if now >= until => self.not_finished(now, effects),
            Phase::Faltering { until, .. } if now >= until => self.conclude(now, effects),
            Phase::Regrouping { until } if now >= until => self.not_left(now, effects),
            Phase::Closing { until, .. } if now >= until => self.end(effects),
            _ => {}
        }
    }

    /// Drops what the present state has no use for, and says so.
    fn ignore(
        &self,
        connection: ConnectionId,
        what: &'static str,
        generation: Generation,
        effects: &mut Vec<Effect>,
    ) {
        let name = self.name_of(connection);
        effects.push(Effect::Log(Note::Ignored { name, what, generation }));
    }

    fn name_of(&self, connection: ConnectionId) -> String {
        let found = self.members.iter().find(|it| it.0 == connection);
        found.map_or_else(|| format!("call {}", connection.0), |it| it.1.name().to_owned())
    }
}

impl Ending {
    fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}
