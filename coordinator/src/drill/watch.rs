//! What a drill knows of its job: when which step was finished, and what the coordinator said of
//! losses and generations.
//!
//! It is put together from the log lines of all processes, each with the time at which it was
//! written. Every worker tells each step that it commits, so steps are seen also while the
//! coordinator is away. Nothing here acts: it is asked.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use convoy_common::telemetry::Line;
use serde_json::Value;

/// What the coordinator said that bears on a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// This worker is gone.
    Lost(String),
    /// This worker wants to go.
    Leaving(String),
    /// The generation does not go on, for whatever reason.
    Broken,
    /// The next generation begins before this step.
    Formed(u64),
    /// A checkpoint is not finished, or waits for the store.
    Abandoned,
    /// A coordinator is there.
    Listening,
}

/// The images that all ranks together fed into a step, as the ranks told one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// How many.
    pub(super) samples: u64,
    /// Sum of their marks, see [`convoy_common::sampling::mark`].
    pub(super) images: u64,
}

/// The job's story so far.
#[derive(Debug, Default)]
pub(super) struct Journal {
    steps_per_epoch: u32,
    /// Steps by the time at which the first worker had committed them; one that is made again comes
    /// again.
    finished: Vec<(SystemTime, u64)>,
    /// The last of them that still counts.
    newest: u64,
    /// By its number, what was fed into the step before.
    fed: BTreeMap<u64, Fed>,
    signs: Vec<(SystemTime, Sign)>,
    /// The outcome that the coordinator named.
    outcome: Option<String>,
}

impl Journal {
    /// Of a job that has not begun.
    pub(super) fn new(steps_per_epoch: u32) -> Self {
        Self { steps_per_epoch, ..Self::default() }
    }

    /// Takes in a line of a worker.
    pub(super) fn worker(&mut self, line: &Line) {
        if line.message != "step committed" {
            return;
        }
        let Some(step) = self.step_of(line) else { return };
        let number = |name: &str| line.fields.get(name).and_then(Value::as_u64);
        if let (Some(samples), Some(images)) = (number("samples"), number("images")) {
            // The last one counts: a step that is made again replaces what did not survive.
            self.fed.insert(step, Fed { samples, images });
        }
        if step > self.newest {
            self.newest = step;
            self.finished.push((time_of(line), step));
        }
    }

    /// Takes in a line of the coordinator.
    pub(super) fn coordinator(&mut self, line: &Line) {
        let text = |name: &str| {
            line.fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let sign = match line.message.as_str() {
            "worker lost" | "worker without a rank left" => Sign::Lost(text("worker")),
            "worker wants to leave" => Sign::Leaving(text("worker")),
            "generation broken; looking for the cause"
            | "generation over; workers keep their state" => Sign::Broken,
            "generation formed" => {
                let Some(step) = self.step_of(line) else { return };
                self.newest = self.newest.min(step);
                Sign::Formed(step)
            }
            "checkpoint abandoned; training goes on"
            | "checkpoints wait because the run's store fails; training goes on" => Sign::Abandoned,
            "listening" => Sign::Listening,
            "job complete" | "job stopped" | "job failed" => {
                self.outcome = Some(text("outcome"));
                return;
            }
            _ => return,
        };
        self.signs.push((time_of(line), sign));
    }

    /// The last step that is finished and counts; none is 0.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// What the coordinator named as the outcome.
    pub(super) fn outcome(&self) -> Option<&str> {
        self.outcome.as_deref()
    }

    /// How many steps were finished after that moment.
    pub(super) fn finished_since(&self, moment: SystemTime) -> usize {
        self.finished.iter().rev().take_while(|(at, _)| *at > moment).count()
    }

    /// When the last step was finished.
    pub(super) fn last_finished(&self) -> Option<SystemTime> {
        self.finished.last().map(|(at, _)| *at)
    }

    /// The usual time from one step to the next, of late.
    pub(super) fn step_time(&self) -> Duration {
        let recent = &self.finished[self.finished.len().saturating_sub(20)..];
        let mut gaps: Vec<Duration> =
            recent.windows(2).map(|pair| between(pair[0].0, pair[1].0)).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).copied().unwrap_or_default()
    }

    /// From that moment to the coordinator's first word about `worker` or about a broken
    /// generation.
    pub(super) fn detection(
        &self,
        from: SystemTime,
        until: SystemTime,
        worker: Option<&str>,
    ) -> Option<Duration> {
        let speaks_of_it = |sign: &Sign| match sign {
            Sign::Lost(name) | Sign::Leaving(name) => Some(name.as_str()) == worker,
            Sign::Broken => true,
            Sign::Formed(_) | Sign::Abandoned | Sign::Listening => false,
        };
        self.first(from, until, speaks_of_it)
    }

    /// From that moment to the first sign that is meant.
    pub(super) fn first(
        &self,
        from: SystemTime,
        until: SystemTime,
        meant: impl Fn(&Sign) -> bool,
    ) -> Option<Duration> {
        let mut signs = self.signs.iter().filter(|(at, _)| *at >= from && *at <= until);
        // Lines of one process are in order of time.
        signs.find(|(_, sign)| meant(sign)).map(|(at, _)| between(from, *at))
    }

    /// From the first of two moments to the first step that was finished after the second.
    pub(super) fn next_step(
        &self,
        from: SystemTime,
        noticed: SystemTime,
        until: SystemTime,
    ) -> Option<Duration> {
        let mut after = self.finished.iter().map(|(at, _)| *at).filter(|at| *at > noticed);
        after.next().filter(|at| *at <= until).map(|at| between(from, at))
    }

    /// The longest time without a finished step between two moments.
    pub(super) fn pause(&self, from: SystemTime, until: SystemTime) -> Duration {
        let within = self.finished.iter().map(|(at, _)| *at);
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in within.filter(|at| *at > from && *at <= until) {
            longest = longest.max(between(last, at));
            last = at;
        }
        if last == from { between(from, until) } else { longest }
    }

    /// Finished steps that were given up between two moments, and had to be made again.
    pub(super) fn redone(&self, from: SystemTime, until: SystemTime) -> u64 {
        let mut redone = 0;
        for (at, sign) in self.signs.iter().filter(|(at, _)| *at >= from && *at <= until) {
            if let Sign::Formed(step) = sign {
                let before = self.finished.iter().rev().find(|it| it.0 <= *at);
                redone += before.map_or(0, |it| it.1.saturating_sub(*step));
            }
        }
        redone
    }

    /// What was fed into each step, by the step's number.
    pub(super) fn fed(&self) -> &BTreeMap<u64, Fed> {
        &self.fed
    }

    fn step_of(&self, line: &Line) -> Option<u64> {
        let number = |name: &str| line.fields.get(name).and_then(Value::as_u64);
        Some(number("epoch")? * u64::from(self.steps_per_epoch) + number("step")?)
    }
}

/// When the line was written; now, if it does not say.
fn time_of(line: &Line) -> SystemTime {
    humantime::parse_rfc3339(&line.time).unwrap_or_else(|_| SystemTime::now())
}

/// Zero where the clock was set back.
pub(super) fn between(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds)
    }

    fn line(milliseconds: u64, message: &str, fields: &Value) -> Line {
        let time = humantime::format_rfc3339_millis(at(milliseconds)).to_string();
        let value = serde_json::json!({
            "time": time, "level": "info", "who": "x", "target": "t", "message": message,
            "fields": fields,
        });
        Line::parse(&value.to_string()).unwrap()
    }

    fn committed(journal: &mut Journal, milliseconds: u64, epoch: u64, step: u64) {
        let fields = serde_json::json!({
            "epoch": epoch, "step": step, "samples": 8, "images": 100 * epoch + step,
        });
        journal.worker(&line(milliseconds, "step committed", &fields));
    }

    fn said(journal: &mut Journal, milliseconds: u64, message: &str, fields: Value) {
        journal.coordinator(&line(milliseconds, message, &fields));
    }

    /// Steps of 3 an epoch every 100 ms, a loss at 450, the next generation one step back.
    fn story() -> Journal {
        let mut journal = Journal::new(3);
        for number in 1..=4 {
            committed(&mut journal, 100 * number, number / 3, number % 3);
            // The other rank's word comes a little later and is no other step.
            committed(&mut journal, 100 * number + 5, number / 3, number % 3);
        }
        said(&mut journal, 470, "worker lost", serde_json::json!({ "worker": "worker-1" }));
        said(&mut journal, 471, "generation over; workers keep their state", serde_json::json!({}));
        said(&mut journal, 600, "generation formed", serde_json::json!({ "epoch": 1, "step": 0 }));
        committed(&mut journal, 900, 1, 1);
        committed(&mut journal, 1000, 1, 2);
        journal
    }

    #[test]
    fn a_step_counts_once_however_many_ranks_tell_it() {
        let journal = story();
        assert_eq!(journal.newest(), 5);
        assert_eq!(journal.finished.len(), 6, "the fourth was made twice");
        assert_eq!(journal.finished_since(at(450)), 2);
        assert_eq!(journal.last_finished(), Some(at(1000)));
        assert_eq!(journal.step_time(), Duration::from_millis(100));
        assert_eq!(journal.fed().len(), 5);
        assert_eq!(journal.fed()[&4], Fed { samples: 8, images: 101 });
    }

    #[test]
    fn detection_pause_and_steps_made_again_are_told_apart() {
        let journal = story();
        let (from, until) = (at(450), at(1000));
        let millis = Duration::from_millis;
        assert_eq!(journal.detection(from, until, Some("worker-1")), Some(millis(20)));
        // About somebody else there is only the broken generation.
        assert_eq!(journal.detection(from, until, Some("worker-0")), Some(millis(21)));
        assert_eq!(journal.detection(at(500), until, None), None);
        assert_eq!(journal.pause(from, until), millis(450));
        assert_eq!(journal.next_step(at(350), at(350), until), Some(millis(50)));
        assert_eq!(journal.next_step(at(350), at(470), until), Some(millis(550)));
        assert_eq!(journal.next_step(at(350), at(1000), until), None);
        assert_eq!(journal.pause(at(1001), at(1500)), millis(499), "nothing was finished");
        assert_eq!(journal.redone(from, until), 1);
        assert_eq!(journal.redone(at(700), until), 0);
    }

    #[test]
    fn the_outcome_is_kept_as_it_was_said() {
        let mut journal = Journal::new(3);
        said(&mut journal, 5, "job failed", serde_json::json!({ "outcome": "no data" }));
        assert_eq!(journal.outcome(), Some("no data"));
    }
}
