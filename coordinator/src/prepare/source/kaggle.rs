//! ImageNet as Kaggle gives it out: `ILSVRC/Data/CLS-LOC/{train,val}`, where `train` has a folder per
//! class and `val` none, `LOC_val_solution.csv` with the classes of `val`, and
//! `LOC_synset_mapping.txt` with their names.

use super::super::PrepareError;
use super::folders::Folder;
use super::listing::Listing;
use super::place::Place;

/// Where the pictures lie below what the user names, who may name any of these levels.
const LEVELS: [&str; 3] = ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC"];

/// The folder that holds `train` and `val`, if there is one in Kaggle's layout.
pub(super) fn pictures_of(place: &Place) -> Option<Place> {
    LEVELS.iter().map(|level| place.join(level)).find(|below| match below {
        Place::Local(path) => path.join("train").is_dir(),
        Place::Remote(remote) => {
            let listed = remote.runtime.block_on(remote.store.list("val"));
            listed.is_ok_and(|objects| !objects.is_empty())
        }
    })
}

/// The training split.
pub(super) fn train(pictures: &Place) -> Result<Listing, PrepareError> {
    Folder::list(&pictures.join("train"))?.by_class(None)
}
