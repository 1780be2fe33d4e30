//! Draws the data set of a config that asks for one, so that a launch needs nothing but its config.
//!
//! What is drawn depends on the number of images alone. A data set that is there already, whatever
//! it holds, is used as it is.

use convoy_common::config::RunConfig;
use convoy_common::dataset::{Dataset, Encoding, Sizes};
use convoy_common::failure::Failure;
use convoy_common::shutdown;
use convoy_common::store::Store;
use tokio::runtime::Runtime;

use super::error::LaunchError;
use crate::parallel::default_threads;
use crate::prepare::{Format, OnBadImage, Place, Settings, Wanted, pack};
use crate::synthesize::{Plan, draw};

const CLASSES: u32 = 10;
const SEED: u64 = 1;

/// Makes sure that there is a data set, if the config says how many images to draw.
pub(crate) fn ensure(run: &RunConfig) -> Result<(), Failure> {
    let images = u64::from(run.data.draw);
    if images == 0 {
        return Ok(());
    }
    let store = Store::open(&run.data.url)?;
    let runtime = Runtime::new().map_err(LaunchError::Runtime)?;
    if runtime.block_on(Dataset::open(store.clone())).is_ok() {
        return Ok(());
    }
    tracing::info!(images, data = run.data.url, "drawing the data set");
    let folder = std::env::temp_dir().join(format!("convoy-drawn-{}", std::process::id()));
    let made = make(&runtime, &folder, &store, images);
    // What is left in the folder for temporary files is no reason to fail.
    let _ = std::fs::remove_dir_all(&folder);
    made
}

fn make(
    runtime: &Runtime,
    folder: &std::path::Path,
    store: &Store,
    images: u64,
) -> Result<(), Failure> {
    // A quarter more is held out, at least one of each class.
    let held_out = (images / 4).max(u64::from(CLASSES));
    let threads = default_threads();
    draw(folder, &Plan::new(CLASSES, images, held_out, SEED), threads, false)?;
    let settings = Settings {
        encoding: Encoding::default(),
        quality: 90,
        on_bad_image: OnBadImage::Fail,
        val_fraction: None,
        threads,
        sizes: Sizes::default(),
        // Another launch may have been faster.
        reuse: true,
        restart: true,
    };
    let wanted = Wanted {
        source: Place::Local(folder.to_owned()),
        format: Some(Format::Folders),
        validation: None,
        val_labels: None,
        synsets: None,
        val_fraction: None,
    };
    let (_, shutdown) = shutdown::channel();
    pack(runtime, &wanted, store, &settings, &shutdown)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use convoy_common::config::Source;
    use convoy_common::dataset::Split;

    use super::*;

    #[test]
    fn a_data_set_is_drawn_once_and_only_where_the_config_asks_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let config = |draw: u32| {
            let text = format!("[run]\nurl = 'run'\n[data]\nurl = 'data'\ndraw = {draw}\n");
            let source = Source::new("a.toml".as_ref(), &[]).with_environment(Vec::new());
            source.with_folder(folder.path()).resolve_text(&text).unwrap().config
        };
        let held = |config: &RunConfig| {
            let store = Store::open(&config.data.url).unwrap();
            Runtime::new().unwrap().block_on(Dataset::open(store)).ok()
        };
        ensure(&config(0)).unwrap();
        assert!(held(&config(0)).is_none());
        ensure(&config(12)).unwrap();
        let drawn = held(&config(12)).unwrap();
        assert_eq!((drawn.len(Split::Train), drawn.len(Split::Validation)), (12, 10));
        ensure(&config(20)).unwrap();
        assert_eq!(held(&config(20)).unwrap().identity(), drawn.identity());
    }
}
