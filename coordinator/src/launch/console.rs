//! One place for what all processes say: the launcher's stderr, and a file for each process.
//!
//! A thread owns stderr, the progress line and the files, so lines never mix and a log line never
//! tears the progress line. It may block (a terminal that is paused, a pipe nobody reads): then
//! the children's lines wait in bounded queues, while signals and supervision go on.
//!
//! ```text
//! child stderr, stdout --line--> queue --> file: runs/logs/RUN/worker-0.log   as it was written
//!                                     \--> stderr: "12:00:01.250  INFO worker-0    ..."
//! ```

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc as std_mpsc};
use std::time::Duration;

use convoy_common::telemetry::{Format, render};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::progress::View;

/// Lines that may wait for the thread.
const QUEUE: usize = 1024;

enum Output {
    Line { source: Arc<str>, text: String },
    Progress(View),
    Finish,
}

/// The thread and the way to it.
pub(super) struct Console {
    sender: mpsc::Sender<Output>,
    finished: std_mpsc::Receiver<()>,
}

/// The lines of one process.
#[derive(Clone)]
pub(super) struct Lines {
    source: Arc<str>,
    sender: mpsc::Sender<Output>,
}

/// What the progress line shows.
#[derive(Clone)]
pub(super) struct Progress(mpsc::Sender<Output>);

impl Console {
    /// Opens `FOLDER/NAME.log` for every name, appending, and starts the thread.
    ///
    /// `progress` draws the progress line, if stderr is a terminal.
    ///
    /// # Errors
    /// The path that cannot be made or opened, and why.
    pub(super) fn start(
        folder: &Path,
        names: &[Arc<str>],
        format: Format,
        progress: bool,
    ) -> Result<Self, (PathBuf, io::Error)> {
        std::fs::create_dir_all(folder).map_err(|error| (folder.to_owned(), error))?;
        let mut files = HashMap::new();
        for name in names {
            let path = folder.join(format!("{name}.log"));
            let file = OpenOptions::new().create(true).append(true).open(&path);
            files.insert(name.clone(), file.map_err(|error| (path, error))?);
        }
        let bar = (progress && format == Format::Text && io::stderr().is_terminal()).then(bar);
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let (sender, inbox) = mpsc::channel(QUEUE);
        let (done, finished) = std_mpsc::channel();
        let mut printer = Printer { files, format, colours, bar };
        std::thread::spawn(move || {
            printer.run(inbox);
            // Nobody waits if the launcher has given up on a blocked stderr.
            let _ = done.send(());
        });
        Ok(Self { sender, finished })
    }

    /// The way for the lines of the process called `name`.
    pub(super) fn lines(&self, name: &Arc<str>) -> Lines {
        Lines { source: name.clone(), sender: self.sender.clone() }
    }

    /// The way for the progress line's content.
    pub(super) fn progress(&self) -> Progress {
        Progress(self.sender.clone())
    }

    /// Prints what is queued and ends the thread; gives up after `patience`.
    pub(super) fn finish(self, patience: Duration) {
        if self.sender.try_send(Output::Finish).is_ok() {
            let _ = self.finished.recv_timeout(patience);
        }
    }
}

impl Lines {
    /// Waits for a place in the queue: whoever writes faster than stderr takes is slowed down.
    pub(super) async fn send(&self, text: String) {
        // The thread is gone only when the launcher is.
        let _ = self.sender.send(Output::Line { source: self.source.clone(), text }).await;
    }
}

/// The launcher's own events; dropped rather than waited for when the queue is full.
impl Write for Lines {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event).trim_end().to_owned();
        if !text.is_empty() {
            let _ = self.sender.try_send(Output::Line { source: self.source.clone(), text });
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Progress {
    /// Shows `view`; skipped when the queue is full.
    pub(super) fn show(&self, view: View) {
        let _ = self.0.try_send(Output::Progress(view));
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template("{bar:24} {msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
    bar.set_style(style);
    bar.set_message("starting");
    bar
}

struct Printer {
    files: HashMap<Arc<str>, File>,
    format: Format,
    colours: bool,
    bar: Option<ProgressBar>,
}

impl Printer {
    fn run(&mut self, mut inbox: mpsc::Receiver<Output>) {
        while let Some(output) = inbox.blocking_recv() {
            match output {
                Output::Line { source, text } => self.line(&source, &text),
                Output::Progress(view) => {
                    if let Some(bar) = &self.bar {
                        bar.set_length(view.steps);
                        bar.set_position(view.step);
                        bar.set_message(view.text);
                    }
                }
                Output::Finish => break,
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    // A stderr or a disk that takes nothing any more must not end the job: training goes on
    // without its log, and the other place still gets the line.
    fn line(&mut self, source: &Arc<str>, text: &str) {
        if let Some(file) = self.files.get_mut(source) {
            let _ = writeln!(file, "{text}");
        }
        let shown = match self.format {
            Format::Text => {
                let mut line = String::new();
                render(text, source, self.colours, &mut line);
                line
            }
            Format::Json => tagged(source, text),
        };
        let print = || {
            let _ = writeln!(io::stderr().lock(), "{shown}");
        };
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// A JSON log line with the process's name in it; anything else becomes the message of one.
fn tagged(source: &str, text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(mut fields)) => {
            fields.entry("who").or_insert_with(|| json!(source));
            Value::Object(fields).to_string()
        }
        _ => json!({ "level": "warn", "who": source, "message": text }).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Arc<str> {
        Arc::from(text)
    }

    #[test]
    fn a_json_line_keeps_its_fields_and_gains_the_process() {
        let line = tagged("worker-0", r#"{"level":"info","message":"joined"}"#);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["who"], "worker-0");
        assert_eq!(value["message"], "joined");
    }

    #[test]
    fn any_other_line_becomes_the_message_of_a_json_line() {
        let value: Value = serde_json::from_str(&tagged("worker-1", "Aborted")).expect("JSON");
        assert_eq!(value["message"], "Aborted");
    }

    #[tokio::test]
    async fn every_process_has_a_file_that_grows_from_launch_to_launch() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = [name("coordinator"), name("worker-0")];
        for _ in 0..2 {
            let console =
                Console::start(folder.path(), &names, Format::Json, false).expect("start");
            console.lines(&names[1]).send("{\"a\":1}".to_owned()).await;
            console.finish(Duration::from_secs(5));
        }
        let read = |file| std::fs::read_to_string(folder.path().join(file)).expect("a file");
        assert_eq!(read("worker-0.log"), "{\"a\":1}\n{\"a\":1}\n");
        assert_eq!(read("coordinator.log"), "");
    }
}
