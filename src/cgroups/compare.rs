//! A write, compared with what its file contains now.
//!
//! The kernel's text has other forms than what was written: sizes are rounded down to pages, lists of
//! processors are sorted, a file has one line for each device where a write is for one of them, and a quota
//! comes with a period.

use super::resources::Write;
use super::value::{Value, is_weight, number, unset_figure};

/// A write, and what its file contains now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compared {
    pub write: Write,
    /// The part of the file that the write replaces, in a form that can be written again. `None` if the file
    /// does not exist or cannot be read.
    pub present: Option<Value>,
}

impl Compared {
    /// Returns whether the file contains already what the write asks for.
    #[must_use]
    pub(crate) fn same(&self) -> bool {
        let Write { file, value, .. } = &self.write;
        self.present.as_ref().is_some_and(|present| same(file, value, present, page_size()))
    }
}

fn page_size() -> i128 {
    use nix::unistd::{SysconfVar, sysconf};
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, Into::into)
}

/// Returns the part of a file's text that a write of `written` replaces.
#[must_use]
pub(crate) fn present(file: &str, written: &Value, text: &str) -> Value {
    let line = |key: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        line.unwrap_or_default().split_whitespace().skip(1)
    };
    let text = match written.parsed(file) {
        Value::Line { key, mut figures } => {
            for (name, figure) in &mut figures {
                let mut words = line(&key);
                let found = match name.as_str() {
                    "" => words.next().or(unset_figure(file)),
                    name => words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).or(Some("max")),
                };
                *figure = found.unwrap_or_default().into();
            }
            return Value::Line { key, figures };
        }
        // "default 100", or the number alone.
        _ if is_weight(file) => line("default").next().or_else(|| text.lines().next()).unwrap_or_default(),
        _ if file == "memory.oom_control" => line("oom_kill_disable").next().unwrap_or_default(),
        _ => text,
    };
    Value::Text(text.trim().into())
}

/// Returns the number of bytes that the kernel rounds a file's size to, or 1 if the file has no size.
fn unit(file: &str, page: i128) -> i128 {
    /// How the names of files with a size end. The likes of memory.swappiness are small numbers.
    const SIZES: [&str; 5] = ["_in_bytes", ".max", ".high", ".low", ".min"];
    match file.strip_prefix("hugetlb.").and_then(|rest| rest.split('.').next()) {
        Some(size) => number(size.trim_end_matches('B')).unwrap_or(1),
        None if file.starts_with("memory.") && SIZES.iter().any(|end| file.ends_with(end)) => page,
        None => 1,
    }
}

fn same(file: &str, written: &Value, present: &Value, page: i128) -> bool {
    let largest = |unit: i128| i128::from(i64::MAX) / unit * unit;
    let unit = unit(file, page);
    match (written.parsed(file), present.parsed(file)) {
        (wanted, found) if wanted == found => true,
        // A quota alone leaves the period as it is.
        (Value::Quota { quota: wanted, period: None }, Value::Quota { quota: found, .. }) => wanted == found,
        // No limit in cgroup v1, and the number that the kernel shows for it.
        (Value::Number(-1), Value::Number(found)) => unit > 1 && found >= largest(unit),
        // The kernel keeps shares within these bounds (MIN_SHARES and MAX_SHARES in kernel/sched/sched.h).
        (Value::Number(wanted), Value::Number(found)) if file == "cpu.shares" => {
            wanted.clamp(2, 1 << 18) == found
        }
        (Value::Number(wanted @ 0..), Value::Number(found @ 0..)) => wanted / unit == found / unit,
        // More memory than can be counted is no limit.
        (Value::Number(wanted), Value::Max) => unit > 1 && wanted >= largest(page),
        (Value::Text(wanted), Value::Text(found)) => wanted.split_whitespace().eq(found.split_whitespace()),
        _ => false,
    }
}

/// Returns whether the limit `after` is above the limit `before`.
pub(super) fn rises(file: &str, before: &Value, after: &Value) -> bool {
    let limit = |value: &Value| match value.parsed(file) {
        Value::Number(n @ 0..) => n,
        Value::Quota { quota: Some(n), .. } => n.into(),
        _ => i128::MAX,
    };
    limit(after) > limit(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_compared_with_its_part_of_the_file() {
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
            let present = present(file, &written.into(), text);
            assert_eq!(present.to_string(), expected, "{file} {written}");
        }
    }

    #[test]
    fn the_kernels_form_of_a_value_is_the_same_value() {
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
            ("memory.kmem.limit_in_bytes", "0", "-1", false),
            ("blkio.throttle.read_bps_device", "8:0 0", "8:0 0", true),
            ("blkio.throttle.read_bps_device", "8:0 5", "8:0 0", false),
        ] {
            let same = same(file, &written.into(), &found.into(), 4096);
            assert_eq!(same, expected, "{file} {written} {found}");
        }
    }

    #[test]
    fn no_limit_is_above_every_limit() {
        for (file, before, after, expected) in [
            ("memory.max", "1", "2", true),
            ("memory.max", "2", "1", false),
            ("memory.max", "2", "max", true),
            ("memory.max", "max", "2", false),
            ("cpu.max", "max 100000", "50000 100000", false),
            ("memory.max", "1M", "1048577", true),
            ("cpu.cfs_quota_us", "5", "-1", true),
            ("cpu.cfs_quota_us", "-1", "5", false),
        ] {
            assert_eq!(rises(file, &before.into(), &after.into()), expected, "{before} {after}");
        }
    }
}
