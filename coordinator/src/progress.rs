//! How far a long command is: a bar on a terminal, a plain line now and then elsewhere.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress over a known number of images, on standard error.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    started: Instant,
    said: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Starts at zero; `what` is a verb such as `packing`.
    pub(crate) fn start(what: &'static str, total: u64) -> Self {
        let now = Instant::now();
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total);
            let template = "{prefix} [{bar:32}] {human_pos}/{human_len} images, {per_sec}, \
                            {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(what);
            bar
        });
        Self { what, total, done: 0, started: now, said: now, bar }
    }

    /// One more image is done.
    pub(crate) fn advance(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.inc(1);
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let rate = self.rate();
            let left = (self.total - self.done.min(self.total)) as f64 / rate.max(1e-9);
            // Progress that cannot be shown is no reason to stop.
            let _ = writeln!(
                io::stderr(),
                "{}: {} of {} images, {rate:.0} images/s, {left:.0} s left",
                self.what,
                self.done,
                self.total,
            );
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
        self.done as f64 / self.started.elapsed().as_secs_f64().max(1e-9)
    }
}
