//! TOML text to raw values with lines.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Origin, Problem};
use super::fields;
use super::raw::{Entries, Raw, Value};
use super::suggest;

/// The byte offsets at which lines start.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self(std::iter::once(0).chain(starts.map(|(at, _)| at + 1)).collect())
    }

    fn at(&self, offset: usize) -> Origin {
        Origin::File { line: Some(self.0.partition_point(|start| *start <= offset)) }
    }
}

/// The values of a file by `section.field`; unknown names and bad syntax become problems.
///
/// With a syntax error only syntax errors are told: what follows one is guesswork.
pub(super) fn read(text: &str, problems: &mut Vec<Problem>) -> Entries {
    let lines = Lines::of(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut entries = Entries::new();
    for error in &errors {
        let origin = error.span().map_or(Origin::File { line: None }, |span| lines.at(span.start));
        let what = format!("not TOML: {}", error.message().trim().replace('\n', ", "));
        if !problems.iter().any(|it| it.origin == origin) {
            problems.push(Problem::new(origin, "", what, None));
        }
    }
    if !errors.is_empty() {
        return entries;
    }
    for (name, value) in document.get_ref() {
        let origin = lines.at(name.span().start);
        let section = name.get_ref().as_ref();
        match value.get_ref() {
            DeValue::Table(table) if fields::sections().contains(&section) => {
                read_section(section, table, &lines, &mut entries, problems);
            }
            DeValue::Table(_) => problems.push(unknown_section(origin, section)),
            _ if fields::sections().contains(&section) => problems.push(Problem::new(
                origin,
                section,
                "must be a section",
                format!("write [{section}] on a line of its own and its fields below"),
            )),
            _ => problems.push(unknown_field(origin, section)),
        }
    }
    entries
}

fn read_section(
    section: &str,
    table: &DeTable<'_>,
    lines: &Lines,
    entries: &mut Entries,
    problems: &mut Vec<Problem>,
) {
    for (name, value) in table {
        let key = format!("{section}.{}", name.get_ref());
        let origin = lines.at(name.span().start);
        if fields::find(&key).is_none() {
            problems.push(unknown_field(origin, &key));
        } else {
            entries.insert(key, Raw::new(convert(value, lines), origin));
        }
    }
}

/// A single TOML value, as the right side of `--set key=value`.
pub(super) fn read_value(text: &str, origin: &Origin) -> Option<Value> {
    let (value, errors) = DeValue::parse_recoverable(text);
    if !errors.is_empty() {
        return None;
    }
    let mut value = convert(&value, &Lines::of(text));
    place(&mut value, origin);
    Some(value)
}

/// Gives everything inside `value` the same origin.
fn place(value: &mut Value, origin: &Origin) {
    let inner: Vec<&mut Raw> = match value {
        Value::List(items) => items.iter_mut().collect(),
        Value::Table(items) => items.iter_mut().map(|(_, item)| item).collect(),
        _ => return,
    };
    for item in inner {
        item.origin = origin.clone();
        place(&mut item.value, origin);
    }
}

fn convert(value: &Spanned<DeValue<'_>>, lines: &Lines) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(digits) => i128::from_str_radix(digits.as_str(), digits.radix())
            .map_or_else(|_| Value::Text(digits.as_str().to_owned()), Value::Integer),
        DeValue::Float(digits) => digits
            .as_str()
            .parse()
            .map_or_else(|_| Value::Text(digits.as_str().to_owned()), Value::Float),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::List(
            items
                .iter()
                .map(|item| Raw::new(convert(item, lines), lines.at(item.span().start)))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(
            table
                .iter()
                .map(|(name, item)| {
                    let origin = lines.at(name.span().start);
                    (name.get_ref().to_string(), Raw::new(convert(item, lines), origin))
                })
                .collect(),
        ),
    }
}

fn unknown_section(origin: Origin, section: &str) -> Problem {
    let sections = fields::sections();
    let hint = suggest::nearest(section, sections.iter().copied()).map_or_else(
        || format!("the sections are {}", sections.join(", ")),
        |near| format!("did you mean [{near}]?"),
    );
    Problem::new(origin, section, "no section has this name", hint)
}

/// Nothing has this key: the likeliest that was meant, here or in another section.
pub(super) fn unknown_field(origin: Origin, key: &str) -> Problem {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let within = || fields::FIELDS.iter().filter(|field| field.section() == section);
    let elsewhere = || fields::FIELDS.iter().filter(|field| field.name() == name);
    let near = suggest::nearest(name, within().map(fields::Field::name))
        .map(|near| format!("did you mean {section}.{near}?"))
        .or_else(|| elsewhere().next().map(|field| format!("did you mean {}?", field.key)))
        .or_else(|| {
            suggest::nearest(key, fields::FIELDS.iter().map(|field| field.key))
                .map(|near| format!("did you mean {near}?"))
        });
    let hint = near.unwrap_or_else(|| {
        let names: Vec<&str> = within().map(fields::Field::name).collect();
        if names.is_empty() {
            format!("the sections are {}", fields::sections().join(", "))
        } else {
            format!("[{section}] has {}", names.join(", "))
        }
    });
    Problem::new(origin, key, "no field has this name", hint)
}
