//! Why a folder could not be packed.

use std::path::PathBuf;

use convoy_common::dataset::DatasetError;
use convoy_common::exit;
use convoy_common::failure::Explain;

/// Why a folder could not be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} has no folder `val`, and nothing says what to hold out", source_folder.display())]
    NoValidation { source_folder: PathBuf },
    #[error("{} has a folder `val`, so --val-fraction has nothing to do", source_folder.display())]
    TwoValidations { source_folder: PathBuf },
    #[error("{} holds no class folders", folder.display())]
    NoClasses {
        folder: PathBuf,
        /// Pictures that lie there without a class.
        loose: u64,
    },
    #[error("class {class} of {} is not among the training classes", folder.display())]
    UnknownClass { folder: PathBuf, class: String },
    #[error("class folder {} holds no usable image{}", folder.display(), said(example))]
    EmptyClass {
        folder: PathBuf,
        /// The last picture that could not be used, with the reason.
        example: Option<String>,
    },
    #[error("the folder name {} is not valid UTF-8", path.display())]
    BadName { path: PathBuf },
    #[error("{}: {why}", path.display())]
    BadImage { path: PathBuf, why: String },
    #[error(transparent)]
    Dataset(#[from] DatasetError),
}

fn said(example: &Option<String>) -> String {
    example.as_ref().map_or_else(String::new, |example| format!(" ({example})"))
}

impl Explain for PrepareError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Unreadable { .. } => "check the path and its permissions",
            Self::NoValidation { .. } => {
                "pass --val-fraction 0.1 to hold out a tenth of each class, or add val/CLASS/ \
                 folders"
            }
            Self::TwoValidations { .. } => "leave --val-fraction away, or remove the folder `val`",
            Self::NoClasses { loose: 1.., .. } => {
                "sort the images into one folder per class; ImageNet's validation images come \
                 without, and its development kit says which class each belongs to"
            }
            Self::NoClasses { .. } => {
                "SRC holds train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg with \
                 --val-fraction"
            }
            Self::UnknownClass { .. } => "val may only have classes that train has",
            Self::EmptyClass { .. } => "add images to it (JPEG or PNG), or remove the folder",
            Self::BadName { .. } => "rename it",
            Self::BadImage { .. } => {
                "repair or remove it, or leave out what is unusable with --on-bad-image \
                 skip-and-log"
            }
            Self::Dataset(error) => return error.hint(),
        };
        Some(text.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Dataset(error) => error.exit_code(),
            _ => exit::BAD_INPUT,
        }
    }
}
