//! The runtime against the kernel, by area. Each test's comment names the clause or the demand that it proves.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod applied;
mod cgroups;
mod cli;
mod errors;
mod events;
mod exec;
mod harness;
mod hooks;
mod lifecycle;
mod namespaces;
mod netdev;
mod pause;
mod process;
mod rootfs;
mod run;
mod seccomp;
mod terminal;
mod update;
