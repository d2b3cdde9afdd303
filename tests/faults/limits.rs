//! Limits of two sizes for the container `/f`, and their values in the kernel and in the runtime.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::Test;

fn v1() -> bool {
    Path::new("/sys/fs/cgroup/memory").exists()
}

/// Returns several limits at once on v1, and on v2 those that this machine has.
fn resources(first: bool) -> Value {
    let pick = |one: i64, other: i64| if first { one } else { other };
    let device = if first { "c 1:3 r" } else { "c 1:5 rw" };
    let words: Vec<&str> = device.split([' ', ':']).collect();
    let (major, minor): (i64, i64) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    let mut all = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "b", "major": 7, "minor": pick(1, 2), "access": "r"},
        {"allow": true, "type": words[0], "major": major, "minor": minor, "access": words[3]},
    ]});
    if v1() {
        all["memory"] = json!({
            "limit": pick(64 << 20, 32 << 20),
            "swap": pick(128 << 20, 48 << 20),
            "reservation": pick(16 << 20, 8 << 20),
        });
        all["cpu"] = json!({
            "shares": pick(512, 256),
            "quota": pick(50_000, 40_000),
            "period": pick(100_000, 50_000),
        });
        all["pids"] = json!({"limit": pick(40, 30)});
    }
    if fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|all| all.contains("hugetlb")) {
        all["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": pick(4 << 20, 2 << 20)}]);
    }
    all
}

/// Sets the limits that the container begins with.
pub fn first(config: &mut Value, _: &str) {
    config["linux"]["resources"] = resources(true);
}

/// Returns the limits of `update`.
pub fn other() -> Value {
    resources(false)
}

const FILES: [&str; 8] = [
    "memory/f/memory.limit_in_bytes",
    "memory/f/memory.memsw.limit_in_bytes",
    "memory/f/memory.soft_limit_in_bytes",
    "cpu/f/cpu.shares",
    "cpu/f/cpu.cfs_quota_us",
    "cpu/f/cpu.cfs_period_us",
    "pids/f/pids.max",
    "f/hugetlb.2MB.max",
];

/// Returns the container's limits in the kernel, and in the kept configuration.
pub fn snapshot(test: &Test) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup").join(file)).ok();
    let files = FILES.iter().filter_map(|file| Some(format!("{file} {}", read(file)?.trim())));
    // The order of the kernel's list does not matter.
    let list = read("devices/f/devices.list").unwrap_or_default();
    let mut devices: Vec<String> = list.lines().map(String::from).collect();
    devices.sort_unstable();
    let state: Value =
        serde_json::from_str(&test.corten(&["state", "--applied", "--format", "json", "f"]).stdout)
            .unwrap_or_default();
    let rows = state["applied"].as_array().into_iter().flatten();
    let limits = rows.filter(|row| row["place"].as_str().is_some_and(|place| place.contains(".resources.")));
    files.chain(devices).chain(limits.map(|row| format!("{} {}", row["file"], row["applied"]))).collect()
}
