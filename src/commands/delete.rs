//! `delete`: removes a stopped container, or with --force any container. With --all it removes all containers
//! of the root, and with --regex those whose ids match.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use oci_spec::runtime::LinuxNamespaceType;

use super::Failures;
use super::PATIENCE;
use super::leftover::{self, Found};
use crate::cli::{Delete, Globals, Which};
use crate::error::{Kind, Result, fail, kind};
use crate::state::{Dir, Status};
use crate::sys::task;
use crate::{cgroups, launch, log, state};

pub(super) fn run(globals: &Globals, args: &Delete) -> Result<()> {
    let root = state::root(globals.root.as_deref())?;
    let id = match &args.which {
        Which::One(id) => id,
        Which::All => return many(&root, args.force, |_| true, |id| super::print(&format!("{id}\n"))),
        Which::Matching(pattern) => {
            let pattern = super::pattern(pattern)?;
            return many(&root, args.force, |id| pattern.is_match(id), |_| Ok(()));
        }
    };
    match state::open(&root, id).and_then(|dir| delete(dir, args.force)) {
        // Engines delete a container once more than needed, and expect no error.
        Err(e) if args.force && kind(&e) == Kind::NotFound => state::purge_deleted(&root, id),
        other => other,
    }
}

/// Deletes all wanted containers. One that cannot be deleted does not prevent the deletion of the others.
fn many(
    root: &Path,
    force: bool,
    wanted: impl Fn(&str) -> bool,
    report: impl Fn(&str) -> Result<()>,
) -> Result<()> {
    let (mut failures, mut printed) = (Failures::default(), Ok(()));
    let Some(parent) = state::open_root(root)? else { return Ok(()) };
    for id in state::ids(&parent)?.into_iter().filter(|id| wanted(id)) {
        let done = state::open(root, &id).and_then(|dir| {
            leftover::check(&dir, &leftover::look(&dir)?)?;
            delete(dir, force)
        });
        match done {
            Ok(()) if printed.is_ok() => printed = report(&id),
            Ok(()) => {}
            // Another command has deleted it in between.
            Err(e) if kind(&e) == Kind::NotFound => {}
            Err(e) => failures.add(&id, &e),
        }
    }
    failures.into_result().and(printed)
}

fn delete(dir: Dir, force: bool) -> Result<()> {
    if force && dir.lock(Duration::ZERO).is_err() {
        // A `start` whose hook does not end holds the lock. It releases the lock after the end of the container process.
        kill(&dir)?;
    }
    dir.lock(PATIENCE)?;
    let record = match leftover::look(&dir)? {
        Found::Record(record) => *record,
        Found::Nothing if force => return dir.remove(),
        Found::Lost(why) if force => return delete_without_record(dir, &why),
        Found::Lost(why) if why.is::<serde_json::Error>() => return Err(why),
        // An error, which says whether a `create` is at work.
        Found::Nothing | Found::Lost(_) => dir.load()?,
    };
    let status = super::status(&dir, &record)?;
    if !force && status != Status::Stopped {
        let hint = "(hint: kill it first, or delete --force)";
        return Err(fail(Kind::WrongStatus, format!("cannot delete a container that is {status} {hint}")));
    }
    leftover::remove(dir, record)
}

/// Deletes a container whose record is damaged or gone. Kills the processes in the cgroups that its kept configuration names.
/// Fails, and keeps the directory, while a process runs that could be the container's.
fn delete_without_record(dir: Dir, why: &anyhow::Error) -> Result<()> {
    let linux = leftover::kept_linux(&dir)?;
    let path = linux.as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    for cgroup in cgroups::search::existing(dir.id(), path)? {
        log::warn(format!("the record is lost ({why:#}): removing cgroup {} of config.json", cgroup.shown()));
        launch::destroy_cgroup(&dir, &cgroup)?;
    }
    leftover::check_nothing_runs(&dir)?;
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

/// Kills the container process, if there is one on record.
fn kill(dir: &Dir) -> Result<()> {
    let Some(record) = dir.find_record().ok().flatten() else { return Ok(()) };
    match state::pidfd(&record)?.map(|fd| task::pidfd_send_signal(fd.as_fd(), libc::SIGKILL)) {
        Some(Err(e)) if e.errno != Errno::ESRCH => Err(e.into()),
        _ => Ok(()),
    }
}
