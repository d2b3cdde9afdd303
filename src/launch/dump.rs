//! `checkpoint`: CRIU saves the processes of a container.
//!
//! What is outside of the container is not saved, but named: bind mounts and masks, namespaces that were
//! joined, and files of the host behind the standard streams. `restore` gives CRIU the new container's for
//! each name.
//!
//! CRIU freezes the container's cgroup, and thaws it if the dump fails. A container that was left frozen
//! nevertheless is thawed here.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::channel::{Channel, Event};
use super::criu::{Child, Prepare, UNIFIED, hierarchy, progress, with_log};
use crate::cgroups::Cgroup;
use crate::criu::message::{ExternalMount, Features, NetworkLock, Options, PageServer, Request, Type};
use crate::criu::session::Step;
use crate::criu::{self, Asked, DESCRIPTORS, DUMP_LOG, Directories, stats};
use crate::error::{Context, Kind, Result, fail};
use crate::plan::Plan;
use crate::rootfs::{self, External};
use crate::state::{self, Record};
use crate::sys::{self, fs, mount, mountinfo, task};
use crate::{log, namespaces, trace};

/// The time limit for the file systems of the container, and for thawing it after a failed dump.
const PATIENCE: Duration = Duration::from_secs(10);

/// CRIU's level of detail in its log, as with runc.
pub(super) const LOG_LEVEL: i32 = 4;

/// What `checkpoint` is asked to do.
pub(crate) struct Dump<'a> {
    pub record: &'a Record,
    /// The plan of the kept configuration.
    pub plan: &'a Plan,
    /// The root of the host's procfs.
    pub proc: BorrowedFd<'a>,
    pub program: &'a Path,
    pub directories: &'a Directories,
    pub asked: &'a Asked,
    pub config_file: Option<String>,
    /// The images of an earlier dump, relative to those of this one.
    pub parent: Option<String>,
    pub page_server: Option<(String, u16)>,
    pub leave_running: bool,
    /// Only the memory is saved. The container runs on.
    pub pre_dump: bool,
    pub tcp_skip_in_flight: bool,
    pub link_remap: bool,
    pub network_lock: Option<NetworkLock>,
    /// Gets a zero byte as soon as pages can be fetched.
    pub status_fd: Option<BorrowedFd<'a>>,
}

impl Dump<'_> {
    /// Saves the container. After an error it runs as before.
    pub(crate) fn run(&self, was_frozen: bool) -> Result<()> {
        let _phase = trace::phase("checkpoint");
        let cgroup = self.record.cgroup.as_ref().map(Cgroup::open).transpose()?.flatten();
        let process = state::pidfd(self.record)?.ok_or_else(not_running)?;
        let dumped =
            self.dump(&process, cgroup.as_ref()).map_err(|e| with_log(e, self.directories, DUMP_LOG));
        // A process that is still being frozen does not count as frozen yet, so nothing but its end makes this needless.
        if (dumped.is_err() || self.leave_running || self.pre_dump)
            && !was_frozen
            && !ended(process.as_fd()).unwrap_or(false)
            && let Some(cgroup) = &cgroup
            && let Err(e) = cgroup.thaw(Instant::now() + PATIENCE)
        {
            log::warn(format!("thawing the container: {e:#} (hint: corten resume), ignoring"));
        }
        dumped
    }

    fn dump(&self, process: &OwnedFd, cgroup: Option<&Cgroup>) -> Result<()> {
        let kind = if self.pre_dump { Type::PreDump } else { Type::Dump };
        let yard = self.yard()?;
        self.directories.clear([DUMP_LOG, stats::DUMP])?;
        let external = |report: &Channel| {
            let mut found = self.external()?.into_iter();
            found.try_for_each(|mount| report.send(&Event::External(mount)))
        };
        let prepare: Option<Prepare> = if self.pre_dump { None } else { Some(&external) };
        let child = Child { prepare, ..Child::default() }.spawn(self.program, Some(self.directories))?;
        let options = || {
            let mut mounts = Vec::new();
            if !self.pre_dump {
                mounts = child.prepared(Some(PATIENCE))?;
                child.go()?;
            }
            let named = self.named()?;
            // What was read is the container's if its process has not ended since: the id may belong to another one by now.
            if ended(process.as_fd())? {
                return Err(not_running());
            }
            let cgroup_yard =
                yard.as_ref().map(|fd| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()));
            Ok(Options { cgroup_yard, ..self.options(mounts, named)? })
        };
        let request = Request::of(kind, Some(options().inspect_err(|_| child.kill())?));
        let pid = child.pid;
        let progress = || progress(pid, self.directories.work.as_fd(), DUMP_LOG, cgroup);
        let (mut session, _channel) = child.executed(&progress)?;
        session.may_wait = self.asked.lazy_pages || self.page_server.is_some();
        let wanted = Features {
            mem_track: self.pre_dump.then_some(true),
            lazy_pages: self.asked.lazy_pages.then_some(true),
        };
        let asked = session.check((wanted != Features::default()).then_some(wanted)).and_then(|version| {
            log::debug(|| format!("CRIU {version}, {}", if self.pre_dump { "pre-dump" } else { "dump" }));
            session.request(&request, |step| self.on(&step))
        });
        session.conclude(asked)
    }

    /// Returns a directory in which CRIU finds the hierarchy of cgroups. It has no path.
    fn yard(&self) -> Result<Option<OwnedFd>> {
        let pid = self.record.pid.unwrap_or_default().to_string();
        let Some(hierarchy) = hierarchy(self.proc, &pid)? else { return Ok(None) };
        let yard = mount::new_filesystem("tmpfs", &[("mode", "0700")], 0)?;
        fs::symlinkat(hierarchy, yard.as_fd(), Path::new(UNIFIED))?;
        Ok(Some(yard))
    }

    fn on(&self, step: &Step) -> Result<()> {
        if let ("status-ready", Some(fd)) = (step.name.as_str(), self.status_fd) {
            fs::write_open(fd, &[0])
                .map_err(|e| fail(Kind::Os, format!("--status-fd: {}", sys::text(e.errno))))?;
        }
        Ok(())
    }

    /// Returns the mounts of the container that are not saved. Its file systems may never answer.
    fn external(&self) -> Result<Vec<External>> {
        let pid = self.record.pid.unwrap_or_default();
        let root = format!("{pid}/root");
        let root = fs::open(self.proc, Path::new(&root), fs::O_PATH | fs::O_DIRECTORY, 0)
            .context("the container's root")?;
        rootfs::external(&self.plan.rootfs, root.as_fd(), &mountinfo::read_of(&pid.to_string(), self.proc)?)
    }

    /// Returns the names of namespaces and of files that are not saved. Writes those of the streams into the images.
    fn named(&self) -> Result<Vec<String>> {
        if self.pre_dump {
            return Ok(Vec::new());
        }
        let pid = self.record.pid.unwrap_or_default();
        let mut external = Vec::new();
        for join in &self.plan.namespaces.join {
            let Some((kind, name)) = namespace_name(join.flag) else { continue };
            let file = namespaces::kind(join.flag).map_or("", |kind| kind.file);
            let inode = fs::inode_at(self.proc, Path::new(&format!("{pid}/ns/{file}")))?;
            external.push(format!("{kind}[{inode}]:{name}"));
        }
        let mountinfo = mountinfo::read_of(&pid.to_string(), self.proc)?;
        let ids: Vec<u64> = mountinfo::parse(&mountinfo).map(|mount| mount.id).collect();
        let streams = streams(pid, self.proc, &ids, self.asked.shell_job)?;
        external.extend(streams.iter().filter(|name| name.starts_with(FILE)).cloned());
        let text = serde_json::to_vec(&streams).context(DESCRIPTORS)?;
        write(self.directories.images.as_fd(), DESCRIPTORS, &text)?;
        Ok(external)
    }

    /// Returns the options of the request.
    fn options(&self, mounts: Vec<External>, external: Vec<String>) -> Result<Options> {
        let cgroup = self.record.cgroup.as_ref().and_then(|cgroup| cgroup.dirs().next());
        let mount = |external: External| {
            Ok(ExternalMount { key: text(&external.point)?, value: text(&external.name)? })
        };
        let page_server = self.page_server.as_ref();
        Ok(Options {
            images_dir_fd: self.directories.images.as_raw_fd(),
            work_dir_fd: Some(self.directories.work.as_raw_fd()),
            pid: self.record.pid,
            leave_running: Some(self.leave_running),
            log_level: Some(LOG_LEVEL),
            log_file: Some(DUMP_LOG.into()),
            notify_scripts: Some(true),
            root: Some(text(&self.record.rootfs)?),
            parent_img: self.parent.clone(),
            // A later dump that names this one as its parent leaves out the pages that have not changed since.
            track_mem: (self.pre_dump || self.parent.is_some()).then_some(true),
            link_remap: Some(self.link_remap),
            page_server: page_server.map(|(address, port)| PageServer {
                address: Some(address.clone()),
                port: Some((*port).into()),
            }),
            external_mounts: mounts.into_iter().map(mount).collect::<Result<_>>()?,
            external,
            freeze_cgroup: cgroup.map(|dir| text(dir.as_ref())).transpose()?,
            tcp_skip_in_flight: Some(self.tcp_skip_in_flight),
            network_lock: self.network_lock.map(Into::into),
            config_file: self.config_file.clone(),
            ..common(self.asked)
        })
    }
}

/// Returns CRIU's word for a kind of namespace that it takes by descriptor, and the name that the images have for it.
pub(super) fn namespace_name(flag: i32) -> Option<(&'static str, &'static str)> {
    match flag {
        libc::CLONE_NEWNET => Some(("net", "extRootNetNS")),
        libc::CLONE_NEWPID => Some(("pid", "extRootPidNS")),
        _ => None,
    }
}

/// Returns the options that both requests have.
pub(super) fn common(asked: &Asked) -> Options {
    Options {
        ext_unix_sk: Some(asked.ext_unix_sk),
        tcp_established: Some(asked.tcp_established),
        shell_job: Some(asked.shell_job),
        file_locks: Some(asked.file_locks),
        auto_dedup: Some(asked.auto_dedup),
        lazy_pages: Some(asked.lazy_pages),
        manage_cgroups: Some(true),
        cgroups_mode: asked.cgroups_mode.map(Into::into),
        // The bundle's hooks or the engine make the interfaces, addresses and routes, as at `create`.
        empty_ns: Some(libc::CLONE_NEWNET as u32),
        orphan_pts_master: Some(true),
        ..Options::default()
    }
}

/// Returns whether a process has ended.
fn ended(process: BorrowedFd) -> Result<bool> {
    Ok(task::poll_readable(&[process], Some(Instant::now()))?.contains(&true))
}

fn not_running() -> anyhow::Error {
    fail(Kind::WrongStatus, "container not running")
}

/// Returns a path as CRIU's messages can have it.
pub(super) fn text(path: &Path) -> Result<String> {
    let text = path.to_str().map(ToString::to_string);
    text.ok_or_else(|| fail(Kind::Unsupported, format!("{path:?} is not UTF-8, which CRIU's messages are")))
}

/// The beginning of the name of a file outside of the container's mounts.
pub(super) const FILE: &str = "file[";

/// Returns what the standard streams of a process are: `pipe:[INODE]`, the name of a file outside of the mounts with these
/// `ids`, or a path. CRIU itself takes care of the terminal of a shell job.
fn streams(pid: i32, proc: BorrowedFd, ids: &[u64], shell_job: bool) -> Result<Vec<String>> {
    let stream = |number: i32| {
        let link = format!("{pid}/fd/{number}");
        let Some(path) = fs::existing(proc, Path::new(&link), || fs::readlinkat(proc, Path::new(&link)))?
        else {
            return Ok(String::new());
        };
        let shown = path.to_string_lossy().into_owned();
        if !shown.starts_with('/') || shell_job && is_terminal(&fs::stat_at(proc, Path::new(&link))?) {
            return Ok(shown);
        }
        let info = fs::read_text(proc, Path::new(&format!("{pid}/fdinfo/{number}")))?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse::<u64>().ok());
        match mount {
            Some(mount) if !ids.contains(&mount) => {
                let inode = fs::inode_at(proc, Path::new(&link))?;
                Ok(format!("{FILE}{mount:x}:{inode:x}]"))
            }
            _ => Ok(shown),
        }
    };
    (0..3).map(stream).collect()
}

/// Returns whether a file is a terminal: a virtual console, a serial line or a pseudo-terminal (the kernel's devices.txt).
fn is_terminal(stat: &libc::stat) -> bool {
    let is_device = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
    is_device && matches!(libc::major(stat.st_rdev), 4 | 5 | 136..=143)
}

/// Writes a file into the directory of the images. One of that name that exists is replaced, and never followed.
fn write(dir: BorrowedFd, name: &str, bytes: &[u8]) -> Result<()> {
    let path = Path::new(name);
    let flags = fs::O_WRONLY | fs::O_CREAT | fs::O_EXCL | fs::O_NOFOLLOW;
    criu::remove(dir, name)?;
    let file = fs::open(dir, path, flags, 0o600)?;
    Ok(fs::write_open(file.as_fd(), bytes)?)
}
