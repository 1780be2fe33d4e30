//! Logs: every line of every process in one form, with who said it.
//!
//! A process writes each event once to its console (standard error) and once to its own file, as
//! text for people or as JSON for programs. A launcher starts its children with JSON, reads their
//! standard error line by line and [`render`]s it, so that all processes' lines look alike:
//!
//! ```text
//! tracing event --> Line --+--> text: 14:03:07.250  INFO worker-1  step  loss=2.31 lr=0.01
//!                          +--> JSON --> launcher --> render --> the same text
//! ```
//!
//! Who speaks and where the file lies may be known late (a worker learns its run from the
//! coordinator): [`Telemetry`] takes both whenever they are known, and the file starts with the
//! lines from before. This module decides no text and no level of any event.

mod args;
mod layer;
mod line;

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::args::{Args, Format};
use self::layer::LineLayer;
pub use self::line::{Line, render};
use crate::exit;
use crate::failure::Explain;

/// Lines kept for a file that is not named yet.
const LARGEST_BACKLOG: usize = 1000;

/// How a process logs.
pub struct Settings {
    /// Of console and file.
    pub format: Format,
    /// A level, or directives such as `info,convoy_worker=debug`.
    pub filter: String,
    /// What the process is: `coordinator`, `worker`, `launch`.
    pub role: String,
    /// Where console lines go; none: standard error, with colours on a terminal.
    pub console: Option<Box<dyn Write + Send>>,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not a level and not a list of directives.
    #[error("the log level {filter:?} is not one: {reason}")]
    BadFilter {
        /// As given.
        filter: String,
        /// The parser's words.
        reason: String,
    },
    /// A subscriber was there before.
    #[error("logging was set up twice")]
    Twice,
    /// The log file.
    #[error("cannot write the log file {}", path.display())]
    File {
        /// Of the file or its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Explain for TelemetryError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::BadFilter { .. } => Some(
                "write error, warn, info, debug, trace, or info,convoy_worker=debug".to_owned(),
            ),
            Self::Twice => None,
            Self::File { .. } => Some("choose another log.folder".to_owned()),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            Self::BadFilter { .. } => exit::USAGE,
            Self::Twice => exit::FAILURE,
            Self::File { .. } => exit::BAD_INPUT,
        }
    }
}

/// The running process's log.
#[derive(Clone)]
pub struct Telemetry {
    sinks: Arc<Mutex<Sinks>>,
}

/// Who speaks and where lines go. Held by the layer and by [`Telemetry`], and locked for the time
/// of one line.
struct Sinks {
    format: Format,
    role: String,
    name: Option<String>,
    run: Option<String>,
    console: Console,
    file: FileSink,
}

enum Console {
    StandardError { colours: bool },
    Other(Box<dyn Write + Send>),
}

enum FileSink {
    /// Lines so far, for when the file is named.
    Backlog(Vec<String>),
    Open(File),
}

/// Sets up logging for the whole process.
///
/// # Errors
///
/// [`TelemetryError::BadFilter`] and [`TelemetryError::Twice`].
pub fn start(settings: Settings) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::builder().parse(&settings.filter).map_err(|error| {
        TelemetryError::BadFilter { filter: settings.filter.clone(), reason: error.to_string() }
    })?;
    let telemetry = Telemetry::new(settings);
    tracing_subscriber::registry()
        .with(filter)
        .with(telemetry.layer())
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(telemetry)
}

/// For a command that reports in its own words: what should not pass unseen is said on standard error.
/// Does nothing where logging is set up already.
pub fn warnings(role: &str) {
    let (filter, role) = ("warn".to_owned(), role.to_owned());
    let _ = start(Settings { format: Format::Text, filter, role, console: None });
}

impl Telemetry {
    fn new(settings: Settings) -> Self {
        let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let sinks = Sinks {
            format: settings.format,
            role: settings.role,
            name: None,
            run: None,
            console: settings.console.map_or(Console::StandardError { colours }, Console::Other),
            file: FileSink::Backlog(Vec::new()),
        };
        Self { sinks: Arc::new(Mutex::new(sinks)) }
    }

    fn layer(&self) -> LineLayer {
        LineLayer::new(self.clone())
    }

    /// Says which run the process belongs to and what it is called in it, such as `worker-1`.
    pub fn identify(&self, run: Option<&str>, name: Option<&str>) {
        let mut sinks = self.lock();
        sinks.run = run.map(str::to_owned).or(sinks.run.take());
        sinks.name = name.map(str::to_owned).or(sinks.name.take());
    }

    /// From now on writes every line to `<folder>/<name or role>.log` too, after the lines so far.
    /// A file that is there is continued.
    ///
    /// # Errors
    ///
    /// [`TelemetryError::File`]; the console goes on.
    pub fn write_file(&self, folder: &Path) -> Result<PathBuf, TelemetryError> {
        let mut sinks = self.lock();
        let path = folder.join(format!("{}.log", file_stem(sinks.who())));
        let failed = |source| TelemetryError::File { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        if let FileSink::Backlog(lines) = &sinks.file {
            // A full disk costs these lines, and is no reason not to train.
            drop(file.write_all(lines.concat().as_bytes()));
        }
        sinks.file = FileSink::Open(file);
        Ok(path)
    }

    fn lock(&self) -> MutexGuard<'_, Sinks> {
        // A panic while a line was written leaves nothing that the next line depends on.
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one line everywhere. A sink that fails has nobody to be told.
    fn write(&self, line: &mut Line) {
        let mut sinks = self.lock();
        line.who = sinks.who().to_owned();
        line.run.clone_from(&sinks.run);
        let plain = sinks.shape(line, false);
        match &mut sinks.file {
            FileSink::Backlog(lines) if lines.len() < LARGEST_BACKLOG => lines.push(plain.clone()),
            FileSink::Backlog(_) => {}
            FileSink::Open(file) => drop(file.write_all(plain.as_bytes())),
        }
        match &mut sinks.console {
            Console::StandardError { colours: false } => {
                drop(io::stderr().write_all(plain.as_bytes()));
            }
            Console::StandardError { colours: true } => {
                let coloured = sinks.shape(line, true);
                drop(io::stderr().write_all(coloured.as_bytes()));
            }
            Console::Other(out) => drop(out.write_all(plain.as_bytes())),
        }
    }
}

impl Sinks {
    fn who(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.role)
    }

    fn shape(&self, line: &Line, colours: bool) -> String {
        let mut text = String::new();
        match self.format {
            Format::Text => line.write_text(colours, &mut text),
            Format::Json => line.write_json(&mut text),
        }
        text.push('\n');
        text
    }
}

/// A name made safe as a file's: names may come from the command line.
fn file_stem(who: &str) -> String {
    let safe = |it: char| if it.is_ascii_alphanumeric() || "-_.".contains(it) { it } else { '_' };
    let stem: String = who.chars().map(safe).collect();
    if stem.trim_matches('.').is_empty() { "process".to_owned() } else { stem }
}

#[cfg(test)]
mod tests;
