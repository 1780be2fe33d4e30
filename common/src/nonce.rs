//! Names that no other process ever makes: run ids, owners of terms and lineages, probe objects.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

/// 16 hexadecimal digits from the clock, the process and the system's entropy.
///
/// Not a secret: it tells two writers apart and nothing more.
pub fn unique() -> String {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&since_epoch.as_nanos().to_le_bytes());
    hasher.update(&std::process::id().to_le_bytes());
    // The standard library seeds each of these from the system's generator.
    for _ in 0..2 {
        hasher.update(&RandomState::new().build_hasher().finish().to_le_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_nonces_differ() {
        let all: std::collections::BTreeSet<_> = (0..1000).map(|_| unique()).collect();
        assert_eq!(all.len(), 1000);
        assert!(all.iter().all(|nonce| nonce.len() == 16));
    }
}
