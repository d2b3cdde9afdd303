//! `landlock(7)`: restrictions that a process imposes on itself.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::{Result, check, check_fd};

// linux/landlock.h: LANDLOCK_ACCESS_FS_*
pub(crate) const EXECUTE: u64 = 1 << 0;
pub(crate) const WRITE_FILE: u64 = 1 << 1;
pub(crate) const READ_FILE: u64 = 1 << 2;
pub(crate) const READ_DIR: u64 = 1 << 3;
/// All rights that change a directory: from `REMOVE_DIR` to `MAKE_SYM`.
pub(crate) const CHANGE_DIR: u64 = 0x1ff0;
/// The right to link or move a file to another directory. Since ABI 2.
pub(crate) const REFER: u64 = 1 << 13;
/// Since ABI 3.
pub(crate) const TRUNCATE: u64 = 1 << 14;
/// Since ABI 5.
pub(crate) const IOCTL_DEV: u64 = 1 << 15;

// LANDLOCK_ACCESS_NET_*, since ABI 4
pub(crate) const BIND_TCP: u64 = 1 << 0;
pub(crate) const CONNECT_TCP: u64 = 1 << 1;

const RULE_PATH_BENEATH: libc::c_int = 1;
const RULE_NET_PORT: libc::c_int = 2;

/// `struct landlock_ruleset_attr` up to ABI 4. Older kernels accept it if the members that they do not know
/// are 0.
#[repr(C)]
struct RulesetAttr {
    fs: u64,
    net: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneathAttr {
    access: u64,
    fd: i32,
}

/// `struct landlock_net_port_attr`.
#[repr(C)]
struct NetPortAttr {
    access: u64,
    port: u64,
}

/// Returns the ABI version of the kernel's Landlock, or 0 if the kernel has none or it was disabled at boot.
pub fn abi() -> Result<u32> {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<RulesetAttr>();
    // SAFETY: with this flag the kernel expects no structure.
    let ret = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) };
    match check(ret, || "landlock_create_ruleset(LANDLOCK_CREATE_RULESET_VERSION)".into()) {
        Err(e) if matches!(e.errno, Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(0),
        other => other.map(|abi| abi as u32),
    }
}

/// Creates a ruleset that denies these rights, except where its rules allow them.
pub(crate) fn create_ruleset(fs: u64, net: u64) -> Result<OwnedFd> {
    let attr = RulesetAttr { fs, net };
    // SAFETY: `attr` is a live structure of the size passed.
    let ret = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size_of::<RulesetAttr>(), 0)
    };
    check_fd(ret, || format!("landlock_create_ruleset({fs:#x}, {net:#x})"))
}

/// Allows access to a file, or to a directory and everything below it.
pub(crate) fn allow_beneath(ruleset: BorrowedFd, fd: BorrowedFd, access: u64) -> Result<()> {
    let attr = PathBeneathAttr { access, fd: fd.as_raw_fd() };
    let number = ruleset.as_raw_fd();
    // SAFETY: `attr` is the live structure that goes with this type of rule.
    let ret =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, number, RULE_PATH_BENEATH, &raw const attr, 0) };
    check(ret, || format!("landlock_add_rule(LANDLOCK_RULE_PATH_BENEATH, {access:#x})")).map(drop)
}

/// Allows access to a TCP port.
pub(crate) fn allow_port(ruleset: BorrowedFd, port: u16, access: u64) -> Result<()> {
    let attr = NetPortAttr { access, port: port.into() };
    let number = ruleset.as_raw_fd();
    // SAFETY: `attr` is the live structure that goes with this type of rule.
    let ret =
        unsafe { libc::syscall(libc::SYS_landlock_add_rule, number, RULE_NET_PORT, &raw const attr, 0) };
    check(ret, || format!("landlock_add_rule(LANDLOCK_RULE_NET_PORT, {port}, {access:#x})")).map(drop)
}

/// Applies the ruleset to the calling process irrevocably. Requires no_new_privs or CAP_SYS_ADMIN in its user
/// namespace.
pub(crate) fn restrict_self(ruleset: BorrowedFd) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    check(ret, || "landlock_restrict_self()".into()).map(drop)
}
