//! Class folders, as ImageNet's usual loaders want them, and folders of one's own.

use super::*;

#[test]
fn a_folder_in_imagenets_layout_is_packed_with_sorted_classes_and_images_of_256() {
    let place = Folder::imagenet();
    let report = place.report("out", &settings());
    assert!(report.skipped.is_empty() && report.packed.shards > 1);
    let dataset = place.open("out");
    assert_eq!(dataset.identity(), report.packed.identity);
    assert_eq!(dataset.classes(), ["cat", "dog"]);
    assert_eq!((dataset.len(Split::Train), dataset.len(Split::Validation)), (12, 6));
    for (split, count) in [(Split::Train, 12), (Split::Validation, 6)] {
        let all: Vec<u64> = (0..count).collect();
        let read = place.runtime.block_on(dataset.read(split, &all)).unwrap();
        let names = place.names("out", split);
        for (name, encoded) in names.iter().zip(&read) {
            let image = decode(&encoded.bytes).unwrap();
            assert_eq!((image.width, image.height), (256, 256));
            let class = if encoded.label == 0 { "cat" } else { "dog" };
            assert!(name.starts_with(&format!("{}/{class}/", split.folder())), "{name}");
            let red = image.pixels[(128 * 256 + 128) * 3];
            let shade = if encoded.label == 0 { 40 } else { 200_u8 };
            assert!(red.abs_diff(shade) < 12, "{red} for {shade}");
        }
    }
    // The order is mixed, and each picture comes once.
    let names = place.names("out", Split::Train);
    let in_order = sorted(names.clone());
    assert!(names != in_order);
    let once: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(once.len(), 12);
    // Half of the training pictures have a red of 40 and half of 200.
    let red = dataset.mean_image()[128 * 256 + 128];
    assert!((red - 120.0).abs() < 3.0, "{red}");
    assert!((dataset.covariance()[0] - 6400.0).abs() < 200.0);
}

#[test]
fn the_same_folder_gives_the_same_bytes_on_any_number_of_threads() {
    let place = Folder::imagenet();
    for encoding in [Encoding::Jpeg256, Encoding::Original, Encoding::Raw256] {
        let digests = [1, 2, 5].map(|threads| {
            let settings = Settings { threads, encoding, ..settings() };
            place.report(&format!("{encoding}{threads}"), &settings).packed.identity.digest
        });
        assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    }
}

#[test]
fn each_encoding_holds_the_same_squares_under_the_same_mean() {
    let place = Folder::imagenet();
    let read = |encoding| {
        let name = format!("{encoding}");
        place.report(&name, &Settings { encoding, ..settings() });
        let dataset = place.open(&name);
        assert_eq!(dataset.encoding(), encoding);
        let all: Vec<u64> = (0..12).collect();
        let read = place.runtime.block_on(dataset.read(Split::Train, &all)).unwrap();
        assert!(read.iter().all(|it| it.encoding == encoding));
        (read, dataset, place.names(&name, Split::Train))
    };
    let (jpegs, packed, names) = read(Encoding::Jpeg256);
    let (originals, as_they_were, same_names) = read(Encoding::Original);
    let (raw, unpacked, also_same_names) = read(Encoding::Raw256);
    assert_eq!(names, same_names);
    assert_eq!(names, also_same_names);
    for other in [&as_they_were, &unpacked] {
        assert_eq!(packed.mean_image(), other.mean_image());
        assert_eq!(packed.covariance(), other.covariance());
    }
    let mut mean = vec![0.0; 3 * 256 * 256];
    for (((name, jpeg), original), raw) in names.iter().zip(&jpegs).zip(&originals).zip(&raw) {
        let file = fs::read(place.source().join(name)).unwrap();
        assert_eq!(original.bytes, file);
        let square = convoy_common::image::shorter_side_256(decode(&file).unwrap()).unwrap();
        let square = convoy_common::image::centre_crop(&square, 256).unwrap();
        let differences = raw.bytes.iter().zip(&square.pixels).map(|(a, b)| a.abs_diff(*b));
        assert!(raw.bytes.len() == square.pixels.len() && differences.max() <= Some(1));
        let decoded = decode(&jpeg.bytes).unwrap();
        let difference = decoded.pixels.iter().zip(&square.pixels).map(|(a, b)| a.abs_diff(*b));
        assert!(difference.max() < Some(24));
        for (place, &value) in raw.bytes.iter().enumerate() {
            mean[place % 3 * 65_536 + place / 3] += f64::from(value) / 12.0;
        }
    }
    let difference = mean.iter().zip(packed.mean_image()).map(|(a, b)| (a - f64::from(*b)).abs());
    assert!(difference.fold(0.0, f64::max) < 1e-4);
}

#[test]
fn names_of_any_characters_are_packed_and_shown_on_one_line() {
    use std::os::unix::ffi::OsStrExt as _;
    let place = Folder::imagenet();
    let folder = place.source().join("train/cat");
    let long = format!("{}.jpg", "x".repeat(250));
    let odd: [&[u8]; 4] = [
        b"new\nline.jpg",
        b"\xff\xfe.jpg",
        "\u{202e}k\u{e4}se 100%#?.jpg".as_bytes(),
        long.as_bytes(),
    ];
    for name in odd {
        fs::write(folder.join(std::ffi::OsStr::from_bytes(name)), jpeg(40, 3)).unwrap();
    }
    fs::write(folder.join("bad\n\u{1b}[31mname.jpg"), b"").unwrap();
    let report = place.report("out", &settings());
    assert_eq!(report.packed.identity.train, 16);
    let names = place.names("out", Split::Train);
    for name in ["new\nline.jpg", "\u{fffd}\u{fffd}.jpg", "\u{202e}k\u{e4}se 100%#?.jpg", &long] {
        assert!(names.contains(&format!("train/cat/{name}")), "{name}");
    }
    assert_eq!(report.skipped[0].file, "train/cat/bad\\n\\u{1b}[31mname.jpg");
    let listed = fs::read_to_string(place.folder.path().join("out/skipped.txt")).unwrap();
    assert_eq!(listed.lines().count(), 1);
}

#[test]
fn symbolic_links_to_files_and_folders_are_followed_and_loops_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let place = Folder::imagenet();
    let train = place.source().join("train");
    fs::rename(train.join("dog"), place.folder.path().join("elsewhere")).unwrap();
    symlink(place.folder.path().join("elsewhere"), train.join("dog")).unwrap();
    symlink(train.join("cat/1.JPEG"), train.join("cat/linked.jpg")).unwrap();
    symlink(train.join("cat/loop.jpg"), train.join("cat/loop.jpg")).unwrap();
    symlink(train.join("cat/nowhere"), train.join("cat/dangling.jpg")).unwrap();
    symlink("..", train.join("cat/up")).unwrap();
    symlink(train.join("self"), train.join("self")).unwrap();
    let report = place.report("out", &settings());
    assert_eq!(report.packed.identity.train, 13);
    let skipped = sorted(report.skipped.iter().map(|it| it.file.clone()).collect());
    assert_eq!(skipped, ["train/cat/dangling.jpg", "train/cat/loop.jpg"]);
    // A class folder that leads back to the folder of all classes has no pictures of its own.
    symlink(".", train.join("up")).unwrap();
    assert!(matches!(place.refusal(&settings()), PrepareError::EmptyClass { .. }));
}

#[test]
fn bad_files_are_left_out_with_the_reason_or_end_the_packing() {
    let place = Folder::imagenet();
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
    let listed = fs::read_to_string(place.folder.path().join("out/skipped.txt")).unwrap();
    let said: Vec<String> =
        report.skipped.iter().map(|it| format!("{}: {}", it.file, it.why)).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), said);
    let said = sorted(said);
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

    let error = place.refusal(&Settings { on_bad_image: OnBadImage::Fail, ..settings() });
    assert!(matches!(&error, PrepareError::BadImage { .. }), "{error}");
}

#[test]
fn a_class_without_a_usable_image_is_named() {
    for (file, why) in [("train/empty/x.txt", None), ("train/empty/x.jpg", Some("zero bytes"))] {
        let place = Folder::imagenet();
        place.add(file, b"");
        let error = place.refusal(&settings()).to_string();
        assert!(error.contains("empty has no usable image"), "{error}");
        assert!(why.is_none_or(|why| error.contains(why)), "{error}");
    }
}

#[test]
fn a_class_that_only_val_has_is_refused_and_one_that_only_train_has_is_not() {
    let place = Folder::imagenet();
    place.add("train/ant/1.jpg", jpeg(1, 1));
    let dataset_labels = {
        place.report("out", &settings());
        let dataset = place.open("out");
        let labels: std::collections::BTreeSet<u16> =
            (0..6).map(|at| dataset.label(Split::Validation, at)).collect();
        (labels, dataset.classes().len())
    };
    assert_eq!(dataset_labels, ([1, 2].into(), 3), "cat is the second class now, in val too");
    place.add("val/zebra/1.jpg", jpeg(1, 1));
    let error = place.refusal(&settings());
    assert!(matches!(&error, PrepareError::UnknownClass { class, .. } if class == "zebra"));
}

#[test]
fn bare_class_folders_need_a_fraction_and_are_split_by_it_each_time_alike() {
    let place = Folder::new();
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
    let place = Folder::imagenet();
    let split = Settings { val_fraction: Some(0.5), ..settings() };
    let error = place.refusal(&split);
    assert!(matches!(error, PrepareError::TwoValidations { .. }));
    fs::remove_dir_all(place.source().join("val")).unwrap();
    let identity = place.report("out", &split).packed.identity;
    assert_eq!((identity.train, identity.validation), (6, 6));
}

#[test]
fn a_source_that_is_not_there_or_not_sorted_into_classes_is_refused_with_a_hint() {
    let place = Folder::new();
    assert!(matches!(place.refusal(&settings()), PrepareError::Unreadable { .. }));
    place.add("train/cat/1.jpg", jpeg(1, 1));
    place.add("val/ILSVRC2012_val_00000001.JPEG", jpeg(1, 1));
    let error = place.refusal(&settings());
    assert!(matches!(error, PrepareError::NoClasses { loose: 1, .. }));
    assert!(error.hint().unwrap().contains("one folder per class"));
}

#[test]
fn the_folder_of_the_images_is_no_destination_by_any_path() {
    let place = Folder::imagenet();
    std::os::unix::fs::symlink(place.source(), place.folder.path().join("link")).unwrap();
    let others = Folder::imagenet();
    let beside = Wanted { validation: Some(Place::Local(place.source())), ..others.wanted() };
    let all = ["src", "link", "src/packed", "link/a/packed"].map(|it| (it, place.wanted()));
    for (name, wanted) in all.into_iter().chain([("src", beside)]) {
        let outcome = place.pack_wanted(name, &wanted, &settings());
        let Err(error) = outcome else { panic!("was packed") };
        assert!(matches!(error, PrepareError::SamePlace { .. }), "{error}");
        assert!(error.hint().is_some_and(|it| it.contains("DEST")));
        assert_eq!(fs::read_dir(place.source()).unwrap().count(), 2);
    }
}

#[test]
fn a_place_that_holds_a_data_set_is_refused_or_reused_and_never_changed() {
    let place = Folder::imagenet();
    let identity = place.report("out", &settings()).packed.identity;
    let Err(error) = place.pack("out", &settings()) else { panic!("was packed again") };
    assert!(error.hint().unwrap().contains("--reuse"));
    fs::remove_dir_all(place.source()).unwrap();
    let reuse = Settings { reuse: true, ..settings() };
    match place.pack("out", &reuse).unwrap() {
        Outcome::Reused(held) => assert_eq!(held, identity),
        _ => panic!("was packed again"),
    }
}
