//! The one way to put a process into a container: the container's first process into new namespaces, a
//! process of `exec` into namespaces that exist.
//!
//! The order is the same for both. Where others could look into the runtime, it hides first. It enters the
//! namespaces that hold for children only, or that show the host in the container's pid namespace, clones
//! into the cgroup, and goes back. The clone dies with the runtime, joins what it could not be born in,
//! closes all descriptors that it does not need, and waits if something must be done from outside. Then it
//! enters or makes its namespaces, if need be through an intermediate process ([`Stages`]).

use std::convert::Infallible;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::caller::Caller;
use super::channel::{Channel, Event, unexpected};
use super::enter::{Elsewhere, Entry};
use super::init::{Container, explain};
use super::process::Process;
use super::program::die_with_parent;
use super::watch::Watch;
use crate::cgroups::systemd::Unit;
use crate::cgroups::{self, Cgroup};
use crate::error::Result;
use crate::intel_rdt;
use crate::namespaces::{self, Back, Stages};
use crate::sys::task::Forked;
use crate::sys::{fs, task};
use crate::{log, trace};

/// A process to clone.
pub(super) struct Child<'a> {
    pub(super) caller: &'a Caller,
    pub(super) target: Target<'a>,
    pub(super) stages: Stages,
    /// `CLONE_NEW*` of the namespaces that the clone makes.
    pub(super) kinds: i32,
    /// No other process may look into it from the clone on.
    pub(super) hidden: bool,
    /// It waits for [`Go::On`](super::channel::Go::On) before it enters or makes further namespaces.
    pub(super) waits: bool,
    /// The cgroup that it is born in.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// The join fds of cgroups that it cannot be born in: those of v1.
    pub(super) cgroup_joins: Vec<OwnedFd>,
    /// The join fds of its resctrl class and monitoring group.
    pub(super) class_joins: Vec<OwnedFd>,
    /// Receives the terminal's master. Without it, the runtime does.
    pub(super) console_socket: Option<OwnedFd>,
}

/// Where the process goes.
pub(super) enum Target<'a> {
    /// The container's own process: into new namespaces, and those of others that the plan joins.
    New(Container<'a>),
    /// A process of `exec`: into the namespaces of a container.
    Existing(Entry<'a>),
}

/// Clones the process. Also returns the unit that systemd must put it into, while it waits.
pub(super) fn spawn<'a>(mut child: Child<'a>, watch: Option<Watch>) -> Result<(Process, Option<&'a Unit>)> {
    let _phase = trace::phase("spawn");
    let (ours, theirs) = Channel::pair()?;
    if child.hidden {
        task::set_undumpable()?;
    }
    // The debug messages have runc's words, which show users and programs how far a command got.
    log::debug(|| format!("nsexec container setup: clone3({:#x})", child.kinds));
    let cloning = trace::phase_of("clone3", || match child.kinds {
        0 => String::new(),
        kinds => format!("into new namespaces: {}", namespaces::shown(kinds)),
    });
    let mut unit = None;
    let cloned = child.clone_in_cgroup(&mut unit);
    if let Ok(Forked::Child) = cloned {
        drop(ours);
        end_with(theirs, |report| child.run(report))
    }
    let Forked::Parent { pid, pidfd } = cloned? else { return Err(unexpected()) };
    drop((theirs, cloning));
    trace::cloned(pid);
    log::debug(|| format!("child process in init(): {pid}"));
    let intermediate = child.stages == Stages::Intermediate;
    let process =
        Process { pid, pidfd, console: None, intermediate, waits: child.waits, channel: ours, watch };
    Ok((process, unit))
}

impl<'a> Child<'a> {
    /// Clones the process into its cgroup. If the kernel does not let it live there, it is born in the runtime's cgroup and
    /// joins its own by descriptor. `unit` is set if only systemd may move it.
    fn clone_in_cgroup(&mut self, unit: &mut Option<&'a Unit>) -> Result<Forked> {
        let Some((cgroup, fd)) = self.cgroup.and_then(|cgroup| Some((cgroup, cgroup.cgroup_fd()?))) else {
            return self.clone_outside();
        };
        let mut below = None;
        let cloned = match (self.clone_into(Some(fd)), &self.target) {
            (Err(e), Target::Existing(entry)) => match entry.elsewhere(e)? {
                Elsewhere::SubCgroup(cgroup) => self.clone_into(below.insert(cgroup).cgroup_fd())?,
                Elsewhere::Unit(found) => {
                    *unit = Some(found);
                    self.waits = true;
                    return self.clone_outside();
                }
            },
            (cloned, _) => cloned?,
        };
        if let Some(cloned) = cloned {
            return Ok(cloned);
        }
        self.cgroup_joins.extend(below.as_ref().unwrap_or(cgroup).unified_join_fd()?);
        // A cgroup namespace is rooted in the cgroup of the process that makes it.
        self.kinds &= !libc::CLONE_NEWCGROUP;
        self.clone_outside()
    }

    fn clone_outside(&self) -> Result<Forked> {
        self.clone_into(None)?.ok_or_else(unexpected)
    }

    /// Clones the process from inside the namespaces that the runtime must enter before. Returns `None` if the kernel has
    /// killed it because of the cgroup ([`task::clone3_into`]).
    fn clone_into(&self, cgroup: Option<BorrowedFd>) -> Result<Option<Forked>> {
        let back = match (&self.target, self.stages) {
            (_, Stages::Intermediate) => Back::default(),
            (Target::New(container), Stages::Direct) => container.enter_early()?,
            (Target::Existing(entry), Stages::Direct) => entry.enter_early()?,
        };
        let cloned = match cgroup {
            Some(fd) => task::clone3_into(self.kinds as u64, fd),
            None => task::clone3(self.kinds as u64, None).map(Some),
        };
        match cloned {
            // Its descriptors are closed together with all others.
            Ok(Some(Forked::Child)) => std::mem::forget(back),
            _ => back.go(),
        }
        cloned.map_err(|error| explain(error, self.kinds, cgroup.and(self.cgroup)))
    }

    /// The cloned process, which enters its namespaces and becomes the program.
    fn run(mut self, report: &mut Channel) -> Result<Infallible> {
        die_with_parent()?;
        cgroups::join(std::mem::take(&mut self.cgroup_joins))?;
        intel_rdt::join(std::mem::take(&mut self.class_joins))?;
        fs::close_all_but(self.descriptors(report))?;
        if self.waits {
            report.await_go()?;
        }
        let sibling = match (&self.target, self.stages) {
            (Target::New(container), Stages::Direct) => container.enter(self.kinds, report).map(|()| None)?,
            (Target::New(container), Stages::Intermediate) => Some(container.enter_as_intermediate(report)?),
            (Target::Existing(entry), Stages::Direct) => entry.enter().map(|()| None)?,
            (Target::Existing(entry), Stages::Intermediate) => {
                entry.enter_as_intermediate().map(|()| Some(0))?
            }
        };
        if let Some(kinds) = sibling {
            clone_sibling(kinds, report)?;
        }
        match self.target {
            Target::New(container) => container.init(self.console_socket, report),
            Target::Existing(entry) => entry.init(self.console_socket, report),
        }
    }

    /// The descriptors that the process needs. It must not keep the caller's others, nor the runtime's, for example the
    /// lock on the container.
    fn descriptors(&self, report: &Channel) -> Vec<i32> {
        let mut all = match &self.target {
            Target::New(container) => container.descriptors(),
            Target::Existing(entry) => entry.descriptors(),
        };
        all.extend([report.fd().as_raw_fd(), self.caller.proc().as_raw_fd()]);
        all.extend(self.console_socket.as_ref().map(AsRawFd::as_raw_fd));
        all.extend(&self.caller.preserved);
        all
    }
}

/// Runs `act`, which returns only with an error, reports that error and ends the process. `act` may exchange the channel
/// that the error is reported on.
pub(super) fn end_with(mut report: Channel, act: impl FnOnce(&mut Channel) -> Result<Infallible>) -> ! {
    trace::in_clone();
    report.forward_log();
    let Err(error) = act(&mut report);
    // If the other end is closed, no process is left to read the error.
    let _ = report.send(&Event::Error(error));
    task::exit_now(1)
}

/// Ends the intermediate process: clones the container process as its sibling, into new namespaces of these `kinds`.
/// Returns only in that.
fn clone_sibling(kinds: i32, report: &Channel) -> Result<()> {
    match task::clone3((kinds | libc::CLONE_PARENT) as u64, None)? {
        Forked::Child => {
            trace::in_clone();
            die_with_parent()?;
            // The runtime takes every event that comes before `Cloned` for one of the intermediate process.
            report.await_go().map(drop)
        }
        Forked::Parent { pid, pidfd } => {
            report.send(&Event::Cloned { pid, pidfd })?;
            task::exit_now(0)
        }
    }
}
