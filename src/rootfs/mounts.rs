//! The plan of `mounts` (config.md#mounts).

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{self, Spec};

use super::options::{self, Options};
use super::{Facts, resolve};
use crate::error::Notes;
use crate::namespaces::idmap::{self, IdMap};
use crate::sys::mount::MOUNT_ATTR_RDONLY;

/// The path of the notification socket in the container, as with runc.
pub(crate) const NOTIFY_SOCKET: &str = "/run/notify/notify.sock";

/// One mount to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its place in config.json, for errors: `mounts[3]`.
    pub place: String,
    pub destination: PathBuf,
    pub kind: Kind,
    pub options: Options,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A copy of a tree of the host.
    Bind { source: PathBuf, recursive: bool, idmap: Option<IdMapping> },
    /// A new file system.
    New { fstype: String, source: Option<String> },
    /// The cgroup hierarchy, as the container sees it.
    Cgroup,
    /// Other options for an existing mount.
    Remount,
}

/// The id mappings of an idmapped mount, and whether they are for all mounts below too. Both are empty for those of the user
/// namespace that the container joins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMapping {
    pub uid_map: Vec<IdMap>,
    pub gid_map: Vec<IdMap>,
    pub recursive: bool,
}

impl IdMapping {
    /// Returns whether the ids are mapped as in the user namespace that the container joins.
    #[must_use]
    pub(super) fn is_of_joined(&self) -> bool {
        self.uid_map.is_empty() && self.gid_map.is_empty()
    }
}

impl Mount {
    #[must_use]
    pub fn is_bind(&self) -> bool {
        matches!(self.kind, Kind::Bind { .. })
    }

    /// Returns the mount for the trace and the log, with its options in short.
    pub(super) fn shown(&self) -> String {
        let what = match &self.kind {
            Kind::Bind { source, recursive, idmap } => {
                let (how, ids) =
                    (if *recursive { "rbind" } else { "bind" }, idmap.as_ref().map(|_| ", idmapped"));
                format!("{how} {}{}", source.display(), ids.unwrap_or_default())
            }
            Kind::New { fstype, source: Some(source) } if source != fstype => format!("{fstype} {source}"),
            Kind::New { fstype, .. } => fstype.clone(),
            Kind::Cgroup => "cgroup".into(),
            Kind::Remount => "remount".into(),
        };
        let options = self.options.shown();
        let separator = if options.is_empty() { "" } else { ": " };
        format!("{} {} ({what}{separator}{options})", self.place, self.destination.display())
    }

    /// Returns the writable form of a new read-only tmpfs, or `None` for other mounts. It becomes read-only at the end, because
    /// mount points, devices, links and the console are made in it first.
    pub(super) fn to_fill(&self) -> Option<Self> {
        let is_tmpfs = matches!(&self.kind, Kind::New { fstype, .. } if fstype == "tmpfs");
        (is_tmpfs && self.options.attributes() & MOUNT_ATTR_RDONLY != 0).then(|| {
            let mut writable = self.clone();
            for attr in [&mut writable.options.attr, &mut writable.options.attr_all] {
                attr.set &= !MOUNT_ATTR_RDONLY;
            }
            writable
        })
    }

    /// Returns whether it covers the root itself.
    pub(super) fn is_on_root(&self) -> bool {
        names(&self.destination, "/")
    }
}

/// Returns whether a destination is this absolute path, in any spelling.
pub(crate) fn names(destination: &Path, path: &str) -> bool {
    resolve::words(destination) == Path::new(path)
}

/// Options of the notification socket, as with runc. Sending to a socket does not require a writable mount.
const NOTIFY_OPTIONS: [&str; 4] = ["ro", "nosuid", "nodev", "noexec"];

pub(super) fn plan(spec: &Spec, bundle: &Path, facts: &Facts, notes: &mut Notes) -> Vec<Mount> {
    let given = spec.mounts().as_deref().unwrap_or_default();
    let mut mounts: Vec<Mount> = Vec::with_capacity(given.len() + 1);
    for (i, mount) in given.iter().enumerate() {
        let place = format!("mounts[{i}]");
        let mut options = options::parse(mount.options().as_deref().unwrap_or_default());
        if mount.destination().as_os_str().is_empty() || contains_nul(mount.destination()) {
            notes.problem(format_args!("{place}.destination"), "is empty or contains a NUL");
        }
        let mut kind = kind(mount, &place, bundle, spec, &mut options, notes);
        if kind == Kind::Cgroup && mount.typ().as_deref() == Some("cgroup2") && !facts.cgroup_views.is_empty()
        {
            // On a host with v1, type `cgroup` means its hierarchies, and this one means v2's only.
            kind = Kind::New { fstype: "cgroup2".into(), source: Some("cgroup".into()) };
        }
        if let Some(label) = &facts.mount_label {
            label_new(label, &kind, &mut options);
        }
        mounts.push(Mount { place, destination: mount.destination().clone(), kind, options });
    }
    if let Some(source) = &facts.notify_socket {
        mounts.push(Mount {
            place: "NOTIFY_SOCKET".into(),
            destination: NOTIFY_SOCKET.into(),
            kind: Kind::Bind { source: source.clone(), recursive: false, idmap: None },
            options: options::parse(&NOTIFY_OPTIONS.map(Into::into)),
        });
    }
    mounts
}

/// Gives a new file system the container's label, unless its options have one. File systems that show objects of the kernel
/// keep their own labels.
fn label_new(label: &str, kind: &Kind, options: &mut Options) {
    let Kind::New { fstype, .. } = kind else { return };
    let labelled = options.data.iter().any(|option| option.starts_with("context="));
    if !labelled && !matches!(fstype.as_str(), "proc" | "sysfs" | "mqueue") {
        options.data.push(format!("context=\"{label}\""));
    }
}

fn contains_nul(path: &Path) -> bool {
    path.as_os_str().as_bytes().contains(&0)
}

fn kind(
    mount: &runtime::Mount,
    place: &str,
    bundle: &Path,
    spec: &Spec,
    options: &mut Options,
    notes: &mut Notes,
) -> Kind {
    let fstype = mount.typ().as_deref().unwrap_or_default();
    let mapped = mount.uid_mappings().is_some() || mount.gid_mappings().is_some() || options.idmap.is_some();
    if options.copy_up && (options.remount || options.bind.is_some() || fstype != "tmpfs") {
        notes.problem(format_args!("{place}.options"), "\"tmpcopyup\" is for a new tmpfs");
    }
    check_links(place, options, notes);
    if options.remount {
        if mapped {
            notes.problem(place, "id mappings cannot be changed by a remount");
        }
        if options.bind.is_some() {
            refuse_on_bind(place, options, notes);
        }
        return Kind::Remount;
    }
    if let Some(recursive) = options.bind {
        refuse_on_bind(place, options, notes);
        let source = mount.source().clone().unwrap_or_default();
        if source.as_os_str().is_empty() || contains_nul(&source) {
            notes.problem(format_args!("{place}.source"), "is empty or contains a NUL");
        }
        let idmap = mapped.then(|| id_mapping(mount, place, spec, options, notes));
        return Kind::Bind { source: bundle.join(source), recursive, idmap };
    }
    if mapped {
        notes.problem(place, "only a bind mount can have id mappings");
    }
    match fstype {
        "bind" | "rbind" | "none" | "" => {
            let hint = "(hint: the option bind or rbind makes a bind mount)";
            notes.problem(
                format_args!("{place}.type"),
                format_args!("{fstype:?} is not a file system {hint}"),
            );
            Kind::Remount
        }
        "cgroup" | "cgroup2" => Kind::Cgroup,
        _ => {
            let source = mount.source().as_ref().map(|source| source.to_string_lossy().into_owned());
            Kind::New { fstype: fstype.into(), source: source.filter(|source| !source.is_empty()) }
        }
    }
}

/// Reports options that a bind mount cannot have: it has the superblock of its source, which the container must not change.
fn refuse_on_bind(place: &str, options: &mut Options, notes: &mut Notes) {
    for option in options.data.drain(..) {
        // mount(2) ignores all options with MS_BIND. Those of tmpfs are written by habit, others are mistakes.
        if options::is_for_tmpfs(&option) {
            notes.warn(format!("{place}.options: {option:?} has no effect on a bind mount, ignoring"));
            continue;
        }
        let hint = options::in_one_string(&option).map(|list| format!(" (hint: {list})")).unwrap_or_default();
        notes.problem(
            format_args!("{place}.options"),
            format_args!("{option:?} is not an option of a bind mount{hint}"),
        );
    }
    for name in options.superblock.drain(..) {
        notes.warn(format!("{place}.options: {name:?} has no effect on a bind mount, ignoring"));
    }
    if options.legacy & libc::MS_I_VERSION != 0 {
        notes.warn(format!("{place}.options: \"iversion\" has no effect on a bind mount, ignoring"));
    }
    options.legacy = 0;
}

/// Reports options about links that contradict each other or the kind of the mount.
fn check_links(place: &str, options: &Options, notes: &mut Notes) {
    let of_source = [(options.copy_link, "copy-symlink"), (options.keep_source, "src-nofollow")];
    for (_, name) in of_source.iter().filter(|(set, _)| *set && (options.bind.is_none() || options.remount)) {
        notes.problem(format_args!("{place}.options"), format_args!("{name:?} is for a bind mount"));
    }
    for (set, name) in [(options.keep_source, "src-nofollow"), (options.keep_target, "dest-nofollow")] {
        if set && options.copy_link {
            let what = format_args!("\"copy-symlink\" and {name:?} exclude each other");
            notes.problem(format_args!("{place}.options"), what);
        }
    }
}

/// Returns the mount's own mappings, or else the container's (config.md#posix-platform-mounts).
fn id_mapping(
    mount: &runtime::Mount,
    place: &str,
    spec: &Spec,
    options: &Options,
    notes: &mut Notes,
) -> IdMapping {
    let linux = spec.linux().as_ref();
    let own = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
    let recursive = options.idmap == Some(true);
    if !own && options.mappings.is_none() && joins_user_namespace(linux) {
        return IdMapping { uid_map: Vec::new(), gid_map: Vec::new(), recursive };
    }
    let containers = (
        linux.and_then(|linux| linux.uid_mappings().as_deref()),
        linux.and_then(|linux| linux.gid_mappings().as_deref()),
    );
    let inline = options.mappings.as_deref().map(|text| {
        let parsed = idmap::parse(text, [containers.0.unwrap_or_default(), containers.1.unwrap_or_default()]);
        parsed.unwrap_or_else(|what| {
            notes.problem(format_args!("{place}.options"), format_args!("idmap: {what}"));
            Default::default()
        })
    });
    let (uids, gids) =
        if own { (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref()) } else { containers };
    if own && inline.is_some() {
        notes.warn(format!(
            "{place}.options: uidMappings and gidMappings replace those of \"idmap\", ignoring"
        ));
    }
    let mapping = match inline {
        Some([uid_map, gid_map]) if !own => {
            for (map, name) in [(&uid_map, "uids"), (&gid_map, "gids")] {
                idmap::check(map, &format!("{place}.options: idmap {name}"), notes);
            }
            IdMapping { uid_map, gid_map, recursive }
        }
        _ => IdMapping {
            uid_map: idmap::plan(uids, &format!("{place}.uidMappings"), notes),
            gid_map: idmap::plan(gids, &format!("{place}.gidMappings"), notes),
            recursive,
        },
    };
    for (name, map) in [("uidMappings", &mapping.uid_map), ("gidMappings", &mapping.gid_map)] {
        if map.is_empty() {
            notes.problem(
                format_args!("{place}.{name}"),
                "must not be empty, nor the container's own mappings",
            );
        }
    }
    mapping
}

fn joins_user_namespace(linux: Option<&runtime::Linux>) -> bool {
    let namespaces = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    namespaces.iter().any(|namespace| {
        let path = namespace.path().as_ref();
        namespace.typ() == runtime::LinuxNamespaceType::User
            && path.is_some_and(|path| !path.as_os_str().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_file_systems_get_the_label() {
        let new = |fstype: &str| Kind::New { fstype: fstype.into(), source: None };
        let bind = Kind::Bind { source: "/s".into(), recursive: true, idmap: None };
        for (kind, given, expected) in [
            (new("tmpfs"), &["size=1k"][..], &["size=1k", "context=\"u:r:t:s0:c1,c2\""][..]),
            (new("devpts"), &[], &["context=\"u:r:t:s0:c1,c2\""]),
            (new("tmpfs"), &["context=own"], &["context=own"]),
            (new("proc"), &[], &[]),
            (new("sysfs"), &[], &[]),
            (new("mqueue"), &[], &[]),
            (Kind::Cgroup, &[], &[]),
            (Kind::Remount, &[], &[]),
            (bind, &[], &[]),
        ] {
            let data = given.iter().map(ToString::to_string).collect();
            let mut options = Options { data, ..Options::default() };
            label_new("u:r:t:s0:c1,c2", &kind, &mut options);
            assert_eq!(options.data, expected, "{kind:?}");
        }
    }

    #[test]
    fn a_destination_is_compared_without_its_spelling() {
        for (destination, path, same) in [
            ("/dev", "/dev", true),
            ("dev", "/dev", true),
            ("//dev/./", "/dev", true),
            ("/dev/../dev", "/dev", true),
            ("/devices", "/dev", false),
            ("/dev/pts", "/dev", false),
            ("/", "/dev", false),
            ("/", "/", true),
            ("/mnt/..", "/", true),
            ("/../..", "/", true),
            ("/mnt", "/", false),
        ] {
            assert_eq!(names(Path::new(destination), path), same, "{destination} {path}");
        }
    }
}
