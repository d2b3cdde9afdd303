//! Memory that a process shares with the copies of itself that it makes.

use std::sync::atomic::AtomicU64;

use nix::errno::Errno;

use super::{Error, Result};

/// So many words, all zero, shared with later clones: until they execute, which takes the mapping from them. Nothing of
/// it has a name or a descriptor. Pages cost nothing until they are touched.
pub fn shared(words: usize) -> Result<&'static [AtomicU64]> {
    let (read_write, anonymous) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    let size = words * size_of::<AtomicU64>();
    // SAFETY: a new mapping at an address of the kernel's choice takes no memory from anybody.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), size, read_write, anonymous, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(Error::new(format!("mmap({size})"), Errno::last()));
    }
    // SAFETY: the mapping is page-aligned, has that size, and is never unmapped; zero bytes are valid words, and whatever
    // the other process does to them is atomic.
    Ok(unsafe { std::slice::from_raw_parts(memory.cast(), words) })
}
