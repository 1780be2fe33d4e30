//! Sources as users have them, packed and read back.

mod archives;
mod dirty;
mod folders;
mod hostile;
mod resuming;

use std::fs;
use std::path::PathBuf;

use convoy_common::exit;
use convoy_common::failure::Explain;
use convoy_common::image::{Chroma, Rgb8, decode, encode_jpeg};
use convoy_common::shutdown;
use tempfile::TempDir;

use super::*;

/// A source folder and a destination, gone at the end.
struct Folder {
    folder: TempDir,
    runtime: Runtime,
}

impl Folder {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self { folder: TempDir::new().unwrap(), runtime }
    }

    /// A source with two classes, six pictures to train on and three held out each.
    fn imagenet() -> Self {
        let place = Self::new();
        for (class, shade) in [("cat", 40), ("dog", 200)] {
            (0..6).for_each(|n| place.add(&format!("train/{class}/{n}.JPEG"), jpeg(shade, n)));
            (0..3).for_each(|n| place.add(&format!("val/{class}/{n}.jpg"), jpeg(shade, n + 50)));
        }
        place
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("src")
    }

    fn add(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.source().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn store(&self, name: &str) -> Store {
        Store::open(&format!("file://{}", self.folder.path().join(name).display())).unwrap()
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            source: Place::Local(self.source()),
            format: None,
            validation: None,
            val_labels: None,
            synsets: None,
            val_fraction: None,
        }
    }

    fn pack_wanted(
        &self,
        name: &str,
        wanted: &Wanted,
        settings: &Settings,
    ) -> Result<Outcome, PrepareError> {
        let (_, shutdown) = shutdown::channel();
        pack(&self.runtime, wanted, &self.store(name), settings, &shutdown)
    }

    fn pack(&self, name: &str, settings: &Settings) -> Result<Outcome, PrepareError> {
        let wanted = Wanted { val_fraction: settings.val_fraction, ..self.wanted() };
        self.pack_wanted(name, &wanted, settings)
    }

    fn report(&self, name: &str, settings: &Settings) -> Report {
        packed(self.pack(name, settings))
    }

    fn refusal(&self, settings: &Settings) -> PrepareError {
        let Err(error) = self.pack("refused", settings) else { panic!("was packed") };
        assert_eq!(error.exit_code(), exit::BAD_INPUT);
        assert!(!self.folder.path().join("refused/index.bin").exists());
        error
    }

    fn open(&self, name: &str) -> Dataset {
        self.runtime.block_on(Dataset::open(self.store(name))).unwrap()
    }

    /// What each picture of a split is called, in their order.
    fn names(&self, name: &str, split: Split) -> Vec<String> {
        let dataset = self.open(name);
        (0..dataset.len(split))
            .map(|at| self.runtime.block_on(dataset.name(split, at)).unwrap())
            .collect()
    }
}

fn packed(outcome: Result<Outcome, PrepareError>) -> Report {
    match outcome.unwrap() {
        Outcome::Packed(report) => report,
        Outcome::Reused(_) => panic!("nothing was there"),
        Outcome::Stopped { .. } => panic!("nobody asked for that"),
    }
}

fn settings() -> Settings {
    Settings {
        encoding: Encoding::Jpeg256,
        quality: 90,
        on_bad_image: OnBadImage::SkipAndLog,
        val_fraction: None,
        threads: 2,
        sizes: Sizes { shard: 20_000 },
        reuse: false,
        restart: false,
    }
}

fn sorted(mut of: Vec<String>) -> Vec<String> {
    of.sort();
    of
}

/// A picture of one shade with a gradient, in a size and aspect ratio of its own.
fn jpeg(shade: u8, number: u32) -> Vec<u8> {
    let (width, height) = (60 + number * 7 % 50, 90 - number % 40);
    let pixels = (0..width * height)
        .flat_map(|place| [shade, (place % width) as u8, (number * 20) as u8])
        .collect();
    encode_jpeg(&Rgb8::new(width, height, pixels).unwrap(), 90, Chroma::Full).unwrap()
}
