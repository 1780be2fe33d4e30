//! Dropout masks (section 4.2 of the paper), derived from the position and never sent.
//!
//! Inverted dropout: what is kept is divided by the probability of keeping it during training, so
//! that evaluation needs no factor. In expectation the same as the paper, which halves the outputs
//! of evaluation instead.

use convoy_common::random::{Random, Stream};

use super::lane::{Dropout, Place};

/// The mask of one layer: for each sample `width` factors, 0 or 1 / (1 - probability).
///
/// A unit's factor depends on seed, layer, position and sample alone, not on which worker, lane
/// or row of a microbatch computes it.
pub(super) fn mask(
    dropout: Dropout,
    stream: Stream,
    place: Place,
    samples: &[u64],
    width: usize,
) -> Vec<f32> {
    let keep = (1.0 / (1.0 - dropout.probability)) as f32;
    // Dropped when a 32-bit number is below this share of its range.
    let threshold = (dropout.probability * 2f64.powi(32)) as u32;
    let mut bits = vec![0u32; width];
    let mut factors = Vec::with_capacity(samples.len() * width);
    for &sample in samples {
        Random::new(dropout.seed, stream, place.epoch, place.step, sample).fill_u32(&mut bits);
        factors.extend(bits.iter().map(|&bits| if bits < threshold { 0.0 } else { keep }));
    }
    factors
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Dropout = Dropout { seed: 5, probability: 0.5 };
    const PLACE: Place = Place { epoch: 1, step: 2, batch: 4 };

    #[test]
    fn a_mask_belongs_to_the_sample_and_not_to_its_row() {
        let both = mask(HALF, Stream::DropoutFc6, PLACE, &[7, 8], 64);
        assert_eq!(both[64..], mask(HALF, Stream::DropoutFc6, PLACE, &[8], 64));
        assert_ne!(both[..64], both[64..]);
        assert_ne!(both, mask(HALF, Stream::DropoutFc7, PLACE, &[7, 8], 64));
    }

    #[test]
    fn the_probability_is_the_share_of_dropped_units() {
        for probability in [0.0, 0.2, 0.5] {
            let dropout = Dropout { seed: 5, probability };
            let factors = mask(dropout, Stream::DropoutFc6, PLACE, &[1], 1 << 16);
            let dropped = factors.iter().filter(|&&factor| factor == 0.0).count() as f64 / 65_536.0;
            assert!((dropped - probability).abs() < 0.01);
            let mean = factors.iter().map(|&factor| f64::from(factor)).sum::<f64>() / 65_536.0;
            assert!((mean - 1.0).abs() < 0.02);
        }
    }
}
