//! `tmpcopyup`: a new tmpfs begins with a copy of the directory that it covers
//! (config.md#linux-mount-options).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;

use crate::sys::{Error, Result, fs};

/// The greatest depth of a tree. Each level keeps two descriptors open.
const DEPTH_MAX: u32 = 256;

/// Copies the contents of one directory to another, with its mode and owner unless the options `given` set them. The tree
/// belongs to the image, and other containers may share it. Therefore every name is opened once, as O_PATH and without
/// following links, and the file is opened again by that descriptor. `proc` is the root of a verified procfs.
pub(super) fn copy(from: BorrowedFd, to: BorrowedFd, given: &[&str], proc: BorrowedFd) -> Result<()> {
    let from = fs::open(from, Path::new("."), fs::O_RDONLY | fs::O_DIRECTORY, 0)?;
    let to = fs::open(to, Path::new("."), fs::O_RDONLY | fs::O_DIRECTORY, 0)?;
    contents(from.as_fd(), to.as_fd(), 0, proc)?;
    let (wanted, now) = (fs::fstat(from.as_fd())?, fs::fstat(to.as_fd())?);
    let own = |key: &str| given.iter().any(|option| option.starts_with(key));
    let uid = if own("uid=") { now.st_uid } else { wanted.st_uid };
    let gid = if own("gid=") { now.st_gid } else { wanted.st_gid };
    let mode = if own("mode=") { now.st_mode } else { wanted.st_mode };
    fs::chown(to.as_fd(), Path::new(""), uid, gid)?;
    fs::fchmod(to.as_fd(), mode & 0o7777)
}

fn contents(from: BorrowedFd, to: BorrowedFd, depth: u32, proc: BorrowedFd) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::new("tmpcopyup", Errno::ELOOP));
    }
    fs::list_dir(from)?.iter().try_for_each(|name| entry(from, to, name, depth, proc))
}

fn entry(from: BorrowedFd, to: BorrowedFd, name: &Path, depth: u32, proc: BorrowedFd) -> Result<()> {
    let found = fs::open(from, name, fs::O_PATH | fs::O_NOFOLLOW, 0)?;
    let stat = fs::fstat(found.as_fd())?;
    let mode = stat.st_mode & 0o7777;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            fs::mkdirat(to, name, 0o700)?;
            let flags = fs::O_RDONLY | fs::O_DIRECTORY | fs::O_NOFOLLOW;
            let from = fs::reopen(proc, found.as_fd(), fs::O_RDONLY | fs::O_DIRECTORY)?;
            let to = fs::open(to, name, flags, 0)?;
            contents(from.as_fd(), to.as_fd(), depth + 1, proc)?;
            fs::chown(to.as_fd(), Path::new(""), stat.st_uid, stat.st_gid)?;
            fs::fchmod(to.as_fd(), mode)
        }
        libc::S_IFREG => {
            let from = fs::reopen(proc, found.as_fd(), fs::O_RDONLY | libc::O_NONBLOCK)?;
            let flags = fs::O_WRONLY | fs::O_CREAT | fs::O_EXCL | fs::O_NOFOLLOW;
            let to = fs::open(to, name, flags, 0o600)?;
            fs::copy(from, to.as_fd())?;
            fs::chown(to.as_fd(), Path::new(""), stat.st_uid, stat.st_gid)?;
            fs::fchmod(to.as_fd(), mode)
        }
        libc::S_IFLNK => {
            fs::symlinkat(&fs::readlinkat(found.as_fd(), Path::new(""))?, to, name)?;
            fs::chown(to, name, stat.st_uid, stat.st_gid)
        }
        _ => {
            // mknod(2) ignores the number if the file is not a device.
            fs::mknodat(to, name, stat.st_mode, stat.st_rdev)?;
            fs::chown(to, name, stat.st_uid, stat.st_gid)
        }
    }
}
