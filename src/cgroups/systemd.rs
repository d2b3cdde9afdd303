//! cgroup v2 through systemd, which creates the cgroup as a transient unit and has to stop the unit in the
//! end.
//!
//! [`plan`] decides the unit and its properties without touching anything. systemd creates a scope only
//! around a process that exists. Therefore the container process is cloned outside and waits, as it does for
//! id maps. [`start`] makes systemd move it into the unit. The limits without a systemd property are written
//! to the unit's files ([`super::limit`]). Only then does the process continue and make its cgroup namespace.
//!
//! Every limit that systemd has a property for is also set as a property, or systemd would revert it one day
//! (`properties.rs`). `update` sets the properties first, because systemd then writes everything that it
//! knows of that controller, rounded (`update.rs`).
//!
//! The device filter is attached by corten alone. systemd's rules have no order and cannot take a rule back,
//! so they could only be a wider filter in addition to ours. Every device would have to pass both: nothing
//! would be gained, and a device that an `update` allows would be denied by rules that have not changed yet.
//! systemd does not replace a program that it did not attach, and `update` replaces only the program with our
//! name. Rules that an administrator sets for the unit in systemd apply in addition.
//!
//! The unit is on record ([`CgroupRecord::unit`](super::CgroupRecord::unit)), so later commands do not need
//! `--systemd-cgroup`. `delete` kills, stops the unit, and then removes the rest. If a user calls `exec` from
//! a session whose cgroup is not below the user's systemd, systemd moves the new process into the cgroup
//! ([`attach`]).

mod manager;
mod properties;
mod update;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Host, Request, Write};
use crate::dbus::{self, Bus, Value};
use crate::error::{Kind, Notes, Result, fail};
use crate::sys;
use crate::trace;
pub(crate) use manager::connect;
use manager::{list, manager, supported};
pub(crate) use properties::{ANNOTATION, Property, of_writes};
pub(crate) use update::{Update, shown};

/// The longest name that systemd gives a unit.
const NAME_MAX: usize = 255;

/// A unit and the systemd that manages it, for later commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    /// The user's own systemd manages it.
    pub user: bool,
}

/// A unit to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub unit: Unit,
    pub properties: Vec<Property>,
    /// The places of the annotations among them, since systemd does not report which property it refuses.
    pub asked: Vec<String>,
}

impl Unit {
    /// Reports whether it is a slice, which systemd creates without a process.
    pub(super) fn is_slice(&self) -> bool {
        is_slice(&self.name)
    }
}

fn is_slice(name: &str) -> bool {
    Path::new(name).extension() == Some(OsStr::new("slice"))
}

/// Decides the unit, and its cgroup's path below the mount. Errors go to `notes`.
pub(super) fn plan(
    request: &Request,
    host: &Host,
    writes: &[Write],
    notes: &mut Notes,
) -> Option<(Scope, PathBuf)> {
    let noted = notes.problems.0.len();
    let (asked, wanted) =
        annotated_properties(request.annotations, notes).into_iter().unzip::<_, _, Vec<_>, Vec<_>>();
    let place = "linux.cgroupsPath";
    let mut note = |message: String| notes.problem(place, message);
    let manager = if request.rootless { user_manager(host, request.uid) } else { None };
    let user = manager.is_some();
    let (slice, name) = unit_of_path(request, user).map_err(&mut note).ok()?;
    let base = manager.unwrap_or_default();
    if notes.problems.0.len() > noted {
        return None;
    }
    let path = base.join(expand_slice(&slice));
    let unit = Unit { name, user };
    let path = if unit.is_slice() { base.join(expand_slice(&unit.name)) } else { path.join(&unit.name) };
    let mut properties = common_properties(&unit, &slice, request.id);
    properties.extend(wanted);
    properties.extend(of_writes(writes));
    Some((Scope { unit, properties, asked }, path))
}

/// Returns the slice and the unit's name for a path of the form `slice:prefix:name`, as runc and its callers
/// use it. `user` says whether a user's systemd will manage the unit.
pub(super) fn unit_of_path(request: &Request, user: bool) -> Result<(String, String), String> {
    let default = if user { "user.slice" } else { "system.slice" };
    let escaped;
    let (slice, prefix, name) = match request.path {
        None => {
            // The only character of an id that a unit's name cannot have.
            escaped = request.id.replace('+', "\\x2b");
            (default, "corten", escaped.as_str())
        }
        Some(path) => {
            let text = path.to_str().unwrap_or_default();
            match *text.split(':').collect::<Vec<_>>() {
                [slice, prefix, name] => (if slice.is_empty() { default } else { slice }, prefix, name),
                _ => {
                    return Err(format!(
                        "{path:?} is not slice:prefix:name, as the systemd cgroup manager needs it"
                    ));
                }
            }
        }
    };
    check_slice(slice)?;
    let dash = if prefix.is_empty() { "" } else { "-" };
    let name = if is_slice(name) { name.to_string() } else { format!("{prefix}{dash}{name}.scope") };
    check_name(&name)?;
    if is_slice(&name) {
        check_slice(&name)?;
    }
    Ok((slice.into(), name))
}

fn check_name(name: &str) -> Result<(), String> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\".contains(&b);
    let stem = name.rsplit_once('.').map_or("", |(stem, _)| stem);
    if stem.is_empty() || name.len() > NAME_MAX || !name.bytes().all(known) {
        let shown: String = name.chars().take(NAME_MAX).collect();
        return Err(format!("{shown:?} cannot be the name of a systemd unit"));
    }
    Ok(())
}

/// Checks the name of a slice. Dashes divide it into the names of its parents (systemd.slice(5)).
fn check_slice(name: &str) -> Result<(), String> {
    let stem = name.strip_suffix(".slice").unwrap_or_default();
    if stem != "-" && (stem.is_empty() || stem.split('-').any(str::is_empty)) {
        return Err(format!("{name:?} is not the name of a slice, such as a-b.slice"));
    }
    check_name(name)
}

/// Returns the path of a slice below its manager's cgroup: `a.slice/a-b.slice` for `a-b.slice`, and nothing
/// for the root slice, `-.slice`.
fn expand_slice(name: &str) -> PathBuf {
    let stem = name.strip_suffix(".slice").unwrap_or(name);
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    ends.filter(|_| stem != "-").map(|end| format!("{}.slice", &stem[..end])).collect()
}

/// Returns the cgroup of the user's systemd, or `None` if the system's systemd manages our cgroups.
///
/// Inside a user namespace, `uid` 0 is not the outside user, so the user is taken from our own cgroup path. If
/// that shows no user, or root, the namespace is that of a whole system: an unprivileged LXC container, or
/// `systemd-nspawn --private-users`. As in runc, services and root's sessions there use the systemd of that
/// system.
fn user_manager(host: &Host, uid: u32) -> Option<PathBuf> {
    let own = host.own.as_deref().unwrap_or(Path::new(""));
    let names: Vec<&str> = own.components().filter_map(|c| c.as_os_str().to_str()).collect();
    let number = |name: &str, before: &str, after: &str| -> Option<u32> {
        name.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
    };
    let is_users = |n: u32| n != 0 && (uid == 0 || n == uid);
    let manager = names.iter().position(|name| number(name, "user@", ".service").is_some_and(is_users));
    if let Some(at) = manager {
        return Some(own.components().take(at + 1).map(Component::as_os_str).collect());
    }
    let by_session = || names.iter().find_map(|name| number(name, "user-", ".slice"));
    let uid = if uid == 0 { by_session().filter(|uid| *uid != 0)? } else { uid };
    Some(PathBuf::from(format!("user.slice/user-{uid}.slice/user@{uid}.service")))
}

fn annotated_properties(
    annotations: Option<&HashMap<String, String>>,
    notes: &mut Notes,
) -> Vec<(String, Property)> {
    let wanted = annotations.into_iter().flatten();
    let mut wanted: Vec<_> =
        wanted.filter_map(|(key, text)| Some((key.strip_prefix(ANNOTATION)?, text))).collect();
    wanted.sort_unstable();
    let mut properties = Vec::new();
    for (name, text) in wanted {
        let place = format!("annotations[\"{ANNOTATION}{name}\"]");
        match properties::of_annotation(name, text) {
            Ok(property) => properties.push((place, property)),
            Err(message) => notes.problem(place, message),
        }
    }
    properties
}

/// Returns the properties of every unit.
fn common_properties(unit: &Unit, slice: &str, id: &str) -> Vec<Property> {
    let on = |name: &str| (name.to_string(), Value::Bool(true));
    let mut properties = vec![
        ("Description".into(), Value::str(format!("corten container {id}"))),
        // With them, a shutdown would stop the container before the service that manages it.
        ("DefaultDependencies".into(), Value::Bool(false)),
    ];
    if !unit.is_slice() {
        properties.push(("Slice".into(), Value::str(slice)));
        // systemd leaves the sub-tree alone and enables every controller for it.
        properties.push(on("Delegate"));
    }
    properties.extend(["CPUAccounting", "IOAccounting", "MemoryAccounting", "TasksAccounting"].map(on));
    properties
}

/// Makes systemd create the unit. A scope contains the process `pid` from the beginning.
pub(crate) fn start(bus: &mut Bus, scope: &Scope, pid: i32) -> Result<()> {
    let _phase = trace::phase_of("systemd starts the unit", || &scope.unit.name);
    let unit = &scope.unit;
    let mut properties = supported(bus, scope.properties.clone())?;
    if !unit.is_slice() {
        properties.push(("PIDs".into(), Value::Array("u".into(), vec![Value::U32(pid as u32)])));
    }
    let no_more = Value::Array("(sa(sv))".into(), Vec::new());
    let body = [Value::str(&unit.name), Value::str("fail"), list(properties), no_more];
    let call = manager("StartTransientUnit", &body);
    let exists = |e: &anyhow::Error| dbus::error_name(e) == Some("org.freedesktop.systemd1.UnitExists");
    let answer = match bus.call(&call) {
        // A failed unit stays loaded until it is reset.
        Err(e) if exists(&e) => {
            bus.call(&manager("ResetFailedUnit", &[Value::str(&unit.name)])).and_then(|_| bus.call(&call))
        }
        other => other,
    };
    let answer = answer.map_err(|e| match &scope.asked[..] {
        _ if exists(&e) => e.context(format!("linux.cgroupsPath: {}", unit.name)),
        [] => e.context(unit.name.clone()),
        asked => e.context(format!("{} with {}", unit.name, asked.join(", "))),
    })?;
    finish(bus, &answer, unit, "start")
}

/// Reports whether systemd has refused, by this error of [`start`], to create the unit. A unit of that name
/// is then not the container's.
#[must_use]
pub(crate) fn refused(error: &anyhow::Error) -> bool {
    // The bus returns NoReply if systemd did not answer. Then the unit may exist.
    dbus::error_name(error).is_some_and(|name| !name.starts_with("org.freedesktop.DBus.Error.NoReply"))
}

/// Waits for the end of a job.
fn finish(bus: &mut Bus, answer: &dbus::Answer, unit: &Unit, verb: &str) -> Result<()> {
    let name = &unit.name;
    let result = bus.await_job(answer, &format!("systemd's job to {verb} {name}"))?;
    if result == "done" {
        return Ok(());
    }
    let hint = if unit.user { "journalctl --user" } else { "journalctl" };
    Err(fail(Kind::Os, format!("systemd's job to {verb} {name}: {result} (hint: {hint} -u {name})")))
}

/// Makes systemd stop the unit, whose processes must have ended. A unit that does not exist is no error.
pub(crate) fn stop(unit: &Unit) -> Result<()> {
    let _phase = trace::phase_of("systemd stops the unit", || &unit.name);
    let gone = |e: &anyhow::Error| dbus::error_name(e) == Some("org.freedesktop.systemd1.NoSuchUnit");
    let mut bus = match connect(unit) {
        // A user who has logged out has no systemd any more, and therefore no units.
        Err(e) if matches!(sys::errno(&e), Some(Errno::ENOENT | Errno::ECONNREFUSED)) => return Ok(()),
        other => other?,
    };
    let name = Value::str(&unit.name);
    match bus.call(&manager("StopUnit", &[name.clone(), Value::str("replace")])) {
        Err(e) if gone(&e) => return Ok(()),
        Err(e) => return Err(e.context(unit.name.clone())),
        Ok(answer) => finish(&mut bus, &answer, unit, "stop")?,
    }
    match bus.call(&manager("ResetFailedUnit", &[name])) {
        // Usually there is nothing left to reset.
        Err(e) if gone(&e) => Ok(()),
        other => other.map(drop).map_err(|e| e.context(unit.name.clone())),
    }
}

/// Makes systemd put one more process into the unit.
pub(crate) fn attach(unit: &Unit, pid: i32) -> Result<()> {
    let _phase = trace::phase_of("systemd attaches", || format!("process {pid} to {}", unit.name));
    let pids = Value::Array("u".into(), vec![Value::U32(pid as u32)]);
    let body = [Value::str(&unit.name), Value::str(""), pids];
    let attached = connect(unit)?.call(&manager("AttachProcessesToUnit", &body));
    attached.map(drop).map_err(|e| e.context(unit.name.clone()))
}

#[cfg(test)]
mod tests;
