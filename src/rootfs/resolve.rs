//! Paths inside the rootfs, which its contents may have prepared: every one is opened with the rootfs as its root
//! (openat2 RESOLVE_IN_ROOT) and used by descriptor, so that no symbolic link leads to the host and no rename between
//! a check and a use matters (CVE-2021-30465, CVE-2025-31133).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::sys::{Error, Result, fs};

/// What is missing of a path is made as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Directory,
    File,
}

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// Opens an existing path as O_PATH, following links inside the root.
pub fn open(root: BorrowedFd, path: &Path) -> Result<OwnedFd> {
    open_with(root, path, fs::O_PATH)
}

/// Opens an existing path with other flags.
pub fn open_with(root: BorrowedFd, path: &Path, flags: i32) -> Result<OwnedFd> {
    // The kernel answers EAGAIN when a rename somewhere disturbed its check of ".."; how often is the host's matter.
    let mut tries = 0;
    loop {
        match fs::openat2(root, path, flags, 0, fs::RESOLVE_IN_ROOT | fs::RESOLVE_NO_MAGICLINKS) {
            Err(e) if e.errno == Errno::EAGAIN && tries < 128 => tries += 1,
            other => return other,
        }
    }
}

/// Opens a path as O_PATH and makes what is missing: directories 0755, a file 0644 as the last component.
pub fn open_or_make(root: BorrowedFd, path: &Path, last: Missing) -> Result<OwnedFd> {
    match open(root, path) {
        Err(e) if e.errno == Errno::ENOENT => make_last(root, path, last).or_else(|_| make(root, path, last)),
        other => other,
    }
}

/// The usual case: only the last name is missing, and no link is in its place.
fn make_last(root: BorrowedFd, path: &Path, last: Missing) -> Result<OwnedFd> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("openat2({path:?})"), Errno::ENOENT));
    };
    let above = if above.as_os_str().is_empty() { Path::new("/") } else { above };
    let dir = open(root, above)?;
    make_one(dir.as_fd(), Path::new(name), last)?;
    open_one(dir.as_fd(), Path::new(name))
}

/// Walks component by component. Every directory passed is held open, so `..` is the one that we came through, and a
/// dangling link's target is made where the link points to inside the root.
fn make(root: BorrowedFd, path: &Path, last: Missing) -> Result<OwnedFd> {
    let mut todo: VecDeque<OsString> = names(path);
    let mut passed: Vec<OwnedFd> = vec![fs::dup(root)?];
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if passed.len() > 1 {
                passed.pop();
            }
            continue;
        }
        let here = passed.last().map_or(root, AsFd::as_fd);
        let kind = if todo.is_empty() { last } else { Missing::Directory };
        let found = step(here, Path::new(&name), kind)?;
        let mode = fs::fstat(found.as_fd())?.st_mode & libc::S_IFMT;
        if mode == libc::S_IFLNK {
            links += 1;
            if links > LINKS_MAX {
                return Err(Error::new(format!("openat2({path:?})"), Errno::ELOOP));
            }
            // A link of procfs that leads to a descriptor's file shows the text of a path and is none.
            if fs::filesystem_magic(found.as_fd())? == libc::PROC_SUPER_MAGIC {
                drop(fs::openat2(here, Path::new(&name), fs::O_PATH, 0, fs::RESOLVE_NO_MAGICLINKS)?);
            }
            let target = fs::readlinkat(found.as_fd(), Path::new(""))?;
            if target.is_absolute() {
                passed.truncate(1);
            }
            for name in names(&target).into_iter().rev() {
                todo.push_front(name);
            }
            continue;
        }
        if !todo.is_empty() && mode != libc::S_IFDIR {
            return Err(Error::new(format!("openat2({path:?})"), Errno::ENOTDIR));
        }
        passed.push(found);
    }
    passed.pop().ok_or_else(|| Error::new(format!("openat2({path:?})"), Errno::ENOENT))
}

/// Opens one name without following it, making it if it is missing. Another may make it between: then that is taken.
fn step(dir: BorrowedFd, name: &Path, kind: Missing) -> Result<OwnedFd> {
    match open_one(dir, name) {
        Err(e) if e.errno == Errno::ENOENT => {}
        other => return other,
    }
    match make_one(dir, name, kind) {
        Err(e) if e.errno != Errno::EEXIST => Err(e),
        _ => open_one(dir, name),
    }
}

fn open_one(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_MAGICLINKS;
    fs::openat2(dir, name, fs::O_PATH | fs::O_NOFOLLOW, 0, resolve)
}

fn make_one(dir: BorrowedFd, name: &Path, kind: Missing) -> Result<()> {
    match kind {
        Missing::Directory => fs::mkdirat(dir, name, 0o755),
        Missing::File => {
            fs::open(dir, name, fs::O_CREAT | fs::O_EXCL | fs::O_NOFOLLOW | fs::O_WRONLY, 0o644).map(drop)
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_os_string()),
            Component::ParentDir => Some("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

/// The directory of a path and its last name, for what is made by name: nodes and links.
pub fn parent(root: BorrowedFd, path: &Path) -> Result<(OwnedFd, PathBuf)> {
    let invalid = || Error::new(format!("openat2({path:?})"), Errno::EINVAL);
    let name = path.file_name().ok_or_else(invalid)?;
    let dir = open_or_make(root, path.parent().ok_or_else(invalid)?, Missing::Directory)?;
    Ok((dir, name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// Nothing that is asked for lies outside, whatever the links say.
    #[test]
    fn links_stay_inside() {
        let base = std::env::temp_dir().join(format!("corten-resolve-{}", std::process::id()));
        let (root, outside) = (base.join("root"), base.join("outside"));
        std::fs::create_dir_all(root.join("var")).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        symlink("../../../../outside", root.join("up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = fs::open(fs::CWD, &root, fs::O_PATH | fs::O_DIRECTORY, 0).unwrap();
        for (path, made) in [
            ("/a/b/c", "a/b/c"),
            ("/var/run/secrets", "run/secrets"),
            ("../../x", "x"),
            ("/a/../../y/z", "y/z"),
            ("/up/w", "outside/w"),
        ] {
            open_or_make(fd.as_fd(), Path::new(path), Missing::Directory).unwrap();
            assert!(root.join(made).is_dir(), "{path}");
        }
        open_or_make(fd.as_fd(), Path::new("/out/file"), Missing::File).unwrap();
        let inside = root.join(outside.strip_prefix("/").unwrap()).join("file");
        assert!(inside.is_file());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let error = open_or_make(fd.as_fd(), Path::new("/loop/x"), Missing::File).unwrap_err();
        assert_eq!(error.errno, Errno::ELOOP);
        let error = open_or_make(fd.as_fd(), Path::new("/out/file/x"), Missing::File).unwrap_err();
        assert_eq!(error.errno, Errno::ENOTDIR);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
