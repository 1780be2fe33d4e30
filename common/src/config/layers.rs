//! The layers below and above the file: defaults, environment, `--set`, and the JSON form.

use std::ffi::{OsStr, OsString};

use super::error::{Origin, Problem};
use super::fields::{self, Field, Kind};
use super::raw::{Entries, Raw, Value};
use super::{suggest, toml_file};

/// The lowest layer.
pub(super) fn defaults() -> Entries {
    let with_default = fields::FIELDS.iter().filter_map(|it| it.default.map(|text| (it, text)));
    with_default
        .map(|(field, text)| (field.key.to_owned(), typed(field, text, Origin::Default)))
        .collect()
}

/// Puts `upper` on `lower`.
///
/// Another kind of schedule takes the lower layers' schedule away: its fields belong to it alone.
/// Warm-up belongs to none.
pub(super) fn merge(lower: &mut Entries, upper: Entries) {
    const KIND: &str = "schedule.kind";
    const WARMUP: &str = "schedule.warmup_";
    if upper
        .get(KIND)
        .is_some_and(|kind| lower.get(KIND).is_none_or(|below| below.value != kind.value))
    {
        let of_the_kind = |key: &str| key.starts_with("schedule.") && !key.starts_with(WARMUP);
        lower.retain(|key, _| !of_the_kind(key));
        lower.extend(defaults().into_iter().filter(|(key, _)| of_the_kind(key)));
    }
    lower.extend(upper);
}

/// `CONVOY_<SECTION>_<FIELD>` variables. What names a section but no field of it is a problem;
/// other variables are not the config's.
pub(super) fn environment(
    variables: &[(OsString, OsString)],
    problems: &mut Vec<Problem>,
) -> Entries {
    let mut entries = Entries::new();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        if !names_a_section(name) || fields::OTHER_VARIABLES.contains(&name) {
            continue;
        }
        let origin = Origin::Environment { variable: name.to_owned() };
        match fields::FIELDS.iter().find(|field| field.variable() == name) {
            Some(field) => match utf8(value) {
                Some(text) => {
                    entries.insert(field.key.to_owned(), typed(field, text, origin));
                }
                None => problems.push(Problem::new(origin, field.key, "is not UTF-8", None)),
            },
            None => problems.push(unknown_variable(origin, name)),
        }
    }
    entries
}

fn utf8(value: &OsStr) -> Option<&str> {
    value.to_str()
}

fn names_a_section(variable: &str) -> bool {
    variable.strip_prefix(fields::PREFIX).is_some_and(|rest| {
        fields::sections().iter().any(|section| {
            rest.to_ascii_lowercase().strip_prefix(section).is_some_and(|it| it.starts_with('_'))
        })
    })
}

fn unknown_variable(origin: Origin, name: &str) -> Problem {
    let variables: Vec<String> = fields::FIELDS.iter().map(Field::variable).collect();
    let lower: Vec<String> = variables.iter().map(|it| it.to_ascii_lowercase()).collect();
    let hint = suggest::nearest(name, lower.iter().map(String::as_str)).map_or_else(
        || "variables of the config are CONVOY_<SECTION>_<FIELD>; unset it".to_owned(),
        |near| format!("did you mean {}?", near.to_ascii_uppercase()),
    );
    Problem::new(origin, "", "no field has this variable", hint)
}

/// `section.field=value` of each `--set`; of two for one field the later wins.
pub(super) fn overrides(given: &[String], problems: &mut Vec<Problem>) -> Entries {
    let mut entries = Entries::new();
    for text in given {
        let Some((key, value)) = text.split_once('=') else {
            let hint = "write --set section.field=value".to_owned();
            problems.push(Problem::new(Origin::Set, "", format!("{text:?} has no ="), hint));
            continue;
        };
        let key = key.trim();
        match fields::find(key) {
            Some(field) => {
                entries.insert(key.to_owned(), typed(field, value, Origin::Set));
            }
            None => problems.push(toml_file::unknown_field(Origin::Set, key)),
        }
    }
    entries
}

/// Reads text for `field`: as TOML where that gives the form it wants, else as it stands.
///
/// So a shell user need not quote: `--set run.name=abc` and `--set run.name='"abc"'` are one.
fn typed(field: &Field, text: &str, origin: Origin) -> Raw {
    let trimmed = text.trim();
    let read = toml_file::read_value(trimmed, &origin);
    let value = match (field.kind, read) {
        (Kind::Text | Kind::Word | Kind::Duration, Some(value @ Value::Text(_))) => value,
        (Kind::Text | Kind::Word | Kind::Duration, _) => Value::Text(trimmed.to_owned()),
        (_, Some(value)) => value,
        (_, None) => Value::Text(trimmed.to_owned()),
    };
    Raw::new(value, origin)
}

/// The JSON form's values; its shape has been checked before.
pub(super) fn json(document: &serde_json::Value) -> Entries {
    let mut entries = Entries::new();
    for (section, table) in document.as_object().into_iter().flatten() {
        for (name, value) in table.as_object().into_iter().flatten() {
            if !value.is_null() {
                entries.insert(format!("{section}.{name}"), Raw::new(plain(value), Origin::Json));
            }
        }
    }
    entries
}

fn plain(value: &serde_json::Value) -> Value {
    let raw = |value| Raw::new(plain(value), Origin::Json);
    match value {
        serde_json::Value::Null => Value::Text("null".to_owned()),
        serde_json::Value::Bool(flag) => Value::Flag(*flag),
        serde_json::Value::String(text) => Value::Text(text.clone()),
        serde_json::Value::Number(number) => number
            .as_i128()
            .map(Value::Integer)
            .or_else(|| number.as_f64().map(Value::Float))
            .unwrap_or_else(|| Value::Text(number.to_string())),
        serde_json::Value::Array(items) => Value::List(items.iter().map(raw).collect()),
        serde_json::Value::Object(items) => {
            Value::Table(items.iter().map(|(name, it)| (name.clone(), raw(it))).collect())
        }
    }
}
