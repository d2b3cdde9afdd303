//! `linux.resources` → the files of cgroup v1, whose words they are. As for v2: a value that means "no limit"
//! is no error where its controller is missing, and what cannot be set is refused by name.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNetwork, LinuxResources,
    LinuxThrottleDevice,
};

use crate::cgroups::Value;
use crate::cgroups::resources::{
    Absent, Write, checked_weight, device, page_size, plan_pids, plan_rdma, some_weight,
};
use crate::error::{Kind, Problems, Result, fail};

/// All writes that the resources ask for, in an order that the kernel takes for a cgroup without limits.
pub(in crate::cgroups) fn plan(resources: &LinuxResources, problems: &mut Problems) -> Vec<Write> {
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
        plan_network(network, &mut writes, problems);
    }
    let mut keys: Vec<_> = resources.unified().iter().flatten().map(|(key, _)| key).collect();
    keys.sort();
    for key in keys {
        let place = format!("linux.resources.unified[{key:?}]");
        problems.add(place, "is for cgroup v2, and this host has v1 for it");
    }
    writes
}

/// Whether the kernel may take a limit in this file and forget it, as newer ones do that for kernel memory.
pub(in crate::cgroups) fn forgettable(file: &str) -> bool {
    file.starts_with("memory.kmem.")
}

/// Refuses a limit that is forgotten: the file says `now` what it is.
pub(in crate::cgroups) fn check_kept(now: &str, write: &Write) -> Result<()> {
    let now: u64 = now.trim().parse().unwrap_or(u64::MAX);
    match write.value {
        Value::Number(asked @ 0..) if i128::from(now) > asked => {
            let place = &write.place;
            Err(fail(Kind::Unsupported, format!("{place}: this kernel does not limit it any more")))
        }
        _ => Ok(()),
    }
}

/// A size or a time: 0 is unset, -1 no limit.
fn amount(value: Option<i64>, file: &str, place: String, problems: &mut Problems) -> Option<Write> {
    match value? {
        0 => None,
        -1 => Some(Write::new(file, -1, place).absent(Absent::NoLimit)),
        n if n < 0 => {
            problems.add(place, format!("{n} is neither an amount nor -1"));
            None
        }
        n => Some(Write::new(file, n, place)),
    }
}

#[allow(deprecated)] // kernel and kernelTCP: some kernels still have them
fn plan_memory(memory: &LinuxMemory, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = |name: &str| format!("linux.resources.memory.{name}");
    let limit = amount(memory.limit(), "memory.limit_in_bytes", place("limit"), problems);
    let floor = memory.check_before_update().unwrap_or(false).then_some("memory.usage_in_bytes");
    writes.extend(limit.map(|write| Write { floor, ..write }));
    // After the limit, which it must not be below.
    writes.extend(plan_swap(memory, place("swap"), problems));
    for (value, file, name) in [
        (memory.reservation(), "memory.soft_limit_in_bytes", "reservation"),
        (memory.kernel(), "memory.kmem.limit_in_bytes", "kernel"),
        (memory.kernel_tcp(), "memory.kmem.tcp.limit_in_bytes", "kernelTCP"),
    ] {
        writes.extend(amount(value, file, place(name), problems));
    }
    match memory.swappiness() {
        // Docker passes an unset -1 on as a huge unsigned number.
        None | Some(u64::MAX) => {}
        Some(n @ 0..=100) => writes.push(Write::new("memory.swappiness", n, place("swappiness"))),
        Some(n) => problems.add(place("swappiness"), format!("{n} is not between 0 and 100")),
    }
    if let Some(disabled) = memory.disable_oom_killer() {
        // Said also of one that is not disabled: a new cgroup has what the one above it has.
        let write = Write::new("memory.oom_control", u8::from(disabled), place("disableOOMKiller"));
        writes.push(if disabled { write } else { write.absent(Absent::NoLimit) });
    }
    if memory.use_hierarchy() == Some(false) {
        // Since Linux 5.11, with no way back.
        problems.add(place("useHierarchy"), "the kernel's memory cgroups always are hierarchical");
    }
}

/// Memory and swap together.
fn plan_swap(memory: &LinuxMemory, place: String, problems: &mut Problems) -> Option<Write> {
    let file = "memory.memsw.limit_in_bytes";
    let unlimited = |place| Some(Write::new(file, -1, place).absent(Absent::NoLimit));
    match (memory.swap().unwrap_or(0), memory.limit().unwrap_or(0)) {
        // Without a limit of its own it would go on to hold for memory too.
        (0, -1) | (-1, _) => unlimited(place),
        (0, _) => None,
        (swap, _) if swap < 0 => {
            problems.add(place, format!("{swap} is neither a size nor -1"));
            None
        }
        (_, limit) if limit <= 0 => {
            problems.add(place, "is the sum of memory and swap, and needs memory.limit");
            None
        }
        (swap, limit) if swap < limit => {
            let why = "is the sum of memory and swap, and cannot be below memory.limit";
            problems.add(place, format!("{why}, {limit}"));
            None
        }
        (swap, _) => Some(Write::new(file, swap, place).absent(Absent::NoSwap)),
    }
}

fn plan_cpu(cpu: &LinuxCpu, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = |name: &str| format!("linux.resources.cpu.{name}");
    // Before idle: an idle group's shares cannot be set.
    if let Some(shares) = cpu.shares().filter(|&n| n != 0) {
        writes.push(Write::new("cpu.shares", shares, place("shares")));
    }
    match cpu.idle() {
        None => {}
        Some(0) => writes.push(Write::new("cpu.idle", 0, place("idle")).absent(Absent::NoLimit)),
        Some(1) => writes.push(Write::new("cpu.idle", 1, place("idle"))),
        Some(n) => problems.add(place("idle"), format!("{n} is neither 0 nor 1")),
    }
    if let Some(period) = cpu.period().filter(|&n| n != 0) {
        let write = Write::new("cpu.cfs_period_us", period, place("period"));
        // Alone it limits nothing.
        let limits = cpu.quota().is_some_and(|n| n > 0);
        writes.push(if limits { write } else { write.absent(Absent::NoLimit) });
    }
    writes.extend(amount(cpu.quota(), "cpu.cfs_quota_us", place("quota"), problems));
    match (cpu.burst(), cpu.quota()) {
        (None, _) => {}
        (Some(0), _) => {
            writes.push(Write::new("cpu.cfs_burst_us", 0, place("burst")).absent(Absent::NoLimit));
        }
        // The kernel says EINVAL for it.
        (Some(n), Some(quota)) if quota > 0 && n > quota as u64 => {
            problems.add(place("burst"), format!("is above cpu.quota, {quota}"));
        }
        (Some(n), _) => writes.push(Write::new("cpu.cfs_burst_us", n, place("burst"))),
    }
    if let Some(period) = cpu.realtime_period().filter(|&n| n != 0) {
        writes.push(Write::new("cpu.rt_period_us", period, place("realtimePeriod")));
    }
    writes.extend(amount(cpu.realtime_runtime(), "cpu.rt_runtime_us", place("realtimeRuntime"), problems));
    for (file, name, list) in [("cpuset.cpus", "cpus", cpu.cpus()), ("cpuset.mems", "mems", cpu.mems())] {
        let list = list.as_deref().map_or("", str::trim);
        if list.contains(['\n', '\0']) {
            problems.add(place(name), format!("{list:?} is not a list"));
        } else if !list.is_empty() {
            writes.push(Write::new(file, list, place(name)));
        }
    }
}

fn plan_io(io: &LinuxBlockIo, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = "linux.resources.blockIO";
    // BFQ's file exists where that scheduler is built in or loaded; the others were those of CFQ.
    let weight = |bfq: &str, file, value: Value, place| {
        Write::new(bfq, value.clone(), place).absent(Absent::Instead { file, value })
    };
    for (bfq, file, name, value) in [
        (Some("blkio.bfq.weight"), "blkio.weight", "weight", io.weight()),
        (None, "blkio.leaf_weight", "leafWeight", io.leaf_weight()),
    ] {
        let place = format!("{place}.{name}");
        let value = checked_weight(value, &place, problems).map(u64::from);
        writes.extend(value.map(|value| match bfq {
            Some(bfq) => weight(bfq, file, value.into(), place),
            None => Write::new(file, value, place),
        }));
    }
    for (i, entry) in io.weight_device().iter().flatten().enumerate() {
        let place = format!("{place}.weightDevice[{i}]");
        some_weight(entry, &place, problems);
        let Some(device) = device(entry.major(), entry.minor(), &place, problems) else { continue };
        let own = checked_weight(entry.weight(), &format!("{place}.weight"), problems);
        writes.extend(own.map(|n| {
            let value = format!("{device} {n}").into();
            weight("blkio.bfq.weight_device", "blkio.weight_device", value, format!("{place}.weight"))
        }));
        let leaf = checked_weight(entry.leaf_weight(), &format!("{place}.leafWeight"), problems);
        writes.extend(leaf.map(|n| {
            let place = format!("{place}.leafWeight");
            Write::new("blkio.leaf_weight_device", format!("{device} {n}"), place)
        }));
    }
    for (name, file, entries) in [
        ("throttleReadBpsDevice", "read_bps", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", "write_bps", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", "read_iops", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", "write_iops", io.throttle_write_iops_device()),
    ] {
        for (i, entry) in entries.iter().flatten().enumerate() {
            writes.extend(plan_throttle(entry, file, &format!("{place}.{name}[{i}]"), problems));
        }
    }
}

fn plan_throttle(
    entry: &LinuxThrottleDevice,
    what: &str,
    place: &str,
    problems: &mut Problems,
) -> Option<Write> {
    let device = device(entry.major(), entry.minor(), place, problems)?;
    let write =
        Write::new(format!("blkio.throttle.{what}_device"), format!("{device} {}", entry.rate()), place);
    // A rate of 0 takes the limit away.
    Some(if entry.rate() == 0 { write.absent(Absent::NoLimit) } else { write })
}

fn plan_hugepages(limit: &LinuxHugepageLimit, place: &str, writes: &mut Vec<Write>, problems: &mut Problems) {
    let Some(size) = page_size(limit.page_size(), place, problems) else { return };
    let place = format!("{place}.limit");
    for file in [format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.rsvd.limit_in_bytes")] {
        match limit.limit() {
            -1 => writes.push(Write::new(file, -1, &place).absent(Absent::NoLimit)),
            n if n < 0 => {
                problems.add(&place, format!("{n} is neither a size nor -1"));
                return;
            }
            n => writes.push(Write::new(file, n, &place)),
        }
    }
}

fn plan_network(network: &LinuxNetwork, writes: &mut Vec<Write>, problems: &mut Problems) {
    let place = "linux.resources.network";
    if let Some(class) = network.class_id().filter(|&n| n != 0) {
        writes.push(Write::new("net_cls.classid", class, format!("{place}.classID")));
    }
    for (i, entry) in network.priorities().iter().flatten().enumerate() {
        let place = format!("{place}.priorities[{i}]");
        if entry.name().is_empty() || entry.name().contains(char::is_whitespace) {
            problems.add(format!("{place}.name"), format!("{:?} is not an interface's name", entry.name()));
            continue;
        }
        let value = format!("{} {}", entry.name(), entry.priority());
        writes.push(Write::new("net_prio.ifpriomap", value, place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(json: &str) -> (Vec<String>, Vec<String>) {
        crate::cgroups::resources::tests::shown(json, plan)
    }

    #[test]
    fn resources_become_writes() {
        for (json, expected) in [
            ("{}", &[][..]),
            // What engines send for no limit.
            (
                r#"{"memory":{"disableOOMKiller":false,"limit":0,"swappiness":18446744073709551615,"kernel":0},
                    "cpu":{"shares":0,"quota":0,"cpus":"","realtimeRuntime":0,"realtimePeriod":0},
                    "blockIO":{"weight":0,"leafWeight":0},"network":{},"hugepageLimits":[],"unified":{}}"#,
                &["memory.oom_control=0?"],
            ),
            (
                r#"{"memory":{"limit":1048576,"swap":2097152,"reservation":4096,"swappiness":10,
                    "disableOOMKiller":true,"useHierarchy":true,"kernel":-1,"kernelTCP":8192}}"#,
                &[
                    "memory.limit_in_bytes=1048576",
                    "memory.memsw.limit_in_bytes=2097152",
                    "memory.soft_limit_in_bytes=4096",
                    "memory.kmem.limit_in_bytes=-1?",
                    "memory.kmem.tcp.limit_in_bytes=8192",
                    "memory.swappiness=10",
                    "memory.oom_control=1",
                ],
            ),
            (r#"{"memory":{"limit":-1}}"#, &["memory.limit_in_bytes=-1?", "memory.memsw.limit_in_bytes=-1?"]),
            (
                r#"{"memory":{"limit":100,"swap":-1}}"#,
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=-1?"],
            ),
            (
                r#"{"memory":{"limit":100,"swap":100}}"#,
                &["memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=100"],
            ),
            (r#"{"cpu":{"shares":512,"idle":1}}"#, &["cpu.shares=512", "cpu.idle=1"]),
            (
                r#"{"cpu":{"quota":50000,"period":20000,"burst":1000}}"#,
                &["cpu.cfs_period_us=20000", "cpu.cfs_quota_us=50000", "cpu.cfs_burst_us=1000"],
            ),
            (r#"{"cpu":{"period":20000,"burst":0}}"#, &["cpu.cfs_period_us=20000?", "cpu.cfs_burst_us=0?"]),
            (r#"{"cpu":{"quota":-1}}"#, &["cpu.cfs_quota_us=-1?"]),
            (
                r#"{"cpu":{"realtimePeriod":1000000,"realtimeRuntime":950000,"cpus":"0-1,3","mems":"0"}}"#,
                &[
                    "cpu.rt_period_us=1000000",
                    "cpu.rt_runtime_us=950000",
                    "cpuset.cpus=0-1,3",
                    "cpuset.mems=0",
                ],
            ),
        ] {
            assert_eq!(planned(json), (expected.iter().map(ToString::to_string).collect(), vec![]), "{json}");
        }
    }

    #[test]
    fn the_other_controllers_have_writes() {
        for (json, expected) in [
            (r#"{"pids":{"limit":64}}"#, &["pids.max=64"][..]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max?"]),
            (
                r#"{"blockIO":{"weight":10,"leafWeight":20,
                    "weightDevice":[{"major":8,"minor":16,"weight":100,"leafWeight":200}]}}"#,
                &[
                    "blkio.bfq.weight=10 or blkio.weight=10",
                    "blkio.leaf_weight=20",
                    "blkio.bfq.weight_device=8:16 100 or blkio.weight_device=8:16 100",
                    "blkio.leaf_weight_device=8:16 200",
                ],
            ),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],
                    "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}],
                    "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":300}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":1,"rate":301}]}}"#,
                &[
                    "blkio.throttle.read_bps_device=8:0 600",
                    "blkio.throttle.write_bps_device=8:0 0?",
                    "blkio.throttle.read_iops_device=8:0 300",
                    "blkio.throttle.write_iops_device=8:1 301",
                ],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0},{"pageSize":"1GB","limit":-1}]}"#,
                &[
                    "hugetlb.2MB.limit_in_bytes=0",
                    "hugetlb.2MB.rsvd.limit_in_bytes=0",
                    "hugetlb.1GB.limit_in_bytes=-1?",
                    "hugetlb.1GB.rsvd.limit_in_bytes=-1?",
                ],
            ),
            (
                r#"{"network":{"classID":1048577,"priorities":[{"name":"lo","priority":3}]}}"#,
                &["net_cls.classid=1048577", "net_prio.ifpriomap=lo 3"],
            ),
            (r#"{"rdma":{"mlx4_0":{"hcaObjects":1}}}"#, &["rdma.max=mlx4_0 hca_object=1"]),
        ] {
            assert_eq!(planned(json), (expected.iter().map(ToString::to_string).collect(), vec![]), "{json}");
        }
    }

    #[test]
    fn what_v1_cannot_do_is_refused_by_name() {
        for (json, place, word) in [
            (r#"{"memory":{"useHierarchy":false}}"#, "memory.useHierarchy", "hierarchical"),
            (r#"{"memory":{"swappiness":101}}"#, "memory.swappiness", "between"),
            (r#"{"memory":{"limit":-2}}"#, "memory.limit", "neither"),
            (r#"{"memory":{"swap":100}}"#, "memory.swap", "needs memory.limit"),
            (r#"{"memory":{"limit":-1,"swap":100}}"#, "memory.swap", "needs memory.limit"),
            (r#"{"memory":{"limit":100,"swap":99}}"#, "memory.swap", "below"),
            (r#"{"cpu":{"idle":2}}"#, "cpu.idle", "neither"),
            (r#"{"cpu":{"quota":1000,"burst":1001}}"#, "cpu.burst", "above"),
            (r#"{"cpu":{"cpus":"0\n1"}}"#, "cpu.cpus", "not a list"),
            (r#"{"pids":{"limit":-2}}"#, "pids.limit", "neither"),
            (r#"{"blockIO":{"leafWeight":9}}"#, "blockIO.leafWeight", "between"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0}]}}"#,
                "blockIO.weightDevice[0]",
                "neither weight nor",
            ),
            (r#"{"rdma":{"mlx5_1":{}}}"#, "rdma[\"mlx5_1\"]", "neither hcaHandles nor"),
            (r#"{"hugepageLimits":[{"pageSize":"../2MB","limit":1}]}"#, "hugepageLimits[0].pageSize", "size"),
            (r#"{"network":{"priorities":[{"name":"a b","priority":1}]}}"#, "network.priorities[0]", "name"),
            (r#"{"unified":{"memory.max":"1"}}"#, "unified", "v2"),
        ] {
            let (_, problems) = planned(json);
            assert_eq!(problems.len(), 1, "{json}: {problems:?}");
            assert!(problems[0].starts_with(&format!("linux.resources.{place}")), "{json}: {problems:?}");
            assert!(problems[0].contains(word), "{json}: {problems:?}");
        }
    }
}
