//! The wait for a process that has arrived in a container, or in the pid namespace of another container. The
//! processes there can see it from its first moment on, and some can stop it by a signal or move it into a
//! frozen cgroup. Therefore the wait has a time limit.
//!
//! If a process of `exec` is silent for 10 seconds before its program runs, `exec` looks for what holds it.
//! If it is stopped or frozen, `exec` names the reason and kills it; if nothing is known to hold it, after 60
//! seconds, unless a seccomp agent decides on its system calls. In a container that was paused before, the
//! wait continues. SIGHUP, SIGINT, SIGQUIT or SIGTERM ends the wait. A process that the freezer of cgroup v1
//! holds cannot die before it is thawed: `exec` warns and leaves it killed. In a paused container it does so
//! at once, otherwise after 5 seconds.
//!
//! `create` and `run` in a joined pid namespace, and `start`, also look for a stop or a freeze every 10
//! seconds. Without one they continue to wait, because hooks may take long. They also wait while the
//! container's own cgroup is frozen.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use crate::cgroups::CgroupRecord;
use crate::error::Result;
use crate::sys::signal::{self, SignalFd};
use crate::sys::task;
use crate::{cgroups, host, procstat};

/// How long the process may be silent before the runtime looks for the reason.
const PATIENCE: Duration = Duration::from_secs(10);

/// The time limit for a silent process that nothing is known to hold: its container may have little processor time.
const SILENCE: Duration = Duration::from_secs(60);

/// What ends the wait in addition to a message from the process.
pub(super) struct Watch {
    /// Readable when a signal asks the runtime to end.
    ends: Option<SignalFd>,
    /// The container's cgroup, if the wait goes on while that is paused.
    paused: Option<CgroupRecord>,
    /// The process may be silent as long as nothing holds it, because it runs hooks, or because an agent outside decides on
    /// its system calls.
    patient: Cell<bool>,
}

impl Watch {
    /// Returns the watch over a process of `exec`. Blocks all signals, so that none ends the runtime and leaves the process
    /// behind.
    pub(super) fn new(paused: Option<CgroupRecord>) -> Result<Self> {
        signal::block_all()?;
        Ok(Self { ends: Some(signal::signalfd(signal::ENDS)?), paused, patient: Cell::new(false) })
    }

    /// Returns the watch over the process of a container with this cgroup.
    pub(super) fn patient(cgroup: Option<CgroupRecord>) -> Self {
        Self { ends: None, paused: cgroup, patient: Cell::new(true) }
    }

    /// Lets the process take its time from now on, as long as nothing holds it.
    pub(super) fn be_patient(&self) {
        self.patient.set(true);
    }

    /// Returns whether the freezer of cgroup v1 holds the container's processes. They do not end before they are thawed, also
    /// after SIGKILL.
    pub(super) fn holds_killed(&self) -> bool {
        let v1 = self.paused.as_ref().filter(|cgroup| cgroup.path.as_os_str().is_empty());
        v1.is_some_and(|cgroup| cgroups::frozen(cgroup).unwrap_or(false))
    }

    /// Waits for the process `pid` until one of `fds` is readable or at its end.
    pub(super) fn poll(&self, fds: &[BorrowedFd], pid: i32) -> Result<Vec<bool>> {
        let all: Vec<BorrowedFd> = fds.iter().copied().chain(self.ends.as_ref().map(AsFd::as_fd)).collect();
        let begun = Instant::now();
        loop {
            let mut ready = task::poll_readable(&all, Some(Instant::now() + PATIENCE))?;
            let asked = ready.split_off(fds.len()).contains(&true);
            if ready.contains(&true) {
                return Ok(ready);
            }
            match &self.ends {
                Some(ends) if asked => {
                    let number = signal::next(ends)?.unwrap_or_default();
                    return Err(anyhow!("ended by signal {number} before the program ran"));
                }
                _ => self.check(pid, begun.elapsed())?,
            }
        }
    }

    /// Fails with what holds the process, unless the wait must go on.
    fn check(&self, pid: i32, silent: Duration) -> Result<()> {
        if self.paused.as_ref().is_some_and(|cgroup| cgroups::frozen(cgroup).unwrap_or(false)) {
            return Ok(());
        }
        let held = match procstat::state_letter(pid)? {
            Some('T') => Some("it was stopped by a signal".into()),
            Some('t') => Some("it was stopped by a tracer".into()),
            _ => cgroups::frozen_cgroup(pid, host::procfs()?)?
                .map(|dir| format!("the cgroup {} is frozen", dir.display())),
        };
        if held.is_none() && (self.patient.get() || silent < SILENCE) {
            return Ok(());
        }
        let why = held.unwrap_or_else(|| "the reason is not known".into());
        Err(anyhow!("the process did not get to its program in {} s: {why}", silent.as_secs()))
    }
}
