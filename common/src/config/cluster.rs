//! `[cluster]`: addresses, size and deadlines of the cluster.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[cluster]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Workers that make up the job; training starts when so many have joined.
    pub workers: u32,
    /// With fewer left, training waits until enough are back; at most `workers`.
    #[serde(default = "super::numerics::one")]
    pub min_workers: u32,
    /// With so many there is no place for more, at least `workers`; 0: as many as a batch has
    /// microbatches, or `workers` if that is more.
    #[serde(default)]
    pub max_workers: u32,
    /// host:port on which the coordinator listens; port 0 takes a free one.
    pub bind: String,
    /// Allow a bind beyond loopback although nothing is encrypted or authenticated.
    pub insecure: bool,
    /// How long the job waits for its workers to join.
    #[serde(with = "super::duration")]
    pub join_timeout: Duration,
    /// How long a worker may take to load its state and open its ring.
    #[serde(with = "super::duration")]
    pub prepare_timeout: Duration,
    /// A worker not heard of for so long is lost.
    #[serde(with = "super::duration")]
    pub liveness_timeout: Duration,
    /// How long a step may wait for a neighbour in the ring.
    #[serde(with = "super::duration")]
    pub ring_timeout: Duration,
    /// How long workers go on without a coordinator before they stop.
    #[serde(default = "coordinator_timeout", with = "super::duration")]
    pub coordinator_timeout: Duration,
    /// A worker that was asked to leave goes after so long at the latest.
    #[serde(with = "super::duration", default = "half_a_minute")]
    pub drain_grace: Duration,
    /// What is done about a worker that the others wait for.
    #[serde(default)]
    pub straggler: Straggler,
    /// How long the others wait for it before it is evicted, where it is.
    #[serde(with = "super::duration", default = "a_minute")]
    pub straggler_limit: Duration,
    /// Bytes of one chunk on the ring.
    pub ring_chunk: u64,
    /// Let workers in that compute other bits than the run's first one.
    #[serde(default)]
    pub allow_mixed_numerics: bool,
}

/// What is done about a worker that the others wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Straggler {
    /// It is named.
    #[default]
    Warn,
    /// It is named, and counts as lost after [`Cluster::straggler_limit`].
    Evict,
}

impl Cluster {
    /// The most workers that the job has places for, with batches of so many microbatches.
    pub fn places(&self, microbatches: u32) -> u32 {
        match self.max_workers {
            0 => self.workers.max(microbatches),
            most => most.max(self.workers),
        }
    }
}

/// What records from before workers could outlive a coordinator mean.
fn coordinator_timeout() -> Duration {
    Duration::from_secs(600)
}

// What records mean from before there were these.
fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

fn a_minute() -> Duration {
    Duration::from_secs(60)
}
