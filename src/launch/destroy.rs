//! Removing a container: after an error of `create`, at the end of `run`, and by `delete` and `gc`.
//!
//! [`destroy`] kills the processes of the cgroup, by `cgroup.kill` with v2, waits with a deadline, removes
//! the cgroup, then the mounts, and then renames the directory away. Poststop hooks run last. The record
//! remains as long as anything else remains, so the removal can be repeated after an interruption at any
//! point.
//!
//! A cgroup is recognised by its inode number, which is on record. If two records name one cgroup, it belongs
//! to the later container. Whatever is not certain to be this container's is left, with a warning.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::cgroups::{self, Cgroup, CgroupRecord};
use crate::error::{Context, Kind, Result, fail};
use crate::hooks::{self, Hook};
use crate::state::{Dir, Record, Status, spec_state};
use crate::sys::task;
use crate::{intel_rdt, log, rootfs, state, trace};

/// The time limit for killed processes to end. A process that is writing to a slow disk ends late.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time limit for a process that has begun to end.
const GRACE: Duration = Duration::from_millis(200);

/// Kills the container's processes and removes everything that was made for it. Then runs the poststop hooks, whose failures
/// are only warnings (runtime.md#lifecycle).
pub(crate) fn destroy(dir: Dir, record: &Record, poststop: &[Hook]) -> Result<()> {
    let _phase = trace::phase("destroy");
    let deadline = Instant::now() + PATIENCE;
    let pidfd = state::pidfd(record)?;
    if let Some(cgroup) = &record.cgroup {
        remove_cgroup(&dir, cgroup, &record.created, pidfd.is_some(), deadline)?;
    }
    if let Some(pidfd) = pidfd {
        kill_and_wait(record, &pidfd, deadline)?;
    }
    if let Some(class) = &record.intel_rdt {
        intel_rdt::remove(class)?;
    }
    if let Some(under) = record.under_root {
        rootfs::detach(&record.rootfs, under, record.root_mount)?;
    }
    dir.remove()?;
    let state = spec_state(record, Status::Stopped, None);
    hooks::run_all(poststop, state.as_bytes()).into_iter().for_each(log::warn);
    Ok(())
}

/// Removes the container after an error. A failure of the removal is only a warning, because the first error is the cause.
pub(crate) fn undo(dir: Dir, record: &Record, poststop: &[Hook]) {
    if let Err(e) = destroy(dir, record, poststop) {
        log::warn(format!("undoing: {e:#} (hint: delete --force tries again), ignoring"));
    }
}

fn not_ended() -> anyhow::Error {
    fail(Kind::Os, "processes of the container do not end (hint: try again later)")
}

/// Destroys the cgroup of a container whose record is lost. Its configuration names the cgroup.
pub(crate) fn destroy_cgroup(dir: &Dir, cgroup: &CgroupRecord) -> Result<()> {
    // The time of creation is unknown, therefore every other container counts as later.
    remove_cgroup(dir, cgroup, "", false, Instant::now() + PATIENCE)
}

/// Kills the processes in the cgroup of the container that was `created` at that time, and removes the cgroup. `runs` says
/// whether the container's first process runs.
fn remove_cgroup(
    dir: &Dir,
    cgroup: &CgroupRecord,
    created: &str,
    runs: bool,
    deadline: Instant,
) -> Result<()> {
    let anothers = cgroups::is_anothers(cgroup)?;
    // Usually the cgroup is empty, and the kernel removes only empty cgroups.
    let removed = !anothers && !runs && cgroups::remove_empty(cgroup);
    let found = if removed || anothers { None } else { Cgroup::open(cgroup)? };
    let populated = found.as_ref().map_or(Ok(false), Cgroup::populated)?;
    let why_not = match &found {
        Some(found) if populated => sharer(dir, cgroup, found, created, runs)?,
        None if anothers => Some("it is a new one of the same name".into()),
        _ => None,
    };
    if let Some(why_not) = why_not {
        log::warn(format!("cgroup {} is not removed: {why_not}", cgroup.shown()));
        return Ok(());
    }
    if let Some(found) = found.as_ref().filter(|_| populated) {
        kill_in(found, cgroup, deadline)?;
    }
    if let Some(unit) = &cgroup.unit {
        // systemd also removes the directories as soon as they are empty, therefore the unit is stopped first.
        cgroups::systemd::stop(unit)?;
    }
    if let Some(found) = found {
        found.remove(deadline)?;
    }
    cgroups::remove_parents(&cgroup.parents);
    Ok(())
}

/// Returns why the processes in the cgroup are not this container's, according to the records of the other containers.
/// `create` accepts an existing cgroup if it is empty, for example that of a stopped container. Fails if another container is
/// in a cgroup below this one, because the kernel would kill both at once.
fn sharer(
    dir: &Dir,
    cgroup: &CgroupRecord,
    found: &Cgroup,
    created: &str,
    runs: bool,
) -> Result<Option<String>> {
    // `create` refuses a cgroup with processes, therefore another container can only be below.
    if runs && !found.divided()? {
        return Ok(None);
    }
    let Some(other) = dir.shares_cgroup(cgroup, created, runs, cgroups::populated)? else { return Ok(None) };
    if other.cgroup.is_some_and(|theirs| theirs.contains(cgroup)) {
        return Ok(Some(format!("container {:?} has it too", other.id)));
    }
    let text = format!("container {:?} is in a cgroup below (hint: delete it first)", other.id);
    Err(fail(Kind::WrongStatus, text)).with_context(|| cgroup.shown().to_string())
}

/// The error for a first process that has ended but is not reaped. Since Linux 7.0 it stays in its cgroup until then.
const UNREAPED: &str = "the container's first process cannot end until the processes of exec are reaped \
                        (hint: the caller of exec --detach does that)";

/// Kills all processes in a cgroup and waits for their end.
fn kill_in(cgroup: &Cgroup, record: &CgroupRecord, deadline: Instant) -> Result<()> {
    let _phase = trace::phase("kill and wait");
    cgroup.kill()?;
    if cgroup.wait_empty(deadline)? {
        return Ok(());
    }
    // The kernel does not list a process that is ending.
    let ending = cgroup.pids().is_ok_and(|pids| pids.is_empty());
    let error = if ending { fail(Kind::Os, UNREAPED) } else { not_ended() };
    Err(error).with_context(|| record.shown().to_string())
}

/// Kills the container's first process and waits for its end.
fn kill_and_wait(record: &Record, pidfd: &OwnedFd, deadline: Instant) -> Result<()> {
    let _phase = trace::phase("kill and wait");
    match task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.errno == Errno::ESRCH => return Ok(()),
        other => other?,
    }
    // The first process of a pid namespace stays until all processes that `exec` put there are reaped by their parents. It
    // runs no code then, and those parents may be waiting for this command.
    let ended = |until: Instant| -> Result<bool> {
        Ok(task::poll_readable(&[pidfd.as_fd()], Some(until.min(deadline)))?.contains(&true))
    };
    if ended(Instant::now() + GRACE)? || state::pidfd(record)?.is_none() || ended(deadline)? {
        return Ok(());
    }
    Err(not_ended())
}
