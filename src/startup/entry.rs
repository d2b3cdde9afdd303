//! The executable's first instructions, before the C library's: a command that puts a process into a container executes
//! itself anew from a read-only copy of its mount (`startup::seal` says why), and does so before anything else was paid for.
//!
//! The C library's start-up, which relocates thousands of pointers, then happens once and not twice. Whatever fails here
//! is left to `startup::seal`, which finds that it is not sealed, has the other ways, and tells what is wrong.
//!
//! With `--trace` it leaves the name by which `trace` learns when this was.
//!
//! Nothing is relocated yet: this code calls nothing and refers to no static but by its own address.

use std::arch::{asm, global_asm};
use std::ffi::{CStr, c_char, c_int};

// The stack is as the kernel made it: argc, the arguments, a null, the environment. `call` keeps what `_start` looks at.
global_asm!(
    ".globl corten_entry",
    ".type corten_entry, @function",
    "corten_entry:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "call {seal}",
    "jmp _start",
    ".size corten_entry, . - corten_entry",
    seal = sym seal,
);

/// # Safety
/// `stack` is the stack that the kernel made.
unsafe extern "C" fn seal(stack: *const usize) {
    // SAFETY: argc is followed by as many arguments and a null, and they by the environment.
    let (count, argv) = unsafe { (stack.read(), stack.add(1).cast::<*const c_char>()) };
    // SAFETY: as above.
    let envp = unsafe { argv.add(count + 1) };
    // SAFETY: each argument of the kernel's is a string that ends.
    let word = |i| unsafe { first_bytes(argv.add(i).read()) };
    if !(1..count).any(|i| enters(word(i))) {
        return;
    }
    let mut since = *b"--trace-since=0000000000000000,0000000000000000\0";
    let traced = (1..count).any(|i| traces(word(i)));
    if traced {
        stamp(&mut since[14..30]);
    }
    let own = c"/proc/self/exe";
    // `struct statfs` is 15 longs; the eleventh has the flags.
    let mut stat = [0_u64; 16];
    // SAFETY: the buffer is large enough.
    let known =
        unsafe { call(libc::SYS_statfs, [own.as_ptr() as usize, (&raw mut stat) as usize, 0, 0, 0]) } == 0;
    if known && stat[10] & libc::ST_RDONLY == 0 {
        // SAFETY: they are the kernel's arguments and environment.
        unsafe { execute(own, argv.cast_mut(), envp, traced.then_some(&mut since)) };
    }
}

/// The first bytes of an argument, 0 behind its end.
///
/// # Safety
/// It is a string that ends.
unsafe fn first_bytes(argument: *const c_char) -> u64 {
    let mut word = 0_u64;
    for i in 0..8 {
        // SAFETY: no byte behind the end is read.
        match unsafe { argument.add(i).read() } as u8 {
            0 => break,
            byte => word |= u64::from(byte) << (8 * i),
        }
    }
    word
}

/// Whether an argument is a verb that puts a process into a container. (A container may have such a name, too.)
fn enters(word: u64) -> bool {
    word == verb(*b"run\0\0\0\0\0") || word == verb(*b"exec\0\0\0\0") || word == verb(*b"create\0\0")
}

/// Whether it is the option for a trace, in one of its forms.
fn traces(word: u64) -> bool {
    word << 8 == verb(*b"\0--trace") || word << 16 == verb(*b"\0\0-trace")
}

/// Writes the time in hexadecimal.
fn stamp(place: &mut [u8]) {
    let mut now = [0_u64; 2];
    // SAFETY: a clock that there is, and room for a timespec.
    unsafe {
        call(libc::SYS_clock_gettime, [libc::CLOCK_MONOTONIC as usize, (&raw mut now) as usize, 0, 0, 0])
    };
    let mut rest = now[0] * 1_000_000_000 + now[1];
    for digit in place.iter_mut().rev() {
        let value = (rest & 15) as u8;
        *digit = if value < 10 { b'0' + value } else { b'a' - 10 + value };
        rest >>= 4;
    }
}

const fn verb(name: [u8; 8]) -> u64 {
    u64::from_le_bytes(name)
}

/// # Safety
/// The vectors end with a null.
unsafe fn execute(
    own: &CStr,
    argv: *mut *const c_char,
    envp: *const *const c_char,
    since: Option<&mut [u8; 48]>,
) {
    const FLAGS: c_int = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as c_int;
    let attr = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0]; // struct mount_attr: set, clr, propagation, userns_fd
    let empty = c"".as_ptr() as usize;
    let here = libc::AT_FDCWD as usize;
    // SAFETY: a path, and numbers.
    let copy = unsafe { call(libc::SYS_open_tree, [here, own.as_ptr() as usize, FLAGS as usize, 0, 0]) };
    if copy < 0 {
        return;
    }
    let (copy, flags) = (copy as usize, libc::AT_EMPTY_PATH as usize);
    // SAFETY: the structure has the size that is given.
    let sealed = unsafe {
        call(libc::SYS_mount_setattr, [copy, empty, flags, (&raw const attr) as usize, size_of_val(&attr)])
    };
    if sealed == 0 {
        // SAFETY: there is a first argument, and there are others.
        let name = unsafe { argv.read() };
        if let Some(since) = since {
            stamp(&mut since[31..47]);
            // SAFETY: the kernel has made the vector for us to use.
            unsafe { argv.write(since.as_ptr().cast()) };
        }
        // SAFETY: the vectors end with a null.
        unsafe {
            call(libc::SYS_execveat, [copy, empty, argv as usize, envp as usize, flags]);
            argv.write(name);
        }
    }
    // SAFETY: it was opened here.
    unsafe { call(libc::SYS_close, [copy, 0, 0, 0, 0]) };
}

/// A system call without the C library, which keeps errno in a place that is not there yet.
///
/// # Safety
/// As of the system call.
unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel keeps all registers but these; what is in memory is the caller's affair.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}
