//! Why a source could not be packed.

use std::io;

use convoy_common::dataset::DatasetError;
use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::store::StoreError;

use super::source::Problems;

/// Why a source could not be packed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("cannot read {place}")]
    Unreadable {
        place: String,
        #[source]
        source: io::Error,
    },
    #[error("{place:?} is no place to read from: {reason}")]
    BadPlace { place: String, reason: String },
    #[error("{place} is a pipe or a device, which may never end")]
    Special { place: String },
    #[error("there is nothing at {place}")]
    NothingThere { place: String },
    #[error("{url} lies where the images are, so the data set cannot go there")]
    SamePlace { url: String },
    #[error("{place} is not {format}")]
    Misfit { place: String, format: &'static str },
    #[error("{place} has no validation images, and nothing says what to hold out")]
    NoValidation { place: String },
    #[error("{place} has validation images, so --val-fraction has nothing to do")]
    TwoValidations { place: String },
    #[error("{place} holds no class folders")]
    NoClasses {
        place: String,
        /// Pictures that lie there without a class.
        loose: u64,
    },
    #[error("nothing says which class the images of {place} have")]
    NoLabels { place: String },
    #[error("the classes are not known before the images, so {file} cannot be read")]
    ClassesUnknown { file: String },
    #[error("{file} holds ILSVRC ids, and no synset list says which class each stands for")]
    NoIds { file: String },
    #[error("{place} is a MATLAB file, which is not read")]
    Matlab { place: String },
    #[error("{problems}")]
    BadLabels { problems: Problems },
    #[error("{place}: class {class} is not among the training classes")]
    UnknownClass { place: String, class: String },
    #[error("class {place} has no usable image{}", said(example))]
    EmptyClass {
        place: String,
        /// A picture that could not be used, with the reason.
        example: Option<String>,
    },
    #[error("more than 65,535 classes")]
    TooManyClasses,
    #[error("{place} has more files than can be listed")]
    TooMany { place: String },
    #[error("the folder name {place} is not valid UTF-8")]
    BadName { place: String },
    #[error("{file}: {why}")]
    BadImage { file: String, why: String },
    #[error("{place} is not a whole tar archive")]
    BrokenArchive {
        place: String,
        #[source]
        source: io::Error,
    },
    #[error("{place} holds no images")]
    NothingInArchive { place: String },
    #[error("{place} holds images whose names do not end in _nXXXXXXXX")]
    NamelessArchive { place: String },
    #[error("{place} is a compressed tar of class tars, which cannot be read by class")]
    GzippedClassTars { place: String },
    #[error("{url} holds the beginning of another packing: {}", differences.join("; "))]
    OtherPlan { url: String, differences: Vec<String> },
    #[error("the source is not what it was when this packing began")]
    SourceChanged,
    #[error("what an earlier packing wrote down cannot be read")]
    BadNote,
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn said(example: &Option<String>) -> String {
    example.as_ref().map_or_else(String::new, |example| format!(" ({example})"))
}

/// What keeps a folder from being written to, from the file system's error down the chain.
fn obstacle(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        // What such an error wraps is not its source.
        let wrapped = || error.get_ref().and_then(|inner| obstacle(inner));
        if let Some(text) = advice(error.kind()).or_else(wrapped) {
            return Some(text);
        }
    }
    error.source().and_then(obstacle)
}

fn advice(kind: io::ErrorKind) -> Option<&'static str> {
    Some(match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "DEST is full; make room, then run the same command again: finished shards are kept"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "DEST lies on a read-only file system; mount it for writing, or name another DEST"
        }
        io::ErrorKind::PermissionDenied => {
            "you may not write to DEST; check the owner and permissions of it and of the folders \
             above, or name another DEST"
        }
        io::ErrorKind::NotFound => {
            "no folder can be made there; check that the folders above DEST exist and are mounted"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "DEST, or a part of its path, is a file; name a folder"
        }
        _ => return None,
    })
}

impl Explain for PrepareError {
    fn hint(&self) -> Option<String> {
        if let Self::Dataset(_) | Self::Store(_) = self
            && let Some(text) = obstacle(self)
        {
            return Some(text.to_owned());
        }
        let text = match self {
            Self::Dataset(error) => return error.hint(),
            Self::Store(error) => return error.hint(),
            Self::Unreadable { .. } => "check the path and its permissions",
            Self::BadPlace { .. } | Self::NothingThere { .. } => {
                "give a path, file:///PATH or s3://BUCKET/PREFIX"
            }
            Self::SamePlace { .. } => "name another DEST, outside of SRC",
            Self::Special { .. } => "copy it to a file first",
            Self::Misfit { .. } => {
                "leave --source-format away to have it recognised; `convoy prepare --help` lists \
                 what is read"
            }
            Self::NoValidation { .. } => {
                "name them with --val, or pass --val-fraction 0.1 to hold out a tenth of each class"
            }
            Self::TwoValidations { .. } => "leave --val-fraction away, or the validation images",
            Self::NoClasses { loose: 1.., .. } | Self::NoLabels { .. } => {
                "name the file that says so with --val-labels: the development kit's ground truth \
                 (with --synsets), LOC_val_solution.csv, or lines `NAME WNID`; or sort the images \
                 into one folder per class"
            }
            Self::NoClasses { .. } => {
                "SRC holds train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg with \
                 --val-fraction"
            }
            Self::ClassesUnknown { .. } => {
                "archives of images named by class need validation images named so too"
            }
            Self::NoIds { .. } | Self::Matlab { .. } => {
                "give a text file with lines `ID WNID` by --synsets, such as map_clsloc.txt; from \
                 meta.mat: python3 -c \"import scipy.io as io; \
                 [print(s['ILSVRC2012_ID'][0][0][0], s['WNID'][0][0]) \
                 for s in io.loadmat('meta.mat')['synsets']]\""
            }
            Self::BadLabels { .. } => "correct the file, or name another one",
            Self::UnknownClass { .. } => "validation images may only have classes of the training",
            Self::EmptyClass { .. } => {
                "add images to it (JPEG or PNG), or remove it; then pack again with --restart"
            }
            Self::TooManyClasses | Self::TooMany { .. } => "divide the source",
            Self::BadName { .. } => "rename it",
            Self::BadImage { .. } => {
                "repair or remove it, or leave out what is unusable with --on-bad-image \
                 skip-and-log"
            }
            Self::BrokenArchive { .. } => "fetch it again and compare its checksum",
            Self::NothingInArchive { .. } => "name an archive with JPEG or PNG files",
            Self::NamelessArchive { .. } => {
                "sort them into a folder per class, or name a file of labels"
            }
            Self::GzippedClassTars { .. } => "unpack the outer layer first: gunzip FILE",
            Self::OtherPlan { .. } => {
                "run it as it was begun to go on, name another DEST, or pass --restart to remove \
                 what is there and begin anew"
            }
            Self::SourceChanged => {
                "put it back to go on, or pass --restart to remove what is there and begin anew"
            }
            Self::BadNote => "pass --restart to remove what is there and begin anew",
        };
        Some(text.to_owned())
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::Dataset(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            _ => exit::BAD_INPUT,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_destination_is_said_however_deep_the_cause_lies() {
        for (kind, said) in [
            (io::ErrorKind::StorageFull, "make room"),
            (io::ErrorKind::ReadOnlyFilesystem, "read-only"),
            (io::ErrorKind::PermissionDenied, "may not write"),
            (io::ErrorKind::NotFound, "folders above"),
            (io::ErrorKind::NotADirectory, "is a file"),
        ] {
            let store = StoreError::Other {
                action: "write",
                url: "file:///there".to_owned(),
                source: Box::new(io::Error::other(io::Error::from(kind))),
            };
            let error = PrepareError::from(DatasetError::from(store));
            assert!(error.hint().unwrap().contains(said), "{error:?}");
        }
        let other = io::Error::from(io::ErrorKind::Interrupted);
        let store = StoreError::Other {
            action: "write",
            url: "file:///well".to_owned(),
            source: Box::new(other),
        };
        let hint = PrepareError::from(store).hint().unwrap();
        assert!(!hint.contains("DEST"), "the store's own: {hint}");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_made_gives_a_hint() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        for (dest, said) in [(file.join("dest"), "is a file"), ("/proc/no/dest".into(), "folders")]
        {
            let store = convoy_common::store::Store::open(dest.to_str().unwrap()).unwrap();
            let error = PrepareError::from(store.put("shards/0", "x".into()).await.unwrap_err());
            let hint = error.hint().unwrap_or_default();
            assert!(hint.contains(said), "{hint:?} for {error:?}");
        }
    }
}
