//! Synset lists: which classes there are, what they are called, and their ILSVRC ids.
//!
//! Each line is one of `WNID`, `WNID TITLE` (Kaggle's `LOC_synset_mapping.txt`), `WNID ID TITLE` (the
//! development kits' `map_clsloc.txt`) or `ID WNID TITLE`, with blanks, tabs or commas between the
//! first words. All lines of a file are alike. Line ends may be those of Windows.

use std::collections::BTreeMap;

use super::super::PrepareError;
use super::labels::Problems;
use super::place::{Place, one_line};

/// What a synset list says.
#[derive(Debug, Default)]
pub(super) struct Synsets {
    /// Keys by ILSVRC id, where the list has ids.
    pub(super) ids: BTreeMap<u32, String>,
    /// Titles by key.
    pub(super) titles: BTreeMap<String, String>,
}

impl Synsets {
    pub(super) fn read(place: &Place) -> Result<Self, PrepareError> {
        Self::parse(&place.text()?, &place.shown())
    }

    fn parse(text: &str, file: &str) -> Result<Self, PrepareError> {
        let lines: Vec<(usize, Line<'_>)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(number, line)| (number + 1, Line::split(line)))
            .collect();
        let is_number = |word: &str| !word.is_empty() && word.bytes().all(|it| it.is_ascii_digit());
        let id_first = lines.iter().all(|(_, line)| is_number(line.first));
        let id_second = !id_first && lines.iter().all(|(_, line)| is_number(line.second));
        let mut synsets = Self::default();
        let mut problems = Problems::new(file);
        for (number, line) in lines {
            let (id, key, title) = if id_first {
                (Some(line.first), line.second, line.behind_second)
            } else if id_second {
                (Some(line.second), line.first, line.behind_second)
            } else {
                (None, line.first, line.behind_first)
            };
            if key.is_empty() {
                problems.add(format!("line {number} names no class"));
                continue;
            }
            if synsets.titles.insert(key.to_owned(), one_line(title)).is_some() {
                problems.add(format!("line {number} names {} again", one_line(key)));
            }
            let Some(id) = id else { continue };
            let Ok(id) = id.parse::<u32>() else {
                problems.add(format!("line {number} has no usable id"));
                continue;
            };
            if synsets.ids.insert(id, key.to_owned()).is_some() {
                problems.add(format!("line {number} has the id {id} again"));
            }
        }
        problems.none_or_fail()?;
        Ok(synsets)
    }
}

/// The first two words of a line, and what is behind each.
struct Line<'a> {
    first: &'a str,
    second: &'a str,
    behind_first: &'a str,
    behind_second: &'a str,
}

impl<'a> Line<'a> {
    fn split(line: &'a str) -> Self {
        fn word(text: &str) -> (&str, &str) {
            let between = |it: char| it.is_whitespace() || it == ',';
            let text = text.trim_matches(between);
            match text.find(between) {
                Some(end) => (&text[..end], text[end..].trim_matches(between)),
                None => (text, ""),
            }
        }
        let (first, behind_first) = word(line);
        let (second, behind_second) = word(behind_first);
        Self { first, second, behind_first, behind_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_read_with_either_line_end() {
        let cases = [
            ("n01 tench, Tinca tinca\r\nn02 goldfish\r\n", 0, "tench, Tinca tinca"),
            ("n01 2 tench\nn02 1 goldfish\n", 2, "tench"),
            ("2\tn01\ttench\n1\tn02\tgoldfish\n\n", 2, "tench"),
            ("n01\nn02", 0, ""),
        ];
        for (text, ids, title) in cases {
            let synsets = Synsets::parse(text, "list").unwrap();
            assert_eq!(synsets.titles["n01"], title, "{text:?}");
            assert_eq!(synsets.ids.len(), ids);
            assert!(ids == 0 || (synsets.ids[&2] == "n01" && synsets.ids[&1] == "n02"));
        }
        let three_wheeler = Synsets::parse("n01 3 wheeler\nn02 car", "list").unwrap();
        assert_eq!(three_wheeler.titles["n01"], "3 wheeler");
    }

    #[test]
    fn what_is_named_twice_is_said_with_its_line() {
        let error = Synsets::parse("1 n01\n1 n02\n2 n01\n", "list").unwrap_err().to_string();
        assert!(error.contains("2 problems"), "{error}");
        assert!(error.contains("line 2 has the id 1 again"), "{error}");
        assert!(error.contains("line 3 names n01 again"), "{error}");
    }
}
