//! `convoy-worker predict`: what a trained net sees in pictures.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::{fs, thread};

use convoy_common::exit;
use convoy_common::failure::Failure;
use serde::Serialize;

use crate::data::{STORED_SIDE, single};
use crate::model::device::DeviceChoice;
use crate::model::{Device, Dropout, Lane, threads};
use crate::trained::{Facts, Trained};

/// Says what is in pictures: the likeliest classes and their probabilities.
///
/// A picture that cannot be read is reported on standard error and passed over; the exit code is
/// then 64, after all others have been told.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convoy-worker predict --checkpoint runs/quickstart cat.jpg dog.png
  convoy-worker predict --checkpoint s3://bucket/run@best --crops 10 my-photos/
  convoy-worker predict --checkpoint alexnet.safetensors --json my-photos/ | jq -r .image

With --json, one object for each picture and line:
  {\"image\": PATH, \"predictions\": [{\"class\": NAME, \"label\": NUMBER, \"probability\": P, \"logit\": Z}]}
With ten crops there is no logit.")]
pub(crate) struct Args {
    /// URL of a run (its newest good checkpoint is taken), RUN@best, one checkpoint in it, or a file
    /// of `convoy-worker export`.
    #[arg(long, value_name = "URL")]
    checkpoint: String,
    /// The pictures: JPEG or PNG files, or folders, in which those are looked for at all depths.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Number of classes told for each picture.
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    /// Views of each picture: 1, its centre, or 10, corners, centre and mirror images.
    #[arg(long, value_name = "1|10", default_value = "1", value_parser = super::crops)]
    crops: u32,
    /// URL of the data set that the run was trained on, if it has moved.
    #[arg(long, value_name = "URL")]
    data: Option<String>,
    /// What computes.
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto", env = "CONVOY_DEVICE")]
    device: DeviceChoice,
    /// Print JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// What is told of one picture; a line of `--json`.
#[derive(Debug, Serialize)]
struct Told {
    image: String,
    predictions: Vec<Prediction>,
}

#[derive(Debug, Serialize)]
struct Prediction {
    class: String,
    label: usize,
    probability: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logit: Option<f32>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Failure> {
    let device = Device::find(args.device)?;
    let lanes = super::lanes(None, device)? as usize;
    let runtime = super::runtime()?;
    let data = args.data.as_deref();
    let trained = runtime.block_on(Trained::open(&args.checkpoint, data, device))?;
    let mut found = Vec::new();
    args.images.iter().for_each(|image| find(image, &mut found));
    let mut failed = 0;
    predict(&args, &trained, &found, lanes, |outcome| {
        match outcome {
            Ok(told) => io::stdout().write_all(text(&told, args.json).as_bytes())?,
            Err(reason) => {
                failed += 1;
                #[expect(clippy::print_stderr, reason = "the picture is passed over")]
                {
                    eprintln!("error: {reason}");
                }
            }
        }
        Ok(())
    })?;
    if failed == 0 {
        return Ok(ExitCode::from(exit::OK));
    }
    let text = format!("{failed} of {} pictures could not be used", found.len());
    Err(Failure::new(exit::BAD_INPUT, text).with_hint("see above for each of them"))
}

/// A file that is to be looked at, or why a path leads to none.
type Found = Result<PathBuf, String>;

/// The path itself, or the pictures below it in order of their names.
fn find(path: &Path, found: &mut Vec<Found>) {
    if !path.is_dir() {
        return found.push(Ok(path.to_owned()));
    }
    let before = found.len();
    let entries = fs::read_dir(path).and_then(|entries| {
        entries.map(|entry| entry.map(|it| it.path())).collect::<io::Result<Vec<_>>>()
    });
    match entries {
        Err(error) => found.push(Err(format!("cannot read {}: {error}", path.display()))),
        Ok(mut entries) => {
            entries.sort_unstable();
            for entry in entries.iter().filter(|it| !is_hidden(it)) {
                if entry.is_dir() && !entry.is_symlink() {
                    // Links to folders are left out: they may lead back.
                    find(entry, found);
                } else if is_picture(entry) {
                    found.push(Ok(entry.clone()));
                }
            }
            if found.len() == before {
                found.push(Err(format!("{} holds no .jpeg, .jpg or .png", path.display())));
            }
        }
    }
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// As `convoy prepare` has it: by the extension alone; the content has the last word.
fn is_picture(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["jpeg", "jpg", "png"].iter().any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Looks at the pictures on several threads, each picture by itself, so that what is said of one
/// does not depend on the others; `tell` gets the outcomes in order.
fn predict(
    args: &Args,
    trained: &Trained,
    found: &[Found],
    lanes: usize,
    mut tell: impl FnMut(Result<Told, String>) -> io::Result<()>,
) -> Result<(), Failure> {
    let next = AtomicUsize::new(0);
    let (facts, threads_per_lane) = (&trained.facts, trained.threads_per_lane);
    let side = if args.crops == 1 { trained.net.spec().side() } else { STORED_SIDE };
    let lane = Lane::new(&trained.net, Dropout { seed: 0, probability: 0.0 });
    let outcome: io::Result<()> = thread::scope(|scope| {
        let (to, results) = mpsc::channel();
        for _ in 0..lanes.min(found.len()) {
            let (lane, to, next) = (lane.share(), to.clone(), &next);
            scope.spawn(move || {
                threads::use_on_this_thread(threads_per_lane);
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(it) = found.get(place) else { break };
                    let told = it.as_ref().map_err(Clone::clone);
                    let told = told.and_then(|path| look(args, facts, side, &lane, path));
                    if to.send((place, told)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(to);
        let (mut early, mut due) = (BTreeMap::new(), 0);
        for (place, told) in results {
            early.insert(place, told);
            while let Some(told) = early.remove(&due) {
                due += 1;
                tell(told)?;
            }
        }
        Ok(())
    });
    match outcome {
        // Whoever closed the pipe has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.map_err(|error| Failure::new(exit::FAILURE, error)),
    }
}

/// What the net sees in one file, of which it is shown a square of that side.
fn look(args: &Args, facts: &Facts, side: usize, lane: &Lane, path: &Path) -> Result<Told, String> {
    let image = path.display().to_string();
    let unreadable = |error: io::Error| format!("cannot read {image}: {error}");
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        // A pipe would never end.
        return Err(format!("cannot read {image}: it is no regular file"));
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    let pixels = single(&bytes, side, &facts.mean_image, facts.model.pixel_scale)
        .map_err(|error| format!("cannot use {image}: {error}"))?;
    let scores = lane.scores(&pixels, 1).map_err(|error| format!("{image}: {error}"))?;
    let probabilities = softmax(&scores);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let predictions = order.into_iter().take(args.top).map(|label| Prediction {
        class: facts.class_names[label].clone(),
        label,
        probability: probabilities[label],
        logit: (args.crops == 1).then_some(scores[label]),
    });
    Ok(Told { image, predictions: predictions.collect() })
}

fn softmax(scores: &[f32]) -> Vec<f64> {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponents: Vec<f64> = scores.iter().map(|it| f64::from(it - most).exp()).collect();
    let sum: f64 = exponents.iter().sum();
    exponents.into_iter().map(|it| it / sum).collect()
}

fn text(told: &Told, json: bool) -> String {
    if json {
        let line = serde_json::to_string(told).expect("invariant: plain data has a JSON form");
        return line + "\n";
    }
    let mut text = format!("{}\n", told.image);
    for it in &told.predictions {
        text += &format!("{:8.2} %  {}\n", 100.0 * it.probability, it.class);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_add_up_to_one_also_for_scores_that_are_far_apart() {
        let even = softmax(&[2.0, 2.0, 2.0, 2.0]);
        assert_eq!(even, [0.25; 4]);
        let wide = softmax(&[1000.0, 0.0, -1000.0]);
        assert_eq!(wide, [1.0, 0.0, 0.0]);
    }

    #[test]
    fn folders_are_searched_at_all_depths_in_order_for_pictures_alone() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"x").unwrap();
        };
        ["b/2.JPEG", "b/1.png", "a.jpg", "notes.txt", ".hidden.png", ".cache/3.png"]
            .iter()
            .for_each(|it| make(it));
        fs::create_dir(folder.path().join("empty")).unwrap();
        let mut found = Vec::new();
        find(folder.path(), &mut found);
        let shown: Vec<String> = found
            .into_iter()
            .map(|it| match it {
                Ok(path) => path.strip_prefix(folder.path()).unwrap().display().to_string(),
                Err(_) => "nothing".to_owned(),
            })
            .collect();
        assert_eq!(shown, ["a.jpg", "b/1.png", "b/2.JPEG", "nothing"]);
    }
}
