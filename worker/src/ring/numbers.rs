//! Numbers as bytes and back, in chunk-size pieces.
//!
//! Little-endian IEEE 754 is the wire form and, on every machine that Convoy builds for, also the
//! memory form; bytes from the wire may lie at any address, so they are read number by number,
//! which compiles to plain vector loads.

use bytes::Bytes;

#[cfg(target_endian = "big")]
compile_error!("the ring's wire form is little-endian");

/// Bytes of one number.
pub(crate) const SIZE: usize = size_of::<f32>();

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
}
