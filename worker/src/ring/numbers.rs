//! Numbers as bytes and back, in chunk-size pieces.
//!
//! Little-endian IEEE 754 is the wire form and, on every machine that Convoy builds for, also the
//! memory form; bytes from the wire may lie at any address, so they are read number by number,
//! which compiles to plain vector loads.

use bytes::{Bytes, BytesMut};
use convoy_common::config::Wire;

#[cfg(target_endian = "big")]
compile_error!("the ring's wire form is little-endian");

/// Bytes of one number.
pub(crate) const SIZE: usize = size_of::<f32>();

/// Bytes of one number on the wire.
pub(crate) fn size(wire: Wire) -> usize {
    match wire {
        Wire::Fp32 => SIZE,
        Wire::Bf16 => size_of::<u16>(),
    }
}

/// Rounds to what the wire can carry; what is rounded once stays as it is.
pub(crate) fn round(wire: Wire, numbers: &mut [f32]) {
    if wire == Wire::Bf16 {
        for number in numbers {
            *number = from_bf16(to_bf16(*number));
        }
    }
}

/// Rounded numbers as the wire carries them.
pub(crate) fn encode(wire: Wire, numbers: &[f32]) -> Bytes {
    match wire {
        Wire::Fp32 => to_bytes(numbers),
        Wire::Bf16 => {
            let mut bytes = BytesMut::with_capacity(2 * numbers.len());
            for number in numbers {
                bytes.extend_from_slice(&to_bf16(*number).to_le_bytes());
            }
            bytes.freeze()
        }
    }
}

/// [`add`] for any wire.
pub(crate) fn add_from(wire: Wire, into: &mut [f32], bytes: &[u8]) {
    match wire {
        Wire::Fp32 => add(into, bytes),
        Wire::Bf16 => {
            for (sum, number) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *sum += from_bf16(u16::from_le_bytes(*number));
            }
        }
    }
}

/// [`store`] for any wire.
pub(crate) fn store_from(wire: Wire, into: &mut [f32], bytes: &[u8]) {
    match wire {
        Wire::Fp32 => store(into, bytes),
        Wire::Bf16 => {
            for (place, number) in into.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *place = from_bf16(u16::from_le_bytes(*number));
            }
        }
    }
}

/// The upper half of an f32, rounded to nearest, ties to even. What is no number stays none.
fn to_bf16(number: f32) -> u16 {
    let bits = number.to_bits();
    if number.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    let odd = bits >> 16 & 1;
    ((bits + 0x7fff + odd) >> 16) as u16
}

fn from_bf16(number: u16) -> f32 {
    f32::from_bits(u32::from(number) << 16)
}

/// A copy of the numbers as bytes.
pub(crate) fn to_bytes(numbers: &[f32]) -> Bytes {
    Bytes::copy_from_slice(bytemuck::cast_slice(numbers))
}

/// Adds the numbers in `bytes`, of which there must be as many.
pub(crate) fn add(into: &mut [f32], bytes: &[u8]) {
    debug_assert_eq!(into.len() * SIZE, bytes.len());
    for (sum, number) in into.iter_mut().zip(bytes.as_chunks::<SIZE>().0) {
        *sum += f32::from_le_bytes(*number);
    }
}

/// Replaces by the numbers in `bytes`, of which there must be as many.
pub(crate) fn store(into: &mut [f32], bytes: &[u8]) {
    debug_assert_eq!(into.len() * SIZE, bytes.len());
    bytemuck::cast_slice_mut::<f32, u8>(into).copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_wire_and_add_from_any_address() {
        let numbers = [1.5f32, -0.0, f32::MAX, 3.25];
        let mut shifted = vec![0u8];
        shifted.extend_from_slice(&to_bytes(&numbers));
        let mut stored = [0.0; 4];
        store(&mut stored, &shifted[1..]);
        assert_eq!(stored.map(f32::to_bits), numbers.map(f32::to_bits));
        add(&mut stored, &shifted[1..]);
        assert_eq!(stored, [3.0, 0.0, f32::INFINITY, 6.5]);
    }

    #[test]
    fn bfloat16_rounds_to_nearest_even_and_keeps_what_is_no_number() {
        for (number, rounded) in [
            (1.0, 1.0),
            (1.0 + 1.0 / 256.0, 1.0),
            (1.0 + 3.0 / 256.0, 1.0 + 1.0 / 64.0),
            (1.0 + 1.01 / 256.0, 1.0 + 1.0 / 128.0),
            (-0.0, -0.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
            (f32::from_bits(1), 0.0),
        ] {
            let mut it = [number];
            round(Wire::Bf16, &mut it);
            assert_eq!(it[0].to_bits(), f32::to_bits(rounded), "{number}");
        }
        // A payload in the lower half alone must not become an infinity.
        let mut none = [f32::from_bits(0x7f80_0001)];
        round(Wire::Bf16, &mut none);
        assert!(none[0].is_nan());
    }

    #[test]
    fn rounded_numbers_survive_either_wire() {
        for wire in [Wire::Fp32, Wire::Bf16] {
            let mut numbers = [1.2345f32, -0.0, 3e38, 3.25, 1e-40];
            round(wire, &mut numbers);
            let bytes = encode(wire, &numbers);
            assert_eq!(bytes.len(), numbers.len() * size(wire));
            let mut stored = [0.0; 5];
            store_from(wire, &mut stored, &bytes);
            assert_eq!(stored.map(f32::to_bits), numbers.map(f32::to_bits));
            add_from(wire, &mut stored, &bytes);
            assert_eq!(stored[3], 6.5);
        }
    }
}
