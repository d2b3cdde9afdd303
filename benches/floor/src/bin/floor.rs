//! `floor CGROUP ROOTFS PROGRAM ARG...`: does the work of `run` with the bundle `spec`, without a C library
//! and with almost only the system calls that a correct runtime needs. Runtimes are measured against it. It
//! is not a runtime:
//!
//! * the container is the one of `corten spec`, in code; no configuration is read and no state is kept;
//! * the runtime's process and the container's share their memory until execve, so nothing is copied, and the
//!   device program is loaded while the mounts are made;
//! * everything is mounted after pivot_root, where no link leads out of the rootfs, so no path is resolved
//!   first. Masked files show the container's own /dev/null, which has just been made;
//! * no signal is forwarded, ignored and blocked signals stay so, and no executable is sealed.
//!
//! It also does the work of runtimes beyond `spec`: a session keyring, `lo` up, links in `/dev`. x86-64 only.
#![no_std]
#![no_main]

#[path = "../devices.rs"]
mod devices;
#[path = "../sys.rs"]
mod sys;

use core::ffi::{CStr, c_char};
use core::ptr::null;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use sys::{EINVAL, ENOENT, at, call, exit, nr};

const READONLY: usize = 1;
const NOSUID: usize = 2;
const NODEV: usize = 4;
const NOEXEC: usize = 8;
const REMOUNT: usize = 32;
const BIND: usize = 4096;
const RECURSIVE: usize = 16384;
const SLAVE: usize = 1 << 19;
const STRICTATIME: usize = 1 << 24;

/// pid, network, ipc, uts, mount and cgroup namespaces, in the cgroup that the last word names, with shared
/// memory.
const CLONE: u64 =
    0x2000_0000 | 0x4000_0000 | 0x0800_0000 | 0x0400_0000 | 0x0002_0000 | 0x0200_0000 | 1 << 33 | 0x100;
const SIGCHLD: u64 = 17;
const O_DIRECTORY_CLOEXEC: usize = 0o200_0000 | 0o20_0000;
const AT_FDCWD: usize = -100isize as usize;

/// The stack of the container's process until execve, which makes a new one.
#[repr(align(16))]
struct Stack(#[allow(dead_code, reason = "the kernel writes it")] [u8; STACK]);
const STACK: usize = 16384;
static mut CHILDS: Stack = Stack([0; STACK]);

/// The arguments of `floor`, for the container's process.
static WORDS: AtomicPtr<*const c_char> = AtomicPtr::new(core::ptr::null_mut());

/// The state of the device program, a futex.
static DEVICES: AtomicU32 = AtomicU32::new(PENDING);
const PENDING: u32 = 0;
const ATTACHED: u32 = 1;
const AWAITED: u32 = 2;
const FAILED: u32 = 3;
const FUTEX_WAIT: usize = 0x80;
const FUTEX_WAKE: usize = 0x81;

fn main(words: &[*const c_char]) -> i32 {
    if words.len() < 5 {
        return 64;
    }
    WORDS.store(words[1..].as_ptr().cast_mut(), Ordering::Relaxed);
    let group = words[1] as usize;
    // SAFETY: `group` is a string of the kernel's.
    let descriptor = unsafe {
        need(call(nr::MKDIR, &[group, 0o755]), 2);
        need(call(nr::OPENAT, &[AT_FDCWD, group, O_DIRECTORY_CLOEXEC]), 3)
    };
    let stack = &raw const CHILDS as u64;
    let args = [CLONE, 0, 0, 0, SIGCHLD, stack, STACK as u64, 0, 0, 0, descriptor as u64];
    // SAFETY: the fields of struct clone_args; the stack is the child's alone, and what both touch are the atomics here.
    let pid = need(unsafe { sys::clone3(args.as_ptr(), size_of_val(&args), container) }, 4);
    let outcome = if devices::attach(descriptor as usize) < 0 { FAILED } else { ATTACHED };
    if DEVICES.swap(outcome, Ordering::AcqRel) == AWAITED {
        // SAFETY: the address is a static's.
        unsafe { call(nr::FUTEX, &[DEVICES.as_ptr() as usize, FUTEX_WAKE, 1]) };
    }
    let mut status = 0i32;
    // SAFETY: the kernel writes an int, and reads `group`.
    unsafe {
        need(call(nr::WAIT4, &[pid as usize, &raw mut status as usize, 0, 0]), 5);
        need(call(nr::RMDIR, &[group]), 6);
    }
    if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) }
}

/// Returns the result of a call that must succeed. Otherwise the exit status tells which call has failed.
fn need(answer: isize, status: i32) -> isize {
    if answer < 0 {
        exit(status)
    }
    answer
}

/// The container's process. After a failure it exits with the number of the step.
extern "C" fn container() -> ! {
    // SAFETY: `main` has stored them and counted at least four; the list ends with a null pointer.
    let (rootfs, program) = unsafe {
        let words = WORDS.load(Ordering::Relaxed);
        (*words.add(1), words.add(2))
    };
    settle();
    enter(rootfs as usize);
    mounts();
    nodes();
    hide();
    need(mount(c"", c"/", c"", REMOUNT | BIND | READONLY, c""), 40);
    restrict();
    await_devices();
    let environment = [
        at(c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        at(c"TERM=xterm"),
        null::<u8>() as usize,
    ];
    // SAFETY: both vectors are of strings and end with a null pointer.
    unsafe { call(nr::EXECVE, &[*program as usize, program as usize, environment.as_ptr() as usize]) };
    exit(127)
}

/// Waits until the devices are limited, which must be before the program runs. In most cases they are.
fn await_devices() {
    loop {
        match DEVICES.load(Ordering::Acquire) {
            ATTACHED => return,
            FAILED => exit(50),
            _ => {
                let _ = DEVICES.compare_exchange(PENDING, AWAITED, Ordering::AcqRel, Ordering::Acquire);
                // SAFETY: the address is a static's; no time limit.
                unsafe { call(nr::FUTEX, &[DEVICES.as_ptr() as usize, FUTEX_WAIT, AWAITED as usize, 0]) };
            }
        }
    }
}

/// Settings without files: session, keyring, host name, `lo`, and no descriptor for the program.
fn settle() {
    const CLOSE_ON_EXEC: usize = 4;
    const JOIN_SESSION_KEYRING: usize = 1;
    const SET_FLAGS: usize = 0x8914;
    // struct ifreq: the name in 16 bytes, then the flags, of which IFF_UP is the first.
    let mut lo = [0u8; 40];
    (lo[0], lo[1], lo[16]) = (b'l', b'o', 1);
    // SAFETY: the addresses are of a local and of constants.
    unsafe {
        call(nr::CLOSE_RANGE, &[3, u32::MAX as usize, CLOSE_ON_EXEC]);
        need(call(nr::SETSID, &[]), 10);
        need(call(nr::KEYCTL, &[JOIN_SESSION_KEYRING, 0]), 11);
        need(call(nr::SETHOSTNAME, &[at(c"corten"), 6]), 12);
        let socket = need(call(nr::SOCKET, &[1, 2 | 0o200_0000, 0]), 13);
        need(call(nr::IOCTL, &[socket as usize, SET_FLAGS, lo.as_ptr() as usize]), 14);
    }
}

/// Makes the rootfs the root, and detaches the host's.
fn enter(rootfs: usize) {
    const DETACH: usize = 2;
    let here = at(c".");
    // SAFETY: `rootfs` is a word of the kernel's, the rest are constants.
    unsafe {
        need(mount(c"", c"/", c"", RECURSIVE | SLAVE, c""), 20);
        need(call(nr::MOUNT, &[rootfs, rootfs, 0, BIND | RECURSIVE, 0]), 21);
        need(call(nr::CHDIR, &[rootfs]), 22);
        need(call(nr::PIVOT_ROOT, &[here, here]), 23);
        need(call(nr::UMOUNT2, &[here, DETACH]), 24);
    }
}

/// Calls mount(2), which changes no memory.
fn mount(source: &CStr, target: &CStr, kind: &CStr, flags: usize, data: &CStr) -> isize {
    let given = |text: &CStr| if text.is_empty() { 0 } else { at(text) };
    // SAFETY: four strings, or null for an empty one, and a number.
    unsafe { call(nr::MOUNT, &[given(source), at(target), given(kind), flags, given(data)]) }
}

fn mounts() {
    let quiet = NOSUID | NODEV | NOEXEC;
    // SAFETY: constants only.
    unsafe {
        call(nr::UMASK, &[0]);
        need(mount(c"proc", c"/proc", c"proc", 0, c""), 30);
        need(mount(c"tmpfs", c"/dev", c"tmpfs", NOSUID | STRICTATIME, c"mode=755,size=65536k"), 31);
        for (directory, mode) in [(c"/dev/pts", 0o755), (c"/dev/shm", 0o755), (c"/dev/mqueue", 0o755)] {
            need(call(nr::MKDIR, &[at(directory), mode]), 32);
        }
        let terminals = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
        need(mount(c"devpts", c"/dev/pts", c"devpts", NOSUID | NOEXEC, terminals), 33);
        need(mount(c"shm", c"/dev/shm", c"tmpfs", quiet, c"mode=1777,size=65536k"), 34);
        need(mount(c"mqueue", c"/dev/mqueue", c"mqueue", quiet, c""), 35);
        need(mount(c"sysfs", c"/sys", c"sysfs", quiet | READONLY, c""), 36);
        need(mount(c"cgroup", c"/sys/fs/cgroup", c"cgroup2", quiet | READONLY, c""), 37);
    }
}

fn nodes() {
    const CHARACTER: usize = 0o020_000;
    let devices = [
        (c"/dev/null", 1, 3),
        (c"/dev/zero", 1, 5),
        (c"/dev/full", 1, 7),
        (c"/dev/random", 1, 8),
        (c"/dev/urandom", 1, 9),
        (c"/dev/tty", 5, 0),
    ];
    let links = [
        (c"/proc/self/fd", c"/dev/fd"),
        (c"/proc/self/fd/0", c"/dev/stdin"),
        (c"/proc/self/fd/1", c"/dev/stdout"),
        (c"/proc/self/fd/2", c"/dev/stderr"),
        (c"pts/ptmx", c"/dev/ptmx"),
    ];
    // SAFETY: constants only.
    unsafe {
        for (path, major, minor) in devices {
            need(call(nr::MKNOD, &[at(path), CHARACTER | 0o666, major << 8 | minor]), 38);
        }
        for (target, path) in links {
            need(call(nr::SYMLINK, &[at(target), at(path)]), 39);
        }
        call(nr::UMASK, &[0o022]);
    }
}

/// Hides the masked and read-only paths. A kernel can lack some of them.
fn hide() {
    let directories = [c"/proc/acpi", c"/proc/asound", c"/sys/firmware", c"/proc/scsi"];
    let files = [
        c"/proc/kcore",
        c"/proc/keys",
        c"/proc/latency_stats",
        c"/proc/timer_list",
        c"/proc/timer_stats",
        c"/proc/sched_debug",
    ];
    let readonly = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];
    let mut empty = None;
    for path in directories {
        let made = match empty {
            Some(first) => mount(first, path, c"", BIND, c""),
            None => mount(c"none", path, c"tmpfs", READONLY | NOSUID | NODEV | NOEXEC, c"mode=555"),
        };
        if there(made, 41) {
            empty = empty.or(Some(path));
        }
    }
    let mut null = None;
    for path in files {
        if there(mount(null.unwrap_or(c"/dev/null"), path, c"", BIND, c""), 42) && null.is_none() {
            need(mount(c"", path, c"", REMOUNT | BIND | READONLY | NOSUID | NOEXEC, c""), 42);
            null = Some(path);
        }
    }
    for path in readonly {
        if there(mount(path, path, c"", BIND | RECURSIVE, c""), 43) {
            need(mount(c"", path, c"", REMOUNT | BIND | READONLY, c""), 44);
        }
    }
}

fn there(answer: isize, status: i32) -> bool {
    answer != ENOENT && need(answer, status) == 0
}

/// Sets limits, groups and capabilities: audit_write, kill and net_bind_service remain.
fn restrict() {
    const NOFILE: usize = 7;
    const DROP: usize = 24;
    const NO_NEW_PRIVILEGES: usize = 38;
    const VERSION: u32 = 0x2008_0522;
    const KEPT: u32 = 1 << 29 | 1 << 5 | 1 << 10;
    // Effective, permitted and inheritable, first of the capabilities 0 to 31, then of the others.
    let (header, sets) = ([VERSION, 0], [KEPT, KEPT, 0, 0, 0, 0]);
    let limit = [1024u64, 1024];
    // SAFETY: the addresses are of locals of the structures' sizes.
    unsafe {
        need(call(nr::SETGROUPS, &[0, 0]), 45);
        need(call(nr::PRLIMIT64, &[0, NOFILE, limit.as_ptr() as usize, 0]), 46);
        need(call(nr::PRCTL, &[NO_NEW_PRIVILEGES, 1, 0, 0, 0]), 47);
        for capability in 0..64 {
            if capability < 32 && KEPT >> capability & 1 == 1 {
                continue;
            }
            match call(nr::PRCTL, &[DROP, capability, 0, 0, 0]) {
                EINVAL => break,
                answer => need(answer, 48),
            };
        }
        need(call(nr::CAPSET, &[header.as_ptr() as usize, sets.as_ptr() as usize]), 49);
    }
}
