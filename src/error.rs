//! What can go wrong, and how it is told.
//!
//! Errors are `anyhow` chains printed on one line, outermost first:
//! `<command> <id>: <place in config.json> <operand>: <syscall(args)>: <errno text>`.
//! A kind exists only where a caller branches on it. Nothing here prints: only `main` does.

use std::fmt;

pub use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Why a command failed, where a caller has to tell one reason from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The bundle or a document passed to a command says something that cannot be done.
    Config,
    /// The command line is wrong.
    Usage,
    /// No container of that id.
    NotFound,
    /// A container of that id exists already.
    Exists,
    /// The container is not in a status that allows the operation.
    WrongStatus,
    /// This kernel or host cannot do what was asked.
    Unsupported,
    /// A hook failed: what is to be done then, the specification says.
    Hook,
    /// A system call failed.
    Os,
}

impl Kind {
    /// The word that `--log-format json` carries as `kind`.
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
pub struct Failure {
    pub kind: Kind,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// A `Failure` as an error to return: `return Err(fail(Kind::NotFound, format!(...)))`.
pub fn fail(kind: Kind, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Failure { kind, message: message.into() })
}

/// The kind of an error: that of the `Failure` or `Problems` in its chain, else `Os`.
#[must_use]
pub fn kind(error: &anyhow::Error) -> Kind {
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.kind;
    }
    if error.downcast_ref::<Problems>().is_some() { Kind::Config } else { Kind::Os }
}

/// One wrong place in a document. `place` is written as in `mounts[3].destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: String,
    pub message: String,
}

/// Everything wrong in a document, so that a user need not find it out one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes that `place` is wrong.
    pub fn add(&mut self, place: impl fmt::Display, message: impl fmt::Display) {
        self.0.push(Problem { place: place.to_string(), message: message.to_string() });
    }

    /// `Ok` if nothing was wrong.
    pub fn into_result(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(anyhow::Error::new(self)) }
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

/// The RFC 6901 pointer of a place: `mounts[3].destination` is `/mounts/3/destination`.
#[must_use]
pub fn pointer(place: &str) -> String {
    let mut out = String::from("/");
    let mut quoted = false;
    for c in place.chars() {
        match c {
            '"' => quoted = !quoted,
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
        ] {
            assert_eq!(pointer(place), expected);
        }
    }

    #[test]
    fn the_kind_survives_context() {
        let error = fail(Kind::NotFound, "container \"x\" does not exist").context("start x");
        assert_eq!(kind(&error), Kind::NotFound);
        assert_eq!(format!("{error:#}"), "start x: container \"x\" does not exist");
        let mut problems = Problems::default();
        problems.add("process.cwd", "must be absolute");
        problems.add("hostname", "needs a uts namespace");
        let error = problems.into_result().unwrap_err();
        assert_eq!(kind(&error), Kind::Config);
        assert_eq!(error.to_string(), "process.cwd: must be absolute; hostname: needs a uts namespace");
    }
}
