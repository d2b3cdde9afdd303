//! System calls without the C library, for code that must not touch its errno.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
use std::arch::asm;

/// Makes a system call. Returns the result, or the negated errno. For architectures that corten is not released for, it is
/// ENOSYS.
///
/// It is inlined, because before the relocation of the executable (`startup::entry`) no code may be called.
///
/// # Safety
/// The arguments are valid for the system call.
#[inline(always)]
pub(crate) unsafe fn call(number: libc::c_long, arguments: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel preserves all registers except these. The caller answers for the memory that the
    // call accesses.
    #[cfg(target_arch = "x86_64")]
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
    // SAFETY: as above. On aarch64 the kernel changes only the register of the result.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") arguments[0] => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            in("x4") arguments[4],
            options(nostack),
        );
    }
    // SAFETY: as above. On riscv64 the kernel changes the register of the result, and those of vectors, which the target lacks.
    #[cfg(target_arch = "riscv64")]
    unsafe {
        asm!(
            "ecall",
            in("a7") number,
            inlateout("a0") arguments[0] => result,
            in("a1") arguments[1],
            in("a2") arguments[2],
            in("a3") arguments[3],
            in("a4") arguments[4],
            options(nostack),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
    {
        let _ = (number, arguments);
        result = -(libc::ENOSYS as isize);
    }
    result
}
