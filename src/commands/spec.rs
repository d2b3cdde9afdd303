//! `spec`: writes a config.json to start from, with runc's defaults.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

use clap::ArgMatches;
use nix::errno::Errno;
use serde_json::{Value, json};

use crate::SPEC_VERSION;
use crate::cgroups;
use crate::cli::{Globals, read};
use crate::error::{Kind, Result, fail};
use crate::sys;

#[derive(Debug, PartialEq)]
pub(super) struct Args {
    bundle: PathBuf,
    /// Below the bundle, unless it is absolute.
    file: PathBuf,
    rootless: bool,
}

pub(super) fn read(m: &ArgMatches) -> Result<Args> {
    let file = read::path(m, "file").unwrap_or_else(|| "config.json".into());
    Ok(Args { bundle: read::bundle(m), file, rootless: read::flag(m, "rootless") })
}

pub(super) fn run(_: &Globals, args: &Args) -> Result<()> {
    let ids = args.rootless.then(|| (sys::task::euid(), sys::task::egid()));
    let hierarchy = if cgroups::is_unified() { Hierarchy::V2 } else { Hierarchy::V1 };
    let path = args.bundle.join(&args.file);
    let failed = |call: &str, e: &std::io::Error| {
        let error = sys::Error::of_std(format!("{call}({path:?})"), e);
        if error.errno == Errno::EEXIST {
            let text = format!("{} exists (hint: remove it first)", path.display());
            return fail(Kind::Exists, text);
        }
        if error.errno == Errno::ENOENT {
            return fail(Kind::Usage, format!("the bundle does not exist: {error} (hint: mkdir)"));
        }
        error.into()
    };
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = file.map_err(|e| failed("open", &e))?;
    file.write_all(document(ids, hierarchy).as_bytes()).map_err(|e| failed("write", &e))
}

/// The version of cgroups that the host's programs use. As in runc, a new configuration has a cgroup namespace
/// only on hosts with v2: programs in containers on v1 know the host's paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hierarchy {
    V1,
    V2,
}

/// Destination, type, source, options.
type Mount = (&'static str, &'static str, &'static str, &'static [&'static str]);

const MOUNTS: &[Mount] = &[
    ("/proc", "proc", "proc", &[]),
    ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
];

/// The mount of /sys for a rootless container. Only the owner of the network namespace can mount a new sysfs,
/// and a rootless container is in the host's network namespace.
const ROOTLESS_SYS: Mount = ("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);

const CAPABILITIES: &[&str] = &["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
    "/sys/devices/virtual/tpm",
];

const READONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Returns the configuration, a member a line, in an order that reads well. `rootless` are the ids of a
/// caller who is not root.
fn document(rootless: Option<(u32, u32)>, hierarchy: Hierarchy) -> String {
    let process = [
        ("terminal", json!(true)),
        ("user", json!({"uid": 0, "gid": 0})),
        ("args", json!(["sh"])),
        ("env", json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"])),
        ("cwd", json!("/")),
        (
            "capabilities",
            json!({"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES}),
        ),
        ("rlimits", json!([{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}])),
        ("noNewPrivileges", json!(true)),
    ];
    let members = [
        ("ociVersion", json!(SPEC_VERSION).to_string()),
        ("process", object(&process, 2)),
        ("root", json!({"path": "rootfs", "readonly": true}).to_string()),
        ("hostname", json!("corten").to_string()),
        ("mounts", array(&mounts(rootless))),
        ("linux", object(&linux(rootless, hierarchy), 2)),
    ];
    let mut out = String::from("{\n");
    for (i, (name, value)) in members.iter().enumerate() {
        let comma = if i + 1 < members.len() { "," } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  \"{name}\": {value}{comma}");
    }
    out + "}\n"
}

fn mounts(rootless: Option<(u32, u32)>) -> Vec<Value> {
    let row = |&(destination, kind, source, options): &Mount| {
        // The user namespace maps only the caller's ids.
        let options: Vec<_> = options
            .iter()
            .filter(|o| rootless.is_none() || !(o.starts_with("gid=") || o.starts_with("uid=")))
            .collect();
        let mut mount = json!({"destination": destination, "type": kind, "source": source});
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    let chosen = MOUNTS
        .iter()
        .map(|mount| if rootless.is_some() && mount.0 == "/sys" { &ROOTLESS_SYS } else { mount });
    chosen.map(row).collect()
}

fn linux(rootless: Option<(u32, u32)>, hierarchy: Hierarchy) -> Vec<(&'static str, Value)> {
    let namespaces = |names: &[&str]| {
        let names = names.iter().filter(|name| hierarchy == Hierarchy::V2 || **name != "cgroup");
        names.map(|name| json!({"type": name})).collect::<Value>()
    };
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 1}]);
    let mut members = match rootless {
        Some((uid, gid)) => vec![
            ("uidMappings", map(uid)),
            ("gidMappings", map(gid)),
            ("namespaces", namespaces(&["pid", "ipc", "uts", "mount", "cgroup", "user"])),
        ],
        None => vec![
            ("resources", json!({"devices": [{"allow": false, "access": "rwm"}]})),
            ("namespaces", namespaces(&["pid", "network", "ipc", "uts", "mount", "cgroup"])),
        ],
    };
    members.push(("maskedPaths", json!(MASKED)));
    members.push(("readonlyPaths", json!(READONLY)));
    members
}

fn object(members: &[(&str, Value)], indent: usize) -> String {
    let blank = " ".repeat(indent);
    let lines: Vec<String> =
        members.iter().map(|(name, value)| format!("{blank}  \"{name}\": {value}")).collect();
    format!("{{\n{}\n{blank}}}", lines.join(",\n"))
}

fn array(items: &[Value]) -> String {
    let lines: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
    format!("[\n{}\n  ]", lines.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::args;
    use crate::config;
    use oci_spec::runtime::{Linux, LinuxNamespaceType as Ns};

    #[test]
    fn the_bundle_is_the_working_directory_unless_it_is_named() {
        let expected =
            |bundle: &str, file: &str, rootless| Args { bundle: bundle.into(), file: file.into(), rootless };
        assert_eq!(args("spec", read), expected(".", "config.json", false));
        assert_eq!(args("spec --rootless -b /b", read), expected("/b", "config.json", true));
        assert_eq!(args("spec -f c.json", read), expected(".", "c.json", false));
        assert_eq!(args("spec -b /b --file=/d/c.json", read), expected("/b", "/d/c.json", false));
    }

    #[test]
    fn the_documents_are_configurations() {
        // ids, devices rules, a network namespace, mapped ids
        for (ids, devices, network, mapped) in
            [(None, true, true, None), (Some((1000, 100)), false, false, Some((1000, 100)))]
        {
            let config = config::parse(document(ids, Hierarchy::V2)).unwrap();
            assert!(config.warnings.is_empty());
            let spec = config.spec;
            let mounts = spec.mounts().as_ref().unwrap();
            assert_eq!(mounts.len(), 7);
            assert_eq!(mounts[6].destination().as_os_str(), "/sys/fs/cgroup");
            assert_eq!(mounts[6].typ().as_deref(), Some("cgroup"));
            assert_eq!(spec.process().as_ref().unwrap().terminal(), Some(true));
            let linux = spec.linux().as_ref().unwrap();
            assert_eq!(linux.resources().is_some(), devices);
            let has = |linux: &Linux, kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind);
            assert_eq!(has(linux, Ns::Network), network);
            assert_eq!(has(linux, Ns::User), mapped.is_some());
            assert!(has(linux, Ns::Cgroup));
            let v1 = config::parse(document(ids, Hierarchy::V1)).unwrap().spec;
            assert!(!has(v1.linux().as_ref().unwrap(), Ns::Cgroup));
            let first =
                |m: &Option<Vec<oci_spec::runtime::LinuxIdMapping>>| m.as_ref().map(|m| m[0].host_id());
            let got = first(linux.uid_mappings()).zip(first(linux.gid_mappings()));
            assert_eq!(got, mapped);
        }
        assert!(document(None, Hierarchy::V2).contains("gid=5"));
        assert!(!document(Some((1, 1)), Hierarchy::V2).contains("gid=5"));
    }
}
