//! From stored images to microbatches of pixels, ahead of the trainer.
//!
//! ```text
//!  requests ─> reader task ─────> queue of images ─> decode threads ─────────> delivery ─> next()
//!   (lazy)     tokio, several     in order of        decode, crop, flip,       in order,
//!              reads at once      microbatches       colour, subtract,         with a deadline
//!                                                    write in place
//!       └────────── at most `prefetch` microbatches anywhere in between ──────────┘
//! ```
//!
//! Reading waits for a store, so it is async; decoding works a core to the full, so it has threads
//! of its own. Several threads may share one microbatch: each image is claimed by one of them and
//! written once, straight to its place in the microbatch's buffer.
//!
//! What a pixel becomes is a pure function of the stored bytes, the seed and the [`Request`]: it
//! depends neither on the number of threads nor on who decodes what when. This module knows nothing
//! of tensors, of ranks or of how the data set is packed; that stops at [`Source`].

mod augment;
mod buffers;
mod colour;
mod delivery;
mod disjoint;
mod error;
mod memory;
mod packed;
mod pipeline;
mod planes;
mod queue;
mod single;
mod source;
mod workbench;

use convoy_common::dataset::Split;
use convoy_common::sampling::SampleRef;

pub use augment::{MEAN_VALUES, STORED_SIDE};
pub use buffers::Pixels;
pub use error::{DataError, Stage, Unusable};
pub use memory::InMemory;
pub use packed::cached;
pub use pipeline::{Pipeline, Settings};
pub use single::single;
pub use source::{Source, SourceError};

/// What a microbatch is for; decides the split and whether the crop is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Training split; crop, flip and colours are drawn.
    Train,
    /// Validation split, centre crop.
    Evaluate,
    /// Validation split, the whole square, of which the net is shown several windows.
    EvaluateSquares,
}

impl Purpose {
    /// Where its samples come from.
    pub fn split(self) -> Split {
        match self {
            Self::Train => Split::Train,
            Self::Evaluate | Self::EvaluateSquares => Split::Validation,
        }
    }

    /// Height and width of what is delivered for a net whose input has that side.
    fn side(self, input: usize) -> usize {
        match self {
            Self::Train | Self::Evaluate => input,
            Self::EvaluateSquares => STORED_SIDE,
        }
    }
}

/// One microbatch that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it is for.
    pub purpose: Purpose,
    /// Epoch of the position; keys what is random.
    pub epoch: u32,
    /// Step of the position; keys what is random.
    pub step: u32,
    /// Number of the microbatch in the step or the evaluation.
    pub microbatch: u32,
    /// Its samples.
    pub samples: Vec<SampleRef>,
}

/// One microbatch, ready for the trunk.
#[derive(Clone, Debug, PartialEq)]
pub struct Microbatch {
    /// What was asked for.
    pub request: Request,
    /// `n x 3 x side x side` (256 for whole squares), RGB: (pixel - mean + shift of the colour) times `pixel_scale`.
    pub pixels: Pixels,
    /// `n` classes.
    pub labels: Vec<i64>,
}

#[cfg(test)]
mod tests;
