//! The table of resources (config-linux.md#control-groups): each member of `linux.resources`, its bounds, its
//! file in cgroup v2 and v1, the property of systemd for the v2 file, and its option of `update`.
//!
//! The runtime-spec's words are those of cgroup v1, therefore some values are converted for v2, with the
//! formulas of runc that other tools know. A value that means "no limit" (absent, mostly 0, -1) is not an
//! error if its controller is missing. What a version cannot do is refused by name: runc drops it silently,
//! and its user believes in a limit that does not exist.
//!
//! **To add a limit**, add a row. A number with a file of its own needs nothing else, unless its controller
//! is new: then add that to `v1::split`. The plan, `update` and its `--help`, `state --applied` and systemd
//! all read this table. If the number means something else in a file, or the member is not one number for one
//! file, name a function of `lower.rs` that makes the writes ([`Target::By`]). The order of the rows is the
//! order of the writes. If `update` has to set two files in an order that depends on their values, add the
//! pair to `BOUNDED` in `update.rs`. Then add a case to the tests here and in `v1/resources.rs`.

use oci_spec::runtime::LinuxResources;

use super::lower::{self, Asked, Plan, Version};
use super::value::Value;
use crate::error::Notes;

/// One value for one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub file: String,
    pub value: Value,
    /// The place in config.json that asks for it.
    pub place: String,
    pub absent: Absent,
    /// What `value` must not fall below: `memory.checkBeforeUpdate`.
    pub floor: Option<Floor>,
}

/// The least that a limit of memory may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The file with the number.
    pub file: &'static str,
    /// The limit of memory and swap together, if there is one.
    pub total: Option<i64>,
}

/// What it means if the file does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The limit cannot be set.
    Fails,
    /// Nothing is lost, because no limit was asked for.
    NoLimit,
    /// Nothing is lost if the host has no swap.
    NoSwap,
    /// The limit is set by another file.
    Instead { file: &'static str, value: Value },
}

impl Write {
    pub(crate) fn new(file: impl Into<String>, value: impl Into<Value>, place: impl Into<String>) -> Self {
        let (file, value, place) = (file.into(), value.into(), place.into());
        Self { file, value, place, absent: Absent::Fails, floor: None }
    }

    pub(super) fn absent(self, absent: Absent) -> Self {
        Self { absent, ..self }
    }

    /// Returns whether this asks for a limit, instead of none.
    #[must_use]
    pub fn limits(&self) -> bool {
        self.absent != Absent::NoLimit
    }

    /// Returns the controller that owns the file: the word before the first dot. The core's `cgroup.*` have
    /// none.
    #[must_use]
    pub fn controller(&self) -> Option<&str> {
        let (name, _) = self.file.split_once('.')?;
        (name != "cgroup").then_some(name)
    }
}

/// A member of `linux.resources`.
#[derive(Clone, Copy)]
pub(crate) struct Limit {
    /// `memory.limit`.
    pub member: &'static str,
    pub bounds: Bounds,
    /// Returns the member, if it is a number.
    pub(super) get: fn(&LinuxResources) -> Option<i128>,
    pub(super) v2: Target,
    pub(super) v1: Target,
    /// systemd's property for the file of cgroup v2.
    pub(super) property: Option<&'static str>,
    pub option: Option<Flag>,
}

/// The option of `update` for a limit.
#[derive(Clone, Copy)]
pub(crate) struct Flag {
    pub name: &'static str,
    /// The name of the value in the help.
    pub value: &'static str,
    pub help: &'static str,
}

/// Where a member goes in one version of cgroups.
#[derive(Clone, Copy)]
pub(super) enum Target {
    /// The file, which takes the number as it is.
    File(&'static str),
    /// The file, and the function that makes the writes.
    By(&'static str, fn(&mut Plan, &Limit)),
    /// The file, which another row's function writes.
    Elsewhere(&'static str),
    /// The kernel cannot do it. The text is the message.
    Refused(&'static str),
}

impl Target {
    pub(super) fn file(self) -> Option<&'static str> {
        match self {
            Self::File(file) | Self::By(file, _) | Self::Elsewhere(file) => Some(file),
            Self::Refused(_) => None,
        }
    }
}

/// The numbers that a member may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Bytes. 0 is unset, -1 is no limit.
    Size,
    /// Microseconds. 0 is unset, -1 is no limit.
    Time,
    /// Tasks. 0 and -1 are no limit.
    Tasks,
    /// Any number. 0 is unset.
    Positive,
    /// Any number. 0 limits nothing.
    OrZero,
    /// 1, or 0 for the kernel's default.
    Switch,
    /// From the first number to the second. 0 is unset if it is not among them.
    Between(i128, i128),
    /// A list of CPUs or memory nodes. A blank one is unset.
    List,
    /// A structure, which the function of its row checks.
    Structure,
}

impl Bounds {
    /// Returns what a number asks for.
    pub(super) fn check(self, n: i128) -> Result<Asked, String> {
        let neither = |unit: &str| Err(format!("{n} is neither {unit} nor -1"));
        match (self, n) {
            (Self::Size | Self::Time | Self::Positive, 0) => Ok(Asked::Nothing),
            (Self::Between(1.., _), 0) => Ok(Asked::Nothing),
            (Self::OrZero | Self::Switch, 0) => Ok(Asked::Zero),
            // Engines send 0 for no limit (`podman run --pids-limit 0`), and a cgroup without room for a process
            // is of no use. Since 1.3 the specification reads it as a limit of 0; crun does not, nor did runc
            // before 1.4.
            (Self::Tasks, 0) | (Self::Size | Self::Time | Self::Tasks, -1) => Ok(Asked::NoLimit),
            (Self::Size, ..0) => neither("a size"),
            (Self::Time, ..0) => neither("a time"),
            (Self::Tasks, ..0) => neither("a number of tasks"),
            (Self::Switch, _) if n != 1 => Err(format!("{n} is neither 0 nor 1")),
            (Self::Between(min, max), _) if !(min..=max).contains(&n) => {
                Err(format!("{n} is not between {min} and {max}"))
            }
            _ => Ok(Asked::Limit(n)),
        }
    }

    /// Returns whether a JSON value means the same as an absent member.
    #[must_use]
    pub(crate) fn unset(self, value: &serde_json::Value) -> bool {
        match value.as_u64() {
            Some(0) => self.check(0) == Ok(Asked::Nothing),
            Some(UNSET) => matches!(self, Self::Between(0, _)),
            _ => self == Self::List && value.as_str().is_some_and(|list| list.trim().is_empty()),
        }
    }
}

/// Docker passes an unset -1 on as this number.
const UNSET: u64 = u64::MAX;

const NO_SUCH: Target = Target::Refused(lower::NO_SUCH_CONTROL);
const HIERARCHICAL: Target = Target::Refused("the kernel's memory cgroups always are hierarchical");

const fn flag(name: &'static str, value: &'static str, help: &'static str) -> Option<Flag> {
    Some(Flag { name, value, help })
}

/// A structure without an option.
const fn structure(member: &'static str, v2: Target, v1: Target) -> Limit {
    Limit { member, bounds: Bounds::Structure, get: |_| None, v2, v1, property: None, option: None }
}

use Bounds::{Between, List, OrZero, Positive, Size, Switch, Tasks, Time};
use Target::{By, Elsewhere, File};

#[rustfmt::skip]
#[allow(deprecated)] // kernel and kernelTCP: some kernels still have them
pub(crate) const LIMITS: &[Limit] = &[
    Limit { member: "memory.limit", bounds: Size, get: |r| r.memory().as_ref()?.limit().map(Into::into),
            v2: By("memory.max", lower::memory_and_swap), v1: File("memory.limit_in_bytes"), property: Some("MemoryMax"),
            option: flag("memory", "SIZE", "memory.limit, such as 512M; -1 for none") },
    Limit { member: "memory.swap", bounds: Size, get: |r| r.memory().as_ref()?.swap().map(Into::into),
            v2: Elsewhere("memory.swap.max"), v1: By("memory.memsw.limit_in_bytes", lower::swap), property: Some("MemorySwapMax"),
            option: flag("memory-swap", "SIZE", "memory.swap: memory and swap together") },
    Limit { member: "memory.reservation", bounds: Size, get: |r| r.memory().as_ref()?.reservation().map(Into::into),
            v2: File("memory.low"), v1: File("memory.soft_limit_in_bytes"), property: Some("MemoryLow"),
            option: flag("memory-reservation", "SIZE", "memory.reservation") },
    Limit { member: "memory.kernel", bounds: Size, get: |r| r.memory().as_ref()?.kernel().map(Into::into),
            v2: NO_SUCH, v1: File("memory.kmem.limit_in_bytes"), property: None,
            option: flag("kernel-memory", "SIZE", "memory.kernel") },
    Limit { member: "memory.kernelTCP", bounds: Size, get: |r| r.memory().as_ref()?.kernel_tcp().map(Into::into),
            v2: NO_SUCH, v1: File("memory.kmem.tcp.limit_in_bytes"), property: None,
            option: flag("kernel-memory-tcp", "SIZE", "memory.kernelTCP") },
    Limit { member: "memory.swappiness", bounds: Between(0, 100),
            get: |r| r.memory().as_ref()?.swappiness().filter(|n| *n != UNSET).map(Into::into),
            v2: NO_SUCH, v1: File("memory.swappiness"), property: None, option: None },
    // 0 is written to v1 too: a new cgroup has what its parent has.
    Limit { member: "memory.disableOOMKiller", bounds: Switch,
            get: |r| r.memory().as_ref()?.disable_oom_killer().map(Into::into),
            v2: NO_SUCH, v1: File("memory.oom_control"), property: None, option: None },
    // Only false asks for something. v2 always is hierarchical, v1 since Linux 5.11.
    Limit { member: "memory.useHierarchy", bounds: Switch,
            get: |r| r.memory().as_ref()?.use_hierarchy().map(|on| i128::from(!on)),
            v2: NO_SUCH, v1: HIERARCHICAL, property: None, option: None },
    // Before idle: the weight of an idle cgroup cannot be set.
    Limit { member: "cpu.shares", bounds: Positive, get: |r| r.cpu().as_ref()?.shares().map(Into::into),
            v2: By("cpu.weight", lower::shares), v1: By("cpu.shares", lower::shares), property: Some("CPUWeight"),
            option: flag("cpu-share", "N", "cpu.shares") },
    Limit { member: "cpu.idle", bounds: Switch, get: |r| r.cpu().as_ref()?.idle().map(Into::into),
            v2: File("cpu.idle"), v1: File("cpu.idle"), property: None,
            option: flag("cpu-idle", "N", "cpu.idle, 0 or 1") },
    Limit { member: "cpu.period", bounds: Positive, get: |r| r.cpu().as_ref()?.period().map(Into::into),
            v2: Elsewhere("cpu.max"), v1: By("cpu.cfs_period_us", lower::period), property: None,
            option: flag("cpu-period", "MICROSECONDS", "cpu.period") },
    Limit { member: "cpu.quota", bounds: Time, get: |r| r.cpu().as_ref()?.quota().map(Into::into),
            v2: By("cpu.max", lower::quota_and_period), v1: File("cpu.cfs_quota_us"), property: Some("CPUQuotaPerSecUSec"),
            option: flag("cpu-quota", "MICROSECONDS", "cpu.quota in a period; -1 for none") },
    // After the quota, which it must not exceed.
    Limit { member: "cpu.burst", bounds: OrZero, get: |r| r.cpu().as_ref()?.burst().map(Into::into),
            v2: By("cpu.max.burst", lower::burst), v1: By("cpu.cfs_burst_us", lower::burst), property: None,
            option: flag("cpu-burst", "MICROSECONDS", "cpu.burst") },
    // v2 schedules realtime tasks for the whole system only.
    Limit { member: "cpu.realtimePeriod", bounds: Positive, get: |r| r.cpu().as_ref()?.realtime_period().map(Into::into),
            v2: NO_SUCH, v1: File("cpu.rt_period_us"), property: None,
            option: flag("cpu-rt-period", "MICROSECONDS", "cpu.realtimePeriod") },
    Limit { member: "cpu.realtimeRuntime", bounds: Time, get: |r| r.cpu().as_ref()?.realtime_runtime().map(Into::into),
            v2: NO_SUCH, v1: File("cpu.rt_runtime_us"), property: None,
            option: flag("cpu-rt-runtime", "MICROSECONDS", "cpu.realtimeRuntime") },
    Limit { member: "cpu.cpus", bounds: List, get: |_| None,
            v2: By("cpuset.cpus", lower::list), v1: By("cpuset.cpus", lower::list), property: Some("AllowedCPUs"),
            option: flag("cpuset-cpus", "LIST", "cpu.cpus, such as 0-3,7") },
    Limit { member: "cpu.mems", bounds: List, get: |_| None,
            v2: By("cpuset.mems", lower::list), v1: By("cpuset.mems", lower::list), property: Some("AllowedMemoryNodes"),
            option: flag("cpuset-mems", "LIST", "cpu.mems") },
    Limit { member: "pids.limit", bounds: Tasks, get: |r| r.pids().as_ref().map(|pids| pids.limit().into()),
            v2: File("pids.max"), v1: File("pids.max"), property: Some("TasksMax"),
            option: flag("pids-limit", "N", "pids.limit; 0 or -1 for none") },
    Limit { member: "blockIO.weight", bounds: lower::WEIGHT, get: |r| r.block_io().as_ref()?.weight().map(Into::into),
            v2: By("io.weight", lower::weight), v1: By("blkio.weight", lower::weight), property: Some("IOWeight"),
            option: flag("blkio-weight", "N", "blockIO.weight, 10 to 1000") },
    Limit { member: "blockIO.leafWeight", bounds: lower::WEIGHT, get: |r| r.block_io().as_ref()?.leaf_weight().map(Into::into),
            v2: NO_SUCH, v1: File("blkio.leaf_weight"), property: None, option: None },
    structure("blockIO.weightDevice", By("io.weight", lower::device_weights), By("blkio.weight_device", lower::device_weights)),
    structure("blockIO.throttleReadBpsDevice", By("io.max", lower::throttle), By("blkio.throttle.read_bps_device", lower::throttle)),
    structure("blockIO.throttleWriteBpsDevice", By("io.max", lower::throttle), By("blkio.throttle.write_bps_device", lower::throttle)),
    structure("blockIO.throttleReadIOPSDevice", By("io.max", lower::throttle), By("blkio.throttle.read_iops_device", lower::throttle)),
    structure("blockIO.throttleWriteIOPSDevice", By("io.max", lower::throttle), By("blkio.throttle.write_iops_device", lower::throttle)),
    structure("hugepageLimits", By("hugetlb.SIZE.max", lower::huge_pages), By("hugetlb.SIZE.limit_in_bytes", lower::huge_pages)),
    structure("rdma", By("rdma.max", lower::rdma), By("rdma.max", lower::rdma)),
    // v2 has no network controllers: nftables and eBPF match on the cgroup itself.
    Limit { member: "network.classID", bounds: Positive, get: |r| r.network().as_ref()?.class_id().map(Into::into),
            v2: NO_SUCH, v1: File("net_cls.classid"), property: None, option: None },
    Limit { member: "network.priorities", bounds: Positive,
            get: |r| r.network().as_ref()?.priorities().as_ref().map(|entries| entries.len() as i128),
            v2: NO_SUCH, v1: By("net_prio.ifpriomap", lower::priorities), property: None, option: None },
    // Last: a key of v2's own overrides what was derived from v1's words.
    structure("unified", By("", lower::unified), By("", lower::unified)),
];

/// Returns all writes to cgroup v2 that the resources ask for, in an order that the kernel accepts.
pub(crate) fn plan(resources: &LinuxResources, notes: &mut Notes) -> Vec<Write> {
    plan_for(Version::V2, resources, notes)
}

pub(super) fn plan_for(version: Version, resources: &LinuxResources, notes: &mut Notes) -> Vec<Write> {
    let mut plan = Plan { version, resources, writes: Vec::new(), notes };
    LIMITS.iter().for_each(|limit| plan.add(limit));
    let mut writes = plan.writes;
    if let Some(memory) = resources.memory().as_ref().filter(|m| m.check_before_update() == Some(true)) {
        let file = if version == Version::V2 { "memory.current" } else { "memory.usage_in_bytes" };
        let floor = Floor { file, total: memory.swap().filter(|total| *total > 0) };
        // The kernel accepts a limit below what is in use, and then kills for it.
        let limits = writes.iter_mut().filter(|write| write.place == "linux.resources.memory.limit");
        limits.for_each(|write| write.floor = Some(floor));
    }
    writes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cgroups::lower::weight_of_shares;

    /// Returns the writes as `file=value`, with a `?` after those that ask for no limit, and the problems as
    /// `place: message`.
    pub(in crate::cgroups) fn shown(
        json: &str,
        plan: fn(&LinuxResources, &mut Notes) -> Vec<Write>,
    ) -> (Vec<String>, Vec<String>) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let mut notes = Notes::default();
        let show = |w: &Write| {
            let instead = match &w.absent {
                Absent::Instead { file, value } => format!(" or {file}={value}"),
                Absent::NoLimit => "?".into(),
                Absent::NoSwap | Absent::Fails => String::new(),
            };
            format!("{}={}{instead}", w.file, w.value)
        };
        let writes = plan(&resources, &mut notes).iter().map(show).collect();
        (writes, notes.problems.0.iter().map(|p| format!("{}: {}", p.place, p.message)).collect())
    }

    fn planned(json: &str) -> (Vec<String>, Vec<String>) {
        shown(json, plan)
    }

    #[test]
    fn resources_become_writes() {
        for (json, expected) in [
            ("{}", &[][..]),
            // What engines send for no limit.
            (
                r#"{"memory":{"disableOOMKiller":false,"limit":0,"swappiness":18446744073709551615},
                    "cpu":{"shares":0,"quota":0,"cpus":""},"blockIO":{"weight":0},"network":{},
                    "hugepageLimits":[],"unified":{},"rdma":{}}"#,
                &[],
            ),
            (r#"{"memory":{},"cpu":{},"blockIO":{}}"#, &[]),
            (
                r#"{"memory":{"limit":1048576,"reservation":4096}}"#,
                &["memory.max=1048576", "memory.low=4096"],
            ),
            (r#"{"memory":{"limit":-1}}"#, &["memory.swap.max=max?", "memory.max=max?"]),
            (r#"{"memory":{"limit":100,"swap":150}}"#, &["memory.swap.max=50", "memory.max=100"]),
            (r#"{"memory":{"limit":100,"swap":100}}"#, &["memory.swap.max=0", "memory.max=100"]),
            (r#"{"memory":{"limit":100,"swap":-1}}"#, &["memory.swap.max=max?", "memory.max=100"]),
            (r#"{"memory":{"limit":-1,"swap":100}}"#, &["memory.swap.max=100", "memory.max=max?"]),
            (r#"{"memory":{"reservation":-1}}"#, &["memory.low=max?"]),
            (r#"{"cpu":{"shares":1024}}"#, &["cpu.weight=100"]),
            (r#"{"cpu":{"shares":512,"idle":1}}"#, &["cpu.weight=59", "cpu.idle=1"]),
            (r#"{"cpu":{"idle":0}}"#, &["cpu.idle=0?"]),
            (r#"{"cpu":{"quota":50000}}"#, &["cpu.max=50000 100000"]),
            (
                r#"{"cpu":{"quota":50000,"period":20000,"burst":1000}}"#,
                &["cpu.max=50000 20000", "cpu.max.burst=1000"],
            ),
            (r#"{"cpu":{"quota":-1}}"#, &["cpu.max=max 100000?"]),
            (r#"{"cpu":{"period":50000,"burst":0}}"#, &["cpu.max=max 50000?", "cpu.max.burst=0?"]),
            (r#"{"cpu":{"cpus":"0-1,3","mems":"0"}}"#, &["cpuset.cpus=0-1,3", "cpuset.mems=0"]),
            (r#"{"cpu":{"realtimeRuntime":0,"realtimePeriod":0}}"#, &[]),
            (r#"{"pids":{"limit":64}}"#, &["pids.max=64"]),
            (r#"{"pids":{"limit":0}}"#, &["pids.max=max?"]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max?"]),
            (r#"{"blockIO":{"weight":10}}"#, &["io.bfq.weight=10 or io.weight=1"]),
            (r#"{"blockIO":{"weight":500}}"#, &["io.bfq.weight=500 or io.weight=4950"]),
            (r#"{"blockIO":{"weight":1000}}"#, &["io.bfq.weight=1000 or io.weight=10000"]),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":16,"weight":100}]}}"#,
                &["io.bfq.weight=8:16 100 or io.weight=8:16 910"],
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                    "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}],
                    "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":300}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":301}]}}"#,
                &[
                    "io.max=8:0 rbps=600",
                    "io.max=8:0 wbps=max?",
                    "io.max=8:0 riops=300",
                    "io.max=8:1 wiops=301",
                ],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
                &["hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"],
            ),
            (
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"mlx4_0":{"hcaObjects":1}}}"#,
                &["rdma.max=mlx4_0 hca_object=1", "rdma.max=mlx5_1 hca_handle=3 hca_object=10"],
            ),
            (
                r#"{"memory":{"limit":5},"unified":{"io.max":"8:0 rbps=1\n8:16 wiops=2\n","cgroup.max.depth":"3"}}"#,
                &["memory.max=5", "cgroup.max.depth=3", "io.max=8:0 rbps=1", "io.max=8:16 wiops=2"],
            ),
        ] {
            assert_eq!(planned(json), (expected.iter().map(ToString::to_string).collect(), vec![]), "{json}");
        }
    }

    #[test]
    fn what_v2_cannot_do_is_refused_by_name() {
        for (json, place, word) in [
            (r#"{"memory":{"swappiness":60}}"#, "memory.swappiness", "no such control"),
            (r#"{"memory":{"disableOOMKiller":true}}"#, "memory.disableOOMKiller", "no such control"),
            (r#"{"memory":{"kernel":4096}}"#, "memory.kernel", "no such control"),
            (r#"{"memory":{"kernelTCP":4096}}"#, "memory.kernelTCP", "no such control"),
            (r#"{"memory":{"useHierarchy":false}}"#, "memory.useHierarchy", "no such control"),
            (r#"{"memory":{"limit":-2}}"#, "memory.limit", "neither"),
            (r#"{"memory":{"swap":100}}"#, "memory.swap", "needs memory.limit"),
            (r#"{"memory":{"limit":100,"swap":99}}"#, "memory.swap", "below"),
            (r#"{"memory":{"limit":100,"swap":-9}}"#, "memory.swap", "neither"),
            (r#"{"cpu":{"realtimeRuntime":950000}}"#, "cpu.realtimeRuntime", "no such control"),
            (r#"{"cpu":{"realtimePeriod":1000000}}"#, "cpu.realtimePeriod", "no such control"),
            (r#"{"cpu":{"idle":2}}"#, "cpu.idle", "neither"),
            (r#"{"cpu":{"quota":-5}}"#, "cpu.quota", "neither"),
            (r#"{"cpu":{"quota":1000,"burst":1001}}"#, "cpu.burst", "above"),
            (r#"{"cpu":{"cpus":"0\n1"}}"#, "cpu.cpus", "not a list"),
            (r#"{"pids":{"limit":-2}}"#, "pids.limit", "neither"),
            (r#"{"blockIO":{"weight":9}}"#, "blockIO.weight", "between"),
            (r#"{"blockIO":{"leafWeight":9}}"#, "blockIO.leafWeight", "no such control"),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":-8,"minor":0,"rate":1}]}}"#,
                "blockIO.throttleReadBpsDevice[0]",
                "not a device",
            ),
            (r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#, "hugepageLimits[0].pageSize", "size"),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-3}]}"#, "hugepageLimits[0].limit", "neither"),
            (r#"{"network":{"classID":1}}"#, "network.classID", "no such control"),
            (r#"{"network":{"priorities":[{"name":"lo","priority":1}]}}"#, "network.priorities", "control"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0}]}}"#,
                "blockIO.weightDevice[0]",
                "neither weight nor",
            ),
            (r#"{"rdma":{"a b":{"hcaHandles":1}}}"#, "rdma[\"a b\"]", "name of a device"),
            (r#"{"rdma":{"mlx5_1":{}}}"#, "rdma[\"mlx5_1\"]", "neither hcaHandles nor"),
            (
                r#"{"unified":{"../memory.max":"1"}}"#,
                "unified[\"../memory.max\"]",
                "the form CONTROLLER.VALUE",
            ),
            (r#"{"unified":{"memory":"1"}}"#, "unified[\"memory\"]", "the form CONTROLLER.VALUE"),
            (r#"{"unified":{"memory.max":""}}"#, "unified[\"memory.max\"]", "no value"),
            (r#"{"unified":{"cgroup.kill":"1"}}"#, "unified[\"cgroup.kill\"]", "not a resource"),
        ] {
            let (_, problems) = planned(json);
            assert_eq!(problems.len(), 1, "{json}: {problems:?}");
            assert!(problems[0].starts_with(&format!("linux.resources.{place}: ")), "{json}: {problems:?}");
            assert!(problems[0].contains(word), "{json}: {problems:?}");
        }
    }

    #[test]
    fn shares_follow_the_curve() {
        let rows =
            [(1, 1), (2, 1), (3, 2), (100, 17), (512, 59), (1024, 100), (2048, 174), (262_143, 10_000)];
        for (shares, weight) in rows {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert_eq!(weight_of_shares(u64::MAX.into()), 10_000);
    }

    #[test]
    fn shares_that_the_kernel_does_not_have_become_the_nearest_with_a_warning() {
        for (asked, [used, weight]) in
            [(1u64, [2, 1]), (262_145, [262_144, 10_000]), (u64::MAX, [262_144, 10_000])]
        {
            let json = format!(r#"{{"cpu":{{"shares":{asked}}}}}"#);
            let resources: LinuxResources = serde_json::from_str(&json).unwrap();
            for (version, value) in [(Version::V1, used), (Version::V2, weight)] {
                let mut notes = Notes::default();
                let writes = plan_for(version, &resources, &mut notes);
                assert_eq!(writes[0].value, Value::Number(value));
                let warning =
                    format!("linux.resources.cpu.shares: {asked} is not between 2 and 262144, using {used}");
                assert_eq!((notes.warnings, notes.problems.0), (vec![warning], vec![]));
            }
        }
    }

    #[test]
    fn writes_name_their_controller() {
        for (file, controller) in
            [("memory.max", Some("memory")), ("io.bfq.weight", Some("io")), ("cgroup.max.depth", None)]
        {
            assert_eq!(Write::new(file, "1", "x").controller(), controller);
        }
    }

    #[test]
    fn a_checked_limit_has_a_floor() {
        let resources: LinuxResources =
            serde_json::from_str(r#"{"memory":{"limit":5,"checkBeforeUpdate":true}}"#).unwrap();
        let writes = plan(&resources, &mut Notes::default());
        assert_eq!(writes[0].floor, Some(Floor { file: "memory.current", total: None }));
    }
}
