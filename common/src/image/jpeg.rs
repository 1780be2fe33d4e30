//! JPEG: a survey of the markers, then the decoder in its strict mode.
//!
//! The survey finds the size before anything is decoded, and the end-of-image marker, without
//! which a file is truncated: decoders notice a missing end only from one row of blocks to the
//! next, and fill what is not there with grey.
//!
//! Baseline files whose colours come in scans of their own go to a second decoder: the first takes
//! them for whole and gives wrong colours if chroma is subsampled (zune-image issue 422).

use std::panic::{AssertUnwindSafe, catch_unwind};

use jpeg_decoder::PixelFormat;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use super::{ImageError, Limits, Rgb8};

pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<Rgb8, ImageError> {
    let mut pixels = Vec::new();
    let (width, height) = decode_into(bytes, limits, &mut pixels)?;
    Rgb8::new(width, height, pixels)
}

/// Decodes into `pixels`, whatever it held and however long it was; gives width and height.
pub(super) fn decode_into(
    bytes: &[u8],
    limits: Limits,
    pixels: &mut Vec<u8>,
) -> Result<(u32, u32), ImageError> {
    let survey = survey(bytes)?;
    limits.check(survey.width, survey.height)?;
    if !survey.complete {
        return Err(ImageError::Truncated);
    }
    // Decoders are foreign code over hostile bytes: a bug in one costs one picture, not the run.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if survey.apart {
            decode_apart(bytes).map(|all| *pixels = all)
        } else {
            decode_usual(bytes, limits, pixels)
        }
    }));
    match outcome {
        Ok(decoded) => decoded?,
        Err(_) => {
            return Err(ImageError::Corrupt { detail: "the decoder gave up on it".to_owned() });
        }
    }
    Rgb8::check(survey.width, survey.height, pixels)?;
    Ok((survey.width, survey.height))
}

fn decode_usual(bytes: &[u8], limits: Limits, pixels: &mut Vec<u8>) -> Result<(), ImageError> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(limits.side as usize)
        .set_max_height(limits.side as usize)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(translate)?;
    let size = decoder.output_buffer_size().unwrap_or(0);
    // A damaged file may leave pixels unwritten, and they must not be those of the picture before.
    pixels.clear();
    pixels.resize(size, 0);
    decoder.decode_into(pixels).map_err(translate)
}

fn decode_apart(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let corrupt = |error: jpeg_decoder::Error| ImageError::Corrupt { detail: error.to_string() };
    let mut decoder = jpeg_decoder::Decoder::new(bytes);
    let pixels = decoder.decode().map_err(corrupt)?;
    match decoder.info().map(|info| info.pixel_format) {
        Some(PixelFormat::RGB24) => Ok(pixels),
        _ => Err(ImageError::Unsupported { what: "inks in scans of their own".to_owned() }),
    }
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
    /// Baseline, and the first scan does not hold all components.
    apart: bool,
}

/// Walks over the markers without decoding: size from the frame header, and whether it ends.
fn survey(bytes: &[u8]) -> Result<Survey, ImageError> {
    let corrupt = |detail: &str| ImageError::Corrupt { detail: detail.to_owned() };
    let mut size = None;
    // Components of a baseline frame, until its first scan is seen.
    let mut components = None;
    let mut apart = false;
    let mut at = 2;
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else {
            let (width, height) = size.ok_or(ImageError::Truncated)?;
            return Ok(Survey { width, height, complete: false, apart });
        };
        if marker == END_OF_IMAGE {
            let (width, height) = size.ok_or_else(|| corrupt("it ends before its frame header"))?;
            return Ok(Survey { width, height, complete: true, apart });
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
            components = bytes.get(at + 7).copied().filter(|_| marker != 0xc2);
        }
        if marker == START_OF_SCAN
            && let (Some(all), Some(&here)) = (components.take(), bytes.get(at + 2))
        {
            apart = here < all;
        }
        at += length;
    }
}

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// The next marker at or after `at`, which moves behind it. Entropy-coded data holds no marker but
/// restarts, since an `ff` in it is followed by `00`; so the same search serves headers and scans.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        let found = memchr::memchr(0xff, bytes.get(*at..)?)?;
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
