//! User, groups, capabilities and umask of the calling process.
//!
//! `setgroups` is a raw call: the C library's set*id functions signal all threads that it knows of, which in
//! a clone are not the threads that exist. `capset` is raw because the caps crate sets one set at a time.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::errno::Errno;

use super::{Error, Result, check, fs};

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the effective, permitted and inheritable sets in one `capset(2)`. Bit n of a mask is capability n.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    // `struct __user_cap_header_struct`: the version and the process. 0 is the caller.
    let header: [u32; 2] = [LINUX_CAPABILITY_VERSION_3, 0];
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    // Two `struct __user_cap_data_struct`: capabilities 0-31 and 32-63.
    let data: [[u32; 3]; 2] = [half(0), half(32)];
    // SAFETY: version 3 reads two 32-bit numbers of the header and six of the data. Both arrays are live.
    let ret = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    check(ret, || format!("capset({effective:#x}, {permitted:#x}, {inheritable:#x})")).map(drop)
}

/// Returns the caller's effective, permitted and inheritable sets (`capget(2)`).
pub(crate) fn capget() -> Result<(u64, u64, u64)> {
    let header: [u32; 2] = [LINUX_CAPABILITY_VERSION_3, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 reads two 32-bit numbers of the header and writes six of the data. Both arrays are
    // live.
    let ret = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    check(ret, || "capget()".into())?;
    let whole = |set: usize| u64::from(data[0][set]) | u64::from(data[1][set]) << 32;
    Ok((whole(0), whole(1), whole(2)))
}

/// Drops a capability from the bounding set. It takes a number, because a newer kernel can have capabilities
/// that the caps crate does not know.
pub(crate) fn drop_bounding(number: u32) -> Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: the option takes numbers, no pointers.
    let ret = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), zero, zero, zero) };
    check(ret.into(), || format!("prctl(PR_CAPBSET_DROP, {number})")).map(drop)
}

/// Clears the ambient set.
pub(crate) fn clear_ambient() -> Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(|_| last("prctl(PR_CAP_AMBIENT_CLEAR_ALL)".into()))
}

/// Adds a capability, which must be permitted and inheritable, to the ambient set.
pub(crate) fn raise_ambient(capability: Capability) -> Result<()> {
    caps::raise(None, CapSet::Ambient, capability)
        .map_err(|_| last(format!("prctl(PR_CAP_AMBIENT_RAISE, {capability})")))
}

/// Returns whether a capability is ambient.
pub fn is_ambient(capability: Capability) -> Result<bool> {
    caps::has_cap(None, CapSet::Ambient, capability)
        .map_err(|_| last(format!("prctl(PR_CAP_AMBIENT_IS_SET, {capability})")))
}

/// Makes the permitted set survive a change from user 0 to another user (`PR_SET_KEEPCAPS`).
pub(crate) fn keep_capabilities() -> Result<()> {
    set_keepcaps(true)
}

/// Ends the effect of [`keep_capabilities`].
pub(crate) fn clear_keep_capabilities() -> Result<()> {
    set_keepcaps(false)
}

fn set_keepcaps(keep: bool) -> Result<()> {
    nix::sys::prctl::set_keepcaps(keep).map_err(|e| Error::new(format!("prctl(PR_SET_KEEPCAPS, {keep})"), e))
}

/// Returns the error of a call that the caps crate has made. Its own error type contains only text.
fn last(call: String) -> Error {
    Error::new(call, Errno::last())
}

/// Sets the supplementary groups (`setgroups(2)`).
pub fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: the pointer and the length belong to a live slice of 32-bit ids.
    let ret = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(ret, || format!("setgroups({groups:?})")).map(drop)
}

/// Sets the umask and returns the previous one. `umask(2)` cannot fail.
pub fn umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask as libc::mode_t)).bits()
}

/// Opens `self/NAME` in the procfs whose root is `proc`.
pub(crate) fn open_self(
    proc: std::os::fd::BorrowedFd,
    name: &str,
    flags: i32,
) -> Result<std::os::fd::OwnedFd> {
    // No link out of this procfs is followed and no mount on it is entered (CVE-2019-16884, CVE-2019-19921).
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_XDEV | fs::RESOLVE_NO_MAGICLINKS;
    fs::openat2(proc, &Path::new("self").join(name), flags, 0, resolve)
}
