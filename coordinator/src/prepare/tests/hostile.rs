//! Archives and lists that are almost right: packed as far as they can be, or refused.

use std::time::Instant;

use super::*;
use crate::bytes::{bound_memory, try_all};

const MEMORY: u64 = 4 << 30;
/// For one packing, on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Packs what is there; what becomes of it does not matter, only that it ends and says why.
fn tries(place: &Folder, wanted: &Wanted, settings: &Settings) {
    let start = Instant::now();
    match place.pack_wanted("dest", wanted, settings) {
        Ok(_) => {}
        Err(error) => {
            let text = error.to_string();
            assert!(!text.is_empty() && text.len() < 20_000, "{text}");
            error.hint();
        }
    }
    assert!(start.elapsed() < LONG);
}

#[test]
fn whatever_an_archive_holds_packing_it_comes_to_an_end() {
    bound_memory(MEMORY);
    let settings = Settings { val_fraction: Some(0.3), ..settings() };
    try_all("archive", |bytes| {
        let place = Folder::new();
        let zipped = bytes.starts_with(&[0x1f, 0x8b]);
        place.add(
            if zipped { "ILSVRC2012_img_train.tar.gz" } else { "ILSVRC2012_img_train.tar" },
            bytes,
        );
        let wanted = Wanted { val_fraction: settings.val_fraction, ..place.wanted() };
        tries(&place, &wanted, &settings);
    });
}

#[test]
fn whatever_a_list_of_labels_says_packing_by_it_comes_to_an_end() {
    bound_memory(MEMORY);
    let settings = settings();
    for (format, name) in [("labels", "LOC_val_solution.csv"), ("synsets", "map_clsloc.txt")] {
        try_all(format, |bytes| {
            let place = Folder::new();
            place.add("train/n01440764/n01440764_1.JPEG", jpeg(40, 1));
            place.add("val/ILSVRC2012_val_00000001.JPEG", jpeg(50, 2));
            place.add(name, bytes);
            let named = |of: &str| (of == format).then(|| Place::Local(place.source().join(name)));
            let (val_labels, synsets) = (named("labels"), named("synsets"));
            let wanted = Wanted { val_labels, synsets, ..place.wanted() };
            tries(&place, &wanted, &settings);
        });
    }
}
