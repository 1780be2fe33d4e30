//! What is drawn is a data set in the right layout, and an honest problem.

use convoy_common::failure::Explain;
use convoy_common::image::decode;
use tempfile::TempDir;

use super::*;

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                found.push((entry.path(), fs::read(entry.path()).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn relative(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let strip = |(path, bytes): (PathBuf, _)| (path.strip_prefix(folder).unwrap().into(), bytes);
    files(folder).into_iter().map(strip).collect()
}

#[test]
fn a_seed_draws_the_same_files_on_any_number_of_threads_and_another_seed_draws_others() {
    let folder = TempDir::new().unwrap();
    let drawn = |name: &str, seed, threads| {
        let folder = folder.path().join(name);
        draw(&folder, &Plan::new(10, 12, 10, seed), threads, false).unwrap();
        relative(&folder)
    };
    let one = drawn("one", 5, 1);
    assert_eq!(one, drawn("three", 5, 3));
    let other = drawn("other", 6, 2);
    assert_eq!(one.len(), 12 + 10 + 1);
    assert!(one.iter().zip(&other).all(|(a, b)| a.0 == b.0 && a.1 != b.1));
    let ring = Path::new("train/ring/000003.jpg");
    assert!(one.iter().any(|(path, _)| path == ring));
}

#[test]
fn pictures_have_many_sizes_and_never_repeat_between_the_splits() {
    let folder = TempDir::new().unwrap();
    draw(folder.path(), &Plan::new(2, 8, 8, 1), 2, false).unwrap();
    let mut sizes = std::collections::BTreeSet::new();
    let mut contents = std::collections::BTreeSet::new();
    for (_, bytes) in files(folder.path()).into_iter().filter(|(path, _)| !path.ends_with(RECORD)) {
        let image = decode(&bytes).unwrap();
        for side in [image.width, image.height] {
            assert!((200..=500).contains(&side));
        }
        sizes.insert((image.width, image.height));
        contents.insert(bytes);
    }
    assert!(sizes.len() > 12 && contents.len() == 16);
}

#[test]
fn a_folder_is_reused_only_if_it_holds_exactly_this() {
    let folder = TempDir::new().unwrap();
    let plan = Plan::new(2, 2, 2, 1);
    assert!(!draw(folder.path(), &plan, 1, true).unwrap().reused);
    let before = files(folder.path());
    assert!(draw(folder.path(), &plan, 1, true).unwrap().reused);
    let refused = |plan: &Plan, reuse| draw(folder.path(), plan, 1, reuse).err().unwrap();
    assert!(matches!(refused(&plan, false), SynthesizeError::Occupied { .. }));
    let error = refused(&Plan::new(2, 2, 2, 9), true);
    assert!(matches!(error, SynthesizeError::Differs { .. }) && error.hint().is_some());
    assert_eq!(files(folder.path()), before);
    // Broken off before the record: drawn again.
    fs::remove_file(folder.path().join(RECORD)).unwrap();
    assert!(!draw(folder.path(), &plan, 1, true).unwrap().reused);
}

#[test]
fn a_folder_with_somebodys_own_files_is_left_alone() {
    for stranger in ["photo.jpg", "train/holiday/photo.jpg"] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(stranger);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let outcome = draw(folder.path(), &Plan::new(2, 1, 1, 1), 1, true);
        assert!(matches!(outcome, Err(SynthesizeError::Occupied { .. })), "{stranger}");
        assert_eq!(files(folder.path()).len(), 1);
    }
}

#[test]
fn every_texture_and_every_hue_belongs_to_two_classes_that_differ_in_the_other() {
    let all: Vec<classes::Class> = (0..NAMES.len()).map(classes::Class::of).collect();
    for (number, class) in all.iter().enumerate() {
        let same = |alike: fn(&classes::Class, &classes::Class) -> bool| {
            all.iter().filter(|other| alike(class, other)).count()
        };
        assert_eq!(same(|a, b| a.texture == b.texture), 2, "class {number}");
        assert_eq!(same(|a, b| a.hue == b.hue), 2, "class {number}");
        assert_eq!(same(|a, b| a.hue == b.hue && a.texture == b.texture), 1, "class {number}");
        assert_eq!(same(|a, b| a.shape == b.shape), 1, "class {number}");
    }
}

/// The nearest of the classes' mean colours, a guess that looks at nothing else, must not do well.
#[test]
fn the_mean_colour_of_a_picture_does_not_tell_its_class() {
    let mean = |split, number: u64| -> [f64; 3] {
        let image =
            decode(&scene::draw(3, split, number, (number % 10) as usize).unwrap()).unwrap();
        let mut sums = [0.0; 3];
        for pixel in image.pixels.chunks_exact(3) {
            (0..3).for_each(|channel| sums[channel] += f64::from(pixel[channel]));
        }
        sums.map(|sum| sum * 3.0 / image.pixels.len() as f64)
    };
    let mut centres = [[0.0; 3]; 10];
    for number in 0..200 {
        let mean = mean(Split::Train, number);
        let centre = &mut centres[(number % 10) as usize];
        (0..3).for_each(|channel| centre[channel] += mean[channel] / 20.0);
    }
    let distance =
        |a: &[f64; 3], b: &[f64; 3]| (0..3).map(|at| (a[at] - b[at]).powi(2)).sum::<f64>();
    let right = (0..100)
        .filter(|&number| {
            let mean = mean(Split::Validation, number);
            let guess = (0..10).min_by(|&a, &b| {
                distance(&centres[a], &mean).total_cmp(&distance(&centres[b], &mean))
            });
            guess == Some((number % 10) as usize)
        })
        .count();
    assert!(right <= 30, "{right} of 100 guessed from the mean colour, 10 by chance");
}
