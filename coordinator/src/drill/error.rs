//! What keeps a drill from a verdict, or is one.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use convoy_common::exit;
use convoy_common::failure::Explain;

/// Why there is no ordinary verdict.
#[derive(Debug, thiserror::Error)]
pub(super) enum DrillError {
    /// The config promises no equal bits, so there is nothing to compare.
    #[error("{field} = {value} promises no equal bits, so a drill has nothing to compare")]
    NoPromise {
        /// Of the config.
        field: &'static str,
        /// What it is set to.
        value: &'static str,
    },
    /// A kind of fault that this config or store cannot have.
    #[error("faults of kind {kind} are not possible: {reason}")]
    Impossible {
        /// As on the command line.
        kind: &'static str,
        /// Why.
        reason: &'static str,
    },
    /// Namespaces are asked for.
    #[error("no network namespaces: {reason}")]
    NoNamespaces {
        /// Why.
        reason: String,
    },
    /// A way can be neither cut nor opened.
    #[error("cannot change a host's packet filter: {reason}")]
    Filter {
        /// Why.
        reason: String,
    },
    /// The worker's program is not where it should be.
    #[error("there is no worker program at {}", path.display())]
    NoWorker {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file or folder of the drill.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What could not be done.
        what: &'static str,
        /// To which.
        path: PathBuf,
        #[source]
        /// Why.
        source: io::Error,
    },
    /// A process, proxy or signal handler cannot be had.
    #[error("cannot {what}")]
    System {
        /// What could not be done.
        what: &'static str,
        #[source]
        /// Why.
        source: io::Error,
    },
    /// The user, or whoever started the drill, wants it to end.
    #[error("interrupted by {signal}; nothing is left running")]
    Interrupted {
        /// Name of the signal.
        signal: &'static str,
    },
    /// The folder of --keep has something in it.
    #[error("{} is not empty; a drill begins with an empty folder", path.display())]
    NotEmpty {
        /// Which.
        path: PathBuf,
    },
    /// Nothing happens any more.
    #[error(
        "the job hangs {doing}: {state} after {}",
        humantime::format_duration(Duration::from_secs(waited.as_secs()))
    )]
    Stuck {
        /// What the drill was waiting for, and after which fault.
        doing: String,
        /// What the job said last.
        state: String,
        /// For so long.
        waited: Duration,
    },
    /// The job ended when it should not have.
    #[error("the job broke {doing}: {who} ended with {how}{}", outcome.as_ref().map(|it| format!(" ({it})")).unwrap_or_default())]
    Broke {
        /// What the drill was doing, and after which fault.
        doing: String,
        /// Name of the process.
        who: String,
        /// Its exit code or signal, in words.
        how: String,
        /// What the coordinator said.
        outcome: Option<String>,
    },
}

impl Explain for DrillError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoPromise { .. } => {
                "drill a config with numerics.reduction = \"canonical\" and without \
                 cluster.allow_mixed_numerics"
                    .to_owned()
            }
            Self::Impossible { .. } => "leave it out of --kinds".to_owned(),
            Self::NoNamespaces { .. } => {
                "they need root, the programs unshare, nsenter, ip and nft, and a store that is a \
                 folder or behind plain http://; --network proxies needs none of it"
                    .to_owned()
            }
            Self::NoWorker { .. } => {
                "build it with `deploy/libtorch && cargo build --release`, or \
                                      name it with --worker"
                    .to_owned()
            }
            Self::NotEmpty { .. } => "name an empty or new folder".to_owned(),
            Self::File { .. } => "check its permissions and the free space".to_owned(),
            Self::Stuck { .. } | Self::Broke { .. } => {
                "the processes' logs are in the drill's folder; the same --seed inflicts the same \
                 faults"
                    .to_owned()
            }
            Self::System { .. } | Self::Filter { .. } | Self::Interrupted { .. } => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NoPromise { .. }
            | Self::Impossible { .. }
            | Self::NoNamespaces { .. }
            | Self::NoWorker { .. }
            | Self::NotEmpty { .. } => exit::BAD_INPUT,
            Self::Interrupted { .. } => exit::INTERRUPTED,
            _ => exit::FAILURE,
        }
    }
}
