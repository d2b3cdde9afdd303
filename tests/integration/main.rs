//! The runtime against the kernel, by area. Each test's comment names the clause or the demand that it proves.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod binds;
mod cgroups;
mod cli;
mod devices;
mod errors;
mod exec;
mod exec_options;
mod filesystems;
mod harness;
mod hooks;
mod landlock;
mod lifecycle;
mod limits;
mod mounts;
mod namespaces;
mod process;
mod propagation;
mod rootfs;
mod run;
mod seccomp;
mod terminal;
