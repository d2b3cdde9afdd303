//! Tells the linker of the executable's own entry (src/sys/entry.rs), where there is one.

fn main() {
    let target = |name| std::env::var(name).unwrap_or_default();
    if target("CARGO_CFG_TARGET_ARCH") == "x86_64" && target("CARGO_CFG_TARGET_ENV") == "musl" {
        println!("cargo:rustc-link-arg-bins=-Wl,-e,corten_entry");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
