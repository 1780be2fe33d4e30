//! What can be wrong with a config, told all at once.

use std::fmt;

use serde::Serialize;

use crate::exit;
use crate::failure::Explain;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub enum Origin {
    /// Nobody gave it.
    Default,
    /// The config file.
    File {
        /// Counts from 1; none where the file as a whole is meant.
        line: Option<usize>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
    /// `--set`.
    Set,
    /// The JSON form, as the run record and the wire carry it.
    Json,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where the wrong value, or the lack of one, was found.
    pub origin: Origin,
    /// `section.field`; empty where the problem is not one field's.
    pub field: String,
    /// What is wrong, lowercase, without a full stop.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Everything that is wrong with a config; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The config as the user named it.
    pub config: String,
    /// In order of line, then the other layers.
    pub problems: Vec<Problem>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::File { line: Some(line) } => write!(f, "line {line}"),
            Self::File { line: None } => write!(f, "file"),
            Self::Environment { variable } => write!(f, "{variable}"),
            Self::Set => write!(f, "--set"),
            Self::Json => write!(f, "json"),
        }
    }
}

impl Problem {
    pub(super) fn new(
        origin: Origin,
        field: impl Into<String>,
        what: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) -> Self {
        Self { origin, field: field.into(), what: what.into(), hint: hint.into() }
    }

    /// Sorts by line; what has none comes after.
    fn place(&self) -> (u8, usize) {
        match &self.origin {
            Origin::File { line } => (0, line.unwrap_or(usize::MAX)),
            Origin::Default | Origin::Json => (1, 0),
            Origin::Environment { .. } => (2, 0),
            Origin::Set => (3, 0),
        }
    }
}

impl ConfigError {
    pub(super) fn new(config: impl Into<String>, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(Problem::place);
        Self { config: config.into(), problems }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.problems.len() == 1 { "" } else { "s" };
        write!(f, "the config {} has {} problem{plural}", self.config, self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  ")?;
            match &problem.origin {
                Origin::File { line: Some(line) } => write!(f, "{}:{line}: ", self.config)?,
                Origin::Environment { variable } => write!(f, "{variable} (environment): ")?,
                Origin::Set => write!(f, "--set: ")?,
                Origin::File { line: None } | Origin::Default | Origin::Json => {
                    write!(f, "{}: ", self.config)?;
                }
            }
            if !problem.field.is_empty() {
                write!(f, "{}: ", problem.field)?;
            }
            write!(f, "{}", problem.what)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n    hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

impl Explain for ConfigError {
    fn exit_code(&self) -> u8 {
        exit::BAD_INPUT
    }
}
