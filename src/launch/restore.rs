//! `restore`: CRIU makes the processes of a container from images.
//!
//! The container is claimed, recorded and given its cgroup as by `create`. CRIU runs in that cgroup, so its
//! children are in it from their first moment on. CRIU makes the namespaces, the root file system's mounts and
//! the processes, and reports its steps:
//!
//! * `setup-namespaces`: the first process exists, in its namespaces. It goes on record, and the prestart and
//!   createRuntime hooks run.
//! * `orphan-pts-master`: the master of the terminal goes to the console socket.
//! * `post-restore`: all processes exist and are stopped. The container goes on record as one that runs.
//!   After the answer they go on.
//!
//! The images may be a stranger's. corten reads one file of them, [`DESCRIPTORS`], as names that it compares.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::channel::{Channel, Event};
use super::create::{Build, Launched, Opened, Request, attach_device_filter, claim, identify, roll_back};
use super::criu::{Child, Criu, UNIFIED, hierarchy, progress, with_log};
use super::dump::{FILE, LOG_LEVEL, common, namespace_name, text};
use super::images::of_user;
use super::notify;
use super::process::{Process, copy_size};
use crate::cgroups::Cgroup;
use crate::criu::message::{
    CgroupRoot, ExternalMount, InheritFd, JoinNamespace, Options, Request as Message, Type,
};
use crate::criu::session::Step;
use crate::criu::{Asked, DESCRIPTORS, Directories, RESTORE_LOG, stats};
use crate::error::{Context, Kind, Result, fail};
use crate::namespaces::{self, Joined, idmap};
use crate::process::env;
use crate::rootfs::{self, MountNamespace};
use crate::state::{Status, spec_state};
use crate::sys::mount::{self, Depth};
use crate::sys::{credentials, fs, mountinfo, net, socket, task};
use crate::{hooks, json, log, procstat};

/// What `restore` is asked to do.
pub(crate) struct Images<'a> {
    pub program: &'a Path,
    pub directories: &'a Directories,
    pub asked: &'a Asked,
    pub config_file: Option<String>,
    pub tcp_close: bool,
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
}

/// The name of the directory on the stage in which CRIU finds the hierarchy of cgroups.
const YARD: &str = "cgroups";

/// What CRIU has reported of the restored processes.
#[derive(Default)]
struct Restored {
    /// The first process, when all are made.
    first: Option<(i32, OwnedFd)>,
    /// The cgroups in which all processes must be, one of each hierarchy.
    cgroup_roots: Vec<CgroupRoot>,
    /// The terminal has been sent.
    terminal: bool,
    /// Its master, if no console socket receives it.
    console: Option<OwnedFd>,
}

/// The most bytes of [`DESCRIPTORS`].
const DESCRIPTORS_MAX: u64 = 64 << 10;

/// Restores a container, which then runs. On error nothing remains.
pub(crate) fn restore(request: &Request, images: &Images) -> Result<Launched> {
    check(request)?;
    let streams = streams(images.directories)?;
    let opened = Opened::new(request)?;
    let (dir, mut record) = claim(request)?;
    record.restored = true;
    let mut build = Build { request, dir: &dir, record: &mut record, joined_maps: None };
    match build.restore(opened, images, &streams) {
        Ok((process, notify)) => Ok(Launched { dir, record, process, notify }),
        Err(error) => {
            let error = with_log(error, images.directories, RESTORE_LOG);
            Err(roll_back(request, dir, &record, error))
        }
    }
}

/// Refuses what CRIU cannot make.
fn check(request: &Request) -> Result<()> {
    let plan = request.plan;
    if plan.rootfs.facts.mount_namespace != MountNamespace::New {
        let text = "linux.namespaces: a restore needs a new mount namespace";
        return Err(fail(Kind::Unsupported, text));
    }
    if plan.namespaces.joins(libc::CLONE_NEWCGROUP) {
        let text = "linux.namespaces: CRIU joins no cgroup namespace";
        return Err(fail(Kind::Unsupported, text));
    }
    if plan.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some()) {
        let text = "linux.seccomp: CRIU restores no filter that asks an agent";
        return Err(fail(Kind::Unsupported, text));
    }
    Ok(())
}

/// Returns the names of the standard streams at the checkpoint.
fn streams(directories: &Directories) -> Result<Vec<String>> {
    let (dir, path) = (directories.images.as_fd(), Path::new(DESCRIPTORS));
    let open = || fs::open(dir, path, fs::O_RDONLY | fs::O_NOFOLLOW | libc::O_NONBLOCK, 0);
    let Some(file) = fs::existing(dir, path, open)? else {
        let text = format!("--image-path: has no {DESCRIPTORS} (hint: is it the directory of a checkpoint?)");
        return Err(fail(Kind::Usage, text));
    };
    let bytes = fs::read_limited(file, DESCRIPTORS_MAX).context(DESCRIPTORS)?;
    json::read(&bytes).map_err(|e| fail(Kind::Config, format!("{DESCRIPTORS}: {e}")))
}

impl Build<'_> {
    /// Returns the container's process, and its notification socket.
    fn restore(
        &mut self,
        mut opened: Opened,
        images: &Images,
        streams: &[String],
    ) -> Result<(Process, Option<OwnedFd>)> {
        let (request, plan, caller) = (self.request, self.request.plan, self.request.caller);
        self.dir.save(self.record)?;
        let (cgroup, class_joins) = self.make_cgroups(opened.systemd.is_some())?;
        identify(self.record)?;
        let notify = notify::listen(plan, self.dir)?;
        let cgroup_joins = cgroup.as_ref().map_or(Ok(Vec::new()), Cgroup::join_fds)?;
        let state = request.root.join(request.id);
        let stage = |report: &Channel| {
            task::unshare(libc::CLONE_NEWNS)?;
            images.directories.reopen()?;
            let umask = credentials::umask(0);
            let warn = |text| report.send(&Event::Warning(text));
            let maps = [&plan.namespaces.uid_map[..], &plan.namespaces.gid_map[..]];
            let stage =
                rootfs::stage(&plan.rootfs, caller.proc(), opened.joined.user(), maps, &state, &warn)?;
            if let Some(hierarchy) = hierarchy(caller.proc(), "self")? {
                let yard = rootfs::directory_in(stage.as_fd(), Path::new(YARD), 0o700)?;
                let copy = mount::open_tree_clone(fs::CWD, hierarchy, Depth::One)?;
                rootfs::attach_in(yard.as_fd(), Path::new(UNIFIED), copy.as_fd())?;
            }
            self.map_images(stage.as_fd(), images, &opened.joined).or_else(|e| {
                warn(format!("--image-path: root of the user namespace may not read there: {e:#}"))
            })?;
            credentials::umask(umask);
            Ok(task::chdir_root()?)
        };
        let taken = opened.joined.iter().filter(|(join, _)| namespace_name(join.flag).is_some());
        let child = Child {
            cgroup: cgroup.as_ref(),
            cgroup_joins,
            class_joins,
            waits: opened.systemd.is_some(),
            prepare: Some(&stage),
            streams: true,
            shell_job: images.asked.shell_job,
            given: taken.map(|(_, fd)| fd.as_raw_fd()).collect(),
        };
        images.directories.clear([RESTORE_LOG, stats::RESTORE])?;
        let criu = child.spawn(images.program, Some(images.directories))?;
        let ready = self.make_ready(&criu, opened.systemd.as_mut(), cgroup.as_ref());
        let options = ready.and_then(|mounts| {
            let hierarchy = hierarchy(caller.proc(), &criu.pid.to_string())?;
            let yard = rootfs::on_stage(Path::new(YARD))?;
            Ok(Options {
                cgroup_yard: hierarchy.map(|_| text(&yard)).transpose()?,
                images_dir_fd: images.directories.images.as_raw_fd(),
                work_dir_fd: Some(images.directories.work.as_raw_fd()),
                root: Some(text(&rootfs::bare()?)?),
                external_mounts: mounts,
                cgroup_roots: cgroup_roots(criu.pid, caller.proc())?,
                ..options(images, &opened.joined, streams)
            })
        });
        let options = options.inspect_err(|_| criu.kill())?;
        let message = Message::of(Type::Restore, Some(options));
        Ok((self.converse(criu, &message, &opened, images)?, notify))
    }

    /// Lets root of the container's user namespace read the images.
    fn map_images(&self, stage: BorrowedFd, images: &Images, joined: &Joined) -> Result<()> {
        let plan = &self.request.plan.namespaces;
        let make = || idmap::user_namespace(self.request.caller.proc(), &plan.uid_map, &plan.gid_map);
        let made = plan.creates(libc::CLONE_NEWUSER).then(make).transpose()?;
        let user = joined.user().or(made.as_ref().map(AsFd::as_fd));
        let Some(user) = user else { return Ok(()) };
        let mapped = of_user(stage, images.directories.images.as_fd(), user)?;
        images.directories.replace_images(mapped.as_fd())
    }

    /// Does what must be done before CRIU runs. Returns the external mounts.
    fn make_ready(
        &mut self,
        criu: &Criu,
        systemd: Option<&mut crate::dbus::Bus>,
        cgroup: Option<&Cgroup>,
    ) -> Result<Vec<ExternalMount>> {
        let (plan, proc) = (self.request.plan, self.request.caller.proc());
        if let Some(systemd) = systemd {
            self.attach_by_systemd(criu.pid, systemd)?;
            criu.go()?;
        }
        criu.prepared(None)?;
        cgroup.map_or(Ok(()), |cgroup| attach_device_filter(plan, cgroup))?;
        let mountinfo = mountinfo::read_of(&criu.pid.to_string(), proc)?;
        criu.go()?;
        let staged = rootfs::staged(&plan.rootfs, &mountinfo)?;
        let mount =
            |(key, value): (PathBuf, PathBuf)| Ok(ExternalMount { key: text(&key)?, value: text(&value)? });
        staged.into_iter().map(mount).collect()
    }

    /// Has CRIU restore the processes, and serves it until they run.
    fn converse(
        &mut self,
        criu: Criu,
        message: &Message,
        opened: &Opened,
        images: &Images,
    ) -> Result<Process> {
        let cgroup = self.record.cgroup.as_ref().map(Cgroup::open).transpose()?.flatten();
        let pid = criu.pid;
        let work = images.directories.work.as_fd();
        let progress = || progress(pid, work, RESTORE_LOG, cgroup.as_ref());
        let (mut session, channel) = criu.executed(&progress)?;
        session.may_wait = images.asked.lazy_pages;
        let roots = message.options.iter().flat_map(|options| &options.cgroup_roots);
        let mut restored = Restored { cgroup_roots: roots.cloned().collect(), ..Restored::default() };
        let asked = session.check(None).and_then(|version| {
            log::debug(|| format!("CRIU {version}, restore"));
            session.request(message, |step| self.on(step, opened, images, &mut restored))
        });
        session.conclude(asked)?;
        let Restored { first, console, .. } = restored;
        let (pid, pidfd) =
            first.ok_or_else(|| fail(Kind::Os, "CRIU has not told which process it restored"))?;
        Ok(Process { pid, pidfd, console, intermediate: false, waits: false, channel, watch: None })
    }

    /// Does what a step of CRIU's requires.
    fn on(&mut self, step: Step, opened: &Opened, images: &Images, restored: &mut Restored) -> Result<()> {
        let plan = self.request.plan;
        match (step.name.as_str(), step.pid, step.fd) {
            ("setup-namespaces", Some(pid), _) => {
                self.record_pid(pid)?;
                if self.record.start_time.is_none() {
                    return Err(fail(Kind::Os, format!("CRIU reports process {pid}, which does not exist")));
                }
                self.dir.save(self.record)?;
                if plan.namespaces.creates(libc::CLONE_NEWNET) {
                    let up = || Ok(net::loopback_up()?);
                    namespaces::in_network_namespace_of(pid, self.request.caller.proc(), up)?;
                }
                let state = spec_state(self.record, Status::Created, self.record.pid);
                hooks::run(&plan.hooks.prestart, state.as_bytes(), env::own)?;
                hooks::run(&plan.hooks.create_runtime, state.as_bytes(), env::own)
            }
            ("orphan-pts-master", _, Some(master)) => {
                restored.terminal = true;
                match &opened.console_socket {
                    Some(socket) => socket::send(socket.as_fd(), b"/dev/ptmx", &[master.as_fd()])
                        .context("--console-socket")?,
                    None => {
                        copy_size(master.as_fd())?;
                        restored.console = Some(master);
                    }
                }
                Ok(())
            }
            ("post-restore", Some(pid), _) => {
                if self.record.pid != Some(pid) {
                    // The hooks have not run for this process.
                    return Err(fail(Kind::Os, "CRIU reports another process than before"));
                }
                if plan.terminal() && !restored.terminal && !images.asked.shell_job {
                    log::warn("process.terminal: the checkpoint has no terminal, ignoring");
                }
                check_cgroups(pid, &restored.cgroup_roots, self.request.caller.proc())?;
                let pidfd = task::pidfd_open(pid)?;
                self.record_time_namespace(pid)?;
                self.dir.save_config(&self.request.config.text)?;
                self.put_on_record(pid, &pidfd, opened.pidfd_socket.as_ref())?;
                log::info(|| format!("container {}: restored, process {pid}", self.request.id));
                restored.first = Some((pid, pidfd));
                Ok(())
            }
            (name @ ("setup-namespaces" | "post-restore"), None, _) => {
                Err(fail(Kind::Os, format!("CRIU reports no process at its step {name}")))
            }
            _ => Ok(()),
        }
    }

    /// CRIU restores clocks by a time namespace, which processes of `exec` must enter too.
    fn record_time_namespace(&mut self, pid: i32) -> Result<()> {
        let proc = self.request.caller.proc();
        let of = |process: &str| fs::inode_at(proc, Path::new(&format!("{process}/ns/time")));
        let differs = match (of("self"), of(&pid.to_string())) {
            (Ok(own), Ok(theirs)) => own != theirs,
            // A kernel without time namespaces.
            _ => false,
        };
        let name = "time".to_string();
        if differs && !self.record.namespaces.contains(&name) {
            self.record.namespaces.push(name);
        }
        Ok(())
    }
}

/// Returns the cgroups that the images' cgroups become: those that the CRIU process, `pid`, is in. Otherwise CRIU would make
/// again those of the container that was saved, outside of this one's.
fn cgroup_roots(pid: i32, proc: BorrowedFd) -> Result<Vec<CgroupRoot>> {
    let text = fs::read_text(proc, Path::new(&format!("{pid}/cgroup")))?;
    Ok(text.lines().filter_map(cgroup_of).collect())
}

/// Refuses the processes, of which `first` is the first, if one is outside of these cgroups. The images can name any cgroup of
/// the host, where the container's limits do not hold.
fn check_cgroups(first: i32, roots: &[CgroupRoot], proc: BorrowedFd) -> Result<()> {
    for thread in procstat::threads_of_all(first)? {
        let text = fs::read_text(proc, &thread.join("cgroup"))?;
        for found in text.lines().filter_map(cgroup_of) {
            let root = roots.iter().find(|root| root.controller == found.controller);
            if root.is_some_and(|root| !Path::new(&found.path).starts_with(&root.path)) {
                let text = "the images put a process into the cgroup";
                return Err(fail(Kind::Config, format!("{text} {}, outside of the container's", found.path)));
            }
        }
    }
    Ok(())
}

/// Returns the hierarchy and the path that a line of /proc/PID/cgroup has.
fn cgroup_of(line: &str) -> Option<CgroupRoot> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    Some(CgroupRoot { controller: Some(controllers.into()), path: path.into() })
}

/// Returns the options that do not depend on paths of this container.
fn options(images: &Images, joined: &Joined, streams: &[String]) -> Options {
    let (mut inherit_fd, mut join_ns) = (Vec::new(), Vec::new());
    for (join, fd) in joined.iter() {
        let fd = fd.as_raw_fd();
        match (namespace_name(join.flag), namespaces::kind(join.flag)) {
            (Some((_, name)), _) => inherit_fd.push(InheritFd { key: name.into(), fd }),
            // CRIU reads it as root of the host, from this process.
            (None, Some(kind)) => join_ns.push(JoinNamespace {
                kind: kind.file.into(),
                path: format!("/proc/{}/fd/{fd}", std::process::id()),
            }),
            _ => {}
        }
    }
    let outside = |(number, name): (usize, &String)| {
        let known = name.starts_with("pipe:") || name.starts_with(FILE);
        known.then(|| InheritFd { key: name.clone(), fd: number as i32 })
    };
    inherit_fd.extend(streams.iter().take(3).enumerate().filter_map(outside));
    Options {
        evasive_devices: Some(true),
        log_level: Some(LOG_LEVEL),
        log_file: Some(RESTORE_LOG.into()),
        notify_scripts: Some(true),
        restore_sibling: Some(true),
        inherit_fd,
        join_ns,
        tcp_close: Some(images.tcp_close),
        lsm_profile: images.lsm_profile.clone(),
        lsm_mount_context: images.lsm_mount_context.clone(),
        config_file: images.config_file.clone(),
        ..common(images.asked)
    }
}
