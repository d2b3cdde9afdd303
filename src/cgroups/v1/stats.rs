//! The statistics of a cgroup from the files of cgroup v1. A function returns `None` if v1 does not have its
//! controller. Members whose files this kernel lacks are left out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::cgroups::parse::{flat, list, number, of};
use crate::error::Result;

/// A tick of `cpuacct.stat` in nanoseconds: USER_HZ is 100 wherever Linux 5.14 runs.
const TICK: u64 = 10_000_000;

/// The usage comes from cpuacct and the throttling from cpu, which may be in different hierarchies.
pub(in crate::cgroups) fn cpu(read: &impl Fn(&str) -> Result<Option<String>>) -> Result<Option<Value>> {
    let Some(total) = read("cpuacct.usage")? else { return Ok(None) };
    let ticks = read("cpuacct.stat")?.unwrap_or_default();
    let ticks = flat(&ticks);
    let percpu = read("cpuacct.usage_percpu")?.unwrap_or_default();
    let percpu: Vec<u64> = percpu.split_whitespace().map(number).collect();
    let held = read("cpu.stat")?.unwrap_or_default();
    Ok(Some(json!({
        "usage": {
            "total": number(&total),
            "percpu": percpu,
            "kernel": of(&ticks, "system").saturating_mul(TICK),
            "user": of(&ticks, "user").saturating_mul(TICK),
        },
        "throttling": throttling(&flat(&held)),
    })))
}

/// Returns how often and how long the quota has throttled the cgroup, from the cpu.stat of either version.
pub(in crate::cgroups) fn throttling(stat: &BTreeMap<&str, u64>) -> Value {
    let time = of(stat, "throttled_time").max(of(stat, "throttled_usec").saturating_mul(1000));
    json!({
        "periods": of(stat, "nr_periods"),
        "throttledPeriods": of(stat, "nr_throttled"),
        "throttledTime": time,
    })
}

pub(in crate::cgroups) fn cpuset(read: &impl Fn(&str) -> Result<Option<String>>) -> Result<Option<Value>> {
    let Some(cpus) = read("cpuset.effective_cpus")? else { return Ok(None) };
    let mems = read("cpuset.effective_mems")?.unwrap_or_default();
    let mut out = json!({"cpus": list(&cpus), "mems": list(&mems)});
    for name in [
        "cpu_exclusive",
        "mem_exclusive",
        "mem_hardwall",
        "memory_migrate",
        "memory_pressure",
        "memory_spread_page",
        "memory_spread_slab",
        "sched_load_balance",
    ] {
        if let Some(text) = read(&format!("cpuset.{name}"))? {
            out[name] = json!(number(&text));
        }
    }
    Ok(Some(out))
}

pub(in crate::cgroups) fn memory(read: &impl Fn(&str) -> Result<Option<String>>) -> Result<Option<Value>> {
    let Some(usage) = counter(read, "memory")? else { return Ok(None) };
    let stat = read("memory.stat")?.unwrap_or_default();
    let stat = flat(&stat);
    let mut out = json!({"cache": of(&stat, "cache"), "usage": usage, "raw": stat});
    for (name, prefix) in
        [("swap", "memory.memsw"), ("kernel", "memory.kmem"), ("kernelTCP", "memory.kmem.tcp")]
    {
        if let Some(figures) = counter(read, prefix)? {
            out[name] = figures;
        }
    }
    Ok(Some(out))
}

/// Reads the four files that each counter of memory has.
fn counter(read: &impl Fn(&str) -> Result<Option<String>>, prefix: &str) -> Result<Option<Value>> {
    let Some(usage) = read(&format!("{prefix}.usage_in_bytes"))? else { return Ok(None) };
    let mut out = json!({"usage": number(&usage)});
    for (name, file) in [("limit", "limit_in_bytes"), ("max", "max_usage_in_bytes"), ("failcnt", "failcnt")] {
        if let Some(text) = read(&format!("{prefix}.{file}"))? {
            out[name] = json!(number(&text));
        }
    }
    Ok(Some(out))
}

/// Returns the statistics of huge pages of one size, from the files whose names begin with `prefix`.
pub(in crate::cgroups) fn hugetlb(
    read: &impl Fn(&str) -> Result<Option<String>>,
    prefix: &str,
) -> Result<Option<Value>> {
    let mut figures = counter(read, prefix)?;
    if let Some(figures) = figures.as_mut().and_then(Value::as_object_mut) {
        // runc's document has no limit here.
        figures.remove("limit");
    }
    Ok(figures)
}

/// Each list, and the files that may have its lines, the most complete first. The throttle counts every
/// request to a disk that has had a limit. BFQ counts those to the disks that it schedules; for some of its
/// files the kernel must be built for debugging.
const LISTS: [(&str, &[&str]); 8] = [
    (
        "ioServiceBytesRecursive",
        &["blkio.throttle.io_service_bytes_recursive", "blkio.bfq.io_service_bytes_recursive"],
    ),
    ("ioServicedRecursive", &["blkio.throttle.io_serviced_recursive", "blkio.bfq.io_serviced_recursive"]),
    ("ioQueueRecursive", &["blkio.bfq.io_queued_recursive"]),
    ("ioServiceTimeRecursive", &["blkio.bfq.io_service_time_recursive"]),
    ("ioWaitTimeRecursive", &["blkio.bfq.io_wait_time_recursive"]),
    ("ioMergedRecursive", &["blkio.bfq.io_merged_recursive"]),
    ("ioTimeRecursive", &["blkio.bfq.time_recursive"]),
    ("sectorsRecursive", &["blkio.bfq.sectors_recursive"]),
];

pub(in crate::cgroups) fn blkio(read: &impl Fn(&str) -> Result<Option<String>>) -> Result<Option<Value>> {
    let mut out = Map::new();
    for (name, files) in LISTS {
        let texts: Vec<String> =
            files.iter().filter_map(|file| read(file).transpose()).collect::<Result<_>>()?;
        if !texts.is_empty() {
            out.insert(name.into(), entries(&texts));
        }
    }
    Ok((!out.is_empty()).then_some(Value::Object(out)))
}

/// Parses lines such as `8:0 Read 4096` or `8:0 4096`, with a total at the end. A device in one file is
/// skipped in the files after it.
fn entries(texts: &[String]) -> Value {
    let (mut all, mut named) = (Vec::new(), BTreeSet::new());
    for text in texts {
        let mut here = BTreeSet::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (device, op, value) = match words[..] {
                [device, op, value] => (device, op, value),
                [device, value] => (device, "", value),
                _ => continue,
            };
            let Some((major, minor)) = device.split_once(':').filter(|_| !named.contains(device)) else {
                continue;
            };
            here.insert(device);
            let (major, minor) = (number(major), number(minor));
            all.push(json!({"major": major, "minor": minor, "op": op, "value": number(value)}));
        }
        named.extend(here);
    }
    Value::Array(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::stats::tests::{of_files, unsigned};

    #[test]
    fn files_become_figures() {
        let value = of_files(&[
            ("cpuacct.usage", "1500000\n"),
            ("cpuacct.usage_percpu", "1000000 500000 \n"),
            ("cpuacct.stat", "user 3\nsystem 2\n"),
            ("cpu.stat", "nr_periods 4\nnr_throttled 2\nthrottled_time 7\nnr_bursts 0\nburst_time 0\n"),
            ("cpuset.effective_cpus", "0-1\n"),
            ("cpuset.effective_mems", "0\n"),
            ("cpuset.sched_load_balance", "1\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.max_usage_in_bytes", "8192\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.failcnt", "9\n"),
            ("memory.kmem.tcp.usage_in_bytes", "1\n"),
            ("memory.kmem.tcp.max_usage_in_bytes", "2\n"),
            ("memory.kmem.tcp.limit_in_bytes", "3\n"),
            ("memory.kmem.tcp.failcnt", "4\n"),
            ("memory.stat", "cache 5\ntotal_cache 6\nhierarchical_memory_limit 9223372036854771712\n"),
            ("pids.current", "3\n"),
            ("pids.max", "77\n"),
            ("hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.limit_in_bytes", "4194304\n"),
            ("hugetlb.2MB.failcnt", "5\n"),
            ("hugetlb.1GB.rsvd.usage_in_bytes", "1073741824\n"),
            ("hugetlb.1GB.usage_in_bytes", "0\n"),
            ("blkio.throttle.io_serviced_recursive", "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n"),
            ("blkio.bfq.io_serviced_recursive", "8:0 Read 7\n8:16 Read 4\n8:16 Total 4\nTotal 11\n"),
            ("blkio.bfq.time_recursive", "8:0 12\nTotal 12\n"),
            ("blkio.bfq.io_merged_recursive", "Total 0\n"),
        ]);
        let io =
            |minor: u64, op: &str, value: u64| json!({"major": 8, "minor": minor, "op": op, "value": value});
        for (pointer, expected) in [
            (
                "/cpu/usage",
                json!({"total": 1_500_000, "percpu": [1_000_000, 500_000], "kernel": 20_000_000, "user": 30_000_000}),
            ),
            ("/cpu/throttling", json!({"periods": 4, "throttledPeriods": 2, "throttledTime": 7})),
            ("/cpuset", json!({"cpus": [0, 1], "mems": [0], "sched_load_balance": 1})),
            (
                "/memory/usage",
                json!({"limit": 9_223_372_036_854_771_712u64, "usage": 4096, "max": 8192, "failcnt": 9}),
            ),
            ("/memory/cache", json!(5)),
            ("/memory/kernelTCP", json!({"limit": 3, "usage": 1, "max": 2, "failcnt": 4})),
            ("/memory/raw/total_cache", json!(6)),
            ("/pids", json!({"current": 3, "limit": 77})),
            (
                "/hugetlb",
                json!({
                    "2MB": {"usage": 2_097_152, "max": 4_194_304, "failcnt": 5},
                    "1GB": {"usage": 1_u64 << 30},
                }),
            ),
            (
                "/blkio/ioServicedRecursive",
                json!([
                    io(0, "Read", 1),
                    io(0, "Write", 2),
                    io(0, "Total", 3),
                    io(16, "Read", 4),
                    io(16, "Total", 4)
                ]),
            ),
            ("/blkio/ioTimeRecursive", json!([io(0, "", 12)])),
            ("/blkio/ioMergedRecursive", json!([])),
        ] {
            assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
        }
        // They are absent instead of zero.
        for pointer in ["/memory/swap", "/memory/kernel", "/blkio/sectorsRecursive"] {
            assert_eq!(value.pointer(pointer), None, "{pointer}");
        }
        assert!(unsigned(&value));
    }
}
