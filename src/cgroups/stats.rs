//! The statistics of a cgroup in the form of runc's `events`, which go-runc reads: numbers without a sign,
//! times in nanoseconds, and zeros where a controller is missing. [`v1::stats`] has those of v1's
//! controllers. On a hybrid host the document has figures of both.

use serde_json::{Map, Value, json};

use super::parse::{flat, list, number, of};
use super::v1;
use super::v1::stats::throttling;
use crate::error::Result;

/// Returns the statistics. `read` returns the text of a file, or `None` if there is no such file. `sizes` are
/// the kernel's sizes of huge pages, such as `2MB`.
pub(crate) fn stats(read: impl Fn(&str) -> Result<Option<String>>, sizes: &[String]) -> Result<Value> {
    let text = |file: &str| read(file).map(Option::unwrap_or_default);
    let pressure = |file: &str| text(file).map(|text| pressure(&text));
    let (total, limit) = (number(&text("pids.current")?), limit(&text("pids.max")?));
    let mut hugetlb = Map::new();
    for size in sizes {
        if let Some(entry) = huge_pages(&read, size)? {
            hugetlb.insert(size.clone(), entry);
        }
    }
    let mut memory = v1::stats::memory(&read)?.map_or_else(|| memory(&text), Ok)?;
    memory["psi"] = pressure("memory.pressure")?;
    let mut cpu = v1::stats::cpu(&read)?.map_or_else(|| cpu(&text), Ok)?;
    cpu["psi"] = pressure("cpu.pressure")?;
    let mut blkio = v1::stats::blkio(&read)?.map_or_else(|| text("io.stat").map(|stat| blkio(&stat)), Ok)?;
    blkio["psi"] = pressure("io.pressure")?;
    let cpuset = v1::stats::cpuset(&read)?.map_or_else(|| cpuset(&text), Ok)?;
    Ok(json!({
        "cpu": cpu,
        "cpuset": cpuset,
        "memory": memory,
        // As in runc, 0 means that there is no limit.
        "pids": {"current": total, "limit": if limit == u64::MAX { 0 } else { limit }},
        "blkio": blkio,
        "hugetlb": hugetlb,
        "intel_rdt": {},
    }))
}

/// Returns the statistics of huge pages of one size: as in runc of reserved ones, which fail first at a limit, and of all on
/// kernels that do not count those.
fn huge_pages(read: &impl Fn(&str) -> Result<Option<String>>, size: &str) -> Result<Option<Value>> {
    let all = format!("hugetlb.{size}");
    for prefix in [format!("{all}.rsvd"), all.clone()] {
        if let Some(figures) = v1::stats::hugetlb(read, &prefix)? {
            return Ok(Some(figures));
        }
        if let Some(current) = read(&format!("{prefix}.current"))? {
            // They include refused reservations.
            let events = read(&format!("{all}.events"))?.unwrap_or_default();
            let failed = of(&flat(&events), "max");
            return Ok(Some(json!({"usage": number(&current), "max": 0, "failcnt": failed})));
        }
    }
    Ok(None)
}

/// Parses a number or `max`.
fn limit(text: &str) -> u64 {
    match text.trim() {
        "" => 0,
        text => text.parse().unwrap_or(u64::MAX),
    }
}

fn cpu(text: &impl Fn(&str) -> Result<String>) -> Result<Value> {
    let stat = text("cpu.stat")?;
    let stat = flat(&stat);
    let nanoseconds = |name: &str| of(&stat, name).saturating_mul(1000);
    Ok(json!({
        "usage": {
            "total": nanoseconds("usage_usec"),
            "percpu": [],
            "kernel": nanoseconds("system_usec"),
            "user": nanoseconds("user_usec"),
        },
        "throttling": throttling(&stat),
    }))
}

fn cpuset(text: &impl Fn(&str) -> Result<String>) -> Result<Value> {
    let members = |file: &str| text(file).map(|text| list(&text));
    Ok(json!({"cpus": members("cpuset.cpus.effective")?, "mems": members("cpuset.mems.effective")?}))
}

fn memory(text: &impl Fn(&str) -> Result<String>) -> Result<Value> {
    let stat = text("memory.stat")?;
    let stat = flat(&stat);
    let events = text("memory.events")?;
    let (usage, most) = (number(&text("memory.current")?), number(&text("memory.peak")?));
    let (max, swap_max) = (limit(&text("memory.max")?), limit(&text("memory.swap.max")?));
    let swap = number(&text("memory.swap.current")?);
    let only = |usage: u64| json!({"limit": 0, "usage": usage, "max": 0, "failcnt": 0});
    Ok(json!({
        "cache": of(&stat, "file"),
        "usage": {"limit": max, "usage": usage, "max": most, "failcnt": of(&flat(&events), "max")},
        // cgroup v1 counts memory and swap together, and readers of this document still expect that.
        "swap": {
            "limit": max.saturating_add(swap_max),
            "usage": usage.saturating_add(swap),
            "max": 0,
            "failcnt": 0,
        },
        "kernel": only(of(&stat, "kernel")),
        "kernelTCP": only(of(&stat, "sock")),
        "raw": stat,
    }))
}

/// Parses lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn blkio(stat: &str) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, op) = match name {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            let (major, minor) = (number(major), number(minor));
            list.push(json!({"major": major, "minor": minor, "op": op, "value": number(value)}));
        }
    }
    let mut out = json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations});
    for name in ["ioQueueRecursive", "ioServiceTimeRecursive", "ioWaitTimeRecursive", "ioMergedRecursive"] {
        out[name] = json!([]);
    }
    for name in ["ioTimeRecursive", "sectorsRecursive"] {
        out[name] = json!([]);
    }
    out
}

/// Parses `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and a line for `full`. Returns null if the kernel
/// keeps no pressure.
fn pressure(text: &str) -> Value {
    let mut out = Value::Null;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(kind) = words.next() else { continue };
        for (name, value) in words.filter_map(|word| word.split_once('=')) {
            out[kind][name] = match name {
                "total" => json!(number(value)),
                _ => json!(value.parse::<f64>().unwrap_or(0.0)),
            };
        }
    }
    out
}

/// Returns the network interfaces in the text of `/proc/PID/net/dev`, with runc's names for their figures.
#[must_use]
pub(crate) fn interfaces(text: &str) -> Value {
    /// The columns of that file. It has eight for received packets, then eight for sent ones.
    const FIGURES: [(usize, &str); 8] = [
        (0, "RxBytes"),
        (1, "RxPackets"),
        (2, "RxErrors"),
        (3, "RxDropped"),
        (8, "TxBytes"),
        (9, "TxPackets"),
        (10, "TxErrors"),
        (11, "TxDropped"),
    ];
    let line = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().map(number).collect();
        let mut entry = json!({"Name": name.trim()});
        for (column, name) in FIGURES {
            entry[name] = json!(figures.get(column)?);
        }
        Some(entry)
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cgroups) fn of_files(files: &[(&str, &str)]) -> Value {
        let read = |name: &str| Ok(files.iter().find(|(file, _)| *file == name).map(|(_, t)| t.to_string()));
        stats(read, &["2MB".into(), "1GB".into()]).unwrap()
    }

    /// Reports whether every number fits Go's uint64 or, for averages, float64.
    pub(in crate::cgroups) fn unsigned(value: &Value) -> bool {
        match value {
            Value::Number(n) => n.as_u64().is_some() || n.as_f64().is_some_and(|f| f >= 0.0),
            Value::Array(items) => items.iter().all(unsigned),
            Value::Object(members) => members.values().all(unsigned),
            _ => true,
        }
    }

    #[test]
    fn files_become_figures() {
        let value = of_files(&[
            (
                "cpu.stat",
                "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\nnr_periods 4\nnr_throttled 2\nthrottled_usec 7\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.peak", "8192\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "4096\n"),
            ("memory.swap.max", "4096\n"),
            ("memory.stat", "anon 1\nfile 2\nkernel 3\nsock 4\n"),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("hugetlb.2MB.events", "max 5\n"),
            ("hugetlb.1GB.rsvd.current", "1073741824\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.events", "max 6\n"),
            ("cpuset.cpus.effective", "0-1,3\n"),
            ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\n"),
        ]);
        for (pointer, expected) in [
            ("/cpu/usage/total", json!(1_500_000)),
            ("/cpu/usage/kernel", json!(500_000)),
            ("/cpu/throttling/throttledTime", json!(7000)),
            ("/cpu/psi/some/avg10", json!(1.5)),
            ("/cpu/psi/some/total", json!(12)),
            ("/memory/cache", json!(2)),
            ("/memory/usage", json!({"limit": u64::MAX, "usage": 4096, "max": 8192, "failcnt": 9})),
            ("/memory/swap/usage", json!(8192)),
            ("/memory/swap/limit", json!(u64::MAX)),
            ("/memory/raw/anon", json!(1)),
            ("/memory/psi", Value::Null),
            ("/pids", json!({"current": 3, "limit": 0})),
            ("/blkio/ioServicedRecursive/1", json!({"major": 8, "minor": 0, "op": "Write", "value": 4})),
            (
                "/hugetlb",
                json!({
                    "2MB": {"usage": 2_097_152, "max": 0, "failcnt": 5},
                    "1GB": {"usage": 1_u64 << 30, "max": 0, "failcnt": 6},
                }),
            ),
            ("/cpuset/cpus", json!([0, 1, 3])),
        ] {
            assert_eq!(value.pointer(pointer), Some(&expected), "{pointer}");
        }
        assert!(unsigned(&value));
    }

    #[test]
    fn missing_files_count_as_zero() {
        let value = of_files(&[]);
        assert_eq!(value["memory"]["usage"], json!({"limit": 0, "usage": 0, "max": 0, "failcnt": 0}));
        assert_eq!(value["cpu"]["usage"]["percpu"], json!([]));
        assert_eq!(value["hugetlb"], json!({}));
        assert!(unsigned(&value));
    }

    #[test]
    fn interfaces_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes    packets errs|bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        let expected = json!([{
            "Name": "lo", "RxBytes": 1, "RxPackets": 2, "RxErrors": 3, "RxDropped": 4,
            "TxBytes": 9, "TxPackets": 10, "TxErrors": 11, "TxDropped": 12,
        }]);
        assert_eq!(interfaces(text), expected);
        assert_eq!(interfaces(""), json!([]));
    }
}
