//! Opening paths inside the root file system, whose links an image may have prepared. Every path is opened
//! with the root file system as its root (openat2 RESOLVE_IN_ROOT) and used by descriptor. So no symbolic
//! link leads to the host, and no rename between a check and a use has an effect (CVE-2021-30465,
//! CVE-2025-31133).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use crate::error::{Kind, fail};
use crate::sys::{Error, Result, fs};

/// The kind of file to make for a path that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    Directory,
    File,
}

/// The number of links that the kernel follows.
const LINKS_MAX: usize = 40;

/// Opens an existing path as O_PATH, following links inside the root.
pub(crate) fn open(root: BorrowedFd, path: &Path) -> Result<OwnedFd> {
    open_with(root, path, fs::O_PATH)
}

/// Opens an existing path with other flags.
pub(crate) fn open_with(root: BorrowedFd, path: &Path, flags: i32) -> Result<OwnedFd> {
    retry(|| fs::openat2(root, path, flags, 0, fs::RESOLVE_IN_ROOT | fs::RESOLVE_NO_MAGICLINKS))
}

/// Repeats an open that fails with EAGAIN: any rename on the host can disturb the kernel's check of "..".
fn retry(open: impl Fn() -> Result<OwnedFd>) -> Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match open() {
            Err(e) if e.errno == Errno::EAGAIN && tries < 128 => tries += 1,
            other => return other,
        }
    }
}

/// Opens an existing path as O_PATH. Fails with ELOOP if there is a link on the way.
pub(crate) fn open_plain(root: BorrowedFd, path: &Path) -> Result<OwnedFd> {
    let resolve = fs::RESOLVE_IN_ROOT | fs::RESOLVE_NO_SYMLINKS;
    retry(|| fs::openat2(root, path, fs::O_PATH, 0, resolve))
}

/// Opens an existing path as O_PATH, following links inside the mount of the root. Fails with EXDEV if the way leads into another
/// mount.
pub(crate) fn open_on_mount(root: BorrowedFd, path: &Path) -> Result<OwnedFd> {
    let resolve = fs::RESOLVE_IN_ROOT | fs::RESOLVE_NO_MAGICLINKS | fs::RESOLVE_NO_XDEV;
    retry(|| fs::openat2(root, path, fs::O_PATH, 0, resolve))
}

/// Opens an existing path as O_PATH, as [`open_on_mount`] does, but a link at its end is opened itself.
pub(crate) fn open_link_on_mount(root: BorrowedFd, path: &Path) -> Result<OwnedFd> {
    let resolve = fs::RESOLVE_IN_ROOT | fs::RESOLVE_NO_MAGICLINKS | fs::RESOLVE_NO_XDEV;
    retry(|| fs::openat2(root, path, fs::O_PATH | fs::O_NOFOLLOW, 0, resolve))
}

/// Opens a path as O_PATH. Makes missing directories with mode 0755, and a file as the last component with 0644.
pub(crate) fn open_or_make(root: BorrowedFd, path: &Path, last: Missing) -> Result<OwnedFd> {
    let above = |path: &Path| open(root, path);
    match open(root, path) {
        Err(e) if e.errno == Errno::ENOENT => make_last(path, last, above)
            .or_else(|_| walk(root, path, Some(last), &[], End::Followed)?.into_fd(path)),
        other => other,
    }
}

/// Opens a path as [`open_plain`] does, and makes the last component if only that is missing.
pub(crate) fn open_or_make_plain(root: BorrowedFd, path: &Path, last: Missing) -> Result<OwnedFd> {
    match open_plain(root, path) {
        Err(e) if e.errno == Errno::ENOENT => make_last(path, last, |path| open_plain(root, path)),
        other => other,
    }
}

/// Makes and opens the last component. Fails if another one is missing, or if a link is in its place.
fn make_last(path: &Path, last: Missing, open: impl Fn(&Path) -> Result<OwnedFd>) -> Result<OwnedFd> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("openat2({path:?})"), Errno::ENOENT));
    };
    let dir = open(if above.as_os_str().is_empty() { Path::new("/") } else { above })?;
    make_one(dir.as_fd(), Path::new(name), last)?;
    open_one(dir.as_fd(), Path::new(name))
}

/// The treatment of a link at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Followed,
    Kept,
}

/// A mount that a path may lead into by its own names, but never by a link.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub mount: u64,
    /// Its own destination without `..`. The image may have made that a link.
    pub destination: PathBuf,
}

/// The end of a walk.
#[derive(Debug)]
pub(crate) enum Walked {
    At {
        fd: OwnedFd,
        /// The place inside the root, without links.
        path: PathBuf,
        /// The walk followed a link that is not in a procfs, whose links the kernel makes.
        linked: bool,
    },
    /// A link led into this closed mount. Nothing was made there.
    Astray(usize),
}

impl Walked {
    fn into_fd(self, path: &Path) -> Result<OwnedFd> {
        match self {
            Self::At { fd, .. } => Ok(fd),
            Self::Astray(_) => Err(Error::new(format!("openat2({path:?})"), Errno::EXDEV)),
        }
    }
}

/// A directory that a walk has passed.
struct Passed {
    name: OsString,
    fd: OwnedFd,
    /// The innermost closed mount that contains it.
    closed: Option<usize>,
}

/// Walks a path component by component. Every directory on the way stays open, so that `..` is the directory that the walk came
/// through. The missing target of a link is made inside the root.
///
/// The walk is astray after a link, until it enters a closed mount exactly at the mount's own destination. It is also astray
/// in a closed mount that it enters elsewhere, because a link has led the mount there.
pub(crate) fn walk(
    root: BorrowedFd,
    path: &Path,
    missing: Option<Missing>,
    closed: &[Closed],
    end: End,
) -> Result<Walked> {
    let mut todo: VecDeque<OsString> = names(path);
    let mut passed =
        vec![Passed { name: OsString::new(), fd: fs::dup(root)?, closed: entered(root, closed)? }];
    // The part of the path that is done, and the number of remaining names that come from links.
    let (mut words, mut of_links) = (PathBuf::from("/"), 0);
    let (mut links, mut linked, mut astray) = (0, false, false);
    while let Some(name) = todo.pop_front() {
        match of_links {
            0 if name == ".." => drop(words.pop()),
            0 => words.push(&name),
            _ => of_links -= 1,
        }
        let Some(last) = passed.last().filter(|_| name != "..") else {
            passed.truncate((passed.len() - 1).max(1));
            continue;
        };
        let (here, inside) = (last.fd.as_fd(), last.closed);
        let found = match (open_one(here, Path::new(&name)), missing, inside.filter(|_| astray)) {
            (Err(e), Some(_), Some(mount)) if e.errno == Errno::ENOENT => return Ok(Walked::Astray(mount)),
            (Err(e), Some(kind), None) if e.errno == Errno::ENOENT => {
                step(here, Path::new(&name), if todo.is_empty() { kind } else { Missing::Directory })?
            }
            (other, ..) => other?,
        };
        let mode = fs::fstat(found.as_fd())?.st_mode & libc::S_IFMT;
        if mode == libc::S_IFLNK && (end == End::Followed || !todo.is_empty()) {
            links += 1;
            if links > LINKS_MAX {
                return Err(Error::new(format!("openat2({path:?})"), Errno::ELOOP));
            }
            let (target, of_image) = link(here, Path::new(&name), found.as_fd())?;
            (linked, astray) = (linked || of_image, astray || of_image);
            if target.is_absolute() {
                passed.truncate(1);
            }
            for name in names(&target).into_iter().rev() {
                todo.push_front(name);
                of_links += 1;
            }
            continue;
        }
        if !todo.is_empty() && mode != libc::S_IFDIR {
            return Err(Error::new(format!("openat2({path:?})"), Errno::ENOTDIR));
        }
        let entered = entered(found.as_fd(), closed)?.filter(|mount| inside != Some(*mount));
        if let Some(mount) = entered {
            astray = of_links > 0 || words != closed[mount].destination;
        }
        passed.push(Passed { name, fd: found, closed: entered.or(inside) });
    }
    let place = passed.iter().map(|passed| &passed.name);
    let path = Path::new("/").join(place.skip(1).collect::<PathBuf>());
    match passed.pop() {
        Some(Passed { closed: Some(mount), .. }) if astray => Ok(Walked::Astray(mount)),
        Some(Passed { fd, .. }) => Ok(Walked::At { fd, path, linked }),
        None => Err(Error::new(format!("openat2({path:?})"), Errno::ENOENT)),
    }
}

/// Returns the target of a link, and whether the image may have made the link. The kernel makes those of procfs.
fn link(dir: BorrowedFd, name: &Path, link: BorrowedFd) -> Result<(PathBuf, bool)> {
    if fs::follows_no_links(link)? {
        return Err(Error::new(format!("openat2({name:?})"), Errno::ELOOP));
    }
    let of_procfs = fs::filesystem_magic(link)? == libc::PROC_SUPER_MAGIC;
    // A link of procfs to the file of a descriptor only looks like a path.
    if of_procfs {
        drop(fs::openat2(dir, name, fs::O_PATH, 0, fs::RESOLVE_NO_MAGICLINKS)?);
    }
    Ok((fs::readlinkat(link, Path::new(""))?, !of_procfs))
}

/// Returns the index of the closed mount that contains a file.
fn entered(found: BorrowedFd, closed: &[Closed]) -> Result<Option<usize>> {
    if closed.is_empty() {
        return Ok(None);
    }
    let id = fs::mount_id(found, Path::new(""))?;
    Ok(closed.iter().position(|closed| closed.mount == id))
}

/// Returns a path as it is written, absolute and without `..`.
#[must_use]
pub(crate) fn words(path: &Path) -> PathBuf {
    names(path).iter().fold(PathBuf::from("/"), |mut words, name| {
        if name == ".." {
            words.pop();
        } else {
            words.push(name);
        }
        words
    })
}

/// Opens one name without following it, and makes it if it is missing. If another process makes it in between, that file is
/// opened.
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

/// Opens one name without following it.
pub(super) fn open_one(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_MAGICLINKS;
    fs::openat2(dir, name, fs::O_PATH | fs::O_NOFOLLOW, 0, resolve)
}

pub(super) fn make_one(dir: BorrowedFd, name: &Path, kind: Missing) -> Result<()> {
    match kind {
        Missing::Directory => fs::mkdirat(dir, name, 0o755),
        Missing::File => {
            fs::open(dir, name, fs::O_CREAT | fs::O_EXCL | fs::O_NOFOLLOW | fs::O_WRONLY, 0o644).map(drop)
        }
    }
}

/// Makes a link, and returns whether it did: one with the same target may exist.
pub(super) fn make_link(dir: BorrowedFd, name: &Path, target: &Path) -> anyhow::Result<bool> {
    match fs::symlinkat(target, dir, name) {
        Err(e) if e.errno == Errno::EEXIST => match fs::readlinkat(dir, name) {
            Ok(found) if found == target => Ok(false),
            Ok(found) => {
                let what = format!("copy-symlink: there is a link to {} already", found.display());
                Err(fail(Kind::Config, what))
            }
            Err(_) => Err(e.into()),
        },
        made => Ok(made.map(|()| true)?),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// No file outside the root is opened or made, whatever the links are.
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

    /// The whole root is a closed mount here. Checks where a walk ends, and which links lead astray into it.
    #[test]
    fn a_walk_is_astray_if_a_link_leads_into_a_closed_mount() {
        let root = std::env::temp_dir().join(format!("corten-walk-{}", std::process::id()));
        std::fs::create_dir_all(root.join("data/sub")).unwrap();
        for (link, target) in [("run", "/data/sub"), ("data/up", ".."), ("top", "/"), ("new", "data/made")] {
            symlink(target, root.join(link)).unwrap();
        }
        let fd = fs::open(fs::CWD, &root, fs::O_PATH | fs::O_DIRECTORY, 0).unwrap();
        let closed =
            [Closed { mount: fs::mount_id(fd.as_fd(), Path::new("")).unwrap(), destination: "/x".into() }];
        for (path, place, linked) in [
            ("/data/sub", "/data/sub", false),
            ("data/./sub/../sub", "/data/sub", false),
            ("/data/../..", "/", false),
            ("/run", "/data/sub", true),
            ("/run/..", "/data", true),
            ("/data/up/data", "/data", true),
            ("/top", "/", true),
            ("/new", "/data/made", true),
            ("/data/other", "/data/other", false),
        ] {
            let walk = |closed: &[Closed]| {
                walk(fd.as_fd(), Path::new(path), Some(Missing::Directory), closed, End::Followed)
            };
            // First with all closed: then nothing is made.
            let exists = || root.join(place.trim_start_matches('/')).exists();
            let before = exists();
            let astray = matches!(walk(&closed).unwrap(), Walked::Astray(0));
            assert_eq!(astray, linked, "{path}");
            assert!(!astray || exists() == before, "{path}");
            let Walked::At { path: found, linked: by_link, .. } = walk(&[]).unwrap() else {
                panic!("{path}")
            };
            assert_eq!((found.as_path(), by_link), (Path::new(place), linked), "{path}");
        }
        // A link at the end can be kept; one on the way is followed, and leads astray as before.
        let keep = |path: &str, closed: &[Closed]| walk(fd.as_fd(), Path::new(path), None, closed, End::Kept);
        let Walked::At { fd: link, path, linked: false } = keep("/top", &closed).unwrap() else { panic!() };
        assert_eq!((fs::readlinkat(link.as_fd(), Path::new("")).unwrap(), path), ("/".into(), "/top".into()));
        assert!(matches!(keep("/run/../up", &closed).unwrap(), Walked::Astray(0)));
        assert!(matches!(keep("/run/../up", &[]).unwrap(), Walked::At { linked: true, .. }));
        assert_eq!(keep("/data/none", &[]).unwrap_err().errno, Errno::ENOENT);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
