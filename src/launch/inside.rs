//! A process that changes the mounts of a running container.
//!
//! It is a clone of the runtime, which enters the container's mount namespace, and the user namespace if the
//! container has one. There it has the rights of the container's root and no others, so that nothing is made
//! or attached that the container's root could not make, and no process of the container can trace it or open
//! its descriptors. Without a user namespace it keeps the runtime's rights, and a process that
//! has CAP_SYS_PTRACE and sees it can trace it (SECURITY.md). It stays in the host's other namespaces: a container with a pid
//! namespace of its own does not see it.
//!
//! Mounts of the host must come to a user namespace with their flags locked, as at `create`
//! (mount_namespaces(7)). For that the process first makes a mount namespace in the user namespace, a copy of
//! the host's. The runtime opens the sources there, with its own rights. A runtime of a user has no more rights
//! than the process, which opens them itself.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::channel::{Channel, Event, unexpected};
use super::program::{become_root, die_with_parent};
use crate::error::{Context, Kind, Result, fail};
use crate::host::Host;
use crate::namespaces::{self, First};
use crate::rootfs::running::{self, Change};
use crate::rootfs::{self, Open, Plan, Sources};
use crate::sys::task::Forked;
use crate::sys::{credentials, fs, task};
use crate::{log, trace};

/// The time limit for each thing that the process does.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is changed, and where.
pub(crate) struct Inside<'a> {
    pub namespaces: &'a First,
    /// The mount that is the container's root, if it is known.
    pub root: Option<u64>,
    /// The user and group of the container's program, for a user namespace that does not map root.
    pub user: Option<(u32, u32)>,
    pub plan: &'a Plan,
    pub host: &'a Host,
}

impl Inside<'_> {
    /// Adds or removes the mounts of the plan, in a process inside.
    pub(crate) fn change(&self, change: Change) -> Result<()> {
        let at_once = change == Change::Add && self.namespaces.user.is_none();
        let sources = at_once.then(|| self.open_sources()).transpose()?;
        let (ours, theirs) = Channel::pair()?;
        let (pid, pidfd) = match task::clone3(0, None)? {
            Forked::Child => {
                drop(ours);
                trace::blind();
                theirs.forward_log();
                let done = self.work(change, sources, &theirs);
                // If the report fails, the end of the channel reports a failure.
                let _ = theirs.send(&done.map_or_else(Event::Error, |()| Event::Ready));
                task::exit_now(0)
            }
            Forked::Parent { pid, pidfd } => (pid, pidfd),
        };
        drop(theirs);
        let result = self.serve(pid, &ours);
        task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        let ended = task::wait_killed(pidfd.as_fd())?;
        result.map_err(|error| {
            if ended { error } else { error.context(format!("process {pid} cannot be ended and may go on")) }
        })
    }

    fn open_sources(&self) -> Result<Sources> {
        rootfs::open_sources(self.plan, self.host.proc, Open::Binds, None)
    }

    /// The process inside.
    fn work(&self, change: Change, mut sources: Option<Sources>, report: &Channel) -> Result<()> {
        task::set_undumpable()?;
        die_with_parent()?;
        // The modes of what is made are given, and not the caller's to reduce.
        credentials::umask(0);
        let joining = "joining the container's namespaces";
        if let Some(user) = &self.namespaces.user {
            task::setns(user.as_fd(), libc::CLONE_NEWUSER).context(joining)?;
            become_root(self.user)?;
            if change == Change::Add {
                sources = Some(self.locked_sources(report)?);
            }
        }
        task::setns(self.namespaces.mount.as_fd(), libc::CLONE_NEWNS).context(joining)?;
        if self.root.is_some_and(|id| fs::mounted_at(fs::CWD, Path::new("/")) != Ok(id)) {
            let why = "the root of the container's mount namespace is not the container's root: it was made in a chroot, \
                       or a file system is mounted on it";
            return Err(fail(Kind::Unsupported, why));
        }
        let root = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
        let (plan, root, proc) = (self.plan, root.as_fd(), self.host.proc);
        match sources {
            Some(sources) => {
                running::add(plan, sources, root, proc, &|text| report.send(&Event::Warning(text)))
            }
            None => running::remove(plan, root, proc),
        }
    }

    /// Returns the sources as the user namespace that the process has entered may have them.
    fn locked_sources(&self, report: &Channel) -> Result<Sources> {
        task::unshare(libc::CLONE_NEWNS)?;
        if self.host.uid != 0 {
            return self.open_sources();
        }
        report.send(&Event::SourcesWanted)?;
        Sources::receive(self.plan, Open::Binds, || report.take())
    }

    /// Serves the process inside until it is done.
    fn serve(&self, pid: i32, channel: &Channel) -> Result<()> {
        loop {
            // A file system of the container may never answer.
            let deadline = Instant::now() + PATIENCE;
            if !task::poll_readable(&[channel.fd()], Some(deadline))?.contains(&true) {
                let what = format!("the container's file systems did not answer within {PATIENCE:?}");
                return Err(fail(Kind::Os, what));
            }
            match channel.receive()? {
                Event::SourcesWanted => {
                    let open = || self.open_sources();
                    let sources = namespaces::in_mount_namespace_of(pid, self.host.proc, open)?;
                    sources.trees().try_for_each(|tree| channel.give(tree))?;
                }
                Event::Warning(text) => log::warn(text),
                Event::Debug(text) => log::forwarded("container", &text),
                Event::Ready => return Ok(()),
                Event::Error(error) => return Err(error),
                Event::Closed => return Err(fail(Kind::Os, "the process inside was killed")),
                _ => return Err(unexpected()),
            }
        }
    }
}
