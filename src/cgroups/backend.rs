//! The cgroup of a container, on whatever kind of host: what launching and later commands do with it.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use oci_spec::runtime::LinuxResources;

use super::{Plan, Write, devices, resources, tree, v2};
use crate::error::{Problems, Result};
use crate::state::CgroupRecord;

/// A container's cgroup on the host.
#[derive(Debug)]
pub enum Cgroup {
    V2(v2::Cgroup),
}

/// What [`create`] is about to make, for a record of it that outlives a crash.
#[must_use]
pub fn missing(plan: &Plan) -> Vec<std::path::PathBuf> {
    match plan {
        Plan::V2(plan) => v2::missing(plan),
    }
}

/// Makes the cgroup and sets its limits. `None` if a rootless container has to do without and can. On error
/// nothing that was made remains.
pub fn create(plan: &Plan, warnings: &mut Vec<String>) -> Result<Option<Cgroup>> {
    match plan {
        Plan::V2(plan) => Ok(v2::create(plan, warnings)?.map(Cgroup::V2)),
    }
}

/// Sets the limits of the cgroup that systemd has made around a process.
pub fn limit(plan: &Plan, pid: i32, warnings: &mut Vec<String>) -> Result<Cgroup> {
    match plan {
        Plan::V2(plan) => Ok(Cgroup::V2(v2::limit(plan, pid, warnings)?)),
    }
}

/// Removes a recorded cgroup if nothing runs in it and none is below it; true if it is gone.
#[must_use]
pub fn remove_empty(record: &CgroupRecord) -> bool {
    tree::remove_empty(&record.path)
}

/// Gives a cgroup to its container's root, as far as that cannot change its own limits then.
pub fn delegate(cgroup: &Cgroup, uid: u32, gid: u32) -> Result<()> {
    match cgroup {
        Cgroup::V2(cgroup) => tree::delegate(cgroup, uid, gid),
    }
}

impl Cgroup {
    /// The cgroup on record; `None` if it is gone.
    pub fn open(record: &CgroupRecord) -> Result<Option<Self>> {
        Ok(v2::Cgroup::open(&record.path)?.map(Self::V2))
    }

    /// The cgroup of that path below this one; `None` if there is none.
    pub fn below(&self, path: &Path) -> Result<Option<Self>> {
        match self {
            Self::V2(cgroup) => Ok(v2::Cgroup::open(&cgroup.path.join(path))?.map(Self::V2)),
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
        }
    }

    /// The descriptor for `CLONE_INTO_CGROUP`.
    #[must_use]
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::V2(cgroup) => Some(cgroup.dir()),
        }
    }

    /// What resources come to here: writes to its files. What is wrong or cannot be had is noted in `problems`.
    pub fn plan(&self, resources: &LinuxResources, problems: &mut Problems) -> Vec<Write> {
        match self {
            Self::V2(_) => resources::plan(resources, problems),
        }
    }

    /// The text of one of its files; `None` if there is no such file.
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        match self {
            Self::V2(cgroup) => cgroup.read(file),
        }
    }

    /// One of its files, open for reading; `None` if there is no such file.
    pub fn open_file(&self, file: &str) -> Result<Option<OwnedFd>> {
        match self {
            Self::V2(cgroup) => cgroup.open_file(file),
        }
    }

    /// Writes to one of its files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.write(file, value),
        }
    }

    /// Sees to it that the controller of a file is enabled here; without `enable`, only finds out whether there is one.
    pub fn enable(&self, write: &Write, enable: bool) -> Result<()> {
        match self {
            Self::V2(cgroup) => v2::enable_for(&cgroup.path, write, enable),
        }
    }

    /// Puts a device filter in the place of the present one; `None` allows every device.
    pub fn replace_devices(&self, filter: Option<&devices::Filter>) -> Result<()> {
        match self {
            Self::V2(cgroup) => Ok(v2::replace_device_program(cgroup.dir(), filter, false)?),
        }
    }

    /// How many device programs are attached, and whether they are what the filter asks for.
    pub fn devices_are(&self, filter: Option<&devices::Filter>) -> Result<(usize, bool)> {
        match self {
            Self::V2(cgroup) => Ok(v2::device_program_is(cgroup.dir(), filter)?),
        }
    }

    /// The ids of all processes inside, also in cgroups below, as our own pid namespace knows them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self {
            Self::V2(cgroup) => cgroup.pids(),
        }
    }

    /// Kills everything inside, also what is being forked meanwhile. It does not wait for the end.
    pub fn kill(&self) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.kill(),
        }
    }

    /// Sends a signal to every process inside; tells how many got it.
    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        match self {
            Self::V2(cgroup) => cgroup.signal_all(signal),
        }
    }

    /// Whether a process that is not a zombie is inside or below.
    pub fn populated(&self) -> Result<bool> {
        match self {
            Self::V2(cgroup) => cgroup.populated(),
        }
    }

    /// Whether everything inside stands still.
    pub fn frozen(&self) -> Result<bool> {
        match self {
            Self::V2(cgroup) => cgroup.frozen(),
        }
    }

    /// Freezes or thaws, and waits until it is so. What cannot be frozen in time is thawed again.
    pub fn freeze(&self, freeze: bool, deadline: Instant) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.freeze(freeze, deadline),
        }
    }

    /// Waits until nothing runs inside; false if the deadline passes first.
    pub fn wait_empty(&self, deadline: Instant) -> Result<bool> {
        match self {
            Self::V2(cgroup) => cgroup.wait_empty(deadline),
        }
    }

    /// Removes the cgroup and all below it, once nothing runs in it any more.
    pub fn remove(self, deadline: Instant) -> Result<()> {
        match self {
            Self::V2(cgroup) => cgroup.remove(deadline),
        }
    }
}
