//! What is special about limits in cgroup v1. The table in `cgroups/resources.rs` has its files.

use oci_spec::runtime::LinuxResources;

use crate::cgroups::lower::Version;
use crate::cgroups::resources::{Write, plan_for};
use crate::cgroups::value::Value;
use crate::error::{Kind, Notes, Result, fail};

/// Returns all writes that the resources ask for, in an order that the kernel accepts for a cgroup without
/// limits.
pub(in crate::cgroups) fn plan(resources: &LinuxResources, notes: &mut Notes) -> Vec<Write> {
    plan_for(Version::V1, resources, notes)
}

/// Whether the kernel may take a limit in this file and forget it, as newer ones do that for kernel memory.
pub(in crate::cgroups) fn forgettable(file: &str) -> bool {
    file.starts_with("memory.kmem.")
}

/// Fails if the kernel has not kept a limit. `now` is the text of the file after the write.
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
