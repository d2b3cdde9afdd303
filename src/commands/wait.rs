//! `wait`: waits until a container's first process has ended, and exits with its status.
//!
//! The kernel gives the status to the parent. This command is not the parent, but its descriptor of the
//! process returns the status after the parent has reaped it (since Linux 6.15), and procfs shows it before
//! that.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use super::ended;
use crate::cgroups::oom::Observer;
use crate::cli::Globals;
use crate::error::{Kind, Result, fail};
use crate::state::{self, Dir, End, Record};
use crate::sys::task::{self, Poll};
use crate::{config, wait};

/// How long a `run --keep` may take to record the end.
const GRACE: Duration = Duration::from_millis(200);

pub(super) fn run(globals: &Globals, id: &str) -> Result<u8> {
    let (dir, record) = super::open(globals, id)?;
    if !record.created_done {
        return Err(dir.unfinished());
    }
    let process = state::pidfd_until_reaped(&record)?;
    let mut observer = process.as_ref().and_then(|_| Observer::open(record.cgroup.as_ref()));
    if let Some(process) = &process {
        await_end(process.as_fd(), observer.as_mut())?;
    }
    let end = match (&record.exit, state::exit_of_first(&record, process.as_ref())?) {
        (Some(end), _) => end.clone(),
        (None, Some(exit)) => {
            let end = ended::of(exit, &record, observer.as_ref());
            ended::keep(&dir, &end, Duration::ZERO);
            end
        }
        (None, None) if process.is_some() => recorded(&dir)?.ok_or_else(|| unknown(LOST))?,
        (None, None) => return Err(unknown(EARLIER)),
    };
    ended::conclude(&end, || has_profile(&dir), Some(&record.bundle))
}

/// Waits for the end of a process. Meanwhile `observer` sees what the kernel kills.
fn await_end(process: BorrowedFd, mut observer: Option<&mut Observer>) -> Result<()> {
    loop {
        let killed = observer.as_ref().map_or(Poll::NONE, |observer| observer.interest());
        let mut polled = [Poll::read(process), killed];
        task::poll(&mut polled, None)?;
        let [ended, _] = polled.map(|poll| poll.ready);
        if let Some(observer) = &mut observer {
            observer.look();
        }
        if ended {
            return Ok(());
        }
    }
}

const EARLIER: &str = "it had stopped before this command, and only the parent of its process got the status";
const LOST: &str = "its parent has reaped the process, and this kernel keeps no status (Linux 6.15 does)";

fn unknown(why: &str) -> anyhow::Error {
    fail(Kind::Unsupported, format!("the container has stopped, and its exit status is not known: {why}"))
}

/// Returns the end that another command records about now.
fn recorded(dir: &Dir) -> Result<Option<End>> {
    let mut found = None;
    wait::until(Instant::now() + GRACE, Duration::from_millis(1), || {
        let record = dir.find_record()?;
        let gone = record.is_none();
        found = record.and_then(|record: Record| record.exit);
        Ok(gone || found.is_some())
    })?;
    Ok(found)
}

fn has_profile(dir: &Dir) -> bool {
    let config = dir.load_config().and_then(config::parse);
    config.is_ok_and(|config| config.spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some()))
}
