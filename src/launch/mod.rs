//! Launching: the plan is carried out by two processes.
//!
//! Here is the runtime's side. It opens what is the host's, puts the container on record, makes its cgroup, clones the
//! container's process ([`init`]) and attends to it until it is ready. Whatever fails undoes what was done. The channel
//! between the two carries events, descriptors and at most one error: the plan is inherited by the clone.

mod cgroup;
mod channel;
mod destroy;
pub mod exec;
pub mod foreground;
mod init;
pub mod notify;
mod pid_file;
mod program;
pub mod seal;
mod watch;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use nix::errno::Errno;

use cgroup::Systemd;
use channel::{Channel, Event, Go};
pub use destroy::{destroy, destroy_cgroup, undo};
pub use pid_file::write_pid_file;
use watch::Watch;

use crate::SPEC_VERSION;
use crate::cgroups::{self, Cgroup};
use crate::config::Config;
use crate::error::{Context, Kind, Result, fail};
use crate::host::Host;
use crate::namespaces::netdev::{self, Devices};
use crate::namespaces::{self, Back, Joined, Stages, idmap};
use crate::plan::Plan;
use crate::process::{self, env, rlimits};
use crate::seccomp::Listener;
use crate::state::{Dir, Record, START_SOCKET, Status, spec_state};
use crate::sys::task::{Exit, Forked};
use crate::sys::{self, fs, socket, task};
use crate::{hooks, intel_rdt, log, rootfs, seccomp, state, trace};

/// What `create` and `run` are asked to do.
pub struct Request<'a> {
    pub id: &'a str,
    /// Absolute.
    pub bundle: &'a Path,
    /// The directory of all states.
    pub root: &'a Path,
    pub plan: &'a Plan,
    pub config: &'a Config,
    pub host: &'a Host,
    pub service: &'a env::Service,
    /// Descriptors that the caller leaves to the program.
    pub preserved: &'a [i32],
    pub console_socket: Option<&'a Path>,
    pub pidfd_socket: Option<&'a Path>,
    pub pid_file: Option<&'a Path>,
    /// No `start` will come: the program is started by [`Launched::start`].
    pub at_once: bool,
}

/// A container whose process is ready.
pub struct Launched {
    pub dir: Dir,
    pub record: Record,
    pub process: Process,
    /// The container's notification socket, for `run`. After `create` the container's process keeps it for `start`.
    pub notify: Option<OwnedFd>,
}

/// A process in a container, before its program runs.
pub struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Its terminal's master, where no console socket takes it.
    pub console: Option<OwnedFd>,
    /// It is the process between, until that has cloned the container's.
    between: bool,
    channel: Channel,
    /// What ends the wait for it, where it is among hostile processes already.
    watch: Option<Watch>,
}

/// Makes a container up to the point where `start` begins. On error nothing remains.
pub fn create(request: &Request) -> Result<Launched> {
    let plan = request.plan;
    let joined = namespaces::open(&plan.namespaces, &plan.changes(), request.host.proc.as_fd())?;
    // A mount namespace that is less privileged than ours gets our mounts with their flags locked, and so it must get
    // the sources: copies of its own mounts, opened with our rights.
    let sources = if plan.namespaces.has(libc::CLONE_NEWUSER) && request.host.uid == 0 {
        None
    } else {
        Some(rootfs::open_sources(&plan.rootfs, request.host.proc.as_fd(), false)?)
    };
    let console_socket = connect(request.console_socket, "--console-socket")?;
    let pidfd_socket = connect(request.pidfd_socket, "--pidfd-socket")?;
    let mut systemd =
        plan.cgroup.as_ref().and_then(cgroups::Plan::scope).map(Systemd::connect).transpose()?;
    let missing = plan.cgroup.as_ref().map(cgroups::Plan::missing).unwrap_or_default();

    let mut record = record(request, missing)?;
    record.under_root = rootfs::mounted(&plan.rootfs)?;
    record.intel_rdt = plan.intel_rdt.as_ref().map(intel_rdt::claim).transpose()?;
    let dir = state::create_dir(request.root, request.id)?;
    let result = (|| {
        dir.save(&record)?;
        let on_record = (record.cgroup.clone(), record.intel_rdt.clone());
        let cgroup = if systemd.is_some() { None } else { cgroup::make(plan, &mut record)? };
        let classes = cgroup::make_class(plan, &mut record)?;
        if (record.cgroup.is_some() && record.cgroup != on_record.0) || record.intel_rdt != on_record.1 {
            dir.save(&record)?;
        }
        let start = if request.at_once {
            None
        } else {
            Some(socket::listen_at(dir.fd().as_fd(), Path::new(START_SOCKET))?)
        };
        let stages = stages(plan, request.host);
        // A terminal is a device of the container's. Often the container's process asks us for something after the filter is
        // attached ([`meanwhile`]) anyway. Everything else that it opens of the image's is a regular file.
        let terminal = plan.process.as_ref().is_some_and(|process| process.terminal);
        let asks = stages == Stages::Intermediate || sources.is_none() || plan.reports_mounts();
        let awaits_filter = cgroup.is_some() && terminal && !asks;
        let notify = notify::listen(plan, &dir)?;
        let (kept, given) = if request.at_once { (notify, None) } else { (None, notify) };
        let child = init::Container {
            plan,
            doors: cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::join_fds)?,
            classes,
            record: &record.clone(),
            proc: request.host.proc.as_fd(),
            joined: &joined,
            sources,
            console_socket,
            start,
            notify: given,
            preserved: request.preserved,
            service: request.service,
            user_namespace: request.host.user_namespace,
            stages,
            awaits_filter,
        };
        let mut process = spawn(plan, &joined, cgroup.as_ref(), child, |pid| match &mut systemd {
            Some(systemd) => systemd.place(pid, plan, &dir, &mut record),
            None => Ok(()),
        })?;
        record.pid = Some(process.pid);
        let mut devices = None;
        let attended = meanwhile(&process, request, &dir, &mut record, cgroup.as_ref(), awaits_filter)
            .and_then(|()| attend(&mut process, request, &dir, &mut record, &mut devices))
            .and_then(|()| commit(&process, request, &dir, &mut record, pidfd_socket.as_ref()));
        match attended {
            Ok(()) => Ok((process, kept)),
            Err(e) => {
                // With the namespace a virtual one would end.
                devices.iter_mut().for_each(Devices::take_back);
                // Ours to reap: the record need not know of it.
                process.kill();
                Err(e)
            }
        }
    })();
    match result {
        Ok((process, notify)) => Ok(Launched { dir, record, process, notify }),
        Err(error) => {
            let error = with_reason(&record, error);
            let poststop: &[hooks::Hook] = if record.pid.is_some() { &plan.hooks.poststop } else { &[] };
            undo(dir, &record, poststop);
            Err(error)
        }
    }
}

fn connect(path: Option<&Path>, option: &'static str) -> Result<Option<OwnedFd>> {
    path.map(|path| socket::connect_path(path).context(option)).transpose()
}

/// What `create` is about to make, for a record of it that outlives a crash.
fn record(request: &Request, missing: Vec<PathBuf>) -> Result<Record> {
    let plan = request.plan;
    let cgroup = plan.cgroup.as_ref().and_then(|cgroup| cgroup.claim(missing));
    let spec = &request.config.spec;
    Ok(Record {
        id: request.id.into(),
        bundle: request.bundle.into(),
        rootfs: plan.rootfs.path.clone(),
        oci_version: spec.version().clone(),
        boot_id: crate::procstat::boot_id()?.into(),
        cgroup,
        callers_keyring: plan.keyring.is_none(),
        keyring: plan.keyring.as_deref().map(keyring_name).unwrap_or_default(),
        namespaces: plan.namespaces.names(),
        owner: state::owner(request.host.uid),
        created: log::now(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        start_reads_config: plan.process.is_none()
            || !plan.hooks.poststart.is_empty()
            || plan.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some()),
        delete_reads_config: !plan.hooks.poststop.is_empty(),
        ..Record::default()
    })
}

/// Makes the name of a session keyring one that nobody can guess. keyctl(2) joins an existing keyring of the name, which
/// any user of the user namespace can have made, instead of making one.
fn keyring_name(name: &str) -> String {
    format!("{name}.{:016x}", sys::args::random())
}

/// The processes it takes: an intermediate one also where the runtime could not go back from the pid namespace that is
/// joined. Root of a user namespace can enter only what belongs to that, and not, for one, the host's network namespace.
fn stages(plan: &Plan, host: &Host) -> Stages {
    match plan.namespaces.stages() {
        Stages::Direct if plan.namespaces.joins(libc::CLONE_NEWPID) && host.user_namespace => {
            Stages::Intermediate
        }
        stages => stages,
    }
}

/// Clones the container's process, or the one between. `place` is called with its id while it waits, if the plan has it
/// wait for its cgroup.
fn spawn(
    plan: &Plan,
    joined: &Joined,
    cgroup: Option<&Cgroup>,
    mut child: init::Container,
    place: impl FnOnce(i32) -> Result<()>,
) -> Result<Process> {
    let _phase = trace::phase("spawn");
    let namespaces = &plan.namespaces;
    let proc = child.proc;
    // The first process of a pid namespace cannot be stopped by the others.
    let held = namespaces.joins(libc::CLONE_NEWPID);
    let watch = held.then(|| Watch::patient(child.record.cgroup.clone()));
    let (ours, theirs) = Channel::pair()?;
    if task::euid() == 0 {
        // Nobody may look into a process that is on its way into the container. As a user it must wait: the helpers
        // that write the id maps need access.
        task::set_dumpable(false)?;
    }
    let direct = child.stages == Stages::Direct;
    let back =
        if direct { namespaces::enter_for_children(namespaces, joined, proc)? } else { Back::default() };
    let kinds = match namespaces.made() {
        _ if !direct => 0,
        kinds if kinds & libc::CLONE_NEWUSER != 0 => kinds & init::AT_CLONE,
        // With offsets it is there already.
        kinds if !namespaces.offsets.is_empty() => kinds & !libc::CLONE_NEWTIME,
        kinds => kinds,
    };
    // A cgroup namespace is rooted at the cgroup that one is in at its making.
    let later = plan.waits_for_cgroup() || !child.doors.is_empty();
    let kinds = if later { kinds & !libc::CLONE_NEWCGROUP } else { kinds };
    let kinds = if child.alone() { kinds & !libc::CLONE_NEWNS } else { kinds };
    let cloning = trace::phase("clone3");
    let cloned = clone_inside(kinds, cgroup, &mut child);
    if let Ok(Forked::Child) = cloned {
        drop(ours);
        init::end_with(theirs, |report| init::first(child, report))
    }
    back.go();
    let Forked::Parent { pid, pidfd } = cloned? else { return Err(unexpected()) };
    drop((theirs, cloning));
    trace::cloned(pid);
    let process = Process { pid, pidfd, console: None, between: !direct, channel: ours, watch };
    let prepared = place(pid).and_then(|()| prepare(&process, plan, proc));
    match prepared {
        Ok(()) => Ok(process),
        Err(e) => {
            process.kill();
            Err(e)
        }
    }
}

/// Clones a process that is born in the cgroup, or enters it by its doors where the kernel does not let it live.
fn clone_inside(mut kinds: i32, cgroup: Option<&Cgroup>, child: &mut init::Container) -> Result<Forked> {
    if let Some(cgroup) = cgroup
        && let Some(place) = cgroup.cgroup_fd()
    {
        if let Some(cloned) = task::clone3_into(kinds as u64, place).map_err(explain_clone)? {
            return Ok(cloned);
        }
        child.doors.extend(cgroup.unified_join_fd()?);
        kinds &= !libc::CLONE_NEWCGROUP;
    }
    task::clone3(kinds as u64, None).map_err(explain_clone)
}

fn explain_clone(error: sys::Error) -> anyhow::Error {
    let hint = match error.errno {
        Errno::EBUSY => " (hint: the cgroup cannot take processes)",
        Errno::ENOSPC => " (hint: the limit on namespaces, /proc/sys/user, is reached)",
        Errno::EAGAIN => " (hint: the limit on processes is reached)",
        _ => "",
    };
    if hint.is_empty() { error.into() } else { anyhow!("{error}{hint}") }
}

/// What is set from outside: the container's process may not have the right, and its children inherit it.
fn prepare(process: &Process, plan: &Plan, proc: BorrowedFd) -> Result<()> {
    let _phase = trace::phase("prepare");
    let namespaces = &plan.namespaces;
    if let Some(planned) = &plan.process {
        limits(process.pid, planned, proc)?;
    }
    let direct = !process.between;
    if direct && namespaces.creates(libc::CLONE_NEWUSER) {
        idmap::write(proc, process.pid, &namespaces.uid_map, &namespaces.gid_map)?;
    }
    if !direct || namespaces.creates(libc::CLONE_NEWUSER) || plan.waits_for_cgroup() {
        process.go(Go::On)?;
    }
    Ok(())
}

fn limits(pid: i32, process: &process::Plan, proc: BorrowedFd) -> Result<()> {
    rlimits::raise_hard(pid, &process.rlimits)?;
    if let Some(score) = process.oom_score_adj {
        let file = PathBuf::from(format!("{pid}/oom_score_adj"));
        fs::write_at(proc, &file, score.to_string().as_bytes()).context("process.oomScoreAdj")?;
    }
    Ok(())
}

/// What only has to be done before the container's process asks for anything: while that mounts, on another processor.
fn meanwhile(
    process: &Process,
    request: &Request,
    dir: &Dir,
    record: &mut Record,
    cgroup: Option<&Cgroup>,
    awaits_filter: bool,
) -> Result<()> {
    let _phase = trace::phase("meanwhile");
    cgroup.map_or(Ok(()), |cgroup| cgroup::watch(request.plan, cgroup))?;
    if awaits_filter {
        process.go(Go::On)?;
    }
    cgroup::identify(record)?;
    dir.save_config(&request.config.text)?;
    if process.between { Ok(()) } else { put_on_record(process, record) }
}

/// Serves the container's process until it is ready.
fn attend<'a>(
    process: &mut Process,
    request: &Request<'a>,
    dir: &Dir,
    record: &mut Record,
    devices: &mut Option<Devices<'a>>,
) -> Result<()> {
    let _phase = trace::phase("attend");
    let plan = request.plan;
    loop {
        match process.next()? {
            Event::MapsWanted => {
                let namespaces = &plan.namespaces;
                let proc = request.host.proc.as_fd();
                idmap::write(proc, process.pid, &namespaces.uid_map, &namespaces.gid_map)?;
                process.go(Go::On)?;
            }
            Event::SourcesWanted => {
                let proc = request.host.proc.as_fd();
                let open = || rootfs::open_sources(&plan.rootfs, proc, true);
                let sources = namespaces::in_mount_namespace_of(process.pid, proc, open)?;
                sources.trees().try_for_each(|tree| process.channel.give(tree))?;
            }
            Event::Mounted => {
                put_on_record(process, record)?;
                dir.save(record)?;
                if !plan.namespaces.devices.is_empty() {
                    let proc = request.host.proc.as_fd();
                    *devices = Some(netdev::give(&plan.namespaces.devices, process.pid, proc)?);
                }
                // `creating` is step 2 of the lifecycle; these hooks are the steps after it (runtime.md#lifecycle).
                let state = spec_state(record, Status::Created, record.pid);
                hooks::run(&plan.hooks.prestart, state.as_bytes(), env::own)?;
                hooks::run(&plan.hooks.create_runtime, state.as_bytes(), env::own)?;
                process.go(Go::On)?;
            }
            Event::Ready => return put_on_record(process, record),
            _ => return Err(unexpected()),
        }
    }
}

/// Once: what is there after the process between is another.
fn put_on_record(process: &Process, record: &mut Record) -> Result<()> {
    if record.start_time.is_some() {
        return Ok(());
    }
    record.pid = Some(process.pid);
    record.start_time = crate::procstat::start_time(process.pid)?;
    Ok(())
}

fn unexpected() -> anyhow::Error {
    fail(Kind::Os, "the container's process said something unexpected")
}

/// Makes the container one that later commands find.
fn commit(
    process: &Process,
    request: &Request,
    dir: &Dir,
    record: &mut Record,
    pidfd_socket: Option<&OwnedFd>,
) -> Result<()> {
    let _phase = trace::phase("commit");
    if let Some(socket) = pidfd_socket {
        socket::send(socket.as_fd(), b"pidfd", &[process.pidfd.as_fd()]).context("--pidfd-socket")?;
    }
    record.root_mount = rootfs::mounted(&request.plan.rootfs)?;
    record.created_done = true;
    dir.save(record)?;
    if let Some(path) = request.pid_file {
        write_pid_file(path, process.pid)?;
    }
    if request.at_once { Ok(()) } else { process.go(Go::Wait) }
}

impl Process {
    /// The next event that is not only for us.
    fn next(&mut self) -> Result<Event> {
        loop {
            match self.receive()? {
                Event::Cloned { pid, pidfd } => {
                    self.between = false;
                    trace::cloned(pid);
                    let between = std::mem::replace(&mut self.pidfd, pidfd);
                    self.pid = pid;
                    self.poll(&[between.as_fd()])?;
                    task::wait(between.as_fd())?;
                    self.channel.go(Go::On)?;
                }
                Event::Console(master) => {
                    // Before the program runs, which may ask for it.
                    foreground::fit(master.as_fd())?;
                    self.console = Some(master);
                }
                Event::Error(error) => return Err(error),
                Event::Closed => return Err(self.died()),
                other => return Ok(other),
            }
        }
    }

    /// Lets it go on. If it has ended, the error is its own, or what ended it.
    fn go(&self, go: Go) -> Result<()> {
        self.channel.go(go).map_err(|e| match sys::errno(&e) {
            Some(Errno::EPIPE | Errno::ECONNRESET) => match self.channel.receive() {
                Ok(Event::Error(own)) => own,
                _ => self.died(),
            },
            _ => e,
        })
    }

    /// Why it died without a word.
    fn died(&self) -> anyhow::Error {
        match task::wait(self.pidfd.as_fd()) {
            Ok(Exit::Signal(signal)) => anyhow!("the container's process was killed by signal {signal}"),
            Ok(Exit::Code(code)) => anyhow!("the container's process ended with code {code}"),
            Err(e) => e.into(),
        }
    }

    /// Lets the program run, and tells whether it does.
    pub fn start(&self, filter: Option<&seccomp::Plan>, record: &Record, status: Status) -> Result<()> {
        let _phase = trace::phase("start");
        let listener = filter.and_then(|filter| filter.listener.as_ref());
        let agent = listener.map(|listener| Agent { listener, record, status });
        let started = self.go(Go::Start).and_then(|()| await_program(|| self.receive(), agent));
        let started = started.and_then(|_| ended_early(self.pid));
        // In a running container somebody else may have been killed.
        if status == Status::Created { started.map_err(|e| with_reason(record, e)) } else { started }
    }
}

/// Lets the program of a created container run, and tells whether it does. Returns the container's notification socket.
pub fn start(dir: &Dir, listener: Option<&Listener>, record: &Record) -> Result<Option<OwnedFd>> {
    let _phase = trace::phase("start");
    // Held before anything begins: afterwards there may be no descriptor left for it.
    let process = state::pidfd(record)?;
    let connected = socket::connect_at(dir.fd().as_fd(), Path::new(START_SOCKET)).and_then(|socket| {
        // It serves once.
        fs::unlinkat(dir.fd().as_fd(), Path::new(START_SOCKET), false).map(|()| socket)
    });
    let socket = connected.map_err(|e| match e.errno {
        Errno::ECONNREFUSED | Errno::ENOENT => {
            fail(Kind::WrongStatus, "the container is being started already, or its process has ended")
        }
        _ => e.into(),
    })?;
    let agent = listener.map(|listener| Agent { listener, record, status: Status::Created });
    let channel = Channel::from_socket(socket);
    let pid = record.pid.unwrap_or_default();
    // A neighbour in a pid namespace that is shared may have stopped it.
    let watch = Watch::patient(record.cgroup.clone());
    let fds: Vec<_> = [channel.fd()].into_iter().chain(process.as_ref().map(AsFd::as_fd)).collect();
    // Its end may be the only sign: a hook's process has a copy of the channel.
    let receive = || if watch.poll(&fds, pid)?[0] { channel.receive() } else { Ok(Event::Closed) };
    let started = await_program(receive, agent).and_then(|notify| ended_early(pid).map(|()| notify));
    if started.is_err()
        && let Some(pidfd) = process
    {
        // What has told of its failure is about to end. What has not, because its agent could not be reached, must not
        // run on as if it had been started.
        let _ = task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
    started.map_err(|e| with_reason(record, e))
}

/// The agent that answers for seccomp filters, and what it is told of the container.
#[derive(Clone, Copy)]
struct Agent<'a> {
    listener: &'a Listener,
    record: &'a Record,
    /// The container's, not the process's.
    status: Status,
}

/// The channel's end is the program's beginning, for execve closes it, or the process's end. Returns the notification
/// socket that the process has kept.
fn await_program(receive: impl Fn() -> Result<Event>, agent: Option<Agent>) -> Result<Option<OwnedFd>> {
    let mut notify = None;
    loop {
        match receive()? {
            Event::Closed => {
                trace::gone();
                return Ok(notify);
            }
            Event::Error(error) => return Err(error),
            Event::Listener { fd, pid } => send_listener(&fd, pid, agent)?,
            Event::Notify(socket) => notify = Some(socket),
            _ => return Err(unexpected()),
        }
    }
}

/// Adds why the container's process has died, where the kernel knows.
fn with_reason(record: &Record, error: anyhow::Error) -> anyhow::Error {
    let killed = record.cgroup.as_ref().is_some_and(cgroups::oom::has_killed);
    if killed { error.context("linux.resources.memory: out of memory") } else { error }
}

/// An error if a process has ended before its program ran. The channel is closed some time before a process that ends
/// can be waited for, so /proc is asked.
fn ended_early(pid: i32) -> Result<()> {
    if crate::procstat::ended_before_exec(pid)? {
        return Err(anyhow!("the container's process was killed before its program ran"));
    }
    Ok(())
}

/// Hands the descriptor of the filter of process `pid` to the agent.
fn send_listener(fd: &OwnedFd, pid: i32, agent: Option<Agent>) -> Result<()> {
    let Agent { listener, record, status } = agent.ok_or_else(unexpected)?;
    let state = serde_json::from_str(&spec_state(record, status, record.pid)).context("state")?;
    let state = seccomp::listener::process_state(SPEC_VERSION, pid, listener.metadata.as_deref(), state);
    seccomp::listener::send(fd.as_fd(), &listener.path, state.to_string().as_bytes())
}
