//! From a picture to the net's input: crop, flip, colour, mean subtraction, scale (section 4.1 of
//! the paper), and the order of values that convolutions want.
//!
//! ```text
//!  picture, shorter side 256 ─> centre 256 x 256 ─> window of side x side ─> (pixel - mean + shift) scale
//!  mean image, 256 x 256 ─────────────────────────> the same window ───────────┘               └> mirrored
//! ```
//!
//! The mean is an image, not one number a channel (section 2), and is subtracted at the place where
//! the pixel was taken, before both are mirrored. The shift is one number for each channel
//! ([`super::colour`]), in training alone. The side of the window is the net's, [`ModelName::input_side`](convoy_common::config::ModelName).

use convoy_common::image::centre_offset;
use convoy_common::random::{Random, Stream};

use super::colour::Axes;
use super::error::Unusable;
use super::planes::{self, Cut};
use super::{Purpose, Request};

/// Side of the square that windows are cut from.
pub const STORED_SIDE: usize = 256;

/// Values of the mean image: `3 x 256 x 256`.
pub const MEAN_VALUES: usize = 3 * STORED_SIDE * STORED_SIDE;

/// What all images of a pipeline have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipe {
    pub(super) seed: u64,
    /// Of the window; at most [`STORED_SIDE`].
    pub(super) side: usize,
    pub(super) pixel_scale: f32,
    /// Spread of the draws along the axes.
    pub(super) colour_sigma: f64,
    pub(super) axes: Axes,
}

/// What is done to one image besides the mean's subtraction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Treatment {
    pub(super) window: Window,
    /// Of the window.
    pub(super) side: usize,
    /// Added to R, G and B, in units of 0 to 255.
    pub(super) shift: [f32; 3],
    /// What the sum is multiplied by.
    pub(super) pixel_scale: f32,
}

impl Recipe {
    /// What is done to one sample: its window and, in training, the shift of its colours.
    pub(super) fn treatment(&self, request: &Request, sample: u64) -> Treatment {
        let shift = match request.purpose {
            Purpose::Train => self.axes.shift(self.colour_sigma, self.seed, request, sample),
            Purpose::Evaluate | Purpose::EvaluateSquares => [0.0; 3],
        };
        let side = request.purpose.side(self.side);
        let window = Window::of(self.seed, side, request, sample);
        Treatment { window, side, shift, pixel_scale: self.pixel_scale }
    }
}

/// Values of one input: `3 x side x side`.
pub(super) const fn image_values(side: usize) -> usize {
    3 * side * side
}

/// What is cut from the centre square, and whether it is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) x: usize,
    pub(super) y: usize,
    pub(super) flip: bool,
}

impl Window {
    /// The window of that side of one sample: drawn in training, the centre in evaluation.
    pub(super) fn of(seed: u64, side: usize, request: &Request, sample: u64) -> Self {
        match request.purpose {
            Purpose::Train => {
                let random =
                    |stream| Random::new(seed, stream, request.epoch, request.step, sample);
                let mut place = random(Stream::Crop);
                let places = (STORED_SIDE - side) as u32 + 1;
                Self {
                    x: place.below(places) as usize,
                    y: place.below(places) as usize,
                    flip: random(Stream::Flip).below(2) == 1,
                }
            }
            Purpose::Evaluate | Purpose::EvaluateSquares => {
                let centre = (STORED_SIDE - side) / 2;
                Self { x: centre, y: centre, flip: false }
            }
        }
    }
}

/// Writes the window of one picture into `out` (`3 x side x side`); `pixels` are
/// `height x width x 3`, and `size` is their width and height.
pub(super) fn write_window(
    pixels: &[u8],
    size: (u32, u32),
    treatment: Treatment,
    mean: &[f32],
    out: &mut [f32],
) -> Result<(), Unusable> {
    let (width, height) = (size.0 as usize, size.1 as usize);
    if width.min(height) < STORED_SIDE || pixels.len() != width * height * 3 {
        return Err(Unusable::Size { width: size.0, height: size.1, bytes: pixels.len() });
    }
    let centre = |length| centre_offset(length, STORED_SIDE as u32) as usize;
    let (left, top) = (centre(size.0) + treatment.window.x, centre(size.1) + treatment.window.y);
    planes::write(Cut { pixels, width, left, top, treatment, mean }, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use convoy_common::image::Rgb8;
    use proptest::prelude::*;

    use super::*;

    const SIDE: usize = 227;

    fn write_window(
        picture: &Rgb8,
        treatment: Treatment,
        mean: &[f32],
        out: &mut [f32],
    ) -> Result<(), Unusable> {
        let size = (picture.width, picture.height);
        super::write_window(&picture.pixels, size, treatment, mean, out)
    }

    fn treatment(window: Window, side: usize) -> Treatment {
        Treatment { window, side, shift: [3.0, -1.5, 0.25], pixel_scale: 0.5 }
    }

    /// A picture in which every value tells its place, as far as a byte can.
    fn picture(width: u32, height: u32) -> Rgb8 {
        let value = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8;
        Rgb8 { width, height, pixels: (0..width * height * 3).map(value).collect() }
    }

    fn mean() -> Vec<f32> {
        (0..MEAN_VALUES).map(|i| (i % 1009) as f32 / 4.0).collect()
    }

    fn request(purpose: Purpose, epoch: u32, step: u32) -> Request {
        Request { purpose, epoch, step, microbatch: 0, samples: Vec::new() }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn each_value_is_the_pixel_less_the_mean_at_its_place_and_shifted(
            x in 0_usize..30, y in 0_usize..30, flip: bool, wide in 0_u32..40, high in 0_u32..40,
            side in 224_usize..=227,
        ) {
            let picture = picture(256 + wide, 256 + high);
            let mean = mean();
            let mut out = vec![f32::NAN; image_values(side)];
            let treatment = treatment(Window { x, y, flip }, side);
            write_window(&picture, treatment, &mean, &mut out).unwrap();
            for (i, &value) in out.iter().enumerate() {
                let (channel, row, column) = (i / side / side, i / side % side, i % side);
                let column = if flip { side - 1 - column } else { column };
                // Halves are rounded to even.
                let middle = |rest: u32| (f64::from(rest) / 2.0).round_ties_even() as usize;
                let (across, down) = (middle(wide) + x + column, middle(high) + y + row);
                let pixel = picture.pixels[(down * picture.width as usize + across) * 3 + channel];
                let mean = mean[channel * 65_536 + (y + row) * 256 + x + column];
                prop_assert_eq!(value, (f32::from(pixel) - mean + treatment.shift[channel]) * 0.5);
            }
        }
    }

    proptest! {
        #[test]
        fn training_windows_lie_within_the_square_and_depend_on_all_of_the_position(
            seed: u64, epoch in 0_u32..1000, step in 0_u32..100_000, sample: u64,
        ) {
            let at = |seed, epoch, step, sample| {
                Window::of(seed, SIDE, &request(Purpose::Train, epoch, step), sample)
            };
            let window = at(seed, epoch, step, sample);
            prop_assert!(window.x <= 29 && window.y <= 29);
            prop_assert_eq!(window, at(seed, epoch, step, sample));
            let others: Vec<_> = (1..9)
                .flat_map(|i| {
                    [
                        at(seed ^ i, epoch, step, sample),
                        at(seed, epoch + i as u32, step, sample),
                        at(seed, epoch, step + i as u32, sample),
                        at(seed, epoch, step, sample ^ i),
                    ]
                })
                .collect();
            for kind in 0..4 {
                let same = others.iter().skip(kind).step_by(4).filter(|&&it| it == window);
                prop_assert!(same.count() < 4);
            }
        }
    }

    #[test]
    fn all_places_and_both_sides_are_drawn_about_equally_often() {
        let (mut x, mut y, mut flips) = ([0; 30], [0; 30], 0);
        for sample in 0..30_000 {
            let window = Window::of(7, SIDE, &request(Purpose::Train, 1, 2), sample);
            x[window.x] += 1;
            y[window.y] += 1;
            flips += u32::from(window.flip);
        }
        for counts in [x, y] {
            assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        }
        assert!((14_600..15_400).contains(&flips), "{flips}");
    }

    #[test]
    fn evaluation_takes_the_centre_of_every_image() {
        for sample in 0..9 {
            let window = Window::of(7, SIDE, &request(Purpose::Evaluate, 1, 2), sample);
            assert_eq!(window, Window { x: 14, y: 14, flip: false });
            let smaller = Window::of(7, 224, &request(Purpose::Evaluate, 1, 2), sample);
            assert_eq!(smaller, Window { x: 16, y: 16, flip: false });
        }
    }

    #[test]
    fn colours_are_shifted_in_training_alone() {
        let axes = Axes::of(&[9.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 9.0]);
        let recipe = Recipe { seed: 7, side: SIDE, pixel_scale: 0.5, colour_sigma: 0.1, axes };
        let shift = |purpose| recipe.treatment(&request(purpose, 1, 2), 3).shift;
        assert_eq!(shift(Purpose::Evaluate), [0.0; 3]);
        assert!(shift(Purpose::Train).iter().all(|it| *it != 0.0));
        let still = Recipe { colour_sigma: 0.0, ..recipe };
        assert_eq!(still.treatment(&request(Purpose::Train, 1, 2), 3).shift, [0.0; 3]);
    }

    #[test]
    fn a_picture_that_is_too_small_or_short_of_pixels_is_refused() {
        let mut short = picture(256, 256);
        short.pixels.pop();
        let window = Window { x: 29, y: 29, flip: false };
        for picture in [picture(255, 300), picture(300, 255), short] {
            let mut out = vec![0.0; image_values(SIDE)];
            let result = write_window(&picture, treatment(window, SIDE), &mean(), &mut out);
            assert!(matches!(result, Err(Unusable::Size { .. })), "{result:?}");
        }
    }
}
