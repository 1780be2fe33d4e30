//! How fast training goes: the progress line, images a second, and the time that is left.

use std::collections::VecDeque;
use std::time::Duration;

use convoy_common::ids::Position;

use super::plan::Plan;
use super::report::{CacheReport, Evaluation, StepReport, StepTimes};

/// Steps over which the speed is taken.
const WINDOW: usize = 20;

/// What one progress line says; loss, top-1 and times are means over the steps since the last one.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// After the last of the steps.
    pub position: Position,
    /// Since the run's start.
    pub global_step: u64,
    /// How many steps the line sums up.
    pub steps: u32,
    /// Mean cross-entropy, nats.
    pub loss: f64,
    /// Share of samples whose first guess was right.
    pub top1: f64,
    /// Of the last step.
    pub learning_rate: f64,
    /// Of the whole job.
    pub images_per_second: f64,
    /// Mean over the steps.
    pub times: StepTimes,
    /// Mean over the steps of the bytes that the reporting worker sent on the ring.
    pub bytes_sent: u64,
    /// Of the worker that reports, summed over the steps; nothing where all images come from it.
    pub cache: Option<CacheReport>,
    /// Bytes a second that it fetched for its cache.
    pub fetched_per_second: f64,
    /// Until the end of the run, if it can be told.
    pub eta: Option<Duration>,
}

/// Sums up committed steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    pub(super) last_step: Option<StepReport>,
    pub(super) last_evaluation: Option<Evaluation>,
    pub(super) learning_rate: Option<f64>,
    recent: VecDeque<(u32, f64)>,
    unsaid: Vec<StepReport>,
}

impl Pace {
    /// Takes in a step.
    pub(super) fn step(&mut self, report: StepReport) {
        if report.times.total.is_finite() && report.times.total > 0.0 {
            self.recent.push_back((report.samples, report.times.total));
            if self.recent.len() > WINDOW {
                self.recent.pop_front();
            }
        }
        self.unsaid.push(report.clone());
        self.last_step = Some(report);
    }

    /// Sets the rate from here on, and gives the one before if it was another.
    pub(super) fn rate_changed(&mut self, to: f64) -> Option<f64> {
        self.learning_rate.replace(to).filter(|from| *from != to)
    }

    /// Over the last steps; evaluations and pauses do not count.
    pub(super) fn images_per_second(&self) -> f64 {
        let (samples, seconds) =
            self.recent.iter().fold((0.0, 0.0), |sum, it| (sum.0 + f64::from(it.0), sum.1 + it.1));
        if seconds > 0.0 { samples / seconds } else { 0.0 }
    }

    /// The longest of the last steps.
    pub(super) fn longest_step(&self) -> Duration {
        let longest = self.recent.iter().map(|it| it.1).fold(0.0, f64::max);
        Duration::try_from_secs_f64(longest).unwrap_or_default()
    }

    /// The median of the last steps; zero before there are any.
    pub(super) fn typical_step(&self) -> Duration {
        let mut seconds: Vec<f64> = self.recent.iter().map(|it| it.1).collect();
        seconds.sort_by(f64::total_cmp);
        let median = seconds.get(seconds.len() / 2).copied().unwrap_or(0.0);
        Duration::try_from_secs_f64(median).unwrap_or_default()
    }

    /// Until the end of the run at the present speed, with the evaluations to come.
    pub(super) fn eta(&self, position: Position, plan: &Plan) -> Option<Duration> {
        let speed = self.images_per_second();
        if speed <= 0.0 || plan.steps_per_epoch == 0 {
            return None;
        }
        let steps = plan.total_steps().saturating_sub(plan.global_step(position));
        let images_per_step = plan.training_images as f64 / f64::from(plan.steps_per_epoch);
        let training = steps as f64 * images_per_step / speed;
        let every = u64::from(plan.evaluate_every_epochs) * u64::from(plan.steps_per_epoch);
        let evaluations = match every {
            0 => 0,
            // The end of the run is evaluated whatever the epoch.
            every => plan
                .total_steps()
                .div_ceil(every)
                .saturating_sub(plan.global_step(position) / every),
        };
        let seconds = self.last_evaluation.as_ref().map_or(0.0, |it| it.seconds.max(0.0));
        Duration::try_from_secs_f64(training + evaluations as f64 * seconds).ok()
    }

    /// The progress line for the steps since the last one, if there were any.
    pub(super) fn say(&mut self, plan: &Plan) -> Option<Progress> {
        let last = self.unsaid.last()?.clone();
        let samples: f64 = self.unsaid.iter().map(|it| f64::from(it.samples)).sum();
        let loss: f64 = self.unsaid.iter().map(|it| it.loss * f64::from(it.samples)).sum();
        let correct: f64 = self.unsaid.iter().map(|it| f64::from(it.correct)).sum();
        let steps = self.unsaid.len();
        let mean = |time: fn(&StepTimes) -> f64| {
            self.unsaid.iter().map(|it| time(&it.times)).sum::<f64>() / steps as f64
        };
        let times = StepTimes {
            data_wait: mean(|it| it.data_wait),
            compute: mean(|it| it.compute),
            all_reduce: mean(|it| it.all_reduce),
            update: mean(|it| it.update),
            total: mean(|it| it.total),
            hidden: mean(|it| it.hidden),
        };
        let sent: u64 = self.unsaid.iter().map(|it| it.bytes_sent).sum();
        let seconds: f64 = self.unsaid.iter().map(|it| it.times.total).sum();
        let cache = last.cache.map(|last| {
            self.unsaid.iter().filter_map(|it| it.cache).fold(
                CacheReport { hits: 0, misses: 0, fetched: 0, ..last },
                |sum, it| CacheReport {
                    hits: sum.hits + it.hits,
                    misses: sum.misses + it.misses,
                    fetched: sum.fetched + it.fetched,
                    ..sum
                },
            )
        });
        let fetched = cache.map_or(0, |it| it.fetched) as f64;
        self.unsaid.clear();
        Some(Progress {
            cache: cache.filter(|it| it.shards < it.of || it.misses > 0),
            fetched_per_second: if seconds > 0.0 { fetched / seconds } else { 0.0 },
            position: last.position,
            global_step: plan.global_step(last.position),
            steps: steps as u32,
            loss: loss / samples.max(1.0),
            top1: correct / samples.max(1.0),
            learning_rate: last.learning_rate,
            images_per_second: self.images_per_second(),
            times,
            bytes_sent: sent / steps as u64,
            eta: self.eta(last.position, plan),
        })
    }

    /// Whether a line is due after the last step.
    pub(super) fn is_due(&self, plan: &Plan) -> bool {
        self.unsaid.last().is_some_and(|last| {
            plan.global_step(last.position).is_multiple_of(u64::from(plan.log_every_steps.max(1)))
        })
    }
}
