//! Processes and namespaces.

use std::ffi::{CStr, CString};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Gid, Uid};

use super::{Error, Result, check, check_fd, retry};

/// libc's constant is an int, in which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Who comes back from [`clone3`].
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's id and a descriptor of it.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `clone3(2)` without shared memory: like fork, into new namespaces and a cgroup at once.
///
/// The process must have one thread, so that the copy's allocator and other locks are free. With `CLONE_PARENT` in
/// `flags` the child reports to our parent. The child may run any code: what in it would end by way of the C library
/// ends in [`trap`] (see [`raw_clone3`]).
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd>) -> Result<Forked> {
    let mut pidfd: i32 = -1;
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    if !sibling {
        // Here and not at the start: commands without children save the call.
        super::signal::keep_children()?;
    }
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        // The kernel takes a sibling's exit signal from the caller's own and refuses another.
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // A process of the container may look at the new one at once.
    let hidden = super::args::hide();
    // SAFETY: invariant 1 of docs/architecture.md is that there is one thread; `args` has neither CLONE_VM nor a stack;
    // the child's panics and aborts end in `trap`, by the hook that it sets first and by the executable's `abort`.
    let cloned = unsafe { raw_clone3(&args) };
    if let Ok(0) = cloned {
        std::panic::set_hook(Box::new(trap_panic));
        return Ok(Forked::Child);
    }
    hidden.restore();
    let pid = cloned?;
    // SAFETY: the kernel stored a new descriptor there when it made the child.
    Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// The system call alone. It returns twice: 0 in the child.
///
/// # Safety
/// The caller has one thread, and `args` asks for no memory in common. The child must not use what the C library keeps
/// of its thread's id: musl does not learn of this clone, and the id that it has is the parent's, so that its `abort`
/// and `raise` signal whichever process has that number in the child's pid namespace.
unsafe fn raw_clone3(args: &CloneArgs) -> Result<i32> {
    // SAFETY: `args` has the size passed; the child gets copies of all memory and goes on here, and as the copy of a
    // one-threaded process it finds no lock held by another thread.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const *args, size_of::<CloneArgs>()) };
    check(ret, || format!("clone3({:#x})", args.flags)).map(|pid| pid as i32)
}

/// The clone's panic hook. std's own would print a backtrace, for which it opens files by their paths: those of the
/// container's file system.
fn trap_panic(info: &std::panic::PanicHookInfo) {
    // Without an allocation: the lack of memory may be why.
    let mut text = [0; 512];
    let mut rest = &mut text[..];
    let _ = writeln!(rest, "{info}");
    let unused = rest.len();
    let _ = nix::unistd::write(std::io::stderr(), &text[..text.len() - unused]);
    trap()
}

/// Ends the process by an instruction that faults. It calls nothing, no seccomp filter sees it, and a handler that
/// returned would come back to it.
pub fn trap() -> ! {
    loop {
        // SAFETY: the instruction only raises SIGILL or SIGTRAP in this process. A signal that is ignored or blocked
        // ends the process all the same if the fault of an instruction raises it.
        unsafe {
            #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
            std::arch::asm!("ud2", options(nomem, nostack));
            #[cfg(target_arch = "aarch64")]
            std::arch::asm!("brk #1", options(nomem, nostack));
            #[cfg(any(target_arch = "riscv32", target_arch = "riscv64"))]
            std::arch::asm!("ebreak", options(nomem, nostack));
            #[cfg(not(any(
                target_arch = "x86",
                target_arch = "x86_64",
                target_arch = "aarch64",
                target_arch = "riscv32",
                target_arch = "riscv64"
            )))]
            std::ptr::null_mut::<u8>().write_volatile(0);
        }
    }
}

/// [`clone3`] into a cgroup; `None` where the kernel has killed the new process, which is reaped, before its first
/// instruction. Linux, 6.18 for one, compares how often the caller's cgroup has been killed with how often the new
/// process's has, and takes a difference for a kill that the process was to be in.
pub fn clone3_into(flags: u64, cgroup: BorrowedFd) -> Result<Option<Forked>> {
    let cloned = clone3(flags, Some(cgroup))?;
    if let Forked::Parent { pidfd, .. } = &cloned
        && is_ending(pidfd.as_fd())
        && poll_readable(&[pidfd.as_fd()], Some(Instant::now() + DYING))?.contains(&true)
        && wait_for(pidfd.as_fd(), WaitPidFlag::WNOWAIT)? == Exit::Signal(libc::SIGKILL)
    {
        return wait(pidfd.as_fd()).map(|_| None);
    }
    Ok(Some(cloned))
}

/// Whether a process has ended, or been killed and is about to: `process_mrelease(2)` refuses all others.
fn is_ending(pidfd: BorrowedFd) -> bool {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) };
    ret == 0 || Errno::last() == Errno::ESRCH
}

/// `setns(2)` with a namespace file or a pidfd.
pub fn setns(fd: BorrowedFd, kinds: i32) -> Result<()> {
    nix::sched::setns(fd, CloneFlags::from_bits_retain(kinds))
        .map_err(|e| Error::new(format!("setns({kinds:#x})"), e))
}

/// `unshare(2)`.
pub fn unshare(kinds: i32) -> Result<()> {
    nix::sched::unshare(CloneFlags::from_bits_retain(kinds))
        .map_err(|e| Error::new(format!("unshare({kinds:#x})"), e))
}

/// The type of a namespace file: one of the `CLONE_NEW*` flags.
pub fn namespace_type(fd: BorrowedFd) -> Result<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this ioctl takes no argument.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    check(ret.into(), || "ioctl(NS_GET_NSTYPE)".into()).map(|t| t as i32)
}

/// `pidfd_open(2)`.
pub fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    check_fd(ret, || format!("pidfd_open({pid})"))
}

/// `pidfd_send_signal(2)`.
pub fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32) -> Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    check(ret, || format!("pidfd_send_signal({signal})")).map(drop)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// The status a shell would show: the code, or 128 + the signal.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Code(code) => code as u8,
            Self::Signal(signal) => (128 + signal) as u8,
        }
    }
}

/// How long a process that was killed may take to end.
const DYING: Duration = Duration::from_secs(5);

/// Waits for and reaps our child of that pidfd, which was killed. Returns false if it does not end in 5 seconds: a tracer or
/// a frozen cgroup can hold it.
pub fn wait_killed(pidfd: BorrowedFd) -> Result<bool> {
    let ended = poll_readable(&[pidfd], Some(Instant::now() + DYING))?.contains(&true);
    if ended { wait(pidfd).map(|_| true) } else { Ok(false) }
}

/// Waits for and reaps our child of that pidfd.
pub fn wait(pidfd: BorrowedFd) -> Result<Exit> {
    wait_for(pidfd, WaitPidFlag::empty())
}

fn wait_for(pidfd: BorrowedFd, flags: WaitPidFlag) -> Result<Exit> {
    retry(|| match waitid(Id::PIDFd(pidfd), WaitPidFlag::WEXITED | flags) {
        Ok(WaitStatus::Exited(_, code)) => Ok(Exit::Code(code)),
        Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Exit::Signal(signal as i32)),
        Ok(_) => Err(Error::new("waitid()", Errno::EINTR)),
        Err(e) => Err(Error::new("waitid()", e)),
    })
}

/// Reaps children that have ended, without waiting, but not `kept`, whose status somebody wants. Those behind it wait
/// for their turn until it is reaped.
pub fn reap_others(kept: i32) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek) {
        match status.pid() {
            Some(pid) if pid.as_raw() != kept => drop(waitpid(pid, Some(WaitPidFlag::WNOHANG))),
            _ => break,
        }
    }
}

/// A descriptor to wait for in [`poll`].
#[derive(Clone, Copy, Debug)]
pub struct Poll<'a> {
    fd: Option<BorrowedFd<'a>>,
    events: PollFlags,
    pub ready: bool,
}

impl<'a> Poll<'a> {
    /// Never ready.
    pub const NONE: Poll<'static> = Poll { fd: None, events: PollFlags::empty(), ready: false };

    #[must_use]
    pub fn new(fd: BorrowedFd<'a>, read: bool, write: bool) -> Self {
        let mut events = PollFlags::empty();
        events.set(PollFlags::POLLIN, read);
        events.set(PollFlags::POLLOUT, write);
        Self { fd: Some(fd), events, ready: false }
    }

    #[must_use]
    pub fn read(fd: BorrowedFd<'a>) -> Self {
        Self::new(fd, true, false)
    }
}

/// Waits until one is ready or has ended, or until the time limit.
pub fn poll<const N: usize>(polled: &mut [Poll; N], limit: Option<Duration>) -> Result<()> {
    let (ready, mut fds): (Vec<_>, Vec<_>) = polled
        .iter_mut()
        .filter_map(|polled| polled.fd.map(|fd| (&mut polled.ready, PollFd::new(fd, polled.events))))
        .unzip();
    poll_until(&mut fds, limit.and_then(|limit| Instant::now().checked_add(limit)))?;
    for (ready, fd) in ready.into_iter().zip(&fds) {
        *ready = happened(fd);
    }
    Ok(())
}

/// Waits until one of `fds` can be read or has ended, or the deadline passes. The result has a flag for each;
/// all false means that time is up.
pub fn poll_readable(fds: &[BorrowedFd], deadline: Option<Instant>) -> Result<Vec<bool>> {
    let mut polled: Vec<PollFd> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    poll_until(&mut polled, deadline)?;
    Ok(polled.iter().map(happened).collect())
}

/// `poll(2)` with a deadline, which a signal does not postpone.
pub(super) fn poll_until(fds: &mut [PollFd], deadline: Option<Instant>) -> Result<()> {
    retry(|| {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, so that a poll never ends before its deadline and spins.
        let timeout = left.map(|left| PollTimeout::try_from(left + Duration::from_micros(999)));
        let timeout = timeout.map(|timeout| timeout.unwrap_or(PollTimeout::MAX));
        nix::poll::poll(fds, timeout).map(drop).map_err(|e| Error::new("poll()", e))
    })
}

/// Returns whether the kernel has reported an event, even one that nix does not know.
fn happened(fd: &PollFd) -> bool {
    fd.any() != Some(false)
}

/// The signal that the kernel sends us when the process that made us ends; 0 for none.
/// A change of credentials clears it.
pub fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::try_from(signal).ok())
        .map_err(|e| Error::new(format!("prctl(PR_SET_PDEATHSIG, {signal})"), e))
}

/// Whether others may trace us and open our `/proc` entries. A change of credentials and execve set it anew.
pub fn set_dumpable(dumpable: bool) -> Result<()> {
    prctl::set_dumpable(dumpable)
        .map_err(|e| Error::new(format!("prctl(PR_SET_DUMPABLE, {})", u8::from(dumpable)), e))
}

pub fn set_no_new_privs() -> Result<()> {
    prctl::set_no_new_privs().map_err(|e| Error::new("prctl(PR_SET_NO_NEW_PRIVS, 1)", e))
}

/// Orphans below us become our children.
pub fn set_child_subreaper() -> Result<()> {
    prctl::set_child_subreaper(true).map_err(|e| Error::new("prctl(PR_SET_CHILD_SUBREAPER, 1)", e))
}

/// `setresuid(2)`, of the whole one-threaded process.
pub fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: no pointers are passed. The raw call: libc's would signal threads that do not exist.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(ret, || format!("setresuid({uid})")).map(drop)
}

/// `setresgid(2)`.
pub fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check(ret, || format!("setresgid({gid})")).map(drop)
}

/// `setfsuid(2)`: whose permissions file system checks use. It tells no error; the value is read back.
pub fn setfsuid(uid: u32) -> Result<()> {
    nix::unistd::setfsuid(Uid::from_raw(uid));
    // An id of -1 changes nothing and returns the one in force.
    let now = nix::unistd::setfsuid(Uid::from_raw(u32::MAX));
    if now.as_raw() == uid { Ok(()) } else { Err(Error::new(format!("setfsuid({uid})"), Errno::EPERM)) }
}

/// `setfsgid(2)`, read back likewise.
pub fn setfsgid(gid: u32) -> Result<()> {
    nix::unistd::setfsgid(Gid::from_raw(gid));
    let now = nix::unistd::setfsgid(Gid::from_raw(u32::MAX));
    if now.as_raw() == gid { Ok(()) } else { Err(Error::new(format!("setfsgid({gid})"), Errno::EPERM)) }
}

pub fn setsid() -> Result<()> {
    nix::unistd::setsid().map(drop).map_err(|e| Error::new("setsid()", e))
}

pub fn fchdir(dir: BorrowedFd) -> Result<()> {
    nix::unistd::fchdir(dir).map_err(|e| Error::new("fchdir()", e))
}

pub fn chdir_root() -> Result<()> {
    nix::unistd::chdir("/").map_err(|e| Error::new("chdir(\"/\")", e))
}

pub fn chroot_here() -> Result<()> {
    nix::unistd::chroot(".").map_err(|e| Error::new("chroot(\".\")", e))
}

pub fn sethostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).map_err(|e| Error::new(format!("sethostname({name:?})"), e))
}

pub fn setdomainname(name: &str) -> Result<()> {
    // SAFETY: pointer and length are those of a live string.
    let ret = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check(ret.into(), || format!("setdomainname({name:?})")).map(drop)
}

/// Joins a new session keyring of that name, so that the host's session keys stay out of reach.
pub fn join_session_keyring(name: &str) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name_c = super::cstring(Path::new(name))?;
    // SAFETY: `name_c` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name_c.as_ptr()) };
    check(ret, || format!("keyctl(JOIN_SESSION_KEYRING, {name:?})")).map(|serial| serial as i32)
}

/// Lets the session keyring's owner search it by its serial number, as a container's root expects, besides what the
/// kernel grants a new one.
pub fn permit_keyring_owner(serial: i32) -> Result<()> {
    const KEYCTL_SETPERM: libc::c_long = 5;
    const KEY_POS_ALL: u32 = 0x3f00_0000;
    const KEY_USR_VIEW_READ_SEARCH_LINK: u32 = 0x001b_0000;
    let mask = KEY_POS_ALL | KEY_USR_VIEW_READ_SEARCH_LINK;
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, mask) };
    check(ret, || "keyctl(SETPERM)".into()).map(drop)
}

/// `execve(2)`: returns only the error.
pub fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    match nix::unistd::execve(path, argv, env) {
        Err(e) => e,
        Ok(never) => match never {},
    }
}

/// Executes an open file: returns only the error.
pub fn fexecve(file: BorrowedFd, argv: &[CString], env: &[CString]) -> Error {
    use nix::fcntl::AtFlags;
    match nix::unistd::execveat(file, c"", argv, env, AtFlags::AT_EMPTY_PATH) {
        Err(e) => Error::new("execveat()", e),
        Ok(never) => match never {},
    }
}

/// The running kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> Result<String> {
    let name = nix::sys::utsname::uname().map_err(|e| Error::new("uname()", e))?;
    Ok(name.release().to_string_lossy().into_owned())
}

/// Ends the process at once: no destructors, no flushing of what the parent had buffered.
pub fn exit_now(code: i32) -> ! {
    // A seccomp filter may forbid both. The C library's _exit would then try for ever, and whoever waits for the end of
    // our channel with it.
    // SAFETY: these calls only end the process.
    unsafe {
        libc::syscall(libc::SYS_exit_group, code);
        libc::syscall(libc::SYS_exit, code);
    }
    trap()
}

/// Returns the calling thread's id, which is the process's id if there is no other thread. musl has it in memory, where
/// getpid(2), and nix's gettid, would be a call. In a process that [`clone3`] has made it is its maker's.
#[must_use]
pub fn own_id() -> i32 {
    // SAFETY: no pointers are passed.
    unsafe { libc::gettid() }
}

#[must_use]
pub fn euid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[must_use]
pub fn egid() -> u32 {
    nix::unistd::getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Neither the C library's `abort`, which signals by a thread id that it remembers, nor a backtrace.
    #[test]
    fn a_panic_in_the_clone_ends_in_a_faulting_instruction() {
        let ended = |act: fn()| match clone3(0, None).unwrap() {
            // The other tests' threads are not copied: nothing that locks or allocates may be called here.
            Forked::Child => {
                act();
                exit_now(7)
            }
            Forked::Parent { pidfd, .. } => wait(pidfd.as_fd()).unwrap(),
        };
        assert_eq!(ended(|| ()), Exit::Code(7));
        let faulted = ended(|| trap());
        assert!([libc::SIGILL, libc::SIGTRAP].map(Exit::Signal).contains(&faulted), "{faulted:?}");
        assert_eq!(ended(|| panic!("on purpose, by a test")), faulted);
    }
}
