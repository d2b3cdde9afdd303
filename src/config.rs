//! Reading config.json, and exec's process document: shape only, no checks, no defaults.
//!
//! The text goes straight into oci-spec's types. Where these refuse or lose what the spec allows, and only then, the
//! text is read once more as a plain JSON value, repaired ([`repair`]) and converted from that. An error names the
//! place in the document, which [`place`] finds from the line and column that the parser gives.

mod place;
mod repair;
mod strict;
mod version;

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use version::Version;

use crate::error::{Context, Kind, Problems, Result, fail};
use crate::sys::{self, fs};
use crate::trace;

/// Real ones have some tens of kilobytes.
const MAX_SIZE: u64 = 16 << 20;

/// A configuration that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file, byte for byte.
    pub text: String,
    pub spec: Spec,
    pub version: Version,
    /// What is ignored.
    pub warnings: Vec<String>,
}

/// Reads a bundle's config.json.
pub fn load(bundle: &Path) -> Result<Config> {
    load_file(&bundle.join("config.json"))
}

/// Reads a configuration.
pub fn load_file(path: &Path) -> Result<Config> {
    parse(read(path)?)
}

/// Reads the process document of `exec --process`. `version` is that of the container's configuration.
pub fn load_process(path: &Path, version: Version) -> Result<(Process, Vec<String>)> {
    parse_process(&read(path)?, version)
}

/// Reads a file that has what a configuration has as `linux.seccomp`, and nothing else.
pub fn load_seccomp(path: &Path) -> Result<LinuxSeccomp> {
    let text = read(path)?;
    parse_seccomp(&text).with_context(|| path.display().to_string())
}

fn parse_seccomp(text: &str) -> Result<LinuxSeccomp> {
    let value: Value = serde_json::from_str(text).map_err(|e| syntax("profile", &e))?;
    let mut problems = Problems::default();
    // What engines ship is a template: which of its rules hold depends on the container's capabilities, the machine and
    // its kernel, and only the engine decides that.
    let template = "is of an engine's template, from which the engine makes a linux.seccomp for each container \
                    (hint: explain a container's bundle with --bundle)";
    if value.get("archMap").is_some() {
        problems.add("archMap", template);
    }
    for (i, rule) in value.get("syscalls").and_then(Value::as_array).into_iter().flatten().enumerate() {
        for member in ["includes", "excludes"] {
            let conditions = rule.get(member).and_then(Value::as_object);
            if problems.0.is_empty() && conditions.is_some_and(|conditions| !conditions.is_empty()) {
                problems.add(format_args!("syscalls[{i}].{member}"), template);
            }
        }
    }
    if value.get("ociVersion").is_some() {
        problems.add("ociVersion", "this is a whole configuration (hint: --bundle DIR)");
    }
    problems.into_result()?;
    strict::from_str(text).map_err(|e| misplaced("profile", text, &e))
}

/// Reads a regular file of a sane size: a fifo would make us wait for ever.
pub fn read(path: &Path) -> Result<String> {
    let _phase = trace::phase_of("read", || path.display());
    let file = fs::open(fs::CWD, path, fs::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)?;
    if fs::fstat(file.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(fail(Kind::Config, format!("{}: not a regular file", path.display())));
    }
    let bytes = match fs::read_whole(file, MAX_SIZE) {
        Err(sys::Error { errno: Errno::EFBIG, .. }) => {
            let limit = MAX_SIZE >> 20;
            return Err(fail(Kind::Config, format!("{}: larger than {limit} MiB", path.display())));
        }
        other => other.with_context(|| path.display().to_string())?,
    };
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        fail(Kind::Config, format!("{}: not UTF-8 at byte {at}", path.display()))
    })
}

/// Reads the text of a configuration.
pub fn parse(text: String) -> Result<Config> {
    let _phase = trace::phase("parse config.json");
    let mut warnings = Vec::new();
    let fast = strict::from_str(&text);
    let spec: Spec = match fast {
        Ok(spec) if !repair::doubtful(&spec, &text) => spec,
        fast => repaired("config.json", &text, fast, &mut warnings, |value, found| {
            // The version decides what an unknown capability is; a wrong one is told below.
            let declared = value.get("ociVersion").and_then(Value::as_str).unwrap_or_default();
            let version = Version::parse(declared).unwrap_or(Version::NEWEST);
            repair::spec(value, version, found);
        })?,
    };
    let mut problems = Problems::default();
    let version = Version::parse(spec.version()).and_then(|version| version.check(&mut warnings));
    let version = version.unwrap_or_else(|message| {
        problems.add("ociVersion", message);
        Version::NEWEST
    });
    problems.into_result()?;
    Ok(Config { text, spec, version, warnings })
}

/// Reads the text of a process document.
pub fn parse_process(text: &str, version: Version) -> Result<(Process, Vec<String>)> {
    let mut warnings = Vec::new();
    let process = match strict::from_str(text) {
        Ok(process) => process,
        fast => repaired("process", text, fast, &mut warnings, |value, found| {
            repair::process(value, "", version, found);
        })?,
    };
    Ok((process, warnings))
}

/// Parses the text of a `linux.resources` document, which may have any part of it. Returns the plain value, in which an absent
/// member differs from a 0, and the spec's type.
pub fn parse_resources(text: &str) -> Result<(Value, LinuxResources)> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| syntax("resources", &e))?;
    repair::resources(&mut value);
    let typed = typed(&value)?;
    Ok((value, typed))
}

/// Converts a `linux.resources` document to the spec's type.
pub fn typed_resources(mut value: Value) -> Result<LinuxResources> {
    repair::resources(&mut value);
    typed(&value)
}

fn typed(resources: &Value) -> Result<LinuxResources> {
    strict::from_value(resources).or_else(|_| {
        // The place of an error can be found in a text only.
        let text = resources.to_string();
        strict::from_str(&text).map_err(|e| misplaced("resources", &text, &e))
    })
}

/// The second, slow way: by a JSON value that `mend` changes.
fn repaired<T: DeserializeOwned>(
    document: &str,
    text: &str,
    fast: serde_json::Result<T>,
    warnings: &mut Vec<String>,
    mend: impl FnOnce(&mut Value, &mut repair::Found),
) -> Result<T> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| syntax(document, &e))?;
    let mut found = repair::Found::default();
    mend(&mut value, &mut found);
    found.problems.into_result()?;
    warnings.append(&mut found.warnings);
    match fast {
        // Nothing was mended that could cure it.
        Err(e) if !found.changed => Err(misplaced(document, text, &e)),
        Ok(good) if !found.changed => Ok(good),
        _ => {
            // Through text again, which costs nothing worth saving here: only so has an error a line and column.
            let text = serde_json::to_string(&value).context("JSON")?;
            strict::from_str(&text).map_err(|e| misplaced(document, &text, &e))
        }
    }
}

/// An error of JSON itself: there is no place in the document, only one in the file.
fn syntax(document: &str, error: &serde_json::Error) -> anyhow::Error {
    fail(Kind::Config, format!("{document}: {error}"))
}

/// A value of a wrong type, an unknown word, a missing member: told with its place.
fn misplaced(document: &str, text: &str, error: &serde_json::Error) -> anyhow::Error {
    let place = place::at(text, error.line(), error.column());
    let shown = error.to_string();
    let message = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(message, _)| message);
    if place.is_empty() {
        return syntax(document, error);
    }
    let mut problems = Problems::default();
    problems.add(place, message);
    anyhow::Error::new(problems)
}

#[cfg(test)]
mod tests;
