//! The mount API. A tree is opened, gets its attributes while it is detached, and is then moved to a
//! descriptor. So no path is walked twice, and a mount is never visible with the wrong attributes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::{ffi::CString, ptr};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{Error, Result, check, check_fd, cstring};

pub(crate) use libc::{
    AT_RECURSIVE, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

/// The mask of the access-time modes (`MOUNT_ATTR__ATIME`). `relatime` is 0.
pub(crate) const MOUNT_ATTR_ATIME_MASK: u64 = libc::MOUNT_ATTR__ATIME;

/// The changes that one `mount_setattr(2)` makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attr {
    pub set: u64,
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0 for no change.
    pub propagation: u64,
}

/// Whether a call applies to one mount, or also to all mounts below it (`AT_RECURSIVE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    One,
    Recursive,
}

impl Depth {
    /// Returns the depth for an option that is recursive or not, such as `rbind` and `bind`.
    pub(crate) fn recursive_if(recursive: bool) -> Self {
        if recursive { Self::Recursive } else { Self::One }
    }

    fn flag(self) -> i32 {
        if self == Self::Recursive { AT_RECURSIVE } else { 0 }
    }
}

/// Returns a detached copy of the mount at `path` below `dir` (`open_tree(2)` with `OPEN_TREE_CLONE`). An
/// empty path means the mount that `dir` itself refers to.
pub(crate) fn open_tree_clone(dir: BorrowedFd, path: &Path, depth: Depth) -> Result<OwnedFd> {
    let name = cstring(path)?;
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | depth.flag() as u32;
    if path.as_os_str().is_empty() {
        flags |= libc::AT_EMPTY_PATH as u32;
    }
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), name.as_ptr(), flags) };
    check_fd(ret, || format!("open_tree({path:?})"))
}

/// `OPEN_TREE_NAMESPACE`, since Linux 7.0.
const OPEN_TREE_NAMESPACE: u32 = 1 << 1;

/// Returns a new mount namespace for `setns(2)`, whose root is a copy of the directory at `path` and of all
/// mounts below it (`open_tree(2)` with `OPEN_TREE_NAMESPACE`). EINVAL on older kernels.
pub(crate) fn open_tree_namespace(path: &Path) -> Result<OwnedFd> {
    let name = cstring(path)?;
    let flags = OPEN_TREE_NAMESPACE | libc::OPEN_TREE_CLOEXEC | AT_RECURSIVE as u32;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
    check_fd(ret, || format!("open_tree({path:?}) as a namespace"))
}

/// Attaches the detached mount `tree` on the file or directory that `target` refers to.
pub(crate) fn move_mount(tree: BorrowedFd, target: BorrowedFd) -> Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let empty = c"".as_ptr();
    // SAFETY: both paths are a static empty string.
    let ret = unsafe {
        libc::syscall(libc::SYS_move_mount, tree.as_raw_fd(), empty, target.as_raw_fd(), empty, flags)
    };
    check(ret, || "move_mount()".into()).map(drop)
}

/// Changes the attributes of the mount that `mount` refers to, and with [`Depth::Recursive`] those of all
/// mounts below it (`mount_setattr(2)`).
pub(crate) fn mount_setattr(mount: BorrowedFd, depth: Depth, attr: &Attr) -> Result<()> {
    setattr(mount, depth, attr, 0)
}

/// Returns the flags of a mount, as `MOUNT_ATTR_*`: read-only, nosuid, nodev, noexec.
pub(crate) fn flags(mount: BorrowedFd) -> Result<u64> {
    use nix::sys::statvfs::FsFlags;
    let found = nix::sys::statvfs::fstatvfs(mount).map_err(|e| Error::new("fstatvfs()", e))?.flags();
    let all = [
        (FsFlags::ST_RDONLY, MOUNT_ATTR_RDONLY),
        (FsFlags::ST_NOSUID, MOUNT_ATTR_NOSUID),
        (FsFlags::ST_NODEV, MOUNT_ATTR_NODEV),
        (FsFlags::ST_NOEXEC, MOUNT_ATTR_NOEXEC),
    ];
    Ok(all.iter().filter(|(flag, _)| found.contains(*flag)).fold(0, |all, (_, attr)| all | attr))
}

/// Makes a detached mount translate ids with the id maps of the user namespace `userns`.
pub(crate) fn mount_idmap(mount: BorrowedFd, depth: Depth, userns: BorrowedFd) -> Result<()> {
    setattr(mount, depth, &Attr { set: MOUNT_ATTR_IDMAP, ..Attr::default() }, userns.as_raw_fd() as u64)
}

/// Makes every mount of the caller's namespace a slave. Later mounts and unmounts then stay in this
/// namespace.
pub(crate) fn make_all_slave() -> Result<()> {
    let none = None::<&Path>;
    mount(none, c"/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
        .map_err(|e| Error::new("mount(\"/\", MS_REC | MS_SLAVE)", e))
}

fn setattr(mount: BorrowedFd, depth: Depth, attr: &Attr, userns_fd: u64) -> Result<()> {
    let raw = libc::mount_attr {
        attr_set: attr.set,
        attr_clr: attr.clear,
        propagation: attr.propagation,
        userns_fd,
    };
    let flags = libc::AT_EMPTY_PATH | depth.flag();
    // SAFETY: `raw` is a live mount_attr of the size passed. The path is a static string.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const raw,
            size_of::<libc::mount_attr>(),
        )
    };
    check(ret, || {
        format!(
            "mount_setattr(set {:#x}, clear {:#x}, propagation {:#x})",
            attr.set, attr.clear, attr.propagation
        )
    })
    .map(drop)
}

/// Returns a context that configures a new file system of a type (`fsopen(2)`).
pub(crate) fn fsopen(fstype: &str) -> Result<OwnedFd> {
    let name = cstring(Path::new(fstype))?;
    // SAFETY: `name` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_fsopen, name.as_ptr(), libc::FSOPEN_CLOEXEC) };
    check_fd(ret, || format!("fsopen({fstype:?})"))
}

/// The most bytes that a value of `FSCONFIG_SET_STRING` may have.
pub(crate) const FSCONFIG_MAX: usize = 255;

/// Sets an option to a value of at most [`FSCONFIG_MAX`] bytes (`FSCONFIG_SET_STRING`).
pub(crate) fn fsconfig_string(context: BorrowedFd, key: &str, value: &str) -> Result<()> {
    let value_c = cstring(Path::new(value))?;
    fsconfig(context, libc::FSCONFIG_SET_STRING, Some(key), Some(&value_c), || format!("{key}={value}"))
}

/// Sets an option without a value (`FSCONFIG_SET_FLAG`).
pub(crate) fn fsconfig_flag(context: BorrowedFd, key: &str) -> Result<()> {
    fsconfig(context, libc::FSCONFIG_SET_FLAG, Some(key), None, || key.into())
}

/// The name of `FSCONFIG_CMD_CREATE` in errors.
const CREATE: &str = "create";

/// Creates the superblock (`FSCONFIG_CMD_CREATE`).
pub(crate) fn fsconfig_create(context: BorrowedFd) -> Result<()> {
    fsconfig(context, libc::FSCONFIG_CMD_CREATE, None, None, || CREATE.into())
}

/// Returns whether an error is one of [`fsconfig_create`] for which the file system gave no reason.
#[must_use]
pub(crate) fn is_bare_create(error: &Error) -> bool {
    error.call == format!("fsconfig({CREATE})")
}

fn fsconfig(
    context: BorrowedFd,
    command: libc::fsconfig_command,
    key: Option<&str>,
    value: Option<&CString>,
    shown: impl Fn() -> String,
) -> Result<()> {
    let key = key.map(|k| cstring(Path::new(k))).transpose()?;
    let pointer = |s: Option<&CString>| s.map_or(ptr::null(), |s| s.as_ptr());
    // SAFETY: the key and the value are NUL-terminated or null, as the command requires, and outlive the
    // call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            pointer(key.as_ref()),
            pointer(value),
            0,
        )
    };
    check(ret, || format!("fsconfig({})", shown()))
        .map_err(|mut e| {
            if let Some(said) = context_message(context) {
                e.call = format!("{} ({said})", e.call);
            }
            e
        })
        .map(drop)
}

/// Returns the message that the file system wrote to the log of its context. It says more than an errno.
fn context_message(context: BorrowedFd) -> Option<String> {
    let mut buffer = [0u8; 256];
    let n = nix::unistd::read(context.as_fd(), &mut buffer).ok()?;
    let text = String::from_utf8_lossy(&buffer[..n]);
    // A record begins with a level letter and a blank: "e tmpfs: Bad value for 'size'".
    Some(text.trim_end().trim_start_matches(|c: char| c.is_ascii_lowercase()).trim_start().to_string())
        .filter(|t| !t.is_empty())
}

/// Returns a detached mount of a superblock that was created (`fsmount(2)`).
pub(crate) fn fsmount(context: BorrowedFd, attributes: u64) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let ret = unsafe {
        libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes as u32)
    };
    check_fd(ret, || format!("fsmount({attributes:#x})"))
}

/// Returns a detached mount of a new file system.
pub(crate) fn new_filesystem(fstype: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd> {
    let context = fsopen(fstype)?;
    for (key, value) in options {
        fsconfig_string(context.as_fd(), key, value)?;
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), attributes)
}

/// Returns whether `mount(2)` takes the whole of `data`. It silently ignores everything after the first page.
#[must_use]
pub(crate) fn fits(data: &str) -> bool {
    let page = || nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    data.len() < 4096 || page().is_some_and(|page| data.len() < page as usize)
}

/// Calls `mount(2)`, for mounts that the newer calls cannot make: with `MS_I_VERSION`, `MS_SILENT` or data of
/// more than 255 bytes, or to reconfigure a superblock. The call takes its target only as a path. Therefore
/// the directory `target` becomes the working directory. The other path of a descriptor, /proc/self/fd/N,
/// would trust the /proc of the container.
pub(crate) fn mount_at(
    source: Option<&Path>,
    target: BorrowedFd,
    fstype: Option<&str>,
    flags: u64,
    data: &str,
) -> Result<()> {
    super::task::fchdir(target)?;
    mount(source, c".", fstype, MsFlags::from_bits_retain(flags), Some(data)).map_err(|e| {
        let data = shown(data);
        Error::new(format!("mount({:?}, flags {flags:#x}, {data:?})", fstype.unwrap_or_default()), e)
    })
}

/// The most characters of an option in an error.
const LONGEST: usize = 100;

/// Shortens the long options of a file system for an error: a list of an overlay's directories would leave no room for the
/// others, of which one is the reason.
fn shown(data: &str) -> String {
    let short = |option: &str| match option.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &option[..end]),
        None => option.to_string(),
    };
    data.split(',').map(short).collect::<Vec<_>>().join(",")
}

/// Makes the working directory the root. The old root is then stacked on top of it (`pivot_root(".", ".")`).
pub(crate) fn pivot_root_here() -> Result<()> {
    nix::unistd::pivot_root(c".", c".").map_err(|e| Error::new("pivot_root(\".\", \".\")", e))
}

/// Detaches the old root that [`pivot_root_here`] has left on top (`umount2(".", MNT_DETACH)`).
pub(crate) fn detach_here() -> Result<()> {
    umount2(c".", MntFlags::MNT_DETACH).map_err(|e| Error::new("umount2(\".\", MNT_DETACH)", e))
}

/// Detaches the mount whose root is open. The call takes only a path, and the one through the host's procfs `proc` leads to the
/// descriptor alone. The working directory becomes that procfs.
pub(crate) fn detach_open(proc: BorrowedFd, mount: BorrowedFd) -> Result<()> {
    super::task::fchdir(proc)?;
    let path = format!("self/fd/{}", mount.as_raw_fd());
    umount2(Path::new(&path), MntFlags::MNT_DETACH)
        .map_err(|e| Error::new("umount2(MNT_DETACH)".to_string(), e))
}

/// Detaches the mount at a path of the host, which must not be a link (`umount2(2)` with `MNT_DETACH`).
pub(crate) fn detach(path: &Path) -> Result<()> {
    umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
        .map_err(|e| Error::new(format!("umount2({path:?}, MNT_DETACH)"), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_every_option() {
        let (long, most) = ("x".repeat(LONGEST + 1), "x".repeat(LONGEST));
        assert_eq!(
            shown(&format!("lower=a,{long},{most},nosuch")),
            format!("lower=a,{most}...,{most},nosuch")
        );
    }
}
