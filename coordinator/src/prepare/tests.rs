//! Folders as users have them, packed and read back.

use std::path::PathBuf;

use convoy_common::exit;
use convoy_common::failure::Explain;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;

/// A source folder and a destination, gone at the end.
struct Place {
    folder: TempDir,
    runtime: Runtime,
}

impl Place {
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

    fn pack(&self, name: &str, settings: &Settings) -> Result<Outcome, PrepareError> {
        pack(&self.runtime, &self.source(), &self.store(name), settings)
    }

    fn report(&self, name: &str, settings: &Settings) -> Report {
        match self.pack(name, settings).unwrap() {
            Outcome::Packed(report) => report,
            Outcome::Reused(_) => panic!("nothing was there"),
        }
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
}

fn settings() -> Settings {
    Settings {
        quality: 90,
        on_bad_image: OnBadImage::SkipAndLog,
        val_fraction: None,
        threads: 2,
        sizes: Sizes { shard: 20_000 },
        reuse: false,
    }
}

/// A picture of one shade with a gradient, in a size and aspect ratio of its own.
fn jpeg(shade: u8, number: u32) -> Vec<u8> {
    let (width, height) = (60 + number * 7 % 50, 90 - number % 40);
    let pixels = (0..width * height)
        .flat_map(|place| [shade, (place % width) as u8, (number * 20) as u8])
        .collect();
    encode_jpeg(&Rgb8::new(width, height, pixels).unwrap(), 90, Chroma::Full).unwrap()
}

#[test]
fn a_folder_in_imagenets_layout_is_packed_with_sorted_classes_and_images_of_256() {
    let place = Place::imagenet();
    let report = place.report("out", &settings());
    assert!(report.skipped.is_empty() && report.packed.shards > 1);
    let dataset = place.open("out");
    assert_eq!(dataset.identity(), report.packed.identity);
    assert_eq!(dataset.classes(), ["cat", "dog"]);
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Validation)), (12, 6));
    for (split, count) in [(Split::Train, 12), (Split::Validation, 6)] {
        let all: Vec<u64> = (0..count).collect();
        let read = place.runtime.block_on(dataset.read(split, &all)).unwrap();
        for (index, encoded) in read.iter().enumerate() {
            let image = decode(&encoded.bytes).unwrap();
            assert_eq!((image.width, image.height), (256, 256));
            assert_eq!(usize::from(encoded.label), index / (all.len() / 2));
            let red = image.pixels[(128 * 256 + 128) * 3];
            let shade = if encoded.label == 0 { 40 } else { 200_u8 };
            assert!(red.abs_diff(shade) < 12, "{red} for {shade}");
        }
    }
    // Half of the training pictures have a red of 40 and half of 200.
    let red = dataset.mean_image()[128 * 256 + 128];
    assert!((red - 120.0).abs() < 3.0, "{red}");
    assert!((dataset.covariance()[0] - 6400.0).abs() < 200.0);
}

#[test]
fn the_same_folder_gives_the_same_bytes_on_any_number_of_threads() {
    let place = Place::imagenet();
    let digests: Vec<String> = [1, 2, 5]
        .map(|threads| {
            let settings = Settings { threads, ..settings() };
            place.report(&format!("out{threads}"), &settings).packed.identity.digest
        })
        .to_vec();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
}

#[test]
fn bad_files_are_left_out_with_the_reason_or_end_the_packing() {
    let place = Place::imagenet();
    let whole = jpeg(10, 1);
    place.add("train/cat/a-cut.jpg", &whole[..whole.len() / 2]);
    place.add("train/cat/b-zero.jpg", b"");
    let pipe = place.source().join("train/cat/c-pipe.jpg");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    place.add("train/dog/c-text.png", b"no image");
    place.add("val/dog/d-gif.jpeg", b"GIF89a\0\0\0\0");
    place.add("val/dog/notes.txt", b"not even called one");
    place.add("val/dog/.hidden.jpg", b"passed over");
    let report = place.report("out", &settings());
    let said: Vec<String> =
        report.skipped.iter().map(|it| format!("{}: {}", it.file, it.why)).collect();
    let expected = [
        ("train/cat/a-cut.jpg", "truncated"),
        ("train/cat/b-zero.jpg", "zero bytes"),
        ("train/cat/c-pipe.jpg", "no regular file"),
        ("train/dog/c-text.png", "not an image"),
        ("val/dog/d-gif.jpeg", "unsupported image: GIF"),
    ];
    assert_eq!(said.len(), expected.len(), "{said:?}");
    for (said, (file, why)) in said.iter().zip(expected) {
        assert!(said.starts_with(file) && said.contains(why), "{said}");
    }
    assert_eq!((report.ignored, report.packed.identity.train), (1, 12));
    let listed = fs::read_to_string(place.folder.path().join("out/skipped.txt")).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), said);

    let error = place.refusal(&Settings { on_bad_image: OnBadImage::Fail, ..settings() });
    assert!(error.to_string().contains("train/cat/a-cut.jpg: truncated"), "{error}");
}

#[test]
fn a_class_without_a_usable_image_is_named() {
    for (file, why) in [("train/empty/x.txt", None), ("train/empty/x.jpg", Some("zero bytes"))] {
        let place = Place::imagenet();
        place.add(file, b"");
        let error = place.refusal(&settings()).to_string();
        assert!(error.contains("train/empty"), "{error}");
        assert!(why.is_none_or(|why| error.contains(why)), "{error}");
    }
}

#[test]
fn a_class_that_only_val_has_is_refused_and_one_that_only_train_has_is_not() {
    let place = Place::imagenet();
    place.add("train/ant/1.jpg", jpeg(1, 1));
    let dataset_labels = {
        place.report("out", &settings());
        let dataset = place.open("out");
        (dataset.label(Split::Validation, 0), dataset.classes().len())
    };
    assert_eq!(dataset_labels, (1, 3), "cat is the second class now, in val too");
    place.add("val/zebra/1.jpg", jpeg(1, 1));
    let error = place.refusal(&settings());
    assert!(matches!(&error, PrepareError::UnknownClass { class, .. } if class == "zebra"));
}

#[test]
fn bare_class_folders_need_a_fraction_and_are_split_by_it_each_time_alike() {
    let place = Place::new();
    (0..20).for_each(|n| place.add(&format!("rose/{n}.jpg"), jpeg(30, n)));
    (0..10).for_each(|n| place.add(&format!("tulip/{n}.png"), jpeg(220, n)));
    let error = place.refusal(&settings());
    assert!(error.hint().unwrap().contains("--val-fraction"), "{error}");

    let split = Settings { val_fraction: Some(0.2), ..settings() };
    let identity = place.report("a", &split).packed.identity;
    assert_eq!((identity.train, identity.validation, identity.classes), (24, 6, 2));
    assert_eq!(place.report("b", &split).packed.identity, identity);
    let dataset = place.open("a");
    let name = |split, index| place.runtime.block_on(dataset.name(split, index)).unwrap();
    let held_out: Vec<String> = (0..6).map(|at| name(Split::Validation, at)).collect();
    let trained: Vec<String> = (0..24).map(|at| name(Split::Train, at)).collect();
    for held_out in held_out {
        let as_trained = held_out.replace("val/", "train/");
        assert!(!trained.contains(&as_trained), "{held_out} is in both");
    }
}

#[test]
fn a_train_folder_without_val_is_split_by_a_fraction_and_with_val_the_fraction_is_refused() {
    let place = Place::imagenet();
    let split = Settings { val_fraction: Some(0.5), ..settings() };
    let error = place.refusal(&split);
    assert!(matches!(error, PrepareError::TwoValidations { .. }));
    fs::remove_dir_all(place.source().join("val")).unwrap();
    let identity = place.report("out", &split).packed.identity;
    assert_eq!((identity.train, identity.validation), (6, 6));
}

#[test]
fn a_source_that_is_not_there_or_not_sorted_into_classes_is_refused_with_a_hint() {
    let place = Place::new();
    assert!(matches!(place.refusal(&settings()), PrepareError::Unreadable { .. }));
    place.add("train/cat/1.jpg", jpeg(1, 1));
    place.add("val/ILSVRC2012_val_00000001.JPEG", jpeg(1, 1));
    let error = place.refusal(&settings());
    assert!(matches!(error, PrepareError::NoClasses { loose: 1, .. }));
    assert!(error.hint().unwrap().contains("one folder per class"));
}

#[test]
fn a_place_that_holds_a_data_set_is_refused_or_reused_and_never_changed() {
    let place = Place::imagenet();
    let identity = place.report("out", &settings()).packed.identity;
    let Err(error) = place.pack("out", &settings()) else { panic!("was packed again") };
    assert!(error.hint().unwrap().contains("--reuse"));
    fs::remove_dir_all(place.source()).unwrap();
    let reuse = Settings { reuse: true, ..settings() };
    match place.pack("out", &reuse).unwrap() {
        Outcome::Reused(held) => assert_eq!(held, identity),
        Outcome::Packed(_) => panic!("was packed again"),
    }
}
