//! Scaling and cropping, as the usual loaders of ImageNet do it.
//!
//! Scaling uses the antialiased triangle filter (`BILINEAR` of PIL), whose support grows with the
//! reduction, so that fine texture becomes its mean and not moire. Sizes and the centre's rounding
//! are torchvision's, so that accuracies can be compared.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

use super::{ImageError, Limits, Rgb8};

/// Scales so that the shorter side is 256 and the aspect ratio is kept; the identity if it is 256.
///
/// # Errors
/// See [`shorter_side`].
pub fn shorter_side_256(image: Rgb8) -> Result<Rgb8, ImageError> {
    shorter_side(image, 256)
}

/// Scales so that the shorter side is `side`; the longer is rounded down, as torchvision does.
///
/// # Errors
/// [`ImageError::TooNarrow`] if the longer side would pass the usual [`Limits`].
pub fn shorter_side(image: Rgb8, side: u32) -> Result<Rgb8, ImageError> {
    let size = (image.width, image.height);
    let Some(to) = scaled_size(image.width, image.height, side)? else { return Ok(image) };
    let mut pixels = Vec::new();
    resize(&mut Resizer::new(), &image.pixels, size, to, &mut pixels)?;
    Ok(Rgb8 { width: to.0, height: to.1, pixels })
}

/// Width and height after [`shorter_side`]; nothing where it has nothing to do.
pub(super) fn scaled_size(
    width: u32,
    height: u32,
    side: u32,
) -> Result<Option<(u32, u32)>, ImageError> {
    let shorter = width.min(height);
    if shorter == side {
        return Ok(None);
    }
    if shorter == 0 {
        return Err(ImageError::Corrupt { detail: "an image without pixels".to_owned() });
    }
    let longer = u64::from(width.max(height)) * u64::from(side) / u64::from(shorter);
    match u32::try_from(longer) {
        Ok(longer) if longer <= Limits::default().side => {
            Ok(Some(if width <= height { (side, longer) } else { (longer, side) }))
        }
        _ => Err(ImageError::TooNarrow { width, height, side }),
    }
}

/// Scales `pixels` of size `from` into `scaled`, which becomes as long as size `to` needs.
pub(super) fn resize(
    resizer: &mut Resizer,
    pixels: &[u8],
    from: (u32, u32),
    to: (u32, u32),
    scaled: &mut Vec<u8>,
) -> Result<(), ImageError> {
    let corrupt = |error: &dyn std::fmt::Display| ImageError::Corrupt { detail: error.to_string() };
    scaled.resize(to.0 as usize * to.1 as usize * 3, 0);
    let from = TypedImageRef::<U8x3>::from_buffer(from.0, from.1, pixels)
        .map_err(|error| corrupt(&error))?;
    let mut to = TypedImage::<U8x3>::from_buffer(to.0, to.1, scaled.as_mut_slice())
        .map_err(|error| corrupt(&error))?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    resizer.resize_typed(&from, &mut to, &options).map_err(|error| corrupt(&error))
}

/// Where a square of `side` pixels begins that lies in the middle of `length` pixels; halves are
/// rounded to even, as Python does. 0 if there is no room.
pub fn centre_offset(length: u32, side: u32) -> u32 {
    let rest = length.saturating_sub(side);
    rest / 2 + u32::from(rest % 4 == 3)
}

/// The square of `side` pixels around the centre; halves are rounded to even, as Python does.
///
/// # Errors
/// [`ImageError::OutOfBounds`] if the picture is smaller.
pub fn centre_crop(image: &Rgb8, side: u32) -> Result<Rgb8, ImageError> {
    crop(image, centre_offset(image.width, side), centre_offset(image.height, side), side)
}

/// The square of `side` pixels whose upper left corner is at (`x`, `y`).
///
/// # Errors
/// [`ImageError::OutOfBounds`] if it does not lie within the picture.
pub fn crop(image: &Rgb8, x: u32, y: u32, side: u32) -> Result<Rgb8, ImageError> {
    let (width, height) = (image.width, image.height);
    let fits = |from: u32, length: u32| from.checked_add(side).is_some_and(|end| end <= length);
    if !fits(x, width) || !fits(y, height) {
        return Err(ImageError::OutOfBounds { x, y, side, width, height });
    }
    let row = side as usize * 3;
    let mut pixels = Vec::with_capacity(row * side as usize);
    for line in y..y + side {
        let start = (line as usize * width as usize + x as usize) * 3;
        pixels.extend_from_slice(&image.pixels[start..start + row]);
    }
    Ok(Rgb8 { width: side, height: side, pixels })
}
