//! What a cgroup's file says, beside what was or will be written to it.
//!
//! The kernel does not repeat what it was told: it rounds sizes down to pages, sorts lists of processors, shows
//! one line for each device where a write names one, and adds a period to a quota.

use std::collections::BTreeSet;

/// The sizes that the kernel rounds to.
#[derive(Clone, Copy, Debug)]
pub struct Units {
    /// The machine's page, in bytes.
    pub page: u64,
}

impl Units {
    #[must_use]
    pub fn probe() -> Self {
        use nix::unistd::{SysconfVar, sysconf};
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        Self { page: page.and_then(|n| u64::try_from(n).ok()).unwrap_or(4096) }
    }

    /// What a size in this file is a multiple of.
    fn of(self, file: &str) -> u64 {
        match file.strip_prefix("hugetlb.").and_then(|rest| rest.split('.').next()) {
            Some(size) => number(size.trim_end_matches('B')).unwrap_or(1),
            // But not memory.swappiness and the like, which are small numbers.
            None if file.starts_with("memory.") && SIZES.iter().any(|end| file.ends_with(end)) => self.page,
            None => 1,
        }
    }
}

/// How the names of files with a size end.
const SIZES: [&str; 5] = ["_in_bytes", ".max", ".high", ".low", ".min"];

/// A number as the kernel reads it, with a suffix such as `M`.
pub(super) fn number(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Whether a file holds one line for each device or interface: `8:0 rbps=600` in io.max, `8:16 200` in io.weight,
/// `lo 3` in net_prio.ifpriomap.
fn by_key(file: &str, written: &str) -> bool {
    let mut words = written.split_whitespace();
    let (first, second) = (words.next(), words.next());
    let device = first.is_some_and(|word| word.contains(':') || file == PRIORITIES);
    second.is_some_and(|word| word.contains('=')) || (device && unnamed(file).is_some())
}

const PRIORITIES: &str = "net_prio.ifpriomap";

/// Where a line is a device and its figure alone: what is written for a device to have no line.
fn unnamed(file: &str) -> Option<&'static str> {
    match file {
        "io.weight" | "io.bfq.weight" | "blkio.bfq.weight_device" => Some("default"),
        "blkio.weight_device" | "blkio.leaf_weight_device" | PRIORITIES => Some("0"),
        _ => file.starts_with("blkio.throttle.").then_some("0"),
    }
}

fn is_weight(file: &str) -> bool {
    matches!(file, "io.weight" | "io.bfq.weight")
}

/// What of a file a write sets: a device and the names of its figures, where there are several.
#[must_use]
pub fn part(file: &str, written: &str) -> String {
    if !by_key(file, written) {
        return String::new();
    }
    let mut words = written.split_whitespace();
    let key = words.next().unwrap_or_default().to_string();
    words.filter_map(|word| word.split_once('=')).fold(key, |all, (name, _)| all + " " + name)
}

/// The part of a file's text that a write of `written` replaces, in the form in which it can be written again.
#[must_use]
pub fn present(file: &str, written: &str, text: &str) -> String {
    let mut words = written.split_whitespace();
    let key = words.next().unwrap_or_default();
    let line = |key: &str| text.lines().find(|line| line.split_whitespace().next() == Some(key));
    if is_weight(file) && !by_key(file, written) {
        // "default 100", or the number alone.
        let line = line("default").or_else(|| text.lines().next()).unwrap_or_default();
        return line.trim_start_matches("default").trim().to_string();
    }
    if file == "memory.oom_control" {
        let (_, disabled) =
            line("oom_kill_disable").and_then(|line| line.split_once(' ')).unwrap_or_default();
        return disabled.to_string();
    }
    if !by_key(file, written) {
        return text.trim().to_string();
    }
    let found = line(key).unwrap_or_default();
    if let Some(unnamed) = unnamed(file) {
        return format!("{key} {}", found.split_whitespace().nth(1).unwrap_or(unnamed));
    }
    let value = |name: &str| {
        let mut pairs = found.split_whitespace().filter_map(|word| word.split_once('='));
        pairs.find(|(other, _)| *other == name).map_or("max", |(_, value)| value)
    };
    words.filter_map(|word| word.split_once('=')).fold(key.to_string(), |line, (name, _)| {
        let value = value(name);
        format!("{line} {name}={value}")
    })
}

/// Whether a file that says `present` has nothing left to be told by a write of `written`.
#[must_use]
pub fn same(file: &str, written: &str, present: &str, units: Units) -> bool {
    if written.split_whitespace().eq(present.split_whitespace()) {
        return true;
    }
    if file.starts_with("cpuset.") {
        return list(written).is_some_and(|wanted| list(present) == Some(wanted));
    }
    if file == "cpu.max" && !written.trim().contains(' ') {
        // A quota alone leaves the period as it is.
        return present.split_whitespace().next() == Some(written.trim());
    }
    if is_weight(file) {
        return written.trim_start_matches("default").trim() == present;
    }
    let unit = units.of(file);
    // v1's word for no limit, and the number that it reads as.
    if written.trim() == "-1" && unit > 1 {
        return number(present).is_some_and(|found| found >= i64::MAX as u64 / unit * unit);
    }
    let Some(wanted) = number(written.trim()) else { return false };
    // The kernel's bounds, whatever is asked for.
    let wanted = if file == "cpu.shares" { wanted.clamp(2, 1 << 18) } else { wanted };
    match number(present) {
        Some(found) => wanted / unit == found / unit,
        // What is above all that can be counted is no limit.
        None => present == "max" && unit > 1 && wanted >= i64::MAX as u64 / units.page * units.page,
    }
}

/// The members of `0-3,7`.
pub(super) fn list(text: &str) -> Option<BTreeSet<u32>> {
    let mut members = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > 1 << 20 {
            return None;
        }
        members.extend(first..=last);
    }
    Some(members)
}

/// Whether the first number of `after` is above that of `before`; `max` is above all.
#[must_use]
pub fn rises(before: &str, after: &str) -> bool {
    let first = |text: &str| match text.split_whitespace().next() {
        Some(word) if word != "max" => number(word).unwrap_or(u64::MAX),
        _ => u64::MAX,
    };
    first(after) > first(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNITS: Units = Units { page: 4096 };

    #[test]
    fn a_write_has_its_part_of_the_file() {
        let io = "8:0 rbps=600 wbps=max riops=max wiops=9\n8:16 rbps=1 wbps=2 riops=3 wiops=4\n";
        for (file, written, text, expected) in [
            ("memory.max", "5", "max\n", "max"),
            ("cpu.max", "5 6", "max 100000\n", "max 100000"),
            ("io.max", "8:0 rbps=1 wiops=2", io, "8:0 rbps=600 wiops=9"),
            ("io.max", "8:16 wbps=max", io, "8:16 wbps=2"),
            ("io.max", "8:32 rbps=1", io, "8:32 rbps=max"),
            ("io.weight", "200", "default 100\n8:16 300\n", "100"),
            ("io.weight", "default 200", "default 100\n8:16 300\n", "100"),
            ("io.weight", "8:16 200", "default 100\n8:16 300\n", "8:16 300"),
            ("io.weight", "8:0 200", "default 100\n8:16 300\n", "8:0 default"),
            ("io.bfq.weight", "200", "100\n", "100"),
            (
                "rdma.max",
                "mlx4_0 hca_object=7",
                "mlx4_0 hca_handle=2 hca_object=max\n",
                "mlx4_0 hca_object=max",
            ),
            ("cpuset.cpus", "1", "\n", ""),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:0 600\n8:16 7\n", "8:0 600"),
            ("blkio.throttle.read_bps_device", "8:1 5", "8:0 600\n8:16 7\n", "8:1 0"),
            ("blkio.throttle.write_iops_device", "8:1 5", "", "8:1 0"),
            ("blkio.bfq.weight", "200", "100\n", "100"),
            ("blkio.bfq.weight_device", "8:16 200", "default 100\n8:16 300\n", "8:16 300"),
            ("blkio.bfq.weight_device", "8:0 200", "default 100\n8:16 300\n", "8:0 default"),
            ("net_prio.ifpriomap", "eth0 5", "lo 0\neth0 3\n", "eth0 3"),
            ("net_prio.ifpriomap", "eth1 5", "lo 0\neth0 3\n", "eth1 0"),
            ("net_cls.classid", "1048577", "0\n", "0"),
            ("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 7\n", "0"),
            ("memory.limit_in_bytes", "5", "9223372036854771712\n", "9223372036854771712"),
        ] {
            assert_eq!(present(file, written, text), expected, "{file} {written}");
        }
    }

    #[test]
    fn the_kernels_forms_are_known() {
        for (file, written, found, expected) in [
            ("memory.max", "max", "max", true),
            ("memory.max", "4097", "4096", true),
            ("memory.max", "4M", "4194304", true),
            ("memory.max", "8192", "4096", false),
            ("memory.max", "8192", "max", false),
            ("memory.max", "9223372036854775807", "max", true),
            ("memory.max", "max", "4096", false),
            ("hugetlb.2MB.max", "2097153", "2097152", true),
            ("hugetlb.2MB.max", "4194304", "2097152", false),
            ("pids.max", "9223372036854775807", "max", false),
            ("pids.max", "64", "64", true),
            ("cpu.max", "max", "max 100000", true),
            ("cpu.max", "5000", "5000 20000", true),
            ("cpu.max", "5000 100000", "5000 20000", false),
            ("cpuset.cpus", "3,0-1", "0-1,3", true),
            ("cpuset.cpus", "0", "0-1", false),
            ("cpuset.cpus", "0", "", false),
            ("io.max", "8:0 rbps=5", "8:0 rbps=5", true),
            ("io.max", "8:0 rbps=5", "8:0 rbps=max", false),
            ("io.weight", "default 100", "100", true),
            ("cpu.weight", "100", "59", false),
            ("memory.limit_in_bytes", "-1", "9223372036854771712", true),
            ("memory.memsw.limit_in_bytes", "-1", "4096", false),
            ("memory.limit_in_bytes", "9223372036854775807", "9223372036854771712", true),
            ("memory.kmem.limit_in_bytes", "1048576", "9223372036854771712", false),
            ("hugetlb.2MB.limit_in_bytes", "-1", "9223372036852678656", true),
            ("hugetlb.2MB.limit_in_bytes", "2097153", "2097152", true),
            ("cpu.cfs_quota_us", "-1", "-1", true),
            ("cpu.rt_runtime_us", "-1", "950000", false),
            ("cpu.shares", "1", "2", true),
            ("cpu.shares", "1000000", "262144", true),
            ("cpu.shares", "512", "1024", false),
            ("memory.oom_control", "1", "1", true),
            ("memory.oom_control", "1", "0", false),
            ("memory.swappiness", "10", "20", false),
            ("memory.oom.group", "1", "0", false),
            ("blkio.throttle.read_bps_device", "8:0 0", "8:0 0", true),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:0 0", false),
        ] {
            assert_eq!(same(file, written, found, UNITS), expected, "{file} {written} {found}");
        }
    }

    #[test]
    fn limits_rise_and_fall() {
        for (before, after, expected) in [
            ("1", "2", true),
            ("2", "1", false),
            ("2", "max", true),
            ("max", "2", false),
            ("max 100000", "50000 100000", false),
            ("1M", "1048577", true),
            ("5", "-1", true),
            ("-1", "5", false),
        ] {
            assert_eq!(rises(before, after), expected, "{before} {after}");
        }
    }
}
