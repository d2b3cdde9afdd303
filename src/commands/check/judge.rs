//! The judgement about a host: a line for each of its parts, made of the facts alone.

use serde_json::{Value, json};

use super::facts::{Criu, Engine, Facts, Systemd};
use crate::log;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grade {
    Fine,
    /// Something that a configuration may ask for is not possible.
    Limited,
    /// No container is possible, or none of a kind that this host is for.
    Missing,
}

impl Grade {
    fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

/// The judgement about one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) part: &'static str,
    pub(super) grade: Grade,
    /// What is there, and the consequence of what is not.
    pub(super) text: String,
    /// What mends it.
    pub(super) hint: Option<String>,
}

fn fine(part: &'static str, text: impl Into<String>) -> Line {
    Line { part, grade: Grade::Fine, text: text.into(), hint: None }
}

fn limited(part: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Line {
    Line { part, grade: Grade::Limited, text: text.into(), hint: Some(hint.into()) }
}

fn missing(part: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Line {
    Line { part, grade: Grade::Missing, text: text.into(), hint: Some(hint.into()) }
}

/// Judges every part of the host.
pub(super) fn judge(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![kernel(facts), cgroups(facts)];
    lines.push(user_namespaces(facts));
    if facts.uid != 0 {
        lines.extend(ids(facts));
    }
    lines.push(seccomp(facts));
    lines.push(security_modules(facts));
    lines.extend([overlay(facts), idmapped_mounts(facts), checkpoints(facts), systemd(facts)]);
    lines.extend(facts.engines.iter().map(|known| engine(known, &facts.executable)));
    if facts.engines.is_empty() {
        lines.push(fine("engines", "none of podman, docker, containerd, crio and buildah is in PATH"));
    }
    lines
}

/// Reports whether no container is possible for the caller.
pub(super) fn fails(lines: &[Line]) -> bool {
    lines.iter().any(|line| line.grade == Grade::Missing)
}

fn kernel(facts: &Facts) -> Line {
    match &facts.kernel {
        Some(why) => missing("kernel", format!("{why}: no container can be made"), "boot a newer kernel"),
        None => fine("kernel", format!("Linux {}", facts.release)),
    }
}

/// The controllers that the limits of the specification need.
const NEEDED: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

fn cgroups(facts: &Facts) -> Line {
    let found = &facts.cgroups;
    if let Some(why) = &found.error {
        return missing("cgroups", why, "mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    }
    if !found.v2 && found.v1.is_empty() {
        let hint = "mount -t cgroup2 cgroup2 /sys/fs/cgroup";
        return limited("cgroups", "none are mounted: nothing can be limited, frozen or counted", hint);
    }
    if !found.v2 {
        let hint = "boot with systemd.unified_cgroup_hierarchy=1";
        return match facts.uid {
            0 => {
                limited("cgroups", "version 1: no limits for rootless containers, no --systemd-cgroup", hint)
            }
            _ => limited("cgroups", "version 1: no limits for rootless containers", hint),
        };
    }
    let delegate =
        "systemctl edit user@.service, [Service] Delegate=cpu cpuset io memory pids, then log in again";
    if !found.writable {
        let text = "version 2, of which nothing is delegated to this user: nothing can be limited";
        return limited("cgroups", text, delegate);
    }
    let lacking: Vec<&str> =
        NEEDED.into_iter().filter(|name| !found.delegated.iter().any(|c| c == name)).collect();
    let (absent, kept): (Vec<&str>, Vec<&str>) =
        lacking.iter().partition(|name| !found.offered.iter().any(|c| c == *name));
    if !absent.is_empty() {
        let text =
            format!("version 2, without the controllers {}: their limits are refused", absent.join(", "));
        let hint = "a host with version 1 may use them there, or the kernel may have been booted with cgroup_disable=";
        return limited("cgroups", text, hint);
    }
    if !kept.is_empty() {
        let text =
            format!("version 2, {} not delegated to this user: their limits are refused", kept.join(", "));
        return limited("cgroups", text, delegate);
    }
    fine("cgroups", format!("version 2, with {}", found.delegated.join(", ")))
}

fn user_namespaces(facts: &Facts) -> Line {
    let part = "user namespaces";
    match (&facts.users, facts.uid) {
        (None, _) if facts.user_namespace => fine(part, "can be made in the one that the caller is in"),
        (None, _) => fine(part, "can be made"),
        (Some((why, hint)), 0) => limited(part, format!("{why}: no containers with id mappings"), hint),
        (Some((why, hint)), _) => missing(part, format!("{why}: no rootless containers"), hint),
    }
}

/// Only a caller who is not root needs delegated ids.
fn ids(facts: &Facts) -> Vec<Line> {
    let mut lines = Vec::new();
    let [uids, gids] = facts.delegated;
    let name = if facts.name.is_empty() { facts.uid.to_string() } else { facts.name.clone() };
    if uids == 0 || gids == 0 {
        let text = format!("none for {name} in /etc/subuid and /etc/subgid: a container has one user");
        let hint = format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}");
        lines.push(limited("delegated ids", text, hint));
    } else {
        lines.push(fine("delegated ids", format!("{uids} users and {gids} groups for {name}")));
    }
    if facts.helpers == [true, true] {
        lines.push(fine("newuidmap", "it and newgidmap are in PATH"));
    } else {
        let text = "it or newgidmap is not in PATH: a container has one user";
        lines.push(limited("newuidmap", text, "install the package uidmap (shadow-utils)"));
    }
    lines
}

fn seccomp(facts: &Facts) -> Line {
    if !facts.seccomp {
        return limited(
            "seccomp",
            "not in this kernel: configurations with a profile fail",
            "CONFIG_SECCOMP_FILTER",
        );
    }
    if facts.seccomp_lacks.is_empty() {
        return fine("seccomp", "with every flag of the specification");
    }
    let text = format!("without the flags {}", facts.seccomp_lacks.join(", "));
    limited("seccomp", text, "a newer kernel has them")
}

fn security_modules(facts: &Facts) -> Line {
    let part = "security modules";
    let Some(modules) = &facts.modules else {
        let hint = "mount -t securityfs securityfs /sys/kernel/security";
        return limited(part, "the kernel's list cannot be read", hint);
    };
    let has = |name: &str| modules.trim().split(',').any(|module| module == name);
    let shown = modules.trim().replace(',', ", ");
    if has("apparmor") || has("selinux") {
        return fine(part, shown);
    }
    let text = format!("{shown}: neither AppArmor nor SELinux, and their labels are ignored");
    limited(part, text, "boot with lsm=…,apparmor, or see --strict-labels")
}

fn overlay(facts: &Facts) -> Line {
    if facts.overlay {
        fine("overlay", "in the kernel, or a module that it can load")
    } else {
        limited(
            "overlay",
            "the kernel does not list it: engines cannot stack images by it",
            "modprobe overlay",
        )
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Every supported kernel has idmapped mounts, of more and more file systems (mount_setattr(2)).
fn idmapped_mounts(facts: &Facts) -> Line {
    let (part, hint) = ("idmapped mounts", "a newer kernel has them");
    match version(&facts.release) {
        Some(found) if found < (5, 19) => {
            limited(part, "not with images that overlay stacks, nor on tmpfs", hint)
        }
        Some(found) if found < (6, 3) => limited(part, "not on tmpfs", hint),
        _ => fine(part, "of most file systems, overlay's layers and tmpfs among them"),
    }
}

fn checkpoints(facts: &Facts) -> Line {
    let part = "checkpoints";
    if facts.uid != 0 || facts.user_namespace {
        return fine(part, "only the host's root makes and restores them");
    }
    match &facts.criu {
        Criu::Version(version) => {
            fine(part, format!("CRIU {version}; whether the kernel suffices, criu check reports"))
        }
        Criu::Absent => {
            limited(part, "CRIU is not in PATH: no checkpoint, no restore", "install the package criu")
        }
        Criu::Refuses(why) => {
            limited(part, format!("no checkpoint, no restore: {why}"), "install CRIU 3.16 or newer")
        }
    }
}

fn systemd(facts: &Facts) -> Line {
    let manager = if facts.uid == 0 { "systemd" } else { "the user's systemd" };
    match &facts.systemd {
        Systemd::Reached => fine("systemd", format!("{manager} answers on its bus")),
        Systemd::Absent => fine("systemd", "does not run here: containers without --systemd-cgroup only"),
        Systemd::Silent(why) => {
            let hint = match facts.uid {
                0 => "systemctl status dbus.socket",
                _ => "loginctl enable-linger, and log in with a session",
            };
            limited("systemd", format!("{manager} does not answer: no --systemd-cgroup: {why}"), hint)
        }
    }
}

/// `path` is that of corten.
fn engine(engine: &Engine, path: &str) -> Line {
    let Engine { name, set_up } = *engine;
    if set_up {
        return fine(name, "seems to be set up for corten");
    }
    let hint = match name {
        "docker" => {
            format!("/etc/docker/daemon.json: {{\"runtimes\": {{\"corten\": {{\"path\": \"{path}\"}}}}}}")
        }
        "containerd" => {
            format!("/etc/containerd/config.toml: BinaryName = \"{path}\" for a runc.v2 runtime")
        }
        "crio" => {
            format!(
                "/etc/crio/crio.conf.d/10-corten.conf: [crio.runtime.runtimes.corten] runtime_path = \"{path}\" \
                 and monitor_path = \"/path/of/conmon\""
            )
        }
        _ => format!("/etc/containers/containers.conf: [engine.runtimes] corten = [\"{path}\"]"),
    };
    limited(name, "does not seem to know corten", hint)
}

/// Returns the judgement for people: a line for each part.
pub(super) fn text(lines: &[Line]) -> String {
    let line = |Line { part, grade, text, hint }: &Line| {
        let hint = hint.as_ref().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
        format!("{:<8} {part}: {}{hint}\n", grade.name(), log::one_line(text))
    };
    lines.iter().map(line).collect()
}

/// Returns the judgement for programs.
pub(super) fn document(lines: &[Line]) -> Value {
    let line = |Line { part, grade, text, hint }: &Line| {
        let mut line = json!({"part": part, "grade": grade.name(), "message": text});
        if let Some(hint) = hint {
            line["hint"] = json!(hint);
        }
        line
    };
    json!({"host": lines.iter().map(line).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::super::facts::Cgroups;
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(Into::into).collect()
    }

    /// Returns a host that has everything.
    fn good(uid: u32) -> Facts {
        let all = words("cpuset cpu io memory pids");
        Facts {
            release: "6.12.1".into(),
            uid,
            name: "me".into(),
            cgroups: Cgroups {
                v2: true,
                offered: all.clone(),
                delegated: all,
                writable: true,
                ..Cgroups::default()
            },
            delegated: [65536, 65536],
            helpers: [true, true],
            seccomp: true,
            modules: Some("lockdown,capability,apparmor".into()),
            overlay: true,
            criu: Criu::Version("4.1.1".into()),
            systemd: Systemd::Reached,
            engines: vec![Engine { name: "podman", set_up: true }],
            executable: "/opt/corten".into(),
            ..Facts::default()
        }
    }

    #[test]
    fn a_host_that_has_everything_is_fine() {
        for (uid, parts) in [(0, 10), (1000, 12)] {
            let lines = judge(&good(uid));
            assert_eq!(lines.len(), parts);
            assert!(lines.iter().all(|line| line.grade == Grade::Fine), "{}", text(&lines));
            assert!(!fails(&lines));
        }
    }

    type Change = fn(&mut Facts);

    /// The caller, what the host lacks, and the line about it.
    const LACKS: &[(u32, Change, &str)] = &[
        (0, |f| f.criu = Criu::Absent, "limited  checkpoints: CRIU is not in PATH"),
        (
            0,
            |f| f.criu = Criu::Refuses("CRIU 3.11 is too old".into()),
            "limited  checkpoints: no checkpoint, no restore: CRIU 3.11",
        ),
        (
            0,
            |f| f.kernel = Some("Linux 4.18 is older than 5.14".into()),
            "missing  kernel: Linux 4.18 is older",
        ),
        (0, |f| f.cgroups = Cgroups::default(), "limited  cgroups: none are mounted: nothing can be limited"),
        (
            0,
            |f| f.cgroups = Cgroups { v1: words("cpu memory"), ..Cgroups::default() },
            "limited  cgroups: version 1: no limits for rootless containers, no --systemd-cgroup",
        ),
        (
            1000,
            |f| f.cgroups.delegated = words("memory pids"),
            "limited  cgroups: version 2, cpu, cpuset, io not delegated to this user: their limits are refused",
        ),
        (
            1000,
            |f| f.cgroups.writable = false,
            "limited  cgroups: version 2, of which nothing is delegated to this user",
        ),
        (
            0,
            |f| {
                f.cgroups.offered = words("cpu io memory pids");
                f.cgroups.delegated = words("cpu io memory pids");
            },
            "limited  cgroups: version 2, without the controllers cpuset: their limits are refused",
        ),
        (
            1000,
            |f| f.users = Some(("it forbids user namespaces".into(), "sysctl x=1".into())),
            "missing  user namespaces: it forbids user namespaces: no rootless containers (hint: sysctl x=1)",
        ),
        (
            0,
            |f| f.users = Some(("it forbids user namespaces".into(), "sysctl x=1".into())),
            "limited  user namespaces: it forbids user namespaces: no containers with id mappings",
        ),
        (
            1000,
            |f| f.delegated = [65536, 0],
            "limited  delegated ids: none for me in /etc/subuid and /etc/subgid: a container has one user (hint: \
             usermod --add-subuids 100000-165535 --add-subgids 100000-165535 me)",
        ),
        (1000, |f| f.helpers = [true, false], "limited  newuidmap: it or newgidmap is not in PATH"),
        (0, |f| f.seccomp = false, "limited  seccomp: not in this kernel"),
        (0, |f| f.seccomp_lacks = vec!["F"], "limited  seccomp: without the flags F"),
        (0, |f| f.modules = None, "limited  security modules: the kernel's list cannot be read"),
        (
            0,
            |f| f.modules = Some("capability\n".into()),
            "limited  security modules: capability: neither AppArmor",
        ),
        (0, |f| f.overlay = false, "limited  overlay: the kernel does not list it"),
        (0, |f| f.release = "5.15.0".into(), "limited  idmapped mounts: not with images that overlay stacks"),
        (0, |f| f.release = "6.1.0".into(), "limited  idmapped mounts: not on tmpfs"),
        (0, |f| f.systemd = Systemd::Absent, "fine     systemd: does not run here"),
        (
            1000,
            |f| f.systemd = Systemd::Silent("no".into()),
            "limited  systemd: the user's systemd does not answer",
        ),
        (0, |f| f.engines.clear(), "fine     engines: none of podman"),
        (
            0,
            |f| f.engines = vec![Engine { name: "docker", set_up: false }],
            "limited  docker: does not seem to know corten (hint: /etc/docker/daemon.json: {\"runtimes\": \
             {\"corten\": {\"path\": \"/opt/corten\"}}})",
        ),
        (
            0,
            |f| f.engines = vec![Engine { name: "crio", set_up: false }],
            "limited  crio: does not seem to know corten (hint: /etc/crio/crio.conf.d/10-corten.conf: \
             [crio.runtime.runtimes.corten] runtime_path = \"/opt/corten\" and monitor_path = \"/path/of/conmon\")",
        ),
    ];

    #[test]
    fn each_lack_has_a_grade_a_consequence_and_what_mends_it() {
        for (uid, change, expected) in LACKS {
            let mut facts = good(*uid);
            change(&mut facts);
            let lines = judge(&facts);
            let text = text(&lines);
            assert!(text.lines().any(|line| line.starts_with(expected)), "{expected}:\n{text}");
            assert_eq!(fails(&lines), expected.starts_with("missing"), "{expected}");
            assert!(lines.iter().all(|line| line.grade == Grade::Fine || line.hint.is_some()));
        }
    }

    #[test]
    fn the_document_has_the_same() {
        let mut facts = good(0);
        facts.overlay = false;
        let document = document(&judge(&facts));
        let overlay =
            document["host"].as_array().unwrap().iter().find(|line| line["part"] == "overlay").unwrap();
        assert_eq!((&overlay["grade"], &overlay["hint"]), (&json!("limited"), &json!("modprobe overlay")));
    }
}
