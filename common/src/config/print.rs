//! A config in its printed forms: commented TOML, JSON, and a digest.

use std::path::PathBuf;

use serde_json::Value;

use super::error::Origin;
use super::fields::{self, Field, Kind};
use super::raw::Entries;
use super::run_config::RunConfig;
use super::size;

impl RunConfig {
    /// As TOML that [`super::load`] reads back to the same config, each value with its meaning.
    pub fn to_toml(&self) -> String {
        toml_of(self, |_| None)
    }

    /// As JSON on one line: what the run record keeps and workers are given.
    pub fn to_json(&self) -> String {
        let mut text = String::new();
        write_canonical(&self.to_value(), &mut text);
        text
    }

    /// blake3 of [`Self::to_json`], in hex: equal for equal configs, whatever wrote them.
    pub fn digest(&self) -> String {
        blake3::hash(self.to_json().as_bytes()).to_hex().to_string()
    }

    /// The folder for log files, with the run's name in place of `{run}`.
    pub fn log_folder(&self) -> PathBuf {
        PathBuf::from(self.log.folder.replace("{run}", &self.run.name))
    }

    pub(super) fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("invariant: a config is plain data with text keys")
    }
}

/// Commented TOML, where `origin` tells where a field's value came from, if that is known.
pub(super) fn with_origins(config: &RunConfig, entries: &Entries) -> String {
    toml_of(config, |field| {
        entries.get(field.key).map(|raw| match &raw.origin {
            Origin::File { line: Some(line) } => format!("line {line}"),
            other => other.to_string(),
        })
    })
}

fn toml_of(config: &RunConfig, origin: impl Fn(&Field) -> Option<String>) -> String {
    let document = config.to_value();
    let mut text = String::new();
    for section in fields::sections() {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("[{section}]\n"));
        let rows: Vec<(String, String)> = fields::FIELDS
            .iter()
            .filter(|field| field.section() == section)
            .filter_map(|field| {
                let value = document.get(section)?.get(field.name()).filter(|it| !it.is_null())?;
                let assignment = format!("{} = {}", field.name(), toml_value(field.kind, value));
                let from = origin(field).map(|it| format!(" ({it})")).unwrap_or_default();
                let outcome = match field.key {
                    "train.lr_base_batch" => format!("; here {}", config.train.peak_rate()),
                    _ => String::new(),
                };
                Some((assignment, format!("{}{outcome}{from}", field.meaning)))
            })
            .collect();
        let width = rows.iter().map(|(assignment, _)| assignment.len()).max().unwrap_or(0).min(40);
        for (assignment, comment) in rows {
            text.push_str(&format!("{assignment:width$}  # {comment}\n"));
        }
    }
    text
}

fn toml_value(kind: Kind, value: &Value) -> String {
    match value {
        Value::Number(number) if kind == Kind::Size => number
            .as_u64()
            .map_or_else(|| number.to_string(), |it| format!("{:?}", size::format(it))),
        Value::Number(number) => number.to_string(),
        Value::String(text) => toml_text(text),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml_value(kind, item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(parts) => {
            let parts: Vec<String> = parts
                .iter()
                .map(|(name, part)| format!("{name} = {}", toml_value(kind, part)))
                .collect();
            format!("{{ {} }}", parts.join(", "))
        }
        Value::Bool(_) | Value::Null => value.to_string(),
    }
}

/// A TOML basic string.
fn toml_text(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => out.extend(['\\', letter]),
            it if it.is_control() => out.push_str(&format!("\\U{:08X}", it as u32)),
            it => out.push(it),
        }
    }
    out.push('"');
    out
}

/// JSON with keys in order, so that the digest does not hang on the order of fields in a struct.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(parts) => {
            let mut names: Vec<&String> = parts.keys().collect();
            names.sort();
            out.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(name.clone()).to_string());
                out.push(':');
                write_canonical(&parts[name], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        plain => out.push_str(&plain.to_string()),
    }
}
