//! v1's freezer, without v2 beside it: how processes are held still, killed and waited for.

use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;

use crate::cgroups::directory::{Directory, FREEZER, warn_undone, write_freezer};
use crate::error::Result;
use crate::sys::fs;
use crate::wait::{self, FIRST_PAUSE};

/// How long the processes may take to freeze. After that they are killed all the same.
const FREEZE: Duration = Duration::from_millis(500);

/// Kills every process. A frozen process cannot fork away from the signal, but it does not die before it is
/// thawed either. The container may have frozen sub-cgroups of its own.
pub(in crate::cgroups) fn kill(directory: &Directory) -> Result<()> {
    for _ in 0..100 {
        let still = exists(directory).then(|| frozen_until(directory, Instant::now() + FREEZE));
        let sent = directory.signal_all(libc::SIGKILL);
        // Also after an error: otherwise the processes could not die at the next attempt either.
        directory.thaw_all().or_else(|_| directory.thaw_all())?;
        if sent? == 0 || still.transpose()? == Some(true) {
            break;
        }
    }
    Ok(())
}

/// Waits until no process is left. v1 has no file that reports it.
pub(in crate::cgroups) fn wait_empty(directory: &Directory, deadline: Instant) -> Result<bool> {
    wait::until(deadline, FIRST_PAUSE, || Ok(directory.pids()?.is_empty()))
}

/// Freezes, and waits until that is done. After an error it is thawed again.
pub(in crate::cgroups) fn freeze(directory: &Directory, deadline: Instant) -> Result<()> {
    check_exists(directory)?;
    let late = || anyhow!("{}: did not freeze in time, thawed again", directory.path.display());
    let done = frozen_until(directory, deadline).and_then(|frozen| frozen.then_some(()).ok_or_else(late));
    done.inspect_err(|_| warn_undone(set(directory, "THAWED")))
}

/// Thaws. After an error it is frozen again.
pub(in crate::cgroups) fn thaw(directory: &Directory) -> Result<()> {
    check_exists(directory)?;
    set_thawed(directory).inspect_err(|_| warn_undone(set(directory, "FROZEN")))
}

fn set_thawed(directory: &Directory) -> Result<()> {
    set(directory, "THAWED")?;
    match state(directory)?.as_deref() {
        None | Some("THAWED") => Ok(()),
        Some(_) => {
            let path = directory.path.display();
            Err(anyhow!("{path}: did not thaw (hint: a cgroup above it may be frozen)"))
        }
    }
}

fn check_exists(directory: &Directory) -> Result<()> {
    if exists(directory) {
        return Ok(());
    }
    Err(anyhow!("no cgroup hierarchy with the freezer controller is mounted"))
}

/// Reports whether the hierarchy has the freezer controller.
fn exists(directory: &Directory) -> bool {
    matches!(state(directory), Ok(Some(_)))
}

/// Returns the freezer's state, or `None` if there is no freezer or no cgroup any more.
fn state(directory: &Directory) -> Result<Option<String>> {
    match fs::read_text(directory.dir(), FREEZER.as_ref()) {
        Err(e) if e.errno == Errno::ENODEV || fs::absent(directory.dir(), FREEZER.as_ref(), &e) => Ok(None),
        other => directory.named(other.map_err(Into::into)).map(|text| Some(text.trim().to_string())),
    }
}

fn set(directory: &Directory, state: &str) -> Result<()> {
    directory.named(write_freezer(directory.dir(), state))
}

/// Freezes, and waits until every process is frozen. Returns false if the deadline passes first.
fn frozen_until(directory: &Directory, deadline: Instant) -> Result<bool> {
    wait::until(deadline, FIRST_PAUSE, || {
        // Each write makes the kernel look again at the processes that it could not freeze before.
        set(directory, "FROZEN")?;
        Ok(matches!(state(directory)?.as_deref(), None | Some("FROZEN")))
    })
}
