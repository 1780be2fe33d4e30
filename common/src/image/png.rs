//! PNG, for the one in ImageNet and for users' own folders.

use std::io::{Cursor, ErrorKind};

use image::codecs::png::PngDecoder;
use image::{DynamicImage, ImageDecoder, ImageError as Source};

use super::{ImageError, Limits, Rgb8};

pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<Rgb8, ImageError> {
    let mut decoder = PngDecoder::new(Cursor::new(bytes)).map_err(translate)?;
    let (width, height) = decoder.dimensions();
    limits.check(width, height)?;
    let mut guard = image::Limits::default();
    // Eight bytes a pixel is the widest colour type, and rows need a little of their own.
    guard.max_alloc = Some(limits.pixels.saturating_mul(9));
    decoder.set_limits(guard).map_err(translate)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(translate)?;
    Rgb8::new(width, height, picture.into_rgb8().into_raw())
}

fn translate(error: Source) -> ImageError {
    match error {
        Source::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => ImageError::Truncated,
        Source::Unsupported(error) => ImageError::Unsupported { what: error.to_string() },
        // The PNG reader wraps the end of input into an error of its own kind.
        error => {
            let detail = error.to_string();
            if detail.contains("unexpected end") || detail.contains("unexpected EOF") {
                ImageError::Truncated
            } else {
                ImageError::Corrupt { detail }
            }
        }
    }
}
