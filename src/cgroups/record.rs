//! What state.json says of a container's cgroup.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::oom::Counts;
use super::systemd::Unit;

/// Where the container's cgroup is. Later commands need it, since engines do not repeat `--systemd-cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CgroupRecord {
    pub manager: String,
    /// The absolute path of its directory in v2's hierarchy; empty if it has none there.
    #[serde(default)]
    pub path: PathBuf,
    /// The absolute paths of its directories in v1's hierarchies, the freezer's first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub v1: Vec<PathBuf>,
    /// The inode number of the first of these directories. The kernel does not use it again until the next
    /// boot, so that a cgroup which was created later at the same path is recognised as another one. Older
    /// records have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// What the kernel had counted in it before it was this container's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier: Option<Counts>,
    /// The parents that were created for it, outermost first.
    #[serde(default)]
    pub parents: Vec<PathBuf>,
    /// The unit that systemd has to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

impl CgroupRecord {
    /// Returns its directories, v2's first.
    pub fn dirs(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.path).filter(|path| !path.as_os_str().is_empty()).chain(&self.v1)
    }

    /// Returns the directory to name in messages.
    #[must_use]
    pub fn shown(&self) -> std::path::Display<'_> {
        self.dirs().next().unwrap_or(&self.path).display()
    }

    /// Reports whether one of the other's directories is one of these, or is below one.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.dirs().any(|dir| other.dirs().any(|theirs| theirs.starts_with(dir)))
    }
}
