//! The executable's `main`, called by the C library's start-up code instead of std's.
//!
//! std's own start-up code prepares for threads and for reporting a stack overflow. It reads /proc/self/maps
//! and makes fifteen system calls, twice in the commands that seal themselves. Nothing of it is needed here.

use std::ffi::{c_char, c_int};

/// # Safety
/// Called by the C library only, once, with the arguments that the kernel gave.
#[unsafe(no_mangle)]
unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    // SAFETY: the C library passes what the kernel gave.
    unsafe { corten::keep_arguments(argc, argv) };
    corten::run().into()
}

/// Replaces the C library's `abort`, in which a panic, a failed allocation and every fatal error of std's
/// end. musl's `abort` signals the thread id that it remembers, which in a clone is the runtime's
/// (`sys::task::clone3`): it would hit an unrelated process, or the runtime itself. The replacement
/// works because the executable is static and musl has its `abort` in a file of its own. glibc asks the
/// kernel for the id.
#[cfg(target_env = "musl")]
#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    corten::trap()
}
