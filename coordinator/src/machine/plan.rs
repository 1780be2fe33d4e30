//! What the machine knows of the job before anybody has joined.

use std::time::Duration;

use convoy_common::config::Straggler;
use convoy_common::ids::{Lineage, Position, Term};
use convoy_common::schedule::ManualDrop;

use super::event::Kept;

/// The job's constants.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Name of the run, for messages.
    pub run: String,
    /// This coordinator's life.
    pub term: Term,
    /// The line of history that is continued.
    pub lineage: Lineage,
    /// Workers may train for the coordinator before: nothing is formed or stopped until they have had time
    /// to call.
    pub succeeds: bool,
    /// The one that this one repeats from a checkpoint on: states of it are states of this one.
    pub repeats: Option<Lineage>,
    /// Where training goes on.
    pub start: Start,
    /// Workers that make up the job.
    pub workers: u32,
    /// With fewer left, training waits.
    pub min_workers: u32,
    /// With so many there is no place for more; at least `workers`.
    pub max_workers: u32,
    /// What is done about a worker that the others wait for.
    pub straggler: Straggler,
    /// Version of Convoy that workers must have.
    pub version: String,
    /// Version of the wire protocol that workers must speak.
    pub protocol: u32,
    /// Digest of the config, for workers that expect one.
    pub config_digest: String,
    /// Digest of the resolved config, by which workers work.
    pub resolved_digest: String,
    /// Threads of one lane's kernels, which a worker must have cores for.
    pub threads_per_lane: u32,
    /// What the run's first worker computed, if that is recorded.
    pub fingerprint: Option<String>,
    /// Let workers in that compute other bits.
    pub allow_mixed_numerics: bool,
    /// Passes over the training split.
    pub epochs: u32,
    /// Ends the run early.
    pub max_steps: Option<u64>,
    /// Steps of one epoch.
    pub steps_per_epoch: u32,
    /// Images of the training split.
    pub training_images: u64,
    /// Images of the validation split.
    pub validation_images: u64,
    /// Views of each of them that an evaluation computes.
    pub evaluation_crops: u32,
    /// The validation split is evaluated after so many epochs; 0: never.
    pub evaluate_every_epochs: u32,
    /// Before this step of the run the rate is another one in each step, by plan.
    pub rate_moves_until: u64,
    /// Steps between two progress lines.
    pub log_every_steps: u32,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// The run computes in fp32, though it could have been told to use bf16.
    pub fp32: bool,
}

/// The state that training goes on from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// Before which step it is.
    pub position: Position,
    /// The checkpoint; none: initial weights from the seed.
    pub checkpoint: Option<Kept>,
    /// Digest of that checkpoint's state.
    pub state_digest: Option<String>,
    /// The override log. What took effect up to `position` is in the state.
    pub drops: Vec<ManualDrop>,
}

/// For all that is to be done at the end besides storing the parts of the last checkpoint: the
/// evaluation, the manifest.
const AT_THE_END: Duration = Duration::from_secs(5 * 60);

/// How long things may take. Every phase has one of these.
#[derive(Clone, Debug)]
pub struct Deadlines {
    /// Until all workers have joined, or enough are back.
    pub join: Duration,
    /// Until all have loaded the state and opened their rings, or have left the broken ring: who
    /// computes finishes its microbatch first.
    pub prepare: Duration,
    /// A worker that has spoken and is not heard of for so long is lost.
    pub liveness: Duration,
    /// For the rest of an earlier coordinator's generation to call, once its first worker has.
    pub adopt: Duration,
    /// For survivors' accounts, once a generation is broken and nobody knows by whom.
    pub blame: Duration,
    /// Training without any progress; long evaluations get more.
    pub stall: Duration,
    /// From the first worker's end to the last one's and to the final checkpoint.
    pub finish: Duration,
    /// For workers to leave, and for a checkpoint on its way, when the job is over.
    pub close: Duration,
    /// For a worker to leave that was asked to.
    pub drain: Duration,
    /// For the others to wait for one that holds them up, where such a one is evicted.
    pub straggler: Duration,
}

impl Deadlines {
    /// Those that the config leaves to the program, around those that it sets.
    pub fn new(join: Duration, prepare: Duration, liveness: Duration, ring: Duration) -> Self {
        Self {
            join,
            prepare,
            liveness,
            adopt: Duration::from_secs(5),
            blame: Duration::from_secs(1),
            // A step waits for a neighbour only as long as the ring's own deadline, so this
            // catches what no ring deadline sees; a first step on a slow machine must fit in.
            stall: (ring * 10).max(Duration::from_secs(15 * 60)),
            finish: Duration::from_secs(10 * 60) + AT_THE_END,
            close: Duration::from_secs(5),
            drain: Duration::from_secs(30),
            straggler: Duration::from_secs(60),
        }
    }

    /// The same where workers try for so long to store their parts of the last checkpoint.
    #[must_use]
    pub fn with_last_checkpoint(self, last_checkpoint: Duration) -> Self {
        Self { finish: last_checkpoint + AT_THE_END, ..self }
    }

    /// The same with these for one that is to leave and one that holds the others up.
    #[must_use]
    pub fn with(self, drain: Duration, straggler: Duration) -> Self {
        Self { drain, straggler, ..self }
    }
}

impl Plan {
    /// Steps since the run's start.
    pub fn global_step(&self, position: Position) -> u64 {
        position.global_step(self.steps_per_epoch)
    }

    /// Steps of the whole run, unless a schedule ends it before.
    pub fn total_steps(&self) -> u64 {
        let all = u64::from(self.epochs) * u64::from(self.steps_per_epoch);
        self.max_steps.map_or(all, |max| all.min(max))
    }
}
