//! Whether a device multiplies bf16 matrices in hardware: then `numerics.precision = "bf16"` is worth
//! a suggestion. It decides nothing, because what touches bits is chosen in the config alone.

use super::{Device, cuda_load};

/// Whether it has such units.
pub fn present(device: Device) -> bool {
    match device.cuda_index() {
        // From Ampere on.
        Some(index) => cuda_load::compute_capability(index).is_some_and(|(major, _)| major >= 8),
        None => cpu(),
    }
}

/// Processors with AMX have AVX-512's instructions for bf16 too.
#[cfg(target_arch = "x86_64")]
fn cpu() -> bool {
    std::arch::is_x86_feature_detected!("avx512bf16")
}

#[cfg(target_arch = "aarch64")]
fn cpu() -> bool {
    std::arch::is_aarch64_feature_detected!("bf16")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu() -> bool {
    false
}

#[cfg(all(test, target_os = "linux", target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_the_units_that_the_kernel_lists() {
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let listed = text.split_whitespace().any(|flag| flag == "avx512_bf16");
        assert_eq!(present(Device::CPU), listed);
    }
}
