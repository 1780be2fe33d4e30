//! Archives in the official structure, Kaggle's tree, and what can be wrong with either.

use std::collections::BTreeSet;
use std::io::Write as _;

use tar::{Builder, EntryType, Header};

use super::*;

/// WordNet ids whose order is not that of the ILSVRC ids 1, 2, 3.
const WNIDS: [&str; 3] = ["n01440764", "n02084071", "n03995372"];
const SHADES: [u8; 3] = [30, 120, 220];
/// ILSVRC id of each.
const IDS: [usize; 3] = [2, 3, 1];
const PER_CLASS: u32 = 7;
const VALIDATION: u32 = 9;

fn tar_of(members: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in members {
        append(&mut builder, name, bytes);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append_data(&mut header, name, bytes).unwrap();
}

/// A header with a name that the builder would refuse.
fn append_raw(builder: &mut Builder<Vec<u8>>, name: &[u8], kind: EntryType, bytes: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    header.set_cksum();
    builder.append(&header, bytes).unwrap();
}

fn class_tar(class: usize) -> Vec<u8> {
    let members: Vec<_> = (0..PER_CLASS)
        .map(|n| (format!("{}_{n}.JPEG", WNIDS[class]), jpeg(SHADES[class], n)))
        .collect();
    tar_of(&members)
}

/// `ILSVRC2012_img_train.tar`, with the classes in another order than that of their names.
fn training_tar() -> Vec<u8> {
    let members: Vec<_> =
        [2, 0, 1].map(|class| (format!("{}.tar", WNIDS[class]), class_tar(class))).to_vec();
    tar_of(&members)
}

fn validation_class(number: u32) -> usize {
    (number * 2 % 3) as usize
}

fn validation_name(number: u32) -> String {
    format!("ILSVRC2012_val_{number:08}.JPEG")
}

/// `ILSVRC2012_img_val.tar`: pictures 1 to 9.
fn validation_tar() -> Vec<u8> {
    let members: Vec<_> = (1..=VALIDATION)
        .map(|n| (validation_name(n), jpeg(SHADES[validation_class(n)], n + 60)))
        .collect();
    tar_of(&members)
}

fn ground_truth() -> String {
    (1..=VALIDATION).map(|n| format!("{}\n", IDS[validation_class(n)])).collect()
}

fn map_clsloc() -> String {
    let titles = ["tench", "dog", "pop bottle, soda bottle"];
    (0..3).map(|class| format!("{} {} {}\n", WNIDS[class], IDS[class], titles[class])).collect()
}

/// The official files in one folder.
fn official() -> Folder {
    let place = Folder::new();
    place.add("ILSVRC2012_img_train.tar", training_tar());
    place.add("ILSVRC2012_img_val.tar", validation_tar());
    place.add("ILSVRC2012_validation_ground_truth.txt", ground_truth());
    place.add("map_clsloc.txt", map_clsloc());
    place
}

/// All three classes, all pictures, and each picture with the label of its shade.
fn is_imagenet(place: &Folder, name: &str, validation: u32) {
    let dataset = place.open(name);
    let keys: Vec<&str> =
        dataset.classes().iter().map(|class| class.split(' ').next().unwrap()).collect();
    assert_eq!(keys, WNIDS);
    assert_eq!(dataset.len(Split::Train), 3 * u64::from(PER_CLASS));
    assert_eq!(dataset.len(Split::Validation), u64::from(validation));
    for split in Split::ALL {
        let all: Vec<u64> = (0..dataset.len(split)).collect();
        for encoded in place.runtime.block_on(dataset.read(split, &all)).unwrap() {
            let image = decode(&encoded.bytes).unwrap();
            let red = image.pixels[(128 * 256 + 128) * 3];
            let shade = SHADES[usize::from(encoded.label)];
            assert!(red.abs_diff(shade) < 14, "{red} with label {}", encoded.label);
        }
        let names = place.names(name, split);
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}

#[test]
fn the_official_tars_are_streamed_with_classes_taking_turns() {
    let place = official();
    let report = place.report("out", &settings());
    assert_eq!((report.format, report.skipped.len(), report.ignored), (Format::Ilsvrc, 0, 0));
    is_imagenet(&place, "out", VALIDATION);
    let dataset = place.open("out");
    assert_eq!(dataset.classes()[2], "n03995372 pop bottle, soda bottle");
    let labels: Vec<u16> = (0..21).map(|at| dataset.label(Split::Train, at)).collect();
    for turn in labels.chunks(3) {
        assert_eq!(turn.iter().collect::<BTreeSet<_>>().len(), 3, "{labels:?}");
    }
    for threads in [1, 5] {
        let name = format!("again{threads}");
        let again = place.report(&name, &Settings { threads, ..settings() });
        assert_eq!(again.packed.identity, report.packed.identity);
    }
}

#[test]
fn tars_are_named_one_by_one_with_every_kind_of_label_file() {
    let place = official();
    let at = |name: &str| Place::Local(place.source().join(name));
    let pairs = |class: fn(u32) -> String| -> String {
        (1..=VALIDATION).map(|n| format!("{} {}\r\n", validation_name(n), class(n))).collect()
    };
    place.add("pairs.txt", pairs(|n| WNIDS[validation_class(n)].to_owned()));
    place.add("numbers.txt", pairs(|n| validation_class(n).to_string()));
    let mut digests = BTreeSet::new();
    for labels in ["ILSVRC2012_validation_ground_truth.txt", "pairs.txt", "numbers.txt"] {
        let wanted = Wanted {
            source: at("ILSVRC2012_img_train.tar"),
            validation: Some(at("ILSVRC2012_img_val.tar")),
            val_labels: Some(at(labels)),
            synsets: Some(at("map_clsloc.txt")),
            ..place.wanted()
        };
        let report = packed(place.pack_wanted(labels, &wanted, &settings()));
        digests.insert(report.packed.identity.digest);
        is_imagenet(&place, labels, VALIDATION);
    }
    assert_eq!(digests.len(), 1);
}

#[test]
fn a_share_of_streamed_pictures_can_be_held_out() {
    let place = Folder::new();
    place.add("train.tar", training_tar());
    let report = place.report("out", &Settings { val_fraction: Some(0.3), ..settings() });
    let identity = report.packed.identity;
    assert_eq!(identity.train + identity.validation, 21);
    assert!((1..15).contains(&identity.validation), "{}", identity.validation);
    let both: BTreeSet<String> = Split::ALL
        .iter()
        .flat_map(|&split| place.names("out", split))
        .map(|name| name.rsplit('/').next().unwrap().to_owned())
        .collect();
    assert_eq!(both.len(), 21);
}

#[test]
fn kaggles_tree_is_read_with_its_tables() {
    let place = Folder::new();
    let pictures = "ILSVRC/Data/CLS-LOC";
    for (class, wnid) in WNIDS.iter().enumerate() {
        for n in 0..PER_CLASS {
            let name = format!("{pictures}/train/{wnid}/{wnid}_{n}.JPEG");
            place.add(&name, jpeg(SHADES[class], n));
        }
    }
    let mut table = "ImageId,PredictionString\r\n".to_owned();
    for n in (1..=VALIDATION).rev() {
        let name = validation_name(n);
        let class = validation_class(n);
        place.add(&format!("{pictures}/val/{name}"), jpeg(SHADES[class], n + 60));
        table += &format!("{},{} 1 2 3 4 \r\n", name.trim_end_matches(".JPEG"), WNIDS[class]);
    }
    place.add("LOC_val_solution.csv", table);
    place.add(
        "LOC_synset_mapping.txt",
        "n01440764 tench, Tinca tinca\nn02084071 dog\nn03995372 x\n",
    );
    let report = place.report("out", &settings());
    assert_eq!(report.format, Format::Kaggle);
    is_imagenet(&place, "out", VALIDATION);
    assert_eq!(place.open("out").classes()[0], "n01440764 tench, Tinca tinca");
}

#[test]
fn archives_of_pictures_named_by_class_are_read_plain_and_compressed() {
    let place = Folder::new();
    let gzipped = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut archives: [Vec<(String, Vec<u8>)>; 2] = Default::default();
    for class in 0..3 {
        for n in 0..PER_CLASS {
            let name = format!("{0}_{n}_{0}.JPEG", WNIDS[class]);
            archives[(n % 2) as usize].push((name, jpeg(SHADES[class], n)));
        }
    }
    archives[1].push(("nameless.JPEG".to_owned(), jpeg(1, 1)));
    place.add("train_images_0.tar.gz", gzipped(&tar_of(&archives[0])));
    place.add("train_images_1.tar", tar_of(&archives[1]));
    let validation: Vec<_> = (1..=VALIDATION)
        .map(|n| {
            let class = validation_class(n);
            let name = format!("ILSVRC2012_val_{n:08}_{}.JPEG", WNIDS[class]);
            (name, jpeg(SHADES[class], n + 60))
        })
        .collect();
    place.add("val_images.tar.gz", gzipped(&tar_of(&validation)));
    place.add("test_images.tar.gz", b"nobody looks into it");
    let report = place.report("out", &settings());
    assert_eq!((report.format, report.skipped.len()), (Format::Archives, 1));
    assert!(report.skipped[0].why.contains("WordNet id"), "{:?}", report.skipped);
    is_imagenet(&place, "out", VALIDATION);
    let whole = gzipped(&tar_of(&archives[0]));
    // In the middle; before its checksum; and with another checksum.
    let [half, unsealed] = [whole.len() / 2, whole.len() - 8].map(|it| whole[..it].to_vec());
    let mut altered = whole;
    let checksum = altered.len() - 5;
    altered[checksum] ^= 1;
    for (name, bytes) in [("half", half), ("unsealed", unsealed), ("altered", altered)] {
        place.add("train_images_0.tar.gz", bytes);
        let Err(error) = place.pack(name, &settings()) else { panic!("{name} was packed") };
        assert!(matches!(error, PrepareError::BrokenArchive { .. }), "{error}");
    }
}

#[test]
fn what_an_archive_says_of_itself_leads_nowhere() {
    let place = official();
    let mut hostile = Builder::new(Vec::new());
    let picture = jpeg(SHADES[0], 1);
    append(&mut hostile, "n01440764_0.JPEG", &picture);
    append(&mut hostile, "n01440764_0.JPEG", &picture);
    append_raw(&mut hostile, b"../../escaped.JPEG", EntryType::Regular, &picture);
    append_raw(&mut hostile, b"/tmp/absolute.JPEG", EntryType::Regular, &picture);
    append_raw(&mut hostile, b"symbolic.JPEG", EntryType::Symlink, b"");
    append_raw(&mut hostile, b"hard.JPEG", EntryType::Link, b"");
    append_raw(&mut hostile, b"device.JPEG", EntryType::Char, b"");
    append_raw(&mut hostile, b"pipe.JPEG", EntryType::Fifo, b"");
    append_raw(&mut hostile, b"new\nline.JPEG", EntryType::Regular, &picture);
    append_raw(&mut hostile, b"\xff.JPEG", EntryType::Regular, &picture);
    append(&mut hostile, &format!("deep/{}.JPEG", "y".repeat(3000)), &picture);
    append(&mut hostile, "._hidden.JPEG", b"resource fork");
    append(&mut hostile, "notes.txt", b"ignored");
    append_raw(&mut hostile, b"folder.JPEG/", EntryType::Directory, b"");
    let hostile = hostile.into_inner().unwrap();
    let members = [(0, hostile), (1, class_tar(1)), (2, class_tar(2))]
        .map(|(class, bytes)| (format!("{}.tar", WNIDS[class]), bytes));
    place.add("ILSVRC2012_img_train.tar", tar_of(&members));
    let report = place.report("out", &settings());
    let said: Vec<String> =
        report.skipped.iter().map(|it| format!("{}: {}", it.file, it.why)).collect();
    let expected = [
        "n01440764/n01440764_0.JPEG: a picture of that class and name came before",
        "n01440764/../../escaped.JPEG: its path leads out of the archive",
        "n01440764//tmp/absolute.JPEG: its path leads out of the archive",
        "n01440764/symbolic.JPEG: a symbolic link in an archive",
        "n01440764/hard.JPEG: a hard link in an archive",
        "n01440764/device.JPEG: a device in an archive",
        "n01440764/pipe.JPEG: a pipe in an archive",
    ];
    assert_eq!(said, expected);
    assert_eq!(report.ignored, 2);
    let names = place.names("out", Split::Train);
    assert!(names.contains(&"train/n01440764/new\nline.JPEG".to_owned()));
    assert!(names.contains(&"train/n01440764/\u{fffd}.JPEG".to_owned()));
    assert!(names.contains(&format!("train/n01440764/{}.JPEG", "y".repeat(3000))));
    assert!(!std::path::Path::new("/tmp/absolute.JPEG").exists());
    assert!(!place.folder.path().join("escaped.JPEG").exists());
    let strict = Settings { on_bad_image: OnBadImage::Fail, ..settings() };
    let Err(error) = place.pack("strict", &strict) else { panic!("was packed") };
    assert!(error.to_string().contains("n01440764_0.JPEG: a picture of that class"), "{error}");
}

/// Where the padding of a tar's n-th member ends.
fn members_end(tar: &[u8], n: usize) -> usize {
    let mut archive = tar::Archive::new(tar);
    let entry = archive.entries().unwrap().nth(n - 1).unwrap().unwrap();
    (entry.raw_file_position() + entry.size()).next_multiple_of(512) as usize
}

#[test]
fn a_tar_that_is_cut_or_no_tar_or_holds_an_empty_class_is_refused() {
    let whole = training_tar();
    for (bytes, expected) in [
        (whole[..whole.len() / 2].to_vec(), "not a whole tar archive"),
        (whole[..700].to_vec(), "not a whole tar archive"),
        (vec![7; 5000], "not a whole tar archive"),
        (b"\x1b[31m\r".repeat(1000), "not a whole tar archive"),
        (Vec::new(), "not a whole tar archive"),
        // Behind its second member.
        (whole[..members_end(&whole, 2)].to_vec(), "not a whole tar archive"),
        (tar_of(&[("a.txt".to_owned(), b"text".to_vec())]), "holds no images"),
    ] {
        let place = official();
        place.add("ILSVRC2012_img_train.tar", bytes);
        let error = place.refusal(&settings());
        assert!(error.to_string().contains(expected), "{error} for {expected}");
        assert!(error.hint().is_some());
        let mut cause = std::error::Error::source(&error);
        while let Some(deeper) = cause {
            let said = deeper.to_string();
            assert!(!said.contains(char::is_control) && said.len() < 2000, "{said:?}");
            cause = deeper.source();
        }
    }
    let place = official();
    let empty = ("n00000009.tar".to_owned(), tar_of(&[]));
    let members = [empty, (format!("{}.tar", WNIDS[1]), class_tar(1))];
    place.add("ILSVRC2012_img_train.tar", tar_of(&members));
    place.add("ILSVRC2012_validation_ground_truth.txt", "3\n".repeat(9));
    let error = place.refusal(&settings());
    assert!(error.to_string().contains("class n00000009 has no usable image"), "{error}");
}

#[test]
fn a_class_tar_that_is_cut_is_named_among_all() {
    let place = official();
    let cut = class_tar(1);
    let members = [(0, class_tar(0)), (1, cut[..cut.len() / 2].to_vec()), (2, class_tar(2))]
        .map(|(class, bytes)| (format!("{}.tar", WNIDS[class]), bytes));
    place.add("ILSVRC2012_img_train.tar", tar_of(&members));
    let error = place.refusal(&settings());
    assert!(matches!(error, PrepareError::BrokenArchive { .. }), "{error}");
    let expected = format!("{}.tar in ", WNIDS[1]);
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[test]
fn a_label_file_that_does_not_fit_is_refused_with_all_its_problems() {
    let place = official();
    let lines = ground_truth();
    let truth = |text: &str| place.add("ILSVRC2012_validation_ground_truth.txt", text);
    truth(&lines[..lines.len() - 4]);
    let error = place.refusal(&settings()).to_string();
    assert!(error.contains("2 problems"), "{error}");
    assert!(error.contains("it does not name ILSVRC2012_val_00000008.JPEG"), "{error}");
    truth(&format!("{lines}1\n77\n"));
    let error = place.refusal(&settings()).to_string();
    assert!(error.contains("line 11: no class has the id 77"), "{error}");
    truth(&format!("{lines}1\n"));
    let error = place.refusal(&settings()).to_string();
    assert!(error.contains("it names ILSVRC2012_val_00000010, which is not there"), "{error}");
    truth(&lines);
    fs::remove_file(place.source().join("map_clsloc.txt")).unwrap();
    let error = place.refusal(&settings());
    assert!(matches!(error, PrepareError::NoIds { .. }), "{error}");
    assert!(error.hint().unwrap().contains("meta.mat"));
    place.add("synsets.txt", b"MATLAB 5.0 MAT-file, Platform: GLNXA64");
    assert!(matches!(place.refusal(&settings()), PrepareError::Matlab { .. }));
    fs::remove_file(place.source().join("synsets.txt")).unwrap();
    fs::remove_file(place.source().join("ILSVRC2012_validation_ground_truth.txt")).unwrap();
    assert!(matches!(place.refusal(&settings()), PrepareError::NoLabels { .. }));
}

#[test]
fn a_pipe_or_a_device_is_no_source_and_is_never_waited_for() {
    let place = official();
    let pipe = place.source().join("pipe.tar");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for path in [pipe, "/dev/zero".into()] {
        let wanted = Wanted { source: Place::Local(path), ..place.wanted() };
        let Err(error) = place.pack_wanted("refused", &wanted, &settings()) else {
            panic!("was packed")
        };
        assert!(matches!(error, PrepareError::Special { .. }), "{error}");
    }
    fs::remove_file(place.source().join("ILSVRC2012_validation_ground_truth.txt")).unwrap();
    let labels = Some(Place::Local(place.source().join("pipe.tar")));
    let wanted = Wanted { val_labels: labels, ..place.wanted() };
    assert!(place.pack_wanted("refused", &wanted, &settings()).is_err());
}

#[test]
fn a_format_that_the_user_names_and_the_source_has_not_is_refused() {
    let place = official();
    for format in [Format::Folders, Format::Kaggle] {
        let wanted = Wanted { format: Some(format), ..place.wanted() };
        assert!(place.pack_wanted("refused", &wanted, &settings()).is_err(), "{format:?}");
    }
    let wanted = Wanted { format: Some(Format::Ilsvrc), ..place.wanted() };
    assert_eq!(packed(place.pack_wanted("out", &wanted, &settings())).format, Format::Ilsvrc);
}
