//! `linux.resources` → the files of cgroup v2 and what to write there.
//!
//! The runtime-spec's words are those of cgroup v1, so some values are converted, with the formulas of runc
//! that other tools know. A value that means "no limit" (absent, mostly 0, -1) is not an error where its
//! controller is missing. What v2 cannot do is refused by name: runc drops it silently, and its user believes
//! in a limit that is not there.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources,
    LinuxThrottleDevice, LinuxWeightDevice,
};

use super::value::Value;
use crate::error::Problems;

/// One value for one file of a cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub file: String,
    pub value: Value,
    /// The place in config.json that asks for it.
    pub place: String,
    pub absent: Absent,
    /// A file whose number `value` must not fall below: `memory.checkBeforeUpdate`.
    pub floor: Option<&'static str>,
}

/// What it means if the file does not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The limit cannot be set.
    Fails,
    /// Nothing: no limit was asked for.
    NoLimit,
    /// Nothing if the host has no swap, since then no one can swap more than this.
    NoSwap,
    /// The limit is set in another way.
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

    /// Whether this asks for a limit, rather than for none.
    #[must_use]
    pub fn limits(&self) -> bool {
        self.absent != Absent::NoLimit
    }

    /// The controller that owns the file: the word before the first dot; the core's `cgroup.*` have none.
    #[must_use]
    pub fn controller(&self) -> Option<&str> {
        let (name, _) = self.file.split_once('.')?;
        (name != "cgroup").then_some(name)
    }
}

/// All writes that the resources ask for, in an order that the kernel takes.
pub fn plan(resources: &LinuxResources, problems: &mut Problems) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(memory) = resources.memory() {
        plan_memory(memory, &mut writes, problems);
    }
    if let Some(cpu) = resources.cpu() {
        plan_cpu(cpu, &mut writes, problems);
    }
    if let Some(pids) = resources.pids() {
        plan_pids(pids.limit(), &mut writes, problems);
    }
    if let Some(io) = resources.block_io() {
        plan_io(io, &mut writes, problems);
    }
    for (i, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        plan_hugepages(limit, &format!("linux.resources.hugepageLimits[{i}]"), &mut writes, problems);
    }
    plan_rdma(resources, &mut writes, problems);
    if let Some(network) = resources.network() {
        refuse_network(network, problems);
    }
    // Last: a key of v2's own overrides what was derived from v1's words.
    plan_unified(resources, &mut writes, problems);
    writes
}

/// A size for v2: 0 is unset, -1 no limit.
fn size(value: Option<i64>, file: &str, place: &str, problems: &mut Problems) -> Option<Write> {
    match value? {
        0 => None,
        -1 => Some(Write::new(file, "max", place).absent(Absent::NoLimit)),
        n if n < 0 => {
            problems.add(place, format!("{n} is neither a size nor -1"));
            None
        }
        n => Some(Write::new(file, n, place)),
    }
}

fn refuse(asked: bool, place: &str, problems: &mut Problems) {
    if asked {
        problems.add(place, "cgroup v2 has no such control");
    }
}

#[allow(deprecated)] // kernel and kernelTCP: read only to refuse them
fn plan_memory(memory: &LinuxMemory, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = "linux.resources.memory";
    let limit = size(memory.limit(), "memory.max", &format!("{place}.limit"), problems);
    let low = size(memory.reservation(), "memory.low", &format!("{place}.reservation"), problems);
    let swap = plan_swap(memory, &format!("{place}.swap"), problems);
    let floor = memory.check_before_update().unwrap_or(false).then_some("memory.current");
    // The kernel takes memory.max below what is in use and then kills for it.
    let limit = limit.map(|write| Write { floor, ..write });
    writes.extend([swap, limit, low].into_iter().flatten());

    let unlimited = |n: i64| n == 0 || n == -1;
    refuse(memory.kernel().is_some_and(|n| !unlimited(n)), &format!("{place}.kernel"), problems);
    refuse(memory.kernel_tcp().is_some_and(|n| !unlimited(n)), &format!("{place}.kernelTCP"), problems);
    // Docker passes an unset -1 on as a huge unsigned number.
    let swappiness = memory.swappiness().is_some_and(|n| n != u64::MAX);
    refuse(swappiness, &format!("{place}.swappiness"), problems);
    refuse(memory.disable_oom_killer() == Some(true), &format!("{place}.disableOOMKiller"), problems);
    // v2 always is hierarchical.
    refuse(memory.use_hierarchy() == Some(false), &format!("{place}.useHierarchy"), problems);
}

/// v1 limits memory and swap together, v2 swap alone.
fn plan_swap(memory: &LinuxMemory, place: &str, problems: &mut Problems) -> Option<Write> {
    let file = "memory.swap.max";
    let limit = memory.limit().unwrap_or(0);
    match (memory.swap().unwrap_or(0), limit) {
        // On v1 unlimited memory takes the limit off the sum too.
        (0, -1) | (-1, _) => Some(Write::new(file, "max", place).absent(Absent::NoLimit)),
        (0, _) => None,
        (swap, _) if swap < 0 => {
            problems.add(place, format!("{swap} is neither a size nor -1"));
            None
        }
        // Nothing to subtract: it can only mean swap.
        (swap, -1) => Some(Write::new(file, swap, place).absent(Absent::NoSwap)),
        (_, limit) if limit <= 0 => {
            problems.add(place, "is the sum of memory and swap, and needs memory.limit");
            None
        }
        (swap, limit) if swap < limit => {
            problems.add(
                place,
                format!("is the sum of memory and swap, and cannot be below memory.limit, {limit}"),
            );
            None
        }
        (swap, limit) => Some(Write::new(file, swap - limit, place).absent(Absent::NoSwap)),
    }
}

/// v1's shares (2 to 262144, 1024 by default) as v2's weight (1 to 10000, 100 by default), by the curve
/// through these three points that runc and crun use since 2025; the older straight line turned the default
/// into 39.
#[must_use]
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            let l = (shares as f64).log2();
            let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
            10f64.powf(exponent).ceil() as u64
        }
    }
}

fn plan_cpu(cpu: &LinuxCpu, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = |name: &str| format!("linux.resources.cpu.{name}");
    // Before idle: an idle group's weight cannot be set.
    if let Some(shares) = cpu.shares().filter(|&n| n != 0) {
        writes.push(Write::new("cpu.weight", weight_of_shares(shares), place("shares")));
    }
    match cpu.idle() {
        None => {}
        Some(0) => writes.push(Write::new("cpu.idle", 0, place("idle")).absent(Absent::NoLimit)),
        Some(1) => writes.push(Write::new("cpu.idle", 1, place("idle"))),
        Some(n) => problems.add(place("idle"), format!("{n} is neither 0 nor 1")),
    }
    plan_cpu_bandwidth(cpu, writes, problems);
    for (file, name, list) in [("cpuset.cpus", "cpus", cpu.cpus()), ("cpuset.mems", "mems", cpu.mems())] {
        let list = list.as_deref().map_or("", str::trim);
        if list.contains(['\n', '\0']) {
            problems.add(place(name), format!("{list:?} is not a list"));
        } else if !list.is_empty() {
            writes.push(Write::new(file, list, place(name)));
        }
    }
    // v2 schedules realtime tasks for the whole system only.
    let runtime = cpu.realtime_runtime().is_some_and(|n| n != 0 && n != -1);
    refuse(runtime, &place("realtimeRuntime"), problems);
    refuse(cpu.realtime_period().is_some_and(|n| n != 0), &place("realtimePeriod"), problems);
}

fn plan_cpu_bandwidth(cpu: &LinuxCpu, writes: &mut Vec<Write>, problems: &mut Problems) {
    /// The kernel's own, which a write of the quota alone would leave as it is.
    const PERIOD: u64 = 100_000;
    let quota = cpu.quota().unwrap_or(0);
    let period = cpu.period().filter(|&n| n != 0);
    let place = if quota == 0 { "linux.resources.cpu.period" } else { "linux.resources.cpu.quota" };
    let burst = "linux.resources.cpu.burst";
    match quota {
        0 if period.is_none() => {}
        0 | -1 => {
            let value = format!("max {}", period.unwrap_or(PERIOD));
            writes.push(Write::new("cpu.max", value, place).absent(Absent::NoLimit));
        }
        n if n < 0 => problems.add(place, format!("{n} is neither a time nor -1")),
        n => {
            // The kernel says EINVAL for it.
            if cpu.burst().is_some_and(|b| b > n as u64) {
                problems.add(burst, format!("is above cpu.quota, {n}"));
            }
            writes.push(Write::new("cpu.max", format!("{n} {}", period.unwrap_or(PERIOD)), place));
        }
    }
    // After the quota, which it must not exceed.
    match cpu.burst() {
        None => {}
        Some(0) => writes.push(Write::new("cpu.max.burst", 0, burst).absent(Absent::NoLimit)),
        Some(n) => writes.push(Write::new("cpu.max.burst", n, burst)),
    }
}

pub(super) fn plan_pids(limit: i64, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = "linux.resources.pids.limit";
    match limit {
        -1 => writes.push(Write::new("pids.max", "max", place).absent(Absent::NoLimit)),
        // The container's first process is born inside and must fit. To every other one it is the same: the
        // kernel refuses the fork that would exceed the limit.
        0 => writes.push(Write::new("pids.max", 1, place)),
        n if n < 0 => problems.add(place, format!("{n} is neither a number of tasks nor -1")),
        n => writes.push(Write::new("pids.max", n, place)),
    }
}

/// v1's weight (10 to 1000) as io.weight (1 to 10000); BFQ's own has v1's range.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight) - 10) * 9999 / 990
}

/// A weight that is asked for and can be.
pub(super) fn checked_weight(weight: Option<u16>, place: &str, problems: &mut Problems) -> Option<u16> {
    match weight {
        None | Some(0) => None,
        Some(n @ 10..=1000) => Some(n),
        Some(n) => {
            problems.add(place, format!("{n} is not between 10 and 1000"));
            None
        }
    }
}

/// An entry of `weightDevice` has one weight at least (config-linux.md#block-io).
pub(super) fn some_weight(entry: &LinuxWeightDevice, place: &str, problems: &mut Problems) {
    if entry.weight().is_none() && entry.leaf_weight().is_none() {
        problems.add(place, "has neither weight nor leafWeight");
    }
}

/// A device number as the io files write it.
pub(super) fn device(major: i64, minor: i64, place: &str, problems: &mut Problems) -> Option<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Some(format!("{major}:{minor}")),
        _ => {
            problems.add(place, format!("{major}:{minor} is not a device"));
            None
        }
    }
}

fn plan_io(io: &LinuxBlockIo, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = "linux.resources.blockIO";
    let bfq = "io.bfq.weight";
    let weight_place = format!("{place}.weight");
    if let Some(weight) = checked_weight(io.weight(), &weight_place, problems) {
        // The file exists where the BFQ scheduler is built in or loaded, and then it is the one that counts.
        let instead = Absent::Instead { file: "io.weight", value: io_weight(weight).into() };
        writes.push(Write::new(bfq, weight, weight_place).absent(instead));
    }
    let leaf = |weight: Option<u16>| weight.is_some_and(|n| n != 0);
    refuse(leaf(io.leaf_weight()), &format!("{place}.leafWeight"), problems);
    for (i, entry) in io.weight_device().iter().flatten().enumerate() {
        let place = format!("{place}.weightDevice[{i}]");
        some_weight(entry, &place, problems);
        refuse(leaf(entry.leaf_weight()), &format!("{place}.leafWeight"), problems);
        let device = device(entry.major(), entry.minor(), &place, problems);
        let place = format!("{place}.weight");
        let weight = checked_weight(entry.weight(), &place, problems);
        if let (Some(device), Some(weight)) = (device, weight) {
            let value = format!("{device} {}", io_weight(weight)).into();
            let instead = Absent::Instead { file: "io.weight", value };
            writes.push(Write::new(bfq, format!("{device} {weight}"), place).absent(instead));
        }
    }
    for (name, word, entries) in [
        ("throttleReadBpsDevice", "rbps", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "wbps", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "riops", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "wiops", io.throttle_write_iops_device()),
    ] {
        for (i, entry) in entries.iter().flatten().enumerate() {
            writes.extend(plan_throttle(entry, word, &format!("{place}.{name}[{i}]"), problems));
        }
    }
}

fn plan_throttle(
    entry: &LinuxThrottleDevice,
    word: &str,
    place: &str,
    problems: &mut Problems,
) -> Option<Write> {
    let device = device(entry.major(), entry.minor(), place, problems)?;
    Some(match entry.rate() {
        // On v1 a rate of 0 takes the limit away; on v2 the kernel refuses 0.
        0 => Write::new("io.max", format!("{device} {word}=max"), place).absent(Absent::NoLimit),
        rate => Write::new("io.max", format!("{device} {word}={rate}"), place),
    })
}

/// The size of a huge page, which becomes part of a file's name.
pub(super) fn page_size<'a>(size: &'a str, place: &str, problems: &mut Problems) -> Option<&'a str> {
    let plain = size.ends_with('B') && size.bytes().all(|b| b.is_ascii_alphanumeric());
    if !plain {
        problems.add(format!("{place}.pageSize"), format!("{size:?} is not a size such as 2MB"));
    }
    plain.then_some(size)
}

fn plan_hugepages(limit: &LinuxHugepageLimit, place: &str, writes: &mut Vec<Write>, problems: &mut Problems) {
    let Some(size) = page_size(limit.page_size(), place, problems) else { return };
    let place = format!("{place}.limit");
    // Pages that are reserved but not touched yet count only in rsvd; with just the other limit a container
    // finds out by SIGBUS.
    for file in [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")] {
        match limit.limit() {
            -1 => writes.push(Write::new(file, "max", &place).absent(Absent::NoLimit)),
            n if n < 0 => {
                problems.add(&place, format!("{n} is neither a size nor -1"));
                return;
            }
            n => writes.push(Write::new(file, n, &place)),
        }
    }
}

pub(super) fn plan_rdma(resources: &LinuxResources, writes: &mut Vec<Write>, problems: &mut Problems) {
    let mut entries: Vec<_> = resources.rdma().iter().flatten().collect();
    entries.sort_by_key(|(name, _)| *name);
    for (name, limits) in entries {
        let place = format!("linux.resources.rdma[{name:?}]");
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '\0') {
            problems.add(place, "is not the name of a device");
            continue;
        }
        let words = [("hca_handle", limits.hca_handles()), ("hca_object", limits.hca_objects())];
        let words: Vec<_> = words.iter().filter_map(|(k, v)| v.map(|v| format!("{k}={v}"))).collect();
        if words.is_empty() {
            problems.add(place, "has neither hcaHandles nor hcaObjects");
            continue;
        }
        writes.push(Write::new("rdma.max", format!("{name} {}", words.join(" ")), place));
    }
}

/// v2 has no network controllers; nftables and eBPF match on the cgroup itself.
fn refuse_network(network: &LinuxNetwork, problems: &mut Problems) {
    let place = "linux.resources.network";
    refuse(network.class_id().is_some_and(|n| n != 0), &format!("{place}.classID"), problems);
    let priorities = network.priorities().as_ref().is_some_and(|p| !p.is_empty());
    refuse(priorities, &format!("{place}.priorities"), problems);
}

fn plan_unified(resources: &LinuxResources, writes: &mut Vec<Write>, problems: &mut Problems) {
    /// Files that act instead of limiting: they would kill, freeze or move the container while it is made.
    const VERBS: [&str; 5] =
        ["cgroup.freeze", "cgroup.kill", "cgroup.procs", "cgroup.threads", "cgroup.type"];
    let mut entries: Vec<_> = resources.unified().iter().flatten().collect();
    entries.sort();
    for (key, value) in entries {
        let place = format!("linux.resources.unified[{key:?}]");
        if key.contains(['/', '\0']) || key.starts_with('.') || !key.contains('.') {
            problems.add(place, "is not the name of a cgroup file");
        } else if VERBS.contains(&key.as_str()) {
            problems.add(place, "is not a resource");
        } else if value.trim().is_empty() {
            // An empty write to memory.max is a limit of 0.
            problems.add(place, "has no value");
        } else {
            // A file such as io.max takes one entry a write.
            let lines = value.lines().map(str::trim).filter(|line| !line.is_empty());
            writes.extend(lines.map(|line| Write::new(key, line, &place)));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the writes as `file=value`, with a `?` after those that ask for no limit, and the problems as `place: message`.
    pub(in crate::cgroups) fn shown(
        json: &str,
        plan: fn(&LinuxResources, &mut Problems) -> Vec<Write>,
    ) -> (Vec<String>, Vec<String>) {
        let resources: LinuxResources = serde_json::from_str(json).unwrap();
        let mut problems = Problems::default();
        let show = |w: &Write| {
            let instead = match &w.absent {
                Absent::Instead { file, value } => format!(" or {file}={value}"),
                Absent::NoLimit => "?".into(),
                Absent::NoSwap | Absent::Fails => String::new(),
            };
            format!("{}={}{instead}", w.file, w.value)
        };
        let writes = plan(&resources, &mut problems).iter().map(show).collect();
        (writes, problems.0.iter().map(|p| format!("{}: {}", p.place, p.message)).collect())
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
            (r#"{"pids":{"limit":0}}"#, &["pids.max=1"]),
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
            (r#"{"unified":{"../memory.max":"1"}}"#, "unified[\"../memory.max\"]", "name of a cgroup file"),
            (r#"{"unified":{"memory":"1"}}"#, "unified[\"memory\"]", "name of a cgroup file"),
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
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
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
        let writes = plan(&resources, &mut Problems::default());
        assert_eq!(writes[0].floor, Some("memory.current"));
    }
}
