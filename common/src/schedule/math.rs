//! Cosine and power from additions, multiplications and divisions alone.
//!
//! A system's mathematical library rounds as it likes, and a rate decides bits: two machines with
//! different libraries must compute the same one. Errors are below 1e-14.

use std::f64::consts::{LN_2, PI};

/// cos(pi `x`) for `x` in 0 ..= 1.
///
/// Folded to an angle of at most a quarter of pi, where the power series are short.
pub(super) fn cosine_of_half_turns(x: f64) -> f64 {
    if x > 0.75 {
        -cosine(1.0 - x)
    } else if x > 0.25 {
        -sine(x - 0.5)
    } else {
        cosine(x)
    }
}

fn cosine(half_turns: f64) -> f64 {
    let q = (half_turns * PI) * (half_turns * PI);
    let mut sum = 1.0;
    for k in [18.0, 16.0, 14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0] {
        sum = 1.0 - sum * q / (k * (k - 1.0));
    }
    sum
}

fn sine(half_turns: f64) -> f64 {
    let x = half_turns * PI;
    let mut sum = 1.0;
    for k in [18.0, 16.0, 14.0, 12.0, 10.0, 8.0, 6.0, 4.0, 2.0] {
        sum = 1.0 - sum * (x * x) / (k * (k + 1.0));
    }
    sum * x
}

/// `base` to the power of `exponent`, for `base` in 0 ..= 1 and `exponent` above 0.
pub(super) fn power(base: f64, exponent: f64) -> f64 {
    const LARGEST_WHOLE: f64 = 64.0;
    if base <= 0.0 {
        0.0
    } else if exponent.fract() == 0.0 && exponent <= LARGEST_WHOLE {
        (0..exponent as u32).fold(1.0, |product, _| product * base)
    } else {
        exponential(exponent * logarithm(base))
    }
}

/// ln m 2^e = 2 atanh((m - 1) / (m + 1)) + e ln 2, with m in [3/4, 3/2).
fn logarithm(x: f64) -> f64 {
    let (mut m, mut e) = (x, 0.0);
    while m < 0.75 {
        (m, e) = (m * 2.0, e - 1.0);
    }
    let s = (m - 1.0) / (m + 1.0);
    let q = s * s;
    let mut series = 0.0;
    for k in [23.0, 21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * q + 1.0 / k;
    }
    2.0 * s * series + e * LN_2
}

/// e^x for x at most 0: halvings are taken off, then the power series.
fn exponential(x: f64) -> f64 {
    // Below this the result is less than the smallest number.
    const NOTHING: f64 = -745.0;
    if x < NOTHING {
        return 0.0;
    }
    let halvings = (-x / LN_2).round();
    let rest = x + halvings * LN_2;
    let mut series = 1.0;
    for k in (1..=16).rev() {
        series = 1.0 + series * rest / f64::from(k);
    }
    (0..halvings as u32).fold(series, |value, _| value * 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cosine_agrees_with_the_systems() {
        for n in 0..=1000 {
            let x = f64::from(n) / 1000.0;
            let (got, expected) = (cosine_of_half_turns(x), (x * PI).cos());
            assert!((got - expected).abs() < 1e-15, "{x}: {got} instead of {expected}");
        }
        let ends = [0.0, 0.5, 1.0].map(cosine_of_half_turns);
        assert_eq!(ends, [1.0, 0.0, -1.0]);
    }

    #[test]
    fn the_power_agrees_with_the_systems() {
        for exponent in [0.25, 0.5, 0.9, 1.0, 1.5, 2.0, 3.0, 9.7, 100.0] {
            for n in 0..=1000 {
                let base = f64::from(n) / 1000.0;
                let (got, expected) = (power(base, exponent), base.powf(exponent));
                let error = (got - expected).abs() / expected.max(1e-300);
                assert!(error < 1e-12, "{base}^{exponent}: {got} instead of {expected}");
            }
        }
    }

    #[test]
    fn whole_powers_are_products() {
        assert_eq!(power(0.3, 1.0), 0.3);
        assert_eq!(power(0.3, 2.0), 0.3 * 0.3);
        assert_eq!((power(1.0, 0.5), power(0.0, 2.0)), (1.0, 0.0));
    }
}
