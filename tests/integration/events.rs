//! `events`: the records that go-runc decodes.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{isolated, poll};

pub fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Fails if a number is negative, because Go decodes all of them as uint64.
pub fn unsigned(value: &Value) -> bool {
    match value {
        Value::Number(n) => !n.is_i64() || n.as_i64() >= Some(0),
        Value::Array(items) => items.iter().all(unsigned),
        Value::Object(members) => members.values().all(unsigned),
        _ => true,
    }
}

/// `--stats` prints one record with every member that readers require, with any set of controllers.
#[test]
fn stats_prints_one_record_with_every_member() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let all = records(&t.corten(&["events", "--stats", "c1"]).ok());
        assert_eq!(all.len(), 1);
        let record = &all[0];
        assert_eq!((&record["type"], &record["id"]), (&json!("stats"), &json!("c1")));
        for pointer in [
            "/cpu/usage/total",
            "/cpu/usage/kernel",
            "/cpu/usage/user",
            "/cpu/throttling/periods",
            "/memory/usage/limit",
            "/memory/swap/failcnt",
            "/memory/kernel/usage",
            "/memory/kernelTCP/max",
            "/pids/current",
            "/pids/limit",
        ] {
            assert!(record["data"].pointer(pointer).is_some_and(Value::is_u64), "{pointer}: {record}");
        }
        assert!(record["data"]["blkio"]["ioServiceBytesRecursive"].is_array());
        assert!(record["data"]["hugetlb"].is_object());
        // Every v2 cgroup has cpu.stat, and the container's process has used some time.
        assert!(record["data"]["cpu"]["usage"]["total"].as_u64() > Some(0), "{record}");
        assert_eq!(record["data"]["network_interfaces"][0]["Name"], "lo");
        assert!(unsigned(record));
        if fs::exists("/sys/fs/cgroup/cpu.pressure").unwrap() {
            assert!(record["data"]["cpu"]["psi"]["some"]["total"].is_u64(), "{record}");
        }
        t.delete("c1");
    });
}

/// Without `--stats` a record is printed at every interval, until the container stops.
#[test]
fn events_prints_records_until_the_container_stops() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let mut command = t.command(&["events", "--interval=50ms", "c1"]);
        let running = t.spawn(command.stdin(Stdio::null()));
        let lines = || fs::read_to_string(&running.stdout).unwrap_or_default().lines().count();
        assert!(poll(Duration::from_secs(10), || lines() >= 3));
        t.corten(&["kill", "c1", "KILL"]).ok();
        let out = running.wait().ok();
        assert!(records(&out).iter().all(|r| r["type"] == "stats"), "{out}");
        t.corten(&["events", "--stats", "c1"]).fails("not running");
        t.corten(&["events", "c9"]).fails("does not exist");
        for bad in ["0s", "-1s", "5", "x", "5s3"] {
            t.corten(&["events", "--interval", bad, "c1"]).fails("--interval");
        }
        t.delete("c1");
    });
}

/// Every OOM kill is reported, also that of the container's first process.
#[test]
fn an_oom_kill_is_reported() {
    isolated(|t| {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
        if !controllers.split_whitespace().any(|name| name == "memory") {
            crate::harness::skip("no memory controller on cgroup v2");
        }
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/sh", "-c", "sleep 1; tail /dev/zero"]);
            c["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        });
        t.start(&bundle, "c1");
        let out = t.corten(&["events", "--interval", "20s", "c1"]).ok();
        assert_eq!(records(&out), [json!({"type": "oom", "id": "c1"})]);
        t.delete("c1");
    });
}
