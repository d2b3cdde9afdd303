//! corten: an OCI low-level container runtime. See docs/architecture.md.

pub mod cgroups;
pub mod cli;
pub mod commands;
pub mod config;
pub mod cpu_list;
pub mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod hooks;
pub mod host;
pub mod intel_rdt;
pub mod launch;
pub mod log;
pub mod namespaces;
pub mod plan;
pub mod process;
pub mod rootfs;
pub mod seccomp;
pub mod state;
#[allow(unsafe_code)]
pub mod sys;
pub mod trace;
