//! Label files: which class each picture of a split without class folders has.
//!
//! | lines | meaning |
//! |---|---|
//! | `490` | ground truth of the development kit: line k is `ILSVRC2012_val_000...k`, the number an ILSVRC id, which a synset list with ids translates |
//! | `n01751748` | the same with the WordNet id itself |
//! | `NAME n01751748` | picture and class |
//! | `NAME 65` | picture and number of the class, counted from 0 in the order of the keys |
//! | `NAME,n01751748 85 1 499 272 ...` | Kaggle's table, below its line of headings |
//!
//! All lines of a file are alike; blank, tab or comma stands between name and class; a name may have
//! its extension or not, and folders before it. Line ends may be those of Windows. Everything that
//! is wrong with a file is said at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::super::PrepareError;
use super::place::{Place, one_line};
use super::synsets::Synsets;
use super::{is_wnid, stem};

/// Problems that are shown; the rest is counted.
const SHOWN: usize = 10;

/// What is wrong with a text file, all at once.
#[derive(Debug)]
pub(crate) struct Problems {
    file: String,
    shown: Vec<String>,
    count: usize,
}

impl Problems {
    pub(super) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), shown: Vec::new(), count: 0 }
    }

    pub(super) fn add(&mut self, problem: String) {
        if self.shown.len() < SHOWN {
            self.shown.push(problem);
        }
        self.count += 1;
    }

    pub(super) fn none_or_fail(self) -> Result<(), PrepareError> {
        if self.count == 0 { Ok(()) } else { Err(PrepareError::BadLabels { problems: self }) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} has {} problem{plural}", self.file, self.count)?;
        for problem in &self.shown {
            write!(f, "\n  {problem}")?;
        }
        if self.count > self.shown.len() {
            write!(f, "\n  and {} more", self.count - self.shown.len())?;
        }
        Ok(())
    }
}

/// The class of every picture that a label file names.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    file: String,
    /// By name without extension: number of the line's entry, and the class.
    by_stem: Arc<HashMap<String, (u32, Arc<str>)>>,
    /// Names in the order of the file.
    stems: Arc<Vec<String>>,
}

impl Labels {
    /// Reads a label file for a split whose classes may be `classes` (sorted).
    pub(super) fn read(
        place: &Place,
        synsets: &Synsets,
        classes: &[String],
    ) -> Result<Self, PrepareError> {
        Self::parse(&place.text()?, &place.shown(), synsets, classes)
    }

    pub(super) fn parse(
        text: &str,
        file: &str,
        synsets: &Synsets,
        classes: &[String],
    ) -> Result<Self, PrepareError> {
        let text = text.trim_end();
        let style = Style::of(text);
        if style == Style::Ids && synsets.ids.is_empty() {
            return Err(PrepareError::NoIds { file: file.to_owned() });
        }
        let shared: Vec<Arc<str>> = classes.iter().map(|key| key.as_str().into()).collect();
        let mut problems = Problems::new(file);
        let mut by_stem: HashMap<String, (u32, Arc<str>)> = HashMap::new();
        let mut stems = Vec::new();
        for (at, line) in text.lines().enumerate().skip(usize::from(style == Style::Kaggle)) {
            let number = at + 1;
            let (name, word) = match style.split(line.trim(), number) {
                Some(parts) => parts,
                // Where the line's number counts, even an empty one is wrong.
                None if line.trim().is_empty() && !style.counts_lines() => continue,
                None => {
                    problems.add(format!("line {number} is not as the others: {}", one_line(line)));
                    continue;
                }
            };
            let class = match style.class(word, synsets, classes) {
                Ok(class) => Arc::clone(&shared[class]),
                Err(why) => {
                    problems.add(format!("line {number}: {why}"));
                    continue;
                }
            };
            let order = stems.len() as u32;
            if let Some((_, before)) = by_stem.insert(name.clone(), (order, Arc::clone(&class))) {
                let how = if before == class { "again" } else { "again, with another class" };
                problems.add(format!("line {number} names {} {how}", one_line(&name)));
            }
            stems.push(name);
        }
        if stems.is_empty() && problems.count == 0 {
            problems.add("it names no picture".to_owned());
        }
        problems.none_or_fail()?;
        let (by_stem, stems) = (Arc::new(by_stem), Arc::new(stems));
        Ok(Self { file: file.to_owned(), by_stem, stems })
    }

    /// Begins to compare with the pictures that there are.
    pub(super) fn matching(&self) -> Matching {
        Matching {
            problems: Problems::new(&self.file),
            seen: vec![false; self.stems.len()],
            labels: self.clone(),
        }
    }

    /// Adds names and classes to a hash.
    pub(super) fn fingerprint(&self, hasher: &mut blake3::Hasher) {
        for stem in self.stems.iter() {
            let class = self.by_stem.get(stem).map(|(_, class)| class.as_bytes());
            super::digest_of(hasher, &[stem.as_bytes(), class.unwrap_or_default()]);
        }
    }
}

/// Which labels have found their picture.
pub(super) struct Matching {
    labels: Labels,
    seen: Vec<bool>,
    problems: Problems,
}

impl Matching {
    /// The class of a picture; one without a label becomes a problem of the file.
    pub(super) fn class_of(&mut self, name: &str) -> Option<Arc<str>> {
        match self.labels.by_stem.get(stem(name)) {
            Some((order, class)) => {
                self.seen[*order as usize] = true;
                Some(Arc::clone(class))
            }
            None => {
                self.problems.add(format!("it does not name {}", one_line(name)));
                None
            }
        }
    }

    /// All pictures were seen: labels without one are problems too.
    pub(super) fn finish(mut self) -> Result<(), PrepareError> {
        for (stem, _) in self.labels.stems.iter().zip(&self.seen).filter(|(_, seen)| !**seen) {
            self.problems.add(format!("it names {}, which is not there", one_line(stem)));
        }
        self.problems.none_or_fail()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Ids,
    Keys,
    Pairs,
    Kaggle,
}

impl Style {
    fn of(text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default().trim();
        if first.starts_with("ImageId,") {
            Self::Kaggle
        } else if !first.is_empty() && first.bytes().all(|it| it.is_ascii_digit()) {
            Self::Ids
        } else if is_wnid(first) {
            Self::Keys
        } else {
            Self::Pairs
        }
    }

    fn counts_lines(self) -> bool {
        matches!(self, Self::Ids | Self::Keys)
    }

    /// Name without extension and folders, and the word for the class.
    fn split(self, line: &str, number: usize) -> Option<(String, &str)> {
        let between = |it: char| it.is_whitespace() || it == ',';
        match self {
            Self::Ids | Self::Keys => (!line.is_empty() && !line.contains(between))
                .then(|| (format!("ILSVRC2012_val_{number:08}"), line)),
            Self::Pairs => {
                let (name, word) = line.rsplit_once(between)?;
                let name = name.trim_end_matches(between);
                let name = name.rsplit('/').next().unwrap_or(name);
                (!name.is_empty()).then(|| (stem(name).to_owned(), word))
            }
            Self::Kaggle => {
                let (name, boxes) = line.split_once(',')?;
                let word = boxes.split_whitespace().next()?;
                (!name.is_empty()).then(|| (stem(name).to_owned(), word))
            }
        }
    }

    /// The class's place among `classes`.
    fn class(self, word: &str, synsets: &Synsets, classes: &[String]) -> Result<usize, String> {
        let find = |key: &str| {
            classes
                .binary_search_by(|class| class.as_str().cmp(key))
                .map_err(|_| format!("{} is not among the training classes", one_line(key)))
        };
        if self == Self::Ids {
            let key = word.parse().ok().and_then(|id: u32| synsets.ids.get(&id));
            return find(key.ok_or_else(|| format!("no class has the id {}", one_line(word)))?);
        }
        match (find(word), word.parse::<usize>()) {
            (Ok(class), _) => Ok(class),
            (Err(_), Ok(number)) if number < classes.len() => Ok(number),
            (Err(_), Ok(number)) => {
                Err(format!("class number {number} where they are 0 to {}", classes.len() - 1))
            }
            (Err(why), Err(_)) => Err(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<String> {
        ["n00000001", "n00000002", "n00000003"].map(str::to_owned).to_vec()
    }

    fn synsets() -> Synsets {
        let ids = [(7, "n00000001"), (8, "n00000003")];
        let ids = ids.map(|(id, key)| (id, key.to_owned())).into_iter().collect();
        Synsets { ids, ..Synsets::default() }
    }

    fn parse(text: &str) -> Result<Labels, PrepareError> {
        Labels::parse(text, "labels.txt", &synsets(), &classes())
    }

    #[test]
    fn each_kind_of_file_gives_the_same_labels_with_either_line_end() {
        for text in [
            "7\n8\n",
            "n00000001\nn00000003",
            "ILSVRC2012_val_00000001.JPEG n00000001\nILSVRC2012_val_00000002.JPEG n00000003\n",
            "val/ILSVRC2012_val_00000001.JPEG\t0\nval/ILSVRC2012_val_00000002.JPEG\t2\n\n",
            "ImageId,PredictionString\nILSVRC2012_val_00000002,n00000003 1 2 3 4 n00000003 5 6 7 8 \n\
             ILSVRC2012_val_00000001,n00000001 85 1 499 272 \n",
        ] {
            for text in [text.to_owned(), text.replace('\n', "\r\n")] {
                let mut matching = parse(&text).unwrap().matching();
                let mut class = |name| matching.class_of(name).unwrap();
                assert_eq!(&*class("ILSVRC2012_val_00000001.JPEG"), "n00000001", "{text:?}");
                assert_eq!(&*class("ILSVRC2012_val_00000002.JPEG"), "n00000003");
                matching.finish().unwrap();
            }
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_the_first_ten_and_a_count() {
        let mut text = "a.jpg n00000001\na.jpg n00000001\na.jpg n00000002\nnonsense\n".to_owned();
        text += "b.jpg n99999999\nc.jpg 3\n";
        (0..20).for_each(|n| text += &format!("{n}.jpg whale\n"));
        let error = parse(&text).unwrap_err().to_string();
        for part in [
            "labels.txt has 25 problems",
            "line 2 names a again\n",
            "line 3 names a again, with another class",
            "line 4 is not as the others: nonsense",
            "line 5: n99999999 is not among the training classes",
            "line 6: class number 3 where they are 0 to 2",
            "and 15 more",
        ] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let empty_line = parse("7\n\n8\n").unwrap_err().to_string();
        assert!(empty_line.contains("line 2 is not as the others"), "{empty_line}");
        assert!(parse("9\n").unwrap_err().to_string().contains("no class has the id 9"));
        assert!(parse("").unwrap_err().to_string().contains("it names no picture"));
    }

    #[test]
    fn pictures_without_a_label_and_labels_without_a_picture_are_problems() {
        let mut matching = parse("a 0\nb 1\nc 2\n").unwrap().matching();
        assert!(matching.class_of("b.jpg").is_some());
        assert!(matching.class_of("x\ny.jpg").is_none());
        let error = matching.finish().unwrap_err().to_string();
        assert!(error.contains("3 problems"), "{error}");
        assert!(error.contains("it does not name x\\ny.jpg"), "{error}");
        assert!(error.contains("it names a, which is not there"), "{error}");
    }

    #[test]
    fn ids_need_a_list_that_has_them() {
        let outcome = Labels::parse("490\n361\n", "truth.txt", &Synsets::default(), &classes());
        assert!(matches!(outcome, Err(PrepareError::NoIds { .. })));
    }
}
