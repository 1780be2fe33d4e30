//! Many pictures one after the other, in the same memory.
//!
//! A thread that decodes a thousand pictures a second would ask the allocator for hundreds of
//! megabytes in it. A [`Decoder`] keeps what one picture needed for the next. What comes out does not
//! depend on what went through it before.

use fast_image_resize::Resizer;

use super::geometry::{centre_offset, resize, resize_part, scaled_size};
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
    /// Of width and height the smaller one, which [`Self::scale`] changes.
    pub fn shorter_side(&self) -> u32 {
        self.width.min(self.height)
    }

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

    /// The square of `side` pixels in the middle of what [`Self::scale`] gives, without the work for
    /// what lies beside it. A pixel may differ by one from that, where rounding is close.
    ///
    /// # Errors
    /// As [`super::shorter_side`].
    pub fn centre_square(self, side: u32) -> Result<Picture<'a>, ImageError> {
        let Self { decoder: Decoder { decoded, scaled, resizer }, width, height } = self;
        let from = (width, height);
        let to = scaled_size(width, height, side)?;
        let (whole_width, whole_height) = to.unwrap_or(from);
        let left = centre_offset(whole_width, side);
        let top = centre_offset(whole_height, side);
        if to.is_some() {
            let part = Part { whole: (whole_width, whole_height), left, top, side };
            resize_part(resizer, decoded, from, part, scaled)?;
        } else {
            let (row, square) = (width as usize * 3, side as usize * 3);
            scaled.clear();
            for line in decoded.chunks_exact(row).skip(top as usize).take(side as usize) {
                scaled.extend_from_slice(&line[left as usize * 3..][..square]);
            }
        }
        Ok(Picture { width: side, height: side, pixels: scaled })
    }
}

/// A square of a scaled picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Width and height that the whole picture is scaled to.
    pub(super) whole: (u32, u32),
    pub(super) left: u32,
    pub(super) top: u32,
    pub(super) side: u32,
}
