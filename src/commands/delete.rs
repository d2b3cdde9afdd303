//! `delete`: removes a container that has stopped, or with --force any. With --all each one of this root.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use oci_spec::runtime::LinuxNamespaceType;

use super::start::{Later, PATIENCE};
use super::{Failures, gc};
use crate::cli::{Delete, Globals};
use crate::error::{Kind, Result, fail, kind};
use crate::state::{Dir, Record, Status};
use crate::sys::task;
use crate::{cgroups, launch, log, state};

#[inline(never)]
pub(super) fn run(globals: &Globals, args: &Delete) -> Result<()> {
    let root = state::root(globals.root.as_deref())?;
    let Some(id) = &args.id else { return all(&root, args.force) };
    match state::open(&root, id).and_then(|dir| delete(dir, args.force)) {
        // Engines always delete once more than needed, and want to hear of no error.
        Err(e) if args.force && kind(&e) == Kind::NotFound => state::purge_deleted(&root, id),
        other => other,
    }
}

/// One that cannot be deleted does not keep the others.
fn all(root: &Path, force: bool) -> Result<()> {
    let (mut failures, mut told) = (Failures::default(), Ok(()));
    let Some(parent) = state::open_root(root)? else { return Ok(()) };
    for id in state::ids(&parent)? {
        let done = state::open(root, &id).and_then(|dir| {
            gc::check(&dir, matches!(dir.find_record(), Ok(Some(_))))?;
            delete(dir, force)
        });
        match done {
            Ok(()) if told.is_ok() => told = super::print(&format!("{id}\n")),
            Ok(()) => {}
            // Others have deleted it meanwhile.
            Err(e) if kind(&e) == Kind::NotFound => {}
            Err(e) => failures.add(&id, &e),
        }
    }
    failures.into_result().and(told)
}

fn delete(dir: Dir, force: bool) -> Result<()> {
    if force && dir.lock(Duration::ZERO).is_err() {
        // A `start` whose hook does not end holds the lock: it lets go once the container's process has ended.
        kill(&dir)?;
    }
    dir.lock(PATIENCE)?;
    let record = match dir.find_record() {
        Ok(Some(record)) => record,
        Ok(None) if !force => dir.load()?,
        Ok(None) if dir.lost_record()? => return lost(dir, &fail(Kind::Os, "there is no state.json")),
        // `create` was killed before it made anything.
        Ok(None) => return dir.remove(),
        Err(e) if force && e.is::<serde_json::Error>() => return lost(dir, &e),
        Err(e) => return Err(e),
    };
    let status = super::status(&dir, &record)?;
    if !force && status != Status::Stopped {
        let hint = "(hint: kill it first, or delete --force)";
        return Err(fail(Kind::WrongStatus, format!("cannot delete a container that is {status} {hint}")));
    }
    take(dir, record)
}

/// Takes a container away that nobody else can change meanwhile.
pub(super) fn take(dir: Dir, mut record: Record) -> Result<()> {
    // Without a process no hook has run either.
    let poststop =
        if record.delete_reads_config && record.pid.is_some() { poststop(&dir)? } else { Vec::new() };
    if record.boot_id != crate::procstat::boot_id()? {
        // A reboot has taken all of it away, and what lies at its paths now is others'.
        (record.pid, record.cgroup, record.intel_rdt, record.under_root) = (None, None, None, None);
    }
    launch::destroy(dir, &record, &poststop)
}

/// Deletes a container whose record is damaged or gone: kills what runs in the cgroups that its kept configuration names.
/// Fails, and keeps the directory, while a process runs that could be the container's.
fn lost(dir: Dir, why: &anyhow::Error) -> Result<()> {
    let linux = gc::kept_linux(&dir)?;
    let path = linux.as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    for cgroup in cgroups::search::existing(dir.id(), path)? {
        log::warn(format!("the record is lost ({why:#}): removing cgroup {} of config.json", cgroup.shown()));
        launch::destroy_cgroup(&dir, &cgroup)?;
    }
    gc::nothing_runs(&dir)?;
    let namespaces = linux.as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        log::warn(
            "linux.namespaces: without mount, the container's mounts may be left on the host, ignoring",
        );
    }
    if linux.is_some_and(|linux| linux.intel_rdt().is_some()) {
        log::warn("linux.intelRdt: a class that was made for the container is left, ignoring");
    }
    dir.remove()
}

/// Kills the container's process, if there is one on record.
fn kill(dir: &Dir) -> Result<()> {
    let Some(record) = dir.find_record().ok().flatten() else { return Ok(()) };
    match state::pidfd(&record)?.map(|fd| task::pidfd_send_signal(fd.as_fd(), libc::SIGKILL)) {
        Some(Err(e)) if e.errno != Errno::ESRCH => Err(e.into()),
        _ => Ok(()),
    }
}

fn poststop(dir: &Dir) -> Result<Vec<crate::hooks::Hook>> {
    match Later::read(dir) {
        Ok(later) => Ok(later.poststop),
        // A container must not be stuck for want of its hooks.
        Err(e) => {
            log::warn(format!("hooks.poststop: {e:#}, ignoring"));
            Ok(Vec::new())
        }
    }
}
