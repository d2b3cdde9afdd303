//! `events` on cgroup v1, and with v2 beside it: the figures compared with the container's work, and OOM
//! kills.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::events::{records, unsigned};
use crate::harness::{Test, View, isolated_in, poll};

fn container(t: &Test, resources: Value, script: &str) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["linux"]["resources"] = resources;
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    t.start(&bundle, "c1");
}

/// Returns whether v2 has a controller beside v1's.
pub fn offered(controller: &str) -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    controllers.split_whitespace().any(|name| name == controller)
}

/// go-runc's form, with a member for each existing file. Each figure has the size of the work.
#[test]
fn stats_have_the_figures_of_v1() {
    isolated_in(View::V1, |t| figures(t, View::V1));
}

/// The same with v2, which counts huge pages and pressure.
#[test]
fn stats_have_the_figures_of_v1_and_v2() {
    isolated_in(View::Hybrid, |t| figures(t, View::Hybrid));
}

fn figures(t: &Test, view: View) {
    let huge = view == View::Hybrid && offered("hugetlb");
    let mut resources = json!({
        "memory": {"limit": 64 << 20, "swap": 128 << 20, "kernelTCP": 16 << 20},
        "cpu": {"quota": 10_000, "period": 50_000},
        "pids": {"limit": 33},
    });
    if huge {
        resources["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 4 << 20}]);
    }
    // The program is busy in user and kernel mode and held back by the quota. tail keeps its input.
    let script = "while :; do :; done & while :; do head -c 4096 /dev/zero >/dev/null; done & \
                  { head -c 20000000 /dev/zero; sleep 1000; } | tail -n 1 & wait";
    container(t, resources, script);
    let stats = || records(&t.corten(&["events", "--stats", "c1"]).ok()).remove(0);
    let number = |record: &Value, pointer: &str| {
        let value = record["data"].pointer(pointer).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("{pointer}: {record}"))
    };
    let busy = |record: &Value| {
        number(record, "/cpu/throttling/throttledPeriods") > 1
            && number(record, "/cpu/usage/user") > 0
            && number(record, "/cpu/usage/kernel") > 0
            && number(record, "/memory/usage/usage") > 20_000_000
            // The kernel adds pages to each of these figures at another time.
            && number(record, "/memory/swap/usage") > 20_000_000
            && number(record, "/memory/raw/total_rss") > 15_000_000
    };
    let mut record = Value::Null;
    assert!(poll(Duration::from_secs(20), || {
        record = stats();
        busy(&record)
    }));
    let percpu = record["data"]["cpu"]["usage"]["percpu"].as_array().unwrap();
    let total = number(&record, "/cpu/usage/total");
    // The second file is read a moment after the first.
    let sum: u64 = percpu.iter().map(|n| n.as_u64().unwrap()).sum();
    assert!(sum >= total && sum - total < 1_000_000_000, "{record}");
    let split = number(&record, "/cpu/usage/user") + number(&record, "/cpu/usage/kernel");
    assert!(split <= total + 1_000_000_000, "{record}");
    assert!(number(&record, "/cpu/throttling/throttledTime") > 10_000_000, "{record}");
    for (pointer, expected) in [
        ("/memory/usage/limit", 64 << 20),
        ("/memory/swap/limit", 128 << 20),
        ("/memory/kernelTCP/limit", 16 << 20),
        ("/memory/raw/hierarchical_memory_limit", 64 << 20),
        ("/pids/limit", 33),
    ] {
        assert_eq!(number(&record, pointer), expected, "{pointer}: {record}");
    }
    assert!(number(&record, "/memory/usage/max") >= number(&record, "/memory/usage/usage"), "{record}");
    assert!(number(&record, "/pids/current") >= 4, "{record}");
    assert!(!record["data"]["cpuset"]["cpus"].as_array().unwrap().is_empty(), "{record}");
    assert!(record["data"]["blkio"]["ioServiceBytesRecursive"].is_array(), "{record}");
    // This kernel has no file for these members.
    assert!(record["data"]["blkio"].get("ioWaitTimeRecursive").is_none(), "{record}");
    assert!(unsigned(&record), "{record}");
    let beside = record["data"]["cpu"]["psi"]["some"]["total"].is_u64();
    assert_eq!(beside, view == View::Hybrid && fs::exists("/sys/fs/cgroup/unified/cpu.pressure").unwrap());
    if huge {
        assert_eq!(record["data"]["hugetlb"]["2MB"]["usage"], 0, "{record}");
    }
    t.delete("c1");
}

/// Requests to a disk are counted by device, once the disk has a limit.
#[test]
fn disk_requests_are_counted_by_device() {
    isolated_in(View::V1, |t| {
        let file = t.dir.join("disk");
        fs::write(&file, vec![7u8; 4 << 20]).unwrap();
        let disk = whole_disk(&file);
        let Some((major, minor)) = disk else { crate::harness::skip("the tests' files are on no disk") };
        let limit = json!([{"major": major, "minor": minor, "rate": 1 << 30}]);
        let bundle = t.bundle(|c| {
            c["linux"]["resources"] = json!({"blockIO": {"throttleReadBpsDevice": limit}});
            let source = file.to_str().unwrap();
            c["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": "/disk", "source": source, "type": "bind", "options": ["bind"]}));
        });
        fs::write(bundle.rootfs().join("disk"), "").unwrap();
        t.start(&bundle, "c1");
        let count = || {
            let record = records(&t.corten(&["events", "--stats", "c1"]).ok()).remove(0);
            let list = record["data"]["blkio"]["ioServiceBytesRecursive"].as_array().unwrap().clone();
            let read = list.iter().find(|e| e["op"] == "Read" && e["major"] == major && e["minor"] == minor);
            read.map_or(0, |entry| entry["value"].as_u64().unwrap())
        };
        fs::File::open(&file).unwrap().sync_all().unwrap();
        t.exec("c1", "dd if=/disk of=/dev/null bs=1M iflag=direct 2>/dev/null").ok();
        let read = count();
        assert!(read >= 4 << 20, "{read}");
        t.delete("c1");
    });
}

/// Returns the disk of a file. A partition's requests count for its disk.
pub fn whole_disk(file: &std::path::Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(file).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let at = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let at = if at.join("partition").exists() { at.parent()?.into() } else { at };
    let text = fs::read_to_string(at.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// An OOM kill is reported at once, once for each kill, and the container lives on.
#[test]
fn each_oom_kill_is_reported() {
    isolated_in(View::V1, |t| {
        let resources = json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}});
        // This process asks for no memory, because it would be killed too while the killed processes are not
        // gone yet.
        container(t, resources, "exec sleep 1000");
        let mut command = t.command(&["events", "--interval", "60s", "c1"]);
        let running = t.spawn(command.stdin(Stdio::null()));
        let output = || fs::read_to_string(&running.stdout).unwrap_or_default();
        // Kills before events watches are not reported.
        std::thread::sleep(Duration::from_millis(300) * crate::harness::patience());
        for kills in 1..=2 {
            t.exec("c1", "tail -n 1 /dev/zero").exits(137);
            assert!(
                poll(Duration::from_secs(5), || output().lines().count() == kills),
                "{kills}: {}",
                output()
            );
        }
        let control = fs::read_to_string("/sys/fs/cgroup/memory/c1/memory.oom_control").unwrap();
        assert!(control.contains("oom_kill 2"), "{control}");
        t.corten(&["kill", "c1", "KILL"]).ok();
        let oom = json!({"type": "oom", "id": "c1"});
        assert_eq!(records(&running.wait().ok()), [oom.clone(), oom]);
        t.delete("c1");
    });
}

/// An OOM kill of the container's own process is reported too.
#[test]
fn the_oom_kill_of_the_first_process_is_reported() {
    isolated_in(View::Hybrid, |t| {
        let resources = json!({"memory": {"limit": 24 << 20, "swap": 24 << 20}});
        container(t, resources, "sleep 1; exec tail -n 1 /dev/zero");
        let out = t.corten(&["events", "--interval", "60s", "c1"]).ok();
        assert_eq!(records(&out), [json!({"type": "oom", "id": "c1"})]);
        t.until("c1", "stopped");
        t.delete("c1");
    });
}

/// With the OOM killer disabled no process dies and all wait. That is reported too.
#[test]
fn a_lack_of_memory_without_a_kill_is_reported() {
    isolated_in(View::V1, |t| {
        let resources = json!({"memory": {"limit": 24 << 20, "swap": 24 << 20, "disableOOMKiller": true}});
        // The shell itself touches its memory. For a system call the kernel would return ENOMEM.
        container(t, resources, "sleep 1; x=0123456789; while :; do x=$x$x; done");
        let mut command = t.command(&["events", "--interval", "60s", "c1"]);
        let running = t.spawn(command.stdin(Stdio::null()));
        let output = || fs::read_to_string(&running.stdout).unwrap_or_default();
        assert!(poll(Duration::from_secs(10), || output().lines().count() == 1), "{}", output());
        let control = fs::read_to_string("/sys/fs/cgroup/memory/c1/memory.oom_control").unwrap();
        assert!(control.contains("under_oom 1") && control.contains("oom_kill 0"), "{control}");
        t.delete("c1");
        // A process that is killed while it waits can run out of memory once more while it exits.
        let all = records(&running.wait().ok());
        assert!(all.iter().all(|record| *record == json!({"type": "oom", "id": "c1"})), "{all:?}");
    });
}

/// A record comes at each interval until the end of the container, and none after it.
#[test]
fn records_come_at_the_interval_until_the_end() {
    isolated_in(View::V1, |t| {
        container(t, json!({}), "while :; do sleep 0.1; done");
        let mut command = t.command(&["events", "--interval=50ms", "c1"]);
        let running = t.spawn(command.stdin(Stdio::null()));
        let lines = || fs::read_to_string(&running.stdout).unwrap_or_default().lines().count();
        assert!(poll(Duration::from_secs(10), || lines() >= 3));
        t.delete("c1");
        let all = records(&running.wait().ok());
        assert!(all.iter().all(|record| record["type"] == "stats" && unsigned(record)), "{all:?}");
    });
}
