//! The container's side of `create`: the process that becomes the container's program. It is a copy of the runtime and
//! has the plan, the open sources and the channel from it. Each step is in the order that the kernel and the
//! specification (runtime.md#lifecycle) force; docs/architecture.md tells why.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::anyhow;
use nix::errno::Errno;

use super::channel::{Channel, Event, Go};
use super::program::{self, Setting};
use crate::cgroups;
use crate::error::{Context, Kind, Result, fail};
use crate::hooks::{self, Hook};
use crate::namespaces::{self, Joined, Stages};
use crate::plan::Plan;
use crate::process::{env, lsm, sysctl};
use crate::state::{Record, Status, spec_state};
use crate::sys::task::Forked;
use crate::sys::{credentials, fs, net, socket, task, tty};
use crate::{intel_rdt, process, rootfs, trace};

/// What the container's process has to do, and what it does it with.
pub(super) struct Container<'a> {
    pub(super) plan: &'a Plan,
    /// The cgroups to enter that one cannot be born in: those of v1.
    pub(super) doors: Vec<OwnedFd>,
    /// The class of processes to enter, and its monitoring group.
    pub(super) classes: Vec<OwnedFd>,
    /// For the state that hooks read.
    pub(super) record: &'a Record,
    /// The root of the host's procfs.
    pub(super) proc: BorrowedFd<'a>,
    pub(super) joined: &'a Joined,
    /// Not there where they must be opened from our own mount namespace, once it is made.
    pub(super) sources: Option<rootfs::Sources>,
    /// Where the terminal's master goes; without, to the runtime.
    pub(super) console_socket: Option<OwnedFd>,
    /// Where `start` will knock; `run` goes straight on.
    pub(super) start: Option<OwnedFd>,
    /// The container's notification socket, which `start` gets.
    pub(super) notify: Option<OwnedFd>,
    pub(super) preserved: &'a [i32],
    pub(super) service: &'a env::Service,
    /// We are in a user namespace already.
    pub(super) user_namespace: bool,
    pub(super) stages: Stages,
    /// The runtime says when the device filter is attached. If false, another message says so.
    pub(super) awaits_filter: bool,
}

/// Runs `act`, which never comes back but with an error, and ends the process with telling it. `act` may exchange the
/// channel that the error is told on.
pub(super) fn end_with(mut report: Channel, act: impl FnOnce(&mut Channel) -> Result<Infallible>) -> ! {
    trace::in_clone();
    let Err(error) = act(&mut report);
    // If nobody listens any more, there is nobody to tell.
    let _ = report.send(&Event::Error(error));
    task::exit_now(1)
}

impl Container<'_> {
    /// The mount namespace comes last, of the root file system alone if that works.
    pub(super) fn alone(&self) -> bool {
        self.plan.alone && self.stages == Stages::Direct
    }

    /// The descriptors that the process needs; the caller's others, the lock on the state among them, it must not have.
    fn descriptors(&self, report: &Channel) -> Vec<i32> {
        let own = [self.console_socket.as_ref(), self.start.as_ref(), self.notify.as_ref()];
        let own = own.into_iter().flatten().map(AsRawFd::as_raw_fd);
        let sources = self.sources.iter().flat_map(rootfs::Sources::descriptors);
        let more = self.joined.descriptors().chain(sources).chain(own);
        more.chain([report.fd().as_raw_fd(), self.proc.as_raw_fd()])
            .chain(self.preserved.iter().copied())
            .collect()
    }
}

/// Dies with the runtime. A change of credentials clears it.
pub(super) fn die_with_parent() -> Result<()> {
    Ok(task::set_parent_death_signal(libc::SIGKILL)?)
}

/// The first process of a launch: the container's own, or the one between.
pub(super) fn first(mut container: Container, report: &mut Channel) -> Result<Infallible> {
    die_with_parent()?;
    let enters = !container.doors.is_empty();
    cgroups::join(std::mem::take(&mut container.doors))?;
    intel_rdt::join(std::mem::take(&mut container.classes))?;
    fs::close_all_but(container.descriptors(report))?;
    let namespaces = &container.plan.namespaces;
    match container.stages {
        Stages::Direct => {
            let late = container.plan.waits_for_cgroup();
            if late || namespaces.creates(libc::CLONE_NEWUSER) {
                report.await_go()?;
            }
            if namespaces.creates(libc::CLONE_NEWUSER) {
                become_root()?;
                task::unshare(namespaces.made() & !AT_CLONE)?;
            } else if late || enters {
                task::unshare(namespaces.create & libc::CLONE_NEWCGROUP)?;
            }
            init(container, report)
        }
        Stages::Intermediate => between(container, report),
    }
}

/// What a new user namespace is cloned together with; the rest is made once we are root in it, since some file systems
/// belong to whoever made their namespace. A pid and a time namespace hold for children only.
pub(super) const AT_CLONE: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWTIME;

/// Becomes root of the user namespace that we are in, and out of reach for others who are.
pub(super) fn become_root() -> Result<()> {
    task::setresgid(0)?;
    task::setresuid(0)?;
    task::set_dumpable(false)?;
    die_with_parent()
}

/// The process between: enters what must be entered first and clones the container's as its sibling.
fn between(container: Container, report: &mut Channel) -> Result<Infallible> {
    let namespaces = &container.plan.namespaces;
    report.await_go()?;
    let offsets = namespaces::open_offsets(namespaces, container.proc)?;
    if namespaces.joins(libc::CLONE_NEWUSER) {
        // Hide before entering: a process inside with CAP_SYS_PTRACE could open the host's files through this one.
        task::set_dumpable(false)?;
        namespaces::join_all(container.joined)?;
        become_root()?;
    } else {
        namespaces::join(container.joined, !(libc::CLONE_NEWNS | libc::CLONE_NEWUSER))?;
        if namespaces.creates(libc::CLONE_NEWUSER) {
            task::unshare(libc::CLONE_NEWUSER)?;
            report.send(&Event::MapsWanted)?;
            report.await_go()?;
            become_root()?;
        }
    }
    offsets.iter().try_for_each(|file| namespaces::write_offsets(namespaces, file.as_fd()))?;
    // The time namespace with offsets is that of our children already.
    let time = if offsets.is_some() { libc::CLONE_NEWTIME } else { 0 };
    let kinds = namespaces.made() & !(libc::CLONE_NEWUSER | time);
    match task::clone3((kinds | libc::CLONE_PARENT) as u64, None)? {
        Forked::Child => {
            trace::in_clone();
            die_with_parent()?;
            // What we say before the runtime has been told of us, it would take for the word of the one between.
            report.await_go()?;
            init(container, report)
        }
        Forked::Parent { pid, pidfd } => {
            report.send(&Event::Cloned { pid, pidfd })?;
            task::exit_now(0)
        }
    }
}

/// The container's process, in all namespaces but those that it joins itself.
fn init(mut container: Container, report: &mut Channel) -> Result<Infallible> {
    let plan = container.plan;
    if container.stages == Stages::Direct {
        // The others were entered before the clone. The mount namespace comes last of all, in `Root::enter`.
        namespaces::join(container.joined, !(namespaces::early(&plan.namespaces) | libc::CLONE_NEWNS))?;
    }
    name_and_network(&container)?;
    task::setsid()?;
    // What is made in the container has the modes that are given, whatever the caller's umask is.
    let umask = credentials::umask(0);
    let root = match container.alone() {
        true => rootfs::mount_alone(&plan.rootfs, container.proc)?,
        false => None,
    };
    let root = match root {
        Some(root) => root,
        None => mount_all(&mut container, report)?,
    };
    credentials::umask(umask);
    if plan.reports_mounts() {
        report.send(&Event::Mounted)?;
        report.await_go()?;
    } else if container.awaits_filter {
        report.await_go()?;
    }
    if let Some(process) = plan.process.as_ref().filter(|process| process.terminal) {
        let terminal = root.console()?;
        attach_terminal(process, &terminal, container.console_socket.take(), report)?;
    }
    run_create_container(&plan.hooks.create_container, container.record)?;
    sysctl::apply(&plan.sysctl, container.proc)?;
    let root = root.enter(&plan.rootfs, container.joined)?;

    let setting = |process| Setting {
        process,
        seccomp: plan.seccomp.as_ref(),
        proc: container.proc,
        preserved: container.preserved,
        user_namespace: container.user_namespace || plan.namespaces.has(libc::CLONE_NEWUSER),
        service: container.service,
        notify_socket: plan.notify_socket.as_deref(),
        make_cwd: true,
    };
    let program =
        plan.process.as_ref().map(|process| program::find(setting(process), root.as_fd())).transpose()?;
    // From here on it is the end of the channel that tells of the runtime's death, until the container is on record.
    task::set_parent_death_signal(0)?;
    report.send(&Event::Ready)?;
    if report.await_go()? == Go::Wait
        && let Some(listener) = container.start.take()
    {
        let _phase = trace::phase("wait for start");
        *report = Channel::from_socket(socket::accept(listener.as_fd())?);
        container.notify.take().map_or(Ok(()), |socket| report.send(&Event::Notify(socket)))?;
    }
    drop(container.start);
    let none = || fail(Kind::Config, "process: the configuration has none to start");
    let program = program.ok_or_else(none)?;
    program.run_hooks(&plan.hooks.start_container, || state(container.record), report)?;
    program.run(report)
}

/// Mounts all in a mount namespace with the host's paths.
fn mount_all<'a>(container: &mut Container<'a>, report: &mut Channel) -> Result<rootfs::Root<'a>> {
    if container.alone() {
        task::unshare(libc::CLONE_NEWNS)?;
    }
    let plan = &container.plan.rootfs;
    let sources = match container.sources.take() {
        Some(sources) => sources,
        None => {
            report.send(&Event::SourcesWanted)?;
            rootfs::Sources::receive(plan, || report.take())?
        }
    };
    rootfs::mount_all(plan, sources, container.proc)
}

/// The state that hooks in the container read. Our process id is the one that they see.
fn state(record: &Record) -> String {
    spec_state(record, Status::Created, Some(std::process::id() as i32))
}

/// Runs the createContainer hooks: the host's programs, in the container's namespaces. Their working directory is the root
/// file system, as with runc. An image's file there must not be what a variable of the environment names
/// (CVE-2025-23266): a hook that names no environment has none.
fn run_create_container(hooks: &[Hook], record: &Record) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    hooks::run(hooks, state(record).as_bytes(), Vec::new)
}

/// The names and the interface of new namespaces, and the session keyring.
fn name_and_network(container: &Container) -> Result<()> {
    let _phase = trace::phase("names, loopback, keyring");
    let plan = container.plan;
    if let Some(name) = &plan.namespaces.hostname {
        task::sethostname(name).context("hostname")?;
    }
    if let Some(name) = &plan.namespaces.domainname {
        task::setdomainname(name).context("domainname")?;
    }
    if plan.namespaces.creates(libc::CLONE_NEWNET) {
        net::loopback_up()?;
    }
    if let Some(name) = container.record.session_keyring() {
        let labels = plan.process.as_ref().map(|process| &process.labels);
        session_keyring(&name, labels, container.proc)?;
    }
    Ok(())
}

/// Leaves the host's session keyring. A kernel without keys has none to leave.
pub(super) fn session_keyring(name: &str, labels: Option<&lsm::Labels>, proc: BorrowedFd) -> Result<()> {
    let label = labels.and_then(|labels| labels.selinux.as_deref());
    if label.is_some() {
        lsm::label_keys(label, proc)?;
    }
    match task::join_session_keyring(name) {
        Err(e) if e.errno == Errno::ENOSYS => return Ok(()),
        // As an outer container engine's filter answers.
        Err(e) if e.errno == Errno::EPERM => {
            return Err(anyhow!("{e} (hint: --no-new-keyring keeps the caller's)"));
        }
        // Fatal, as with runc and crun: to go on would leave the program the caller's keys.
        Err(e) if e.errno == Errno::EDQUOT => {
            let hint = "hint: the user has kernel.keys.maxkeys keys, root kernel.keys.root_maxkeys";
            return Err(anyhow!("{e} ({hint}; --no-new-keyring keeps the caller's)"));
        }
        other => task::permit_keyring_owner(other?)?,
    }
    if label.is_some() { lsm::label_keys(None, proc) } else { Ok(()) }
}

/// Sends the terminal's master away and makes its slave our controlling terminal and standard streams. We lead a
/// session.
pub(super) fn attach_terminal(
    process: &process::Plan,
    terminal: &rootfs::Terminal,
    socket: Option<OwnedFd>,
    report: &Channel,
) -> Result<()> {
    let _phase = trace::phase("terminal");
    if let Some((rows, columns)) = process.console_size {
        tty::set_size(terminal.master.as_fd(), rows, columns).context("process.consoleSize")?;
    }
    match socket {
        Some(socket) => {
            socket::send(socket.as_fd(), b"/dev/ptmx", &[terminal.master.as_fd()])
                .context("--console-socket")?;
        }
        None => report.send_console(terminal.master.as_fd())?,
    }
    tty::set_controlling(terminal.slave.as_fd())?;
    Ok(tty::become_stdio(terminal.slave.as_fd())?)
}
