//! What the bundle and the command line say about the container's cgroup, and the path in each hierarchy that
//! follows.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use crate::error::Notes;

/// What creates the cgroup: `--cgroup-manager`, `--systemd-cgroup`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manager {
    /// corten, by mkdir(2).
    #[default]
    Cgroupfs,
    /// systemd, called over D-Bus.
    Systemd,
    /// Nothing: the container stays in its caller's cgroup.
    Disabled,
}

/// The parts of the bundle and of the command line that matter here.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub id: &'a str,
    /// `linux.cgroupsPath`.
    pub path: Option<&'a Path>,
    /// `linux.resources`.
    pub resources: Option<&'a LinuxResources>,
    /// `annotations`, among them properties for systemd.
    pub annotations: Option<&'a HashMap<String, String>>,
    pub manager: Manager,
    pub rootless: bool,
    /// Our user's id, in our own user namespace.
    pub uid: u32,
}

/// The place of [`Request::path`] in config.json.
const PATH: &str = "linux.cgroupsPath";

/// The path of a cgroup, which begins at the mount of a hierarchy or beside our own cgroup there.
pub(super) struct Place {
    path: PathBuf,
    absolute: bool,
}

impl Request<'_> {
    /// Returns the path of the cgroup. Errors go to `notes`.
    ///
    /// An absolute path begins at the mount (config-linux.md#cgroups-path). A relative path begins at the
    /// parent of our own cgroup, as in runc: our own cgroup has processes, and therefore cannot enable
    /// controllers for its children. A rootless container without a path is created at the same place, since
    /// its user may have a delegated cgroup there. The container of root without a path gets a directory at
    /// the top, of one level, so that no shared parent is left.
    pub(super) fn place(&self, notes: &mut Notes) -> Option<Place> {
        let path = match self.path {
            Some(path) => plain(path).map_err(|message| notes.problem(PATH, message)).ok()?,
            None => PathBuf::from(format!("corten-{}", self.id)),
        };
        Some(Place { path, absolute: self.path.map_or(!self.rootless, Path::is_absolute) })
    }
}

impl Place {
    /// Returns the path below the mount of a hierarchy, in which our own cgroup is `own`. The hierarchies of
    /// v1 have names.
    pub(super) fn below(&self, own: Option<&Path>, hierarchy: &str, notes: &mut Notes) -> Option<PathBuf> {
        if self.absolute {
            return Some(self.path.clone());
        }
        let Some(own) = own else {
            let blank = if hierarchy.is_empty() { "" } else { " " };
            let what = format!("mounted{blank}{hierarchy} hierarchy");
            notes.problem(PATH, format!("is relative, but our own cgroup lies outside the {what}"));
            return None;
        };
        let parent = own.parent().unwrap_or(Path::new(""));
        Some(parent.join(&self.path))
    }
}

/// Returns a path as plain names. Only `.` and repeated slashes are dropped; anything else is an error.
pub(super) fn plain(path: &Path) -> Result<PathBuf, &'static str> {
    if path.as_os_str().is_empty() {
        return Err("is empty");
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err("has a NUL byte");
    }
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => return Err("has a \"..\""),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if names.as_os_str().is_empty() { Err("is the root of the hierarchy") } else { Ok(names) }
}
