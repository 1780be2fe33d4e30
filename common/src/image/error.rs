//! Why bytes are not a picture that can be used.

use super::Limits;
use crate::exit;
use crate::failure::Explain;

/// Why a picture cannot be had from some bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No bytes at all.
    #[error("the file is empty (zero bytes)")]
    Empty,
    /// The first bytes are those of no picture format.
    #[error("not an image: neither JPEG nor PNG by its content")]
    NotAnImage,
    /// The file ends before the picture does.
    #[error("truncated: the file ends before the image does")]
    Truncated,
    /// The header claims more than the limits allow.
    #[error(
        "{width}x{height} pixels is too large (at most {} a side and {} in all)",
        limits.side, limits.pixels
    )]
    TooLarge {
        /// Claimed width.
        width: u32,
        /// Claimed height.
        height: u32,
        /// What is allowed.
        limits: Limits,
    },
    /// So narrow that the shorter side cannot be brought to the wanted length.
    #[error("{width}x{height} pixels is too narrow to be scaled to a shorter side of {side}")]
    TooNarrow {
        /// Width.
        width: u32,
        /// Height.
        height: u32,
        /// The wanted shorter side.
        side: u32,
    },
    /// A crop that does not lie within the picture.
    #[error("a crop of {side} at ({x}, {y}) does not fit into {width}x{height} pixels")]
    OutOfBounds {
        /// Left edge of the crop.
        x: u32,
        /// Top edge of the crop.
        y: u32,
        /// Width and height of the crop.
        side: u32,
        /// Width of the picture.
        width: u32,
        /// Height of the picture.
        height: u32,
    },
    /// A picture, but of a kind that is not read here.
    #[error("unsupported image: {what}")]
    Unsupported {
        /// The format or the feature.
        what: String,
    },
    /// The bytes contradict the format.
    #[error("corrupt image: {detail}")]
    Corrupt {
        /// What the decoder says.
        detail: String,
    },
}

impl Explain for ImageError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Unsupported { .. } | Self::NotAnImage => {
                Some("convert it to an 8-bit JPEG or a PNG".to_owned())
            }
            Self::TooLarge { .. } => Some("scale it down first".to_owned()),
            _ => None,
        }
    }

    fn exit_code(&self) -> u8 {
        exit::BAD_INPUT
    }
}
