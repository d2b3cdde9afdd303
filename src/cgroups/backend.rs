//! The cgroup of a container, on whatever kind of host: what launching and later commands do with it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use super::{Host, Plan, Write, devices, resources, tree, v1, v2};
use crate::error::{Kind, Problems, Result, fail};
use crate::state::CgroupRecord;
use crate::sys::fs;
use crate::trace;

/// Whether everything in a cgroup on record stands still; in one that is gone nothing does.
pub fn frozen(record: &CgroupRecord) -> Result<bool> {
    if !record.v1.is_empty() {
        return v1::Cgroup::open(record)?.map_or(Ok(false), |cgroup| cgroup.frozen());
    }
    // Asked of many containers in a row: the file alone is opened.
    match fs::read_text(fs::CWD, &record.path.join("cgroup.events")) {
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV) => Ok(false),
        events => Ok(events?.lines().any(|line| line == "frozen 1")),
    }
}

/// Returns whether a process is in a cgroup on record or below it; one that is gone has none.
pub fn populated(record: &CgroupRecord) -> Result<bool> {
    Cgroup::open(record)?.map_or(Ok(false), |cgroup| cgroup.populated())
}

/// Returns the current value of [`CgroupRecord::id`], or `None` if the directory does not exist.
pub fn id(record: &CgroupRecord) -> Result<Option<u64>> {
    let Some(dir) = record.dirs().next() else { return Ok(None) };
    match fs::stat_at(fs::CWD, dir) {
        Err(e) if fs::absent(fs::CWD, dir, &e) => Ok(None),
        stat => Ok(Some(stat?.st_ino)),
    }
}

/// Returns whether the recorded cgroup was removed and another one created at its path.
pub fn is_anothers(record: &CgroupRecord) -> Result<bool> {
    Ok(match record.id {
        Some(ours) => id(record)?.is_some_and(|now| now != ours),
        None => false,
    })
}

/// A container's cgroup on the host.
#[derive(Debug)]
pub enum Cgroup {
    V2(v2::Cgroup),
    V1(v1::Cgroup),
}

/// A cgroup below the container's: for these controllers, or for all if none is named.
#[derive(Debug, PartialEq, Eq)]
pub struct Below {
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

/// What [`create`] is about to make, for a record of it that outlives a crash.
#[must_use]
pub fn missing(plan: &Plan) -> Vec<PathBuf> {
    let _phase = trace::phase("look for the cgroup");
    match plan {
        Plan::V2(plan) => v2::missing(plan),
        Plan::V1(plan) => plan.missing(),
    }
}

/// Makes the cgroup and sets its limits, but for the devices of v2 ([`watch`]). `None` if a rootless container has to do
/// without and can. On error nothing that was made remains.
pub fn create(plan: &Plan, warnings: &mut Vec<String>) -> Result<Option<Cgroup>> {
    let _phase = trace::phase("cgroup");
    match plan {
        Plan::V2(plan) => Ok(v2::create(plan, warnings)?.map(Cgroup::V2)),
        Plan::V1(plan) => Ok(v1::create(plan, warnings)?.map(Cgroup::V1)),
    }
}

/// Attaches v2's device filter: before the container's program or a hook runs.
pub fn watch(cgroup: &Cgroup, plan: &Plan, warnings: &mut Vec<String>) -> Result<()> {
    let _phase = trace::phase("device filter");
    match (cgroup, plan) {
        (Cgroup::V2(cgroup), Plan::V2(plan)) => v2::watch(cgroup, plan, warnings),
        (Cgroup::V1(cgroup), Plan::V1(plan)) => match (&cgroup.unified, &plan.unified) {
            (Some(cgroup), Some(plan)) => v2::watch(cgroup, plan, warnings),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Sets the limits of the cgroup that systemd has made around a process.
pub fn limit(plan: &Plan, pid: i32) -> Result<Cgroup> {
    let _phase = trace::phase("limit the cgroup");
    match plan {
        Plan::V2(plan) => Ok(Cgroup::V2(v2::limit(plan, pid)?)),
        Plan::V1(_) => Err(fail(Kind::Unsupported, "systemd makes no cgroups of v1 for us")),
    }
}

/// Removes a recorded cgroup if nothing runs in it and none is below it; true if it is gone.
#[must_use]
pub fn remove_empty(record: &CgroupRecord) -> bool {
    let _phase = trace::phase("remove the empty cgroup");
    let v2 = record.path.as_os_str().is_empty() || tree::remove_empty(&record.path);
    record.v1.iter().fold(v2, |gone, dir| tree::remove_empty(dir) && gone)
}

/// Gives a cgroup to its container's root, as far as that cannot change its own limits then.
pub fn delegate(cgroup: &Cgroup, uid: u32, gid: u32) -> Result<()> {
    let _phase = trace::phase("delegate the cgroup");
    match cgroup {
        Cgroup::V2(cgroup) => tree::delegate(cgroup, uid, gid),
        // v1's controllers are not safe in others' hands.
        Cgroup::V1(cgroup) => {
            cgroup.unified.as_ref().map_or(Ok(()), |cgroup| tree::delegate(cgroup, uid, gid))
        }
    }
}

impl Cgroup {
    /// The cgroup on record; `None` if it is gone. One that has been made at the same path since is another's.
    pub fn open(record: &CgroupRecord) -> Result<Option<Self>> {
        let _phase = trace::phase("open the cgroup");
        let found = match record.v1.is_empty() {
            true => v2::Cgroup::open(&record.path)?.map(Self::V2),
            false => v1::Cgroup::open(record)?.map(Self::V1),
        };
        if found.is_some() && is_anothers(record)? { Ok(None) } else { Ok(found) }
    }

    /// The cgroup below this one that is wanted, which must be there.
    pub fn below(&self, wanted: &[Below]) -> Result<Self> {
        let refuse = |message: &str| Err(fail(Kind::Usage, message));
        match (self, wanted) {
            (Self::V1(cgroup), _) => Ok(Self::V1(cgroup.below(wanted)?)),
            // With one hierarchy there are no controllers to name, and nothing to say twice.
            (Self::V2(_), all) if all.iter().any(|below| !below.controllers.is_empty()) => {
                refuse("controllers cannot be named on cgroup v2")
            }
            (Self::V2(cgroup), [below]) => match v2::Cgroup::open(&cgroup.path.join(&below.path))? {
                Some(found) => Ok(Self::V2(found)),
                None => refuse("there is no such cgroup"),
            },
            (Self::V2(_), _) => refuse("a process is in one cgroup"),
        }
    }

    /// What later commands have to know to find it; without the directories above.
    #[must_use]
    pub fn record(&self) -> CgroupRecord {
        let manager = "cgroupfs".to_string();
        match self {
            Self::V2(cgroup) => {
                CgroupRecord { manager, path: cgroup.path.clone(), ..CgroupRecord::default() }
            }
            Self::V1(cgroup) => cgroup.record(),
        }
    }

    /// The descriptor for `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::V2(cgroup) => Some(cgroup.dir()),
            Self::V1(cgroup) => cgroup.unified.as_ref().map(v2::Cgroup::dir),
        }
    }

    /// What a process that is born in [`Cgroup::birthplace`] enters the rest by ([`v1::enter`]).
    pub fn doors(&self) -> Result<Vec<OwnedFd>> {
        match self {
            Self::V2(_) => Ok(Vec::new()),
            Self::V1(cgroup) => cgroup.doors(),
        }
    }

    /// What a process that is born elsewhere enters [`Cgroup::birthplace`] by. No path is resolved for it.
    pub fn door(&self) -> Result<Option<OwnedFd>> {
        let open = |dir| fs::open(dir, Path::new("cgroup.procs"), fs::O_WRONLY, 0);
        Ok(self.birthplace().map(open).transpose()?)
    }

    /// What resources come to here: writes to its files. What is wrong or cannot be had is noted in `problems`.
    pub fn plan(&self, resources: &LinuxResources, problems: &mut Problems) -> Vec<Write> {
        match self {
            Self::V2(_) => resources::plan(resources, problems),
            Self::V1(_) => match Host::probe(false) {
                Ok(host) => v1::writes(resources, &host, problems),
                Err(e) => {
                    problems.add("linux.resources", format!("{e:#}"));
                    Vec::new()
                }
            },
        }
    }

    /// The text of one of its files; `None` if there is no such file.
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        match self {
            Self::V2(cgroup) => cgroup.read(file),
            Self::V1(cgroup) => cgroup.holder(file)?.map_or(Ok(None), |holder| holder.read(file)),
        }
    }

    /// One of its files, open for reading; `None` if there is no such file.
    pub fn open_file(&self, file: &str) -> Result<Option<OwnedFd>> {
        match self {
            Self::V2(cgroup) => cgroup.open_file(file),
            Self::V1(cgroup) => cgroup.holder(file)?.map_or(Ok(None), |holder| holder.open_file(file)),
        }
    }

    /// Writes to one of its files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.write(file, value),
            Self::V1(cgroup) => match cgroup.holder(file)? {
                Some(holder) => holder.write(file, value),
                None => Err(fail(Kind::Unsupported, format!("no cgroup hierarchy has {file}"))),
            },
        }
    }

    /// Sees to it that the controller of a file is enabled here; without `enable`, only finds out whether there is one.
    pub fn enable(&self, write: &Write, enable: bool) -> Result<()> {
        match self {
            Self::V2(cgroup) => v2::enable_for(&cgroup.path, write, enable),
            Self::V1(cgroup) => match &cgroup.unified {
                Some(unified) if v1::is_v2s(write)? => v2::enable_for(&unified.path, write, enable),
                // What is mounted is enabled.
                _ => Ok(()),
            },
        }
    }

    /// Puts a device filter in the place of the present one; `None` allows every device.
    pub fn replace_devices(&self, filter: Option<&devices::Filter>) -> Result<()> {
        match self {
            Self::V2(cgroup) => Ok(v2::replace_device_program(cgroup.dir(), filter, v2::Replaced::Ours)?),
            Self::V1(cgroup) => cgroup.replace_devices(filter),
        }
    }

    /// The device rules that are in force, beside those of a filter.
    pub fn devices(&self, filter: Option<&devices::Filter>) -> Result<devices::DeviceRules> {
        match self {
            Self::V2(cgroup) => Ok(v2::device_rules(cgroup.dir(), filter)),
            Self::V1(cgroup) => cgroup.devices(filter),
        }
    }

    /// The ids of all processes inside, also in cgroups below, as our own pid namespace knows them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self {
            Self::V2(cgroup) => cgroup.pids(),
            Self::V1(cgroup) => cgroup.pids(),
        }
    }

    /// Kills everything inside, also what is being forked meanwhile. It does not wait for the end.
    pub fn kill(&self) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.kill(),
            Self::V1(cgroup) => cgroup.kill(),
        }
    }

    /// Sends a signal to every process inside; tells how many got it.
    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        match self {
            Self::V2(cgroup) => cgroup.signal_all(signal),
            Self::V1(cgroup) => cgroup.signal_all(signal),
        }
    }

    /// Whether a process that is not a zombie is inside or below.
    pub fn populated(&self) -> Result<bool> {
        match self {
            Self::V2(cgroup) => cgroup.populated(),
            Self::V1(cgroup) => cgroup.populated(),
        }
    }

    /// Returns whether it has sub-cgroups.
    pub fn divided(&self) -> Result<bool> {
        let stat = match self {
            Self::V2(cgroup) | Self::V1(v1::Cgroup { unified: Some(cgroup), .. }) => fs::fstat(cgroup.dir())?,
            Self::V1(cgroup) => match cgroup.dirs.first() {
                Some(dir) => fs::stat_at(fs::CWD, dir)?,
                None => return Ok(false),
            },
        };
        // Each one below has a "..".
        Ok(stat.st_nlink > 2)
    }

    /// Freezes or thaws, and waits until it is so. What cannot be frozen in time is thawed again.
    pub fn freeze(&self, freeze: bool, deadline: Instant) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.freeze(freeze, deadline),
            Self::V1(cgroup) => cgroup.freeze(freeze, deadline),
        }
    }

    /// Waits until nothing runs inside; false if the deadline passes first.
    pub fn wait_empty(&self, deadline: Instant) -> Result<bool> {
        match self {
            Self::V2(cgroup) => cgroup.wait_empty(deadline),
            Self::V1(cgroup) => cgroup.wait_empty(deadline),
        }
    }

    /// Removes the cgroup and all below it, once nothing runs in it any more.
    pub fn remove(self, deadline: Instant) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.remove(deadline),
            Self::V1(cgroup) => cgroup.remove(deadline),
        }
    }
}
