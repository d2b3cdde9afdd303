//! The corten executable: the symbols that only an executable may have. What it does is in `lib.rs`, how it gets
//! there in `startup.rs`.

#![no_main]

use corten::Arena;

#[allow(unsafe_code)]
#[path = "startup/main.rs"]
mod c_main;

#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_env = "musl"))]
#[allow(unsafe_code)]
#[path = "startup/entry.rs"]
mod entry;

#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), target_env = "musl"))]
#[allow(unsafe_code)]
#[path = "sys/raw.rs"]
mod raw;

#[global_allocator]
static MEMORY: Arena = Arena::new();
