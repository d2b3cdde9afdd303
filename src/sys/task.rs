//! Processes: their creation, their namespaces, and the waits for them.

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

use super::{Error, Result, check, check_fd, retry};

/// libc's constant is an int, which is too small for the value.
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

/// The process that returns from [`clone3`].
pub enum Forked {
    /// The new process.
    Child,
    /// The process that called, with the id and a descriptor of the new process.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// Returns the number of processors that the calling process may use, or 0 if it is not known.
pub(crate) fn processors() -> usize {
    let mut set = [0_u64; 128];
    // SAFETY: the kernel writes at most the size passed.
    unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&set), set.as_mut_ptr()) };
    set.iter().map(|word| word.count_ones() as usize).sum()
}

/// Creates a process without shared memory, like fork, directly in new namespaces and in a cgroup
/// (`clone3(2)`).
///
/// The caller must have one thread, so that the locks in the child, those of the allocator among them, are
/// free. With `CLONE_PARENT` in `flags` the new process becomes a child of the caller's parent. The child may
/// run any code. Panics and aborts in it end in [`trap`], because the C library would signal another process
/// (see [`raw_clone3`]).
pub fn clone3(flags: u64, cgroup: Option<BorrowedFd>) -> Result<Forked> {
    let mut pidfd: i32 = -1;
    let sibling = flags & libc::CLONE_PARENT as u64 != 0;
    if !sibling {
        // Done here and not at the start, because it saves commands without children the call.
        super::signal::keep_children()?;
    }
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        // A sibling gets the caller's exit signal. The kernel refuses another one.
        exit_signal: if sibling { 0 } else { libc::SIGCHLD as u64 },
        ..CloneArgs::default()
    };
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = dir.as_raw_fd() as u64;
    }
    // From its first moment on, processes of the container can see the new process.
    let hidden = super::args::hide();
    // SAFETY: this process has one thread (invariant 1 of docs/architecture.md). `args` has neither CLONE_VM
    // nor a stack. The child's panics and aborts end in `trap`, by the hook that it sets first and by the
    // executable's `abort`.
    let cloned = unsafe { raw_clone3(&args) };
    if let Ok(0) = cloned {
        std::panic::set_hook(Box::new(trap_panic));
        return Ok(Forked::Child);
    }
    hidden.restore();
    let pid = cloned?;
    // SAFETY: the kernel has stored a new descriptor there.
    Ok(Forked::Parent { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Makes the system call alone. It returns twice, in the child with 0.
///
/// # Safety
/// The caller has one thread, and `args` does not request shared memory. The child must not use the thread id
/// that the C library remembers. musl does not know of this clone and still has the id of the parent. Its
/// `abort` and `raise` would signal the process that has this id in the child's pid namespace.
unsafe fn raw_clone3(args: &CloneArgs) -> Result<i32> {
    // SAFETY: `args` has the size passed. The child continues here with copies of all memory. As the copy of
    // a process with one thread it finds no lock that another thread holds.
    let ret = unsafe { libc::syscall(libc::SYS_clone3, &raw const *args, size_of::<CloneArgs>()) };
    check(ret, || format!("clone3({:#x})", args.flags)).map(|pid| pid as i32)
}

/// The panic hook of a clone. std's own prints a backtrace, for which it would open files of the container's
/// file system.
fn trap_panic(info: &std::panic::PanicHookInfo) {
    // No allocation, because the panic may be due to a lack of memory.
    let mut text = [0; 512];
    let mut rest = &mut text[..];
    let _ = writeln!(rest, "{info}");
    let unused = rest.len();
    let _ = nix::unistd::write(std::io::stderr(), &text[..text.len() - unused]);
    trap()
}

/// Ends the process with an instruction that faults. It makes no system call, so no seccomp filter can
/// prevent it. If a signal handler returned, the instruction would fault again.
pub fn trap() -> ! {
    loop {
        // SAFETY: the instruction only raises SIGILL or SIGTRAP in this process. Even if the signal is
        // ignored or blocked, it ends the process, because an instruction has raised it.
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

/// Creates a process in a cgroup ([`clone3`]). Returns `None` if the kernel has killed the process before its
/// first instruction, after reaping it. Linux (6.18, for example) compares how often the caller's cgroup has
/// been killed with how often the new process's cgroup has, and takes a difference for a kill that concerns
/// the new process.
pub(crate) fn clone3_into(flags: u64, cgroup: BorrowedFd) -> Result<Option<Forked>> {
    let cloned = clone3(flags, Some(cgroup))?;
    if let Forked::Parent { pidfd, .. } = &cloned
        && is_ending(pidfd.as_fd())
        && poll_readable(&[pidfd.as_fd()], Some(Instant::now() + DYING))?.contains(&true)
        && peek(pidfd.as_fd())? == Exit::Signal(libc::SIGKILL)
    {
        return wait(pidfd.as_fd()).map(|_| None);
    }
    Ok(Some(cloned))
}

/// Returns whether a process has ended or has been killed and will end soon. `process_mrelease(2)` refuses
/// all others.
fn is_ending(pidfd: BorrowedFd) -> bool {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_process_mrelease, pidfd.as_raw_fd(), 0) };
    ret == 0 || Errno::last() == Errno::ESRCH
}

/// Enters namespaces (`setns(2)`). `fd` is a namespace file or a pidfd.
pub(crate) fn setns(fd: BorrowedFd, kinds: i32) -> Result<()> {
    nix::sched::setns(fd, CloneFlags::from_bits_retain(kinds))
        .map_err(|e| Error::new(format!("setns({kinds:#x})"), e))
}

/// Enters new namespaces (`unshare(2)`).
pub(crate) fn unshare(kinds: i32) -> Result<()> {
    nix::sched::unshare(CloneFlags::from_bits_retain(kinds))
        .map_err(|e| Error::new(format!("unshare({kinds:#x})"), e))
}

/// Returns the type of a namespace file: one of the `CLONE_NEW*` flags.
pub(crate) fn namespace_type(fd: BorrowedFd) -> Result<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: this ioctl takes no argument.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    check(ret.into(), || "ioctl(NS_GET_NSTYPE)".into()).map(|t| t as i32)
}

/// Returns the user namespace that owns a namespace (`ioctl_ns(2)`).
pub(crate) fn namespace_owner(fd: BorrowedFd) -> Result<OwnedFd> {
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    // SAFETY: this ioctl takes no argument. It returns a new descriptor, which is closed by execve.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_USERNS as _) };
    check_fd(ret.into(), || "ioctl(NS_GET_USERNS)".into())
}

/// Returns the user namespace in which a user namespace was made (`ioctl_ns(2)`).
pub(crate) fn namespace_parent(fd: BorrowedFd) -> Result<OwnedFd> {
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: as for NS_GET_USERNS.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_PARENT as _) };
    check_fd(ret.into(), || "ioctl(NS_GET_PARENT)".into())
}

/// Returns a descriptor of a process (`pidfd_open(2)`).
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    check_fd(ret, || format!("pidfd_open({pid})"))
}

/// Sends a signal to a process (`pidfd_send_signal(2)`).
pub(crate) fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32) -> Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: a null siginfo is allowed.
    let ret = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, none, 0) };
    check(ret, || format!("pidfd_send_signal({signal})")).map(drop)
}

/// The way in which a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// Reads the form in which wait(2) and the kernel's files have it.
    #[must_use]
    pub(crate) fn of_wait_status(status: i32) -> Self {
        match status & 0x7f {
            0 => Self::Code(status >> 8 & 0xff),
            signal => Self::Signal(signal),
        }
    }

    /// Returns the status that a shell would show: the code, or 128 + the signal.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Code(code) => code as u8,
            Self::Signal(signal) => (128 + signal) as u8,
        }
    }
}

/// The longest time that a killed process may take to end.
const DYING: Duration = Duration::from_secs(5);

/// Waits for a killed child and reaps it. Returns false if it does not end within 5 seconds, because a tracer
/// or a frozen cgroup holds it.
pub(crate) fn wait_killed(pidfd: BorrowedFd) -> Result<bool> {
    let ended = poll_readable(&[pidfd], Some(Instant::now() + DYING))?.contains(&true);
    if ended { wait(pidfd).map(|_| true) } else { Ok(false) }
}

/// Waits for a child and reaps it.
pub fn wait(pidfd: BorrowedFd) -> Result<Exit> {
    wait_for(pidfd, 0)
}

/// Waits for the end of a child, which remains to be reaped.
pub(crate) fn peek(pidfd: BorrowedFd) -> Result<Exit> {
    wait_for(pidfd, libc::WNOWAIT)
}

fn wait_for(pidfd: BorrowedFd, flags: i32) -> Result<Exit> {
    match waitid(libc::P_PIDFD, pidfd.as_raw_fd() as u32, flags)? {
        Some((_, exit)) => Ok(exit),
        None => Err(Error::new("waitid()", Errno::EINTR)),
    }
}

/// Waits for the end of a child (`waitid(2)`). Returns its id and how it ended, or `None` if `WNOHANG` is set and none has
/// ended. nix's function knows no real-time signals, and returns an error for a child that it has reaped.
fn waitid(kind: libc::idtype_t, id: u32, flags: i32) -> Result<Option<(i32, Exit)>> {
    // SAFETY: all-zero bytes are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    retry(|| {
        // SAFETY: `info` is a live siginfo_t.
        let ret = unsafe { libc::waitid(kind, id, &raw mut info, libc::WEXITED | flags) };
        check(ret.into(), || "waitid()".into()).map(drop)
    })?;
    // SAFETY: waitid(2) fills these fields. Without a child that has ended they remain zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    let exit = if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) };
    Ok((pid != 0).then_some((pid, exit)))
}

/// Reaps the children that have ended, without waiting. It stops at the child `kept`, whose status the caller
/// needs: the children after it are reaped once `kept` has been.
pub(crate) fn reap_others(kept: i32) {
    while let Ok(Some((pid, _))) = waitid(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT) {
        if pid == kept || waitid(libc::P_PID, pid as u32, libc::WNOHANG).is_err() {
            break;
        }
    }
}

/// A descriptor to wait for in [`poll`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Poll<'a> {
    fd: Option<BorrowedFd<'a>>,
    events: PollFlags,
    pub ready: bool,
}

impl<'a> Poll<'a> {
    /// A value that is never ready.
    pub(crate) const NONE: Poll<'static> = Poll { fd: None, events: PollFlags::empty(), ready: false };

    #[must_use]
    pub(crate) fn read(fd: BorrowedFd<'a>) -> Self {
        Self { fd: Some(fd), events: PollFlags::POLLIN, ready: false }
    }

    #[must_use]
    pub(crate) fn write(fd: BorrowedFd<'a>) -> Self {
        Self { fd: Some(fd), events: PollFlags::POLLOUT, ready: false }
    }

    /// Waits for a change of a file in cgroupfs or procfs.
    #[must_use]
    pub(crate) fn change(fd: BorrowedFd<'a>) -> Self {
        Self { fd: Some(fd), events: PollFlags::POLLPRI, ready: false }
    }

    #[must_use]
    pub(crate) fn read_or_write(fd: BorrowedFd<'a>) -> Self {
        Self { fd: Some(fd), events: PollFlags::POLLIN | PollFlags::POLLOUT, ready: false }
    }
}

/// Waits until one of the descriptors is ready or its other end has closed, or until the time limit has
/// passed.
pub(crate) fn poll<const N: usize>(polled: &mut [Poll; N], limit: Option<Duration>) -> Result<()> {
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

/// Waits until one of `fds` can be read or its other end has closed, or until the deadline. Returns a flag
/// for each. All flags are false after the deadline.
pub(crate) fn poll_readable(fds: &[BorrowedFd], deadline: Option<Instant>) -> Result<Vec<bool>> {
    let mut polled: Vec<PollFd> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    poll_until(&mut polled, deadline)?;
    Ok(polled.iter().map(happened).collect())
}

/// Calls `poll(2)` with a deadline. A signal does not postpone it.
pub(crate) fn poll_until(fds: &mut [PollFd], deadline: Option<Instant>) -> Result<()> {
    retry(|| {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // Rounded up, because a poll that ends before its deadline would be repeated at once.
        let timeout = left.map(|left| PollTimeout::try_from(left + Duration::from_micros(999)));
        let timeout = timeout.map(|timeout| timeout.unwrap_or(PollTimeout::MAX));
        nix::poll::poll(fds, timeout).map(drop).map_err(|e| Error::new("poll()", e))
    })
}

/// Returns whether the kernel has reported an event, even one that nix does not know.
fn happened(fd: &PollFd) -> bool {
    fd.any() != Some(false)
}

/// Sets the signal that the kernel sends to this process when its parent ends, or none for 0. A change of
/// credentials clears it.
pub(crate) fn set_parent_death_signal(signal: i32) -> Result<()> {
    prctl::set_pdeathsig(Signal::try_from(signal).ok())
        .map_err(|e| Error::new(format!("prctl(PR_SET_PDEATHSIG, {signal})"), e))
}

/// Prevents other processes from tracing this process and from opening its files in /proc. A change of
/// credentials and execve reset it.
pub(crate) fn set_undumpable() -> Result<()> {
    prctl::set_dumpable(false).map_err(|e| Error::new("prctl(PR_SET_DUMPABLE, 0)", e))
}

/// Sets no_new_privs, which cannot be undone.
pub(crate) fn set_no_new_privs() -> Result<()> {
    prctl::set_no_new_privs().map_err(|e| Error::new("prctl(PR_SET_NO_NEW_PRIVS, 1)", e))
}

/// Makes orphaned descendants children of this process.
pub(crate) fn set_child_subreaper() -> Result<()> {
    prctl::set_child_subreaper(true).map_err(|e| Error::new("prctl(PR_SET_CHILD_SUBREAPER, 1)", e))
}

/// Sets the real, effective and saved user id (`setresuid(2)`). The raw call, because the C library's signals
/// all threads that it knows of, which in a clone are not the threads that exist.
pub(crate) fn setresuid(uid: u32) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
    check(ret, || format!("setresuid({uid})")).map(drop)
}

/// Sets the real, effective and saved group id (`setresgid(2)`). Raw for the same reason as [`setresuid`].
pub(crate) fn setresgid(gid: u32) -> Result<()> {
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) };
    check(ret, || format!("setresgid({gid})")).map(drop)
}

/// Sets the user id for file system checks (`setfsuid(2)`). The call reports no error, so the value is read
/// back.
pub fn setfsuid(uid: u32) -> Result<()> {
    set_and_read_back(libc::SYS_setfsuid, "setfsuid", uid)
}

/// Sets the group id for file system checks (`setfsgid(2)`). The value is read back.
pub fn setfsgid(gid: u32) -> Result<()> {
    set_and_read_back(libc::SYS_setfsgid, "setfsgid", gid)
}

/// The raw call, because glibc takes the highest ids that it returns for errors (seen on riscv64).
fn set_and_read_back(call: libc::c_long, name: &str, id: u32) -> Result<()> {
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(call, id) };
    // SAFETY: as above. The id -1 changes nothing. The call returns the id in force.
    let now = unsafe { libc::syscall(call, u32::MAX) };
    if now as u32 == id { Ok(()) } else { Err(Error::new(format!("{name}({id})"), Errno::EPERM)) }
}

/// Creates a session (`setsid(2)`).
pub fn setsid() -> Result<()> {
    nix::unistd::setsid().map(drop).map_err(|e| Error::new("setsid()", e))
}

/// Changes the working directory (`fchdir(2)`).
pub(crate) fn fchdir(dir: BorrowedFd) -> Result<()> {
    nix::unistd::fchdir(dir).map_err(|e| Error::new("fchdir()", e))
}

/// Makes the root directory the working directory.
pub(crate) fn chdir_root() -> Result<()> {
    nix::unistd::chdir("/").map_err(|e| Error::new("chdir(\"/\")", e))
}

/// Makes the working directory the root directory (`chroot(2)`).
pub(crate) fn chroot_here() -> Result<()> {
    nix::unistd::chroot(".").map_err(|e| Error::new("chroot(\".\")", e))
}

/// Sets the host name of the caller's uts namespace.
pub(crate) fn sethostname(name: &str) -> Result<()> {
    nix::unistd::sethostname(name).map_err(|e| Error::new(format!("sethostname({name:?})"), e))
}

/// Sets the NIS domain name of the caller's uts namespace. nix lacks the call.
pub(crate) fn setdomainname(name: &str) -> Result<()> {
    // SAFETY: the pointer and the length belong to a live string.
    let ret = unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) };
    check(ret.into(), || format!("setdomainname({name:?})")).map(drop)
}

/// Joins a new session keyring with a name, so that the host's session keys are out of reach. Returns its
/// serial number.
pub(crate) fn join_session_keyring(name: &str) -> Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    let name_c = super::cstring(Path::new(name))?;
    // SAFETY: `name_c` is NUL-terminated and outlives the call.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name_c.as_ptr()) };
    check(ret, || format!("keyctl(JOIN_SESSION_KEYRING, {name:?})")).map(|serial| serial as i32)
}

/// Allows the owner of a session keyring to search it by its serial number, as a container's root expects.
/// The permissions that the kernel grants for a new keyring remain.
pub(crate) fn permit_keyring_owner(serial: i32) -> Result<()> {
    const KEYCTL_SETPERM: libc::c_long = 5;
    const KEY_POS_ALL: u32 = 0x3f00_0000;
    const KEY_USR_VIEW_READ_SEARCH_LINK: u32 = 0x001b_0000;
    let mask = KEY_POS_ALL | KEY_USR_VIEW_READ_SEARCH_LINK;
    // SAFETY: no pointers are passed.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, serial, mask) };
    check(ret, || "keyctl(SETPERM)".into()).map(drop)
}

/// Executes a program (`execve(2)`). Returns only after an error.
pub(crate) fn execve(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    match nix::unistd::execve(path, argv, env) {
        Err(e) => e,
        Ok(never) => match never {},
    }
}

/// Executes an open file (`execveat(2)`). Returns only after an error.
pub(crate) fn fexecve(file: BorrowedFd, argv: &[CString], env: &[CString]) -> Error {
    use nix::fcntl::AtFlags;
    match nix::unistd::execveat(file, c"", argv, env, AtFlags::AT_EMPTY_PATH) {
        Err(e) => Error::new("execveat()", e),
        Ok(never) => match never {},
    }
}

/// Returns the release of the running kernel, as `uname -r` prints it.
pub(crate) fn kernel_release() -> Result<String> {
    let name = nix::sys::utsname::uname().map_err(|e| Error::new("uname()", e))?;
    Ok(name.release().to_string_lossy().into_owned())
}

/// Ends the process at once, without destructors and without flushing the buffers that a clone has inherited.
pub fn exit_now(code: i32) -> ! {
    // A seccomp filter may forbid both calls. The C library's _exit would then repeat them for ever, and the
    // other end of the channel would wait for ever. SAFETY: these calls only end the process.
    unsafe {
        libc::syscall(libc::SYS_exit_group, code);
        libc::syscall(libc::SYS_exit, code);
    }
    trap()
}

/// Returns the id of the calling thread, which is the process id if there is no other thread. musl keeps it
/// in memory, whereas getpid(2) and nix's `gettid` are system calls. In a clone ([`clone3`]) musl returns the id
/// of the parent.
#[must_use]
pub(crate) fn own_id() -> i32 {
    // SAFETY: no pointers are passed.
    unsafe { libc::gettid() }
}

/// Returns the effective user id.
#[must_use]
pub(crate) fn euid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Returns the effective group id.
#[must_use]
pub(crate) fn egid() -> u32 {
    nix::unistd::getegid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A panic must reach neither the C library's `abort`, which signals the thread id that it remembers, nor
    /// a backtrace.
    #[test]
    fn a_panic_in_the_clone_ends_in_a_faulting_instruction() {
        let ended = |act: fn()| match clone3(0, None).unwrap() {
            // The threads of the other tests are not copied. Code that locks or allocates may therefore block
            // here.
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
