//! What state.json says of a container's cgroup.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::systemd::Unit;

/// Where the container's cgroup is, for every later command: engines do not repeat `--systemd-cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupRecord {
    pub manager: String,
    /// The absolute path of its directory in v2's hierarchy; empty where there is none.
    #[serde(default)]
    pub path: PathBuf,
    /// Of those in v1's hierarchies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub v1: Vec<PathBuf>,
    /// The inode number of the first of these directories: the kernel gives it to no other cgroup until the next boot, so
    /// that one which was made later at the same path is known to be another's. Older records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Directories above it that were made for it, outermost first.
    #[serde(default)]
    pub parents: Vec<PathBuf>,
    /// What systemd has to be asked to take away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

impl CgroupRecord {
    /// Its directories, v2's first.
    pub fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.path).filter(|path| !path.as_os_str().is_empty()).chain(&self.v1)
    }

    /// The directory that stands for all in messages.
    #[must_use]
    pub fn shown(&self) -> std::path::Display<'_> {
        self.dirs().next().unwrap_or(&self.path).display()
    }

    /// Whether one of the other's directories is one of these, or is below one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.dirs().any(|dir| other.dirs().any(|theirs| theirs.starts_with(dir)))
    }
}
