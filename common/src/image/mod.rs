//! Pictures: from the bytes of a file to RGB pixels of the wanted size, and back to JPEG.
//!
//! What a file is, its content says, never its name: ImageNet has a PNG called `.JPEG`. The header
//! is read first, so that a file that claims to be enormous is refused before memory is taken for
//! it. A picture is whole or it is an error: a truncated file never becomes a half-grey picture.
//! Orientation tags are ignored, as the usual loaders do.
//!
//! ```text
//! bytes -> sniff -> survey header, limits -> decode -> Rgb8 -> shorter side 256 -> crop
//! ```
//!
//! This module knows no data set, no tensor and no file system.

mod decoder;
mod encode;
mod error;
mod geometry;
mod jpeg;
mod png;

pub use decoder::{Decoded, Decoder, Picture};
pub use encode::{Chroma, encode_jpeg};
pub use error::ImageError;
pub use geometry::{centre_crop, centre_offset, crop, shorter_side, shorter_side_256};

/// An RGB picture with 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height x width x 3` bytes, rows from the top, channels R G B.
    pub pixels: Vec<u8>,
}

impl Rgb8 {
    /// A picture of the given pixels.
    ///
    /// # Errors
    /// [`ImageError::Corrupt`] if there are not `width * height * 3` of them.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<Self, ImageError> {
        Self::check(width, height, &pixels)?;
        Ok(Self { width, height, pixels })
    }

    fn check(width: u32, height: u32, pixels: &[u8]) -> Result<(), ImageError> {
        let (expected, found) = (width as usize * height as usize * 3, pixels.len());
        if found == expected {
            return Ok(());
        }
        let detail = format!("{found} bytes of pixels where {width}x{height} needs {expected}");
        Err(ImageError::Corrupt { detail })
    }
}

/// How large a picture may be; checked on the header, before anything is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest width or height, in pixels.
    pub side: u32,
    /// Most pixels (width times height).
    pub pixels: u64,
}

impl Default for Limits {
    /// 16,383 a side and 64 Mi pixels: 192 MiB of RGB, which holds what cameras and ImageNet make.
    fn default() -> Self {
        Self { side: 16_383, pixels: 64 << 20 }
    }
}

impl Limits {
    fn check(self, width: u32, height: u32) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        if width > self.side || height > self.side || pixels > self.pixels {
            return Err(ImageError::TooLarge { width, height, limits: self });
        }
        Ok(())
    }
}

/// Decodes a picture within the usual [`Limits`].
///
/// JPEG: baseline and progressive, grey, YCbCr, RGB, and CMYK and YCCK with inverted inks, as
/// Adobe writes them. PNG: any colour type; transparency is dropped, 16 bits become 8.
///
/// # Errors
/// Every way in which the bytes may not be a whole picture, see [`ImageError`].
pub fn decode(bytes: &[u8]) -> Result<Rgb8, ImageError> {
    decode_within(bytes, Limits::default())
}

/// Decodes a picture within the given limits; see [`decode`].
///
/// # Errors
/// As [`decode`].
pub fn decode_within(bytes: &[u8], limits: Limits) -> Result<Rgb8, ImageError> {
    match sniff(bytes) {
        Kind::Jpeg => jpeg::decode(bytes, limits),
        Kind::Png => png::decode(bytes, limits),
        other => Err(other.refused()),
    }
}

enum Kind {
    Jpeg,
    Png,
    Empty,
    Other(&'static str),
    Unknown,
}

impl Kind {
    /// Why what is neither JPEG nor PNG is not read.
    fn refused(&self) -> ImageError {
        match self {
            Self::Empty => ImageError::Empty,
            Self::Other(format) => ImageError::Unsupported { what: (*format).to_owned() },
            Self::Jpeg | Self::Png | Self::Unknown => ImageError::NotAnImage,
        }
    }
}

fn sniff(bytes: &[u8]) -> Kind {
    match bytes {
        [] => Kind::Empty,
        [0xff, 0xd8, ..] => Kind::Jpeg,
        [0x89, b'P', b'N', b'G', ..] => Kind::Png,
        [b'G', b'I', b'F', b'8', ..] => Kind::Other("GIF"),
        [b'B', b'M', ..] => Kind::Other("BMP"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Kind::Other("WebP"),
        [b'I', b'I', 0x2a, 0, ..] | [b'M', b'M', 0, 0x2a, ..] => Kind::Other("TIFF"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Kind::Other("HEIF or AVIF"),
        _ => Kind::Unknown,
    }
}

#[cfg(test)]
mod pillow_tests;
#[cfg(test)]
mod tests;
