//! Taking a container away: after an error of `create`, at the end of `run`, and by `delete`. It can be done again
//! after having been interrupted anywhere, and leaves the record as long as anything else remains.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::cgroups::Cgroup;
use crate::error::{Context, Kind, Result, fail};
use crate::hooks::{self, Hook};
use crate::state::{Dir, Record, Status, spec_state};
use crate::sys::task;
use crate::{log, rootfs, state};

/// How long killed processes may take to end: one in the middle of writing to a slow disk takes its time.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long one that is on its way out is waited for.
const GRACE: Duration = Duration::from_millis(200);

/// Kills what runs in the container and removes all that was made for it. Then the poststop hooks run, whose failures
/// are only told (runtime.md#lifecycle).
pub fn destroy(dir: Dir, record: &Record, poststop: &[Hook]) -> Result<()> {
    // After a reboot nothing of it is left, and its cgroup's path may be another's.
    if record.boot_id == state::boot_id()? {
        let deadline = Instant::now() + PATIENCE;
        kill_and_wait(record, deadline)?;
        if let Some(cgroup) = &record.cgroup
            && let Some(found) = Cgroup::open(&cgroup.path)?
        {
            found.remove(&cgroup.parents, deadline)?;
        }
        if let Some(under) = record.under_root {
            rootfs::detach(&record.rootfs, under)?;
        }
    }
    dir.remove()?;
    let state = spec_state(record, Status::Stopped, None);
    hooks::run_all(poststop, state.as_bytes()).into_iter().for_each(log::warn);
    Ok(())
}

/// Takes the container away after an error, which tells more than what goes wrong in the undoing.
pub fn undo(dir: Dir, record: &Record, poststop: &[Hook]) {
    if let Err(e) = destroy(dir, record, poststop) {
        log::warn(format!("undoing: {e:#} (hint: delete --force tries again), ignoring"));
    }
}

/// Kills the container's processes and waits for their end.
fn kill_and_wait(record: &Record, deadline: Instant) -> Result<()> {
    let late = || fail(Kind::Os, "processes of the container do not end (hint: try again later)");
    let pidfd = state::pidfd(record)?;
    if let Some(cgroup) = record.cgroup.as_ref().map(|c| Cgroup::open(&c.path)).transpose()?.flatten()
        && cgroup.populated()?
    {
        cgroup.kill()?;
        if !cgroup.wait_empty(deadline)? {
            return Err(late()).with_context(|| cgroup.path.display().to_string());
        }
    }
    let Some(pidfd) = pidfd else { return Ok(()) };
    match task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(e) if e.errno == Errno::ESRCH => return Ok(()),
        other => other?,
    }
    // The first process of a pid namespace stays until whoever has put others there has reaped them. It runs nothing
    // more then, and those who reap may be waiting for us.
    let ended = |until: Instant| -> Result<bool> {
        Ok(task::poll_readable(&[pidfd.as_fd()], Some(until.min(deadline)))?.contains(&true))
    };
    if ended(Instant::now() + GRACE)? || state::pidfd(record)?.is_none() || ended(deadline)? {
        return Ok(());
    }
    Err(late())
}
