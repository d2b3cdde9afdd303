//! corten: an OCI low-level container runtime. See docs/architecture.md.

pub mod cgroups;
pub mod error;
pub mod hooks;
pub mod process;
#[allow(unsafe_code)]
pub mod sys;
