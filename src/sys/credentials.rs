//! User, groups, capabilities and umask of the calling process.
//!
//! The raw calls: libc's wrappers of the set*id family signal the other threads, of which there are none.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::errno::Errno;

use super::{Error, Result, check, fs};

const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `capset(2)`: the three sets that one call changes at once, as bit masks.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    // `struct __user_cap_header_struct`: the version and the process, 0 being the caller.
    let header: [u32; 2] = [LINUX_CAPABILITY_VERSION_3, 0];
    let half = |shift: u32| [effective, permitted, inheritable].map(|set| (set >> shift) as u32);
    // Two `struct __user_cap_data_struct`: capabilities 0-31 and 32-63.
    let data: [[u32; 3]; 2] = [half(0), half(32)];
    // SAFETY: version 3 reads a header of two and data of two times three 32-bit numbers: these live arrays.
    let ret = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    check(ret, || format!("capset({effective:#x}, {permitted:#x}, {inheritable:#x})")).map(drop)
}

/// `capget(2)`: our effective, permitted and inheritable sets.
pub fn capget() -> Result<(u64, u64, u64)> {
    let header: [u32; 2] = [LINUX_CAPABILITY_VERSION_3, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 reads a header of two and writes data of two times three 32-bit numbers: these live arrays.
    let ret = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) };
    check(ret, || "capget()".into())?;
    let whole = |set: usize| u64::from(data[0][set]) | u64::from(data[1][set]) << 32;
    Ok((whole(0), whole(1), whole(2)))
}

/// Drops a capability from the bounding set, by number: a newer kernel may have more than have names here.
pub fn drop_bounding(number: u32) -> Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: prctl's option takes numbers, no pointers.
    let ret = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), zero, zero, zero) };
    check(ret.into(), || format!("prctl(PR_CAPBSET_DROP, {number})")).map(drop)
}

pub fn clear_ambient() -> Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(|_| last("prctl(PR_CAP_AMBIENT_CLEAR_ALL)".into()))
}

pub fn raise_ambient(capability: Capability) -> Result<()> {
    caps::raise(None, CapSet::Ambient, capability)
        .map_err(|_| last(format!("prctl(PR_CAP_AMBIENT_RAISE, {capability})")))
}

/// Returns whether a capability is ambient.
pub fn is_ambient(capability: Capability) -> Result<bool> {
    caps::has_cap(None, CapSet::Ambient, capability)
        .map_err(|_| last(format!("prctl(PR_CAP_AMBIENT_IS_SET, {capability})")))
}

/// Whether the permitted set survives a change from user 0 to another.
pub fn set_keep_capabilities(keep: bool) -> Result<()> {
    nix::sys::prctl::set_keepcaps(keep).map_err(|e| Error::new(format!("prctl(PR_SET_KEEPCAPS, {keep})"), e))
}

/// The error of a call that the caps crate made: its own type holds only text.
fn last(call: String) -> Error {
    Error::new(call, Errno::last())
}

pub fn setgroups(groups: &[u32]) -> Result<()> {
    // SAFETY: pointer and length are those of a live slice of 32-bit ids.
    let ret = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(ret, || format!("setgroups({groups:?})")).map(drop)
}

/// `umask(2)`, which cannot fail. Returns the one before.
pub fn umask(mask: u32) -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask as libc::mode_t)).bits()
}

/// One of the caller's own files in a procfs, of which `proc` is the root.
pub fn open_self(proc: std::os::fd::BorrowedFd, name: &str, flags: i32) -> Result<std::os::fd::OwnedFd> {
    // Neither a link out of this procfs nor a mount on top of it leads astray (CVE-2019-16884, CVE-2019-19921).
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_XDEV | fs::RESOLVE_NO_MAGICLINKS;
    fs::openat2(proc, &Path::new("self").join(name), flags, 0, resolve)
}
