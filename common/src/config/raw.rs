//! Values as they were written, before anything is checked.

use std::collections::BTreeMap;

use super::error::Origin;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Raw {
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// What TOML, JSON and `--set` have in common.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Flag(bool),
    List(Vec<Raw>),
    /// In order of appearance.
    Table(Vec<(String, Raw)>),
    /// A date or a time: no field takes one.
    Date,
}

/// `section.field` to value.
pub(super) type Entries = BTreeMap<String, Raw>;

impl Raw {
    pub(super) fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin }
    }
}

impl Value {
    /// What it is, for "must be a whole number, is ...".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the text {text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Flag(flag) => flag.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Date => "a date or time".to_owned(),
        }
    }
}
