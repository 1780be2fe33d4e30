//! One log line, and its two forms.

use std::fmt;

use chrono::{DateTime, Local, SecondsFormat, Utc};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// One event of one process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// RFC 3339 in UTC, to the millisecond.
    pub time: String,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// The process: `coordinator`, `worker-1`.
    pub who: String,
    /// The run's name, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The module that spoke.
    pub target: String,
    /// Constant text.
    pub message: String,
    /// What varies.
    #[serde(default)]
    pub fields: Fields,
}

/// Names and values in the order in which they were given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields(Vec<(String, Value)>);

impl Fields {
    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    pub(super) fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().find(|(own, _)| own == name) {
            Some((_, own)) => *own = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(own, _)| own == name)?;
        Some(self.0.remove(index).1)
    }

    pub(super) fn add_missing(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            if self.get(name).is_none() {
                self.0.push((name.clone(), value.clone()));
            }
        }
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of fields")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields, M::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    fields.set(&name, value);
                }
                Ok(fields)
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Line {
    pub(super) fn now(
        level: tracing::Level,
        target: &str,
        message: String,
        fields: Fields,
    ) -> Self {
        Self {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            level: level.as_str().to_ascii_lowercase(),
            who: String::new(),
            run: None,
            target: target.to_owned(),
            message,
            fields,
        }
    }

    /// Reads a line in JSON form; none if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    pub(super) fn write_json(&self, out: &mut String) {
        // Text, numbers and maps with text keys: there is nothing that JSON could refuse.
        out.push_str(&serde_json::to_string(self).unwrap_or_default());
    }

    /// `14:03:07.250  INFO worker-1     message  name=value ...`, without a line's end.
    pub(super) fn write_text(&self, colours: bool, out: &mut String) {
        let paint = |code: &str, text: &str| {
            if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
        };
        let time = DateTime::parse_from_rfc3339(&self.time).map_or_else(
            |_| printable(&self.time),
            |time| time.with_timezone(&Local).format("%H:%M:%S%.3f").to_string(),
        );
        let (level, code) = match self.level.as_str() {
            "error" => ("ERROR", "1;31"),
            "warn" => (" WARN", "33"),
            "info" => (" INFO", "32"),
            "debug" => ("DEBUG", "34"),
            _ => ("TRACE", "35"),
        };
        out.push_str(&paint("2", &time));
        out.push(' ');
        out.push_str(&paint(code, level));
        out.push(' ');
        out.push_str(&paint("36", &format!("{:<11}", printable(&self.who))));
        out.push(' ');
        out.push_str(&printable(&self.message));
        for (index, (name, value)) in self.fields.0.iter().enumerate() {
            out.push_str(if index == 0 { "  " } else { " " });
            out.push_str(&paint("2", &format!("{}=", printable(name))));
            out.push_str(&readable(value));
        }
    }
}

/// Turns one line of a child's standard error into the text form, without a line's end. What is no
/// JSON line of ours (a panic, a library's own words) is passed on with `who` before it.
pub fn render(line: &str, who: &str, colours: bool, out: &mut String) {
    let text = line.trim_end_matches(['\r', '\n']);
    match Line::parse(text) {
        Some(line) => line.write_text(colours, out),
        None => {
            let time = Local::now().format("%H:%M:%S%.3f");
            out.push_str(&format!("{time}     - {who:<11} {}", printable(text)));
        }
    }
}

/// Without control characters: a line stays a line, whatever a peer put into it.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() { out.extend(letter.escape_default()) } else { out.push(letter) }
    }
    out
}

/// A value for the eye: texts bare where they are one word, numbers to six digits.
fn readable(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
            format!("\"{}\"", printable(text).replace('"', "\\\""))
        }
        Value::String(text) => printable(text),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => six_digits(float),
            _ => number.to_string(),
        },
        other => printable(&other.to_string()),
    }
}

fn six_digits(number: f64) -> String {
    let short = format!("{number:.5e}").parse().unwrap_or(number);
    let plain = format!("{short}");
    if plain.len() > 12 { format!("{short:e}") } else { plain }
}
