//! How the executable starts: everything that a process of milliseconds does differently from any other Rust
//! program.
//!
//! In the order in which it happens:
//!
//! 1. `entry.rs`: the first instructions, on x86-64 and aarch64 with musl. A command that puts a process into a
//!    container executes a sealed copy of itself, before any other work is done. Then the pointers in the data
//!    are relocated.
//! 2. `main.rs`: C's `main`, which replaces std's start-up code, and a replacement of the C library's
//!    `abort`.
//! 3. [`arena`]: the allocator.
//! 4. [`run`](run::run()): opens the log and runs the command.
//! 5. [`seal`]: seals the executable if the first instructions did not, and reports why it cannot be sealed.
//!
//! `entry.rs` and `main.rs` define symbols that only an executable may have: `src/main.rs` includes them. The
//! tests of the library have an entry of their own.

#[allow(unsafe_code)]
pub(crate) mod arena;
pub(crate) mod run;
pub(crate) mod seal;
