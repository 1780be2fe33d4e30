//! Typed reads of raw values. A read always returns something, so that the next can go on; a value
//! that is wrong leaves a problem behind, and nobody sees the stand-in that was returned.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{Origin, Problem};
use super::fields::{self, Field, Kind};
use super::raw::{Entries, Raw, Value};
use super::{size, suggest};

/// The merged values on their way to a [`super::RunConfig`].
pub(super) struct Reader<'a> {
    entries: &'a Entries,
    problems: Vec<Problem>,
    wrong: BTreeSet<&'static str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(entries: &'a Entries) -> Self {
        Self { entries, problems: Vec::new(), wrong: BTreeSet::new() }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Whether all of these were read without a problem, so that they can be compared.
    pub(super) fn good(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.wrong.contains(key))
    }

    /// Where the field's value came from.
    pub(super) fn origin(&self, key: &str) -> Origin {
        self.entries.get(key).map_or(Origin::Default, |raw| raw.origin.clone())
    }

    /// Says what is wrong with the field, at the place of its value.
    pub(super) fn wrong(
        &mut self,
        key: &'static str,
        what: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.wrong_at(key, key, self.origin(key), what, hint);
    }

    /// The same for a part of the field's value.
    pub(super) fn wrong_at(
        &mut self,
        key: &'static str,
        shown: &str,
        origin: Origin,
        what: impl Into<String>,
        hint: impl Into<Option<String>>,
    ) {
        self.wrong.insert(key);
        self.problems.push(Problem::new(origin, shown, what, hint));
    }

    /// The value if one was given or has a default.
    fn raw(&mut self, key: &'static str) -> Option<&'a Raw> {
        let raw = self.entries.get(key);
        if raw.is_none() {
            let hint = fields::find(key).map(|field| {
                format!("write {} = {} under [{}]", field.name(), field.example, field.section())
            });
            let origin = Origin::File { line: None };
            self.wrong_at(key, key, origin, "is missing and has no default", hint);
        }
        raw
    }

    fn wrong_type(&mut self, key: &'static str, must: &str, value: &Value) {
        let hint = fields::find(key).map(|field| {
            format!("write {} = {}{}", field.name(), field.example, unquoted(field, value))
        });
        self.wrong(key, format!("must be {must}, is {}", value.describe()), hint);
    }

    /// Whether the field was given at all.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Any whole number within `range`.
    pub(super) fn integer<T>(&mut self, key: &'static str, range: RangeInclusive<T>) -> T
    where
        T: Copy + Display + Into<u64> + TryFrom<u64>,
    {
        let fallback = *range.start();
        let Some(raw) = self.raw(key) else { return fallback };
        let Value::Integer(number) = raw.value else {
            self.wrong_type(key, "a whole number", &raw.value);
            return fallback;
        };
        let (low, high): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
        let fits = u64::try_from(number).ok().filter(|it| (low..=high).contains(it));
        match fits.and_then(|it| T::try_from(it).ok()) {
            Some(number) => number,
            None => {
                let what = if i128::from(high) < number && high == LARGEST_INTEGER {
                    format!("is too large, {number}")
                } else if number < i128::from(low) {
                    format!("must be at least {low}, is {number}")
                } else {
                    format!("must be at most {high}, is {number}")
                };
                self.wrong(key, what, None);
                fallback
            }
        }
    }

    /// A finite number for which `allowed` holds; `must` says what that is.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        must: &str,
        allowed: impl Fn(f64) -> bool,
    ) -> f64 {
        let Some(raw) = self.raw(key) else { return 0.0 };
        let Some(number) = as_number(&raw.value) else {
            self.wrong_type(key, "a number", &raw.value);
            return 0.0;
        };
        if !number.is_finite() || !allowed(number) {
            self.wrong(key, format!("must be {must}, is {}", raw.value.describe()), None);
        }
        number
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        let Some(raw) = self.raw(key) else { return false };
        if let Value::Flag(flag) = raw.value {
            return flag;
        }
        self.wrong_type(key, "true or false", &raw.value);
        false
    }

    pub(super) fn text(&mut self, key: &'static str) -> String {
        let Some(raw) = self.raw(key) else { return String::new() };
        if let Value::Text(text) = &raw.value {
            return text.clone();
        }
        self.wrong_type(key, "a text", &raw.value);
        String::new()
    }

    /// One of the words; the first stands in for a wrong one.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        first: (&'static str, T),
        others: &[(&'static str, T)],
    ) -> T {
        let Some(raw) = self.raw(key) else { return first.1 };
        let names = || std::iter::once(first.0).chain(others.iter().map(|(name, _)| *name));
        if let Value::Text(text) = &raw.value {
            let mut all = std::iter::once(&first).chain(others);
            if let Some((_, value)) = all.find(|(name, _)| name == text) {
                return *value;
            }
            let hint =
                suggest::nearest(text, names()).map(|near| format!("did you mean {near:?}?"));
            let all: Vec<String> = names().map(|name| format!("{name:?}")).collect();
            self.wrong(key, format!("must be {}, is {text:?}", all.join(" or ")), hint);
        } else {
            self.wrong_type(key, "a text", &raw.value);
        }
        first.1
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let fallback = *range.start();
        let Some(raw) = self.raw(key) else { return fallback };
        let Value::Text(text) = &raw.value else {
            self.wrong_type(key, "a duration", &raw.value);
            return fallback;
        };
        let Ok(duration) = humantime::parse_duration(text) else {
            let what = format!("must be a duration, is {text:?}");
            self.wrong(
                key,
                what,
                "write a number and a unit: \"500ms\", \"30s\", \"2m\"".to_owned(),
            );
            return fallback;
        };
        if !range.contains(&duration) {
            let (low, high) = (range.start(), range.end());
            let what = format!(
                "must be {} to {}, is {}",
                humantime::format_duration(*low),
                humantime::format_duration(*high),
                humantime::format_duration(duration)
            );
            self.wrong(key, what, None);
        }
        duration
    }

    pub(super) fn size(&mut self, key: &'static str, range: RangeInclusive<u64>) -> u64 {
        let Some(raw) = self.raw(key) else { return *range.start() };
        let bytes = match &raw.value {
            Value::Integer(number) => Some(u64::try_from(*number).unwrap_or(0)),
            Value::Text(text) => size::parse(text),
            _ => None,
        };
        let Some(bytes) = bytes else {
            self.wrong_type(key, "a size", &raw.value);
            return *range.start();
        };
        if !range.contains(&bytes) {
            let (low, high) = (size::format(*range.start()), size::format(*range.end()));
            self.wrong(key, format!("must be {low} to {high}, is {}", size::format(bytes)), None);
        }
        bytes
    }

    /// The items of a list.
    pub(super) fn list(&mut self, key: &'static str) -> &'a [Raw] {
        let Some(raw) = self.raw(key) else { return &[] };
        if let Value::List(items) = &raw.value {
            return items;
        }
        self.wrong_type(key, "a list", &raw.value);
        &[]
    }
}

/// The largest whole number that TOML holds, so that every config can be printed.
pub(super) const LARGEST_INTEGER: u64 = i64::MAX as u64;

/// A number, written with or without a point.
pub(super) fn as_number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    }
}

/// A remark for the commonest slip: quotes around a number.
fn unquoted(field: &Field, value: &Value) -> &'static str {
    let bare = matches!(field.kind, Kind::Integer | Kind::Number | Kind::Flag);
    if bare && matches!(value, Value::Text(_)) { ", without quotes" } else { "" }
}
