//! `convoy lr show`: the learning rate that a config makes, as table, plot or JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use convoy_common::config::{self, Decay, RunConfig};
use convoy_common::dataset::{Dataset, Split};
use convoy_common::exit;
use convoy_common::failure::Failure;
use convoy_common::ids::Position;
use convoy_common::sampling::Sampler;
use convoy_common::schedule::{LearningRate, ScheduleState};
use convoy_common::store::Store;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::plot::{self, Style};
use crate::commands::job;

/// For the data set's index to be read.
const DATA: Duration = Duration::from_secs(10);
/// Columns where the terminal does not say how many it has.
const WIDTH: usize = 80;
/// Steps of an epoch where nothing depends on how many there are.
const NOMINAL: u32 = 100;

/// Prints and plots the learning rate over a run
///
/// Steps are counted with the data set that the config names; where it cannot be read, --images
/// stands in for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  convoy lr show configs/quickstart.toml
  convoy lr show configs/large-batch.toml --images 1281167
  convoy lr show my.toml --set schedule.kind=cosine --json | jq '.epochs[].first'")]
pub(super) struct Args {
    /// The config, a TOML file
    config: PathBuf,
    /// Sets one value, whatever the file says; may be repeated
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Images of the training split, in place of the data set's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    images: Option<u64>,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let config = config::load(&args.config, &args.set)?;
    let (steps_per_epoch, note) = match args.images {
        Some(images) => (Some(steps_of(&config, images)), None),
        None => match job::runtime()?.block_on(images_of(&config)) {
            Ok(images) => (Some(steps_of(&config, images)), None),
            Err(reason) => (None, Some(reason)),
        },
    };
    if let (None, Some(reason)) = (steps_per_epoch, &note)
        && (config.train.max_steps.is_some() || config.schedule.warmup_steps > 0)
    {
        let text = format!("the steps of an epoch are not known: {reason}");
        let hint = "train.max_steps and schedule.warmup_steps count steps; give --images N, the \
                    size of the training split";
        return Err(Failure::new(exit::UNAVAILABLE, text).with_hint(hint));
    }
    let curve = Curve::new(&config, steps_per_epoch);
    let text = if args.json {
        format!("{}\n", curve.as_json())
    } else {
        let terminal = io::stdout().is_terminal();
        let style = Style {
            width: if terminal { columns() } else { WIDTH },
            fancy: terminal,
            logarithmic: !config.schedule.depends_on_end(),
        };
        let note = note.map(|it| format!("steps are not known: {it}\n")).unwrap_or_default();
        format!("{}\n{}\n{note}{}", curve.heading(), curve.plot(style), curve.table())
    };
    // A reader that closed the pipe has seen enough.
    let _ = io::stdout().write_all(text.as_bytes());
    Ok(ExitCode::SUCCESS)
}

fn columns() -> usize {
    rustix::termios::tcgetwinsize(io::stdout())
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(WIDTH)
}

fn steps_of(config: &RunConfig, images: u64) -> u32 {
    let (batch, microbatch) = (config.train.batch, config.numerics.microbatch);
    Sampler::new(config.run.seed, images, batch, microbatch).steps_per_epoch()
}

/// Images of the training split, or why they are not known.
async fn images_of(config: &RunConfig) -> Result<u64, String> {
    let store = Store::open(&config.data.url).map_err(|error| error.to_string())?;
    match timeout(DATA, Dataset::open(store)).await {
        Ok(Ok(dataset)) => Ok(dataset.len(Split::Train)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{} did not answer within {} s", config.data.url, DATA.as_secs())),
    }
}

/// One epoch of the table.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    epoch: u32,
    /// Steps of the run before it.
    step: u64,
    /// At its first step and at its last.
    first: f64,
    last: f64,
}

struct Curve<'a> {
    config: &'a RunConfig,
    rule: LearningRate,
    known: bool,
    steps_per_epoch: u32,
    total: u64,
}

impl<'a> Curve<'a> {
    fn new(config: &'a RunConfig, steps: Option<u32>) -> Self {
        let steps_per_epoch = steps.unwrap_or(NOMINAL);
        Self {
            rule: LearningRate::new(&config.train, &config.schedule, steps_per_epoch),
            known: steps.is_some(),
            total: config.train.total_steps(steps_per_epoch),
            steps_per_epoch,
            config,
        }
    }

    /// Before any evaluation.
    fn rate(&self, global_step: u64) -> f64 {
        let steps = u64::from(self.steps_per_epoch);
        let at = Position {
            epoch: u32::try_from(global_step / steps).unwrap_or(u32::MAX),
            step: (global_step % steps) as u32,
        };
        self.rule.rate(&ScheduleState::default(), at)
    }

    fn rows(&self) -> impl Iterator<Item = Row> {
        let steps = u64::from(self.steps_per_epoch);
        (0..self.total.div_ceil(steps)).map(move |epoch| {
            let step = epoch * steps;
            let last = (step + steps).min(self.total) - 1;
            let epoch = u32::try_from(epoch).unwrap_or(u32::MAX);
            Row { epoch, step, first: self.rate(step), last: self.rate(last) }
        })
    }

    /// The rates that the plateau rule may come to, and what is not known of it.
    fn plateau(&self) -> Option<(Vec<f64>, String)> {
        let Decay::Plateau { patience, divide_by, max_drops, .. } = self.config.schedule.decay
        else {
            return None;
        };
        let at = Position { epoch: self.config.train.epochs, step: 0 };
        let rates = (0..=max_drops)
            .map(|drops| self.rule.rate(&ScheduleState { drops, ..ScheduleState::default() }, at));
        let rates: Vec<f64> = rates.collect();
        let shown: Vec<String> = rates.iter().map(|it| plot::rate(*it)).collect();
        let unknown = format!(
            "plateau: where the rate drops cannot be known beforehand; it is divided by {divide_by} \
             after {patience} evaluations without improvement ({}), and one more such time ends the \
             run; drawn without drops",
            shown.join(", ")
        );
        Some((rates, unknown))
    }

    fn heading(&self) -> String {
        let RunConfig { train, schedule, .. } = self.config;
        let mut text = format!("{}, lr {}", self.kind(), train.lr);
        // Writing to a text cannot fail.
        if let Some(base) = train.lr_base_batch {
            let _ = write!(text, " * {} / {base} = {}", train.batch, plot::rate(train.peak_rate()));
        }
        let warmup = match (schedule.warmup_epochs, schedule.warmup_steps) {
            (0, 0) => None,
            (0, steps) => Some(format!("{steps} steps")),
            (epochs, _) => Some(format!("{epochs} epochs")),
        };
        if let Some(length) = warmup {
            let _ = write!(text, ", warm-up over {length} from {} of it", schedule.warmup_from);
        }
        if self.known {
            let (steps, total) = (self.steps_per_epoch, self.total);
            let _ = write!(text, "\n{} epochs of {steps} steps, {total} in all", train.epochs);
        } else {
            let _ = write!(text, "\n{} epochs", train.epochs);
        }
        if let Some((_, unknown)) = self.plateau() {
            let _ = write!(text, "\n{unknown}");
        }
        text.push('\n');
        text
    }

    fn kind(&self) -> &'static str {
        match self.config.schedule.decay {
            Decay::Constant => "constant",
            Decay::Steps { .. } => "steps",
            Decay::Plateau { .. } => "plateau",
            Decay::Polynomial { .. } => "polynomial",
            Decay::Cosine { .. } => "cosine",
        }
    }

    fn plot(&self, style: Style) -> String {
        let columns = style.columns() as u64;
        let last = self.total.saturating_sub(1);
        // In 128 bits, so that no count of steps overflows.
        let step =
            |column: u64| (u128::from(column) * u128::from(last) / u128::from(columns - 1)) as u64;
        let points: Vec<f64> = (0..columns).map(|column| self.rate(step(column))).collect();
        let right = if self.known && self.config.train.max_steps.is_some() {
            format!("step {}", self.total)
        } else {
            format!("epoch {}", self.config.train.epochs)
        };
        plot::draw(&points, style, "0", &right)
    }

    /// One line for each stretch of epochs with one rate throughout, else one for each epoch.
    fn table(&self) -> String {
        let mut text = if self.known {
            format!(
                "{:>13} {:>12} {:>12} {:>12}\n",
                "EPOCH", "FROM STEP", "FIRST STEP", "LAST STEP"
            )
        } else {
            format!("{:>13} {:>12}\n", "EPOCH", "FIRST STEP")
        };
        let mut rows = self.rows().peekable();
        while let Some(row) = rows.next() {
            let flat = |it: &Row| it.first == row.first && it.last == row.first;
            let mut until = row.epoch;
            while let Some(next) = rows.next_if(|it| flat(&row) && flat(it)) {
                until = next.epoch;
            }
            let epochs = match until {
                until if until == row.epoch => row.epoch.to_string(),
                until => format!("{}-{until}", row.epoch),
            };
            let (first, last) = (plot::rate(row.first), plot::rate(row.last));
            let _ = if self.known {
                writeln!(text, "{epochs:>13} {:>12} {first:>12} {last:>12}", row.step)
            } else {
                writeln!(text, "{epochs:>13} {first:>12}")
            };
        }
        text
    }

    fn as_json(&self) -> Value {
        let rows = self.rows().map(|row| {
            json!({
                "epoch": row.epoch,
                "step": self.known.then_some(row.step),
                "first": row.first,
                "last": self.known.then_some(row.last),
            })
        });
        json!({
            "kind": self.kind(),
            "peak_lr": self.config.train.peak_rate(),
            "steps_per_epoch": self.known.then_some(self.steps_per_epoch),
            "total_steps": self.known.then_some(self.total),
            "epochs": rows.collect::<Vec<_>>(),
            "plateau": self.plateau().map(|(rates, unknown)| {
                json!({ "rates": rates, "unknown": unknown })
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use convoy_common::config::Source;

    use super::*;

    fn config(set: &[&str]) -> RunConfig {
        let set: Vec<String> = set.iter().map(|it| (*it).to_owned()).collect();
        let text = "[run]\nurl = \"a\"\n[data]\nurl = \"b\"\n[train]\nepochs = 6\n";
        let source = Source::new(Path::new("a.toml"), &set);
        source.with_environment(vec![]).with_folder("/x").resolve_text(text).unwrap().config
    }

    #[test]
    fn epochs_of_one_rate_share_a_line() {
        let drops = "schedule.drops=[{ epoch = 2, factor = 0.1 }, { epoch = 5, factor = 0.5 }]";
        let config = config(&["schedule.kind=steps", drops]);
        let table = Curve::new(&config, Some(10)).table();
        let rows: Vec<Vec<&str>> =
            table.lines().skip(1).map(|it| it.split_whitespace().collect()).collect();
        assert_eq!(
            rows,
            [
                ["0-1", "0", "0.01", "0.01"],
                ["2-4", "20", "0.001", "0.001"],
                ["5", "50", "0.0005", "0.0005"]
            ]
        );
    }

    #[test]
    fn a_plateau_is_said_to_be_unknown_and_its_rates_are_listed() {
        let config = config(&[]);
        let curve = Curve::new(&config, Some(10));
        let heading = curve.heading();
        assert!(heading.contains("cannot be known beforehand"), "{heading}");
        assert!(heading.contains("(0.01, 0.001, 0.0001, 1.000e-5)"), "{heading}");
        assert_eq!(curve.as_json()["plateau"]["rates"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_scaled_rate_with_its_warm_up_is_told_in_the_heading_and_seen_in_the_table() {
        let config = config(&[
            "schedule.kind=polynomial",
            "train.batch=1024",
            "train.lr_base_batch=256",
            "schedule.warmup_epochs=2",
        ]);
        let curve = Curve::new(&config, Some(10));
        let heading = curve.heading();
        assert!(heading.starts_with("polynomial, lr 0.01 * 1024 / 256 = 0.04, warm-up over 2 ep"));
        let json = curve.as_json();
        assert_eq!(
            (json["total_steps"].as_u64(), json["peak_lr"].as_f64()),
            (Some(60), Some(0.04))
        );
        assert_eq!(json["epochs"][0]["first"].as_f64(), Some(0.004));
        assert!(json["plateau"].is_null());
    }

    #[test]
    fn without_the_data_set_the_first_rates_of_epochs_are_right() {
        let config = config(&["schedule.kind=cosine", "schedule.warmup_epochs=1"]);
        let firsts = |steps| {
            let json = Curve::new(&config, steps).as_json();
            let epochs = json["epochs"].as_array().unwrap().clone();
            epochs.iter().map(|it| it["first"].as_f64().unwrap()).collect::<Vec<_>>()
        };
        for (nominal, real) in firsts(None).iter().zip(firsts(Some(1251))) {
            assert!((nominal - real).abs() < 1e-15, "{nominal} and {real}");
        }
        assert!(Curve::new(&config, None).as_json()["epochs"][0]["last"].is_null());
    }

    #[test]
    fn a_run_that_ends_within_an_epoch_has_its_last_row_there() {
        let config = config(&["schedule.kind=constant", "train.max_steps=13"]);
        let curve = Curve::new(&config, Some(10));
        let rows: Vec<Row> = curve.rows().collect();
        assert_eq!(rows.len(), 2);
        assert!(
            curve.plot(Style { width: 60, fancy: false, logarithmic: true }).contains("step 13")
        );
    }
}
