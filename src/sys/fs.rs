//! Files and directories by descriptor. Every descriptor is close-on-exec from birth.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, OpenHow, ResolveFlag, SealFlag, fcntl};
use nix::sys::memfd::MFdFlags;
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Gid, Uid};

use super::{Error, Result, check, cstring, retry};

pub use libc::{O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDONLY, O_RDWR, O_WRONLY};
pub use libc::{
    RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};

/// The working directory, for the calls that take a directory.
pub const CWD: BorrowedFd<'static> = nix::fcntl::AT_FDCWD;

/// `/proc/self/fd/N`, for calls that take only a path. For the runtime only: the container's process has no /proc that it
/// could trust.
#[must_use]
pub fn proc_fd(fd: BorrowedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// `openat2(2)`.
pub fn openat2(dir: BorrowedFd, path: &Path, flags: i32, mode: u32, resolve: u64) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::from_bits_retain(resolve));
    retry(|| nix::fcntl::openat2(dir, path, how).map_err(|e| Error::new(format!("openat2({path:?})"), e)))
}

/// `openat(2)`, for trusted paths of the host.
pub fn open(dir: BorrowedFd, path: &Path, flags: i32, mode: u32) -> Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    retry(|| nix::fcntl::openat(dir, path, flags, mode).map_err(|e| Error::new(format!("open({path:?})"), e)))
}

/// Opens the file of an `O_PATH` descriptor anew, with the access that `flags` ask for. What it is can be looked at before:
/// opening a device or a fifo has effects. `proc` is the root of a verified procfs in which we can be found.
pub fn reopen(proc: BorrowedFd, fd: BorrowedFd, flags: i32) -> Result<OwnedFd> {
    open(proc, Path::new(&format!("self/fd/{}", fd.as_raw_fd())), flags | libc::O_NOCTTY, 0)
}

/// `fstat(2)`, also of an `O_PATH` descriptor.
pub fn fstat(fd: BorrowedFd) -> Result<libc::stat> {
    nix::sys::stat::fstat(fd).map_err(|e| Error::new("fstat()", e))
}

pub fn is_directory(fd: BorrowedFd) -> Result<bool> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// `fstatat(2)`, of a link itself.
pub fn stat_at(dir: BorrowedFd, path: &Path) -> Result<libc::stat> {
    nix::sys::stat::fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|e| Error::new(format!("fstatat({path:?})"), e))
}

/// Returns whether nothing exists at a path, given the error of another call on it: a second, independent call has to
/// agree. What is taken for gone is neither killed nor removed, so that one wrong answer would leave it behind for good.
#[must_use]
pub fn absent(dir: BorrowedFd, path: &Path, error: &Error) -> bool {
    let says = |e: &Error| matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR);
    says(error) && stat_at(dir, path).is_err_and(|e| says(&e))
}

/// Returns the inode number of a file, following links.
pub fn inode_at(dir: BorrowedFd, path: &Path) -> Result<u64> {
    nix::sys::stat::fstatat(dir, path, AtFlags::empty())
        .map(|stat| stat.st_ino)
        .map_err(|e| Error::new(format!("fstatat({path:?})"), e))
}

/// The type of the file system that `fd` lies on: `PROC_SUPER_MAGIC` and its like.
pub fn filesystem_magic(fd: BorrowedFd) -> Result<i64> {
    let stat = nix::sys::statfs::fstatfs(fd).map_err(|e| Error::new("fstatfs()", e))?;
    #[allow(clippy::unnecessary_cast)] // the type's width differs between C libraries
    Ok(stat.filesystem_type().0 as i64)
}

/// Whether the mount that `fd` lies on has the attribute `nosymfollow`. The raw call: nix drops this flag.
pub fn follows_no_links(fd: BorrowedFd) -> Result<bool> {
    const ST_NOSYMFOLLOW: libc::c_ulong = 0x2000;
    // SAFETY: all-zero bytes are a valid statvfs.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a live structure of the type that the call writes.
    let ret = unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut found) };
    check(ret.into(), || "fstatvfs()".into())?;
    Ok(found.f_flag & ST_NOSYMFOLLOW != 0)
}

/// Whether nobody can ever write to a file: the mount that it lies on is read-only, or it is a sealed one in memory.
pub fn never_written(path: &Path) -> Result<bool> {
    use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
    let stat = statfs(path).map_err(|e| Error::new(format!("statfs({path:?})"), e))?;
    if stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let in_memory = stat.filesystem_type() == FsType(TMPFS_MAGIC.0);
    Ok(in_memory && write_sealed(path)?)
}

pub fn mkdirat(dir: BorrowedFd, path: &Path, mode: u32) -> Result<()> {
    nix::sys::stat::mkdirat(dir, path, Mode::from_bits_truncate(mode))
        .map_err(|e| Error::new(format!("mkdirat({path:?})"), e))
}

/// `mknodat(2)`; `mode` holds the type too.
pub fn mknodat(dir: BorrowedFd, path: &Path, mode: u32, device: u64) -> Result<()> {
    let kind = SFlag::from_bits_truncate(mode);
    nix::sys::stat::mknodat(dir, path, kind, Mode::from_bits_truncate(mode), device)
        .map_err(|e| Error::new(format!("mknodat({path:?})"), e))
}

pub fn symlinkat(target: &Path, dir: BorrowedFd, path: &Path) -> Result<()> {
    nix::unistd::symlinkat(target, dir, path).map_err(|e| Error::new(format!("symlinkat({path:?})"), e))
}

/// `readlinkat(2)`; an empty path reads the link that `dir` itself refers to.
pub fn readlinkat(dir: BorrowedFd, path: &Path) -> Result<PathBuf> {
    let text =
        nix::fcntl::readlinkat(dir, path).map_err(|e| Error::new(format!("readlinkat({path:?})"), e))?;
    Ok(PathBuf::from(text))
}

/// `unlinkat(2)`; with `directory`, an empty directory.
pub fn unlinkat(dir: BorrowedFd, path: &Path, directory: bool) -> Result<()> {
    use nix::unistd::UnlinkatFlags::{NoRemoveDir, RemoveDir};
    nix::unistd::unlinkat(dir, path, if directory { RemoveDir } else { NoRemoveDir })
        .map_err(|e| Error::new(format!("unlinkat({path:?})"), e))
}

/// `renameat(2)` within one directory.
pub fn rename(dir: BorrowedFd, from: &Path, to: &Path) -> Result<()> {
    nix::fcntl::renameat(dir, from, dir, to).map_err(|e| Error::new(format!("renameat({from:?}, {to:?})"), e))
}

/// `fchownat(2)` without following a link; an empty path is `dir` itself.
pub fn chown(dir: BorrowedFd, path: &Path, uid: u32, gid: u32) -> Result<()> {
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    nix::unistd::fchownat(dir, path, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)
        .map_err(|e| Error::new(format!("fchownat({path:?}, {uid}, {gid})"), e))
}

/// Sets permission bits of an open file that is not an `O_PATH` descriptor.
pub fn fchmod(fd: BorrowedFd, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode))
        .map_err(|e| Error::new(format!("fchmod({mode:#o})"), e))
}

/// The names in a directory, `.` and `..` left out.
///
/// The C library takes ENOENT for the end of the list. A directory that has not even itself in it was removed.
pub fn list_dir(dir: BorrowedFd) -> Result<Vec<PathBuf>> {
    let error = |e| Error::new("getdents64()", e);
    let own = open(dir, Path::new("."), O_RDONLY | O_DIRECTORY, 0)?;
    let mut stream = nix::dir::Dir::from_fd(own).map_err(error)?;
    let (mut names, mut any) = (Vec::new(), false);
    for entry in stream.iter() {
        let name = entry.map_err(error)?.file_name().to_bytes().to_vec();
        any = true;
        if name != b"." && name != b".." {
            names.push(PathBuf::from(std::ffi::OsString::from_vec(name)));
        }
    }
    if any { Ok(names) } else { Err(error(Errno::ENOENT)) }
}

/// Reads a whole file of at most `limit` bytes; a larger one is `EFBIG`.
pub fn read_limited(fd: OwnedFd, limit: u64) -> Result<Vec<u8>> {
    read_until(fd, limit, |_| false)
}

/// Like [`read_limited`], for files that give all that there is room for at once: regular ones and those of the kernel's
/// that are one record. It saves the read that only says that there is no more.
pub fn read_whole(fd: OwnedFd, limit: u64) -> Result<Vec<u8>> {
    read_until(fd, limit, |left| left > 0)
}

/// [`read_whole`] into memory that was used before.
pub fn read_whole_into(fd: OwnedFd, limit: u64, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    bytes.reserve(8192);
    read_on(fd, limit, |left| left > 0, bytes)
}

/// Reads until nothing comes, or `enough` says so of the room that a read has left. Only what is read is touched and kept:
/// a page more is a page fault more.
fn read_until(fd: OwnedFd, limit: u64, enough: impl Fn(usize) -> bool) -> Result<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::with_capacity(8192);
    read_on(fd, limit, enough, &mut bytes)?;
    bytes.shrink_to_fit();
    Ok(bytes)
}

fn read_on(fd: OwnedFd, limit: u64, enough: impl Fn(usize) -> bool, bytes: &mut Vec<u8>) -> Result<()> {
    loop {
        let room = bytes.spare_capacity_mut();
        let n = retry(|| {
            // SAFETY: the kernel writes into the room, and not beyond its length.
            check(
                unsafe { libc::read(fd.as_raw_fd(), room.as_mut_ptr().cast(), room.len()) } as libc::c_long,
                || "read()".into(),
            )
        })?;
        let left = room.len() - n as usize;
        // SAFETY: the kernel has written these bytes.
        unsafe { bytes.set_len(bytes.len() + n as usize) };
        if bytes.len() as u64 > limit {
            return Err(Error::new("read()", Errno::EFBIG));
        }
        if n == 0 || enough(left) {
            return Ok(());
        }
        if left == 0 {
            bytes.reserve(bytes.len());
        }
    }
}

/// The text of one of the kernel's small files.
pub fn read_text(dir: BorrowedFd, path: &Path) -> Result<String> {
    let bytes = read_whole(open(dir, path, O_RDONLY, 0)?, 1 << 20).map_err(|mut e| {
        e.call = format!("read({path:?})");
        e
    })?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Writes `bytes` to a file of the kernel's in one `write(2)`.
pub fn write_at(dir: BorrowedFd, path: &Path, bytes: &[u8]) -> Result<()> {
    write_each(dir, path, [bytes])
}

/// Writes to a file of the kernel's, each value in one `write(2)` of its own.
pub fn write_each<'a>(
    dir: BorrowedFd,
    path: &Path,
    values: impl IntoIterator<Item = &'a [u8]>,
) -> Result<()> {
    let fd = open(dir, path, O_WRONLY, 0)?;
    values.into_iter().try_for_each(|bytes| write_whole(fd.as_fd(), bytes, path))
}

/// Writes `bytes` to a file of the kernel's that is open, in one `write(2)`.
pub fn write_open(fd: BorrowedFd, bytes: &[u8]) -> Result<()> {
    write_whole(fd, bytes, Path::new("an open file"))
}

fn write_whole(fd: BorrowedFd, bytes: &[u8], path: &Path) -> Result<()> {
    let shown = || format!("write({path:?}, {:?})", String::from_utf8_lossy(bytes));
    match nix::unistd::write(fd, bytes) {
        Ok(n) if n == bytes.len() => Ok(()),
        Ok(_) => Err(Error::new(shown(), Errno::EIO)),
        Err(e) => Err(Error::new(shown(), e)),
    }
}

/// An anonymous file that holds `bytes`, positioned at its start.
pub fn memfd_with(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let fd = memfd(name)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = nix::unistd::write(&fd, rest).map_err(|e| Error::new("write(memfd)", e))?;
        rest = &rest[n..];
    }
    rewind(&fd)?;
    Ok(fd)
}

/// An empty anonymous file that can be sealed and never executed.
pub fn memfd(name: &str) -> Result<OwnedFd> {
    memfd_create(name, MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL))
}

/// The flags for whether it may be executed came with Linux 6.3, where an administrator may demand that one is given.
fn memfd_create(name: &str, exec: MFdFlags) -> Result<OwnedFd> {
    let make = |flags: MFdFlags| {
        nix::sys::memfd::memfd_create(name, flags)
            .map_err(|e| Error::new(format!("memfd_create({:#x})", flags.bits()), e))
    };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    match make(flags | exec) {
        Err(e) if e.errno == Errno::EINVAL => make(flags),
        other => other,
    }
}

const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// A copy in memory that can be executed and never be written to again.
pub fn sealed_copy(path: &Path) -> Result<OwnedFd> {
    use std::os::fd::AsFd;
    let to = memfd_create("corten", MFdFlags::from_bits_retain(libc::MFD_EXEC))?;
    copy(open(CWD, path, O_RDONLY, 0)?, to.as_fd())?;
    fcntl(&to, FcntlArg::F_ADD_SEALS(SEALS)).map_err(|e| Error::new("fcntl(F_ADD_SEALS)", e))?;
    Ok(to)
}

/// Copies the rest of one file to another.
pub fn copy(from: OwnedFd, to: BorrowedFd) -> Result<()> {
    let error = |e: io::Error| Error::new("copy", Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)));
    let mut to = std::fs::File::from(dup(to)?);
    io::copy(&mut std::fs::File::from(from), &mut to).map(drop).map_err(error)
}

const STATX_MNT_ID: u32 = 0x1000;
/// Of Linux 6.8.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// The id of the mount that a path lies on, as mountinfo shows it; an empty path is `dir` itself. The kernel gives the id to
/// another mount later.
pub fn mount_id(dir: BorrowedFd, path: &Path) -> Result<u64> {
    Ok(statx(dir, path, STATX_MNT_ID)?.stx_mnt_id)
}

/// The id of the mount whose root is at `path`, or 0 if none is mounted there. Where the kernel can say it, no other mount
/// ever has this id.
pub fn mounted_at(path: &Path) -> Result<u64> {
    let found = statx(CWD, path, STATX_MNT_ID | STATX_MNT_ID_UNIQUE)?;
    let is_root = found.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok(if is_root { found.stx_mnt_id } else { 0 })
}

/// `statx(2)`, of which one of the fields in `wanted` is had.
fn statx(dir: BorrowedFd, path: &Path, wanted: u32) -> Result<libc::statx> {
    let name = cstring(path)?;
    // SAFETY: all-zero bytes are a valid statx.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and `found` a live structure of the type that the kernel writes.
    let ret =
        unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), libc::AT_EMPTY_PATH, wanted, &raw mut found) };
    check(ret.into(), || format!("statx({path:?})"))?;
    if found.stx_mask & wanted == 0 {
        return Err(Error::new(format!("statx({path:?}, STATX_MNT_ID)"), Errno::ENOTSUP));
    }
    Ok(found)
}

/// Whether a file in memory is sealed against writing.
fn write_sealed(path: &Path) -> Result<bool> {
    let file = open(CWD, path, O_RDONLY, 0)?;
    // A file that cannot be sealed answers EINVAL.
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS);
    Ok(seals.is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SEALS)))
}

/// Positions a file at its start.
pub fn rewind(fd: &OwnedFd) -> Result<()> {
    nix::unistd::lseek(fd, 0, nix::unistd::Whence::SeekSet).map(drop).map_err(|e| Error::new("lseek()", e))
}

/// Opens /dev/null in the place of a standard stream that is closed: else a file of ours would get its number and be
/// what the container reads or writes. The raw poll(2): nix's takes only descriptors that are open.
pub fn fill_standard() -> Result<()> {
    let mut polled = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    retry(|| {
        // SAFETY: the array of three entries lives until the call returns.
        let ret = unsafe { libc::poll(polled.as_mut_ptr(), 3, 0) };
        check(ret.into(), || "poll(0, 1, 2)".into())
    })?;
    for closed in polled.iter().filter(|p| p.revents & libc::POLLNVAL != 0) {
        use std::os::fd::IntoRawFd;
        // The lowest free number is given, and it stays open over execve like the others.
        let fd = open(CWD, Path::new("/dev/null"), O_RDWR, 0)?.into_raw_fd();
        if fd == closed.fd {
            keep_on_exec(fd)?;
        }
    }
    Ok(())
}

/// Closes every descriptor from 3 on but those of `kept`. For a process that clone3 has just made and that never goes
/// back to where it was made: what its maker holds, a lock among it, is not its own to keep.
pub fn close_all_but(mut kept: Vec<i32>) -> Result<()> {
    kept.sort_unstable();
    kept.push(i32::MAX);
    let mut first = 3;
    for fd in kept {
        if fd > first {
            // SAFETY: the values that own these descriptors belong to frames that this process never returns to.
            let ret = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            check(ret, || format!("close_range({first}, {})", fd - 1))?;
        }
        first = first.max(fd.saturating_add(1));
    }
    Ok(())
}

/// Closes descriptors, neighbours in one call.
pub fn close_together(fds: Vec<OwnedFd>) {
    use std::os::fd::IntoRawFd;
    let mut numbers: Vec<i32> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        if let [first, .., last] | [first @ last] = run {
            // SAFETY: we owned each of these descriptors until here.
            unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) };
        }
    }
}

/// Marks every descriptor from `first` on close-on-exec, whoever left it to us.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: no pointers are passed, and the descriptors stay open: nobody's `OwnedFd` is pulled away.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(ret, || format!("close_range({first}, CLOEXEC)")).map(drop)
}

/// Clears close-on-exec of one of the caller's descriptors, by number.
pub fn keep_on_exec(fd: i32) -> Result<()> {
    // SAFETY: only a flag of the descriptor changes; EBADF if there is none.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    check(ret.into(), || format!("fcntl({fd}, F_SETFD)")).map(drop)
}

/// `flock(2)`, exclusive, without waiting. The raw call: nix's `Flock` takes the descriptor away from its owner.
pub fn try_lock(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    check(ret.into(), || "flock(LOCK_EX)".into()).map(drop)
}

/// Gives a `flock(2)` back.
pub fn unlock(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_UN) };
    check(ret.into(), || "flock(LOCK_UN)".into()).map(drop)
}

/// A duplicate, close-on-exec.
pub fn dup(fd: BorrowedFd) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|e| {
        Error::new("fcntl(F_DUPFD_CLOEXEC)", Errno::from_raw(e.raw_os_error().unwrap_or(libc::EBADF)))
    })
}

/// Those of the `count` descriptors from `first` on that are open and not close-on-exec: those that whoever executed us
/// left to us. `proc` is the root of a procfs in which we can be found.
pub fn inherited(proc: BorrowedFd, first: i32, count: u32) -> Result<Vec<i32>> {
    let beyond = first.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
    let own = open(proc, Path::new("self/fd"), O_RDONLY | O_DIRECTORY, 0)?;
    let numbers = list_dir(own.as_fd())?;
    let numbers = numbers.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let mut given: Vec<i32> = numbers
        .filter(|fd| (first..beyond).contains(fd))
        // SAFETY: only a flag is asked for; EBADF, where there is no descriptor by now, is not 0.
        .filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == 0)
        .collect();
    given.sort_unstable();
    Ok(given)
}
