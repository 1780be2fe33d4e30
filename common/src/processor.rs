//! The instructions that a build needs, against those that the processor has.
//!
//! `.cargo/config.toml` builds for `x86-64-v3`. On a processor without it the program would be
//! killed by a signal somewhere, so it asks first. What asks and answers must do without these
//! instructions itself: it neither formats nor copies anything.

use std::io::Write as _;

const REFUSAL: &[u8] =
    b"error: this build needs a processor of level x86-64-v3 (AVX2, BMI2, FMA), which this one is not
hint: use a machine of 2013 or later, or build with RUSTFLAGS=-Ctarget-cpu=x86-64 in the environment
";

/// Says what is wrong if this processor cannot run this build; whether it can. Must be called first
/// in `main`.
#[inline(never)]
pub fn fits_or_says_so() -> bool {
    let fits = !cfg!(target_feature = "avx2") || has_v3();
    if !fits {
        // If that fails, the exit code is all there is.
        let _ = std::io::stderr().write_all(REFUSAL);
    }
    fits
}

#[cfg(not(target_arch = "x86_64"))]
fn has_v3() -> bool {
    true
}

/// Whether the processor has what the level adds. Bits as in the manuals of Intel and AMD (`CPUID`).
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn has_v3() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const FMA: u32 = 1 << 12;
    const MOVBE: u32 = 1 << 22;
    const OSXSAVE: u32 = 1 << 27;
    const AVX: u32 = 1 << 28;
    const F16C: u32 = 1 << 29;
    const BMI1: u32 = 1 << 3;
    const AVX2: u32 = 1 << 5;
    const BMI2: u32 = 1 << 8;
    const LZCNT: u32 = 1 << 5;
    let all = |has: u32, needed: u32| has & needed == needed;
    __cpuid(0).eax >= 7
        && all(__cpuid(1).ecx, FMA | MOVBE | OSXSAVE | AVX | F16C)
        && all(__cpuid_count(7, 0).ebx, BMI1 | AVX2 | BMI2)
        && all(__cpuid(0x8000_0001).ecx, LZCNT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_that_runs_the_tests_fits() {
        assert!(fits_or_says_so());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_level_is_there_just_when_its_newest_parts_are() {
        let newest = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2");
        assert_eq!(has_v3(), newest && is_x86_feature_detected!("fma"));
    }
}
