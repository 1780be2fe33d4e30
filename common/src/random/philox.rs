//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3",
//! SC 2011): a bijection of 128-bit counters for each 64-bit key, made of ten rounds of
//! multiplication and xor. It passes `BigCrush`, and it is what cuRAND, NumPy and JAX offer too.

/// Two words.
pub(crate) type Key = [u32; 2];

/// Four words.
pub(crate) type Counter = [u32; 4];

const ROUNDS: usize = 10;
/// Multipliers and key increments of the paper.
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const WEYL: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// One block of four words.
///
/// One block at a time: side by side, with vector instructions of the baseline x86-64, was slower.
#[inline]
pub(crate) fn philox4x32(key: Key, counter: Counter) -> [u32; 4] {
    let mut key = key;
    let mut block = counter;
    for _ in 0..ROUNDS {
        block = round(key, block);
        key = next_key(key);
    }
    block
}

#[inline]
fn round(key: Key, [a, b, c, d]: [u32; 4]) -> [u32; 4] {
    let (high0, low0) = multiply(MULTIPLIERS[0], a);
    let (high1, low1) = multiply(MULTIPLIERS[1], c);
    [high1 ^ b ^ key[0], low1, high0 ^ d ^ key[1], low0]
}

#[inline]
fn next_key(key: Key) -> Key {
    [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])]
}

/// High and low word of the product.
#[inline]
fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors_come_out() {
        // `kat_vectors` of the authors' library Random123, lines `philox4x32 10`.
        let ones = u32::MAX;
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([ones; 4], [ones; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32(key, counter), expected);
        }
    }
}
