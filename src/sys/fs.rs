//! Files and directories by descriptor. Every new descriptor is close-on-exec.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, OpenHow, ResolveFlag, SealFlag, fcntl};
use nix::sys::memfd::MFdFlags;
use nix::sys::stat::{Mode, SFlag};
use nix::unistd::{Gid, Uid, UnlinkatFlags};

use super::{Error, Result, check, cstring, retry};

pub(crate) use libc::{O_CREAT, O_EXCL, O_NOFOLLOW, O_RDONLY, O_RDWR, O_WRONLY};
pub use libc::{O_DIRECTORY, O_PATH};
pub(crate) use libc::{
    RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};

/// The working directory, for calls that take a directory.
pub const CWD: BorrowedFd<'static> = nix::fcntl::AT_FDCWD;

/// Returns `/proc/self/fd/N`, for calls that take only a path. Only the runtime may use it: the container's
/// process has no trustworthy /proc.
#[must_use]
pub(crate) fn proc_fd(fd: BorrowedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Opens `path` below `dir` within the limits of `resolve` (`openat2(2)`).
pub(crate) fn openat2(dir: BorrowedFd, path: &Path, flags: i32, mode: u32, resolve: u64) -> Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC)
        .mode(Mode::from_bits_truncate(mode))
        .resolve(ResolveFlag::from_bits_retain(resolve));
    retry(|| nix::fcntl::openat2(dir, path, how).map_err(|e| Error::new(format!("openat2({path:?})"), e)))
}

/// Opens a trusted path of the host (`openat(2)`).
pub fn open(dir: BorrowedFd, path: &Path, flags: i32, mode: u32) -> Result<OwnedFd> {
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(mode);
    retry(|| nix::fcntl::openat(dir, path, flags, mode).map_err(|e| Error::new(format!("open({path:?})"), e)))
}

/// Opens the file of an `O_PATH` descriptor again, with the access that `flags` name. The caller can check
/// the type of the file first, because opening a device or a fifo has effects. `proc` is the root of a
/// verified procfs that shows this process.
pub(crate) fn reopen(proc: BorrowedFd, fd: BorrowedFd, flags: i32) -> Result<OwnedFd> {
    open(proc, Path::new(&format!("self/fd/{}", fd.as_raw_fd())), flags | libc::O_NOCTTY, 0)
}

/// Returns the attributes of an open file (`fstat(2)`), also of an `O_PATH` descriptor.
pub(crate) fn fstat(fd: BorrowedFd) -> Result<libc::stat> {
    nix::sys::stat::fstat(fd).map_err(|e| Error::new("fstat()", e))
}

/// Returns whether an open file is a directory.
pub(crate) fn is_directory(fd: BorrowedFd) -> Result<bool> {
    Ok(fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Returns the attributes of a file without following a link (`fstatat(2)`).
pub(crate) fn stat_at(dir: BorrowedFd, path: &Path) -> Result<libc::stat> {
    nix::sys::stat::fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|e| Error::new(format!("fstatat({path:?})"), e))
}

/// Returns whether nothing exists at a path, given the error of another call on it. A second, independent
/// call has to agree: an absent object is neither killed nor removed, so one wrong answer would leave it
/// behind for good.
#[must_use]
pub(crate) fn absent(dir: BorrowedFd, path: &Path, error: &Error) -> bool {
    is_absence(error) && stat_at(dir, path).is_err_and(|e| is_absence(&e))
}

fn is_absence(error: &Error) -> bool {
    matches!(error.errno, Errno::ENOENT | Errno::ENOTDIR)
}

/// Returns the result of `call`, a call on a path, or `None` if nothing exists there ([`absent`]). If something
/// was made there since the call, the call is repeated once.
pub(crate) fn existing<T>(dir: BorrowedFd, path: &Path, call: impl Fn() -> Result<T>) -> Result<Option<T>> {
    match call() {
        Err(e) if absent(dir, path, &e) => Ok(None),
        Err(e) if is_absence(&e) => call().map(Some),
        other => other.map(Some),
    }
}

/// Returns the inode number of a file, following links.
pub(crate) fn inode_at(dir: BorrowedFd, path: &Path) -> Result<u64> {
    nix::sys::stat::fstatat(dir, path, AtFlags::empty())
        .map(|stat| stat.st_ino)
        .map_err(|e| Error::new(format!("fstatat({path:?})"), e))
}

/// Returns the type of the file system of an open file, for example `PROC_SUPER_MAGIC`.
pub(crate) fn filesystem_magic(fd: BorrowedFd) -> Result<i64> {
    let stat = nix::sys::statfs::fstatfs(fd).map_err(|e| Error::new("fstatfs()", e))?;
    #[allow(clippy::unnecessary_cast)] // the type's width differs between C libraries
    Ok(stat.filesystem_type().0 as i64)
}

/// Returns whether the mount of an open file has the attribute `nosymfollow`. The raw call, because nix drops
/// this flag.
pub(crate) fn follows_no_links(fd: BorrowedFd) -> Result<bool> {
    const ST_NOSYMFOLLOW: libc::c_ulong = 0x2000;
    // SAFETY: all-zero bytes are a valid statvfs.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `found` is a live structure of the type that the call writes.
    let ret = unsafe { libc::fstatvfs(fd.as_raw_fd(), &raw mut found) };
    check(ret.into(), || "fstatvfs()".into())?;
    Ok(found.f_flag & ST_NOSYMFOLLOW != 0)
}

/// Returns whether a file can never be written to: its mount is read-only, or it is a sealed file in memory.
pub(crate) fn never_written(path: &Path) -> Result<bool> {
    use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
    let stat = statfs(path).map_err(|e| Error::new(format!("statfs({path:?})"), e))?;
    if stat.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY) {
        return Ok(true);
    }
    let in_memory = stat.filesystem_type() == FsType(TMPFS_MAGIC.0);
    Ok(in_memory && write_sealed(path)?)
}

/// Creates a directory (`mkdirat(2)`).
pub(crate) fn mkdirat(dir: BorrowedFd, path: &Path, mode: u32) -> Result<()> {
    nix::sys::stat::mkdirat(dir, path, Mode::from_bits_truncate(mode))
        .map_err(|e| Error::new(format!("mkdirat({path:?})"), e))
}

/// Creates a device or fifo (`mknodat(2)`). `mode` contains the type and the permissions.
pub(crate) fn mknodat(dir: BorrowedFd, path: &Path, mode: u32, device: u64) -> Result<()> {
    let kind = SFlag::from_bits_truncate(mode);
    nix::sys::stat::mknodat(dir, path, kind, Mode::from_bits_truncate(mode), device)
        .map_err(|e| Error::new(format!("mknodat({path:?})"), e))
}

/// Creates a symbolic link (`symlinkat(2)`).
pub(crate) fn symlinkat(target: &Path, dir: BorrowedFd, path: &Path) -> Result<()> {
    nix::unistd::symlinkat(target, dir, path).map_err(|e| Error::new(format!("symlinkat({path:?})"), e))
}

/// Returns the target of a symbolic link (`readlinkat(2)`). An empty path means the link that `dir` itself
/// refers to.
pub(crate) fn readlinkat(dir: BorrowedFd, path: &Path) -> Result<PathBuf> {
    let text =
        nix::fcntl::readlinkat(dir, path).map_err(|e| Error::new(format!("readlinkat({path:?})"), e))?;
    Ok(PathBuf::from(text))
}

/// Removes a file that is not a directory (`unlinkat(2)`).
pub(crate) fn unlinkat(dir: BorrowedFd, path: &Path) -> Result<()> {
    remove(dir, path, UnlinkatFlags::NoRemoveDir)
}

/// Removes an empty directory (`unlinkat(2)` with `AT_REMOVEDIR`).
pub(crate) fn rmdirat(dir: BorrowedFd, path: &Path) -> Result<()> {
    remove(dir, path, UnlinkatFlags::RemoveDir)
}

fn remove(dir: BorrowedFd, path: &Path, flags: UnlinkatFlags) -> Result<()> {
    nix::unistd::unlinkat(dir, path, flags).map_err(|e| Error::new(format!("unlinkat({path:?})"), e))
}

/// Renames a file within one directory (`renameat(2)`).
pub(crate) fn rename(dir: BorrowedFd, from: &Path, to: &Path) -> Result<()> {
    nix::fcntl::renameat(dir, from, dir, to).map_err(|e| Error::new(format!("renameat({from:?}, {to:?})"), e))
}

/// Changes the owner of a file without following a link (`fchownat(2)`). An empty path means `dir` itself.
pub(crate) fn chown(dir: BorrowedFd, path: &Path, uid: u32, gid: u32) -> Result<()> {
    let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    nix::unistd::fchownat(dir, path, owner, group, AtFlags::AT_SYMLINK_NOFOLLOW | AtFlags::AT_EMPTY_PATH)
        .map_err(|e| Error::new(format!("fchownat({path:?}, {uid}, {gid})"), e))
}

/// Sets the permissions of an open file, whose descriptor must not be an `O_PATH` one.
pub(crate) fn fchmod(fd: BorrowedFd, mode: u32) -> Result<()> {
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(mode))
        .map_err(|e| Error::new(format!("fchmod({mode:#o})"), e))
}

/// Returns the names in a directory except `.` and `..`.
///
/// The C library takes ENOENT for the end of the list. A directory without even `.` has been removed, which
/// is an error.
pub(crate) fn list_dir(dir: BorrowedFd) -> Result<Vec<PathBuf>> {
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

/// Reads a whole file. A file of more than `limit` bytes is `EFBIG`.
pub(crate) fn read_limited(fd: OwnedFd, limit: u64) -> Result<Vec<u8>> {
    read_until(fd, limit, |_| false)
}

/// Reads a whole file whose reads are short only at its end: a regular file, or a file of the kernel that is
/// one record. Compared with [`read_limited`] it saves the read that reports the end.
pub(crate) fn read_whole(fd: OwnedFd, limit: u64) -> Result<Vec<u8>> {
    read_until(fd, limit, |left| left > 0)
}

/// Does the same as [`read_whole`], into memory that was used before.
pub(crate) fn read_whole_into(fd: OwnedFd, limit: u64, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    read_on(fd, limit, |left| left > 0, bytes)
}

fn read_until(fd: OwnedFd, limit: u64, enough: impl Fn(usize) -> bool) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read_on(fd, limit, enough, &mut bytes)?;
    Ok(bytes)
}

/// Reads until the end of the file, or until `enough` returns true for the room that a read has left. Only what
/// is read is allocated: `list` reads thousands of short files.
fn read_on(fd: OwnedFd, limit: u64, enough: impl Fn(usize) -> bool, bytes: &mut Vec<u8>) -> Result<()> {
    let mut block = [MaybeUninit::<u8>::uninit(); 8192];
    loop {
        let n = retry(|| {
            // SAFETY: the kernel writes into the block and not beyond its length.
            check(
                unsafe { libc::read(fd.as_raw_fd(), block.as_mut_ptr().cast(), block.len()) } as libc::c_long,
                || "read()".into(),
            )
        })? as usize;
        // SAFETY: the kernel has written these bytes, at most as many as the block has.
        bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(block.as_ptr().cast(), n) });
        if bytes.len() as u64 > limit {
            return Err(Error::new("read()", Errno::EFBIG));
        }
        if n == 0 || enough(block.len() - n) {
            return Ok(());
        }
    }
}

/// Returns the text of a small file of the kernel.
pub(crate) fn read_text(dir: BorrowedFd, path: &Path) -> Result<String> {
    let bytes = read_whole(open(dir, path, O_RDONLY, 0)?, 1 << 20).map_err(|mut e| {
        e.call = format!("read({path:?})");
        e
    })?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Writes `bytes` to a file of the kernel in one `write(2)`.
pub(crate) fn write_at(dir: BorrowedFd, path: &Path, bytes: &[u8]) -> Result<()> {
    write_each(dir, path, [bytes])
}

/// Writes values to a file of the kernel, each in its own `write(2)`.
pub(crate) fn write_each<'a>(
    dir: BorrowedFd,
    path: &Path,
    values: impl IntoIterator<Item = &'a [u8]>,
) -> Result<()> {
    let fd = open(dir, path, O_WRONLY, 0)?;
    values.into_iter().try_for_each(|bytes| write_whole(fd.as_fd(), bytes, path))
}

/// Writes `bytes` to an open file of the kernel in one `write(2)`.
pub(crate) fn write_open(fd: BorrowedFd, bytes: &[u8]) -> Result<()> {
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

/// Returns an anonymous file that contains `bytes`, positioned at its start.
pub(crate) fn memfd_with(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let fd = memfd(name)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let n = nix::unistd::write(&fd, rest).map_err(|e| Error::new("write(memfd)", e))?;
        rest = &rest[n..];
    }
    rewind(&fd)?;
    Ok(fd)
}

/// Returns an empty anonymous file that can be sealed and never executed.
pub(crate) fn memfd(name: &str) -> Result<OwnedFd> {
    memfd_create(name, MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL))
}

/// Returns an anonymous file. Linux 6.3 introduced the flags in `exec`, and an administrator can require one
/// of them (`vm.memfd_noexec`). Older kernels reject both.
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

/// Returns a copy of a file in memory that can be executed and never be written to again.
pub(crate) fn sealed_copy(path: &Path) -> Result<OwnedFd> {
    use std::os::fd::AsFd;
    let to = memfd_create("corten", MFdFlags::from_bits_retain(libc::MFD_EXEC))?;
    copy(open(CWD, path, O_RDONLY, 0)?, to.as_fd())?;
    fcntl(&to, FcntlArg::F_ADD_SEALS(SEALS)).map_err(|e| Error::new("fcntl(F_ADD_SEALS)", e))?;
    Ok(to)
}

/// Returns a path without symbolic links.
pub(crate) fn real_path(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|e| Error::of_std(format!("realpath({path:?})"), &e))
}

/// Copies the rest of one file to another.
pub(crate) fn copy(from: OwnedFd, to: BorrowedFd) -> Result<()> {
    let error = |e: io::Error| Error::of_std("copy", &e);
    let mut to = std::fs::File::from(dup(to)?);
    io::copy(&mut std::fs::File::from(from), &mut to).map(drop).map_err(error)
}

const STATX_MNT_ID: u32 = 0x1000;
/// Since Linux 6.8.
const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

/// Returns the id of the mount of a path, as mountinfo shows it. An empty path means `dir` itself. The kernel
/// reuses these ids.
pub(crate) fn mount_id(dir: BorrowedFd, path: &Path) -> Result<u64> {
    Ok(statx(dir, path, STATX_MNT_ID)?.stx_mnt_id)
}

/// Returns the id of the mount whose root is at `path`, or 0 if nothing is mounted there. Since Linux 6.8 the
/// kernel never reuses this id.
pub(crate) fn mounted_at(dir: BorrowedFd, path: &Path) -> Result<u64> {
    let found = statx(dir, path, STATX_MNT_ID | STATX_MNT_ID_UNIQUE)?;
    let is_root = found.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok(if is_root { found.stx_mnt_id } else { 0 })
}

/// Calls `statx(2)`. It is an error if the kernel fills none of the fields in `wanted`.
fn statx(dir: BorrowedFd, path: &Path, wanted: u32) -> Result<libc::statx> {
    let name = cstring(path)?;
    // SAFETY: all-zero bytes are a valid statx.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated. `found` is a live structure of the type that the kernel writes.
    let ret =
        unsafe { libc::statx(dir.as_raw_fd(), name.as_ptr(), libc::AT_EMPTY_PATH, wanted, &raw mut found) };
    check(ret.into(), || format!("statx({path:?})"))?;
    if found.stx_mask & wanted == 0 {
        return Err(Error::new(format!("statx({path:?}, STATX_MNT_ID)"), Errno::ENOTSUP));
    }
    Ok(found)
}

/// Returns whether a file in memory is sealed against writing.
fn write_sealed(path: &Path) -> Result<bool> {
    let file = open(CWD, path, O_RDONLY, 0)?;
    // The error for a file that cannot be sealed is EINVAL.
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS);
    Ok(seals.is_ok_and(|seals| SealFlag::from_bits_retain(seals).contains(SEALS)))
}

/// Positions a file at its start.
pub(crate) fn rewind(fd: &OwnedFd) -> Result<()> {
    nix::unistd::lseek(fd, 0, nix::unistd::Whence::SeekSet).map(drop).map_err(|e| Error::new("lseek()", e))
}

/// Opens /dev/null for each standard stream that is closed. Otherwise a file of the runtime would get its
/// number, and the container would read or write that file. The raw poll(2), because nix's takes only open
/// descriptors.
pub(crate) fn fill_standard() -> Result<()> {
    let mut polled = [0, 1, 2].map(|fd| libc::pollfd { fd, events: 0, revents: 0 });
    retry(|| {
        // SAFETY: the array of three entries lives until the call returns.
        let ret = unsafe { libc::poll(polled.as_mut_ptr(), 3, 0) };
        check(ret.into(), || "poll(0, 1, 2)".into())
    })?;
    for closed in polled.iter().filter(|p| p.revents & libc::POLLNVAL != 0) {
        use std::os::fd::IntoRawFd;
        // The kernel gives the lowest free number. Like the other streams it stays open over execve.
        let fd = open(CWD, Path::new("/dev/null"), O_RDWR, 0)?.into_raw_fd();
        if fd == closed.fd {
            keep_on_exec(fd)?;
        }
    }
    Ok(())
}

/// Closes every descriptor from 3 on except those in `kept`. For a new clone that never returns to the frames
/// of its parent: it must not hold the parent's files, among them a lock.
pub(crate) fn close_all_but(mut kept: Vec<i32>) -> Result<()> {
    kept.sort_unstable();
    kept.push(i32::MAX);
    let mut first = 3;
    for fd in kept {
        if fd > first {
            // SAFETY: the values that own these descriptors are in frames to which this process never
            // returns.
            let ret = unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
            check(ret, || format!("close_range({first}, {})", fd - 1))?;
        }
        first = first.max(fd.saturating_add(1));
    }
    Ok(())
}

/// Closes descriptors. One call closes all that have consecutive numbers.
pub(crate) fn close_together(fds: Vec<OwnedFd>) {
    use std::os::fd::IntoRawFd;
    let mut numbers: Vec<i32> = fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
    numbers.sort_unstable();
    for run in numbers.chunk_by(|a, b| a + 1 == *b) {
        if let [first, .., last] | [first @ last] = run {
            // SAFETY: `fds` owned each of these descriptors, and has given them up.
            unsafe { libc::syscall(libc::SYS_close_range, *first, *last, 0) };
        }
    }
}

/// Marks every descriptor from `first` on close-on-exec, including those that the caller of corten left open.
pub(crate) fn close_on_exec_from(first: u32) -> Result<()> {
    // SAFETY: no pointers are passed. The descriptors stay open, so every `OwnedFd` stays valid.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    check(ret, || format!("close_range({first}, CLOEXEC)")).map(drop)
}

/// Clears the close-on-exec flag of a descriptor, by number.
pub(crate) fn keep_on_exec(fd: i32) -> Result<()> {
    // SAFETY: only a flag of the descriptor changes. If it is not open, the error is EBADF.
    let ret = unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    check(ret.into(), || format!("fcntl({fd}, F_SETFD)")).map(drop)
}

/// Takes over a descriptor that [`inherited`] has returned, and that must be open for writing. It is closed on exec.
pub fn take_for_writing(fd: i32) -> Result<OwnedFd> {
    // SAFETY: the call only reads flags. If the descriptor is not open, the error is EBADF.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) }.into(), || format!("fcntl({fd}, F_GETFL)"))?;
    if flags as i32 & libc::O_ACCMODE == O_RDONLY {
        return Err(Error::new(format!("fcntl({fd}, F_GETFL)"), Errno::EBADF));
    }
    // SAFETY: it is open, and since no code of ours has opened it, nothing else owns it.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) })
}

/// Takes an exclusive lock without waiting (`flock(2)`). The raw call, because nix's `Flock` takes ownership
/// of the file.
pub(crate) fn try_lock(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    check(ret.into(), || "flock(LOCK_EX)".into()).map(drop)
}

/// Releases a lock (`flock(2)`).
pub(crate) fn unlock(fd: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::flock(fd.as_raw_fd(), libc::LOCK_UN) };
    check(ret.into(), || "flock(LOCK_UN)".into()).map(drop)
}

/// Returns a duplicate of a descriptor.
pub(crate) fn dup(fd: BorrowedFd) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|e| Error::of_std("fcntl(F_DUPFD_CLOEXEC)", &e))
}

/// Makes the descriptor `to` another one of the file of `from`, under its old number (`dup3(2)`).
pub(crate) fn redirect(to: BorrowedFd, from: BorrowedFd) -> Result<()> {
    // SAFETY: the number of `to` stays open, and with its owner.
    let ret = unsafe { libc::dup3(from.as_raw_fd(), to.as_raw_fd(), libc::O_CLOEXEC) };
    check(ret.into(), || "dup3()".into()).map(drop)
}

/// Returns those of the `count` descriptors from `first` on that are open and not close-on-exec: the caller
/// of corten has left them open on purpose. `proc` is the root of a procfs that shows this process.
pub(crate) fn inherited(proc: BorrowedFd, first: i32, count: u32) -> Result<Vec<i32>> {
    let beyond = first.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
    let own = open(proc, Path::new("self/fd"), O_RDONLY | O_DIRECTORY, 0)?;
    let numbers = list_dir(own.as_fd())?;
    let numbers = numbers.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let mut inherited: Vec<i32> = numbers
        .filter(|fd| (first..beyond).contains(fd))
        // SAFETY: the call only reads a flag. For a descriptor that has been closed it returns -1.
        .filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == 0)
        .collect();
    inherited.sort_unstable();
    Ok(inherited)
}
