//! Which deadline must exceed which.
//!
//! | deadline | default | must exceed | because |
//! |---|---|---|---|
//! | [`HEARTBEAT_INTERVAL`] | 1 s, fixed | | |
//! | `liveness_timeout`, also of a neighbour that acknowledges nothing | 3 s | the heartbeat interval | a worker in good health would be lost |
//! | `ring_timeout` | 30 s | `liveness_timeout` | a worker's death would be blamed on its neighbours' ring |
//! | `prepare_timeout` | 2 min | `liveness_timeout` | the same, while state is loaded |
//! | `coordinator_timeout` | 10 min | `liveness_timeout` | a coordinator that is late would end the job |
//! | `straggler_limit` | 60 s | `liveness_timeout` | a worker's death would count as slowness |
//! | `drain_grace` | 30 s | | it is the time that a machine is given, whatever else takes |
//!
//! `straggler_limit` is reached only by a worker that holds the others up outside of the ring: one that
//! is stuck within it is found by `ring_timeout`, whichever of the two is longer.

use std::time::Duration;

/// How often a worker tells the coordinator that it lives.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// One line of the table above: the first deadline must exceed the second.
pub(super) struct Order {
    pub(super) longer: &'static str,
    pub(super) shorter: &'static str,
    pub(super) because: &'static str,
}

/// The lines of the table that compare two fields.
pub(super) const ORDERS: [Order; 4] = [
    Order {
        longer: "cluster.ring_timeout",
        shorter: "cluster.liveness_timeout",
        because: "a dead worker must be noticed before its neighbours give up on the ring",
    },
    Order {
        longer: "cluster.prepare_timeout",
        shorter: "cluster.liveness_timeout",
        because: "a dead worker must be noticed before the others' preparation runs out",
    },
    Order {
        longer: "cluster.coordinator_timeout",
        shorter: "cluster.liveness_timeout",
        because: "workers must not stop because of a coordinator that is late for once",
    },
    Order {
        longer: "cluster.straggler_limit",
        shorter: "cluster.liveness_timeout",
        because: "a dead worker must be noticed as such, and not evicted as a slow one",
    },
];
