//! `exec`: one more process in a container. It enters by a descriptor of the container's own process, and from there on
//! it is the code of that one: [`super::program`].

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::channel::{Channel, Event, Go};
use super::init::{attach_terminal, become_root, die_with_parent, end_with, session_keyring};
use super::program::{self, Setting};
use super::watch::Watch;
use super::{Process, connect, limits, unexpected, write_pid_file};
use crate::cgroups::systemd::{self, Unit};
use crate::cgroups::{self, Cgroup};
use crate::error::{Context, Kind, Result, fail};
use crate::host::Host;
use crate::namespaces::{Back, KINDS, SHOWN};
use crate::process::{self, affinity, env};
use crate::state::{Record, Status};
use crate::sys::task::Forked;
use crate::sys::{self, fs, socket, task};
use crate::{intel_rdt, rootfs, seccomp, trace};

/// What `exec` is asked to do.
pub struct Request<'a> {
    pub record: &'a Record,
    /// The container's.
    pub status: Status,
    /// The container's own process.
    pub target: BorrowedFd<'a>,
    pub process: &'a process::Plan,
    /// Who the process's user is, if it is for the container's own files to say.
    pub user: Option<&'a str>,
    /// The supplementary groups that such a user has besides its own.
    pub groups: &'a [u32],
    pub seccomp: Option<&'a seccomp::Plan>,
    pub cgroup: Option<&'a Cgroup>,
    /// It is not the container's but one that was asked for, and no other will do.
    pub cgroup_given: bool,
    pub host: &'a Host,
    pub service: &'a env::Service,
    pub preserved: &'a [i32],
    pub console_socket: Option<&'a Path>,
    pub pidfd_socket: Option<&'a Path>,
    pub pid_file: Option<&'a Path>,
}

/// Starts the process. It runs its program when this returns. Until then, one of [`ENDS`](sys::signal::ENDS) ends it.
pub fn exec(request: &Request) -> Result<Process> {
    let _phase = trace::phase("exec");
    let console_socket = connect(request.console_socket, "--console-socket")?;
    let pidfd_socket = connect(request.pidfd_socket, "--pidfd-socket")?;
    let entry = Entry::open(request)?;
    if let Some(cpus) = &request.process.affinity.initial {
        // Inherited by the clone, and so in force before the container's cgroup is joined.
        affinity::apply(cpus)?;
    }
    let mut process = spawn(request, entry, console_socket)?;
    let started = process.next().and_then(|event| {
        let Event::Ready = event else { return Err(unexpected()) };
        process.start(request.seccomp, request.record, request.status)?;
        if let Some(socket) = &pidfd_socket {
            socket::send(socket.as_fd(), b"pidfd", &[process.pidfd.as_fd()]).context("--pidfd-socket")?;
        }
        request.pid_file.map_or(Ok(()), |path| write_pid_file(path, process.pid))
    });
    match started {
        Ok(()) => Ok(process),
        Err(e) => {
            process.kill();
            Err(e)
        }
    }
}

/// How the container is entered.
struct Entry {
    /// `CLONE_NEW*` of the container's namespaces.
    kinds: i32,
    /// Those that the runtime enters to clone the process there: what shows the host in the container's pid namespace
    /// has no time to be seen. The process itself enters the others: a cgroup namespace around the runtime would hide
    /// the runtime's own cgroup, and then the kernel lets nothing be moved out of that (`nsdelegate`, cgroups(7)).
    early: i32,
    /// An intermediate process enters them. A user namespace that is not below ours gives the right to enter the others
    /// only inside, and from inside of one the runtime could not go back.
    between: bool,
    /// The container's root, where no mount namespace brings it along.
    root: Option<OwnedFd>,
}

impl Entry {
    fn open(request: &Request) -> Result<Self> {
        let names = &request.record.namespaces;
        let kinds = KINDS.iter().filter(|kind| names.iter().any(|name| name == kind.name));
        let kinds = kinds.fold(0, |all, kind| all | kind.flag);
        let root = if kinds & libc::CLONE_NEWNS == 0 {
            let path = PathBuf::from(format!("{}/root", request.record.pid.unwrap_or_default()));
            Some(fs::open(request.host.proc.as_fd(), &path, fs::O_PATH | fs::O_DIRECTORY, 0)?)
        } else {
            None
        };
        // Without a pid namespace of its own the container sees the host's processes anyway.
        let pid = kinds & libc::CLONE_NEWPID != 0;
        let between = kinds & libc::CLONE_NEWUSER != 0 || pid && request.host.user_namespace;
        let early = if pid && !between { kinds & (SHOWN | libc::CLONE_NEWPID) } else { 0 };
        Ok(Self { kinds, early, between, root })
    }

    /// Enters those of `kinds`.
    fn enter(&self, target: BorrowedFd, kinds: i32) -> Result<()> {
        if kinds != 0 {
            let _phase = trace::phase("join the container's namespaces");
            task::setns(target, kinds).context("joining the container's namespaces")?;
            trace::clock_changed();
        }
        Ok(())
    }

    fn change_root(&self) -> Result<()> {
        if let Some(root) = &self.root {
            task::fchdir(root.as_fd())?;
            task::chroot_here()?;
        }
        Ok(())
    }

    /// Clones a process, into a cgroup if there is one to be born in; `None` where the kernel does not let it live there.
    fn clone(&self, request: &Request, place: Option<BorrowedFd>) -> Result<Option<Forked>> {
        let clone = || match place {
            Some(place) => task::clone3_into(0, place),
            None => task::clone3(0, None).map(Some),
        };
        if self.early == 0 {
            return Ok(clone()?);
        }
        // The root, too, has to be found again.
        let back = Back::from(self.early | libc::CLONE_NEWNS, request.host.proc.as_fd())?;
        // All of them or none.
        self.enter(request.target, self.early)?;
        let cloned = self.change_root().and_then(|()| Ok(clone()?));
        match cloned {
            // Its descriptors are closed together.
            Ok(Some(Forked::Child)) => std::mem::forget(back),
            _ => back.go(),
        }
        cloned
    }
}

fn spawn(request: &Request, entry: Entry, console_socket: Option<OwnedFd>) -> Result<Process> {
    let _phase = trace::phase("spawn");
    let proc = request.host.proc.as_fd();
    let watch = Watch::new(request.record.cgroup.clone().filter(|_| request.status == Status::Paused))?;
    let (ours, theirs) = Channel::pair()?;
    let mut doors = request.cgroup.map_or(Ok(Vec::new()), Cgroup::join_fds)?;
    // Not a child of the container's process, and so not in its class by birth.
    let classes = request.record.intel_rdt.as_ref().map_or(Ok(Vec::new()), intel_rdt::join_fds)?;
    if !entry.between || task::euid() == 0 {
        // The container's processes are about to see ours: they must not be able to look into it. As a user we could
        // not set its limits then: it hides before it enters.
        task::set_dumpable(false)?;
    }
    let cloning = trace::phase("clone3");
    let cloned = clone_inside(request, &entry, &mut doors);
    if let Ok((Forked::Child, unit)) = cloned {
        drop(ours);
        end_with(theirs, |report| {
            die_with_parent()?;
            cgroups::join(doors)?;
            intel_rdt::join(classes)?;
            let own =
                [console_socket.as_ref(), entry.root.as_ref()].into_iter().flatten().map(AsRawFd::as_raw_fd);
            let needed = [report.fd(), proc, request.target].map(|fd| fd.as_raw_fd());
            fs::close_all_but(own.chain(needed).chain(request.preserved.iter().copied()).collect())?;
            if entry.between {
                between(request, &entry, console_socket, report)
            } else {
                if unit.is_some() {
                    // Until systemd has put us into the container's cgroup: what we open there, its device filter judges.
                    report.await_go()?;
                }
                entry.enter(request.target, entry.kinds & !entry.early)?;
                if entry.early == 0 {
                    entry.change_root()?;
                }
                init(request, console_socket, report)
            }
        })
    }
    drop(cloning);
    let (Forked::Parent { pid, pidfd }, unit) = cloned? else { return Err(unexpected()) };
    trace::cloned(pid);
    let waits = entry.between || unit.is_some();
    let process =
        Process { pid, pidfd, console: None, between: entry.between, channel: ours, watch: Some(watch) };
    let prepared = unit
        .map_or(Ok(()), |unit| systemd::attach(unit, pid))
        .and_then(|()| limits(pid, request.process, proc))
        .and_then(|()| if waits { process.channel.go(Go::On) } else { Ok(()) });
    match prepared {
        Ok(()) => Ok(process),
        Err(e) => {
            process.kill();
            Err(e)
        }
    }
}

/// Clones a process into the container's cgroup; or beside it, to enter by `doors` where the kernel lets none be born
/// there, or to be put into the unit by systemd: a user may not move processes there from a session, whose cgroup is
/// another's.
fn clone_inside<'a>(
    request: &Request<'a>,
    entry: &Entry,
    doors: &mut Vec<OwnedFd>,
) -> Result<(Forked, Option<&'a Unit>)> {
    let unit = request.record.cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_ref());
    let outside = |unit| Ok((entry.clone(request, None)?.ok_or_else(unexpected)?, unit));
    let Some(cgroup) = request.cgroup else { return outside(None) };
    let Some(place) = cgroup.cgroup_fd() else { return outside(None) };
    let mut lower = None;
    let cloned = match entry.clone(request, Some(place)) {
        Err(e) if request.cgroup_given => return Err(e),
        Err(e) if sys::errno(&e) == Some(Errno::EBUSY) => {
            let below =
                lower.insert(Cgroup { unified: Some(cgroup_of_target(request)?.ok_or(e)?), v1: Vec::new() });
            entry.clone(request, below.cgroup_fd())?
        }
        Err(e) if sys::errno(&e) == Some(Errno::EACCES) && unit.is_some() => return outside(unit),
        cloned => cloned?,
    };
    if let Some(cloned) = cloned {
        return Ok((cloned, None));
    }
    doors.extend(lower.as_ref().unwrap_or(cgroup).unified_join_fd()?);
    outside(None)
}

/// The cgroup below the container's that its own process has moved to.
fn cgroup_of_target(request: &Request) -> Result<Option<cgroups::Directory>> {
    let above = request.cgroup.and_then(|cgroup| cgroup.unified.as_ref());
    let (Some(pid), Some(above)) = (request.record.pid, above) else { return Ok(None) };
    let below = cgroups::current_below(&above.path, pid, request.host.proc.as_fd())?;
    match &below {
        // The container may have chosen it, and frozen it: the process would never come to its program.
        Some(below) if request.status != Status::Paused && below.frozen()? => {
            let message = format!("cannot exec: the cgroup {} is frozen", below.path.display());
            Err(fail(Kind::WrongStatus, message))
        }
        _ => Ok(below),
    }
}

/// The intermediate process: enters all, and clones the process into the pid namespace, which holds for children only.
fn between(
    request: &Request,
    entry: &Entry,
    console_socket: Option<OwnedFd>,
    report: &mut Channel,
) -> Result<Infallible> {
    report.await_go()?;
    task::set_dumpable(false)?;
    entry.enter(request.target, entry.kinds)?;
    entry.change_root()?;
    become_root()?;
    match task::clone3(libc::CLONE_PARENT as u64, None)? {
        Forked::Child => {
            trace::in_clone();
            die_with_parent()?;
            // Until the runtime has been told of us.
            report.await_go()?;
            init(request, console_socket, report)
        }
        Forked::Parent { pid, pidfd } => {
            report.send(&Event::Cloned { pid, pidfd })?;
            task::exit_now(0)
        }
    }
}

/// The process that becomes the program, in the container.
fn init(request: &Request, console_socket: Option<OwnedFd>, report: &mut Channel) -> Result<Infallible> {
    task::setsid()?;
    if let Some(name) = request.record.session_keyring() {
        session_keyring(&name, Some(&request.process.labels), request.host.proc.as_fd())?;
    }
    let root = fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?;
    let proc = request.host.proc.as_fd();
    let as_named = |user| program::as_named(request.process, user, request.groups, root.as_fd(), proc);
    let named = request.user.map(as_named).transpose()?;
    let process = named.as_ref().unwrap_or(request.process);
    if process.terminal {
        attach_terminal(process, &rootfs::terminal(root.as_fd(), proc)?, console_socket, report)?;
    }
    if let Some(cpus) = &process.affinity.last {
        affinity::apply(cpus)?;
    }
    let setting = Setting {
        process,
        seccomp: request.seccomp,
        proc,
        preserved: request.preserved,
        user_namespace: request.host.user_namespace || request.record.namespaces.iter().any(|n| n == "user"),
        service: request.service,
        notify_socket: None,
        make_cwd: false,
    };
    let program = program::find(setting, root.as_fd())?;
    task::set_parent_death_signal(0)?;
    report.send(&Event::Ready)?;
    report.await_go()?;
    program.run(report)
}
