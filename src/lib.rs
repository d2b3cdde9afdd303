//! corten: an OCI low-level container runtime. See docs/architecture.md.

pub mod error;
