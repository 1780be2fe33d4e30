//! What can be wrong with a trained net in a file, or with one picture for it.

use std::path::PathBuf;

use convoy_common::exit;
use convoy_common::failure::Explain;

/// A trained net cannot be read, written or taken over.
#[derive(Debug, thiserror::Error)]
pub enum TrainedError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A file lies where a new one should be written.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not a safetensors file.
    #[error("{file} is not a safetensors file: {reason}")]
    NotSafetensors {
        /// The file.
        file: String,
        /// What the reader says.
        reason: String,
    },
    /// The file lacks what only files of `convoy-worker export` have.
    #[error("{file} does not say {what}")]
    Lacks {
        /// The file.
        file: String,
        /// What is missing or cannot be understood.
        what: &'static str,
    },
    /// A tensor of the net is not in the file.
    #[error("{file} has no tensor {name}")]
    NoTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Names that the file has.
        has: Vec<String>,
    },
    /// A tensor has values that are infinite or no numbers.
    #[error("{name} in {file} has values that are not finite")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape or kind of numbers than the net's.
    #[error("{name} in {file} is {found}, and the net needs {expected}")]
    OtherTensor {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// As in the net.
        expected: String,
        /// As in the file.
        found: String,
    },
    /// The file's weights are for pixels of another scale.
    #[error(
        "the weights in {file} are for pixels times {file_scale}, and model.pixel_scale is {config_scale}"
    )]
    PixelScale {
        /// The file.
        file: String,
        /// As the file says.
        file_scale: f64,
        /// As the config says.
        config_scale: f64,
    },
    /// The data set is not the one that the net was trained on.
    #[error("the data set at {url} is not the one that the checkpoint was trained on")]
    OtherDataset {
        /// Where the data set lies.
        url: String,
    },
    /// A run that has begun cannot take over weights.
    #[error("the run at {url} has begun already: {what}")]
    Begun {
        /// The run.
        url: String,
        /// What shows it.
        what: &'static str,
    },
}

impl Explain for TrainedError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::File { .. } => "check the path and who may use it".to_owned(),
            Self::Exists { .. } => {
                "name another file, or pass --force to replace it, if it is a file".to_owned()
            }
            Self::NotFinite { .. } => "take a file of an earlier state of that training".to_owned(),
            Self::NotSafetensors { .. } | Self::Lacks { .. } => {
                "`convoy-worker export --checkpoint URL --output FILE` makes such a file".to_owned()
            }
            Self::NoTensor { has, .. } => {
                let some: Vec<&str> = has.iter().take(4).map(String::as_str).collect();
                format!(
                    "model.name and model.groups must be those of the file, which has {} tensors, \
                     such as {}",
                    has.len(),
                    some.join(", ")
                )
            }
            Self::OtherTensor { .. } => {
                "model.groups and model.narrow must be those of the file; with another number of \
                 classes pass --new-classes, which starts the last layer afresh; numbers must be F32"
                    .to_owned()
            }
            Self::PixelScale { file_scale, .. } => {
                format!("write pixel_scale = {file_scale:?} under [model]")
            }
            Self::OtherDataset { .. } => {
                "name the right one with --data; its mean image and its classes are needed"
                    .to_owned()
            }
            Self::Begun { .. } => "choose another run.url for the new run".to_owned(),
        })
    }

    fn exit_code(&self) -> u8 {
        exit::BAD_INPUT
    }
}
