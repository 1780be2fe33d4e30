//! The options that both programs take for their logs.

use super::Settings;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line for people: local time, level, who, message, fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Options for logs, to be flattened into a command line.
#[derive(Clone, Debug, clap::Args)]
// As a group it would be called `Args`, like that of the command that it is flattened into.
#[group(skip)]
pub struct Args {
    /// Log lines as text for people or as JSON for programs
    #[arg(long, value_enum, default_value = "text", env = "CONVOY_LOG_FORMAT", global = true)]
    pub log_format: Format,
    /// Least level that is logged, or directives such as info,convoy_worker=debug
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "CONVOY_LOG", global = true)]
    pub log_level: String,
}

impl Args {
    /// Settings for a process of that role, its console being standard error.
    pub fn settings(&self, role: &str) -> Settings {
        Settings {
            format: self.log_format,
            filter: self.log_level.clone(),
            role: role.to_owned(),
            console: None,
        }
    }
}
