//! What the process was started with. std would know only after its own start-up code has run.

use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::OnceLock;

static ARGS: OnceLock<Vec<CString>> = OnceLock::new();

/// Keeps the command line.
///
/// # Safety
/// `argv` must point to `argc` C strings, as `main` gets them.
pub unsafe fn keep(argc: c_int, argv: *const *const c_char) {
    let count = usize::try_from(argc).unwrap_or_default();
    // SAFETY: the caller promises that there are so many.
    let arg = |i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_owned();
    // It is called once.
    let _ = ARGS.set((0..count).map(arg).collect());
}

/// Returns the effective user id that the program was executed with (`AT_EUID`), which costs no call.
#[must_use]
pub fn euid() -> u32 {
    // SAFETY: the call only reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_EUID) as u32 }
}

/// Returns a number that nobody else can know. Of the 16 random bytes that the kernel gives to every program that it
/// executes (`AT_RANDOM`) these are the last eight: the first are musl's stack canary.
#[must_use]
pub fn random() -> u64 {
    // SAFETY: the call only reads the auxiliary vector.
    let bytes = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const [u8; 16];
    // SAFETY: the kernel has put 16 bytes there, which live as long as the process.
    let [.., a, b, c, d, e, f, g, h] = unsafe { bytes.read() };
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// The command line, the program's name first.
#[must_use]
pub fn get() -> &'static [CString] {
    ARGS.get().map_or(&[], Vec::as_slice)
}
