//! The container side of `create`: the process that becomes the container's program. As a copy of the runtime
//! process it has the plan, the open sources and the channel. The kernel and the specification
//! (runtime.md#lifecycle) force the order of the steps, which docs/architecture.md shows.
//!
//! A new user namespace is cloned together with the pid and time namespaces only ([`AT_CLONE`]). Its root
//! unshares the other namespaces. If they were cloned too, the mqueue mount would be owned by nobody.
//!
//! Prestart and createRuntime hooks find the mounts made and the root not yet changed. createContainer hooks
//! run in the container's namespaces, before pivot_root. Masks and read-only paths come after them, because
//! these hooks may write.
//!
//! Until Ready, the process has a parent-death signal. After that, the end of the channel tells it that the
//! runtime process has ended: the runtime process of `create` is right to end as soon as the container is on
//! record.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::caller::Caller;
use super::channel::{Channel, Event, Go};
use super::program::{self, Found, Setting, attach_terminal, become_root, outlive_runtime, session_keyring};
use crate::cgroups::Cgroup;
use crate::error::{Context, Kind, Result, fail};
use crate::hooks::{self, Hook};
use crate::namespaces::{self, Back, Joined, KINDS};
use crate::plan::Plan;
use crate::process::{affinity, sysctl};
use crate::state::{Record, Status, spec_state};
use crate::sys::{self, credentials, fs, net, socket, task};
use crate::{log, rootfs, trace};

/// What the container process needs to carry out the plan.
pub(super) struct Container<'a> {
    pub(super) plan: &'a Plan,
    pub(super) caller: &'a Caller,
    /// For the state that hooks read.
    pub(super) record: &'a Record,
    pub(super) joined: &'a Joined,
    /// The runtime sends the new network namespace. If false, it is made together with the other namespaces.
    pub(super) awaits_network: bool,
    /// `None` if the runtime must open them from the new mount namespace.
    pub(super) sources: Option<rootfs::Sources>,
    /// The socket that `start` connects to. `run` has none.
    pub(super) start: Option<OwnedFd>,
    /// The container's notification socket, which `start` gets.
    pub(super) notify: Option<OwnedFd>,
    /// The mount namespace comes last, as one of the root file system only if that works.
    pub(super) root_only: bool,
    /// The runtime says when the device filter is attached. If false, another message says so.
    pub(super) awaits_filter: bool,
}

/// The namespaces that a new user namespace is cloned together with. Root of that makes the others, since some file systems
/// belong to the user who made their namespace. A pid and a time namespace hold for children only.
pub(super) const AT_CLONE: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWTIME;

impl<'a> Container<'a> {
    pub(super) fn descriptors(&self) -> Vec<i32> {
        let own = [&self.start, &self.notify].into_iter().flatten().map(AsRawFd::as_raw_fd);
        let sources = self.sources.iter().flat_map(rootfs::Sources::descriptors);
        self.joined.descriptors().chain(sources).chain(own).collect()
    }

    /// Returns the user and group of the container's program.
    fn user(&self) -> Option<(u32, u32)> {
        self.plan.process.as_ref().map(|process| (process.user.uid, process.user.gid))
    }

    /// The runtime's part before the clone.
    pub(super) fn enter_early(&self) -> Result<Back> {
        namespaces::enter_for_children(&self.plan.namespaces, self.joined, self.caller.proc())
    }

    /// Makes the namespaces that the clone has not made with the others (`at_clone`), and joins those of others. The
    /// mount namespace is joined last of all, by [`rootfs::Root::enter`].
    pub(super) fn enter(&self, at_clone: i32, report: &Channel) -> Result<()> {
        let namespaces = &self.plan.namespaces;
        if namespaces.creates(libc::CLONE_NEWUSER) {
            become_root(self.user())?;
            unshare(namespaces.made() & !AT_CLONE)?;
        } else if namespaces.creates(libc::CLONE_NEWCGROUP) && at_clone & libc::CLONE_NEWCGROUP == 0 {
            unshare(libc::CLONE_NEWCGROUP)?;
        }
        if self.awaits_network {
            enter_network(report.take_if_any()?)?;
        }
        namespaces::join(self.joined, !(namespaces::early(namespaces) | libc::CLONE_NEWNS))
    }

    /// The intermediate process: enters the namespaces that must be entered first. Returns the kinds of those that the
    /// container process is cloned into.
    pub(super) fn enter_as_intermediate(&self, report: &Channel) -> Result<i32> {
        let namespaces = &self.plan.namespaces;
        let offsets = namespaces::open_offsets(namespaces, self.caller.proc())?;
        if namespaces.joins(libc::CLONE_NEWUSER) {
            // Hide before entering: a process inside with CAP_SYS_PTRACE could open the host's files through this one.
            task::set_undumpable()?;
            namespaces::join_all(self.joined)?;
            report.send(&Event::MapsWanted)?;
            report.await_go()?;
            become_root(self.user())?;
        } else {
            namespaces::join(self.joined, !(libc::CLONE_NEWNS | libc::CLONE_NEWUSER))?;
            if namespaces.creates(libc::CLONE_NEWUSER) {
                unshare(libc::CLONE_NEWUSER)?;
                report.send(&Event::MapsWanted)?;
                report.await_go()?;
                become_root(self.user())?;
            }
        }
        offsets.iter().try_for_each(|file| namespaces::write_offsets(namespaces, file.as_fd()))?;
        // Children are in the time namespace with offsets already.
        let time = if offsets.is_some() { libc::CLONE_NEWTIME } else { 0 };
        Ok(namespaces.made() & !(libc::CLONE_NEWUSER | time))
    }

    /// The container process, in all namespaces except the mount namespace that it joins.
    pub(super) fn init(
        mut self,
        console_socket: Option<OwnedFd>,
        report: &mut Channel,
    ) -> Result<Infallible> {
        let plan = self.plan;
        self.name_and_network()?;
        affinity::reset()?;
        task::setsid()?;
        // What is made in the container has the given modes, whatever the caller's umask is.
        let umask = credentials::umask(0);
        let root = self.mount_all(report)?;
        credentials::umask(umask);
        if plan.reports_mounts() {
            report.send(&Event::Mounted)?;
            report.await_go()?;
        } else if self.awaits_filter {
            report.await_go()?;
        }
        if let Some(process) = plan.process.as_ref().filter(|process| process.terminal) {
            attach_terminal(process, root.console()?, console_socket, report)?;
        }
        run_create_container(&plan.hooks.create_container, self.record)?;
        sysctl::apply(&plan.sysctl, self.caller.proc())?;
        let root = root.enter(&plan.rootfs, self.joined)?;

        let setting = |process| Setting {
            caller: self.caller,
            process,
            seccomp: plan.seccomp.as_ref(),
            user_namespace: self.caller.host.user_namespace || plan.namespaces.has(libc::CLONE_NEWUSER),
            notify_socket: plan.notify_socket.as_deref(),
            make_cwd: true,
        };
        let find = |process| program::find(setting(process), root.as_fd());
        let found = plan.process.as_ref().map(find).transpose()?;
        outlive_runtime()?;
        report.send(&Event::Ready)?;
        if self.start.is_some() {
            // The runtime of `create` may have ended. The start socket is a stream, on which records would run together with
            // other messages, and another version of corten may read it.
            log::mute();
        }
        // Meanwhile the runtime puts the container on record. `start` reports an error.
        let settled = found.map(Found::settle).transpose();
        if report.await_go()? == Go::Wait
            && let Some(listener) = self.start.take()
        {
            let _phase = trace::phase("wait for start");
            *report = Channel::from_socket(socket::accept(listener.as_fd())?);
            self.notify.take().map_or(Ok(()), |socket| report.send(&Event::Notify(socket)))?;
        }
        drop(self.start);
        let none = || fail(Kind::Config, "process: the configuration has none to start");
        let program = settled?.ok_or_else(none)?;
        program.run_hooks(&plan.hooks.start_container, || state(self.record), report)?;
        program.run(report)
    }

    /// Mounts all, in a root-only mount namespace if that works, else in one with the host's paths.
    fn mount_all(&mut self, report: &Channel) -> Result<rootfs::Root<'a>> {
        let plan = &self.plan.rootfs;
        let open = |index| {
            report.send(&Event::SourceWanted(index))?;
            report.take()
        };
        let warn = |text| report.send(&Event::Warning(text));
        let runtime = rootfs::Runtime { open: &open, warn: &warn };
        if self.root_only {
            if let Some(root) = rootfs::mount_root_only(plan, self.caller.proc(), &runtime)? {
                return Ok(root);
            }
            unshare(libc::CLONE_NEWNS)?;
        }
        let sources = match self.sources.take() {
            Some(sources) => sources,
            None => {
                report.send(&Event::SourcesWanted)?;
                rootfs::Sources::receive(plan, rootfs::Open::All, || report.take())?
            }
        };
        rootfs::mount_all(plan, sources, self.caller.proc(), &runtime)
    }

    /// Sets the names and the interface of new namespaces, and the session keyring.
    fn name_and_network(&self) -> Result<()> {
        let _phase = trace::phase("names, loopback, keyring");
        let plan = self.plan;
        if let Some(name) = &plan.namespaces.hostname {
            task::sethostname(name).context("hostname")?;
        }
        if let Some(name) = &plan.namespaces.domainname {
            task::setdomainname(name).context("domainname")?;
        }
        if plan.namespaces.creates(libc::CLONE_NEWNET) {
            net::loopback_up()?;
        }
        if let Some(name) = self.record.session_keyring() {
            let labels = plan.process.as_ref().map(|process| &process.labels);
            session_keyring(&name, labels, self.caller.proc())?;
        }
        Ok(())
    }
}

/// Makes namespaces for this process.
fn unshare(kinds: i32) -> Result<()> {
    let _phase = trace::phase_of("make namespaces", || namespaces::shown(kinds));
    task::unshare(kinds).map_err(|error| explain(error, kinds, None))
}

/// Adds the reason to the errors of clone3(2) and unshare(2) that do not show it. `cgroup` is the one that the
/// process is cloned into.
pub(super) fn explain(error: sys::Error, kinds: i32, cgroup: Option<&Cgroup>) -> anyhow::Error {
    let in_chroot = || fs::mounted_at(fs::CWD, Path::new("/")).is_ok_and(|id| id == 0);
    let full = || cgroup.and_then(Cgroup::full);
    let reason = match error.errno {
        // The kernel's current_chrooted().
        Errno::EPERM if kinds & libc::CLONE_NEWUSER != 0 && in_chroot() => {
            "the kernel makes no user namespace in a chroot (hint: make / a mount point, and the root by pivot_root(8))"
                .into()
        }
        Errno::EPERM if kinds & libc::CLONE_NEWUSER != 0 => {
            "this user may not make a user namespace (hint: the sysctls kernel.unprivileged_userns_clone and \
             kernel.apparmor_restrict_unprivileged_userns, or the seccomp profile of an outer container)"
                .into()
        }
        // Every other kind requires CAP_SYS_ADMIN (clone(2)).
        Errno::EPERM if KINDS.iter().any(|kind| kinds & kind.flag != 0) && task::euid() != 0 => {
            "only root makes namespaces without a user namespace (hint: rootless needs a user namespace, as `corten \
             spec --rootless` writes)"
                .into()
        }
        Errno::EBUSY => "the cgroup cannot take processes".into(),
        Errno::ENOSPC => "the limit on namespaces, /proc/sys/user, is reached".into(),
        Errno::EAGAIN => full().unwrap_or_else(|| "the limit on processes is reached".into()),
        _ => return error.into(),
    };
    anyhow::Error::new(error).context(reason)
}

/// Enters the container's new network namespace, or makes one if the runtime could not. A seccomp filter around the
/// runtime may know setns(2) only for `exec`.
fn enter_network(network: Option<OwnedFd>) -> Result<()> {
    let Some(network) = network else { return unshare(libc::CLONE_NEWNET) };
    let _phase = trace::phase("join the new network namespace");
    match task::setns(network.as_fd(), libc::CLONE_NEWNET) {
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::ENOSYS) => unshare(libc::CLONE_NEWNET),
        other => Ok(other?),
    }
}

/// Returns the state that hooks in the container read. The process id is the one that they see.
fn state(record: &Record) -> String {
    spec_state(record, Status::Created, Some(std::process::id() as i32))
}

/// Runs the createContainer hooks: programs of the host, in the container's namespaces. Their working directory is the root
/// file system, as with runc. No variable of the environment may name a file of the image there (CVE-2025-23266), therefore
/// a hook that names no environment has none.
fn run_create_container(hooks: &[Hook], record: &Record) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    hooks::run(hooks, state(record).as_bytes(), Vec::new)
}
