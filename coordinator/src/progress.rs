//! How far a long command is: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Time between two looks at the rate on a terminal.
const MESSAGE_EVERY: Duration = Duration::from_millis(200);

/// Progress over images, on standard error.
pub(crate) struct Progress {
    what: &'static str,
    /// Images, or bytes where it is not known how many images there are.
    total: u64,
    done: u64,
    /// Images, or what else is counted.
    images: u64,
    noun: &'static str,
    in_bytes: bool,
    started: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Over a number of images; `what` is a verb such as `packing`.
    pub(crate) fn start(what: &'static str, images: u64) -> Self {
        let template = "{prefix} [{bar:32}] {human_pos}/{human_len} images, {per_sec}, {eta} left";
        Self::new(what, images, false, template)
    }

    /// Over a number of bytes that hold images; `images` of them are there already.
    pub(crate) fn over_bytes(what: &'static str, bytes: u64, images: u64) -> Self {
        let template = "{prefix} [{bar:32}] {percent}% of {total_bytes}, {msg}, {eta} left";
        let progress = Self::new(what, bytes, true, template);
        if images > 0 {
            progress.say(&format!("{what}: {images} images are there already; going on"));
        }
        progress
    }

    /// Counts something else than images.
    pub(crate) fn counting(self, noun: &'static str) -> Self {
        Self { noun, ..self }
    }

    fn new(what: &'static str, total: u64, in_bytes: bool, template: &str) -> Self {
        let now = Instant::now();
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) = ProgressStyle::with_template(template) {
                let rate = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                    // Progress that cannot be shown is no reason to stop.
                    let _ = write!(out, "{:.0}/s", state.per_sec());
                };
                bar.set_style(style.progress_chars("=> ").with_key("per_sec", rate));
            }
            bar.set_prefix(what);
            bar
        });
        let (noun, started, said) = ("images", now, now);
        Self { what, total, done: 0, images: 0, noun, in_bytes, started, said, bar }
    }

    /// One more image is done, for which so many bytes were gone through.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.images += 1;
        let step = if self.in_bytes { bytes } else { 1 };
        self.done = (self.done + step).min(self.total);
        if let Some(bar) = &self.bar {
            bar.inc(step);
            if self.in_bytes && self.said.elapsed() >= MESSAGE_EVERY {
                self.said = Instant::now();
                bar.set_message(format!("{} {} at {:.0}/s", self.images, self.noun, self.rate()));
            }
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let part = self.done as f64 / self.total.max(1) as f64;
            let left = self.started.elapsed().as_secs_f64() * (1.0 - part) / part.max(1e-9);
            self.say(&format!(
                "{}: {:.1} %, {} {}, {:.0} {}/s, {left:.0} s left",
                self.what,
                part * 100.0,
                self.images,
                self.noun,
                self.rate(),
                self.noun,
            ));
        }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            // Progress that cannot be shown is no reason to stop.
            None => drop(writeln!(io::stderr(), "{line}")),
        }
    }

    /// Takes the bar away; returns the time since the start.
    pub(crate) fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed()
    }

    fn rate(&self) -> f64 {
        self.images as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}
