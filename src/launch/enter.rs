//! The entry of a process of `exec` into the namespaces of a container: what the runtime opens and enters for
//! it, and the process itself.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::caller::Caller;
use super::channel::Channel;
use super::program::{self, Setting, attach_terminal, become_root, outlive_runtime, session_keyring};
use crate::cgroups::systemd::Unit;
use crate::cgroups::{self, Cgroup, Directory};
use crate::error::{Context, Kind, Result, fail};
use crate::namespaces::{self, Back, KINDS, SHOWN, Stages};
use crate::process::{self, affinity};
use crate::state::{Record, Status};
use crate::sys::{self, fs, task};
use crate::{rootfs, seccomp, trace};

/// What `exec` is asked to do.
pub(crate) struct Request<'a> {
    pub record: &'a Record,
    /// The container's status.
    pub status: Status,
    /// The pidfd of the container's own process.
    pub target: BorrowedFd<'a>,
    pub process: &'a process::Plan,
    /// The user of the process, if the container's own files must say what its ids are.
    pub user: Option<&'a str>,
    /// The supplementary groups that such a user has in addition to its own.
    pub groups: &'a [u32],
    pub seccomp: Option<&'a seccomp::Plan>,
    pub cgroup: Option<&'a Cgroup>,
    /// The cgroup was asked for, and is not replaced by another one.
    pub cgroup_given: bool,
    pub caller: &'a Caller,
}

/// How the container is entered.
pub(super) struct Entry<'a> {
    request: &'a Request<'a>,
    /// `CLONE_NEW*` of the container's namespaces.
    kinds: i32,
    /// A user namespace that is not below the runtime's gives the right to enter the others only inside, and the runtime
    /// could not go back from it. Therefore an intermediate process enters them. The same holds for a pid namespace if the
    /// runtime is in a user namespace itself.
    pub(super) stages: Stages,
    /// Those that the runtime enters to clone the process there. What shows the host in the container's pid namespace then
    /// has no time to be seen. The process itself enters the others: a cgroup namespace around the runtime would hide the
    /// runtime's own cgroup, and then the kernel lets nothing be moved out of that (`nsdelegate`, cgroups(7)).
    early: i32,
    /// The container's root, if it has no mount namespace of its own that brings it along.
    root: Option<OwnedFd>,
}

/// Where a process goes that cannot be born in the container's cgroup.
pub(super) enum Elsewhere<'a> {
    /// Into the cgroup below that the container's own process has moved to.
    SubCgroup(Cgroup),
    /// Into the runtime's own cgroup, and systemd puts it into the unit: a user may not move processes there from a
    /// session, which is in another user's cgroup.
    Unit(&'a Unit),
}

impl<'a> Entry<'a> {
    pub(super) fn open(request: &'a Request<'a>) -> Result<Self> {
        let names = &request.record.namespaces;
        let kinds = KINDS.iter().filter(|kind| names.iter().any(|name| name == kind.name));
        let kinds = kinds.fold(0, |all, kind| all | kind.flag);
        let root = if kinds & libc::CLONE_NEWNS == 0 {
            let pid = request.record.pid.unwrap_or_default();
            Some(rootfs::root_of(pid, request.target, request.caller.proc())?)
        } else {
            None
        };
        // Without a pid namespace of its own the container sees the host's processes anyway.
        let pid = kinds & libc::CLONE_NEWPID != 0;
        let intermediate = kinds & libc::CLONE_NEWUSER != 0 || pid && request.caller.host.user_namespace;
        let stages = if intermediate { Stages::Intermediate } else { Stages::Direct };
        let early = if pid && !intermediate { kinds & (SHOWN | libc::CLONE_NEWPID) } else { 0 };
        Ok(Self { request, kinds, stages, early, root })
    }

    pub(super) fn descriptors(&self) -> Vec<i32> {
        let root = self.root.iter().map(AsRawFd::as_raw_fd);
        root.chain([self.request.target.as_raw_fd()]).collect()
    }

    /// The runtime's part before the clone.
    pub(super) fn enter_early(&self) -> Result<Back> {
        if self.early == 0 {
            return Ok(Back::default());
        }
        // The root, too, has to be found again.
        let back = Back::from(self.early | libc::CLONE_NEWNS, self.request.caller.proc())?;
        // The kernel enters all of them or none.
        self.join(self.early)?;
        match self.change_root() {
            Ok(()) => Ok(back),
            Err(e) => {
                back.go();
                Err(e)
            }
        }
    }

    /// Enters the namespaces that the runtime has not entered for the clone.
    pub(super) fn enter(&self) -> Result<()> {
        self.join(self.kinds & !self.early)?;
        if self.early == 0 { self.change_root() } else { Ok(()) }
    }

    /// The intermediate process: enters all namespaces. That of pids holds for children only.
    pub(super) fn enter_as_intermediate(&self) -> Result<()> {
        task::set_undumpable()?;
        self.join(self.kinds)?;
        self.change_root()?;
        let user = &self.request.process.user;
        become_root(Some((user.uid, user.gid)))
    }

    /// Joins the container's namespaces of these kinds.
    fn join(&self, kinds: i32) -> Result<()> {
        if kinds != 0 {
            let _phase = trace::phase_of("join the container's namespaces", || namespaces::shown(kinds));
            task::setns(self.request.target, kinds).context("joining the container's namespaces")?;
            trace::clock_changed();
        }
        Ok(())
    }

    /// Changes to the container's root, once the mount namespace is joined.
    fn change_root(&self) -> Result<()> {
        let (request, record) = (self.request, self.request.record);
        if let Some(root) = &self.root {
            task::fchdir(root.as_fd())?;
            task::chroot_here()?;
        } else if let (Some(id), Some(pid)) = (record.root_mount, record.pid) {
            rootfs::change_to_root_of(pid, request.target, id, request.caller.proc())?;
        }
        Ok(())
    }

    /// Returns where the process goes because the clone into the container's cgroup has failed with `error`, or that error.
    pub(super) fn elsewhere(&self, error: anyhow::Error) -> Result<Elsewhere<'a>> {
        let unit = self.request.record.cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_ref());
        match (sys::errno(&error), unit) {
            _ if self.request.cgroup_given => {
                let cgroup = self.request.cgroup.and_then(|cgroup| cgroup.unified.as_ref());
                let path = cgroup.map(|cgroup| cgroup.path.display().to_string()).unwrap_or_default();
                Err(error.context(format!("error adding pid of the process to cgroups {path}")))
            }
            (Some(Errno::EBUSY), _) => {
                let unified = Some(self.cgroup_of_target()?.ok_or(error)?);
                Ok(Elsewhere::SubCgroup(Cgroup { unified, v1: Vec::new() }))
            }
            (Some(Errno::EACCES), Some(unit)) => Ok(Elsewhere::Unit(unit)),
            _ => Err(error),
        }
    }

    /// Returns the cgroup below the container's that its own process has moved to.
    fn cgroup_of_target(&self) -> Result<Option<Directory>> {
        let request = self.request;
        let above = request.cgroup.and_then(|cgroup| cgroup.unified.as_ref());
        let (Some(pid), Some(above)) = (request.record.pid, above) else { return Ok(None) };
        let below = cgroups::current_below(&above.path, pid, request.caller.proc())?;
        match &below {
            // The container may have chosen it and frozen it. Then the process would never get to its program.
            Some(below) if request.status != Status::Paused && below.frozen()? => {
                let message = format!("cannot exec: the cgroup {} is frozen", below.path.display());
                Err(fail(Kind::WrongStatus, message))
            }
            _ => Ok(below),
        }
    }

    /// The process that becomes the program, in the container.
    pub(super) fn init(self, console_socket: Option<OwnedFd>, report: &mut Channel) -> Result<Infallible> {
        let request = self.request;
        let proc = request.caller.proc();
        task::setsid()?;
        if let Some(name) = request.record.session_keyring() {
            session_keyring(&name, Some(&request.process.labels), proc)?;
        }
        let root = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
        let as_named = |user| program::as_named(request.process, user, request.groups, root.as_fd(), proc);
        let named = request.user.map(as_named).transpose()?;
        let process = named.as_ref().unwrap_or(request.process);
        if process.terminal {
            attach_terminal(process, rootfs::terminal(root.as_fd(), proc)?, console_socket, report)?;
        }
        process.affinity.last.as_ref().map_or_else(affinity::reset, affinity::apply)?;
        let in_user_namespace = request.record.namespaces.iter().any(|name| name == "user");
        let setting = Setting {
            caller: request.caller,
            process,
            seccomp: request.seccomp,
            user_namespace: request.caller.host.user_namespace || in_user_namespace,
            notify_socket: None,
            make_cwd: false,
        };
        let program = program::find(setting, root.as_fd())?.settle()?;
        // The message is there already, unless the runtime sets limits still.
        report.await_go()?;
        outlive_runtime()?;
        program.run(report)
    }
}
