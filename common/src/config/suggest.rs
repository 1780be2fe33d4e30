//! "Did you mean": the nearest of the names that exist.

/// The candidate nearest to `given`, if it is near enough to be meant.
pub(super) fn nearest<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = given.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|it| (strsim::damerau_levenshtein(&given, &it.replace('-', "_")), it))
        .filter(|(distance, it)| *distance <= (it.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_finds_its_name_and_another_word_finds_none() {
        let names = ["momentum", "weight_decay", "batch", "lr"];
        assert_eq!(nearest("momentun", names), Some("momentum"));
        assert_eq!(nearest("Weight-Decay", names), Some("weight_decay"));
        assert_eq!(nearest("bacth", names), Some("batch"));
        assert_eq!(nearest("optimizer", names), None);
        assert_eq!(nearest("", names), None);
    }
}
