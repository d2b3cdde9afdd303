//! The first instructions of the executable, before those of the C library. A command that puts a process
//! into a container executes itself again from a read-only copy of its mount (`startup::seal` has the
//! reason). Then the thousands of pointers in the data are relocated.
//!
//! The copy is executed here, so that the relocation, the start-up code of the C library and ours run once
//! instead of twice. Errors are ignored: `startup::seal` later finds that the executable is not sealed, tries
//! the other ways, and reports the error.
//!
//! With `--trace` the new process gets a name (argv[0]) from which `trace` reads the times.
//!
//! Nothing is relocated before. This code therefore calls no other code, and reaches a static only relative to
//! its own address. `scripts/check-entry` checks the instructions of the release for that.
//!
//! An executable for glibc, as on riscv64, has no such entry. glibc must relocate it, because some of its pointers
//! are to functions that glibc chooses for the processor (IFUNC).

use std::arch::global_asm;
use std::ffi::{CStr, c_char, c_int};

use crate::raw::call;

// The kernel has put argc, the arguments, a null and the environment on the stack. `call` preserves all that
// `_start` reads.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl corten_entry",
    ".type corten_entry, @function",
    "corten_entry:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "call {seal}",
    "lea rdi, [rip + __ehdr_start]",
    "lea rsi, [rip + _DYNAMIC]",
    "call {relocate}",
    "jmp _start",
    ".size corten_entry, . - corten_entry",
    seal = sym seal,
    relocate = sym relocate,
);

// musl's `_start` reads only the stack pointer. An address is that of its page relative to this code, and the
// offset in the page: that needs no table of addresses. The linker places all of it within 4 GiB.
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl corten_entry",
    ".type corten_entry, %function",
    "corten_entry:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {seal}",
    "adrp x0, __ehdr_start",
    "add x0, x0, :lo12:__ehdr_start",
    "adrp x1, _DYNAMIC",
    "add x1, x1, :lo12:_DYNAMIC",
    "bl {relocate}",
    "b _start",
    ".size corten_entry, . - corten_entry",
    seal = sym seal,
    relocate = sym relocate,
);

/// Executes the sealed copy if the command needs it. Returns if it does not, or after an error.
///
/// # Safety
/// `stack` is the stack that the kernel made.
unsafe extern "C" fn seal(stack: *const usize) {
    // SAFETY: argc is followed by that many arguments and a null. The environment comes after them.
    let (count, argv) = unsafe { (stack.read(), stack.add(1).cast::<*const c_char>()) };
    // SAFETY: as above.
    let envp = unsafe { argv.add(count + 1) };
    // SAFETY: the kernel ends each argument with a NUL.
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
    // `struct statfs` has 15 longs. The eleventh has the flags.
    let mut stat = [0_u64; 16];
    // SAFETY: the buffer is large enough.
    let known =
        unsafe { call(libc::SYS_statfs, [own.as_ptr() as usize, (&raw mut stat) as usize, 0, 0, 0]) } == 0;
    if known && stat[10] & libc::ST_RDONLY == 0 {
        // SAFETY: these are the kernel's arguments and environment.
        unsafe { execute(own, argv.cast_mut(), envp, traced.then_some(&mut since)) };
    }
}

/// Returns the first eight bytes of an argument, padded with zeros.
///
/// # Safety
/// The argument ends with a NUL.
unsafe fn first_bytes(argument: *const c_char) -> u64 {
    let mut word = 0_u64;
    for i in 0..8 {
        // SAFETY: no byte after the end is read.
        match unsafe { argument.add(i).read() } as u8 {
            0 => break,
            byte => word |= u64::from(byte) << (8 * i),
        }
    }
    word
}

/// Returns whether an argument is a verb that puts a process into a container. It may also be the name of a
/// container: then sealing is unnecessary, but harmless.
fn enters(word: u64) -> bool {
    word == verb(*b"run\0\0\0\0\0") || word == verb(*b"exec\0\0\0\0") || word == verb(*b"create\0\0")
}

/// Returns whether an argument is the option `--trace` in one of its forms.
fn traces(word: u64) -> bool {
    word << 8 == verb(*b"\0--trace") || word << 16 == verb(*b"\0\0-trace")
}

/// Writes the time (`CLOCK_MONOTONIC`, nanoseconds) in hexadecimal.
fn stamp(place: &mut [u8]) {
    let mut now = [0_u64; 2];
    // SAFETY: the clock exists, and `now` has room for a timespec.
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

/// Executes a read-only copy of `own`. Returns after an error.
///
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
    // SAFETY: the path is NUL-terminated. The other arguments are numbers.
    let copy = unsafe { call(libc::SYS_open_tree, [here, own.as_ptr() as usize, FLAGS as usize, 0, 0]) };
    if copy < 0 {
        return;
    }
    let (copy, flags) = (copy as usize, libc::AT_EMPTY_PATH as usize);
    // SAFETY: the structure has the size passed.
    let sealed = unsafe {
        call(libc::SYS_mount_setattr, [copy, empty, flags, (&raw const attr) as usize, size_of_val(&attr)])
    };
    if sealed == 0 {
        // SAFETY: there are several arguments, one of them the verb.
        let name = unsafe { argv.read() };
        if let Some(since) = since {
            stamp(&mut since[31..47]);
            // SAFETY: the vector is on the stack of this process, and writable.
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

/// The tags of the dynamic section for the size and the address of the table of relative relocations (elf.h).
const DT_RELRSZ: usize = 35;
const DT_RELR: usize = 36;

/// Adds the address of the executable to the pointers in its data. The C library would take ten instructions for each
/// pointer, and musl before 1.2.4 does not know this form of the table. It finds an empty table afterwards.
///
/// A word of the table is the address of a pointer, or a bitmap of the 63 words that follow the last one, marked
/// by its lowest bit (the generic ABI, "Relative Relocation Table").
///
/// # Safety
/// `base` is the address of the executable, and `dynamic` that of its dynamic section.
unsafe extern "C" fn relocate(base: usize, mut dynamic: *mut [usize; 2]) {
    let (mut table, mut size) = (base, 0);
    // SAFETY: the section is writable, and ends with a null.
    while let entry = unsafe { &mut *dynamic }
        && entry[0] != 0
    {
        match entry[0] {
            DT_RELR => table = base + entry[1],
            DT_RELRSZ => size = std::mem::replace(&mut entry[1], 0),
            _ => {}
        }
        // SAFETY: this was not the last one.
        dynamic = unsafe { dynamic.add(1) };
    }
    let (end, mut next) = (table + size, base);
    while table != end {
        // SAFETY: the linker has made the table, of pointers in data that is writable now.
        unsafe {
            let word = *(table as *const usize);
            if word & 1 == 0 {
                next = base + word;
                *(next as *mut usize) += base;
                next += size_of::<usize>();
            } else {
                let mut bits = word >> 1;
                while bits != 0 {
                    *(next as *mut usize).add(bits.trailing_zeros() as usize) += base;
                    bits &= bits - 1;
                }
                next += 63 * size_of::<usize>();
            }
        }
        table += size_of::<usize>();
    }
}
