//! In which form pictures are stored.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SIDE;

/// Bytes of one picture of raw pixels.
pub const RAW_BYTES: usize = (3 * SIDE * SIDE) as usize;

/// The form of every picture of a data set.
///
/// Whatever the form, training sees the 256x256 pixels in the middle of the picture scaled to a
/// shorter side of 256, and the mean image and the covariance are those of these pixels.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// JPEGs of 256x256 pixels, as in the paper: small, and quick to decode.
    #[default]
    #[value(name = "jpeg256")]
    Jpeg256,
    /// The files' bytes as they were, JPEG or PNG of any size: nothing lost, slow to decode.
    #[value(name = "original")]
    Original,
    /// 256x256 pixels, three bytes each (R G B, rows from the top): large, nothing to decode.
    #[value(name = "raw256")]
    Raw256,
}

impl Encoding {
    /// All of them, by their numbers in the index.
    const ALL: [Self; 3] = [Self::Jpeg256, Self::Original, Self::Raw256];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jpeg256 => "jpeg256",
            Self::Original => "original",
            Self::Raw256 => "raw256",
        }
    }

    pub(super) fn number(self) -> u32 {
        self as u32
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// Whether a picture in this form can have so many bytes.
    pub(super) fn allows(self, bytes: u32) -> bool {
        match self {
            Self::Jpeg256 | Self::Original => bytes > 0,
            Self::Raw256 => bytes as usize == RAW_BYTES,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
