//! Where the cgroup hierarchies are mounted, and our own cgroup in each. resctrl is located too, since
//! mountinfo also contains it.
//!
//! Usually v2 is mounted at /sys/fs/cgroup, or at /sys/fs/cgroup/unified on a host with v1's hierarchies. In
//! a container, the mount may show only a sub-tree, which is named in mountinfo's root field. That field and
//! the paths in /proc/self/cgroup begin at the root of the cgroup namespace.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Context;

use crate::error::Result;
use crate::sys::{self, fs, mountinfo};
use crate::{host, trace};

/// Where v2 is mounted if it is the host's only hierarchy, or else the directory of v1's mount points.
pub(crate) const CGROUP: &str = "/sys/fs/cgroup";

/// The host's hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// The mount point of cgroup v2.
    pub v2_mount: Option<PathBuf>,
    /// Our own cgroup below that mount, without a leading slash; `None` if the mount does not show it.
    pub own: Option<PathBuf>,
    /// The mounted hierarchies of cgroup v1. They are ignored if v2 is mounted at /sys/fs/cgroup itself.
    pub v1: Vec<Hierarchy>,
    /// On a host with v1, the controllers that v2 has.
    pub v2_controllers: Vec<String>,
    /// The mount point of resctrl.
    pub resctrl: Option<PathBuf>,
}

/// A hierarchy of cgroup v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Such as `cpu` and `cpuacct`. A hierarchy without controllers has one name instead, such as
    /// `name=systemd`.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// Our own cgroup below the mount, as [`Host::own`].
    pub own: Option<PathBuf>,
}

impl Hierarchy {
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

impl Host {
    /// Probes the host, except for the resctrl mount.
    pub fn probe() -> Result<Self> {
        let _phase = trace::phase("probe the cgroups");
        let own = own_cgroups()?;
        match only_v2(&own) {
            Some(own) if root_is_mounted() => {
                Ok(Self { v2_mount: Some(CGROUP.into()), own: Some(own), ..Self::default() })
            }
            _ => Self::of_mounts(&own),
        }
    }

    /// Probes the host, and also locates the resctrl mount.
    pub(crate) fn probe_with_resctrl() -> Result<Self> {
        let _phase = trace::phase("probe the cgroups");
        Self::of_mounts(&own_cgroups()?)
    }

    fn of_mounts(own: &[u8]) -> Result<Self> {
        let proc = host::procfs()?;
        let mut host = Self::parse(&mountinfo::read(proc)?, own);
        if let Some(mount) = host.v2_mount.as_ref().filter(|_| !host.v1.is_empty()) {
            let controllers = fs::read_text(fs::CWD, &mount.join("cgroup.controllers"))?;
            host.v2_controllers = controllers.split_whitespace().map(Into::into).collect();
        }
        Ok(host)
    }

    /// Probes the host as for a process with the cgroups of process `pid`. `proc` is the host's procfs.
    pub fn of_process(pid: i32, proc: BorrowedFd) -> Result<Self> {
        let open = |path: &str| fs::open(proc, Path::new(path), fs::O_RDONLY, 0);
        let cgroup = fs::read_whole(open(&format!("{pid}/cgroup"))?, 1 << 20).context("cgroup")?;
        Ok(Self::parse(&mountinfo::read(proc)?, &cgroup))
    }

    /// Returns the controllers of the v1 hierarchy that a directory is in.
    pub(super) fn controllers(&self, dir: &Path) -> &[String] {
        let hierarchy = self.v1.iter().find(|hierarchy| dir.starts_with(&hierarchy.mount));
        hierarchy.map_or(&[], |hierarchy| &hierarchy.controllers)
    }

    /// Parses the text of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    #[must_use]
    pub fn parse(mountinfo: &[u8], cgroup: &[u8]) -> Self {
        let mounts: Vec<Mount> = mountinfo::parse(mountinfo).map(Mount::new).collect();
        let visible = mounts.iter().enumerate().filter(|(i, mount)| {
            // A later mount at this path or above it hides this one.
            (mount.cgroup || mount.resctrl)
                && !mounts[i + 1..].iter().any(|later| mount.point.starts_with(&later.point))
        });
        let visible: Vec<&Mount> = visible.map(|(_, mount)| mount).collect();
        // There is one instance of resctrl. A bind mount of a part of it does not help.
        let resctrl = visible.iter().filter(|mount| mount.resctrl && mount.root == Path::new("/"));
        let resctrl = resctrl.min_by_key(|mount| mount.point.as_os_str().len());
        let mut host = Self { resctrl: resctrl.map(|mount| mount.point.clone()), ..Self::default() };
        for line in cgroup.split(|&b| b == b'\n') {
            let mut fields = line.splitn(3, |&b| b == b':');
            let (Some(number), Some(names), Some(own)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            // A path outside our cgroup namespace begins with "..", and is not below any mount.
            let own = Some(bytes_to_path(own)).filter(|p| !p.components().any(|c| c == Component::ParentDir));
            if number == b"0" {
                if let Some((mount, own)) = best(&visible, own.as_deref(), |mount| mount.v2()) {
                    (host.v2_mount, host.own) = (Some(mount), own);
                }
                continue;
            }
            let names = String::from_utf8_lossy(names);
            let controllers: Vec<String> = names.split(',').map(Into::into).collect();
            let found = best(&visible, own.as_deref(), |mount| {
                mount.cgroup && !mount.v2() && controllers.iter().all(|name| mount.options.contains(name))
            });
            host.v1.extend(found.map(|(mount, own)| Hierarchy { controllers, mount, own }));
        }
        if visible.iter().any(|mount| mount.v2() && mount.point == Path::new(CGROUP)) {
            host.v1.clear();
        }
        host
    }
}

/// Returns the text of /proc/self/cgroup.
fn own_cgroups() -> Result<Vec<u8>> {
    let file = fs::open(host::procfs()?, Path::new("self/cgroup"), fs::O_RDONLY, 0)?;
    fs::read_whole(file, 1 << 20).context("cgroup")
}

/// Returns our own cgroup without a leading slash, if v2 is the only hierarchy.
fn only_v2(cgroup: &[u8]) -> Option<PathBuf> {
    let path = cgroup.strip_prefix(b"0::/")?.strip_suffix(b"\n")?;
    let path = (!path.contains(&b'\n')).then(|| bytes_to_path(path))?;
    path.components().all(|c| c != Component::ParentDir).then_some(path)
}

/// Reports whether v2's root is mounted at its usual path. Then mountinfo need not be read, which grows with
/// every container on the host.
fn root_is_mounted() -> bool {
    let root = || {
        let dir = fs::open(fs::CWD, Path::new(CGROUP), fs::O_PATH | fs::O_DIRECTORY, 0)?;
        // The root directory of a kernfs has the inode number 1 in every namespace.
        Ok(fs::filesystem_magic(dir.as_fd())? == libc::CGROUP2_SUPER_MAGIC
            && fs::fstat(dir.as_fd())?.st_ino == 1)
    };
    let root: sys::Result<bool> = root();
    root.unwrap_or(false)
}

/// Reports whether v2 is what the host's programs find at the usual path.
pub(crate) fn is_unified() -> bool {
    let open = || fs::open(fs::CWD, Path::new(CGROUP), fs::O_PATH | fs::O_DIRECTORY, 0);
    let magic = open().and_then(|dir| fs::filesystem_magic(dir.as_fd()));
    magic.is_ok_and(|magic| magic == libc::CGROUP2_SUPER_MAGIC)
}

/// Returns the mount of a hierarchy to use, with our own cgroup below it: a mount that shows our cgroup if
/// there is one, and among several the one with the shortest path.
fn best(
    mounts: &[&Mount],
    own: Option<&Path>,
    wanted: impl Fn(&Mount) -> bool,
) -> Option<(PathBuf, Option<PathBuf>)> {
    let below = |mount: &Mount| {
        let below = own.and_then(|own| own.strip_prefix(&mount.root).ok());
        below.filter(|below| below.is_relative()).map(Path::to_path_buf)
    };
    let candidates = mounts.iter().filter(|mount| wanted(mount)).map(|mount| (mount, below(mount)));
    let best = candidates.min_by_key(|(mount, own)| (own.is_none(), mount.point.as_os_str().len()));
    best.map(|(mount, own)| (mount.point.clone(), own))
}

struct Mount {
    root: PathBuf,
    point: PathBuf,
    /// The file system is cgroup v1 or v2.
    cgroup: bool,
    resctrl: bool,
    /// The options of a v1 hierarchy, its controllers among them; empty for v2.
    options: Vec<String>,
}

impl Mount {
    fn new(mount: mountinfo::Mount) -> Self {
        let options = match mount.kind {
            b"cgroup" => String::from_utf8_lossy(mount.options).split(',').map(Into::into).collect(),
            _ => Vec::new(),
        };
        let cgroup = matches!(mount.kind, b"cgroup" | b"cgroup2");
        let resctrl = mount.kind == b"resctrl";
        Self { root: mount.root(), point: mount.point(), cgroup, resctrl, options }
    }

    fn v2(&self) -> bool {
        self.cgroup && self.options.is_empty()
    }
}

fn bytes_to_path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_alone_has_one_line() {
        let rows = [
            ("0::/\n", Some("")),
            ("0::/user.slice/a b\n", Some("user.slice/a b")),
            // Outside our cgroup namespace.
            ("0::/../x\n", None),
            ("1:name=systemd:/\n0::/\n", None),
            ("4:memory:/x\n", None),
            ("", None),
        ];
        for (text, expected) in rows {
            assert_eq!(only_v2(text.as_bytes()).as_deref(), expected.map(Path::new), "{text:?}");
        }
    }

    #[test]
    fn the_hierarchy_is_found() {
        let v1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                  34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let pure =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
        let rows = [
            (pure.to_string(), "0::/user.slice/s.scope\n", "/sys/fs/cgroup", Some("user.slice/s.scope")),
            (pure.to_string(), "0::/\n", "/sys/fs/cgroup", Some("")),
            (format!("{v1}{unified}"), "4:memory:/x\n0::/a b\n", "/sys/fs/cgroup/unified", Some("a b")),
            // v2 bound over the v1 tree hides what is below.
            (
                format!("{v1}{unified}60 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
                "0::/\n",
                "/sys/fs/cgroup",
                Some(""),
            ),
            // A tmpfs over v2 hides it, and another mount serves.
            (
                format!(
                    "{pure}70 30 0:40 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n80 1 0:26 / /mnt/cg rw - cgroup2 none rw\n"
                ),
                "0::/\n",
                "/mnt/cg",
                Some(""),
            ),
            // In a container without a cgroup namespace only its own sub-tree is mounted.
            (
                "5 1 0:26 /docker/1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n".into(),
                "0::/docker/1/nested\n",
                "/sys/fs/cgroup",
                Some("nested"),
            ),
            ("5 1 0:26 /docker/1 /cg rw - cgroup2 cgroup rw\n".into(), "0::/docker/12\n", "/cg", None),
            // A mount from outside our cgroup namespace.
            ("5 1 0:26 /../.. /cg rw - cgroup2 cgroup rw\n".into(), "0::/\n", "/cg", None),
            // The kernel shows no such root, and a path below it would not be below the mount.
            ("5 1 0:26  /cg rw - cgroup2 cgroup rw\n".into(), "0::/a\n", "/cg", None),
            // Our cgroup is outside the cgroup namespace.
            ("5 1 0:26 / /cg rw - cgroup2 cgroup rw\n".into(), "0::/../b\n", "/cg", None),
            // Of two, the one that shows us, else the shorter.
            (
                format!("9 1 0:26 /other /c rw - cgroup2 c rw\n{pure}"),
                "0::/me\n",
                "/sys/fs/cgroup",
                Some("me"),
            ),
            (
                format!("9 1 0:26 / /mnt/longer/cgroup rw - cgroup2 c rw\n{pure}"),
                "0::/me\n",
                "/sys/fs/cgroup",
                Some("me"),
            ),
            ("9 1 0:26 / /a\\040b rw - cgroup2 c rw\n".into(), "0::/\n", "/a b", Some("")),
        ];
        for (mountinfo, cgroup, mount, own) in rows {
            let host = Host::parse(mountinfo.as_bytes(), cgroup.as_bytes());
            let found = (host.v2_mount.as_deref(), host.own);
            assert_eq!(found, (Some(Path::new(mount)), own.map(PathBuf::from)), "{mountinfo}{cgroup}");
        }
        for nothing in ["", "garbage\n\n1 2 3\n", v1] {
            assert_eq!(Host::parse(nothing.as_bytes(), b"5:pids:/x\nx\n0::/\n"), Host::default());
        }
    }

    #[test]
    fn resctrl_is_found() {
        let usual = "50 23 0:44 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw,mba_MBps\n";
        let part = "9 1 0:44 /web /mnt rw - resctrl resctrl rw\n";
        let hidden = format!("{usual}60 23 0:45 / /sys/fs rw - tmpfs none rw\n");
        for (mountinfo, expected) in [
            (usual, Some("/sys/fs/resctrl")),
            (part, None),
            (
                &format!("{part}7 1 0:44 / /mnt/a/long/way/to/it rw - resctrl r rw\n{usual}"),
                Some("/sys/fs/resctrl"),
            ),
            (&hidden, None),
            ("9 1 0:26 / /sys/fs/resctrl rw - tmpfs resctrl rw\n", None),
        ] {
            let host = Host::parse(mountinfo.as_bytes(), b"3:memory:/\n0::/\n");
            let expected = Host { resctrl: expected.map(PathBuf::from), ..Host::default() };
            assert_eq!(host, expected, "{mountinfo}");
        }
    }

    #[test]
    fn hierarchies_of_v1_are_found() {
        let tree = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                    33 31 0:30 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
                    34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n";
        let unified = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let own = "4:memory:/docker/1/x\n3:cpu,cpuacct:/\n2:pids:/\n1:name=systemd:/../a\n0::/\n";
        let hierarchy = |controllers: &[&str], mount: &str, own: Option<&str>| Hierarchy {
            controllers: controllers.iter().map(ToString::to_string).collect(),
            mount: mount.into(),
            own: own.map(PathBuf::from),
        };
        let all = [
            hierarchy(&["memory"], "/sys/fs/cgroup/memory", Some("x")),
            hierarchy(&["cpu", "cpuacct"], "/sys/fs/cgroup/cpu,cpuacct", Some("")),
            hierarchy(&["name=systemd"], "/sys/fs/cgroup/systemd", None),
        ];
        let bound = "60 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let aside = "60 1 0:40 / /mnt/v1 rw - cgroup none rw,net_cls\n";
        for (mountinfo, expected, v2) in [
            (tree.to_string(), &all[..], None),
            (format!("{tree}{unified}"), &all, Some("/sys/fs/cgroup/unified")),
            // With v2 at /sys/fs/cgroup, v1 is ignored.
            (format!("{tree}{unified}{bound}"), &[], Some("/sys/fs/cgroup")),
            (format!("{bound}{aside}"), &[], Some("/sys/fs/cgroup")),
        ] {
            let host = Host::parse(mountinfo.as_bytes(), own.as_bytes());
            assert_eq!(host.v1, expected, "{mountinfo}");
            assert_eq!(host.v2_mount.as_deref(), v2.map(Path::new), "{mountinfo}");
        }
    }
}
