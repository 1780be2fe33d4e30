//! Which faults a drill inflicts, on whom and when: all of it from a seed, before anything starts.
//!
//! Pure: no clock, no process. The same seed, kinds and number of workers give the same plan, so a
//! drill that found something is repeated by its seed. What a plan cannot repeat is the machine's
//! own timing: a fault is addressed to a step and to a share of a step's time.
//!
//! Faults come in rounds. A round begins when the job has recovered from the one before; most have one
//! fault, some two: at once, or the second while the job recovers from the first. At least one worker
//! is left alone in each round, because a job that loses all its workers goes back to its checkpoint,
//! which is another promise.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use convoy_common::random::{Random, Stream};

/// What is done to the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// SIGKILL of a worker, which is started again.
    Kill,
    /// SIGSTOP of a worker for longer than `cluster.liveness_timeout`.
    Stop,
    /// The same for a shorter time, which the job should just wait out.
    Blink,
    /// SIGTERM of a worker, which is started again once it has left.
    Drain,
    /// The way on which a worker's left neighbour reaches it is cut.
    Cut,
    /// The way on which a worker reaches the coordinator is cut.
    CutCoordinator,
    /// The run's store does not work.
    Store,
    /// SIGKILL of the coordinator, which is started again.
    Coordinator,
    /// The same and a worker at once.
    CoordinatorAndWorker,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 9] = [
        Self::Kill,
        Self::Stop,
        Self::Blink,
        Self::Drain,
        Self::Cut,
        Self::CutCoordinator,
        Self::Store,
        Self::Coordinator,
        Self::CoordinatorAndWorker,
    ];

    /// As it is written on the command line and in reports.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Blink => "blink",
            Self::Drain => "drain",
            Self::Cut => "cut",
            Self::CutCoordinator => "cut-coordinator",
            Self::Store => "store",
            Self::Coordinator => "coordinator",
            Self::CoordinatorAndWorker => "coordinator+worker",
        }
    }

    /// Whether it is done to one worker.
    pub(crate) const fn has_worker(self) -> bool {
        !matches!(self, Self::Store | Self::Coordinator)
    }

    /// Whether it is done to the coordinator.
    pub(crate) const fn has_coordinator(self) -> bool {
        matches!(self, Self::Coordinator | Self::CoordinatorAndWorker)
    }

    /// Whether it may come while the job recovers from another one.
    const fn may_be_second(self) -> bool {
        matches!(self, Self::Kill | Self::Stop | Self::Blink | Self::Drain | Self::Cut)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == text.trim());
        found.ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|it| it.as_str()).collect();
            format!("{text:?} is no kind of fault; there are {}", all.join(", "))
        })
    }
}

/// How a way is cut, or how a store fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Connections are reset, and new ones are not taken.
    Refuse,
    /// Bytes are taken and go nowhere until it is over; then they go on.
    BlackHole,
    /// Connections are reset once; new ones work at once.
    Reset,
    /// Every request is answered with 503.
    Unavailable,
    /// Bytes trickle.
    Slow,
}

impl Way {
    /// As it is written in reports.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::BlackHole => "black-hole",
            Self::Reset => "reset",
            Self::Unavailable => "503",
            Self::Slow => "slow",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fault {
    /// What.
    pub(crate) kind: Kind,
    /// Index of the worker, where it is done to one.
    pub(crate) worker: Option<usize>,
    /// How, where there are several ways.
    pub(crate) way: Option<Way>,
    /// How long it lasts; zero for those that are over at once.
    pub(crate) hold: Duration,
    /// From the end of a process to its next start.
    pub(crate) restart: Duration,
    /// From the round's beginning.
    pub(crate) after: Duration,
}

/// What happens between two states of rest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Round {
    /// Steps to wait for first.
    pub(crate) steps: u32,
    /// Share of a step's time to wait for after them, below 1.
    pub(crate) share: f64,
    /// One or two, by their time.
    pub(crate) faults: Vec<Fault>,
}

/// What a plan depends on.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Everything is drawn from it.
    pub(crate) seed: u64,
    /// Faults in all rounds together.
    pub(crate) faults: u32,
    /// Workers, at least two.
    pub(crate) workers: usize,
    /// Of which kinds; none twice.
    pub(crate) kinds: Vec<Kind>,
    /// `cluster.liveness_timeout`.
    pub(crate) liveness: Duration,
}

/// One round in so many has two faults.
const OVERLAPS: u32 = 5;

/// The rounds of a drill.
pub(crate) fn rounds(wanted: &Wanted) -> Vec<Round> {
    let mut rounds = Vec::new();
    let mut left = wanted.faults;
    // Kinds come in shuffled turns, so that few faults are of many kinds.
    let mut turn: Vec<Kind> = Vec::new();
    while left > 0 && !wanted.kinds.is_empty() {
        let mut random = Random::new(wanted.seed, Stream::Rehearsal, 0, 0, rounds.len() as u64);
        if turn.is_empty() {
            turn = shuffled(&mut random, &wanted.kinds);
        }
        let Some(kind) = turn.pop() else { break };
        let round = round(&mut random, wanted, kind, left);
        left = left.saturating_sub(round.faults.len() as u32);
        rounds.push(round);
    }
    rounds
}

fn shuffled(random: &mut Random, kinds: &[Kind]) -> Vec<Kind> {
    let mut kinds = kinds.to_vec();
    for last in (1..kinds.len()).rev() {
        kinds.swap(last, random.below(last as u32 + 1) as usize);
    }
    kinds
}

fn round(random: &mut Random, wanted: &Wanted, kind: Kind, left: u32) -> Round {
    let steps = 1 + random.below(3);
    let share = random.unit();
    let first = fault(random, wanted, kind, Duration::ZERO, None);
    let seconds: Vec<Kind> = wanted.kinds.iter().copied().filter(|it| it.may_be_second()).collect();
    let mut faults = vec![first];
    if left > 1 && !seconds.is_empty() && random.below(OVERLAPS) == 0 {
        let kind = seconds[random.below(seconds.len() as u32) as usize];
        let at_once = random.below(2) == 0;
        let after = if at_once { 0.02 * random.unit() } else { 0.2 + 3.0 * random.unit() };
        let second = fault(random, wanted, kind, seconds_of(after), faults[0].worker);
        faults.push(second);
    }
    Round { steps, share, faults }
}

/// `taken` is the worker of the round's first fault.
fn fault(
    random: &mut Random,
    wanted: &Wanted,
    kind: Kind,
    after: Duration,
    taken: Option<usize>,
) -> Fault {
    let worker = kind.has_worker().then(|| {
        let drawn = random.below(wanted.workers as u32) as usize;
        match taken {
            // One of them has to be left alone.
            Some(taken) if wanted.workers < 3 => taken,
            _ => drawn,
        }
    });
    let liveness = wanted.liveness.as_secs_f64();
    let unit = random.unit();
    let (way, hold) = match kind {
        Kind::Stop => (None, liveness + 0.5 + 1.5 * unit),
        Kind::Blink => (None, liveness * (0.1 + 0.4 * unit)),
        Kind::Cut | Kind::CutCoordinator => {
            let ways = [Way::Refuse, Way::BlackHole, Way::Reset];
            let way = ways[random.below(3) as usize];
            let hold = if way == Way::Reset { 0.0 } else { liveness * (0.2 + 1.3 * unit) };
            (Some(way), hold)
        }
        Kind::Store => {
            let ways = [Way::Refuse, Way::Reset, Way::Unavailable, Way::Slow];
            (Some(ways[random.below(4) as usize]), 1.0 + 5.0 * unit)
        }
        Kind::Kill | Kind::Drain | Kind::Coordinator | Kind::CoordinatorAndWorker => (None, 0.0),
    };
    let restart = seconds_of(1.5 * random.unit());
    Fault { kind, worker, way, hold: seconds_of(hold), restart, after }
}

fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn wanted(seed: u64, faults: u32, workers: usize) -> Wanted {
        let liveness = Duration::from_secs(3);
        Wanted { seed, faults, workers, kinds: Kind::ALL.to_vec(), liveness }
    }

    #[test]
    fn a_seed_gives_the_same_plan_each_time_and_another_seed_another_one() {
        assert_eq!(rounds(&wanted(7, 50, 3)), rounds(&wanted(7, 50, 3)));
        assert_ne!(rounds(&wanted(7, 50, 3)), rounds(&wanted(8, 50, 3)));
        let (long, short) = (rounds(&wanted(7, 50, 3)), rounds(&wanted(7, 20, 3)));
        assert_eq!(long[..10], short[..10], "a shorter drill is the beginning of a longer one");
    }

    #[test]
    fn there_are_as_many_faults_as_wanted_whatever_the_overlaps() {
        for faults in [0, 1, 2, 6, 200] {
            for seed in 0..20 {
                let plan = rounds(&wanted(seed, faults, 4));
                let count: usize = plan.iter().map(|it| it.faults.len()).sum();
                assert_eq!(count, faults as usize, "seed {seed}");
                assert!(plan.iter().all(|it| !it.faults.is_empty() && it.share < 1.0));
            }
        }
    }

    #[test]
    fn every_round_leaves_a_worker_alone_and_names_only_those_there_are() {
        for workers in 2..5 {
            for seed in 0..50 {
                for round in rounds(&wanted(seed, 60, workers)) {
                    let hit: BTreeSet<usize> =
                        round.faults.iter().filter_map(|it| it.worker).collect();
                    assert!(hit.len() < workers, "{workers} workers, {round:?}");
                    assert!(hit.iter().all(|it| *it < workers));
                    for fault in &round.faults {
                        assert_eq!(fault.worker.is_some(), fault.kind.has_worker());
                    }
                }
            }
        }
    }

    #[test]
    fn few_faults_are_of_many_kinds_and_many_hit_everybody() {
        let plan = rounds(&wanted(1, 9, 3));
        let first: BTreeSet<Kind> = plan.iter().map(|it| it.faults[0].kind).collect();
        assert!(first.len() >= plan.len().min(7), "{plan:?}");
        let plan = rounds(&wanted(1, 100, 3));
        let hit: BTreeSet<usize> =
            plan.iter().flat_map(|it| &it.faults).filter_map(|it| it.worker).collect();
        assert_eq!(hit, BTreeSet::from([0, 1, 2]));
        assert!(plan.iter().any(|it| it.faults.len() == 2));
        let ways: BTreeSet<&str> =
            plan.iter().flat_map(|it| &it.faults).filter_map(|it| Some(it.way?.as_str())).collect();
        assert_eq!(ways.len(), 5, "{ways:?}");
    }

    #[test]
    fn a_stop_is_longer_than_liveness_and_a_blink_shorter() {
        for round in rounds(&wanted(3, 300, 3)) {
            for fault in round.faults {
                match fault.kind {
                    Kind::Stop => assert!(fault.hold > Duration::from_secs(3), "{fault:?}"),
                    Kind::Blink => assert!(fault.hold < Duration::from_secs(2), "{fault:?}"),
                    Kind::Kill | Kind::Drain => assert_eq!(fault.hold, Duration::ZERO),
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in Kind::ALL {
            assert_eq!(kind.as_str().parse::<Kind>(), Ok(kind));
        }
        let error = "drown".parse::<Kind>().unwrap_err();
        assert!(error.contains("cut-coordinator"), "{error}");
    }
}
