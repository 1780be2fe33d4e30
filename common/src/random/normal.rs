//! Pairs of words to pairs of normals (Box and Muller, "A Note on the Generation of Random Normal
//! Deviates", 1958).
//!
//! With u and v uniform, r = sqrt(-2 ln u) and angle 2 pi v give r cos and r sin. Logarithm, sine
//! and cosine are computed here, in `f64` from additions, multiplications and divisions alone: a
//! system's mathematical library rounds as it likes, and initial weights must not depend on it.
//! Their error is below 1e-15, far below what is left of it in an `f32`.

use std::f64::consts::{LN_2, PI};

/// Two normals.
#[inline]
pub(super) fn pair([u, v]: [u32; 2]) -> [f64; 2] {
    let radius = (-2.0 * ln_of_fraction(u)).sqrt();
    let (sine, cosine) = sin_cos_of_turn(v);
    [radius * cosine, radius * sine]
}

/// `words` pair by pair, times `std`, rounded to `f32`. Both have the same, even length.
pub(super) fn fill<const N: usize>(words: &[u32; N], std: f64, out: &mut [f32; N]) {
    for (out, words) in out.as_chunks_mut::<2>().0.iter_mut().zip(words.as_chunks::<2>().0) {
        *out = pair(*words).map(|normal| (normal * std) as f32);
    }
}

/// `u` as an `f64`, by way of a signed number, which vector units convert directly.
#[inline]
fn unsigned(u: u32) -> f64 {
    f64::from((u ^ 1 << 31).cast_signed()) + 2_147_483_648.0
}

/// ln((u + 1/2) / 2^32), always below 0.
///
/// With u + 1/2 = m 2^e and m in [sqrt(1/2), sqrt(2)), and s = (m - 1) / (m + 1), |s| < 0.1716:
/// ln m = 2 atanh s = 2 (s + s^3/3 + s^5/5 + ...).
#[inline]
fn ln_of_fraction(u: u32) -> f64 {
    /// High word of sqrt(1/2).
    const HALF_ROOT: i32 = 0x3fe6_a09e;
    let bits = (unsigned(u) + 0.5).to_bits();
    let high = (bits >> 32) as u32;
    let exponent = (high.cast_signed() - HALF_ROOT) >> 20;
    let high = high.wrapping_sub((exponent << 20).cast_unsigned());
    let m = f64::from_bits(u64::from(high) << 32 | bits & 0xffff_ffff);
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut series = 1.0 / 19.0;
    for k in [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * q + 1.0 / k;
    }
    2.0 * s * series + f64::from(exponent - 32) * LN_2
}

/// Sine and cosine of 2 pi v / 2^32.
///
/// The nearest quarter turn is taken off exactly, in integers; what is left lies within a quarter
/// of pi, where the power series are short.
#[inline]
fn sin_cos_of_turn(v: u32) -> (f64, f64) {
    let quarter = v.wrapping_add(1 << 29) >> 30;
    let rest = v.wrapping_sub(quarter << 30).cast_signed();
    let x = f64::from(rest) * (PI / 2_147_483_648.0);
    let q = x * x;
    let mut sine = 1.0;
    let mut cosine = 1.0;
    for k in [16.0, 14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0] {
        sine = 1.0 - sine * q * (1.0 / (k * (k + 1.0)));
        cosine = 1.0 - cosine * q * (1.0 / (k * (k - 1.0)));
    }
    sine *= x;
    // Each quarter turn takes (sine, cosine) to (cosine, -sine).
    let (a, b) = if quarter & 1 == 0 { (sine, cosine) } else { (cosine, -sine) };
    if quarter & 2 == 0 { (a, b) } else { (-a, -b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::TAU;

    /// The ends, powers of two and their neighbours, and 2^32 k / 9973.
    fn words() -> impl Iterator<Item = u32> {
        let powers = (0..32).flat_map(|bit| {
            let power = 1_u32 << bit;
            [power - 1, power, power + 1, power.wrapping_neg(), power.wrapping_neg() - 1]
        });
        powers.chain((0..9973).map(|k| ((k << 32) / 9973_u64) as u32))
    }

    #[test]
    fn the_logarithm_agrees_with_the_systems() {
        for u in words() {
            let expected = ((f64::from(u) + 0.5) / 4_294_967_296.0).ln();
            let got = ln_of_fraction(u);
            let error = (got - expected).abs() / expected.abs().max(1e-3);
            assert!(error < 1e-12, "{u}: {got} instead of {expected}");
        }
    }

    #[test]
    fn sine_and_cosine_agree_with_the_systems() {
        for v in words() {
            let (sine, cosine) = sin_cos_of_turn(v);
            let angle = f64::from(v) / 4_294_967_296.0 * TAU;
            assert!((sine - angle.sin()).abs() < 2e-15, "sine of {v}: {sine}");
            assert!((cosine - angle.cos()).abs() < 2e-15, "cosine of {v}: {cosine}");
        }
    }

    #[test]
    fn the_extreme_words_give_finite_normals() {
        for u in [0, u32::MAX] {
            for v in words() {
                let pair = pair([u, v]);
                assert!(pair.iter().all(|normal| normal.abs() < 6.77), "{u} {v}: {pair:?}");
            }
        }
    }
}
