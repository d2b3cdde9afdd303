//! crun's annotations `run.oci.hooks.stdout` and `run.oci.hooks.stderr`: files to which the output of hooks is
//! appended.
//!
//! A stranger may have written an annotation (SECURITY.md), and the file is opened with the caller's rights.
//! With crun, an annotation can therefore make any file of the host, and append what a hook prints to it:
//! root's authorized_keys, or a crontab. Here the file has to be below one of [`DIRECTORIES`], in which nothing
//! is executed or read as a configuration, and no link leads to it.
//!
//! The program of a startContainer hook belongs to the image, and gets no descriptor of a host's file.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::error::{Context, Kind, Notes, Result, fail};
use crate::sys::fs;

pub(crate) const STDOUT: &str = "run.oci.hooks.stdout";
pub(crate) const STDERR: &str = "run.oci.hooks.stderr";

const DIRECTORIES: [&str; 3] = ["/tmp", "/var/log", "/var/tmp"];

/// The files for the standard output and the standard error of a hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: Option<PathBuf>,
    pub stderr: Option<PathBuf>,
}

/// Plans the files that the annotations name.
pub(super) fn plan(annotations: Option<&HashMap<String, String>>, notes: &mut Notes) -> Output {
    let mut file = |name: &str| {
        let path = Path::new(annotations?.get(name)?);
        if split(path).is_none() {
            let what = format_args!("{path:?} is not a file below {}", DIRECTORIES.join(", "));
            notes.problem(format_args!("annotations[{name:?}]"), what);
        }
        Some(path.to_path_buf())
    };
    Output { stdout: file(STDOUT), stderr: file(STDERR) }
}

/// Splits a path into one of the directories and the path below it.
fn split(path: &Path) -> Option<(&'static str, &Path)> {
    let plain = path.components().skip(1).all(|component| matches!(component, Component::Normal(_)));
    let split = |directory| Some((directory, path.strip_prefix(directory).ok()?));
    let found = DIRECTORIES.into_iter().find_map(split);
    let nul = path.as_os_str().as_encoded_bytes().contains(&0);
    found.filter(|(_, rest)| plain && !nul && !rest.as_os_str().is_empty())
}

impl Output {
    /// Opens the files, and makes those that do not exist.
    pub(super) fn open(&self) -> Result<[Option<OwnedFd>; 2]> {
        let open = |path: &Option<PathBuf>, name: &str| {
            let at = || format!("annotations[{name:?}]");
            path.as_deref().map(|path| open(path).with_context(at)).transpose()
        };
        Ok([open(&self.stdout, STDOUT)?, open(&self.stderr, STDERR)?])
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let refuse = || fail(Kind::Config, format!("{} is not a regular file", path.display()));
    let (directory, rest) = split(path).ok_or_else(refuse)?;
    let directory = fs::open(fs::CWD, Path::new(directory), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    // Another user may have put a fifo there, which must not block.
    let flags = fs::O_WRONLY | fs::O_CREAT | libc::O_APPEND | libc::O_NONBLOCK | libc::O_NOCTTY;
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_SYMLINKS;
    let file = fs::openat2(directory.as_fd(), rest, flags, 0o600, resolve)?;
    match fs::fstat(file.as_fd())?.st_mode & libc::S_IFMT {
        libc::S_IFREG => Ok(file),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_below_certain_directories_are_accepted() {
        for (path, accepted) in [
            ("/tmp/out", true),
            ("/var/log/hooks/out", true),
            ("/var/tmp/out", true),
            ("/tmp", false),
            ("/tmp/", false),
            ("/tmp/../etc/passwd", false),
            ("/tmpfile", false),
            ("/etc/cron.d/out", false),
            ("tmp/out", false),
            ("/dev/stderr", false),
            ("/tmp/a\0b", false),
            ("", false),
        ] {
            let annotations = HashMap::from([(STDERR.to_string(), path.to_string())]);
            let mut notes = Notes::default();
            let output = plan(Some(&annotations), &mut notes);
            assert_eq!((output.stdout, output.stderr.as_deref()), (None, Some(Path::new(path))));
            assert_eq!(notes.problems.to_string().is_empty(), accepted, "{path:?}: {}", notes.problems);
        }
    }
}
