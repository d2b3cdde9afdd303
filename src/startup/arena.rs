//! The allocator of a process that lives for some milliseconds. It hands out one piece of memory in a row and
//! takes back only the last block. The C library's allocator calls the kernel again and again, musl's for
//! almost every block, and after a clone the kernel copies each page that its lists touch. Blocks that do not
//! fit come from the C library.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The least alignment, at least that of the C library: nix reads numbers of eight bytes from the byte buffer
/// that it takes for control messages.
const ALIGN: usize = 16;

/// The size of the arena in bytes. Untouched pages cost nothing as long as the arena has no room for a huge page of
/// 2 MiB: the kernel would zero that as a whole.
const SIZE: usize = 7 << 18;

#[repr(align(4096))]
struct Memory(UnsafeCell<[u8; SIZE]>);

/// The allocator of the executable.
pub struct Arena {
    memory: Memory,
    used: AtomicUsize,
}

// SAFETY: blocks do not overlap, since `used` changes by compare-and-exchange only. The content of a block
// belongs to its owner. A thread that gets memory which another has freed sees all that the other did before.
unsafe impl Sync for Arena {}

impl Arena {
    #[must_use]
    #[allow(clippy::new_without_default)] // a static needs a const function
    pub const fn new() -> Self {
        Self { memory: Memory(UnsafeCell::new([0; SIZE])), used: AtomicUsize::new(0) }
    }

    fn base(&self) -> *mut u8 {
        self.memory.0.get().cast()
    }

    /// Returns the end of a block as an offset in the arena, or `None` for a block of the C library.
    fn end(&self, block: *mut u8, size: usize) -> Option<usize> {
        let start = (block as usize).checked_sub(self.base() as usize).filter(|start| *start < SIZE)?;
        Some(start + size)
    }

    /// Moves the end of the used part to `to` if it is at `from`, and returns whether it was.
    fn move_end(&self, from: usize, to: usize) -> bool {
        self.used.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: every block lies in the arena or belongs to the C library, and has the requested alignment. It is
// not handed out again before it is freed: freeing moves the end back to the start of the last block, and
// does nothing for other blocks.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        loop {
            let used = self.used.load(Ordering::Acquire);
            let align = layout.align().max(ALIGN);
            let start = (self.base() as usize + used).next_multiple_of(align) - self.base() as usize;
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= SIZE) else {
                // SAFETY: the caller's layout.
                return unsafe { System.alloc(layout) };
            };
            if self.move_end(used, end) {
                // SAFETY: `start` is within the arena.
                return unsafe { self.base().add(start) };
            }
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.end(block, layout.size()) {
            Some(end) => drop(self.move_end(end, end - layout.size())),
            // SAFETY: a block outside the arena comes from the C library, with the caller's layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(end) = self.end(block, layout.size()) else {
            // SAFETY: a block outside the arena comes from the C library, with the caller's layout and size.
            return unsafe { System.realloc(block, layout, size) };
        };
        let start = end - layout.size();
        if start + size <= SIZE && self.move_end(end, start + size) {
            return block;
        }
        if size <= layout.size() {
            return block;
        }
        // SAFETY: the caller promises that the new size is valid for this alignment.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: both blocks are at least as long as the old one, and are different blocks.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size()) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_the_last_block_is_reused() {
        static ARENA: Arena = Arena::new();
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        // SAFETY: each block is used within its size and given back with its layout.
        unsafe {
            let a = ARENA.alloc(layout(3, 1));
            let b = ARENA.alloc(layout(8, 64));
            assert_eq!((b as usize % 64, b as usize > a as usize + 2), (0, true));
            b.write_bytes(7, 8);
            let longer = ARENA.realloc(b, layout(8, 64), 100);
            assert_eq!((longer, longer.add(7).read()), (b, 7));
            let c = ARENA.alloc(layout(1, 1));
            let moved = ARENA.realloc(longer, layout(100, 64), 200);
            assert!(moved != longer && moved.read() == 7);
            ARENA.dealloc(moved, layout(200, 64));
            assert_eq!(ARENA.alloc(layout(200, 64)), moved);
            let large = ARENA.alloc(layout(SIZE, 16));
            assert!(!large.is_null() && ARENA.end(large, 0).is_none());
            let larger = ARENA.realloc(large, layout(SIZE, 16), 2 * SIZE);
            ARENA.dealloc(larger, layout(2 * SIZE, 16));
            ARENA.dealloc(c, layout(1, 1));
        }
    }
}
