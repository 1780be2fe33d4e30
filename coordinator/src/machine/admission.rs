//! Who is let in: a pure decision about one introduction.

use std::fmt;

use super::event::Hello;
use super::members::Members;
use super::plan::Plan;

/// Longest name of a worker.
const NAME_LENGTH: usize = 64;

/// Why a worker is turned away. Final: the same worker need not try again.
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
        /// Workers that make up the job.
        workers: u32,
    },
    /// The job is about to end.
    Ending,
}

impl Refusal {
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
                "set cluster.workers higher and start the job again to have more".to_owned()
            }
            Self::Ending => "join again when the job has been started again".to_owned(),
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
    if members.named(&hello.name).is_some() {
        return Err(Refusal::Duplicate(hello.name.clone()));
    }
    match door {
        Door::Open => Ok(()),
        Door::Full => Err(Refusal::Full { workers: plan.workers }),
        Door::Ending => Err(Refusal::Ending),
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
