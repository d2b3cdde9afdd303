//! The wait for a process that has arrived in a container, or in a pid namespace that another container has. The processes
//! there can see it from its first moment on, and some can stop it by a signal or move it into a cgroup that is frozen. So
//! the wait has an end of its own.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::anyhow;

use super::Process;
use super::channel::Event;
use crate::cgroups::CgroupRecord;
use crate::error::Result;
use crate::sys::{signal, task};
use crate::{cgroups, host, log, procstat, trace};

/// How long the process may be silent before it is looked at.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a process may be silent that nothing is seen to hold: its container may have little processor time.
const SILENCE: Duration = Duration::from_secs(60);

/// What ends the wait besides the process's own word.
pub(super) struct Watch {
    /// Readable when a signal asks the runtime to end.
    ends: Option<OwnedFd>,
    /// The container's cgroup, if it may be paused and is to be waited for until it is resumed.
    paused: Option<CgroupRecord>,
    /// The process may take its time for as long as it is not held: it runs hooks, or an agent outside decides on its
    /// system calls.
    patient: Cell<bool>,
}

impl Watch {
    /// For a process of `exec`. Blocks all signals, so that none ends the runtime and leaves the process behind.
    pub(super) fn new(paused: Option<CgroupRecord>) -> Result<Self> {
        signal::block_all()?;
        Ok(Self { ends: Some(signal::signalfd(signal::ENDS)?), paused, patient: Cell::new(false) })
    }

    /// For the process of a container with this cgroup.
    pub(super) fn patient(cgroup: Option<CgroupRecord>) -> Self {
        Self { ends: None, paused: cgroup, patient: Cell::new(true) }
    }

    /// Waits for the process `pid` until one of `fds` can be read or has ended.
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
                    let number = signal::next(ends.as_fd())?.unwrap_or_default();
                    return Err(anyhow!("ended by signal {number} before the program ran"));
                }
                _ => self.look(pid, begun.elapsed())?,
            }
        }
    }

    /// An error that tells what holds the process up, unless it is to be waited for.
    fn look(&self, pid: i32, silent: Duration) -> Result<()> {
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

impl Process {
    /// Waits until one of `fds` can be read or has ended.
    pub(super) fn poll(&self, fds: &[BorrowedFd]) -> Result<Vec<bool>> {
        match &self.watch {
            Some(watch) => watch.poll(fds, self.pid),
            None => Ok(task::poll_readable(fds, None)?),
        }
    }

    /// The next event.
    pub(super) fn receive(&self) -> Result<Event> {
        // If the process between dies, the channel may stay open: the container's process waits at it.
        let fds = [self.channel.fd(), self.pidfd.as_fd()];
        let fds = if self.between { &fds[..] } else { &fds[..1] };
        if (self.between || self.watch.is_some()) && !self.poll(fds)?[0] {
            return Err(self.died());
        }
        let event = self.channel.receive()?;
        if let (Event::Listener { .. }, Some(watch)) = (&event, &self.watch) {
            watch.patient.set(true);
        }
        Ok(event)
    }

    /// Kills and reaps it; it may be dead and reaped already.
    pub(super) fn kill(&self) {
        let _phase = trace::phase("kill and reap");
        let _ = task::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        // What the freezer of cgroup v1 holds dies only when it is thawed, which is for others to do.
        if let Ok(false) = task::wait_killed(self.pidfd.as_fd()) {
            log::warn(format!(
                "the process {} has been killed, but does not end (hint: is it frozen?)",
                self.pid
            ));
        }
        trace::gone();
    }
}
