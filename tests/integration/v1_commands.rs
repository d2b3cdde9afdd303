//! `update`, `state --applied` and `exec --cgroup` on cgroup v1, and the limits that engines send.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Output, Test, View, isolated_in, skip};
use crate::v1_events::{offered, whole_disk};

fn file(controller: &str, name: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller).join(name)
}

fn says(controller: &str, name: &str) -> String {
    let file = file(controller, name);
    fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim().into()
}

fn start(t: &Test, path: &str, resources: &Value) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!(path);
        c["linux"]["resources"] = resources.clone();
    });
    t.start(&bundle, "c1");
}

fn update(t: &Test, document: &Value) -> Output {
    let path = t.dir.join("resources");
    fs::write(&path, document.to_string()).unwrap();
    let mut command = t.command(&["update", "--resources", "-", "c1"]);
    command.stdin(File::open(&path).unwrap());
    t.spawn(&mut command).wait()
}

fn applied(t: &Test) -> (Output, Vec<Value>) {
    let out = t.corten(&["state", "--applied", "--format", "json", "c1"]);
    let document: Value = serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {out:?}"));
    let rows = document["applied"].as_array().unwrap().clone();
    (out, rows)
}

/// Returns limits of every kind that this machine can set, in one of two sizes. The root of the tests' cpu
/// hierarchy gets realtime to share out. The disk is that of the tests' files.
fn limits(t: &Test, first: bool) -> Value {
    fs::write(file("cpu", "cpu.rt_runtime_us"), "20000").unwrap();
    let pick = |one: i64, other: i64| if first { one } else { other };
    let mut all = json!({
        "memory": {
            "limit": pick(64 << 20, 32 << 20),
            "swap": pick(128 << 20, 48 << 20),
            "reservation": pick(16 << 20, 8 << 20),
            "kernelTCP": pick(8 << 20, 4 << 20),
            "swappiness": pick(10, 20),
            "disableOOMKiller": !first,
        },
        "cpu": {
            "shares": pick(512, 256),
            "quota": pick(20_000, 5_000),
            "period": pick(100_000, 20_000),
            "burst": pick(1_000, 500),
            "realtimePeriod": pick(1_000_000, 500_000),
            "realtimeRuntime": pick(10_000, 5_000),
            "cpus": if first { says("cpuset", "cpuset.cpus") } else { "0".into() },
            "mems": "0",
        },
        "pids": {"limit": pick(40, 30)},
        "blockIO": {"weight": pick(200, 300)},
    });
    if let Some((major, minor)) = whole_disk(&t.dir) {
        let rate = |rate: i64| json!([{"major": major, "minor": minor, "rate": rate}]);
        all["blockIO"]["throttleReadBpsDevice"] = rate(pick(1 << 30, 1 << 31));
        all["blockIO"]["throttleWriteIOPSDevice"] = rate(pick(100_000, 200_000));
        if !first {
            all["blockIO"]["throttleWriteBpsDevice"] = rate(1 << 30);
        }
    }
    if offered("hugetlb") {
        all["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": pick(4 << 20, 2 << 20)}]);
    }
    all
}

/// Returns the contents of all these files of c1.
fn snapshot() -> Vec<String> {
    let files = [
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.memsw.limit_in_bytes"),
        ("memory", "memory.soft_limit_in_bytes"),
        ("memory", "memory.kmem.tcp.limit_in_bytes"),
        ("memory", "memory.swappiness"),
        ("memory", "memory.oom_control"),
        ("cpu", "cpu.shares"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("cpu", "cpu.cfs_burst_us"),
        ("cpu", "cpu.rt_period_us"),
        ("cpu", "cpu.rt_runtime_us"),
        ("cpuset", "cpuset.cpus"),
        ("cpuset", "cpuset.mems"),
        ("pids", "pids.max"),
        ("blkio", "blkio.bfq.weight"),
        ("blkio", "blkio.throttle.read_bps_device"),
        ("blkio", "blkio.throttle.write_bps_device"),
        ("blkio", "blkio.throttle.read_iops_device"),
        ("blkio", "blkio.throttle.write_iops_device"),
        ("unified", "hugetlb.2MB.max"),
        ("unified", "hugetlb.2MB.rsvd.max"),
        ("devices", "devices.list"),
    ];
    let there = files.iter().map(|(dir, name)| (name, file(dir, "c1").join(name)));
    let texts = there.filter_map(|(name, file)| Some(format!("{name} {}", fs::read_to_string(file).ok()?)));
    texts.collect()
}

fn kept(t: &Test) -> Value {
    let text = fs::read_to_string(t.state().join("c1/config.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["linux"]["resources"].clone()
}

/// If a write fails, all writes before it are undone, of every kind. Devices are written last.
#[test]
fn a_failed_update_is_undone() {
    isolated_in(View::Hybrid, |t| {
        let rule = json!([{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]);
        let mut first = limits(t, true);
        first["devices"] = rule;
        start(t, "/c1", &first);
        let (before, kept_before) = (snapshot(), kept(t));
        applied(t).0.ok();
        let unchanged = |out: Output, place: &str| {
            out.fails(place);
            assert_eq!(snapshot(), before, "{place}");
            assert_eq!(kept(t), kept_before);
        };
        // A disk that does not exist. The error comes after memory, cpu, cpuset, pids, the weight, and two of
        // the throttles.
        let mut document = limits(t, false);
        document["blockIO"]["throttleReadIOPSDevice"] = json!([{"major": 4000, "minor": 9, "rate": 5}]);
        unchanged(update(t, &document), "blockIO.throttleReadIOPSDevice[0]");
        // The kernel does not allow all devices to a cgroup that has others below.
        fs::create_dir(file("devices", "c1/below")).unwrap();
        let mut document = limits(t, false);
        document["devices"] = json!([{"allow": true, "access": "rwm"}]);
        unchanged(update(t, &document), "devices");
        for (document, place) in [
            (json!({"cpu": {"cpus": "4000"}}), "cpu.cpus"),
            (json!({"memory": {"kernel": 1 << 20}}), "memory.kernel: this kernel does not limit it any more"),
            (json!({"memory": {"useHierarchy": false}}), "memory.useHierarchy"),
            (json!({"cpu": {"realtimeRuntime": 900_000}}), "cpu.realtimeRuntime"),
            (json!({"network": {"classID": 1_048_577}}), "network.classID"),
            (json!({"network": {"priorities": [{"name": "lo", "priority": 3}]}}), "network.priorities[0]"),
            (json!({"blockIO": {"leafWeight": 100}}), "blockIO.leafWeight"),
            (json!({"rdma": {"mlx5_1": {"hcaObjects": 9}}}), "rdma"),
            (json!({"unified": {"memory.max": "4096"}}), "unified[\"memory.max\"]"),
            (json!({"memory": {"limit": 4096, "checkBeforeUpdate": true}}), "memory.limit"),
        ] {
            let mut with = limits(t, false);
            for (section, members) in document.as_object().unwrap() {
                for (name, value) in members.as_object().unwrap() {
                    with[section][name] = value.clone();
                }
            }
            unchanged(update(t, &with), place);
        }
        // Each limit differs, and is changed if no write fails.
        update(t, &limits(t, false)).ok();
        let after = snapshot();
        let same: Vec<&String> = before.iter().filter(|line| after.contains(line)).collect();
        let expected = ["cpuset.mems", "read_iops", "devices.list"];
        assert!(same.iter().all(|line| expected.iter().any(|name| line.contains(name))), "{same:?}");
        applied(t).0.ok();
        t.delete("c1");
    });
}

/// A container that can write to its own cgroup can change a limit. update sets it again.
#[test]
fn update_overwrites_a_limit_that_others_have_changed() {
    isolated_in(View::V1, |t| {
        start(t, "/c1", &json!({"pids": {"limit": 40}, "memory": {"limit": 64 << 20}}));
        // `update` compares with the kernel's value instead of the kept configuration. It does not change
        // limits that it is not asked for.
        fs::write(file("pids", "c1/pids.max"), "max").unwrap();
        fs::write(file("memory", "c1/memory.limit_in_bytes"), (96 << 20).to_string()).unwrap();
        update(t, &json!({"pids": {"limit": 40}})).ok();
        assert_eq!(says("pids", "c1/pids.max"), "40");
        assert_eq!(says("memory", "c1/memory.limit_in_bytes"), (96 << 20).to_string());
        t.delete("c1");
    });
}

/// The options of the command line, also those of realtime and of kernel memory.
#[test]
fn options_of_update_set_limits() {
    isolated_in(View::V1, |t| {
        fs::write(file("cpu", "cpu.rt_runtime_us"), "20000").unwrap();
        start(t, "/c1", &json!({}));
        for (option, value, controller, name, expected) in [
            ("--cpu-rt-period", "500000", "cpu", "cpu.rt_period_us", "500000"),
            ("--cpu-rt-runtime", "10000", "cpu", "cpu.rt_runtime_us", "10000"),
            ("--kernel-memory-tcp", "4M", "memory", "memory.kmem.tcp.limit_in_bytes", "4194304"),
            ("--blkio-weight", "300", "blkio", "blkio.bfq.weight", "300"),
            ("--cpu-share", "77", "cpu", "cpu.shares", "77"),
            ("--cpuset-cpus", "0", "cpuset", "cpuset.cpus", "0"),
            ("--memory-reservation", "8M", "memory", "memory.soft_limit_in_bytes", "8388608"),
            ("--cpu-idle", "1", "cpu", "cpu.idle", "1"),
            ("--cpu-idle", "0", "cpu", "cpu.shares", "77"),
        ] {
            t.corten(&["update", option, value, "c1"]).ok();
            assert_eq!(says(controller, &format!("c1/{name}")), expected, "{option}");
        }
        let out = t.corten(&["update", "--cpu-idle", "1", "--cpu-share", "60", "c1"]).exits(0);
        assert!(out.stderr.contains("unable to apply both cpu.weight and cpu.idle"), "{out:?}");
        assert_eq!(says("cpu", "c1/cpu.idle"), "1");
        t.corten(&["update", "--cpu-idle", "0", "--cpu-share", "77", "c1"]).ok();
        t.corten(&["update", "--kernel-memory", "1M", "c1"]).fails("memory.kernel");
        applied(t).0.ok();
        t.delete("c1");
    });
}

/// After each write the kernel compares quota and period with those of the parent cgroup. Only both together
/// are accepted.
#[test]
fn quota_and_period_are_updated_together() {
    isolated_in(View::V1, |t| {
        start(t, "/above/c1", &json!({"cpu": {"quota": 20_000, "period": 100_000}}));
        fs::write(file("cpu", "above/cpu.cfs_quota_us"), "50000").unwrap();
        let now = || (says("cpu", "above/c1/cpu.cfs_quota_us"), says("cpu", "above/c1/cpu.cfs_period_us"));
        t.corten(&["update", "--cpu-quota", "4000", "--cpu-period", "10000", "c1"]).ok();
        assert_eq!(now(), ("4000".into(), "10000".into()));
        t.corten(&["update", "--cpu-quota", "40000", "--cpu-period", "50000", "c1"]).fails("cpu.");
        assert_eq!(now(), ("4000".into(), "10000".into()));
        t.corten(&["update", "--cpu-quota", "20000", "--cpu-period", "100000", "c1"]).ok();
        assert_eq!(now(), ("20000".into(), "100000".into()));
        t.delete("c1");
    });
}

/// config-linux.md#cpu: the container can use realtime, also below new cgroups. Without the limit it cannot.
#[test]
fn realtime_is_given_to_the_container_and_new_parents() {
    isolated_in(View::V1, |t| {
        fs::write(file("cpu", "cpu.rt_runtime_us"), "20000").unwrap();
        let run = |path: &str, resources: Value| {
            t.run("echo realtime", |c| {
                c["linux"]["cgroupsPath"] = json!(path);
                c["linux"]["resources"] = resources;
                c["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 1});
            })
        };
        let asked = json!({"cpu": {"realtimeRuntime": 10_000, "realtimePeriod": 1_000_000}});
        assert_eq!(run("/c1", asked.clone()).ok(), "realtime\n");
        assert_eq!(run("/new/above/c1", asked.clone()).ok(), "realtime\n");
        run("/c1", json!({})).fails("process.scheduler");
        // The cgroup above has no realtime that could be given.
        fs::create_dir(file("cpu", "old")).unwrap();
        run("/old/c1", asked).fails("linux.resources.cpu.realtimeRuntime");
        fs::remove_dir(file("cpu", "old")).unwrap();
    });
}

/// Device rules are replaced, also with cgroups below. A rule that stays is in force at every moment.
#[test]
fn update_replaces_the_device_rules_without_a_gap() {
    isolated_in(View::V1, |t| {
        if File::open("/dev/fuse").is_err() {
            skip("no /dev/fuse, a device that anyone may open and no runtime allows by default");
        }
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["devices"] =
                json!([{"path": "/dev/my", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
        });
        t.start(&bundle, "c1");
        fs::create_dir(file("devices", "c1/below")).unwrap();
        let opens =
            || t.exec("c1", ": </dev/null && (: </dev/my) 2>/dev/null && echo mine").stdout == "mine\n";
        let rule =
            json!({"devices": [{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]});
        assert!(!opens());
        update(t, &rule).ok();
        assert!(opens());
        applied(t).0.ok();
        update(t, &json!({"devices": [{"allow": false, "access": "rwm"}]})).ok();
        assert!(!opens());
        applied(t).0.ok();
        t.delete("c1");
    });
}

/// `state --applied` reads everything back, and reports changes by others.
#[test]
fn applied_reports_limits_that_others_have_changed() {
    isolated_in(View::Hybrid, |t| {
        let mut resources = limits(t, true);
        resources["devices"] =
            json!([{"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]);
        resources["unified"] = json!({"cgroup.max.depth": "7"});
        start(t, "/c1", &resources);
        let (out, rows) = applied(t);
        out.ok();
        let row = |place: &str| rows.iter().find(|row| row["place"] == format!("linux.resources.{place}"));
        for (place, asked, expected) in [
            ("memory.limit", "67108864", "67108864"),
            ("memory.disableOOMKiller", "0", "0"),
            ("cpu.realtimeRuntime", "10000", "10000"),
            ("pids.limit", "40", "40"),
            ("blockIO.weight", "200", "200"),
            ("unified[\"cgroup.max.depth\"]", "7", "7"),
        ] {
            let row = row(place).unwrap_or_else(|| panic!("{place}: {rows:?}"));
            assert_eq!((&row["asked"], &row["applied"]), (&json!(asked), &json!(expected)));
        }
        let devices = row("devices").unwrap();
        assert!(devices["applied"].as_str().unwrap().contains("c 10:229 rw"), "{devices}");
        assert_eq!((&devices["file"], &devices["applied"]), (&json!("devices.list"), &devices["asked"]));
        for (controller, name, value, place) in [
            ("devices", "devices.deny", "c 10:229 w", "linux.resources.devices"),
            ("memory", "memory.soft_limit_in_bytes", "-1", "linux.resources.memory.reservation"),
            ("memory", "memory.oom_control", "1", "linux.resources.memory.disableOOMKiller"),
            ("cpu", "cpu.cfs_burst_us", "0", "linux.resources.cpu.burst"),
            ("unified", "cgroup.max.depth", "8", "linux.resources.unified"),
        ] {
            fs::write(file(controller, "c1").join(name), value).unwrap();
            applied(t).0.fails(place);
        }
        t.delete("c1");
    });
}

/// `exec --cgroup`, in runc's form: by controllers, or for all at once.
#[test]
fn exec_enters_a_cgroup_below() {
    isolated_in(View::V1, |t| below(t, View::V1));
}

/// The same with v2, whose controllers have names here.
#[test]
fn exec_enters_a_cgroup_below_with_v2() {
    isolated_in(View::Hybrid, |t| below(t, View::Hybrid));
}

fn below(t: &Test, view: View) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        crate::harness::without_namespace(c, "cgroup");
    });
    t.start(&bundle, "c1");
    for controller in fs::read_dir("/sys/fs/cgroup").unwrap() {
        fs::create_dir_all(controller.unwrap().path().join("c1/all/deep")).unwrap();
    }
    for controller in ["cpuset", "memory"] {
        fs::create_dir(file(controller, "c1/some")).unwrap();
    }
    for cgroup in ["c1/all", "c1/all/deep", "c1/some"] {
        for name in ["cpuset.cpus", "cpuset.mems"] {
            fs::write(file("cpuset", cgroup).join(name), says("cpuset", name)).unwrap();
        }
    }
    let args = |options: &[&str]| {
        let options = options.iter().flat_map(|option| ["--cgroup", option]);
        ["exec"].into_iter().chain(options).map(String::from).collect::<Vec<String>>()
    };
    let exec = |options: &[&str]| {
        let mut args = args(options);
        args.extend(["c1", "cat", "/proc/self/cgroup"].map(String::from));
        t.corten(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let is_in = |options: &[&str], expected: &dyn Fn(&str) -> &'static str| {
        let out = exec(options).ok();
        for line in out.lines().filter(|line| view == View::Hybrid || !line.starts_with("0::")) {
            let (_, rest) = line.split_once(':').unwrap();
            let (controllers, path) = rest.split_once(':').unwrap();
            assert_eq!(path, expected(controllers), "{options:?} {out}");
        }
    };
    is_in(&["all"], &|_| "/c1/all");
    is_in(&["/all/deep/"], &|_| "/c1/all/deep");
    is_in(&[":all"], &|_| "/c1/all");
    is_in(&["/"], &|_| "/c1");
    let some = |name: &str| if ["cpuset", "memory"].contains(&name) { "/c1/some" } else { "/c1" };
    is_in(&["cpuset,memory:some"], &some);
    is_in(&["cpuset:some", "memory:/some"], &some);
    is_in(&["memory:all", "pids:all/deep"], &|name| match name {
        "memory" => "/c1/all",
        "pids" => "/c1/all/deep",
        _ => "/c1",
    });
    if view == View::Hybrid && offered("hugetlb") {
        is_in(&["hugetlb:all"], &|name| if name.is_empty() { "/c1/all" } else { "/c1" });
    }
    for (options, text) in [
        (&["none"][..], "error adding pid of the process to cgroups "),
        (&["memory:none"], "/sys/fs/cgroup/memory/c1/none: no such file or directory"),
        (&["some"], "no such file or directory"),
        (&["mem:some"], "unknown controller \"mem\""),
        (&["net_cls:some"], "unknown controller \"net_cls\""),
        (&["memory,:some"], "a controller has no name"),
        (&["memory:some", "memory:all"], "memory has been named already"),
        (&["memory:some", "all"], "is for all controllers"),
        (&["memory:../other"], "must be a path below"),
    ] {
        exec(options).fails(text).exits(255);
    }
    t.delete("c1");
}

/// The limits that dockerd 28 sends with options for memory, cpu, pids and blkio, and those that containerd's
/// `ctr run` sends.
fn sent() -> [(&'static str, Value); 2] {
    let device = |kind: &str, major: i64, minor: i64| json!({"allow": true, "type": kind, "major": major, "minor": minor, "access": "rwm"});
    let docker = json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            device("c", 1, 5), device("c", 1, 3), device("c", 1, 9), device("c", 1, 8), device("c", 5, 0),
            device("c", 5, 1), {"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ],
        "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 33_554_432, "kernelTCP": 8_388_608,
                   "swappiness": 18_446_744_073_709_551_615_u64, "disableOOMKiller": false},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000, "cpus": "0", "mems": "0", "realtimePeriod": 0,
                "realtimeRuntime": 0},
        "pids": {"limit": 100},
        "blockIO": {"weight": 0, "weightDevice": [], "throttleReadBpsDevice": []},
        "hugepageLimits": [],
        "network": {},
    });
    let containerd = json!({
        "devices": [
            {"allow": false, "access": "rwm"},
            device("c", 1, 3), device("c", 1, 8), device("c", 1, 7), device("c", 5, 0), device("c", 1, 5),
            device("c", 1, 9), device("c", 5, 1), {"allow": true, "type": "c", "major": 136, "access": "rwm"},
            device("c", 5, 2),
        ],
        "cpu": {"shares": 1024},
    });
    [("/docker/0123456789abcdef", docker), ("/default/c1", containerd)]
}

/// All limits of engines apply, with v1 alone and with v2 beside it. No parent cgroup that was made is left.
#[test]
fn the_limits_of_engines_are_applied() {
    isolated_in(View::V1, |t| engines(t, View::V1));
}

#[test]
fn the_limits_of_engines_are_applied_with_v2() {
    isolated_in(View::Hybrid, |t| engines(t, View::Hybrid));
}

fn engines(t: &Test, view: View) {
    for (path, resources) in sent() {
        start(t, path, &resources);
        assert_eq!(file("unified", &path[1..]).exists(), view == View::Hybrid);
        applied(t).0.ok();
        let exec = t.exec("c1", "echo >/dev/null && head -c1 /dev/zero | wc -c");
        assert_eq!(exec.ok(), "1\n");
        assert_eq!(
            says("cpu", &format!("{}/cpu.shares", &path[1..])),
            resources["cpu"]["shares"].to_string()
        );
        // dockerd and the shim do the same.
        update(t, &json!({"memory": {"limit": 33_554_432, "swap": 67_108_864}, "pids": {"limit": 77}})).ok();
        update(t, &json!({"blockIO": {"weight": 0}, "cpu": {"shares": 0}, "memory": {"kernelTCP": 0}})).ok();
        applied(t).0.ok();
        t.corten(&["pause", "c1"]).ok();
        t.corten(&["resume", "c1"]).ok();
        t.corten(&["kill", "--all", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["delete", "c1"]).ok();
    }
}

/// A controller of v2 that is not used yet is enabled for an update, as on a host with v2 alone.
#[test]
fn update_enables_a_controller_of_v2() {
    isolated_in(View::Hybrid, |t| {
        if !offered("hugetlb") {
            skip("v2 has no hugetlb controller here");
        }
        start(t, "/c1", &json!({}));
        update(t, &json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})).ok();
        assert_eq!(says("unified", "c1/hugetlb.2MB.max"), "4194304");
        update(t, &json!({"unified": {"cgroup.max.depth": "3"}})).ok();
        assert_eq!(says("unified", "c1/cgroup.max.depth"), "3");
        t.delete("c1");
    });
}
