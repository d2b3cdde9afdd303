//! What a container sees of the host's cgroup hierarchies where it mounts all of them together.

use std::path::{Path, PathBuf};

use super::{Host, Plan, v1, v2};

/// What a container sees of one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The directory's name: `cpu,cpuacct`.
    pub name: String,
    /// Symbolic links to it, one for each of its controllers that the name is not.
    pub links: Vec<String>,
    /// The host's directory to show there.
    pub dir: PathBuf,
    /// The directory may be missing.
    pub optional: bool,
    /// The caller's directory, which is shown if a rootless container runs without a cgroup of its own.
    pub otherwise: Option<PathBuf>,
}

/// Returns what the container sees of the host's hierarchies, which is nothing on a host without v1. A
/// container without a cgroup of its own sees its caller's.
#[must_use]
pub(crate) fn views(plan: Option<&Plan>, host: &Host) -> Vec<View> {
    let name = |mount: &Path| mount.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let own = |mount: &Path, own: Option<&PathBuf>| own.map_or(mount.into(), |own| mount.join(own));
    let without = plan.is_some_and(Plan::optional);
    let mut views: Vec<View> = Vec::new();
    for hierarchy in &host.v1 {
        let name = name(&hierarchy.mount);
        let part = plan.and_then(|plan| plan.v1.iter().find(|part| part.mount == hierarchy.mount));
        let callers = own(&hierarchy.mount, hierarchy.own.as_ref());
        let dir = part.map_or_else(|| callers.clone(), v1::Part::dir);
        let optional = part.is_some_and(v1::Part::named);
        // A hierarchy without controllers has only one name.
        let links = hierarchy.controllers.iter().filter(|c| **c != name && !c.starts_with("name="));
        let otherwise = without.then_some(callers);
        views.push(View { links: links.cloned().collect(), name, dir, optional, otherwise });
    }
    if let Some(mount) = host.v2_mount.as_ref().filter(|_| !views.is_empty()) {
        let unified = plan.and_then(|plan| plan.unified.as_ref());
        let callers = own(mount, host.own.as_ref());
        let dir = unified.map_or_else(|| callers.clone(), v2::Plan::dir);
        let otherwise = without.then_some(callers);
        views.push(View { name: name(mount), links: Vec::new(), dir, optional: false, otherwise });
    }
    views
}
