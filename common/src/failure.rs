//! How a program ends when something is wrong: one line that says what, one that says what to do.
//!
//! Typed errors of the modules implement [`Explain`]; the two binaries turn them into a
//! [`Failure`], print it and exit with its code. Library code never prints.

use std::error::Error;
use std::fmt;

use crate::exit;

/// What an error knows beyond its text.
pub trait Explain: Error {
    /// What the user can do about it, as a sentence without `hint:`.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The exit code that it deserves, one of [`crate::exit`].
    fn exit_code(&self) -> u8 {
        exit::FAILURE
    }
}

/// The error with its causes, on one line. A cause whose text its parent already ends with is not
/// said twice.
pub fn in_full(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// An error on its way to the user.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    hint: Option<String>,
    error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// A failure with the given exit code.
    pub fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { code, hint: None, error: error.into() }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The exit code, one of [`crate::exit`].
    pub fn code(&self) -> u8 {
        self.code
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl<E: Explain + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { code: error.exit_code(), hint: error.hint(), error: Box::new(error) }
    }
}

/// `error: TEXT: CAUSE: CAUSE` and, on the next line, `hint: TEXT`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", in_full(&*self.error))?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read {path}")]
    struct Outer {
        path: &'static str,
        #[source]
        source: std::io::Error,
    }

    impl Explain for Outer {
        fn hint(&self) -> Option<String> {
            Some("check the path".to_owned())
        }

        fn exit_code(&self) -> u8 {
            exit::BAD_INPUT
        }
    }

    #[test]
    fn causes_follow_on_one_line_and_the_hint_on_the_next() {
        let failure =
            Failure::from(Outer { path: "a.toml", source: std::io::Error::other("gone") });
        assert_eq!(failure.to_string(), "error: cannot read a.toml: gone\nhint: check the path");
        assert_eq!(failure.code(), exit::BAD_INPUT);
    }
}
