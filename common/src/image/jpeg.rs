//! JPEG: a survey of the markers, then the decoder in its strict mode, and the encoder.
//!
//! The survey finds the size before anything is decoded, and the end-of-image marker, without
//! which a file is truncated: decoders notice a missing end only from one row of blocks to the
//! next, and fill what is not there with grey.

use std::panic::{AssertUnwindSafe, catch_unwind};

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::{ImageError, Limits, Rgb8};

/// How finely colour is kept against brightness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chroma {
    /// 4:4:4, as fine as brightness.
    Full,
    /// 4:2:0, a quarter of the samples: what cameras and most of ImageNet use.
    Quarter,
}

/// Encodes a picture as baseline JPEG with Huffman tables of its own.
///
/// # Errors
/// [`ImageError::Unsupported`] if a side is 0 or passes 65,535 pixels.
pub fn encode_jpeg(image: &Rgb8, quality: u8, chroma: Chroma) -> Result<Vec<u8>, ImageError> {
    let unsupported = |what: String| ImageError::Unsupported { what };
    let side = |length: u32| {
        u16::try_from(length).map_err(|_| unsupported(format!("{length} pixels a side in a JPEG")))
    };
    let (width, height) = (side(image.width)?, side(image.height)?);
    let mut bytes = Vec::with_capacity(image.pixels.len() / 8);
    let mut encoder = Encoder::new(&mut bytes, quality.clamp(1, 100));
    encoder.set_optimized_huffman_tables(true);
    encoder.set_sampling_factor(match chroma {
        Chroma::Full => SamplingFactor::R_4_4_4,
        Chroma::Quarter => SamplingFactor::R_4_2_0,
    });
    encoder
        .encode(&image.pixels, width, height, ColorType::Rgb)
        .map_err(|error| unsupported(error.to_string()))?;
    Ok(bytes)
}

pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<Rgb8, ImageError> {
    let survey = survey(bytes)?;
    limits.check(survey.width, survey.height)?;
    if !survey.complete {
        return Err(ImageError::Truncated);
    }
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(limits.side as usize)
        .set_max_height(limits.side as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    // The decoder is foreign code over hostile bytes: a bug in it costs one picture, not the run.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        JpegDecoder::new_with_options(ZCursor::new(bytes), options).decode()
    }));
    let pixels = match outcome {
        Ok(decoded) => decoded.map_err(translate)?,
        Err(_) => {
            return Err(ImageError::Corrupt { detail: "the decoder gave up on it".to_owned() });
        }
    };
    Rgb8::new(survey.width, survey.height, pixels)
}

fn translate(error: DecodeErrors) -> ImageError {
    match error {
        DecodeErrors::Unsupported(what) => {
            ImageError::Unsupported { what: format!("JPEG: {what:?}") }
        }
        DecodeErrors::ExhaustedData | DecodeErrors::IoErrors(_) => ImageError::Truncated,
        DecodeErrors::FormatStatic("Premature end of buffer") => ImageError::Truncated,
        error => ImageError::Corrupt { detail: error.to_string() },
    }
}

struct Survey {
    width: u32,
    height: u32,
    complete: bool,
}

/// Walks over the markers without decoding: size from the frame header, and whether it ends.
fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let corrupt = |detail: &str| ImageError::Corrupt { detail: detail.to_owned() };
    let mut size = None;
    let mut at = 2;
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else {
            let (width, height) = size.ok_or(ImageError::Truncated)?;
            return Ok(Survey { width, height, complete: false });
        };
        if marker == END_OF_IMAGE {
            let (width, height) = size.ok_or_else(|| corrupt("it ends before its frame header"))?;
            return Ok(Survey { width, height, complete: true });
        }
        if matches!(marker, 0x01 | 0xd0..=0xd8) {
            continue;
        }
        let Some(&[high, low]) = bytes.get(at..at + 2) else { continue };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length < 2 {
            return Err(corrupt("a segment shorter than its own length field"));
        }
        let frame_header = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
        if let (true, None, Some(&[precision, y1, y0, x1, x0])) =
            (frame_header, size, bytes.get(at + 2..at + 7))
        {
            if !matches!(marker, 0xc0..=0xc2) {
                let what = "a lossless, hierarchical or arithmetically coded JPEG".to_owned();
                return Err(ImageError::Unsupported { what });
            }
            if precision != 8 {
                return Err(ImageError::Unsupported {
                    what: format!("a JPEG of {precision} bits"),
                });
            }
            let width = u32::from(u16::from_be_bytes([x1, x0]));
            let height = u32::from(u16::from_be_bytes([y1, y0]));
            if width == 0 || height == 0 {
                return Err(corrupt("a width or height of zero"));
            }
            size = Some((width, height));
        }
        at += length;
    }
}

const END_OF_IMAGE: u8 = 0xd9;

/// The next marker at or after `at`, which moves behind it. Entropy-coded data holds no marker but
/// restarts, since an `ff` in it is followed by `00`; so the same search serves headers and scans.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let found = bytes.get(*at..)?.iter().position(|&byte| byte == 0xff)?;
        *at += found + 1;
        while bytes.get(*at) == Some(&0xff) {
            *at += 1;
        }
        let marker = *bytes.get(*at)?;
        *at += 1;
        if marker != 0 {
            return Some(marker);
        }
    }
}
