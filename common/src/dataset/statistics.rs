//! The mean image and the covariance of the colours, over the training split.
//!
//! Everything is summed in integers, so that the result is the same bits whatever the number of
//! threads and the order in which they finish.

use super::SIDE;
use crate::image::Rgb8;

const PIXELS: usize = (SIDE * SIDE) as usize;

/// Sums over pictures of 256x256 pixels; parts from several threads are merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelStatistics {
    images: u64,
    /// Sum per place and channel, in the picture's own order (HWC). Good for 2^56 pictures.
    sums: Vec<u64>,
    /// Sums of the products of two channels: RR RG RB GG GB BB. Good for 4e9 pictures.
    products: [u64; 6],
}

/// What the sums say.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Mean of every pixel, `3 x 256 x 256` (channels R G B, rows from the top), 0 to 255.
    pub mean_image: Vec<f32>,
    /// Covariance of R, G and B over all pixels of all pictures, row by row, in units of 0 to 255
    /// squared. AlexNet's colour augmentation draws along its eigenvectors (paper, section 4.1).
    pub covariance: [f64; 9],
}

impl Default for PixelStatistics {
    fn default() -> Self {
        Self { images: 0, sums: vec![0; PIXELS * 3], products: [0; 6] }
    }
}

impl PixelStatistics {
    /// Adds one picture; one of another size than 256x256 is left out.
    pub fn add(&mut self, image: &Rgb8) {
        if image.pixels.len() != self.sums.len() {
            return;
        }
        self.images += 1;
        let mut products = [0_u64; 6];
        for (pixel, sum) in image.pixels.chunks_exact(3).zip(self.sums.chunks_exact_mut(3)) {
            let [r, g, b] = [u32::from(pixel[0]), u32::from(pixel[1]), u32::from(pixel[2])];
            sum[0] += u64::from(r);
            sum[1] += u64::from(g);
            sum[2] += u64::from(b);
            for (total, product) in
                products.iter_mut().zip([r * r, r * g, r * b, g * g, g * b, b * b])
            {
                *total += u64::from(product);
            }
        }
        for (total, product) in self.products.iter_mut().zip(products) {
            *total += product;
        }
    }

    /// Adds what another thread has summed.
    pub fn merge(&mut self, other: &Self) {
        self.images += other.images;
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum += more;
        }
        for (sum, more) in self.products.iter_mut().zip(&other.products) {
            *sum += more;
        }
    }

    /// Mean image and covariance; zeros if there were no pictures.
    pub fn summary(&self) -> Summary {
        let images = self.images.max(1) as f64;
        let mut mean_image = vec![0.0; PIXELS * 3];
        for (place, sums) in self.sums.chunks_exact(3).enumerate() {
            for (channel, &sum) in sums.iter().enumerate() {
                mean_image[channel * PIXELS + place] = (sum as f64 / images) as f32;
            }
        }
        let all = images * PIXELS as f64;
        let mut means = [0.0; 3];
        for (channel, mean) in means.iter_mut().enumerate() {
            let sum: u64 = self.sums.iter().skip(channel).step_by(3).sum();
            *mean = sum as f64 / all;
        }
        let place = [[0, 1, 2], [1, 3, 4], [2, 4, 5]];
        let mut covariance = [0.0; 9];
        for row in 0..3 {
            for column in 0..3 {
                covariance[row * 3 + column] =
                    self.products[place[row][column]] as f64 / all - means[row] * means[column];
            }
        }
        Summary { mean_image, covariance }
    }
}
