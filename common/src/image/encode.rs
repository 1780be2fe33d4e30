//! The JPEG encoder: libjpeg-turbo as mozjpeg carries it, with its original settings.
//!
//! Its integer transform gives the same bytes on every processor, with vector instructions and without.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mozjpeg::{ColorSpace, Compress};

use super::{ImageError, Rgb8};

/// Longest side of a JPEG.
const LONGEST: u32 = 65_535;

/// How finely colour is kept against brightness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chroma {
    /// 4:4:4, as fine as brightness.
    Full,
    /// 4:2:0, a quarter of the samples: what cameras and most of ImageNet use.
    Quarter,
}

/// Encodes a picture as baseline JPEG in one scan with the standard Huffman tables: the bytes that
/// libjpeg-turbo, and so Pillow, makes of these pixels at this quality.
///
/// # Errors
/// [`ImageError::Unsupported`] if a side is 0 or passes 65,535 pixels.
pub fn encode_jpeg(image: &Rgb8, quality: u8, chroma: Chroma) -> Result<Vec<u8>, ImageError> {
    let unsupported = |what: String| ImageError::Unsupported { what };
    if let Some(side) =
        [image.width, image.height].into_iter().find(|it| !(1..=LONGEST).contains(it))
    {
        return Err(unsupported(format!("{side} pixels a side in a JPEG")));
    }
    // The library reports errors by unwinding.
    catch_unwind(AssertUnwindSafe(|| {
        let mut encoder = Compress::new(ColorSpace::JCS_RGB);
        encoder.set_fastest_defaults();
        encoder.set_size(image.width as usize, image.height as usize);
        encoder.set_quality(quality.clamp(1, 100).into());
        let pixel = match chroma {
            Chroma::Full => (1, 1),
            Chroma::Quarter => (2, 2),
        };
        encoder.set_chroma_sampling_pixel_sizes(pixel, pixel);
        let bytes = Vec::with_capacity(image.pixels.len() / 4);
        let mut started = encoder.start_compress(bytes)?;
        started.write_scanlines(&image.pixels)?;
        started.finish()
    }))
    .map_err(|_| unsupported("a picture that the JPEG encoder gave up on".to_owned()))?
    .map_err(|error| unsupported(error.to_string()))
}
