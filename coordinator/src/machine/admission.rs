//! Who is let in: a pure decision about one introduction.

use std::fmt;

use convoy_common::exit;

use super::event::Hello;
use super::members::Members;
use super::plan::Plan;

/// Longest name of a worker.
const NAME_LENGTH: usize = 64;

/// Why a worker is turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another version of Convoy.
    Version {
        /// The worker's.
        theirs: String,
        /// The coordinator's.
        ours: String,
    },
    /// Another version of the wire protocol.
    Protocol {
        /// The worker's.
        theirs: u32,
        /// The coordinator's.
        ours: u32,
    },
    /// It was told to expect another config.
    Config {
        /// The digest it expects.
        theirs: String,
        /// The digest of the config here.
        ours: String,
    },
    /// Its name cannot be shown in a log.
    Name(String),
    /// Its ring address is none.
    RingAddress(String),
    /// A worker of that name is here.
    Duplicate(String),
    /// All places are taken.
    Full {
        /// Workers that it has places for.
        workers: u32,
    },
    /// The job is about to end.
    Ending,
    /// It has worked under a coordinator of a later term than this one's.
    Superseded {
        /// That term.
        theirs: u64,
        /// This coordinator's.
        ours: u64,
    },
    /// It has fewer cores than the run's numerics use in one lane.
    Cores {
        /// The worker's.
        cores: u32,
        /// Threads of one lane.
        threads: u32,
    },
    /// It computes other bits than the run.
    Numerics {
        /// The worker's fingerprint.
        theirs: String,
        /// The run's.
        ours: String,
    },
}

impl Refusal {
    /// What the worker is to exit with: [`exit::UNAVAILABLE`] if the same one may be taken later, when
    /// another has gone that may not be known to be lost yet.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Duplicate(_) | Self::Full { .. } | Self::Superseded { .. } => exit::UNAVAILABLE,
            _ => exit::BAD_INPUT,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Version { ours, .. } => {
                format!("run version {ours} of Convoy on every machine of the job")
            }
            Self::Protocol { .. } => "run the same version of Convoy everywhere".to_owned(),
            Self::Config { ours, .. } => format!(
                "join the job that was meant, or leave out the expected digest (here it is {ours})"
            ),
            Self::Name(_) => {
                format!("choose a name of 1 to {NAME_LENGTH} of a-z A-Z 0-9 - _ .")
            }
            Self::RingAddress(_) => "give host:port as the other workers reach it".to_owned(),
            Self::Duplicate(_) => {
                "give each worker a name of its own, or end the other one".to_owned()
            }
            Self::Full { .. } => {
                "set cluster.max_workers higher and start the job again to have more".to_owned()
            }
            Self::Superseded { .. } => {
                "call the coordinator of the newest term object of the run".to_owned()
            }
            Self::Ending => "join again when the job has been started again".to_owned(),
            Self::Cores { .. } => {
                "join from a machine with more cores; the number of threads decides bits, so it \
                 is the run's and not the machine's"
                    .to_owned()
            }
            Self::Numerics { .. } => "use the same kind of processor and the same libtorch as the \
                 run's first worker, or give up equal bits with \
                 cluster.allow_mixed_numerics = true"
                .to_owned(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version { theirs, ours } => {
                write!(f, "the worker is of version {theirs}, the coordinator of {ours}")
            }
            Self::Protocol { theirs, ours } => {
                write!(f, "the worker speaks protocol {theirs}, the coordinator {ours}")
            }
            Self::Config { theirs, ours } => {
                write!(f, "the worker expects the config {theirs}, this job has {ours}")
            }
            Self::Name(name) => write!(f, "{name:?} is no name for a worker"),
            Self::RingAddress(address) => write!(f, "{address:?} is no ring address"),
            Self::Duplicate(name) => write!(f, "a worker called {name} is in the job already"),
            Self::Full { workers: 1 } => write!(f, "the job is full: it has its 1 worker"),
            Self::Full { workers } => write!(f, "the job is full: it has its {workers} workers"),
            Self::Ending => write!(f, "the job is ending"),
            Self::Superseded { theirs, ours } => {
                write!(f, "term {ours} of this coordinator is over: the worker comes from {theirs}")
            }
            Self::Cores { cores, threads } => write!(
                f,
                "the run's kernels use {threads} threads (numerics.threads_per_lane), and the \
                 worker has cores for {cores}"
            ),
            Self::Numerics { theirs, ours } => write!(
                f,
                "the worker computes other bits than the run: its numerics fingerprint is \
                 {theirs}, the run's is {ours}"
            ),
        }
    }
}

/// Whether the job has a place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Full,
    Ending,
}

/// Lets the worker in, or says why not. What can never fit is said before what does not fit now.
pub(super) fn decide(
    hello: &Hello,
    plan: &Plan,
    members: &Members,
    door: Door,
) -> Result<(), Refusal> {
    if hello.protocol != plan.protocol {
        return Err(Refusal::Protocol { theirs: hello.protocol, ours: plan.protocol });
    }
    if hello.version != plan.version {
        let (theirs, ours) = (hello.version.clone(), plan.version.clone());
        return Err(Refusal::Version { theirs, ours });
    }
    if let Some(theirs) = hello.expect_config.as_ref().filter(|it| **it != plan.config_digest) {
        let (theirs, ours) = (theirs.clone(), plan.config_digest.clone());
        return Err(Refusal::Config { theirs, ours });
    }
    if !is_name(&hello.name) {
        return Err(Refusal::Name(hello.name.chars().take(NAME_LENGTH).collect()));
    }
    if !is_address(&hello.ring_address) {
        return Err(Refusal::RingAddress(hello.ring_address.chars().take(NAME_LENGTH).collect()));
    }
    if let Some(cores) = hello.cores.filter(|cores| *cores < plan.threads_per_lane)
        && hello.device == "cpu"
    {
        return Err(Refusal::Cores { cores, threads: plan.threads_per_lane });
    }
    if let Some(standing) = hello.standing.as_deref().filter(|it| it.generation.term > plan.term) {
        let (theirs, ours) = (standing.generation.term.0, plan.term.0);
        return Err(Refusal::Superseded { theirs, ours });
    }
    if members.named(&hello.name).is_some() {
        return Err(Refusal::Duplicate(hello.name.clone()));
    }
    match door {
        Door::Open => Ok(()),
        Door::Full => Err(Refusal::Full { workers: plan.max_workers }),
        Door::Ending => Err(Refusal::Ending),
    }
}

/// What to do with a worker that computed this fingerprint, where the run's own is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// It is the first of the run: from now on this is what the run computes.
    First,
    /// It computes the same bits.
    Same,
    /// It does not, and the config lets it in all the same.
    Tolerated,
    /// It does not.
    Other(Refusal),
}

pub(super) fn compare(fingerprint: &str, of_run: Option<&str>, allow_mixed: bool) -> Likeness {
    match of_run {
        None => Likeness::First,
        Some(ours) if ours == fingerprint => Likeness::Same,
        Some(_) if allow_mixed => Likeness::Tolerated,
        Some(ours) => Likeness::Other(Refusal::Numerics {
            theirs: fingerprint.to_owned(),
            ours: ours.to_owned(),
        }),
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_LENGTH).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// Whether it has the form host:port; whether anybody listens there is the ring's business.
fn is_address(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_compared_with_the_runs_own() {
        let other = |it: &Likeness| match it {
            Likeness::Other(refusal) => refusal.to_string(),
            it => format!("{it:?}"),
        };
        let cases = [
            (None, false, "First"),
            (None, true, "First"),
            (Some("f0"), false, "Same"),
            (Some("f9"), true, "Tolerated"),
            (
                Some("f9"),
                false,
                "the worker computes other bits than the run: its numerics fingerprint is f0, the \
                 run's is f9",
            ),
        ];
        for (of_run, allow_mixed, expected) in cases {
            assert_eq!(other(&compare("f0", of_run, allow_mixed)), expected);
        }
    }
}
