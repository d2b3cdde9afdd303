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

/// The command line, the program's name first.
#[must_use]
pub fn get() -> &'static [CString] {
    ARGS.get().map_or(&[], Vec::as_slice)
}
