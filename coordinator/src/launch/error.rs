//! What can be missing before a launch starts.

use std::io;
use std::path::PathBuf;

use convoy_common::exit;
use convoy_common::failure::Explain;

/// Why nothing was launched.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    /// The kernel does not say which program this is.
    #[error("cannot tell where this program lies")]
    OwnPath(#[source] io::Error),
    /// The worker's program is not where it should be.
    #[error("there is no worker program at {}", path.display())]
    NoWorkerBinary {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A program cannot be executed.
    #[error("cannot start {}", path.display())]
    CannotStart {
        /// The program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A log file cannot be written.
    #[error("cannot write the log at {}", path.display())]
    LogFile {
        /// The file or its folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The runtime or its signal handlers cannot be set up.
    #[error("cannot set up the launcher")]
    Runtime(#[source] io::Error),
}

impl Explain for LaunchError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoWorkerBinary { .. } => "build it with `deploy/libtorch && cargo build \
                                            --release`, or name it with --worker-binary"
                .to_owned(),
            Self::CannotStart { .. } => {
                "check that the file is a program you may execute".to_owned()
            }
            Self::LogFile { .. } => {
                "check the folder's permissions and free space, or set log.folder".to_owned()
            }
            Self::OwnPath(_) | Self::Runtime(_) => return None,
        })
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::NoWorkerBinary { .. } | Self::LogFile { .. } => exit::BAD_INPUT,
            _ => exit::FAILURE,
        }
    }
}
