//! Sizes such as `"256KiB"`.

/// Units by falling size, so that the largest that divides a number is found first.
const UNITS: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Bytes of a text such as `256KiB`, `4 MiB` or `512B`; none if it is not one or does not fit.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = UNITS
        .iter()
        .find_map(|(name, unit)| text.strip_suffix(name).map(|rest| (rest.trim_end(), *unit)))?;
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// The shortest text that [`parse`] reads as `bytes`.
pub(super) fn format(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit))
        .map_or_else(|| format!("{bytes}B"), |(name, unit)| format!("{}{name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_whole_numbers_with_a_binary_unit() {
        for (text, bytes) in
            [("256KiB", Some(262_144)), ("4 MiB", Some(4 << 20)), ("0B", Some(0)), ("7B", Some(7))]
        {
            assert_eq!(parse(text), bytes, "{text}");
        }
        for text in ["", "B", "KiB", "1.5MiB", "-1B", "12", "12KB", "99999999999999GiB", "+1B"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse(&format(bytes)), Some(bytes));
        }
    }
}
