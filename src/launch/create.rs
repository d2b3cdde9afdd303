//! The runtime side of `create` and `run`.
//!
//! The runtime process opens what belongs to the host, claims the container's directory, and records what it
//! is about to make. Then it makes the cgroup, clones the container process, and serves it until it is ready.
//! The record is written before the cgroup, the mounts and the process that it records. After a SIGKILL at
//! any point, `delete --force` therefore finds everything. An error is rolled back by the same code
//! ([`destroy`](super::destroy())).
//!
//! The process is cloned into its cgroup, with the limits set, so nothing ever runs without them. A new
//! cgroup namespace thereby has this cgroup as its root. With cgroup v1 or systemd it enters the cgroup after
//! the clone (`cgroups/v1.rs`, `cgroups/systemd.rs`).
//!
//! The kernel needs a tenth of a `create` to verify and translate the device filter of cgroup v2. Therefore
//! the filter is attached while the container process mounts. The container process waits for it before it
//! opens the terminal, and before hooks run.
//!
//! Rlimits and the oom score are set from outside, where the right to raise them is.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;

use super::caller::Caller;
use super::channel::{Event, Go, unexpected};
use super::destroy::undo;
use super::init::{AT_CLONE, Container};
use super::notify;
use super::process::{Process, send_pidfd, with_reason};
use super::spawn::{Child, Target, spawn};
use super::watch::Watch;
use crate::cgroups::{self, Cgroup, CgroupRecord, systemd};
use crate::config::Config;
use crate::dbus::Bus;
use crate::error::{Context, Notes, Result};
use crate::host::Host;
use crate::namespaces::netdev::{self, Devices};
use crate::namespaces::{self, IdMap, Joined, Stages, idmap};
use crate::plan::Plan;
use crate::process::env;
use crate::state::{self, Dir, Record, START_SOCKET, Status, spec_state};
use crate::sys::netns::NewNetwork;
use crate::sys::{self, fs, socket, task};
use crate::{hooks, intel_rdt, log, procstat, rootfs, trace};

/// What `create` and `run` are asked to do.
pub(crate) struct Request<'a> {
    pub id: &'a str,
    /// Absolute.
    pub bundle: &'a Path,
    /// The directory of all states.
    pub root: &'a Path,
    pub plan: &'a Plan,
    pub config: &'a Config,
    pub start: Start,
    pub caller: &'a Caller,
}

/// How the program is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// By a later `start`.
    ByCommand,
    /// By this process, with [`Process::start`].
    AtOnce,
}

/// A container whose process is ready.
pub(crate) struct Launched {
    pub dir: Dir,
    pub record: Record,
    pub process: Process,
    /// The container's notification socket, for `run`. After `create` the container process keeps it for `start`.
    pub notify: Option<OwnedFd>,
}

/// Creates a container up to the point where `start` begins. On error nothing remains. `network` is the container's network
/// namespace, if another process is making it.
pub(crate) fn create(request: &Request, network: Option<NewNetwork>) -> Result<Launched> {
    let opened = Opened::new(request)?;
    let sources = open_sources(request, &opened.joined)?;
    let (dir, mut record) = claim(request)?;
    let mut build = Build { request, dir: &dir, record: &mut record, joined_maps: None };
    match build.run(opened, sources, network) {
        Ok((process, notify)) => Ok(Launched { dir, record, process, notify }),
        Err(error) => Err(roll_back(request, dir, &record, error)),
    }
}

/// What can be opened before anything is made.
pub(super) struct Opened {
    pub(super) joined: Joined,
    pub(super) console_socket: Option<OwnedFd>,
    pub(super) pidfd_socket: Option<OwnedFd>,
    /// The connection to systemd, if that makes the cgroup.
    pub(super) systemd: Option<Bus>,
}

impl Opened {
    pub(super) fn new(request: &Request) -> Result<Self> {
        let (plan, caller) = (request.plan, request.caller);
        let joined = namespaces::open(&plan.namespaces, &plan.changes(), caller.proc())?;
        let [console_socket, pidfd_socket] = caller.connect()?;
        let scope = plan.cgroup.as_ref().and_then(cgroups::Plan::scope);
        let systemd = scope.map(|scope| systemd::connect(&scope.unit)).transpose()?;
        Ok(Self { joined, console_socket, pidfd_socket, systemd })
    }
}

/// Opens the sources of mounts that only the runtime can open, and that it can open now.
fn open_sources(request: &Request, joined: &Joined) -> Result<Option<rootfs::Sources>> {
    let (plan, caller) = (request.plan, request.caller);
    // A mount namespace that is less privileged than the runtime's gets copies of the runtime's mounts with their flags
    // locked. The sources must be locked too, so they are copies of that namespace's own mounts, opened with the runtime's
    // rights.
    if plan.namespaces.has(libc::CLONE_NEWUSER) && caller.host.uid == 0 {
        return Ok(None);
    }
    rootfs::open_sources(&plan.rootfs, caller.proc(), rootfs::Open::Idmapped, joined.user()).map(Some)
}

/// Makes the container's directory, which claims the id, and a record of what will be made, which outlives a crash.
pub(super) fn claim(request: &Request) -> Result<(Dir, Record)> {
    let plan = request.plan;
    let missing = plan.cgroup.as_ref().map(cgroups::Plan::missing).unwrap_or_default();
    let cgroup = plan.cgroup.as_ref().and_then(|cgroup| cgroup.claim(missing));
    let spec = &request.config.spec;
    let record = Record {
        id: request.id.into(),
        bundle: request.bundle.into(),
        rootfs: plan.rootfs.path.clone(),
        oci_version: spec.version().clone(),
        boot_id: procstat::boot_id()?.into(),
        cgroup,
        callers_keyring: plan.keyring.is_none(),
        keyring: plan.keyring.as_deref().map(keyring_name).unwrap_or_default(),
        namespaces: plan.namespaces.names(),
        joined_pids: plan.namespaces.joins(libc::CLONE_NEWPID),
        owner: state::owner(request.caller.host.uid),
        created: log::now(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        start_reads_config: plan.process.is_none()
            || !plan.hooks.poststart.is_empty()
            || plan.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some()),
        delete_reads_config: !plan.hooks.poststop.is_empty(),
        under_root: rootfs::under_root(&plan.rootfs)?,
        intel_rdt: plan.intel_rdt.as_ref().map(intel_rdt::claim).transpose()?,
        ..Record::default()
    };
    Ok((state::create_dir(request.root, request.id)?, record))
}

/// Makes the name of a session keyring one that nobody can guess. keyctl(2) joins an existing keyring of the name, which
/// any user of the user namespace can have made, instead of making one.
fn keyring_name(name: &str) -> String {
    format!("{name}.{:016x}", sys::args::random())
}

/// Undoes what the record names. Returns the error with the reason for the death of the container process.
pub(super) fn roll_back(request: &Request, dir: Dir, record: &Record, error: anyhow::Error) -> anyhow::Error {
    let error = with_owner(request.plan, with_reason(record, error));
    let poststop = if record.pid.is_some() { &request.plan.hooks.poststop[..] } else { &[] };
    undo(dir, record, poststop);
    error
}

/// Adds to an error of permissions that the container does not map the owner of its root file system.
fn with_owner(plan: &Plan, error: anyhow::Error) -> anyhow::Error {
    let denied = |e: &sys::Error| {
        let in_root =
            ["openat2(", "mkdirat(", "mknodat(", "symlinkat("].iter().any(|call| e.call.starts_with(call));
        in_root && matches!(e.errno, Errno::EACCES | Errno::EPERM | Errno::EOVERFLOW)
    };
    if !error.downcast_ref::<sys::Error>().is_some_and(denied)
        || !plan.namespaces.creates(libc::CLONE_NEWUSER)
    {
        return error;
    }
    let path = &plan.rootfs.path;
    let Ok(stat) = fs::stat_at(fs::CWD, path) else { return error };
    let owners = [
        ("user", stat.st_uid, &plan.namespaces.uid_map, "linux.uidMappings"),
        ("group", stat.st_gid, &plan.namespaces.gid_map, "linux.gidMappings"),
    ];
    let foreign = owners.iter().find(|(_, id, map, _)| !map.iter().any(|row| row.has_host(*id)));
    let Some((what, id, _, place)) = foreign else { return error };
    error.context(format!(
        "root.path {} belongs to the {what} {id}, which {place} does not map",
        path.display()
    ))
}

/// A claimed container that is being built.
pub(super) struct Build<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) dir: &'a Dir,
    pub(super) record: &'a mut Record,
    /// The id maps of the user namespace that the container joins.
    pub(super) joined_maps: Option<[Vec<IdMap>; 2]>,
}

impl<'a> Build<'a> {
    /// Returns the container process, and the notification socket if the program is started at once.
    fn run(
        &mut self,
        mut opened: Opened,
        sources: Option<rootfs::Sources>,
        network: Option<NewNetwork>,
    ) -> Result<(Process, Option<OwnedFd>)> {
        let (request, plan, caller) = (self.request, self.request.plan, self.request.caller);
        self.dir.save(self.record)?;
        let (cgroup, class_joins) = self.make_cgroups(opened.systemd.is_some())?;
        let listen = || socket::listen_at(self.dir.fd().as_fd(), Path::new(START_SOCKET));
        let start = (request.start == Start::ByCommand).then(listen).transpose()?;
        let notify = notify::listen(plan, self.dir)?;
        let (kept, notify) = if start.is_some() { (None, notify) } else { (notify, None) };

        let stages = stages(plan, &caller.host);
        // A terminal is a device of the container's, so it must be opened after the device filter is attached. Often the
        // container process asks for something later than that anyway. All other files that it opens are regular.
        let asks = stages == Stages::Intermediate
            || sources.as_ref().is_none_or(|sources| sources.asks(&plan.rootfs))
            || plan.reports_mounts();
        let awaits_filter = cgroup.is_some() && plan.terminal() && !asks;
        let new_user = plan.namespaces.creates(libc::CLONE_NEWUSER);
        let cgroup_joins = cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::join_fds)?;
        let network = network.filter(|_| plan.namespaces.network_first());
        let root_only = plan.root_only && stages == Stages::Direct;
        let child = Child {
            caller,
            stages,
            kinds: kinds(plan, stages, root_only, network.is_some(), !cgroup_joins.is_empty()),
            // A user's process must not hide before newuidmap(1) has written its id maps.
            hidden: task::euid() == 0,
            waits: stages == Stages::Intermediate || new_user || plan.waits_for_cgroup(),
            cgroup: cgroup.as_ref(),
            cgroup_joins,
            class_joins,
            console_socket: opened.console_socket.take(),
            target: Target::New(Container {
                plan,
                caller,
                record: self.record,
                joined: &opened.joined,
                awaits_network: network.is_some(),
                sources,
                start,
                notify,
                root_only,
                awaits_filter,
            }),
        };
        // The other processes of a pid namespace can stop all but its first process.
        let joins_pids = plan.namespaces.joins(libc::CLONE_NEWPID);
        let watch = joins_pids.then(|| Watch::patient(self.record.cgroup.clone()));
        let (process, _) = spawn(child, watch)?;
        let process = process.or_kill(|process| {
            if let Some(systemd) = &mut opened.systemd {
                self.attach_by_systemd(process.pid, systemd)?;
            }
            let maps = (new_user && stages == Stages::Direct).then_some(&plan.namespaces);
            process.prepare(plan.process.as_ref(), maps, caller.proc())?;
            self.record.pid = Some(process.pid);
            if let Some(network) = network {
                let _phase = trace::phase("wait for the network namespace");
                process.give_network(network.finish())?;
            }
            self.work_while_it_mounts(process, cgroup.as_ref(), awaits_filter)?;
            let mut devices = None;
            let served = self.serve(process, opened.joined.user(), &mut devices);
            let done = served.and_then(|()| self.commit(process, opened.pidfd_socket.as_ref()));
            // Virtual devices would end together with the process's network namespace.
            done.inspect_err(|_| devices.iter_mut().for_each(Devices::take_back))
        })?;
        Ok((process, kept))
    }

    /// Makes the cgroup, unless systemd does, and the class of processes. Returns the join fds of the class.
    pub(super) fn make_cgroups(&mut self, by_systemd: bool) -> Result<(Option<Cgroup>, Vec<OwnedFd>)> {
        let (plan, record) = (self.request.plan, &mut *self.record);
        let on_record = (record.cgroup.clone(), record.intel_rdt.clone());
        let cgroup = if by_systemd { None } else { make_cgroup(plan, record)? };
        let class_joins = match (&plan.intel_rdt, &mut record.intel_rdt) {
            (Some(plan), Some(record)) => {
                intel_rdt::make(plan, record)?;
                intel_rdt::join_fds(record)?
            }
            _ => Vec::new(),
        };
        if (record.cgroup.is_some() && record.cgroup != on_record.0) || record.intel_rdt != on_record.1 {
            self.dir.save(record)?;
        }
        Ok((cgroup, class_joins))
    }

    /// Has systemd make the cgroup around the process, which waits, and sets the limits.
    pub(super) fn attach_by_systemd(&mut self, pid: i32, bus: &mut Bus) -> Result<()> {
        let (plan, record) = (self.request.plan, &mut *self.record);
        let Some((cgroup, scope)) = plan.cgroup.as_ref().and_then(|cgroup| Some((cgroup, cgroup.scope()?)))
        else {
            return Ok(());
        };
        if let Err(e) = systemd::start(bus, scope, pid) {
            if systemd::refused(&e) {
                // It may be another container's, and is not to be removed.
                record.cgroup = None;
            }
            return Err(e);
        }
        if record.cgroup.is_none() {
            record.cgroup = cgroup.claim(cgroup.dirs());
            self.dir.save(record)?;
        }
        let limited = cgroups::limit(cgroup, pid)?;
        identify(record)?;
        attach_device_filter(plan, &limited)?;
        delegate(plan, &limited)
    }

    /// Does what must only be finished before the container process asks for anything. Meanwhile that process mounts, on
    /// another processor.
    fn work_while_it_mounts(
        &mut self,
        process: &Process,
        cgroup: Option<&Cgroup>,
        awaits_filter: bool,
    ) -> Result<()> {
        let _phase = trace::phase("device filter, config.json");
        cgroup.map_or(Ok(()), |cgroup| attach_device_filter(self.request.plan, cgroup))?;
        if awaits_filter {
            process.go(Go::On)?;
        }
        identify(self.record)?;
        self.dir.save_config(&self.request.config.text)?;
        if process.intermediate { Ok(()) } else { self.record_process(process) }
    }

    /// Serves the container process until it is ready.
    fn serve(
        &mut self,
        process: &mut Process,
        joined_user: Option<BorrowedFd>,
        devices: &mut Option<Devices<'a>>,
    ) -> Result<()> {
        let _phase = trace::phase("serve the container's process");
        let (plan, proc) = (self.request.plan, self.request.caller.proc());
        loop {
            match process.next()? {
                Event::MapsWanted => {
                    self.map_ids(process.pid)?;
                    process.go(Go::On)?;
                }
                Event::SourcesWanted => {
                    let open = || {
                        let all = rootfs::Open::All;
                        let mut sources = rootfs::open_sources(&plan.rootfs, proc, all, joined_user)?;
                        let state = self.request.root.join(self.request.id);
                        sources.make_nodes(&plan.rootfs, self.maps(), &state)?;
                        Ok(sources)
                    };
                    let sources = namespaces::in_mount_namespace_of(process.pid, proc, open)?;
                    sources.trees().try_for_each(|tree| process.channel.give(tree))?;
                }
                Event::SourceWanted(index) => {
                    let open = || rootfs::open_late(&plan.rootfs, index, proc, joined_user);
                    let tree = namespaces::in_mount_namespace_of(process.pid, proc, open)
                        .with_context(|| rootfs::late_place(&plan.rootfs, index))?;
                    process.channel.give(tree.as_fd())?;
                }
                Event::Mounted => {
                    self.record_process(process)?;
                    self.dir.save(self.record)?;
                    if !plan.namespaces.devices.is_empty() {
                        *devices = Some(netdev::give(&plan.namespaces.devices, process.pid, proc)?);
                    }
                    // `creating` is step 2 of the lifecycle; these hooks are the steps after it (runtime.md#lifecycle).
                    let state = spec_state(self.record, Status::Created, self.record.pid);
                    hooks::run(&plan.hooks.prestart, state.as_bytes(), env::own)?;
                    hooks::run(&plan.hooks.create_runtime, state.as_bytes(), env::own)?;
                    process.go(Go::On)?;
                }
                Event::Ready => {
                    log::debug(|| "init: closing the pipe to signal completion".into());
                    return self.record_process(process);
                }
                _ => return Err(unexpected()),
            }
        }
    }

    /// Writes the id maps of the new user namespace that a process is in, or reads those of the joined one.
    fn map_ids(&mut self, pid: i32) -> Result<()> {
        let (namespaces, proc) = (&self.request.plan.namespaces, self.request.caller.proc());
        let (uid_map, gid_map) = (&namespaces.uid_map, &namespaces.gid_map);
        if namespaces.creates(libc::CLONE_NEWUSER) {
            return idmap::write(proc, pid, uid_map, gid_map);
        }
        self.joined_maps = Some(idmap::check_joined(proc, pid, uid_map, gid_map)?);
        Ok(())
    }

    /// Returns the user and group id maps of the container's user namespace.
    fn maps(&self) -> [&[IdMap]; 2] {
        let namespaces = &self.request.plan.namespaces;
        match &self.joined_maps {
            Some([uid_map, gid_map]) => [uid_map, gid_map],
            None => [&namespaces.uid_map, &namespaces.gid_map],
        }
    }

    /// Records the process only once, when `process` is no longer the intermediate process.
    fn record_process(&mut self, process: &Process) -> Result<()> {
        if self.record.start_time.is_none() { self.record_pid(process.pid) } else { Ok(()) }
    }

    pub(super) fn record_pid(&mut self, pid: i32) -> Result<()> {
        self.record.pid = Some(pid);
        self.record.start_time = procstat::start_time(pid)?;
        Ok(())
    }

    /// Makes the container one that later commands find.
    fn commit(&mut self, process: &Process, pidfd_socket: Option<&OwnedFd>) -> Result<()> {
        self.put_on_record(process.pid, &process.pidfd, pidfd_socket)?;
        log::info(|| format!("container {}: created, process {}", self.request.id, process.pid));
        match self.request.start {
            Start::ByCommand => process.go(Go::Wait),
            Start::AtOnce => Ok(()),
        }
    }

    /// Completes the record, and tells the caller of the process.
    pub(super) fn put_on_record(
        &mut self,
        pid: i32,
        pidfd: &OwnedFd,
        pidfd_socket: Option<&OwnedFd>,
    ) -> Result<()> {
        let _phase = trace::phase("commit");
        let request = self.request;
        send_pidfd(pidfd, pidfd_socket)?;
        self.record.root_mount = rootfs::root_mount(&request.plan.rootfs, pid, request.caller.proc())?;
        self.record.created_done = true;
        self.dir.save(self.record)?;
        request.caller.write_pid_file(pid)
    }
}

/// Returns whether the launch takes an intermediate process. It also does if the runtime could not go back from the pid
/// namespace that is joined: root of a user namespace can enter only the namespaces that belong to it, and not, for
/// example, the host's network namespace.
fn stages(plan: &Plan, host: &Host) -> Stages {
    match plan.namespaces.stages() {
        Stages::Direct if plan.namespaces.joins(libc::CLONE_NEWPID) && host.user_namespace => {
            Stages::Intermediate
        }
        stages => stages,
    }
}

/// Returns the kinds of namespaces that the runtime's clone makes.
fn kinds(plan: &Plan, stages: Stages, root_only: bool, has_network: bool, joins_cgroup: bool) -> i32 {
    let namespaces = &plan.namespaces;
    let kinds = match namespaces.made() {
        _ if stages == Stages::Intermediate => 0,
        kinds if kinds & libc::CLONE_NEWUSER != 0 => kinds & AT_CLONE,
        // The time namespace with offsets exists already.
        kinds if !namespaces.offsets.is_empty() => kinds & !libc::CLONE_NEWTIME,
        kinds => kinds,
    };
    let kinds = if has_network { kinds & !libc::CLONE_NEWNET } else { kinds };
    // A cgroup namespace is rooted in the cgroup of the process that makes it.
    let later = plan.waits_for_cgroup() || joins_cgroup;
    let kinds = if later { kinds & !libc::CLONE_NEWCGROUP } else { kinds };
    if root_only { kinds & !libc::CLONE_NEWNS } else { kinds }
}

/// Makes the cgroup. Corrects the record if there is none in the end.
fn make_cgroup(plan: &Plan, record: &mut Record) -> Result<Option<Cgroup>> {
    let mut notes = Notes::default();
    let made = plan.cgroup.as_ref().map(|cgroup| cgroups::create(cgroup, &mut notes)).transpose();
    notes.warnings.into_iter().for_each(log::warn);
    match &made {
        Ok(Some(Some(cgroup))) => {
            let claim = record.cgroup.take().unwrap_or_default();
            let own = cgroup.record();
            // Of a new cgroup the kernel has counted nothing yet.
            let new = own.dirs().eq(claim.dirs());
            let earlier = (!new).then(|| cgroups::oom::Counts::of(cgroup));
            record.cgroup = Some(CgroupRecord { parents: claim.parents, earlier, ..own });
        }
        // It may be another container's, and is not to be removed.
        _ => record.cgroup = None,
    }
    let made = made?.flatten();
    if let Some(cgroup) = &made {
        delegate(plan, cgroup)?;
    }
    Ok(made)
}

/// Adds to the record which cgroup it is, for the next time that the record is saved.
pub(super) fn identify(record: &mut Record) -> Result<()> {
    if let Some(cgroup) = &mut record.cgroup {
        cgroup.id = cgroups::id(cgroup)?;
    }
    Ok(())
}

pub(super) fn attach_device_filter(plan: &Plan, cgroup: &Cgroup) -> Result<()> {
    let mut notes = Notes::default();
    let attached =
        plan.cgroup.as_ref().map_or(Ok(()), |plan| cgroups::attach_filter(cgroup, plan, &mut notes));
    notes.warnings.into_iter().for_each(log::warn);
    attached
}

/// Gives the cgroup to the container's user, if the container may make cgroups in it.
fn delegate(plan: &Plan, cgroup: &Cgroup) -> Result<()> {
    plan.cgroup_owner.map_or(Ok(()), |(uid, gid)| cgroups::delegate(cgroup, uid, gid))
}
