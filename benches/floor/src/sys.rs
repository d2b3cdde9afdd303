//! System calls of x86-64 and the entry of a process, without a C library.
#![allow(dead_code, reason = "each of the two programs uses some of it")]

use core::arch::{asm, global_asm};
use core::ffi::{CStr, c_char};

// At the entry the stack pointer points to the number of arguments, which the arguments follow.
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);

/// Calls the program's `main` with its arguments.
extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: `_start` passes the initial stack, where the count of the arguments stands, then as many pointers to
    // strings and a null pointer, all of which stay there until execve or exit.
    let words = unsafe { core::slice::from_raw_parts(stack.add(1).cast::<*const c_char>(), *stack + 1) };
    exit(crate::main(words))
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    exit(70)
}

pub mod nr {
    pub const CLOSE: usize = 3;
    pub const IOCTL: usize = 16;
    pub const SOCKET: usize = 41;
    pub const FORK: usize = 57;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 60;
    pub const WAIT4: usize = 61;
    pub const CHDIR: usize = 80;
    pub const MKDIR: usize = 83;
    pub const RMDIR: usize = 84;
    pub const SYMLINK: usize = 88;
    pub const UMASK: usize = 95;
    pub const SETSID: usize = 112;
    pub const SETGROUPS: usize = 116;
    pub const CAPSET: usize = 126;
    pub const MKNOD: usize = 133;
    pub const PIVOT_ROOT: usize = 155;
    pub const PRCTL: usize = 157;
    pub const MOUNT: usize = 165;
    pub const UMOUNT2: usize = 166;
    pub const SETHOSTNAME: usize = 170;
    pub const FUTEX: usize = 202;
    pub const EXIT_GROUP: usize = 231;
    pub const KEYCTL: usize = 250;
    pub const OPENAT: usize = 257;
    pub const PRLIMIT64: usize = 302;
    pub const BPF: usize = 321;
    pub const CLONE3: usize = 435;
    pub const CLOSE_RANGE: usize = 436;
    pub const WRITE: usize = 1;
}

pub const EINVAL: isize = -22;
pub const ENOENT: isize = -2;

/// One system call with up to six arguments; the kernel's answer, negative for an error.
///
/// # Safety
/// Pointers among the arguments are valid for what the call does with them.
pub unsafe fn call(number: usize, args: &[usize]) -> isize {
    let arg = |n: usize| args.get(n).copied().unwrap_or(0);
    let answer;
    // SAFETY: the registers are the kernel's convention, rcx and r11 are all that it changes; the rest is the caller's.
    unsafe {
        asm!("syscall", inlateout("rax") number => answer, in("rdi") arg(0), in("rsi") arg(1), in("rdx") arg(2),
            in("r10") arg(3), in("r8") arg(4), in("r9") arg(5), lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    answer
}

/// clone3 with a stack for the child, which calls `child`; the child's number or an error in the parent.
///
/// # Safety
/// `args` is a `struct clone_args` of `size` bytes whose stack nobody else uses while the child runs. With CLONE_VM the
/// child shares the memory: both touch the same variables only as atomics.
pub unsafe fn clone3(args: *const u64, size: usize, child: extern "C" fn() -> !) -> isize {
    let answer;
    // SAFETY: in the parent this is a system call like any other; the child has a stack of its own, aligned to 16 bytes,
    // and never comes back from `child`, whose address is in none of the registers that the kernel changes.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "call {child}", "ud2", "2:", child = in(reg) child,
            inlateout("rax") nr::CLONE3 => answer, in("rdi") args, in("rsi") size, out("rcx") _, out("r11") _);
    }
    answer
}

pub fn exit(status: i32) -> ! {
    // SAFETY: no pointers.
    unsafe { call(nr::EXIT_GROUP, &[status as usize]) };
    unreachable!()
}

/// Returns the address of a string, for `call`.
pub fn at(text: &CStr) -> usize {
    text.as_ptr() as usize
}
