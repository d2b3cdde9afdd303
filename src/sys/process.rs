//! Attributes of processes: scheduling, memory policy, limits, process groups and executable files.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::personality::Persona;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, setpgid};

use super::{Error, Result, check};

/// `struct sched_attr` up to the utilisation clamps. Every supported kernel accepts this form.
#[repr(C)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

/// Sets the caller's scheduling policy (`sched_setattr(2)`). The member `size` is filled in here.
pub(crate) fn sched_setattr(attr: &SchedAttr) -> Result<()> {
    let sized = SchedAttr { size: size_of::<SchedAttr>() as u32, ..attr.clone() };
    // SAFETY: `sized` is a live sched_attr that states its own size.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const sized, 0) };
    check(ret, || format!("sched_setattr(policy {}, flags {:#x})", attr.policy, attr.flags)).map(drop)
}

/// Sets the I/O priority of all processes in the caller's process group (`ioprio_set(2)`).
pub(crate) fn ioprio_set_group(class: u32, level: u32) -> Result<()> {
    const IOPRIO_WHO_PGRP: i32 = 2;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    let value = (class << IOPRIO_CLASS_SHIFT | level) as i32;
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PGRP, 0, value) };
    check(ret, || format!("ioprio_set(IOPRIO_WHO_PGRP, class {class}, level {level})")).map(drop)
}

/// Returns the caller's I/O priority: class and level.
pub fn ioprio_get() -> Result<(u32, u32)> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
    check(ret, || "ioprio_get()".into()).map(|value| (value as u32 >> 13, value as u32 & 0x1fff))
}

/// Sets the caller's CPUs (`sched_setaffinity(2)`). Bit n % 64 of word n / 64 is CPU n. The raw call, because
/// nix's `CpuSet` ends at CPU 1023.
pub(crate) fn sched_setaffinity(mask: &[u64]) -> Result<()> {
    // SAFETY: the length in bytes is that of the live slice.
    let ret = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask), mask.as_ptr()) };
    check(ret, || "sched_setaffinity()".into()).map(drop)
}

/// Sets the caller's memory policy (`set_mempolicy(2)`). `nodes` is empty for a policy without nodes.
pub(crate) fn set_mempolicy(mode: u32, nodes: &[u64]) -> Result<()> {
    // The kernel subtracts one from the number of bits before it reads them.
    let (pointer, bits) =
        if nodes.is_empty() { (std::ptr::null(), 0) } else { (nodes.as_ptr(), nodes.len() * 64 + 1) };
    // SAFETY: the pointer is null and there are no bits, or it is a live slice of that many bits less one.
    let ret = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    check(ret, || format!("set_mempolicy({mode:#x})")).map(drop)
}

/// Sets the caller's execution domain (`personality(2)`).
pub(crate) fn personality(persona: u32) -> Result<()> {
    nix::sys::personality::set(Persona::from_bits_retain(persona as i32))
        .map(drop)
        .map_err(|e| Error::new(format!("personality({persona:#x})"), e))
}

/// A soft and a hard limit. `u64::MAX` means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub soft: u64,
    pub hard: u64,
}

/// Returns a limit of a process and sets it if `new` is given (`prlimit(2)`). The pid 0 is the caller.
pub fn prlimit(pid: i32, resource: u32, new: Option<Limit>) -> Result<Limit> {
    let wanted = new.map(|l| libc::rlimit64 { rlim_cur: l.soft, rlim_max: l.hard });
    let pointer = wanted.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    let mut old = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `pointer` is null or a live rlimit64. `old` is a live rlimit64 to write to.
    let ret = unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, pointer, &raw mut old) };
    check(ret, || match new {
        Some(l) => format!("prlimit(soft {}, hard {})", l.soft, l.hard),
        None => "prlimit()".into(),
    })?;
    Ok(Limit { soft: old.rlim_cur, hard: old.rlim_max })
}

/// Puts a process into a process group of its own. The pid 0 is the caller.
pub fn lead_group(pid: i32) -> Result<()> {
    setpgid(Pid::from_raw(pid), Pid::from_raw(0)).map_err(|e| Error::new(format!("setpgid({pid})"), e))
}

/// Kills all processes of a group.
pub(crate) fn kill_group(leader: i32) -> Result<()> {
    // killpg(1) would kill all processes, killpg(0) the caller's group.
    if leader <= 1 {
        return Err(Error::new(format!("kill(-{leader})"), Errno::EINVAL));
    }
    killpg(Pid::from_raw(leader), Signal::SIGKILL).map_err(|e| Error::new(format!("kill(-{leader})"), e))
}

/// Makes every write to the open file append to it.
pub(crate) fn set_append(fd: BorrowedFd) -> Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_APPEND))
        .map(drop)
        .map_err(|e| Error::new("fcntl(F_SETFL, O_APPEND)", e))
}

/// Returns the type and the permissions of a file.
pub(crate) fn stat_mode(path: &CStr) -> Result<u32> {
    nix::sys::stat::stat(path)
        .map(|stat| stat.st_mode)
        .map_err(|e| Error::new(format!("stat {}", path.to_string_lossy()), e))
}

/// Checks that the effective ids may execute a file (`faccessat2(2)` with `AT_EACCESS`). The raw call,
/// because the C library's emulation for old kernels ignores capabilities and security modules.
pub(crate) fn may_execute(path: &CStr) -> Result<()> {
    may_access(path, libc::X_OK, "X_OK")
}

/// Checks that the effective ids may write to a file, or make files in a directory.
pub(crate) fn may_write(path: &CStr) -> Result<()> {
    may_access(path, libc::W_OK, "W_OK")
}

fn may_access(path: &CStr, mode: i32, name: &str) -> Result<()> {
    // SAFETY: `path` is NUL-terminated and outlives the call.
    let ret =
        unsafe { libc::syscall(libc::SYS_faccessat2, libc::AT_FDCWD, path.as_ptr(), mode, libc::AT_EACCESS) };
    check(ret, || format!("faccessat2({path:?}, {name})")).map(drop)
}
