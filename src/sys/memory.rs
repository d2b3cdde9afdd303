//! Memory that a process shares with its clones.

use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use super::{Error, Result};

/// Returns `words` words, all zero, that later clones share until they call execve. The memory has no name
/// and no descriptor. Pages cost nothing until they are touched.
pub(crate) fn shared(words: usize) -> Result<&'static [AtomicU64]> {
    let (read_write, anonymous) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let size = words * size_of::<AtomicU64>();
    // SAFETY: a new mapping at an address of the kernel's choice replaces no other memory.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, read_write, anonymous, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(Error::new(format!("mmap({size})"), Errno::last()));
    }
    // SAFETY: the mapping is page-aligned, has that size, and is never unmapped. Zero bytes are valid words,
    // and every access to them by either process is atomic.
    Ok(unsafe { std::slice::from_raw_parts(memory.cast(), words) })
}
