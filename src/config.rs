//! Reads config.json and the process document of `exec`: their shape only, without checks and defaults.
//!
//! The text is converted straight into the types of oci-spec. If these types refuse or lose something that
//! the specification allows, and only then, the text is read again as a JSON value, repaired ([`repair`]) and
//! converted from that value. An error names the place in the document, which [`place`] finds from the
//! parser's line and column.

mod inspect;
mod place;
mod repair;
mod strict;
mod unknown;
mod version;

use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Mount, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(crate) use inspect::{Inspection, inspect};
pub(crate) use unknown::{Unknown, in_resources, misspelt};
pub use version::Version;

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::sys::{self, fs};
use crate::{json, trace};

/// The largest file that is read. Real configurations have some tens of kilobytes.
const MAX_SIZE: u64 = 16 << 20;

/// A configuration that has been read.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file's text, byte for byte.
    pub text: String,
    pub spec: Spec,
    pub version: Version,
    /// Warnings about members that are ignored.
    pub warnings: Vec<String>,
    /// The members that the specification does not have.
    pub unknown: Vec<Unknown>,
}

/// Reads a bundle's config.json.
pub fn load(bundle: &Path) -> Result<Config> {
    parse(read_bundle(bundle)?)
}

/// Reads the text of a bundle's config.json.
pub(crate) fn read_bundle(bundle: &Path) -> Result<String> {
    read(&bundle.join("config.json")).map_err(|e| explain_missing(e, bundle))
}

/// Adds to the error of a config.json that does not exist whether the bundle exists.
fn explain_missing(error: anyhow::Error, bundle: &Path) -> anyhow::Error {
    if !matches!(sys::errno(&error), Some(Errno::ENOENT | Errno::ENOTDIR)) {
        return error;
    }
    match fs::open(fs::CWD, bundle, fs::O_PATH | fs::O_DIRECTORY, 0) {
        Ok(_) => {
            let at = format!("the bundle {} has no config.json", bundle.display());
            anyhow::anyhow!("{at}: {error} (hint: `corten spec` writes one)")
        }
        Err(e) => anyhow::Error::new(e).context(format!("bundle {}", bundle.display())),
    }
}

/// Reads a configuration from the file that an option names.
pub(crate) fn load_file(path: &Path) -> Result<Config> {
    parse(read_given(path)?)
}

/// Reads the process document of `exec --process`. `version` is the version of the container's configuration.
pub(crate) fn load_process(path: &Path, version: Version) -> Result<(Process, Vec<String>)> {
    parse_process(&read_given(path)?, version)
}

/// Reads a file that contains `mounts`, as the member of an object or alone. Also returns warnings.
pub(crate) fn load_mounts(path: &Path) -> Result<(Vec<Mount>, Vec<String>)> {
    let text = read_given(path)?;
    parse_mounts(&text).with_context(|| path.display().to_string())
}

fn parse_mounts(text: &str) -> Result<(Vec<Mount>, Vec<String>)> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| syntax("mounts", text, &e))?;
    let mounts = match &mut value {
        Value::Object(members) => members.remove("mounts"),
        Value::Array(_) => Some(value),
        _ => None,
    };
    let mounts = mounts.ok_or_else(|| fail(Kind::Config, "mounts: there are none"))?;
    // Inside a configuration they are read and repaired, and have their places, as in every other one.
    let whole = serde_json::json!({"ociVersion": crate::SPEC_VERSION, "mounts": mounts}).to_string();
    let Config { spec, mut warnings, unknown, .. } = parse(whole)?;
    warnings.extend(misspelt(&unknown));
    Ok((spec.mounts().clone().unwrap_or_default(), warnings))
}

/// Reads a file that contains a `linux.seccomp` and nothing else.
pub(crate) fn load_seccomp(path: &Path) -> Result<LinuxSeccomp> {
    let text = read_given(path)?;
    parse_seccomp(&text).with_context(|| path.display().to_string())
}

fn parse_seccomp(text: &str) -> Result<LinuxSeccomp> {
    let value: Value = serde_json::from_str(text).map_err(|e| syntax("profile", text, &e))?;
    let mut notes = Notes::default();
    // Engines ship templates. Which rules of a template apply depends on the container's capabilities, the
    // machine and its kernel, and only the engine decides that.
    let template = "is of an engine's template, from which the engine makes a linux.seccomp for each container \
                    (hint: explain a container's bundle with --bundle)";
    if value.get("archMap").is_some() {
        notes.problem("archMap", template);
    }
    for (i, rule) in value.get("syscalls").and_then(Value::as_array).into_iter().flatten().enumerate() {
        for member in ["includes", "excludes"] {
            let conditions = rule.get(member).and_then(Value::as_object);
            if notes.problems.0.is_empty() && conditions.is_some_and(|conditions| !conditions.is_empty()) {
                notes.problem(format_args!("syscalls[{i}].{member}"), template);
            }
        }
    }
    if value.get("ociVersion").is_some() {
        notes.problem("ociVersion", "this is a whole configuration (hint: --bundle DIR)");
    }
    notes.into_result()?;
    let (mut profile, _) = strict::read(text).map_err(|e| misplaced("profile", text, &e))?;
    repair::remove_empty_of_seccomp(&mut profile);
    Ok(profile)
}

/// Reads a regular file of at most [`MAX_SIZE`]. Other kinds are refused: reading a fifo might never return.
fn read(path: &Path) -> Result<String> {
    let _phase = trace::phase_of("read", || path.display());
    let file = fs::open(fs::CWD, path, fs::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0)?;
    if fs::fstat(file.as_fd())?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(fail(Kind::Config, format!("{}: not a regular file", path.display())));
    }
    text(fs::read_whole(file, MAX_SIZE), path)
}

/// Reads a file of at most [`MAX_SIZE`] that an option names. It may also be a pipe, such as /dev/stdin or what a shell
/// passes for `<(command)`. `-` is standard input.
pub(crate) fn read_given(path: &Path) -> Result<String> {
    let _phase = trace::phase_of("read", || path.display());
    let file = if path == Path::new("-") {
        fs::dup(std::io::stdin().as_fd())?
    } else {
        fs::open(fs::CWD, path, fs::O_RDONLY | libc::O_NOCTTY, 0)?
    };
    text(fs::read_limited(file, MAX_SIZE), path)
}

/// Returns the bytes of a file as text.
fn text(bytes: sys::Result<Vec<u8>>, path: &Path) -> Result<String> {
    let bytes = match bytes {
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
    let mut notes = Notes::default();
    let (mut spec, ignored): (Spec, bool) = match strict::read(&text) {
        Ok(read) if !repair::doubtful(&read.0, &text) => read,
        fast => repaired("config.json", &text, fast, &mut notes, repair::configuration)?,
    };
    let unknown = if ignored { searched(&text, unknown::in_configuration) } else { Vec::new() };
    repair::remove_empty(&mut spec);
    let version = Version::parse(spec.version()).and_then(|version| version.check(&mut notes));
    let version = version.unwrap_or_else(|message| {
        notes.problem("ociVersion", message);
        Version::NEWEST
    });
    let warnings = notes.into_result()?;
    Ok(Config { text, spec, version, warnings, unknown })
}

/// Reads the text of a process document.
pub fn parse_process(text: &str, version: Version) -> Result<(Process, Vec<String>)> {
    let mut notes = Notes::default();
    let (process, ignored) = match strict::read(text) {
        Ok(read) => read,
        Err(_) if is_configuration(text) => {
            let what = "is a whole configuration (hint: --process reads what its member process contains)";
            return Err(fail(Kind::Config, format!("process: {what}")));
        }
        fast => repaired("process", text, fast, &mut notes, |value, found| {
            repair::process(value, "", version, found);
        })?,
    };
    if ignored {
        notes.warnings.extend(misspelt(&searched(text, unknown::in_process)));
    }
    Ok((process, notes.warnings))
}

/// Searches a text, which is valid JSON, for unknown members.
fn searched(text: &str, search: fn(&Value) -> Vec<Unknown>) -> Vec<Unknown> {
    serde_json::from_str(text).map_or_else(|_| Vec::new(), |value| search(&value))
}

/// Returns whether a text is a whole configuration.
fn is_configuration(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|value| value.get("ociVersion").is_some())
}

/// Reads the text of a `linux.resources` document, which may contain any part of it. Returns it as a plain
/// value, which tells an absent member from 0, and as the specification's type.
pub fn parse_resources(text: &str) -> Result<(Value, LinuxResources)> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| syntax("resources", text, &e))?;
    repair::resources(&mut value);
    let typed = typed(&value)?;
    Ok((value, typed))
}

/// Converts a `linux.resources` document to the specification's type.
pub(crate) fn typed_resources(mut value: Value) -> Result<LinuxResources> {
    repair::resources(&mut value);
    typed(&value)
}

fn typed(resources: &Value) -> Result<LinuxResources> {
    // The place of an error can be found in a text only.
    let text = resources.to_string();
    strict::read(&text).map(|(typed, _)| typed).map_err(|e| misplaced("resources", &text, &e))
}

/// Converts a document again, by way of a JSON value that `mend` repairs. This is slower than reading the
/// text. Also returns whether the document has a member that the type does not know.
fn repaired<T: DeserializeOwned>(
    document: &str,
    text: &str,
    fast: serde_json::Result<(T, bool)>,
    notes: &mut Notes,
    mend: impl FnOnce(&mut Value, &mut repair::Found),
) -> Result<(T, bool)> {
    let mut value: Value = serde_json::from_str(text).map_err(|e| syntax(document, text, &e))?;
    let mut found = repair::Found::default();
    mend(&mut value, &mut found);
    notes.warnings.append(&mut found.notes.into_result()?);
    match fast {
        // The repair changed nothing, so the error would be the same.
        Err(e) if !found.changed => Err(misplaced(document, text, &e)),
        Ok(good) if !found.changed => Ok(good),
        _ => {
            // Rendered as text again, because only an error in a text has a line and a column.
            let text = serde_json::to_string(&value).context("JSON")?;
            strict::read(&text).map_err(|e| misplaced(document, &text, &e))
        }
    }
}

/// Returns the error for text that is not JSON, or whose place is the whole document.
fn syntax(document: &str, text: &str, error: &serde_json::Error) -> anyhow::Error {
    fail(Kind::Config, format!("{document}: {}", json::reason(text, error)))
}

/// Returns the error for a value of a wrong type, an unknown word or a missing member, with its place.
fn misplaced(document: &str, text: &str, error: &serde_json::Error) -> anyhow::Error {
    let place = place::at(text, error.line(), error.column());
    if place.is_empty() {
        return syntax(document, text, error);
    }
    let mut notes = Notes::default();
    // runc's words, for which programs look.
    let what = match place.as_str() {
        "linux.memoryPolicy" | "linux.memoryPolicy.mode" => "invalid memory policy mode: ",
        other if other.starts_with("linux.memoryPolicy.flags") => "invalid memory policy flag: ",
        _ => "",
    };
    let message = format!("{what}{}", json::value(error));
    notes.problem(place, message);
    anyhow::Error::new(notes.problems)
}

#[cfg(test)]
mod tests;
