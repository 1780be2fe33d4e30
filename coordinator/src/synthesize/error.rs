//! Why a data set could not be drawn.

use std::path::PathBuf;

use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::image::ImageError;

/// Why a data set could not be drawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SynthesizeError {
    #[error("{} is not empty", folder.display())]
    Occupied { folder: PathBuf },
    #[error("{} holds a drawn data set with other arguments", folder.display())]
    Differs { folder: PathBuf },
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot encode {}", path.display())]
    Encode {
        path: PathBuf,
        #[source]
        source: ImageError,
    },
}

impl Explain for SynthesizeError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Occupied { .. } => {
                "name another folder, or pass --reuse if it was drawn with the same arguments"
            }
            Self::Differs { .. } => "name another folder, or remove this one first",
            Self::Write { .. } => "check that the folder can be written and the disk is not full",
            Self::Encode { .. } => return None,
        };
        Some(text.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Occupied { .. } | Self::Differs { .. } => exit::BAD_INPUT,
            Self::Write { .. } | Self::Encode { .. } => exit::FAILURE,
        }
    }
}
