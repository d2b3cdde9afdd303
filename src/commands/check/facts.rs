//! The facts about the host that `check` judges. Everything is only read.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::cgroups::{self, systemd};
use crate::criu;
use crate::error::Result;
use crate::host;
use crate::launch;
use crate::namespaces::idmap;
use crate::seccomp;
use crate::sys::{fs, process, task};

/// The largest file of an engine's configuration that is searched.
const CONFIGURATION_MAX: u64 = 1 << 20;

/// What is known about this host and the caller.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) release: String,
    /// Why the kernel is too old.
    pub(super) kernel: Option<String>,
    /// The caller's id. 0 also in a user namespace of a user's.
    pub(super) uid: u32,
    pub(super) user_namespace: bool,
    pub(super) cgroups: Cgroups,
    /// Why the caller cannot make user namespaces, and what mends it.
    pub(super) users: Option<(String, String)>,
    /// The caller's name.
    pub(super) name: String,
    /// The number of ids that /etc/subuid and /etc/subgid delegate to the caller.
    pub(super) delegated: [u64; 2],
    /// Whether newuidmap and newgidmap are in PATH.
    pub(super) helpers: [bool; 2],
    pub(super) seccomp: bool,
    /// The flags of seccomp that the kernel lacks.
    pub(super) seccomp_lacks: Vec<&'static str>,
    /// The kernel's list of security modules; `None` if it cannot be read.
    pub(super) modules: Option<String>,
    /// The kernel has overlay, or may load it.
    pub(super) overlay: bool,
    pub(super) criu: Criu,
    pub(super) systemd: Systemd,
    pub(super) engines: Vec<Engine>,
    /// The path of corten.
    pub(super) executable: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Cgroups {
    /// Why there are none.
    pub(super) error: Option<String>,
    pub(super) v2: bool,
    /// The controllers of v1.
    pub(super) v1: Vec<String>,
    /// The controllers of v2's hierarchy.
    pub(super) offered: Vec<String>,
    /// The controllers that the caller's cgroups can have.
    pub(super) delegated: Vec<String>,
    /// The caller can make cgroups.
    pub(super) writable: bool,
}

/// CRIU, which `checkpoint` and `restore` run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Criu {
    /// The program is not in PATH.
    #[default]
    Absent,
    Version(String),
    /// It is too old, or does not answer.
    Refuses(String),
}

/// systemd, as the caller reaches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Systemd {
    #[default]
    Absent,
    Reached,
    /// It runs, and does not answer for this reason.
    Silent(String),
}

/// An engine that is in PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Engine {
    pub(super) name: &'static str,
    /// A line of its configuration names corten.
    pub(super) set_up: bool,
}

impl Facts {
    /// `criu` is the value of `--criu`.
    pub(super) fn probe(criu: Option<&Path>) -> Result<Self> {
        let proc = host::procfs()?;
        let uid = task::euid();
        let names = idmap::names(uid);
        let text = |path: &str| fs::read_text(proc, Path::new(path)).ok();
        let filesystems = text("filesystems").unwrap_or_default();
        let overlay = filesystems.lines().any(|line| line.ends_with("\toverlay"));
        let supported = seccomp::supported_flags();
        Ok(Self {
            release: task::kernel_release()?,
            kernel: host::check_kernel().err().map(|e| format!("{e:#}")),
            uid,
            user_namespace: host::in_user_namespace()?,
            cgroups: Cgroups::probe(uid),
            users: user_namespaces_refused(proc, uid),
            delegated: idmap::HELPERS.each_ref().map(|helper| helper.delegated(&names)),
            name: names.first().cloned().unwrap_or_default(),
            helpers: idmap::HELPERS.each_ref().map(|helper| host::in_path(helper.program).is_some()),
            seccomp: text("sys/kernel/seccomp/actions_avail").is_some(),
            seccomp_lacks: seccomp::FLAGS.iter().copied().filter(|flag| !supported.contains(flag)).collect(),
            modules: fs::read_text(fs::CWD, Path::new("/sys/kernel/security/lsm")).ok(),
            overlay: overlay || module("overlay").unwrap_or(false),
            criu: Criu::probe(criu),
            systemd: Systemd::probe(uid),
            engines: engines(uid),
            executable: fs::readlinkat(proc, Path::new("self/exe"))?.to_string_lossy().into_owned(),
        })
    }
}

impl Criu {
    fn probe(given: Option<&Path>) -> Self {
        let Ok(program) = criu::program(given) else { return Self::Absent };
        let version = launch::criu_version(&program);
        version.map_or_else(|e| Self::Refuses(format!("{e:#}")), Self::Version)
    }
}

impl Cgroups {
    fn probe(uid: u32) -> Self {
        let host = match cgroups::Host::probe() {
            Ok(host) => host,
            Err(e) => return Self { error: Some(format!("{e:#}")), ..Self::default() },
        };
        let controllers = |dir: &Path| -> Vec<String> {
            let text = fs::read_text(fs::CWD, &dir.join("cgroup.controllers")).unwrap_or_default();
            text.split_whitespace().map(Into::into).collect()
        };
        let v1 = host.v1.iter().flat_map(|hierarchy| hierarchy.controllers.iter().cloned()).collect();
        let Some(mount) = host.v2_mount.filter(|_| host.v1.is_empty()) else {
            return Self { v1, writable: uid == 0, ..Self::default() };
        };
        // Root makes cgroups anywhere. A user makes them where systemd or an administrator has given a cgroup away.
        let own = match &host.own {
            Some(own) if uid != 0 => mount.join(own),
            _ => mount.clone(),
        };
        let home = own.ancestors().filter(|dir| dir.starts_with(&mount)).find(|dir| writable(dir));
        Self {
            error: None,
            v2: true,
            v1,
            offered: controllers(&mount),
            delegated: home.map(controllers).unwrap_or_default(),
            writable: home.is_some(),
        }
    }
}

fn writable(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_bytes());
    path.is_ok_and(|path| process::may_write(&path).is_ok())
}

impl Systemd {
    fn probe(uid: u32) -> Self {
        if fs::stat_at(fs::CWD, Path::new("/run/systemd/system")).is_err() {
            return Self::Absent;
        }
        let unit = systemd::Unit { name: String::new(), user: uid != 0 };
        match systemd::connect(&unit) {
            Ok(_) => Self::Reached,
            Err(e) => Self::Silent(format!("{e:#}")),
        }
    }
}

/// Returns why a caller cannot make user namespaces, and what mends it.
pub(super) fn user_namespaces_refused(proc: BorrowedFd, uid: u32) -> Option<(String, String)> {
    if fs::stat_at(proc, Path::new("self/ns/user")).is_err() {
        return Some(("this kernel has no user namespaces".into(), "CONFIG_USER_NS".into()));
    }
    let is = |name: &str, value: &str| {
        fs::read_text(proc, &Path::new("sys").join(name)).is_ok_and(|text| text.trim() == value)
    };
    let refused = |name: &str, mended: &str| {
        let parameter = name.replace('/', ".");
        Some((format!("{parameter} forbids user namespaces"), format!("sysctl {parameter}={mended}")))
    };
    if is("user/max_user_namespaces", "0") {
        return refused("user/max_user_namespaces", "15000");
    }
    // The others are about callers without root's rights.
    if uid != 0 && is("kernel/unprivileged_userns_clone", "0") {
        return refused("kernel/unprivileged_userns_clone", "1");
    }
    if uid != 0 && is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return refused("kernel/apparmor_restrict_unprivileged_userns", "0");
    }
    None
}

/// Returns whether the kernel's modules include a file system of this type; `None` if they cannot be read.
pub(super) fn module(fstype: &str) -> Option<bool> {
    let release = task::kernel_release().ok()?;
    // The kernel loads no modules.
    if fs::stat_at(host::procfs().ok()?, Path::new("modules")).is_err() {
        return Some(false);
    }
    let read = |name: &str| {
        let path = Path::new("/lib/modules").join(&release).join(name);
        let file = fs::open(fs::CWD, &path, fs::O_RDONLY, 0).ok()?;
        String::from_utf8(fs::read_limited(file, 64 << 20).ok()?).ok()
    };
    let alias = format!("alias fs-{fstype} ");
    let file = format!("/{fstype}.ko");
    let listed = read("modules.alias")?.lines().any(|line| line.starts_with(&alias));
    Some(
        listed
            || read("modules.dep")?
                .lines()
                .any(|line| line.split(':').next().is_some_and(|f| f.contains(&file))),
    )
}

/// The engines, each with the files and directories in which it learns of runtimes. `~` is the caller's home.
const ENGINES: [(&str, &[&str]); 5] = [
    (
        "podman",
        &[
            "/etc/containers/containers.conf",
            "/etc/containers/containers.conf.d",
            "~/.config/containers/containers.conf",
        ],
    ),
    ("docker", &["/etc/docker/daemon.json", "~/.config/docker/daemon.json"]),
    ("containerd", &["/etc/containerd/config.toml", "/etc/containerd/conf.d"]),
    ("crio", &["/etc/crio/crio.conf", "/etc/crio/crio.conf.d"]),
    ("buildah", &["/etc/containers/containers.conf", "/etc/containers/containers.conf.d"]),
];

fn engines(uid: u32) -> Vec<Engine> {
    let home = std::env::var_os("HOME").filter(|_| uid != 0).map(PathBuf::from);
    let installed = ENGINES.iter().filter(|(name, _)| host::in_path(name).is_some());
    let engine = |(name, places): &(&'static str, &[&str])| {
        let named = |place: &&str| match (place.strip_prefix("~/"), &home) {
            (None, _) => names_corten(Path::new(place)),
            (Some(rest), Some(home)) => names_corten(&home.join(rest)),
            (Some(_), None) => false,
        };
        Engine { name, set_up: places.iter().any(named) }
    };
    installed.map(engine).collect()
}

/// Returns whether a file, or one of the files in a directory, has a line about corten.
fn names_corten(path: &Path) -> bool {
    let Ok(file) = fs::open(fs::CWD, path, fs::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0) else {
        return false;
    };
    if fs::is_directory(file.as_fd()).unwrap_or(false) {
        let names = fs::list_dir(file.as_fd()).unwrap_or_default();
        let settings = names
            .iter()
            .filter(|name| matches!(name.extension().and_then(OsStr::to_str), Some("conf" | "toml")));
        return settings.map(|name| path.join(name)).any(|path| is_named(&path));
    }
    is_named(path)
}

fn is_named(path: &Path) -> bool {
    let Ok(file) = fs::open(fs::CWD, path, fs::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0) else {
        return false;
    };
    let text = fs::read_limited(file, CONFIGURATION_MAX).unwrap_or_default();
    mentions(&String::from_utf8_lossy(&text))
}

/// Returns whether a configuration has a line about corten that is no comment.
fn mentions(text: &str) -> bool {
    text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("corten"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_sets_nothing_up() {
        for (text, expected) in [
            ("", false),
            ("[engine.runtimes]\ncorten = [\"/usr/bin/corten\"]\n", true),
            ("  # corten = []\nrunc = []", false),
            ("{\"runtimes\": {\"corten\": {}}}", true),
        ] {
            assert_eq!(mentions(text), expected, "{text}");
        }
    }
}
