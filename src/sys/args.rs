//! The arguments and the environment that this process was executed with. std knows them only if its own
//! start-up code has run, which corten does without (`startup`).
//!
//! The memory that /proc/PID/cmdline and /proc/PID/environ show is cleared in the clone, because the caller's
//! options and variables are secrets to the container. It is cleared before clone3 and restored in the
//! runtime process, so that nobody sees it in between (`hide`).

use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::OnceLock;

static ARGS: OnceLock<Vec<CString>> = OnceLock::new();

/// The address and the length of the arguments and the environment in memory. execve(2) puts one directly
/// after the other.
static SHOWN: OnceLock<(usize, usize)> = OnceLock::new();

/// Stores the command line for [`get`].
///
/// # Safety
/// `argv` must be the argument of `main`: `argc` C strings and a null, followed by the environment and its
/// null.
pub unsafe fn keep(argc: c_int, argv: *const *const c_char) {
    let count = usize::try_from(argc).unwrap_or_default();
    // SAFETY: the caller promises `argc` strings.
    let arg = |i| unsafe { CStr::from_ptr(*argv.add(i)) }.to_owned();
    // This function is called once.
    let _ = ARGS.set((0..count).map(arg).collect());
    // SAFETY: the caller promises that the environment is there, and that it ends with a null.
    let variable = |i| unsafe { *argv.add(count + 1 + i) };
    let variables = (0..).map(variable).take_while(|text| !text.is_null());
    // SAFETY: as above; a null ends the arguments too.
    let mut all = (0..count).map(|i| unsafe { *argv.add(i) }).chain(variables);
    if let Some(first) = all.next() {
        let last = all.last().unwrap_or(first);
        // SAFETY: `last` is a C string.
        let end = last.addr() + unsafe { CStr::from_ptr(last) }.count_bytes();
        let _ = SHOWN.set((first.expose_provenance(), end.saturating_sub(first.addr())));
    }
}

/// The arguments and the environment that [`hide`] has cleared.
pub(super) struct Hidden(Vec<u8>);

/// The command line that a list of processes shows instead.
const NAME: &[u8] = b"corten init";

/// Clears the arguments and the environment in memory: /proc/PID/cmdline shows them to every process. [`get`]
/// has copies of the arguments. The environment is empty until [`Hidden::restore`].
pub(super) fn hide() -> Hidden {
    let Some(&(start, len)) = SHOWN.get() else { return Hidden(Vec::new()) };
    let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel has put the strings there, one after the other and writable (fs/exec.c,
    // fs/binfmt_elf.c). No reference to them is alive: `keep` has copied the arguments, and std copies each
    // variable that it returns.
    unsafe {
        let copy = std::slice::from_raw_parts(start, len).to_vec();
        start.write_bytes(0, len);
        start.copy_from_nonoverlapping(NAME.as_ptr(), NAME.len().min(len.saturating_sub(1)));
        Hidden(copy)
    }
}

impl Hidden {
    /// Restores the arguments and the environment.
    pub(super) fn restore(self) {
        if let Some(&(start, len)) = SHOWN.get().filter(|(_, len)| *len == self.0.len()) {
            let start = std::ptr::with_exposed_provenance_mut::<u8>(start);
            // SAFETY: as in `hide`.
            unsafe { start.copy_from_nonoverlapping(self.0.as_ptr(), len) }
        }
    }
}

/// Returns the effective user id that the program was executed with (`AT_EUID`), which costs no call.
#[must_use]
pub(crate) fn euid() -> u32 {
    // SAFETY: the call only reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_EUID) as u32 }
}

/// Returns a number that nobody else can know: the last eight of the 16 random bytes that the kernel gives to
/// every program (`AT_RANDOM`). The first eight are musl's stack canary.
#[must_use]
pub(crate) fn random() -> u64 {
    // SAFETY: the call only reads the auxiliary vector.
    let bytes = unsafe { libc::getauxval(libc::AT_RANDOM) } as *const [u8; 16];
    // SAFETY: the kernel has put 16 bytes there, which live as long as the process.
    let [.., a, b, c, d, e, f, g, h] = unsafe { bytes.read() };
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// Returns the command line. Its first element is the name of the program.
#[must_use]
pub(crate) fn get() -> &'static [CString] {
    ARGS.get().map_or(&[], Vec::as_slice)
}
