//! Gives the executable its own entry (`src/startup/entry.rs`), where it has one.

use std::env::var;

fn main() {
    let is = |name, value: &str| var(name).as_deref() == Ok(value);
    let written = ["x86_64", "aarch64"].iter().any(|arch| is("CARGO_CFG_TARGET_ARCH", arch));
    // An unoptimised build calls functions by way of relocations, which are written later
    // (scripts/check-entry).
    if is("CARGO_CFG_TARGET_ENV", "musl") && written && is("PROFILE", "release") {
        // Compilers and linkers know this option alike. Linkers do not know a compiler's `-Wl,`.
        println!("cargo:rustc-link-arg-bins=-ecorten_entry");
        // A bit for each pointer instead of 24 bytes. Linkers that do not know it (binutils before 2.38, on
        // aarch64 before 2.43) only warn. The C library then relocates all pointers.
        println!("cargo:rustc-link-arg-bins=-zpack-relative-relocs");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
