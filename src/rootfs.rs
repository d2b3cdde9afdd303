//! The container's root file system: mounts, devices, masked and read-only paths, the change of the root.
//!
//! [`plan`] is pure. In the runtime, [`open_sources`] opens sources on the host as detached trees. In the
//! container process, [`mount_all`] attaches the root and makes everything inside it by descriptor,
//! [`Root::console`] opens the terminal, and [`Root::enter`] masks paths, makes paths read-only, and changes
//! the root.

mod apply;
mod copyup;
mod devices;
mod external;
mod mounts;
pub(crate) mod no_pivot;
mod nodes;
pub(crate) mod null;
pub(crate) mod options;
mod pivot;
pub(crate) mod resolve;
mod root;
mod root_namespace;
pub(crate) mod running;
mod sources;
mod targets;
mod terminal;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::Notes;
use crate::sys::mount::MS_UNBINDABLE;
use crate::{cgroups, namespaces};

pub(crate) use apply::mount_all;
pub(crate) use devices::Device;
pub(crate) use external::{External, attach_in, bare, directory_in, external, on_stage, stage, staged};
pub(crate) use mounts::{IdMapping, Kind, Mount};
pub(crate) use mounts::{NOTIFY_SOCKET, names};
use options::Propagate;
pub(crate) use pivot::{change_to_root_of, detach, root_mount, root_of, under_root};
pub(crate) use root::Root;
pub(crate) use root_namespace::mount_root_only;
pub(crate) use sources::{Open, Runtime, Sources, late_place, missing, open_late, open_sources};
pub(crate) use terminal::{Terminal, terminal};

/// The mount namespace that the container ends in. Its mounts are always made in a private one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountNamespace {
    /// The private one.
    New,
    /// An existing one, which gets the finished tree.
    Joined,
    /// The host's, which gets the finished tree. That must be detached again at the end.
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

/// What the plan of the root file system depends on in addition to the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub mount_namespace: MountNamespace,
    /// The container has a new or joined user namespace.
    pub user_namespace: bool,
    /// The container has a new network namespace, whose sysfs it may mount.
    pub network_namespace: bool,
    /// The runtime can make the device nodes that no process in the container's user namespace can.
    pub makes_nodes: bool,
    /// The container has a new cgroup namespace, so a new cgroup file system shows it its own part.
    pub cgroup_namespace: bool,
    pub no_pivot: bool,
    /// The container's cgroup, and the host's mount of its hierarchy.
    pub cgroup: Option<PathBuf>,
    pub cgroup_mount: Option<PathBuf>,
    /// On a host with v1, what the container sees of each hierarchy.
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
    /// The device nodes. They include the default ones unless /dev is a bind mount.
    pub devices: Vec<Device>,
    pub default_devices: bool,
    pub masked: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    /// The process's working directory. It is made if it does not exist.
    pub cwd: Option<PathBuf>,
    pub facts: Facts,
}

/// Types of file systems whose source and options are no paths of the host. The kernel would resolve such a path, for
/// example overlay's `lowerdir`, in the image.
const PATHLESS: [&str; 12] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devpts",
    "mqueue",
    "bpf",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "hugetlbfs",
    "ramfs",
];

impl Plan {
    /// Returns whether a device must exist because nothing is made in a bind mount on /dev, which usually is the host's own.
    fn must_exist(&self, device: &Device) -> bool {
        !self.default_devices && device.path.starts_with("/dev")
    }

    /// Returns whether a root-only mount namespace suffices: nothing is mounted on the root itself, and no path of the host is
    /// needed except those of bind mounts.
    #[must_use]
    pub fn can_be_root_only(&self) -> bool {
        let facts = &self.facts;
        let possible = |mount: &Mount| match &mount.kind {
            _ if mount.is_on_root() => false,
            // The source can be an earlier mount of the container. And mounts that appear on the host must not be made twice.
            Kind::Bind { idmap, .. } => {
                idmap.is_none() && !sources::is_in_root(self, mount) && !sources::is_peer(self, mount)
            }
            Kind::New { fstype, .. } => PATHLESS.contains(&fstype.as_str()),
            Kind::Cgroup | Kind::Remount => true,
        };
        let own = facts.mount_namespace == MountNamespace::New && !facts.user_namespace && !facts.no_pivot;
        own && self.mounts.iter().all(possible)
    }
}

/// Plans the root file system (config.md#root, #mounts; config-linux.md#default-devices, #devices,
/// #rootfs-mount-propagation, #masked-paths, #readonly-paths).
pub(crate) fn plan(spec: &Spec, bundle: &Path, facts: &Facts, notes: &mut Notes) -> Plan {
    let linux = spec.linux().as_ref();
    let root = spec.root().as_ref();
    let path = root.map(|root| root.path().clone()).unwrap_or_default();
    if root.is_none() {
        notes.problem("root", "is required");
    } else if path.as_os_str().is_empty() {
        notes.problem("root.path", "must not be empty");
    }
    let propagation = linux.and_then(|l| l.rootfs_propagation().as_deref()).filter(|name| !name.is_empty());
    let propagation = propagation.and_then(|name| {
        let known = options::propagation(name);
        if known.is_none() {
            notes.problem("linux.rootfsPropagation", format_args!("{name:?} is not a propagation (hint: private, slave, shared or unbindable, or these with an r)"));
        }
        known
    });
    let mounts = mounts::plan(spec, bundle, facts, notes);
    for mount in &mounts {
        let unbindable = mount.options.propagation.iter().any(|step| step.flag == MS_UNBINDABLE);
        if unbindable && facts.mount_namespace != MountNamespace::New {
            let text =
                "unbindable is only possible in a new mount namespace: a finished tree is copied without it";
            notes.problem(format_args!("{}.options", mount.place), text);
        }
    }
    let dev_is_bind = mounts.iter().any(|m| names(&m.destination, "/dev") && m.is_bind());
    let devices = devices::plan(linux, !dev_is_bind, notes);
    let mut paths = |list: Option<&Vec<String>>, place: &str| -> Vec<PathBuf> {
        let list = list.map(Vec::as_slice).unwrap_or_default().iter().map(PathBuf::from).enumerate();
        list.inspect(|(i, path)| {
            if !path.is_absolute() {
                notes.problem(format_args!("{place}[{i}]"), format_args!("{path:?} is not absolute"));
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
