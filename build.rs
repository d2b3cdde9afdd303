//! Tells the linker of the executable's own entry (src/sys/entry.rs), where there is one, and of the order of its functions.

use std::env::var;

fn main() {
    let is = |name, value: &str| var(name).as_deref() == Ok(value);
    let musl = is("CARGO_CFG_TARGET_ENV", "musl");
    // Without optimization its code has calls by way of relocations, which come later (scripts/check-entry).
    if musl && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("PROFILE", "release") {
        println!("cargo:rustc-link-arg-bins=-Wl,-e,corten_entry");
    }
    // Not every linker that somebody may choose knows such scripts.
    let chosen = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default().contains("fuse-ld");
    if musl && is("PROFILE", "release") && !chosen {
        let directory = var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{directory}/src/order.ld");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/order.ld");
}
