mod forms;
mod layers;
mod problems;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::exit;
use crate::failure::Explain as _;

const SMALLEST: &str = "[run]\nurl = \"runs/a\"\n[data]\nurl = \"s3://bucket/data\"\n";

fn source(overrides: &[&str]) -> Source {
    let overrides: Vec<String> = overrides.iter().map(|it| (*it).to_owned()).collect();
    Source::new(Path::new("a.toml"), &overrides).with_environment(vec![]).with_folder("/home/me")
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn resolve(text: &str, overrides: &[&str]) -> Result<RunConfig, ConfigError> {
    source(overrides).resolve_text(text).map(|resolved| resolved.config)
}

/// `LINE FIELD: WHAT` for each problem of `text`.
fn problems(text: &str, overrides: &[&str]) -> Vec<String> {
    let error = resolve(text, overrides).expect_err("the config is wrong");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
    let one = |it: &Problem| format!("{} {}: {}", it.origin, it.field, it.what);
    error.problems.iter().map(one).collect()
}

/// The single problem of the smallest config with `lines` added, as (what, hint).
fn only(overrides: &[&str]) -> (String, String) {
    let error = resolve(SMALLEST, overrides).expect_err("the config is wrong");
    assert_eq!(error.problems.len(), 1, "{error}");
    let problem = &error.problems[0];
    (format!("{}: {}", problem.field, problem.what), problem.hint.clone().unwrap_or_default())
}
