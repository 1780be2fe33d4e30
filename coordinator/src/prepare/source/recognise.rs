//! What a source is, by looking at it or as the user says.

use std::sync::Arc;

use super::super::PrepareError;
use super::folders::Folder;
use super::held_out::Share;
use super::labels::Labels;
use super::listing::Listing;
use super::place::{Kind, Place};
use super::synsets::Synsets;
use super::tars::{Archive, Holds, Tars};
use super::{Pictures, Source, kaggle};

/// Label files that are looked for beside the pictures, by name.
const LABEL_FILES: [&str; 6] = [
    "ILSVRC2012_validation_ground_truth.txt",
    "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "val_labels.txt",
    "val.txt",
];

/// Synset lists that are looked for, by name.
const SYNSET_FILES: [&str; 6] = [
    "LOC_synset_mapping.txt",
    "synsets.txt",
    "synset_words.txt",
    "map_clsloc.txt",
    "ILSVRC2012_devkit_t12/data/synsets.txt",
    "ILSVRC2012_devkit_t12/data/map_clsloc.txt",
];

/// The forms of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// One folder per class: train/CLASS and val/CLASS, or CLASS with --val-fraction
    Folders,
    /// Kaggle's tree: ILSVRC/Data/CLS-LOC/{train,val} and LOC_val_solution.csv
    Kaggle,
    /// ILSVRC2012_img_train.tar, a tar of class tars, with ILSVRC2012_img_val.tar and labels
    Ilsvrc,
    /// .tar or .tar.gz archives of images whose names end in _nXXXXXXXX.JPEG
    Archives,
}

impl Format {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Folders => "class folders",
            Self::Kaggle => "Kaggle's tree",
            Self::Ilsvrc => "a tar of class tars",
            Self::Archives => "archives of images named by class",
        }
    }
}

/// What the user wants to be packed.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) source: Place,
    pub(crate) format: Option<Format>,
    /// Where the validation split is, if not in the source.
    pub(crate) validation: Option<Place>,
    pub(crate) val_labels: Option<Place>,
    pub(crate) synsets: Option<Place>,
    /// Share of the training pictures to hold out.
    pub(crate) val_fraction: Option<f64>,
}

pub(super) fn open(wanted: &Wanted) -> Result<Source, PrepareError> {
    let looked_at = Looked::at(&wanted.source)?;
    let format = match wanted.format {
        Some(format) => format,
        None => looked_at.format()?,
    };
    let aids = Aids::find(wanted, looked_at.beside.as_ref());
    let synsets = match &aids.synsets {
        Some(place) => Synsets::read(place)?,
        None => Synsets::default(),
    };
    let (train, own_validation) = match format {
        Format::Folders => folders(wanted, &looked_at)?,
        Format::Kaggle => {
            let pictures = kaggle::pictures_of(&wanted.source);
            let pictures = pictures.ok_or_else(|| misfit(wanted, format))?;
            (Part::Listed(Box::new(kaggle::train(&pictures)?)), Some(pictures.join("val")))
        }
        Format::Ilsvrc | Format::Archives => archives(wanted, &looked_at, format)?,
    };
    let (train, validation): (Arc<dyn Pictures>, Arc<dyn Pictures>) =
        match (wanted.validation.clone().or(own_validation), wanted.val_fraction) {
            (Some(_), Some(_)) => {
                return Err(PrepareError::TwoValidations { place: wanted.source.shown() });
            }
            (None, None) => {
                return Err(PrepareError::NoValidation { place: wanted.source.shown() });
            }
            (None, Some(fraction)) => match train {
                Part::Listed(mut train) => {
                    let held_out = train.hold_out(fraction);
                    (Arc::new(*train), Arc::new(held_out))
                }
                Part::Streamed(tars) => {
                    let (train, held_out) = Share::of(Arc::new(tars), fraction);
                    (Arc::new(train), Arc::new(held_out))
                }
            },
            (Some(place), None) => {
                let train = train.into_pictures();
                let places = match &looked_at.validation_archives[..] {
                    [] => vec![place],
                    _ if wanted.validation.is_some() => vec![place],
                    archives => archives.to_vec(),
                };
                let validation = validation(&places, &aids, &synsets, train.classes())?;
                (train, validation)
            }
        };
    Ok(Source { format, train, validation, titles: synsets.titles })
}

enum Part {
    Listed(Box<Listing>),
    Streamed(Tars),
}

impl Part {
    fn into_pictures(self) -> Arc<dyn Pictures> {
        match self {
            Self::Listed(listing) => Arc::new(*listing),
            Self::Streamed(tars) => Arc::new(tars),
        }
    }
}

/// What is seen of a source at a glance.
struct Looked {
    source: Place,
    is_file: bool,
    /// The folder itself, where label files are looked for.
    beside: Option<Place>,
    training_archives: Vec<Place>,
    validation_archives: Vec<Place>,
    has_train_folder: bool,
}

impl Looked {
    fn at(source: &Place) -> Result<Self, PrepareError> {
        let mut looked = Self {
            source: source.clone(),
            is_file: false,
            beside: None,
            training_archives: Vec::new(),
            validation_archives: Vec::new(),
            has_train_folder: false,
        };
        if let Kind::File(_) = source.kind()? {
            looked.is_file = true;
            looked.training_archives.push(source.clone());
            return Ok(looked);
        }
        looked.beside = Some(source.clone());
        for name in top_level(source)? {
            let lower = name.to_ascii_lowercase();
            if Archive::has_name(&name) {
                // Test images have no classes; task 3 is a subset of dogs.
                if lower.contains("train") && !lower.contains("t3") {
                    looked.training_archives.push(source.join(&name));
                } else if lower.contains("val") {
                    looked.validation_archives.push(source.join(&name));
                }
            }
            looked.has_train_folder |= name == "train";
        }
        Ok(looked)
    }

    fn format(&self) -> Result<Format, PrepareError> {
        if !self.is_file && !self.has_train_folder && kaggle::pictures_of(&self.source).is_some() {
            return Ok(Format::Kaggle);
        }
        let Some(first) = self.training_archives.first().filter(|_| !self.has_train_folder) else {
            return Ok(Format::Folders);
        };
        match Archive::at(first.clone())?.holds()? {
            Holds::ClassTars => Ok(Format::Ilsvrc),
            Holds::NamedPictures => Ok(Format::Archives),
            Holds::Pictures => Err(PrepareError::NamelessArchive { place: first.shown() }),
        }
    }
}

/// Names in a folder, sorted, without hidden ones.
fn top_level(place: &Place) -> Result<Vec<String>, PrepareError> {
    let mut names: Vec<String> = match place {
        Place::Local(path) => {
            let entries = std::fs::read_dir(path).map_err(|source| place.unreadable(source))?;
            let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
            entries.flatten().map(name).collect()
        }
        Place::Remote(remote) => {
            let objects = remote.runtime.block_on(remote.store.list(""))?;
            if objects.is_empty() {
                return Err(PrepareError::NothingThere { place: place.shown() });
            }
            let top = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
            objects.iter().map(|object| top(&object.path)).collect()
        }
    };
    names.retain(|name| !name.starts_with('.'));
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// Label file and synset list, as named or as found beside the pictures.
struct Aids {
    labels: Option<Place>,
    labels_named: bool,
    synsets: Option<Place>,
}

impl Aids {
    fn find(wanted: &Wanted, beside: Option<&Place>) -> Self {
        let find = |names: &[&str]| {
            let folder = beside?;
            names.iter().map(|name| folder.join(name)).find(is_there)
        };
        Self {
            labels: wanted.val_labels.clone().or_else(|| find(&LABEL_FILES)),
            labels_named: wanted.val_labels.is_some(),
            synsets: wanted.synsets.clone().or_else(|| find(&SYNSET_FILES)),
        }
    }
}

fn is_there(place: &Place) -> bool {
    match place {
        Place::Local(path) => path.is_file(),
        Place::Remote(remote) => {
            remote.runtime.block_on(remote.store.exists("")).unwrap_or_default()
        }
    }
}

/// Class folders: the training split, and where the other may be.
fn folders(wanted: &Wanted, looked: &Looked) -> Result<(Part, Option<Place>), PrepareError> {
    if looked.is_file {
        return Err(misfit(wanted, Format::Folders));
    }
    let source = &wanted.source;
    let names = top_level(source)?;
    let has = |name: &str| names.iter().any(|it| it == name);
    if has("val") && wanted.val_fraction.is_some() {
        return Err(PrepareError::TwoValidations { place: source.shown() });
    }
    if !has("val") && wanted.val_fraction.is_none() && wanted.validation.is_none() {
        return Err(PrepareError::NoValidation { place: source.shown() });
    }
    let train = if has("train") || has("val") { source.join("train") } else { source.clone() };
    let train = Folder::list(&train)?.by_class(None)?;
    Ok((Part::Listed(Box::new(train)), has("val").then(|| source.join("val"))))
}

/// Archives: the training split, and where the other may be.
fn archives(
    wanted: &Wanted,
    looked: &Looked,
    format: Format,
) -> Result<(Part, Option<Place>), PrepareError> {
    if looked.training_archives.is_empty() {
        return Err(misfit(wanted, format));
    }
    let train = opened(&looked.training_archives)?;
    let tars = match format {
        Format::Ilsvrc => {
            let tars = Tars::of_class_tars(&train)?;
            if tars.classes().is_none_or(<[String]>::is_empty) {
                return Err(misfit(wanted, format));
            }
            tars
        }
        _ => Tars::of_named_pictures(train),
    };
    Ok((Part::Streamed(tars), looked.validation_archives.first().cloned()))
}

fn opened(places: &[Place]) -> Result<Vec<Archive>, PrepareError> {
    places.iter().map(|place| Archive::at(place.clone())).collect()
}

/// The validation split at the given places, in any of its forms.
fn validation(
    places: &[Place],
    aids: &Aids,
    synsets: &Synsets,
    classes: Option<&[String]>,
) -> Result<Arc<dyn Pictures>, PrepareError> {
    let place = &places[0];
    let labels = || -> Result<(Labels, Vec<String>), PrepareError> {
        let file = aids.labels.as_ref();
        let file = file.ok_or_else(|| PrepareError::NoLabels { place: place.shown() })?;
        let classes =
            classes.ok_or_else(|| PrepareError::ClassesUnknown { file: file.shown() })?.to_vec();
        Ok((Labels::read(file, synsets, &classes)?, classes))
    };
    if let Kind::File(_) = place.kind()? {
        let archives = opened(places)?;
        let holds = archives[0].holds()?;
        if holds == Holds::ClassTars {
            return Ok(Arc::new(Tars::of_class_tars(&archives)?));
        }
        // A label file that the user names is believed before the names.
        if holds == Holds::NamedPictures && !aids.labels_named {
            return Ok(Arc::new(Tars::of_named_pictures(archives)));
        }
        let (labels, classes) = labels()?;
        return Ok(Arc::new(Tars::labelled(archives, labels, &classes)?));
    }
    let folder = Folder::list(place)?;
    if !folder.folders.is_empty() {
        return Ok(Arc::new(folder.by_class(classes)?));
    }
    if folder.files.pictures.is_empty() || aids.labels.is_none() {
        let loose = folder.files.pictures.len() as u64;
        return Err(PrepareError::NoClasses { place: place.shown(), loose });
    }
    let (labels, classes) = labels()?;
    Ok(Arc::new(folder.labelled(labels, &classes)?))
}

fn misfit(wanted: &Wanted, format: Format) -> PrepareError {
    PrepareError::Misfit { place: wanted.source.shown(), format: format.describe() }
}
