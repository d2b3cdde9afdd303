//! The container's file system: the table of mount options, and paths resolved inside the rootfs.

pub mod options;
pub mod resolve;
