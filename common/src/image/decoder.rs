//! Many pictures one after the other, in the same memory.
//!
//! A thread that decodes a thousand pictures a second would ask the allocator for hundreds of
//! megabytes in it. A [`Decoder`] keeps what one picture needed for the next. What comes out does not
//! depend on what went through it before.

use fast_image_resize::Resizer;

use super::geometry::{resize, scaled_size};
use super::{ImageError, Kind, Limits, jpeg, png, sniff};

/// Buffers beyond this are let go, so that one huge picture does not hold its memory for ever.
const MOST_KEPT: usize = 16 << 20;

/// Decodes and scales pictures in buffers of its own, which grow to what the largest one needs.
#[derive(Debug, Default)]
pub struct Decoder {
    decoded: Vec<u8>,
    scaled: Vec<u8>,
    resizer: Resizer,
}

/// A picture in a [`Decoder`]'s buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picture<'a> {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `height x width x 3` bytes, rows from the top, channels R G B.
    pub pixels: &'a [u8],
}

/// A picture that has been decoded and may have to be scaled.
#[derive(Debug)]
pub struct Decoded<'a> {
    decoder: &'a mut Decoder,
    width: u32,
    height: u32,
}

impl Decoder {
    /// Without any buffer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes a picture within the usual [`Limits`], as [`super::decode`] does.
    ///
    /// # Errors
    /// As [`super::decode`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Decoded<'_>, ImageError> {
        for buffer in [&mut self.decoded, &mut self.scaled] {
            if buffer.capacity() > MOST_KEPT {
                *buffer = Vec::new();
            }
        }
        let limits = Limits::default();
        let (width, height) = match sniff(bytes) {
            Kind::Jpeg => jpeg::decode_into(bytes, limits, &mut self.decoded)?,
            Kind::Png => {
                let picture = png::decode(bytes, limits)?;
                self.decoded = picture.pixels;
                (picture.width, picture.height)
            }
            other => return Err(other.refused()),
        };
        Ok(Decoded { decoder: self, width, height })
    }
}

impl<'a> Decoded<'a> {
    /// The picture, scaled so that its shorter side is `side`, as [`super::shorter_side`] does it.
    ///
    /// # Errors
    /// As [`super::shorter_side`].
    pub fn scale(self, side: u32) -> Result<Picture<'a>, ImageError> {
        let Self { decoder: Decoder { decoded, scaled, resizer }, width, height } = self;
        match scaled_size(width, height, side)? {
            None => Ok(Picture { width, height, pixels: decoded }),
            Some(to) => {
                resize(resizer, decoded, (width, height), to, scaled)?;
                Ok(Picture { width: to.0, height: to.1, pixels: scaled })
            }
        }
    }
}
