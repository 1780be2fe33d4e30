//! What lies in the source folder, in the order in which it is packed.
//!
//! Classes are the folders of the training split, sorted by name, as torchvision counts them.
//! Within a class files are sorted by name. Hidden entries are passed over. Which files are
//! pictures, their extension says at first; their content has the last word when they are read.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use convoy_common::dataset::Split;

use super::PrepareError;

/// The files to pack.
#[derive(Debug)]
pub(super) struct Source {
    root: PathBuf,
    /// Names of the classes; a label is a place in it.
    pub(super) classes: Vec<String>,
    /// Files that are no pictures by their names.
    pub(super) ignored: u64,
    groups: Vec<Group>,
    /// For each group the number of its first file, and the number of all files at the end.
    starts: Vec<usize>,
}

/// The files of one class in one split.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) split: Split,
    pub(super) label: u16,
    pub(super) folder: PathBuf,
    files: Vec<OsString>,
}

impl Source {
    /// Lists a folder in ImageNet's layout; with a fraction, one without `val`, or of bare classes.
    pub(super) fn scan(root: &Path, val_fraction: Option<f64>) -> Result<Self, PrepareError> {
        let (train, val) = (root.join("train"), root.join("val"));
        fs::read_dir(root).map_err(|source| unreadable(root, source))?;
        let mut scan = Scan::default();
        let classes;
        let mut groups;
        match (val.is_dir(), val_fraction) {
            (true, Some(_)) => {
                return Err(PrepareError::TwoValidations { source_folder: root.to_owned() });
            }
            (false, None) => {
                return Err(PrepareError::NoValidation { source_folder: root.to_owned() });
            }
            (true, None) => {
                classes = scan.classes(&train)?;
                groups = scan.groups(Split::Train, &train, &classes)?;
                groups.extend(scan.validation(&val, &classes)?);
            }
            (false, Some(fraction)) => {
                let folder = if train.is_dir() { &train } else { root };
                classes = scan.classes(folder)?;
                groups = scan.groups(Split::Train, folder, &classes)?;
                let held_out: Vec<Group> =
                    groups.iter_mut().filter_map(|group| hold_out(group, fraction)).collect();
                groups.extend(held_out);
            }
        }
        let mut starts = vec![0];
        for group in &groups {
            starts.push(starts[starts.len() - 1] + group.files.len());
        }
        Ok(Self { root: root.to_owned(), classes, ignored: scan.ignored, groups, starts })
    }

    /// Number of files.
    pub(super) fn files(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    /// A file by its number, which is below [`Self::files`].
    pub(super) fn file(&self, number: usize) -> (&Group, &OsStr) {
        let group = self.starts.partition_point(|&start| start <= number) - 1;
        (&self.groups[group], &self.groups[group].files[number - self.starts[group]])
    }

    /// Whether a file is the last of its class in its split.
    pub(super) fn ends_group(&self, number: usize) -> bool {
        self.starts.binary_search(&(number + 1)).is_ok()
    }

    /// A file's path below the source, for messages.
    pub(super) fn shown(&self, group: &Group, name: &OsStr) -> String {
        let path = group.folder.join(name);
        path.strip_prefix(&self.root).unwrap_or(&path).display().to_string()
    }
}

#[derive(Default)]
struct Scan {
    ignored: u64,
}

impl Scan {
    fn classes(&self, folder: &Path) -> Result<Vec<String>, PrepareError> {
        let mut classes = Vec::new();
        let mut loose = 0;
        for name in entries(folder)? {
            let path = folder.join(&name);
            if path.is_dir() {
                classes.push(name.into_string().map_err(|_| PrepareError::BadName { path })?);
            } else if is_picture(&name) {
                loose += 1;
            }
        }
        if classes.is_empty() {
            return Err(PrepareError::NoClasses { folder: folder.to_owned(), loose });
        }
        Ok(classes)
    }

    fn validation(&mut self, folder: &Path, train: &[String]) -> Result<Vec<Group>, PrepareError> {
        let classes = self.classes(folder)?;
        if let Some(class) = classes.iter().find(|class| train.binary_search(class).is_err()) {
            let (folder, class) = (folder.to_owned(), class.clone());
            return Err(PrepareError::UnknownClass { folder, class });
        }
        let mut groups = self.groups(Split::Validation, folder, &classes)?;
        for group in &mut groups {
            let class = &classes[usize::from(group.label)];
            group.label = train.binary_search(class).unwrap_or_default() as u16;
        }
        Ok(groups)
    }

    fn groups(
        &mut self,
        split: Split,
        folder: &Path,
        classes: &[String],
    ) -> Result<Vec<Group>, PrepareError> {
        let mut groups = Vec::with_capacity(classes.len());
        for (label, class) in classes.iter().enumerate() {
            let folder = folder.join(class);
            let all = entries(&folder)?;
            let found = all.len();
            let files: Vec<OsString> = all.into_iter().filter(|name| is_picture(name)).collect();
            self.ignored += (found - files.len()) as u64;
            if files.is_empty() {
                return Err(PrepareError::EmptyClass { folder, example: None });
            }
            groups.push(Group { split, label: label as u16, folder, files });
        }
        Ok(groups)
    }
}

/// Takes the wanted share of a group's files out of it: those whose names hash lowest, at least one
/// and not all. A class with a single picture keeps it for training.
fn hold_out(group: &mut Group, fraction: f64) -> Option<Group> {
    let count = group.files.len();
    if count < 2 {
        return None;
    }
    let wanted = ((count as f64 * fraction).round() as usize).clamp(1, count - 1);
    let mut hashed: Vec<([u8; 32], usize)> = group
        .files
        .iter()
        .enumerate()
        .map(|(at, name)| (*blake3::hash(name.as_encoded_bytes()).as_bytes(), at))
        .collect();
    hashed.sort_unstable();
    let mut chosen = vec![false; count];
    hashed.iter().take(wanted).for_each(|&(_, at)| chosen[at] = true);
    let mut chosen = chosen.into_iter();
    let (held_out, kept) = group.files.drain(..).partition(|_| chosen.next().unwrap_or_default());
    group.files = kept;
    Some(Group {
        split: Split::Validation,
        label: group.label,
        folder: group.folder.clone(),
        files: held_out,
    })
}

/// Names in a folder, sorted, without hidden ones.
fn entries(folder: &Path) -> Result<Vec<OsString>, PrepareError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| unreadable(folder, source))? {
        let name = entry.map_err(|source| unreadable(folder, source))?.file_name();
        if !name.as_encoded_bytes().starts_with(b".") {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn is_picture(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| {
        ["jpeg", "jpg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn unreadable(path: &Path, source: std::io::Error) -> PrepareError {
    PrepareError::Unreadable { path: path.to_owned(), source }
}
