//! Where a config is read from, and the whole way from there to a checked one.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Origin, Problem};
use super::raw::Entries;
use super::run_config::RunConfig;
use super::{layers, print, toml_file, validate};

/// A file longer than this is not a config.
const LARGEST_FILE: u64 = 1 << 20;

/// A config file and what is laid over it.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    overrides: Vec<String>,
    environment: Vec<(OsString, OsString)>,
    folder: Option<PathBuf>,
}

/// A checked config that remembers where each value came from.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The config.
    pub config: RunConfig,
    entries: Entries,
}

impl Source {
    /// The file at `path`, with this process's environment and `overrides` (`key=value`) on top;
    /// relative paths in it count from the current folder.
    pub fn new(path: &Path, overrides: &[String]) -> Self {
        Self {
            path: path.to_owned(),
            overrides: overrides.to_vec(),
            environment: std::env::vars_os().collect(),
            folder: std::env::current_dir().ok(),
        }
    }

    /// The same with another environment.
    #[must_use]
    pub fn with_environment(mut self, variables: Vec<(OsString, OsString)>) -> Self {
        self.environment = variables;
        self
    }

    /// The same with relative paths counted from `folder`.
    #[must_use]
    pub fn with_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Reads, merges and checks.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] holds every problem of every layer.
    pub fn resolve(&self) -> Result<Resolved, ConfigError> {
        let text = read_file(&self.path).map_err(|problem| self.failed(vec![problem]))?;
        self.resolve_text(&text)
    }

    /// The same with `text` in place of the file's.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] holds every problem of every layer.
    pub fn resolve_text(&self, text: &str) -> Result<Resolved, ConfigError> {
        let mut problems = Vec::new();
        let mut entries = layers::defaults();
        let file = toml_file::read(text, &mut problems);
        let syntax = problems.iter().any(|it| it.field.is_empty());
        layers::merge(&mut entries, file);
        layers::merge(&mut entries, layers::environment(&self.environment, &mut problems));
        layers::merge(&mut entries, layers::overrides(&self.overrides, &mut problems));
        if syntax {
            return Err(self.failed(problems));
        }
        match validate::validate(&entries, self.folder.as_deref()) {
            Ok(config) if problems.is_empty() => Ok(Resolved { config, entries }),
            Ok(_) => Err(self.failed(problems)),
            Err(more) => {
                problems.extend(more);
                Err(self.failed(problems))
            }
        }
    }

    fn failed(&self, problems: Vec<Problem>) -> ConfigError {
        ConfigError::new(self.path.display().to_string(), problems)
    }
}

impl Resolved {
    /// As [`RunConfig::to_toml`], and each value with the layer that it came from.
    pub fn to_toml(&self) -> String {
        print::with_origins(&self.config, &self.entries)
    }

    /// Where the value of `section.field` came from; none for a field that has no value.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.entries.get(key).map(|raw| &raw.origin)
    }
}

impl RunConfig {
    /// Reads [`RunConfig::to_json`]'s form, as the run record and the wire carry it, and checks it
    /// like a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], if it is not that form, or for every value that cannot be.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let failed = |problems| ConfigError::new("in JSON form", problems);
        let bad = |error: serde_json::Error| {
            let hint = "it was written by another version, or altered".to_owned();
            failed(vec![Problem::new(Origin::Json, "", error.to_string(), hint)])
        };
        let config: Self = serde_json::from_str(text).map_err(bad)?;
        validate::validate(&layers::json(&config.to_value()), None).map_err(failed)
    }
}

fn read_file(path: &Path) -> Result<String, Problem> {
    let wrong = |what: String, hint: &str| {
        Problem::new(Origin::File { line: None }, "", what, hint.to_owned())
    };
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            wrong("no such file".to_owned(), "check the path; examples are in configs/")
        }
        std::io::ErrorKind::PermissionDenied => {
            wrong("permission denied".to_owned(), "check who may read the file")
        }
        _ => wrong(format!("cannot be read: {error}"), "check the path"),
    };
    if path.is_dir() {
        return Err(wrong("is a folder".to_owned(), "name the config file within it"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(wrong("is longer than 1 MiB".to_owned(), "name a config file, in TOML"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        let origin = Origin::File { line: Some(line) };
        let hint = "save the file as UTF-8; name a config file, in TOML".to_owned();
        Problem::new(origin, "", "is not UTF-8", hint)
    })
}
