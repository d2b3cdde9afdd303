//! The container's root file system: mounts, devices, masked and read-only paths, the change of the root.
//!
//! [`plan`] is pure. [`open_sources`] opens what is the host's, in the runtime, as detached trees where it may. In the
//! container's process [`mount_all`] attaches the root and makes everything inside it by descriptor, [`Root::console`]
//! brings the terminal, and [`Root::enter`] hides what is to be hidden and changes the root.

mod alone;
mod apply;
mod copyup;
mod devices;
mod enter;
mod mounts;
pub(crate) mod moved;
pub mod options;
pub mod resolve;
mod sources;
mod targets;
mod terminal;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::Problems;
use crate::sys::mount::MS_UNBINDABLE;
use crate::{cgroups, namespaces};

pub use alone::mount_alone;
pub use apply::{Root, mount_all};
pub use devices::Device;
pub use enter::{detach, mounted};
pub use mounts::{Kind, Mount, names};
use options::Propagate;
pub use sources::{Sources, open_sources};
pub use terminal::{Terminal, terminal};

/// Where the container's notification socket is in the container, as with runc.
pub const NOTIFY_SOCKET: &str = "/run/notify/notify.sock";

/// Where the container is in the end. Its mounts are always made in a private mount namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountNamespace {
    /// In that private one.
    New,
    /// In another, as one finished tree.
    Joined,
    /// In the host's, as one finished tree, which must be detached again.
    Host,
}

impl MountNamespace {
    #[must_use]
    pub fn of(namespaces: &namespaces::Plan) -> Self {
        match (namespaces.creates(libc::CLONE_NEWNS), namespaces.joins(libc::CLONE_NEWNS)) {
            (true, _) => Self::New,
            (_, true) => Self::Joined,
            _ => Self::Host,
        }
    }
}

/// What the root file system's plan depends on besides the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub mount_namespace: MountNamespace,
    /// A user namespace is made or joined.
    pub user_namespace: bool,
    /// A cgroup namespace is made: a new cgroup file system shows the container its own part.
    pub cgroup_namespace: bool,
    pub no_pivot: bool,
    /// The container's cgroup, and where its hierarchy is mounted on the host.
    pub cgroup: Option<PathBuf>,
    pub cgroup_mount: Option<PathBuf>,
    /// On a host with v1, what the container is to see of each hierarchy.
    pub cgroup_views: Vec<cgroups::View>,
    /// The container's notification socket on the host. `create` makes it, in the container's state directory.
    pub notify_socket: Option<PathBuf>,
    /// The SELinux label of new file systems.
    pub mount_label: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Absolute.
    pub path: PathBuf,
    /// `root.readonly`.
    pub readonly: bool,
    /// `linux.rootfsPropagation`.
    pub propagation: Option<Propagate>,
    pub mounts: Vec<Mount>,
    /// Nodes, and where /dev is ours also the default ones with their links.
    pub devices: Vec<Device>,
    pub default_devices: bool,
    pub masked: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    /// The process's working directory, which is made if it is missing.
    pub cwd: Option<PathBuf>,
    pub facts: Facts,
}

impl Plan {
    /// Whether it can do with a mount namespace that has nothing but the root, on which nothing is mounted.
    #[must_use]
    pub fn can_be_alone(&self) -> bool {
        let facts = &self.facts;
        let possible = |mount: &Mount| match &mount.kind {
            _ if mount.is_on_root() => false,
            // What is mounted before may be meant. And where mounts appear on the host, they must not be made twice.
            Kind::Bind { source, idmap, .. } => {
                idmap.is_none()
                    && !source.starts_with(&self.path)
                    && !sources::is_peer(self.propagation, mount)
            }
            _ => true,
        };
        let own = facts.mount_namespace == MountNamespace::New && !facts.user_namespace && !facts.no_pivot;
        own && self.mounts.iter().all(possible)
    }
}

/// Plans the root file system (config.md#root, #mounts; config-linux.md#default-devices, #devices,
/// #rootfs-mount-propagation, #masked-paths, #readonly-paths).
pub fn plan(
    spec: &Spec,
    bundle: &Path,
    facts: &Facts,
    problems: &mut Problems,
    warnings: &mut Vec<String>,
) -> Plan {
    let linux = spec.linux().as_ref();
    let root = spec.root().as_ref();
    let path = root.map(|root| root.path().clone()).unwrap_or_default();
    if path.as_os_str().is_empty() {
        problems.add("root.path", "must not be empty");
    }
    let propagation = linux.and_then(|l| l.rootfs_propagation().as_deref()).filter(|name| !name.is_empty());
    let propagation = propagation.and_then(|name| {
        let known = options::propagation(name);
        if known.is_none() {
            problems.add("linux.rootfsPropagation", format_args!("{name:?} is not a propagation"));
        }
        known
    });
    let mounts = mounts::plan(spec, bundle, facts, problems, warnings);
    for mount in &mounts {
        let unbindable = mount.options.propagation.iter().any(|step| step.flag == MS_UNBINDABLE);
        if unbindable && facts.mount_namespace != MountNamespace::New {
            let text =
                "unbindable is only possible in a new mount namespace: a finished tree is copied without it";
            problems.add(format_args!("{}.options", mount.place), text);
        }
    }
    let dev_is_bind = mounts.iter().any(|m| names(&m.destination, "/dev") && m.is_bind());
    let devices = devices::plan(linux, !dev_is_bind, problems);
    let mut paths = |list: Option<&Vec<String>>, place: &str| -> Vec<PathBuf> {
        let list = list.map(Vec::as_slice).unwrap_or_default().iter().map(PathBuf::from).enumerate();
        list.inspect(|(i, path)| {
            if !path.is_absolute() {
                problems.add(format_args!("{place}[{i}]"), format_args!("{path:?} is not absolute"));
            }
        })
        .map(|(_, path)| path)
        .collect()
    };
    Plan {
        path: bundle.join(path),
        readonly: root.and_then(oci_spec::runtime::Root::readonly).unwrap_or(false),
        propagation,
        mounts,
        devices,
        default_devices: !dev_is_bind,
        masked: paths(linux.and_then(|l| l.masked_paths().as_ref()), "linux.maskedPaths"),
        readonly_paths: paths(linux.and_then(|l| l.readonly_paths().as_ref()), "linux.readonlyPaths"),
        cwd: spec.process().as_ref().map(|process| process.cwd().clone()),
        facts: facts.clone(),
    }
}
