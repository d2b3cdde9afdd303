//! Errors: their kinds, and the problems that a document has.
//!
//! Errors are `anyhow` chains printed on one line, outermost first:
//! `<command> <id>: <place in config.json> <operand>: <syscall(args)>: <errno text>`.
//! A kind exists only if a caller branches on it. Only `main` prints errors.

use std::fmt;

pub(crate) use anyhow::Context;
pub use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The reason why a command failed, if callers distinguish it from other reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The bundle or another document requests something impossible.
    Config,
    /// The command line is wrong.
    Usage,
    /// No container has the id.
    NotFound,
    /// A container with the id exists already.
    Exists,
    /// The status of the container does not allow the operation.
    WrongStatus,
    /// The kernel or the host does not support the request.
    Unsupported,
    /// A hook failed. The specification says what follows (runtime.md#lifecycle).
    Hook,
    /// A system call failed.
    Os,
}

impl Kind {
    /// Returns the value of the member `kind` with `--log-format json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Usage => "usage",
            Self::NotFound => "not found",
            Self::Exists => "exists",
            Self::WrongStatus => "wrong status",
            Self::Unsupported => "unsupported",
            Self::Hook => "hook",
            Self::Os => "os",
        }
    }
}

/// An error of a kind that a caller branches on.
#[derive(Debug)]
pub(crate) struct Failure {
    pub kind: Kind,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Returns a `Failure` as an error: `return Err(fail(Kind::NotFound, format!(...)))`.
pub(crate) fn fail(kind: Kind, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { kind, message: message.into() })
}

/// Returns the kind of an error: that of the `Failure` or `Problems` in its chain, otherwise `Os`.
#[must_use]
pub fn kind(error: &anyhow::Error) -> Kind {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.kind;
    }
    if error.downcast_ref::<Problems>().is_some() { Kind::Config } else { Kind::Os }
}

/// An error in a document. `place` has the form `mounts[3].destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: String,
    pub message: String,
}

/// All errors in a document, so that a user sees them at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// The findings of a check: errors in a document, and warnings about ignored parts of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    pub problems: Problems,
    pub warnings: Vec<String>,
}

impl Notes {
    /// Adds an error. `place` is written as in [`Problem`].
    pub fn problem(&mut self, place: impl fmt::Display, message: impl fmt::Display) {
        self.problems.0.push(Problem { place: place.to_string(), message: message.to_string() });
    }

    /// Adds a warning.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }

    /// Returns the warnings, or an error with all problems if there are any.
    pub fn into_result(self) -> Result<Vec<String>> {
        if self.problems.0.is_empty() { Ok(self.warnings) } else { Err(anyhow::Error::new(self.problems)) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", problem.place, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Returns the RFC 6901 pointer of a place: `/mounts/3/destination` for `mounts[3].destination`.
#[must_use]
pub(crate) fn pointer(place: &str) -> String {
    let mut out = String::from("/");
    let mut quoted = false;
    for c in place.chars() {
        match c {
            '"' => quoted = !quoted,
            '.' | '[' if !quoted && out.len() == 1 => {}
            '.' | '[' if !quoted => out.push('/'),
            ']' if !quoted => {}
            '/' => out.push_str("~1"),
            '~' => out.push_str("~0"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_become_pointers() {
        for (place, expected) in [
            ("mounts[3].destination", "/mounts/3/destination"),
            ("process.cwd", "/process/cwd"),
            ("linux.sysctl[\"net.ipv4.ip_forward\"]", "/linux/sysctl/net.ipv4.ip_forward"),
            ("linux.sysctl[\"net/ipv4\"]", "/linux/sysctl/net~1ipv4"),
            ("[\"x-engine\"].y", "/x-engine/y"),
        ] {
            assert_eq!(pointer(place), expected);
        }
    }

    #[test]
    fn the_kind_survives_context() {
        let error = fail(Kind::NotFound, "container \"x\" does not exist").context("start x");
        assert_eq!(kind(&error), Kind::NotFound);
        assert_eq!(format!("{error:#}"), "start x: container \"x\" does not exist");
        let mut notes = Notes::default();
        notes.problem("process.cwd", "must be absolute");
        notes.problem("hostname", "needs a uts namespace");
        let error = notes.into_result().unwrap_err();
        assert_eq!(kind(&error), Kind::Config);
        assert_eq!(error.to_string(), "process.cwd: must be absolute; hostname: needs a uts namespace");
    }
}
