//! What this host cannot do of a plan: what `create` would find when it carries the plan out. The checks are those of
//! the code that carries it out, where that can look without an effect.

use std::ffi::{CStr, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::facts;
use crate::cgroups::foresee;
use crate::error::{Notes, Result};
use crate::host::{self, Host};
use crate::namespaces::{self, KINDS, idmap, netdev};
use crate::plan::Plan;
use crate::process::{lookup, lsm};
use crate::rootfs::{self, resolve};
use crate::sys::{self, fs, process};

/// Returns what the host cannot do as problems. A warning is about what may be possible nevertheless.
pub(super) fn limits(plan: &Plan, host: &Host) -> Notes {
    let mut notes = Notes::default();
    if let Err(error) = host::check_kernel() {
        notes.problem("", format_args!("{error:#}"));
    }
    check_namespaces(plan, host, &mut notes);
    check_ids(plan, host, &mut notes);
    if let Some(cgroup) = &plan.cgroup {
        let found = foresee::hindrances(cgroup);
        found.errors.iter().for_each(|error| add(&mut notes, error));
        found.warnings.iter().for_each(|error| notes.warn(format!("{error:#}")));
    }
    for (place, error) in rootfs::missing(&plan.rootfs) {
        notes.problem(place, error);
    }
    check_file_systems(plan, host, &mut notes);
    check_hooks(plan, &mut notes);
    check_kernel_parts(plan, host, &mut notes);
    check_program(plan, &mut notes);
    notes
}

/// Adds an error whose text begins with its place.
fn add(notes: &mut Notes, error: &anyhow::Error) {
    let text = format!("{error:#}");
    match text.split_once(": ") {
        Some((place, message)) if is_place(place) => notes.problem(place, message),
        _ => notes.problem("", text),
    }
}

fn is_place(text: &str) -> bool {
    ["process", "root", "mounts", "hooks", "linux", "annotations"]
        .iter()
        .any(|top| text.strip_prefix(top).is_some_and(|rest| rest.starts_with(['.', '['])))
        && !text.contains(' ')
}

/// The namespaces that are new must be of kinds that the kernel has, and the others must exist.
fn check_namespaces(plan: &Plan, host: &Host, notes: &mut Notes) {
    let plan_ = &plan.namespaces;
    for kind in KINDS.iter().filter(|kind| plan_.creates(kind.flag)) {
        let file = format!("self/ns/{}", kind.file);
        if fs::stat_at(host.proc, Path::new(&file)).is_err() {
            notes.problem("linux.namespaces", format_args!("this kernel has no {} namespaces", kind.name));
        }
        let limit = format!("max_{}_namespaces", kind.file);
        if sysctl(host.proc, &format!("user/{limit}")).as_deref() == Some("0") {
            let text = format!("no new {} namespace is allowed (hint: sysctl user.{limit}=1024)", kind.name);
            notes.problem("linux.namespaces", text);
        }
    }
    let user = plan_.creates(libc::CLONE_NEWUSER);
    if host.uid != 0 && plan_.create != 0 && !plan_.has(libc::CLONE_NEWUSER) {
        let text = "a caller without root's rights needs a user namespace (hint: corten spec --rootless)";
        notes.problem("linux.namespaces", text);
    }
    if let Some((what, hint)) = facts::user_namespaces_refused(host.proc, host.uid).filter(|_| user) {
        notes.problem("linux.namespaces", format_args!("{what} (hint: {hint})"));
    }
    // The descriptors are closed again.
    if let Err(error) = namespaces::open(plan_, &plan.changes(), host.proc) {
        add(notes, &error);
    }
    match netdev::missing(&plan_.devices) {
        Ok(missing) => missing.iter().for_each(|(place, e)| notes.problem(place, format_args!("{e:#}"))),
        Err(error) => notes.problem("linux.netDevices", format_args!("{error:#}")),
    }
}

fn sysctl(proc: BorrowedFd, name: &str) -> Option<String> {
    fs::read_text(proc, &Path::new("sys").join(name)).ok().map(|text| text.trim().into())
}

/// For a caller who is not root, newuidmap(1) writes the id maps, of the ids that are delegated to the caller.
fn check_ids(plan: &Plan, host: &Host, notes: &mut Notes) {
    let namespaces::Plan { uid_map, gid_map, .. } = &plan.namespaces;
    let new = plan.namespaces.creates(libc::CLONE_NEWUSER);
    if !new || host.uid == 0 || !idmap::needs_helpers(uid_map, gid_map) {
        return;
    }
    for (helper, map) in idmap::HELPERS.iter().zip([uid_map, gid_map]) {
        let (place, program) = (helper.place, helper.program);
        if host::in_path(program).is_none() {
            notes.problem(place, format_args!("{program} is not in PATH (hint: install the package uidmap)"));
        }
        helper.undelegated(map).into_iter().for_each(|text| notes.problem(place, text));
    }
}

/// A file system of an unknown type may be in a module, which mount(2) loads.
fn check_file_systems(plan: &Plan, host: &Host, notes: &mut Notes) {
    let known = fs::read_text(host.proc, Path::new("filesystems")).unwrap_or_default();
    for mount in &plan.rootfs.mounts {
        let rootfs::Kind::New { fstype, .. } = &mount.kind else { continue };
        let name = fstype.split('.').next().unwrap_or_default();
        if known.lines().any(|line| line.split_ascii_whitespace().last() == Some(name)) {
            continue;
        }
        let place = format!("{}.type", mount.place);
        match facts::module(name) {
            Some(true) => {}
            Some(false) => {
                notes.problem(
                    place,
                    format_args!("this kernel has no file system {name:?}, and no module of it"),
                );
            }
            None => {
                let text = "this kernel lists no file system";
                notes.warn(format!("{place}: {text} {name:?} (hint: a module of it may be loaded)"));
            }
        }
    }
}

/// The hooks of the host must be executable. Those of the image are looked up later.
fn check_hooks(plan: &Plan, notes: &mut Notes) {
    let hooks = &plan.hooks;
    let lists =
        [&hooks.prestart, &hooks.create_runtime, &hooks.create_container, &hooks.poststart, &hooks.poststop];
    for hook in lists.into_iter().flatten() {
        let mode = process::stat_mode(&hook.path).map_err(|e| e.to_string());
        if let Err(why) = mode.and_then(lookup::executable_mode) {
            notes.problem(format_args!("{}.path", hook.place), why);
        }
    }
}

/// What single members need of the kernel.
fn check_kernel_parts(plan: &Plan, host: &Host, notes: &mut Notes) {
    if plan.seccomp.is_some() && sysctl(host.proc, "kernel/seccomp/actions_avail").is_none() {
        notes.problem("linux.seccomp", "this kernel has no seccomp filters");
    }
    for parameter in &plan.sysctl {
        // What belongs to a device exists only where the device is.
        let of_device =
            ["conf", "neigh"].iter().any(|dir| parameter.path.components().any(|c| c.as_os_str() == *dir));
        let path = Path::new("sys").join(&parameter.path);
        let missing = fs::stat_at(host.proc, &path).is_err_and(|e| e.errno == Errno::ENOENT);
        if missing && !of_device {
            notes.problem(&parameter.place, "this kernel has no such parameter");
        }
    }
    let profile = plan.process.as_ref().and_then(|process| process.labels.apparmor.as_deref());
    if let Some(profile) = profile
        && let Ok(loaded) = fs::read_text(fs::CWD, Path::new("/sys/kernel/security/apparmor/profiles"))
        && let Some(text) = lsm::not_loaded(profile, &loaded)
    {
        notes.problem("process.apparmorProfile", text.trim_start_matches("process.apparmorProfile "));
    }
}

/// Directories in which no program of a container is.
const WITHOUT_PROGRAMS: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/etc", "/tmp"];

/// The programs of the image must exist. They are looked up as they will be, but without the container's mounts, and
/// are opened as O_PATH only.
fn check_program(plan: &Plan, notes: &mut Notes) {
    let Some(process) = &plan.process else { return };
    let Ok(root) = fs::open(fs::CWD, &plan.rootfs.path, fs::O_PATH | fs::O_DIRECTORY, 0) else { return };
    let look = |path: &CStr| executable(root.as_fd(), &process.cwd, path);
    let program = process.argv.first().map(|name| lookup::find_by(name, &process.env, look));
    let mut found = Vec::new();
    found.extend(program.and_then(Result::err).map(|e| ("process.args".to_string(), format!("{e:#}"))));
    for hook in &plan.hooks.start_container {
        found.extend(look(&hook.path).err().map(|why| (format!("{}.path", hook.place), why)));
    }
    let may_have = |mount: &rootfs::Mount| {
        let destination = Path::new("/").join(resolve::words(&mount.destination));
        !WITHOUT_PROGRAMS.iter().any(|dir| destination.starts_with(dir))
            || process.argv.first().is_some_and(|name| in_directory(name, &destination))
    };
    let mount = plan.rootfs.mounts.iter().find(|mount| may_have(mount));
    for (place, message) in found {
        match mount {
            Some(mount) => notes.warn(format!("{place}: {message}, unless {} has it", mount.place)),
            None => notes.problem(place, message),
        }
    }
}

fn in_directory(name: &CStr, directory: &Path) -> bool {
    Path::new(OsStr::from_bytes(name.to_bytes())).starts_with(directory)
}

/// Checks that a path of the image, from the container's working directory, is a program.
fn executable(root: BorrowedFd, cwd: &Path, path: &CStr) -> std::result::Result<(), String> {
    let path = PathBuf::from(OsString::from_vec(path.to_bytes().to_vec()));
    let file = resolve::open(root, &cwd.join(&path))
        .map_err(|e| format!("stat {}: {}", path.display(), sys::text(e.errno)))?;
    lookup::executable_mode(fs::fstat(file.as_fd()).map_err(|e| e.to_string())?.st_mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_taken_from_an_error() {
        for (text, place, message) in [
            ("linux.resources.cpu.shares: not available", "linux.resources.cpu.shares", "not available"),
            ("mounts[1].source /x: no", "", "mounts[1].source /x: no"),
            ("systemd: no", "", "systemd: no"),
            ("no", "", "no"),
        ] {
            let mut notes = Notes::default();
            add(&mut notes, &anyhow::anyhow!(text));
            let found = &notes.problems.0[0];
            assert_eq!((found.place.as_str(), found.message.as_str()), (place, message), "{text}");
        }
    }
}
