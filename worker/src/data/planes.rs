//! The pixels of a window become values: one pass over the picture, written once.
//!
//! ```text
//!  r g b r g b ...  ->  R R R ...   (pixel - mean + shift) scale, mirrored or not
//!                       G G G ...
//!                       B B B ...
//! ```
//!
//! Taking every third byte is slow with the instructions that every x86-64 processor has, and four
//! times as fast with AVX2, so the same lines are compiled twice. Each value comes from the same
//! operations in the same order in both (nothing is contracted or reassociated), so the bits do not
//! depend on the processor.

#![expect(unsafe_code, reason = "what is compiled for AVX2 is called where there is AVX2")]

use super::augment::{STORED_SIDE, Treatment};

/// A window's place in a picture.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut<'a> {
    /// `height x width x 3`.
    pub(super) pixels: &'a [u8],
    pub(super) width: usize,
    /// Of the window's upper left corner in the picture.
    pub(super) left: usize,
    pub(super) top: usize,
    /// What is done to it; its window lies within the mean image.
    pub(super) treatment: Treatment,
    /// `3 x 256 x 256`.
    pub(super) mean: &'a [f32],
}

/// Writes the window into `out`, `3 x side x side`.
pub(super) fn write(cut: Cut<'_>, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all that the function needs.
        return unsafe { write_with_avx2(cut, out) };
    }
    write_anywhere(cut, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn write_with_avx2(cut: Cut<'_>, out: &mut [f32]) {
    write_anywhere(cut, out);
}

#[inline(always)]
fn write_anywhere(cut: Cut<'_>, out: &mut [f32]) {
    let Cut { pixels, width, left, top, treatment, mean } = cut;
    let Treatment { window, side, shift, pixel_scale } = treatment;
    let mut mirrored = [0.0; STORED_SIDE];
    let rows = pixels.chunks_exact(width * 3).skip(top).take(side);
    for (y, row) in rows.enumerate() {
        let (row, _) = row[left * 3..][..side * 3].as_chunks::<3>();
        for channel in 0..3 {
            let place = (channel * STORED_SIDE + window.y + y) * STORED_SIDE + window.x;
            let mean = &mean[place..][..side];
            let out = &mut out[(channel * side + y) * side..][..side];
            let into = if window.flip { &mut mirrored[..side] } else { &mut *out };
            for ((value, pixel), mean) in into.iter_mut().zip(row).zip(mean) {
                *value = (f32::from(pixel[channel]) - mean + shift[channel]) * pixel_scale;
            }
            if window.flip {
                // A row of its own, because values are computed fastest from left to right.
                out.iter_mut().zip(mirrored[..side].iter().rev()).for_each(|(out, it)| *out = *it);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use convoy_common::random::{Random, Stream};

    use super::super::augment::{MEAN_VALUES, Window, image_values};
    use super::*;

    #[test]
    fn the_values_do_not_depend_on_the_processor() {
        let mut random = Random::new(3, Stream::Drawing, 0, 0, 0);
        let (width, height) = (301, 256);
        let pixels: Vec<u8> = (0..width * height * 3).map(|_| random.next_u32() as u8).collect();
        let mean: Vec<f32> = (0..MEAN_VALUES).map(|_| random.unit() as f32 * 255.0).collect();
        for (side, flip) in [(224, false), (227, true), (227, false), (256, true)] {
            let window = Window { x: (256 - side) / 2, y: 256 - side, flip };
            let shift = [3.3, -1.7, 0.21];
            let treatment = Treatment { window, side, shift, pixel_scale: 0.017 };
            let cut = Cut {
                pixels: &pixels,
                width,
                left: 7 + window.x,
                top: window.y,
                treatment,
                mean: &mean,
            };
            let (mut fast, mut plain) =
                (vec![0.0; image_values(side)], vec![0.0; image_values(side)]);
            write(cut, &mut fast);
            write_anywhere(cut, &mut plain);
            let bits = |values: &[f32]| values.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
            assert!(bits(&fast) == bits(&plain), "{side} {flip}");
        }
    }
}
