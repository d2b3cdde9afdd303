//! corten: an OCI low-level container runtime. See docs/architecture.md.

pub mod cgroups;
pub mod cli;
pub mod commands;
pub mod config;
pub mod cpu_list;
pub mod dbus;
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
pub mod procstat;
pub mod rootfs;
pub mod seccomp;
pub mod startup;
pub mod state;
#[allow(unsafe_code)]
pub mod sys;
pub mod trace;
mod wait;

/// The newest runtime-spec that corten implements.
pub const SPEC_VERSION: &str = "1.3.0";
