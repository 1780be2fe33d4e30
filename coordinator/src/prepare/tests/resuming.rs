//! Packings that were broken off, and what the next attempt makes of them. That a killed process
//! leaves such a state is tested with the real program in `tests/prepare.rs`.

use super::*;

/// All files below a destination with their bytes, but for leftovers of the store's own.
fn files(place: &Folder, name: &str) -> Vec<(String, Vec<u8>)> {
    let root = place.folder.path().join(name);
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                files.push((name, fs::read(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// Packs until the picture at a place of the order, which is made bad for the time; what is there
/// then is what a stop at that place leaves. Small shards, so that some are finished.
fn stop_at(place: &Folder, name: &str, settings: &Settings, at: usize) {
    let whole = format!("{name}-whole");
    place.report(&whole, settings);
    let mut order = place.names(&whole, Split::Train);
    order.extend(place.names(&whole, Split::Validation));
    let path = place.source().join(&order[at]);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, vec![0; bytes.len()]).unwrap();
    let strict = Settings { on_bad_image: OnBadImage::Fail, ..settings.clone() };
    let Err(error) = place.pack(name, &strict) else { panic!("was packed") };
    assert!(error.to_string().contains(&order[at]), "{error}");
    fs::write(&path, bytes).unwrap();
}

fn small_shards() -> Settings {
    Settings { sizes: Sizes { shard: 5_000 }, ..settings() }
}

#[test]
fn a_packing_that_was_stopped_is_gone_on_with_and_gives_the_bytes_of_an_unbroken_one() {
    let place = Folder::imagenet();
    place.add("train/cat/notes.txt", b"ignored");
    place.add("val/dog/notes.txt", b"ignored too");
    let whole = place.report("whole", &small_shards());
    assert!(whole.packed.shards > 8, "{}", whole.packed.shards);
    let expected = files(&place, "whole");
    for (threads, at) in [0, 4, 11, 12, 17].into_iter().enumerate() {
        let name = format!("broken-{at}");
        stop_at(&place, &name, &small_shards(), at);
        let report = place.report(&name, &Settings { threads: threads + 1, ..small_shards() });
        assert!(report.resumed <= at as u64 && report.resumed + 3 > at as u64, "{at}");
        assert_eq!(report.ignored, 2);
        assert!(files(&place, &name) == expected, "stopped at {at}");
    }
}

#[test]
fn what_was_skipped_before_the_stop_and_behind_it_is_listed() {
    let place = Folder::imagenet();
    (0..12).for_each(|n| place.add(&format!("train/cat/bad{n}.jpg"), b"bad"));
    place.add("val/dog/bad.jpg", b"bad too");
    let strict = Settings { on_bad_image: OnBadImage::Fail, ..small_shards() };
    assert!(place.pack("out", &strict).is_err());
    assert_eq!(place.report("out", &small_shards()).skipped.len(), 13);
    place.report("whole", &small_shards());
    assert!(files(&place, "out") == files(&place, "whole"));
}

#[test]
fn a_stop_that_was_asked_for_ends_it_and_says_what_is_kept() {
    let place = Folder::imagenet();
    let (trigger, shutdown) = shutdown::channel();
    trigger.request(shutdown::Urgency::Orderly, "SIGTEST");
    let outcome =
        pack(&place.runtime, &place.wanted(), &place.store("out"), &small_shards(), &shutdown);
    let Outcome::Stopped { reason, kept } = outcome.unwrap() else { panic!("went on") };
    assert_eq!((reason.as_str(), kept), ("SIGTEST", 0));
    assert_eq!(place.report("out", &small_shards()).packed.identity.train, 12);
}

#[test]
fn another_source_or_other_settings_are_refused_and_begun_anew_only_if_asked_for() {
    let place = Folder::imagenet();
    stop_at(&place, "out", &small_shards(), 8);
    let other = Settings { quality: 80, sizes: Sizes { shard: 6_000 }, ..settings() };
    let Err(error) = place.pack("out", &other) else { panic!("was packed") };
    let said = error.to_string();
    assert!(said.contains("quality was 90, now 80; shard-size was 5000, now 6000"), "{said}");
    assert!(error.hint().unwrap().contains("--restart"));
    place.add("train/cat/new.jpg", jpeg(40, 9));
    let Err(error) = place.pack("out", &small_shards()) else { panic!("was packed") };
    assert!(error.to_string().contains("names, sizes or labels"), "{error}");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
    let report = place.report("out", &Settings { restart: true, ..small_shards() });
    assert_eq!((report.packed.identity.train, report.resumed), (13, 0));
}

#[test]
fn a_damaged_shard_or_page_is_packed_again() {
    let place = Folder::imagenet();
    place.report("whole", &small_shards());
    let expected = files(&place, "whole");
    for damage in ["shards/00001.convoy", "unfinished/00001.bin"] {
        let name = damage.replace('/', "-");
        stop_at(&place, &name, &small_shards(), 8);
        let path = place.folder.path().join(&name).join(damage);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let report = place.report(&name, &small_shards());
        assert!(report.resumed > 0 && report.resumed < 4, "{}", report.resumed);
        assert!(files(&place, &name) == expected, "{damage}");
    }
}
