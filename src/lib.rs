//! corten: an OCI low-level container runtime. See docs/architecture.md.

pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
pub mod log;
pub mod state;
#[allow(unsafe_code)]
pub mod sys;
