//! corten: an OCI low-level container runtime. See docs/architecture.md.

mod cgroups;
mod cli;
mod commands;
mod config;
mod cpu_list;
mod criu;
mod dbus;
mod error;
mod hooks;
mod host;
mod intel_rdt;
mod json;
mod launch;
mod log;
mod namespaces;
mod plan;
mod process;
mod procstat;
mod rootfs;
mod seccomp;
mod startup;
mod state;
mod suggest;
#[allow(unsafe_code)]
mod sys;
#[doc(hidden)]
pub mod testing;
mod trace;
mod wait;

pub use startup::arena::Arena;
pub use startup::run::run;
pub use sys::args::keep as keep_arguments;
pub use sys::task::trap;

/// The newest runtime-spec that corten implements.
pub(crate) const SPEC_VERSION: &str = "1.3.0";
