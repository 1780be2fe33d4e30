//! Views of CPU tensors as slices, for the kernels that are written in Rust.
//!
//! Tensors share storage between clones, which the borrow checker cannot see. The views are
//! therefore private to the model, short-lived, and taken only where no other thread writes the
//! tensor: lanes never write weights, and a commit runs while no lane does.
#![expect(unsafe_code, reason = "tensors hand out their memory as a raw pointer")]

use tch::{Kind, Tensor};

use super::lrn::kernel::Bf16;

/// A number as tensors keep it.
///
/// # Safety
/// `KIND` must be the tensor library's name for exactly this layout, and every pattern of bits must
/// be a value.
pub(super) unsafe trait Number: Copy {
    const KIND: Kind;
}

// SAFETY: the library's `Float` is the f32 of IEEE 754.
unsafe impl Number for f32 {
    const KIND: Kind = Kind::Float;
}

// SAFETY: the library's `BFloat16` is 16 bits, and `Bf16` is one `u16`, transparently.
unsafe impl Number for Bf16 {
    const KIND: Kind = Kind::BFloat16;
}

/// The values of a contiguous tensor of such numbers in host memory, or `None` if it is not one.
pub(super) fn values<T: Number>(tensor: &Tensor) -> Option<&[T]> {
    let (pointer, length) = parts(tensor)?;
    // SAFETY: `parts` has checked that `length` numbers lie at `pointer`; the storage lives as long as
    // the tensor that is borrowed; nothing writes it meanwhile (see the module's rule).
    Some(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// The same for writing.
pub(super) fn values_mut<T: Number>(tensor: &mut Tensor) -> Option<&mut [T]> {
    let (pointer, length) = parts(tensor)?;
    // SAFETY: as above; the tensor is borrowed mutably, and the module's rule excludes a view of
    // the same storage through a clone while this one is alive.
    Some(unsafe { std::slice::from_raw_parts_mut(pointer, length) })
}

fn parts<T: Number>(tensor: &Tensor) -> Option<(*mut T, usize)> {
    let plain = tensor.defined()
        && tensor.device() == tch::Device::Cpu
        && !tensor.is_mkldnn()
        && !tensor.is_sparse()
        && tensor.f_kind().is_ok_and(|kind| kind == T::KIND)
        && tensor.is_contiguous();
    let length = if plain { tensor.numel() } else { return None };
    let pointer = tensor.data_ptr().cast::<T>();
    // An empty tensor may have no memory; a slice may not have a null pointer.
    if pointer.is_null() { None } else { Some((pointer, length)) }
}
