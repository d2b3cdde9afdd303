//! The runtime against the kernel, by area. Each test's comment names the clause or the demand that it proves.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod applied;
mod binds;
mod cgroups;
mod cli;
mod devices;
mod errors;
mod events;
mod exec;
mod exec_options;
mod filesystems;
mod harness;
mod hooks;
mod landlock;
mod lifecycle;
mod mounts;
mod namespaces;
mod netdev;
mod pause;
mod process;
mod propagation;
mod rootfs;
mod run;
mod seccomp;
mod terminal;
mod update;
