//! The executable's entry, in the place of std's: C's `main`, called by the C library's start-up code.
//!
//! std's own prepares for threads and for reporting an overflow of the stack, which reads /proc/self/maps and takes
//! fifteen system calls; the commands that seal themselves pay for it twice. Nothing of it is needed here. This file
//! belongs to the executable and not to the library, whose tests have an entry of their own.

use std::ffi::{c_char, c_int};

/// # Safety
/// Called by the C library only, once, with the arguments that the kernel gave.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: they are what the C library has passed to us.
    unsafe { corten::sys::args::keep(argc, argv) };
    crate::run().into()
}

/// The C library's `abort`, to which a panic, a failed allocation and every fatal error of std's come. musl's signals the
/// thread id that it remembers, which in a clone is the runtime's (`corten::sys::task::clone3`): a stranger's process, or
/// the runtime itself. This one takes its place, since the executable is static and musl's is a file of its own. glibc
/// asks the kernel for the id.
#[cfg(target_env = "musl")]
#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    corten::sys::task::trap()
}
