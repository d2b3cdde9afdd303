//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)): the mounts that a process sees.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{Result, fs};

/// One line, such as `41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw`.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    pub id: u64,
    pub parent: u64,
    root: &'a [u8],
    point: &'a [u8],
    /// The type of the file system.
    pub kind: &'a [u8],
    /// The options of the file system, separated by commas.
    pub options: &'a [u8],
}

impl<'a> Mount<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&b| b == b' ');
        let mut number = || std::str::from_utf8(fields.next()?).ok()?.parse().ok();
        let (id, parent) = (number()?, number()?);
        let (root, point) = (fields.nth(1)?, fields.next()?);
        // Optional fields follow, up to a dash.
        let mut fields = fields.skip_while(|&field| field != b"-");
        let (kind, options) = (fields.nth(1)?, fields.nth(1)?);
        Some(Self { id, parent, root, point, kind, options })
    }

    /// Returns the directory of the file system that is mounted.
    #[must_use]
    pub(crate) fn root(&self) -> PathBuf {
        unescape(self.root)
    }

    /// Returns the path at which it is mounted, relative to the root directory of the process.
    #[must_use]
    pub(crate) fn point(&self) -> PathBuf {
        unescape(self.point)
    }
}

/// Reads the calling process's mountinfo. `proc` is the root of a verified procfs.
pub(crate) fn read(proc: BorrowedFd) -> Result<Vec<u8>> {
    read_of("self", proc)
}

/// Reads the mountinfo of a process: an id, or `self`.
pub(crate) fn read_of(process: &str, proc: BorrowedFd) -> Result<Vec<u8>> {
    let path = &Path::new(process).join("mountinfo");
    fs::read_limited(fs::open(proc, path, fs::O_RDONLY, 0)?, 64 << 20).map_err(|mut e| {
        e.call = format!("read({path:?})");
        e
    })
}

/// Parses a mountinfo. A later line hides earlier mounts at and below its mount point.
pub(crate) fn parse(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|&b| b == b'\n').filter_map(Mount::parse)
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
#[must_use]
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = tail.get(..3).filter(|_| *first == b'\\').and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_optional_fields_and_escapes() {
        let text = b"30 27 0:22 /r\\134 /a\\040b rw,nosuid - sysfs sysfs rw\n\
                     60 22 0:50 / /x rw shared:3 master:1 - cgroup none rw,cpu\n\
                     half a line\n61 22 0:50 / /x rw - cgroup";
        let found: Vec<_> =
            parse(text).map(|m| (m.id, m.parent, m.root(), m.point(), m.kind, m.options)).collect();
        let expected = [
            (30, 27, "/r\\".into(), "/a b".into(), &b"sysfs"[..], &b"rw"[..]),
            (60, 22, "/".into(), "/x".into(), b"cgroup", b"rw,cpu"),
        ];
        assert_eq!(found, expected);
    }
}
