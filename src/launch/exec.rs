//! `exec`: one more process in a container. It enters by a descriptor of the container's own process, and from there on
//! it is the code of that one: [`super::program`].

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::channel::{Channel, Event, Go};
use super::init::{attach_terminal, become_root, die_with_parent, end_with, session_keyring};
use super::program::{self, Setting};
use super::{Process, connect, limits, unexpected, write_pid_file};
use crate::cgroups::systemd::{self, Unit};
use crate::cgroups::{self, Cgroup, v1, v2};
use crate::error::{Context, Result};
use crate::host::Host;
use crate::namespaces::{self, KINDS};
use crate::process::{self, affinity, env};
use crate::state::{Record, Status};
use crate::sys::task::Forked;
use crate::sys::{fs, socket, task};
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

/// Starts the process. It runs its program when this returns.
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
        Ok(Self { kinds, root })
    }

    /// Enters all that is not entered yet.
    fn enter(&self, target: BorrowedFd, kinds: i32) -> Result<()> {
        if kinds != 0 {
            let _phase = trace::phase("join the container's namespaces");
            task::setns(target, kinds).context("joining the container's namespaces")?;
            trace::clock_changed();
        }
        if let Some(root) = &self.root {
            task::fchdir(root.as_fd())?;
            task::chroot_here()?;
        }
        Ok(())
    }
}

fn spawn(request: &Request, entry: Entry, console_socket: Option<OwnedFd>) -> Result<Process> {
    let _phase = trace::phase("spawn");
    let proc = request.host.proc.as_fd();
    let (ours, theirs) = Channel::pair()?;
    let mut doors = request.cgroup.map_or(Ok(Vec::new()), Cgroup::doors)?;
    // Not a child of the container's process, and so not in its class by birth.
    let classes = request.record.intel_rdt.as_ref().map_or(Ok(Vec::new()), intel_rdt::doors)?;
    let in_user = entry.kinds & libc::CLONE_NEWUSER != 0
        || entry.kinds & libc::CLONE_NEWPID != 0 && !namespaces::returns(request.host)?;
    if !in_user || task::euid() == 0 {
        // The container's processes are about to see ours: they must not be able to look into it. As a user we could
        // not set its limits then: it hides before it enters.
        task::set_dumpable(false)?;
    }
    let for_children = if in_user { 0 } else { entry.kinds & libc::CLONE_NEWPID };
    let before = if for_children == 0 {
        None
    } else {
        let before = fs::open(proc, Path::new("self/ns/pid_for_children"), fs::O_RDONLY, 0)?;
        task::setns(request.target, for_children).context("joining the container's namespaces")?;
        Some(before)
    };
    let cloning = trace::phase("clone3");
    let cloned = clone_inside(request, &mut doors);
    if let Ok((Forked::Child, _)) = cloned {
        drop(ours);
        end_with(theirs, |report| {
            die_with_parent()?;
            v1::enter(doors)?;
            intel_rdt::enter(classes)?;
            let own =
                [console_socket.as_ref(), entry.root.as_ref()].into_iter().flatten().map(AsRawFd::as_raw_fd);
            let needed = [report.fd(), proc, request.target].map(|fd| fd.as_raw_fd());
            fs::close_all_but(own.chain(needed).chain(request.preserved.iter().copied()).collect())?;
            if in_user {
                between(request, &entry, console_socket, report)
            } else {
                entry.enter(request.target, entry.kinds & !for_children)?;
                init(request, console_socket, report)
            }
        })
    }
    drop(cloning);
    if let Some(before) = before {
        task::setns(before.as_fd(), for_children)?;
    }
    let (Forked::Parent { pid, pidfd }, unit) = cloned? else { return Err(unexpected()) };
    trace::cloned(pid);
    let process = Process { pid, pidfd, console: None, between: in_user, channel: ours };
    let prepared = unit
        .map_or(Ok(()), |unit| systemd::attach(unit, pid))
        .and_then(|()| limits(pid, request.process, proc))
        .and_then(|()| if in_user { process.channel.go(Go::On) } else { Ok(()) });
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
fn clone_inside<'a>(request: &Request<'a>, doors: &mut Vec<OwnedFd>) -> Result<(Forked, Option<&'a Unit>)> {
    let unit = request.record.cgroup.as_ref().and_then(|cgroup| cgroup.unit.as_ref());
    let outside = |unit| Ok((task::clone3(0, None)?, unit));
    let Some(cgroup) = request.cgroup else { return outside(None) };
    let Some(place) = cgroup.birthplace() else { return outside(None) };
    let mut below = None;
    let cloned = match (task::clone3_into(0, place), unit) {
        (cloned, _) if request.cgroup_given => cloned?,
        (Err(e), _) if e.errno == Errno::EBUSY => {
            below = cgroup_of_target(request).map(Cgroup::V2);
            task::clone3_into(0, below.as_ref().and_then(Cgroup::birthplace).ok_or(e)?)?
        }
        (Err(e), Some(unit)) if e.errno == Errno::EACCES => return outside(Some(unit)),
        (cloned, _) => cloned?,
    };
    if let Some(cloned) = cloned {
        return Ok((cloned, None));
    }
    *doors = below.as_ref().unwrap_or(cgroup).all_doors()?;
    outside(None)
}

/// The cgroup below the container's that its own process has moved to, as systemd does: one that shares out controllers
/// takes no processes itself.
fn cgroup_of_target(request: &Request) -> Option<v2::Cgroup> {
    let file = PathBuf::from(format!("{}/cgroup", request.record.pid?));
    let file = fs::open(request.host.proc.as_fd(), &file, fs::O_RDONLY, 0).ok()?;
    let text = String::from_utf8(fs::read_limited(file, 1 << 16).ok()?).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = cgroups::Host::probe(false).ok()?.v2_mount?.join(path);
    let inside = path.starts_with(&request.record.cgroup.as_ref()?.path);
    if inside { v2::Cgroup::open(&path).ok()? } else { None }
}

/// A user namespace that is not below ours gives us the right to enter the others once we are in it, and a pid
/// namespace holds for children only: so there is a process between.
fn between(
    request: &Request,
    entry: &Entry,
    console_socket: Option<OwnedFd>,
    report: &mut Channel,
) -> Result<Infallible> {
    report.await_go()?;
    task::set_dumpable(false)?;
    entry.enter(request.target, entry.kinds)?;
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
    let as_named = |user| program::as_named(request.process, user, request.groups, root.as_fd());
    let named = request.user.map(as_named).transpose()?;
    let process = named.as_ref().unwrap_or(request.process);
    if process.terminal {
        attach_terminal(process, &rootfs::terminal(root.as_fd())?, console_socket, report)?;
    }
    if let Some(cpus) = &process.affinity.last {
        affinity::apply(cpus)?;
    }
    let setting = Setting {
        process,
        seccomp: request.seccomp,
        proc: request.host.proc.as_fd(),
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
