//! One picture that belongs to no data set, made into the net's input as evaluation does it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use convoy_common::dataset::{Encoded, Encoding};

use super::augment::{STORED_SIDE, Treatment, Window, image_values};
use super::error::Unusable;
use super::workbench::Workbench;

/// `3 x side x side`, RGB: (pixel - mean) times `pixel_scale`, of the window of that side in the
/// middle of the picture's centre square; `side` is at most [`STORED_SIDE`], which gives the whole
/// square.
///
/// `mean` is `3 x 256 x 256`. The same values come out as from a data set that the picture was packed
/// into, but for the loss of the JPEG that packing makes of a picture of another size.
///
/// # Errors
/// [`Unusable`] says why the bytes are no picture.
pub fn single(
    bytes: &[u8],
    side: usize,
    mean: &[f32],
    pixel_scale: f64,
) -> Result<Vec<f32>, Unusable> {
    let side = side.min(STORED_SIDE);
    let margin = (STORED_SIDE - side) / 2;
    let treatment = Treatment {
        window: Window { x: margin, y: margin, flip: false },
        side,
        shift: [0.0; 3],
        pixel_scale: pixel_scale as f32,
    };
    let mut out = vec![0.0; image_values(side)];
    let image =
        Encoded { bytes: Bytes::copy_from_slice(bytes), label: 0, encoding: Encoding::Original };
    let mut workbench = Workbench::default();
    let write = || workbench.write(&image, treatment, mean, &mut out, |_| ());
    catch_unwind(AssertUnwindSafe(write)).unwrap_or(Err(Unusable::Panicked))?;
    Ok(out)
}
