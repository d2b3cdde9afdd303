//! The last steps of every process that corten puts into a container. The container process and a process of
//! `exec` share this code, so that their rights cannot differ.
//!
//! [`find`] looks up the program at `create`, inside the container, with its user's rights but without giving
//! up any right for good. An error is therefore reported before `start`. [`Found::settle`] does what needs
//! no message. [`Program::run`] becomes the user and executes.
//!
//! With no_new_privs the seccomp filter comes last. Without it, seccomp(2) needs CAP_SYS_ADMIN, so the filter
//! comes just before the capabilities are dropped. Both come after the wait for `start`, since a profile must
//! not be able to break that wait. Landlock has the same rule and comes before the filter.
//!
//! All descriptors except the channel and those that the caller passes on are closed before the seccomp
//! filter is loaded. `execve` would close them only after it has opened the program and its interpreters,
//! which an image may have as links to /proc/self/fd.
//!
//! Errors after the seccomp filter are reported by write(2) alone. The trace reads no clock there if the
//! filter may forbid it.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::anyhow;
use caps::Capability;
use nix::errno::Errno;

use super::caller::Caller;
use super::channel::{Channel, Event};
use crate::error::{Context, Kind, Result, fail};
use crate::hooks::{self, Hook};
use crate::process::credentials::{self, Groups, Status};
use crate::process::rlimits::Rlimit;
use crate::process::{
    self, env, io_priority, landlock, lookup, lsm, memory_policy, personality, rlimits, scheduler, users,
};
use crate::rootfs::null;
use crate::rootfs::resolve::{self, Missing};
use crate::sys::{self, fs, signal, socket, task, tty};
use crate::{log, rootfs, seccomp, trace};

/// Makes the process die with its parent. A change of credentials clears that setting.
pub(super) fn die_with_parent() -> Result<()> {
    Ok(task::set_parent_death_signal(libc::SIGKILL)?)
}

/// Becomes root of the own user namespace, and out of reach for other processes in it. If the namespace does not map root,
/// becomes `user`, the user and group of the program, instead. The capabilities remain: the kernel takes them only from a
/// process that changes from root to another user.
pub(super) fn become_root(user: Option<(u32, u32)>) -> Result<()> {
    // EINVAL is the errno for an id without a mapping.
    let set = |set: fn(u32) -> sys::Result<()>, id: Option<u32>, place: &'static str| match set(0) {
        Err(e) if e.errno == Errno::EINVAL => {
            let what = "the user namespace maps neither root nor this id";
            set(id.unwrap_or(0)).with_context(|| format!("{place}: {what}"))
        }
        other => Ok(other?),
    };
    set(task::setresgid, user.map(|(_, gid)| gid), "process.user.gid")?;
    set(task::setresuid, user.map(|(uid, _)| uid), "process.user.uid")?;
    task::set_undumpable()?;
    die_with_parent()
}

/// Leaves the host's session keyring. A kernel without keys has none to leave.
pub(super) fn session_keyring(name: &str, labels: Option<&lsm::Labels>, proc: BorrowedFd) -> Result<()> {
    let label = labels.and_then(|labels| labels.selinux.as_deref());
    if label.is_some() {
        lsm::label_keys(label, proc)?;
    }
    match task::join_session_keyring(name) {
        Err(e) if e.errno == Errno::ENOSYS => return Ok(()),
        // The seccomp filter of an outer container engine returns EPERM.
        Err(e) if e.errno == Errno::EPERM => {
            return Err(anyhow!("{e} (hint: --no-new-keyring keeps the caller's)"));
        }
        // Fatal, as with runc and crun: without a new keyring the program would have the caller's keys.
        Err(e) if e.errno == Errno::EDQUOT => {
            let hint = "hint: the user has kernel.keys.maxkeys keys, root kernel.keys.root_maxkeys";
            return Err(anyhow!("{e} ({hint}; --no-new-keyring keeps the caller's)"));
        }
        other => task::permit_keyring_owner(other?)?,
    }
    if label.is_some() { lsm::label_keys(None, proc) } else { Ok(()) }
}

/// Sends the terminal's master to `socket`, or to the runtime, and makes the slave the controlling terminal and the
/// standard streams. The process must lead a session.
pub(super) fn attach_terminal(
    process: &process::Plan,
    terminal: rootfs::Terminal,
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
        None => report.send(&Event::Console(terminal.master))?,
    }
    tty::set_controlling(terminal.slave.as_fd())?;
    Ok(tty::become_stdio(terminal.slave.as_fd())?)
}

/// Lets the process live on without the runtime. From here on the end of the channel shows the end of the runtime.
pub(super) fn outlive_runtime() -> Result<()> {
    Ok(task::set_parent_death_signal(0)?)
}

/// The circumstances that the program runs in.
#[derive(Clone, Copy)]
pub(super) struct Setting<'a> {
    pub(super) caller: &'a Caller,
    pub(super) process: &'a process::Plan,
    pub(super) seccomp: Option<&'a seccomp::Plan>,
    /// It runs in a user namespace other than the host's.
    pub(super) user_namespace: bool,
    pub(super) notify_socket: Option<&'a Path>,
    /// A missing working directory is made. `create` does so, `exec` does not.
    pub(super) make_cwd: bool,
}

/// A program to execute.
#[derive(Clone, Copy)]
struct Command<'a> {
    path: &'a CStr,
    argv: &'a [CString],
    env: &'a [CString],
    /// Descriptors that it inherits in addition to the standard streams.
    preserved: &'a [i32],
}

/// A program that has been found.
pub(super) struct Found<'a> {
    setting: Setting<'a>,
    path: CString,
    env: Vec<CString>,
    groups: Groups,
    /// The Landlock rules to apply.
    ruleset: Option<OwnedFd>,
}

/// A program that this process can become.
pub(super) struct Program<'a> {
    found: Found<'a>,
    /// What this process was before it took anything from itself.
    before: Status,
}

/// Changes to the working directory, finds the program, and completes its environment. `root` is the container's root, which
/// is the root and working directory of this process.
pub(super) fn find<'a>(setting: Setting<'a>, root: BorrowedFd) -> Result<Found<'a>> {
    let process = setting.process;
    let _phase = trace::phase_of("find the program", || {
        let name = process.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
        format!("{name} from {}", process.cwd.display())
    });
    if process.cwd != Path::new("/") {
        // Every descriptor of the host is closed on exec, and this one is opened inside the root. Therefore the working
        // directory cannot be outside (CVE-2024-21626). As with runc, it is opened with root's rights: config.json names it,
        // and the user may lack access to the directories above.
        let cwd = match resolve::open_with(root, &process.cwd, fs::O_PATH | fs::O_DIRECTORY) {
            Err(e) if e.errno == Errno::ENOENT && setting.make_cwd => {
                let umask = sys::credentials::umask(0);
                let made = resolve::open_or_make(root, &process.cwd, Missing::Directory);
                sys::credentials::umask(umask);
                made
            }
            other => other,
        };
        let cwd = cwd.and_then(|cwd| task::fchdir(cwd.as_fd()));
        cwd.with_context(|| format!("process.cwd {}", process.cwd.display()))?;
    }
    let mut env = process.env.clone();
    if env::get(&env, "HOME").is_none_or(<[u8]>::is_empty) {
        let passwd = names_file(root, setting.caller.proc(), "/etc/passwd")?.unwrap_or_default();
        env::fill_home(&mut env, &passwd, process.user.uid);
    }
    env::add_service(&mut env, &setting.caller.service, std::process::id, setting.notify_socket);
    let groups = Groups::probe(&process.user, setting.user_namespace, setting.caller.proc())?;
    let path = as_user(process, groups, || match process.argv.first() {
        Some(name) => lookup::find(name, &env),
        None => Ok(CString::default()),
    })?;
    log::debug(|| format!("found the program {}", path.to_string_lossy()));
    let ruleset = process.landlock.as_ref().map(|rules| landlock::build(rules, root)).transpose()?;
    Ok(Found { setting, path, env, groups, ruleset })
}

/// Returns the content of the container's passwd or group file, empty if it does not exist, or what is wrong with the file.
fn names_file(
    root: BorrowedFd,
    proc: BorrowedFd,
    path: &str,
) -> Result<std::result::Result<Vec<u8>, String>> {
    let file = match resolve::open(root, Path::new(path)) {
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR) => {
            return Ok(Ok(Vec::new()));
        }
        // A link to itself, or a link of a procfs, which could lead anywhere.
        Err(e) if e.errno == Errno::ELOOP => return Ok(Err(e.to_string())),
        other => other.with_context(|| path.to_string())?,
    };
    let stat = fs::fstat(file.as_fd())?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Ok(Err(format!("{path} of the container is not a regular file")));
    }
    // The kernel's own files have size 0, and reading one may have an effect: what is read from /proc/kmsg is lost for the
    // host.
    if stat.st_size == 0 {
        return Ok(Ok(Vec::new()));
    }
    let file =
        fs::reopen(proc, file.as_fd(), fs::O_RDONLY | libc::O_NONBLOCK).with_context(|| path.to_string())?;
    match fs::read_limited(file, users::CONTENT_MAX as u64) {
        Err(e) if e.errno == Errno::EFBIG => {
            Ok(Err(format!("{path} of the container is larger than {} MiB", users::CONTENT_MAX >> 20)))
        }
        other => Ok(Ok(other.with_context(|| path.to_string())?)),
    }
}

/// Returns the process's plan with the user that the container's files describe. `more` are groups in addition to the user's
/// own.
pub(super) fn as_named(
    process: &process::Plan,
    text: &str,
    more: &[u32],
    root: BorrowedFd,
    proc: BorrowedFd,
) -> Result<process::Plan> {
    let _phase = trace::phase("look up the user");
    let wrong = |message: String| fail(Kind::Config, format!("--user {text:?}: {message}"));
    let passwd = names_file(root, proc, "/etc/passwd")?.map_err(wrong)?;
    let group = names_file(root, proc, "/etc/group")?.map_err(wrong)?;
    let who = users::who(text, &passwd, &group).map_err(wrong)?;
    let mut named = process.clone();
    named.user.uid = who.uid;
    named.user.gid = who.gid.unwrap_or(process.user.gid);
    if let Some(groups) = who.additional_gids {
        named.user.additional_gids = [&groups, more].concat();
    }
    Ok(named)
}

/// The capabilities that let a process search directories and execute files against their permissions.
const FILE_OVERRIDES: u64 =
    1 << Capability::CAP_DAC_OVERRIDE as u64 | 1 << Capability::CAP_DAC_READ_SEARCH as u64;

/// Calls `act` with the file system rights of the process's user, as execve will have them.
fn as_user<T>(process: &process::Plan, groups: Groups, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let user = &process.user;
    if groups == Groups::Set && !user.additional_gids.is_empty() {
        let set = sys::credentials::setgroups(&user.additional_gids);
        set.map_err(|e| unmapped(e, "process.user.additionalGids", "one of these"))?;
    }
    if user.uid == 0 {
        return act();
    }
    let (uid, gid) = (task::euid(), task::egid());
    let set = task::setfsgid(user.gid);
    set.map_err(|e| unmapped(e, "process.user.gid", user.gid))?;
    let set = task::setfsuid(user.uid);
    set.map_err(|e| unmapped(e, "process.user.uid", user.uid))?;
    // A change from root takes from the effective set what overrides the permissions of files, and the change back restores it
    // (capabilities(7)). The program's user may have it, and execve will use it. Where the user namespace does not map root,
    // this process is another user, from whom nothing is taken.
    let overrides = process.capabilities.effective & FILE_OVERRIDES;
    let held = if overrides != 0 || uid != 0 { Some(sys::credentials::capget()?) } else { None };
    if let Some((effective, permitted, inheritable)) = held {
        sys::credentials::capset(effective & !FILE_OVERRIDES | overrides, permitted, inheritable)
            .context("process.capabilities.effective")?;
    }
    let result = act();
    task::setfsuid(uid)?;
    task::setfsgid(gid)?;
    if let Some((effective, permitted, inheritable)) = held.filter(|_| uid != 0) {
        sys::credentials::capset(effective, permitted, inheritable)?;
    }
    // The kernel resets both when the ids change (kernel/cred.c).
    task::set_undumpable()?;
    task::set_parent_death_signal(libc::SIGKILL)?;
    result
}

/// Returns the error for an id that could not be set. The kernel refuses with EINVAL an id that the user namespace does not
/// map. setfsuid(2) returns no error, and EPERM stands for an id that is not set.
fn unmapped(error: sys::Error, place: &str, id: impl std::fmt::Display) -> anyhow::Error {
    let why = match error.errno {
        Errno::EINVAL => format!("{place}: {id} is not mapped in the container's user namespace"),
        Errno::EPERM if error.call.starts_with("setfs") => {
            format!("{place}: {id} is not mapped in the container's user namespace")
        }
        _ => place.into(),
    };
    anyhow::Error::new(error).context(why)
}

impl<'a> Found<'a> {
    /// Does the part of becoming the program that needs no message, and that its hooks inherit. What could break the wait for
    /// `start` is not part of it.
    pub(super) fn settle(self) -> Result<Program<'a>> {
        let _phase = trace::phase("settle");
        let (process, proc) = (self.setting.process, self.setting.caller.proc());
        process.io_priority.map_or(Ok(()), io_priority::apply)?;
        process.memory_policy.as_ref().map_or(Ok(()), memory_policy::apply)?;
        process.personality.map_or(Ok(()), personality::apply)?;
        lsm::apply(&process.labels, proc)?;
        own_stdio(process, proc)?;
        let before = credentials::prepare(&process.capabilities, proc)?;
        Ok(Program { found: self, before })
    }
}

impl Program<'_> {
    /// Becomes the program, or reports why not and ends. It never returns: a return would close descriptors, which are closed
    /// already, or which the seccomp filter may forbid to close.
    pub(super) fn run(self, report: &Channel) -> ! {
        let Found { setting, path, env, .. } = &self.found;
        let preserved = &setting.caller.preserved[..];
        let command = Command { path, argv: &setting.process.argv, env, preserved };
        let Err(error) = self.execute(command, report);
        // If the other end is closed, no process is left to read the error.
        let _ = report.send(&Event::Error(error));
        task::exit_now(1)
    }

    /// Runs the startContainer hooks, whose programs are in the image. Each has the rights of the container's program, because
    /// a child becomes it by the same code. A hook gets the container's environment unless it names its own, and the standard
    /// streams only. It also gets a seccomp filter of its own, whose descriptor the agent receives if there is one.
    pub(super) fn run_hooks(
        &self,
        hooks: &[Hook],
        state: impl FnOnce() -> String,
        report: &Channel,
    ) -> Result<()> {
        if hooks.is_empty() {
            return Ok(());
        }
        let state = state();
        hooks.iter().try_for_each(|hook| {
            let env = hook.env.as_ref().unwrap_or(&self.found.setting.process.env);
            let command = Command { path: &hook.path, argv: &hook.argv, env, preserved: &[] };
            hooks::run_one(hook, state.as_bytes(), || {
                let Err(error) = self.execute(command, report);
                error
            })
        })
    }

    fn execute(&self, command: Command, report: &Channel) -> Result<Infallible> {
        let _phase = trace::phase("become the program");
        let Found { setting, groups, ruleset, .. } = &self.found;
        let Setting { process, seccomp, caller, .. } = *setting;
        let proc = caller.proc();
        let Command { path, argv, env, preserved } = command;
        if let Some(errno) = seccomp.and_then(|seccomp| seccomp.execve) {
            // Under the filter there may be no way to report it.
            return Err(lookup::forbidden(argv, errno));
        }
        // A child may not inherit it, and a process with a deadline may not clone.
        process.scheduler.as_ref().map_or(Ok(()), scheduler::apply)?;
        signal::reset(self.before.ignored)?;
        fs::close_on_exec_from(3)?;
        for fd in preserved {
            fs::keep_on_exec(*fd).context("--preserve-fds")?;
        }
        let listens = seccomp.is_some_and(|seccomp| seccomp.listener.is_some());
        let pid = if listens { own_pid(proc)? } else { 0 };
        let limit_and_load = || {
            ruleset.iter().try_for_each(|ruleset| landlock::apply(ruleset.as_fd()))?;
            limit_and_load(setting, preserved, pid, report)
        };
        let become_user = |privileged| {
            let (user, sets, no_new_privs) = (&process.user, &process.capabilities, process.no_new_privs);
            credentials::apply(user, sets, *groups, no_new_privs, &self.before, proc, privileged)
        };
        if !process.no_new_privs && (seccomp.is_some() || ruleset.is_some()) {
            become_user(Some(limit_and_load))?;
        } else {
            become_user(None)?;
            limit_and_load()?;
        }
        Err(lookup::execve(path, argv, env, || seccomp.is_none_or(|plan| plan.allows(lookup::LOOK))))
    }
}

/// Returns the id of this process as the runtime sees it. `proc` is the host's procfs.
fn own_pid(proc: BorrowedFd) -> Result<i32> {
    let link = fs::readlinkat(proc, Path::new("self"))?;
    link.to_string_lossy().parse().context("/proc/self")
}

/// Closes all descriptors that are no longer needed, sets the limits and loads the filter, if there is one. The limits also
/// hold for this process, so nothing that takes descriptors or memory comes after them. The runtime has raised the hard
/// limits; lowering them needs no right.
fn limit_and_load(setting: &Setting, preserved: &[i32], pid: i32, report: &Channel) -> Result<()> {
    // Close-on-exec would be too late: the kernel opens the program, the interpreter that a script names and that of an ELF
    // file before, and each can be a link of the image to /proc/self/fd. The host's procfs is open until here, and with it
    // the root of every process that this one might trace (related to CVE-2024-21626).
    fs::close_all_but(preserved.iter().copied().chain([report.fd().as_raw_fd()]).collect())?;
    let limits = &setting.process.rlimits;
    let Some(plan) = setting.seccomp else { return rlimits::apply(limits) };
    let load = || seccomp::apply(plan).context("linux.seccomp");
    if plan.listener.is_none() {
        rlimits::apply(limits)?;
        return load().map(drop);
    }
    // The number of the listener's descriptor must be below the limit. Standard input, output and error, the caller's
    // descriptors and the channel are open already. If there is no room, the limit is set after the listener exists, and the
    // filter must permit that call.
    let taken = 3 + preserved.len() as u64 + 1;
    let late = |limit: &&Rlimit| limit.name == "RLIMIT_NOFILE" && limit.limit.soft <= taken;
    rlimits::apply(limits.iter().filter(|limit| !late(limit)))?;
    if let Some(listener) = load()? {
        let event = Event::Listener { fd: listener, pid };
        let sent = report.send(&event);
        // execve closes it. A close(2) here would be one more call that the filter could forbid or ask the agent about.
        std::mem::forget(event);
        sent.context("linux.seccomp.listenerPath: handing over the filter's descriptor")?;
    }
    rlimits::apply(limits.iter().filter(late))
        .context("after linux.seccomp, whose listener has no room below it")
}

/// Makes the process's user the owner of standard input, output and error, so that it can open /dev/stderr. A stream that is
/// the host's null device becomes the container's, whose owner stays.
fn own_stdio(process: &process::Plan, proc: BorrowedFd) -> Result<()> {
    let _phase = trace::phase("own standard streams");
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut null = None;
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let stat = match fs::fstat(fd) {
            Err(e) if e.errno == Errno::EBADF => continue,
            other => other?,
        };
        if null::is_null(&stat) {
            if null.is_none() {
                null = null::of_container(&stat, proc)?;
            }
            null.iter().try_for_each(|null| tty::replace(null.as_fd(), fd.as_raw_fd()))?;
            continue;
        }
        if stat.st_uid == process.user.uid {
            continue;
        }
        match fs::chown(fd, Path::new(""), process.user.uid, stat.st_gid) {
            // An unmapped id, or a file system that is read-only or has no owners: then the owner stays.
            Err(e) if matches!(e.errno, Errno::EINVAL | Errno::EPERM | Errno::EROFS | Errno::ENOTSUP) => {}
            other => other?,
        }
    }
    Ok(())
}
