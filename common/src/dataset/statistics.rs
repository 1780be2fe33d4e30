//! The mean image and the covariance of the colours, over the training split.
//!
//! Everything is summed in integers, so that the result is the same bits whatever the number of
//! threads and the order in which they finish.
//!
//! ```text
//! pictures -> PixelSums (of a few, one thread) -> PixelSums (of a shard) -> PixelStatistics (of all)
//! ```

use super::SIDE;
use crate::image::Rgb8;

const PIXELS: usize = (SIDE * SIDE) as usize;
const VALUES: usize = PIXELS * 3;

/// Bytes whose products are summed in lanes at a time: whole pixels, and whole vectors of 16.
const LANES: usize = 48;
/// Bytes whose products are summed in 32 bits before they are added in 64: 255 * 255 * 1024 < 2^26.
const STRIP: usize = LANES * 1024;

/// Sums over at most 2^24 pictures of 256x256 pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelSums {
    images: u32,
    /// Sum per place and channel, in the picture's own order (HWC).
    sums: Vec<u32>,
    /// Sums of the products of two channels: RR RG RB GG GB BB.
    products: [u64; 6],
}

impl Default for PixelSums {
    fn default() -> Self {
        Self { images: 0, sums: vec![0; VALUES], products: [0; 6] }
    }
}

impl PixelSums {
    /// Bytes of [`Self::write`].
    pub(super) const BYTES: usize = 4 + VALUES * 4 + 6 * 8;

    /// Adds one picture, `256 x 256 x 3`; one of another size is left out.
    pub fn add(&mut self, pixels: &[u8]) {
        if pixels.len() != VALUES {
            return;
        }
        self.images += 1;
        for (sum, &value) in self.sums.iter_mut().zip(pixels) {
            *sum += u32::from(value);
        }
        for strip in pixels.chunks(STRIP) {
            for (total, product) in self.products.iter_mut().zip(products(strip)) {
                *total += u64::from(product);
            }
        }
    }

    /// Adds what another has summed.
    pub fn merge(&mut self, other: &Self) {
        if other.images == 0 {
            return;
        }
        self.images += other.images;
        for (sum, more) in self.sums.iter_mut().zip(&other.sums) {
            *sum += more;
        }
        for (sum, more) in self.products.iter_mut().zip(other.products) {
            *sum += more;
        }
    }

    /// Back to nothing, with the same memory.
    pub fn clear(&mut self) {
        self.images = 0;
        self.sums.fill(0);
        self.products = [0; 6];
    }

    /// Little-endian: pictures 4, sums 4 each, products 8 each.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.images.to_le_bytes());
        self.sums.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
        self.products.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
    }

    /// What [`Self::write`] wrote.
    pub(super) fn read(bytes: &[u8; Self::BYTES]) -> Self {
        let (words, products) = bytes.split_at(4 + VALUES * 4);
        let (words, _) = words.as_chunks::<4>();
        let (products, _) = products.as_chunks::<8>();
        let mut sums = Self {
            images: u32::from_le_bytes(words[0]),
            sums: words[1..].iter().map(|word| u32::from_le_bytes(*word)).collect(),
            products: [0; 6],
        };
        for (product, bytes) in sums.products.iter_mut().zip(products) {
            *product = u64::from_le_bytes(*bytes);
        }
        sums
    }
}

/// Sums of the products RR RG RB GG GB BB over whole pixels, a multiple of [`LANES`] bytes.
///
/// Each byte is multiplied with itself and with the next two, whatever its channel, so that no byte
/// has to move to another place; the sums that mix two pixels are left out at the end.
fn products(pixels: &[u8]) -> [u32; 6] {
    let mut sums = [[0_u32; LANES]; 3];
    let mut add = |block: &[u8; LANES + 2]| {
        for (ahead, sums) in sums.iter_mut().enumerate() {
            for ((sum, &one), &other) in sums.iter_mut().zip(block).zip(&block[ahead..]) {
                *sum += u32::from(one) * u32::from(other);
            }
        }
    };
    let mut rest = pixels;
    while let Some(block) = rest.first_chunk() {
        add(block);
        rest = &rest[LANES..];
    }
    // The last block has nothing behind it, and its last bytes need none.
    let mut last = [0; LANES + 2];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    let of = |channel: usize, ahead: usize| sums[ahead].iter().skip(channel).step_by(3).sum();
    [of(0, 0), of(0, 1), of(0, 2), of(1, 0), of(1, 1), of(2, 0)]
}

/// Sums over any number of pictures of 256x256 pixels.
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
        Self { images: 0, sums: vec![0; VALUES], products: [0; 6] }
    }
}

impl PixelStatistics {
    /// Adds one picture; one of another size than 256x256 is left out.
    pub fn add(&mut self, image: &Rgb8) {
        let mut sums = PixelSums::default();
        sums.add(&image.pixels);
        self.add_sums(&sums);
    }

    /// Adds the pictures that somebody has summed.
    pub fn add_sums(&mut self, other: &PixelSums) {
        self.images += u64::from(other.images);
        for (sum, &more) in self.sums.iter_mut().zip(&other.sums) {
            *sum += u64::from(more);
        }
        for (sum, more) in self.products.iter_mut().zip(other.products) {
            *sum += more;
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
        let mut mean_image = vec![0.0; VALUES];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_come_back_from_their_bytes_and_are_the_same_whoever_summed_them() {
        let picture = |n: usize| -> Vec<u8> { (0..VALUES).map(|i| (i * (n + 3)) as u8).collect() };
        let mut all = PixelSums::default();
        (0..5).for_each(|n| all.add(&picture(n)));
        all.add(&[1, 2, 3]);
        let (mut left, mut right) = (PixelSums::default(), PixelSums::default());
        (0..2).for_each(|n| left.add(&picture(n)));
        (2..5).for_each(|n| right.add(&picture(n)));
        right.merge(&left);
        assert_eq!(right, all);
        let mut bytes = Vec::new();
        all.write(&mut bytes);
        assert_eq!(PixelSums::read(bytes.as_slice().try_into().unwrap()), all);
        let (mut one, mut other) = (PixelStatistics::default(), PixelStatistics::default());
        one.add_sums(&all);
        for n in 0..5 {
            other.add(&Rgb8::new(256, 256, picture(n)).unwrap());
        }
        assert_eq!(one, other);
        let mut products = [0; 6];
        for pixel in (0..5).flat_map(picture).collect::<Vec<_>>().chunks_exact(3) {
            let pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)];
            for (sum, (one, other)) in products.iter_mut().zip(pairs) {
                *sum += u64::from(pixel[one]) * u64::from(pixel[other]);
            }
        }
        assert_eq!(all.products, products);
        let by_hand: u64 = (0..5).flat_map(picture).map(u64::from).sum();
        assert_eq!(all.sums.iter().map(|&it| u64::from(it)).sum::<u64>(), by_hand);
        right.clear();
        assert_eq!(right, PixelSums::default());
    }
}
