//! What can go wrong in the net's arithmetic.

use convoy_common::exit;
use convoy_common::failure::Explain;

/// An error of the model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The tensor library refused an operation; out of memory is the usual reason on a GPU.
    #[error("the tensor library failed")]
    Tensor(#[from] tch::TchError),
    /// Data of another size than the net needs.
    #[error("{what}: expected {expected} values, got {actual}")]
    Size {
        /// Which data.
        what: &'static str,
        /// How many values it should have.
        expected: usize,
        /// How many it has.
        actual: usize,
    },
    /// A label outside the net's classes.
    #[error("label {label} is not one of the net's {classes} classes")]
    Label {
        /// The label.
        label: i64,
        /// Number of classes.
        classes: usize,
    },
    /// The net cannot be built with such numbers.
    #[error("no such net: {what}")]
    Spec {
        /// What is wrong.
        what: String,
    },
    /// A tensor of the state that does not exist, or rows beyond its end.
    #[error("rows {start}..{end} of tensor {tensor} are outside the net's state")]
    Rows {
        /// Index of the tensor in the state.
        tensor: usize,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
    },
    /// A device that is not written as one.
    #[error("`{text}` is not a device")]
    DeviceSyntax {
        /// What was given.
        text: String,
    },
    /// CUDA was asked for and is not there.
    #[error("device cuda:{index} is not available: {reason}")]
    NoCuda {
        /// Which GPU.
        index: usize,
        /// Why.
        reason: String,
    },
}

impl Explain for ModelError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::DeviceSyntax { .. } => "write auto, cpu, cuda or cuda:N",
            Self::NoCuda { .. } => {
                "check `nvidia-smi`, build with LIBTORCH set to a CUDA build of libtorch, or use --device cpu"
            }
            Self::Label { .. } => "the data set and the net disagree; pack the data set again",
            Self::Rows { .. } => "the checkpoint belongs to a net of another shape",
            Self::Spec { .. } | Self::Size { .. } | Self::Tensor(_) => return None,
        };
        Some(hint.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Tensor(_) | Self::Size { .. } => exit::FAILURE,
            Self::NoCuda { .. } => exit::UNAVAILABLE,
            Self::DeviceSyntax { .. } => exit::USAGE,
            Self::Label { .. } | Self::Spec { .. } | Self::Rows { .. } => exit::BAD_INPUT,
        }
    }
}
