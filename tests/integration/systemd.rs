//! `--systemd-cgroup`: the container's cgroup as a unit of systemd. These tests require a host that runs
//! systemd, such as the VM of this project.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, poll, with_systemd, without_namespace};
use crate::namespaces::{give_rootfs, map_ids};

pub const CGROUP: &str = "/sys/fs/cgroup";

/// Returns the unit of a test. The tests run at once on one host.
pub fn unit(name: &str) -> String {
    format!("ctest{}-{name}.scope", std::process::id())
}

pub fn path(slice: &str, name: &str) -> Value {
    json!(format!("{slice}:ctest{}:{name}", std::process::id()))
}

pub fn systemctl(args: &[&str]) -> String {
    let output = Command::new("systemctl").args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", unit, "--value", "-p", name]).trim().to_string()
}

/// Returns whether systemd has no such unit and no cgroup exists.
pub fn gone(unit: &str, cgroup: &Path) -> bool {
    systemctl(&["list-units", "--all", "--plain", "--no-legend", unit]).is_empty() && !cgroup.exists()
}

fn create(t: &Test, bundle: &Bundle, id: &str) -> Output {
    t.corten(&["--systemd-cgroup", "create", "-b", bundle.path(), id])
}

/// Returns the contents of files. systemd has a quota in whole percents of a processor: 34% for 33333 of 100000. A reload, which
/// another test can make at any time, can write that: version 252 always does, 257 if the unit is just being made.
fn values(cgroup: &Path, files: &[&str]) -> Vec<String> {
    let read = |file: &&str| match fs::read_to_string(cgroup.join(file)).unwrap().trim() {
        "34000 100000" => "33333 100000".into(),
        value => value.to_string(),
    };
    files.iter().map(read).collect()
}

/// systemd has the limits that it has properties for. A reload changes no limit, nor the device filter. Later
/// commands need no --systemd-cgroup.
#[test]
fn a_scope_has_the_limits_and_keeps_them() {
    with_systemd("a_scope_has_the_limits_and_keeps_them", |t| {
        let unit = unit("limits");
        let cgroup = Path::new(CGROUP).join("system.slice").join(&unit);
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = path("", "limits");
            c["annotations"] = json!({
                "org.systemd.property.TimeoutStopSec": "7",
                "org.systemd.property.CollectMode": "'inactive-or-failed'",
            });
            c["linux"]["devices"] =
                json!([{"path": "/dev/my", "type": "c", "major": 1, "minor": 11, "fileMode": 438}]);
            c["linux"]["resources"] = json!({
                "memory": {"limit": 67_108_864, "reservation": 4096},
                "cpu": {"shares": 512, "quota": 33_333, "period": 100_000, "cpus": "0", "idle": 0},
                "pids": {"limit": 20},
                "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
                "unified": {"memory.high": "50331648", "cgroup.max.depth": "3"},
                "devices": [{"allow": false, "access": "rwm"}],
            });
        });
        create(t, &bundle, "limits").ok();
        let pid = t.pid("limits");
        assert_eq!(fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().trim(), pid.to_string());
        for (name, expected) in [
            ("ActiveState", "active"),
            ("Delegate", "yes"),
            ("Slice", "system.slice"),
            ("MemoryMax", "67108864"),
            ("MemoryLow", "4096"),
            ("MemoryHigh", "50331648"),
            ("CPUWeight", "59"),
            ("CPUQuotaPerSecUSec", "340ms"),
            ("AllowedCPUs", "0"),
            ("TasksMax", "20"),
            ("TimeoutStopUSec", "7s"),
            ("CollectMode", "inactive-or-failed"),
        ] {
            assert_eq!(property(&unit, name), expected, "{name}");
        }
        let files = [
            "memory.max",
            "memory.low",
            "memory.high",
            "cpu.weight",
            "cpu.max",
            "cpuset.cpus",
            "pids.max",
            "hugetlb.2MB.max",
            "cgroup.max.depth",
        ];
        let limits = values(&cgroup, &files);
        assert_eq!(limits[..5], ["67108864", "4096", "50331648", "59", "33333 100000"]);
        assert_eq!(limits[5..], ["0", "20", "0", "3"]);
        let refused = |t: &Test| t.exec("limits", "echo x 2>/dev/null >/dev/my").exits(1);
        t.corten(&["start", "limits"]).ok();
        refused(t);
        systemctl(&["daemon-reload"]);
        assert_eq!(values(&cgroup, &files), limits);
        refused(t);
        assert_eq!(t.exec("limits", "cat /proc/self/cgroup").ok(), "0::/\n");
        t.corten(&["delete", "--force", "limits"]).ok();
        assert!(gone(&unit, &cgroup));
    });
}

/// A container that can create cgroups has every controller of the host, also those that systemd does not know.
/// It keeps them.
#[test]
fn a_scope_with_a_writable_hierarchy_has_every_controller() {
    with_systemd("a_scope_with_a_writable_hierarchy_has_every_controller", |t| {
        let unit = unit("nested");
        let cgroup = Path::new(CGROUP).join("system.slice").join(&unit);
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = path("", "nested");
            c["mounts"][6]["options"] = json!(["nosuid"]);
        });
        create(t, &bundle, "nested").ok();
        let offered = values(Path::new(CGROUP), &["cgroup.controllers"]);
        assert_eq!(values(&cgroup, &["cgroup.controllers"]), offered);
        systemctl(&["daemon-reload"]);
        assert_eq!(values(&cgroup, &["cgroup.controllers"]), offered);
        t.corten(&["delete", "--force", "nested"]).ok();
        assert!(gone(&unit, &cgroup));
    });
}

/// Runs `update` with a document.
fn update(t: &Test, id: &str, document: &Value, more: &[&str]) -> Output {
    let file = t.dir.join("my-resources");
    fs::write(&file, document.to_string()).unwrap();
    let file = format!("--resources={}", file.display());
    t.corten(&[&["update", &file], more, &[id]].concat())
}

/// Starts a container in a scope, and returns the names of the scope and the cgroup.
fn limited(t: &Test, name: &str, edit: impl FnOnce(&mut Value)) -> (String, PathBuf) {
    // The unit has a slice of its own, because systemd can write all files of a unit again when one beside it
    // is made or removed.
    let (unit, slice) = (unit(name), format!("ctest{name}.slice"));
    let cgroup = Path::new(CGROUP).join(&slice).join(&unit);
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = path(&slice, name);
        edit(c);
    });
    create(t, &bundle, name).ok();
    t.corten(&["start", name]).ok();
    (unit, cgroup)
}

/// systemd also gets the limits of an update, so it does not undo them: neither when it is reloaded, nor when
/// another limit of the same controller is set, at which it writes all its limits of that controller.
#[test]
fn an_update_outlasts_a_reload() {
    with_systemd("an_update_outlasts_a_reload", |t| {
        let (unit, cgroup) = limited(t, "update", |c| {
            c["linux"]["resources"] = json!({
                "memory": {"limit": 67_108_864},
                "cpu": {"shares": 512, "quota": 33_333, "period": 100_000, "burst": 1000},
                "pids": {"limit": 20},
                "unified": {"memory.high": "50331648"},
            });
        });
        let files =
            ["memory.max", "memory.high", "pids.max", "cpuset.cpus", "cpu.weight", "cpu.max", "cpu.idle"];
        let told = ["MemoryMax", "MemoryHigh", "TasksMax", "AllowedCPUs", "CPUWeight", "CPUQuotaPerSecUSec"];
        let properties = || told.map(|name| property(&unit, name));
        let document = json!({
            "memory": {"limit": 134_217_728},
            "cpu": {"shares": 2048, "cpus": "0"},
            "pids": {"limit": 33},
        });
        let shown = update(t, "update", &document, &["--dry-run"]).ok();
        for line in
            ["systemd MemoryMax: 67108864 -> 134217728", "systemd AllowedCPUs:  -> 0", "pids.max: 20 -> 33"]
        {
            assert!(shown.lines().any(|shown| shown == line), "{line}: {shown}");
        }
        assert_eq!(property(&unit, "TasksMax"), "20");
        update(t, "update", &document, &[]).ok();
        let limits = ["134217728", "50331648", "33", "0", "174", "33333 100000", "0"];
        assert_eq!(values(&cgroup, &files), limits);
        assert_eq!(properties(), ["134217728", "50331648", "33", "0", "174", "340ms"]);
        systemctl(&["daemon-reload"]);
        assert_eq!(values(&cgroup, &files), limits);
        systemctl(&["set-property", "--runtime", &unit, "MemoryLow=4096", "TasksMax=34"]);
        assert_eq!(values(&cgroup, &files[..2]), limits[..2]);
        assert_eq!(
            t.exec("update", "grep Cpus_allowed_list /proc/self/status").ok(),
            "Cpus_allowed_list:\t0\n"
        );
        // systemd shows the limits of an idle group in one word with the weight.
        update(t, "update", &json!({"cpu": {"idle": 1}}), &[]).ok();
        assert_eq!(property(&unit, "CPUWeight"), "idle");
        systemctl(&["daemon-reload"]);
        systemctl(&["set-property", "--runtime", &unit, "CPUQuota=50%"]);
        assert_eq!(values(&cgroup, &["cpu.idle", "cpu.max"]), ["1", "50000 100000"]);
        update(t, "update", &json!({"cpu": {"idle": 0}}), &[]).ok();
        assert_eq!(
            (property(&unit, "CPUWeight"), values(&cgroup, &["cpu.weight"])),
            ("174".into(), vec!["174".into()])
        );
        t.delete("update");
        assert!(gone(&unit, &cgroup));
    });
}

/// If the kernel refuses a limit, systemd's property is set back.
#[test]
fn systemd_forgets_a_limit_that_the_kernel_refuses() {
    with_systemd("systemd_forgets_a_limit_that_the_kernel_refuses", |t| {
        let (unit, cgroup) = limited(t, "untold", |c| {
            c["linux"]["resources"] = json!({
                "memory": {"limit": 67_108_864},
                "cpu": {"shares": 512, "quota": 33_333, "period": 100_000},
            });
        });
        let files = [
            "memory.max",
            "cpu.weight",
            "cpu.max",
            "cpu.max.burst",
            "cpuset.cpus.effective",
            "cpu.idle",
            "cgroup.max.depth",
        ];
        let told = ["MemoryMax", "CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "AllowedCPUs"];
        let now = || (values(&cgroup, &files), told.map(|name| property(&unit, name)));
        let before = now();
        assert_eq!(before.0[..3], ["67108864", "59", "33333 100000"]);
        let limits = json!({
            "memory": {"limit": 33_554_432},
            "cpu": {"shares": 2048, "quota": 70_000, "burst": 5000, "cpus": "0"},
            "unified": {"cgroup.max.depth": "7"},
        });
        for (pointer, value, place) in [
            (
                "/unified",
                json!({"cgroup.max.depth": "7", "cgroup.pressure": "bogus"}),
                "unified[\"cgroup.pressure\"]",
            ),
            ("/cpu", json!({"cpus": "4000"}), "cpu.cpus"),
            ("/cpu", json!({"idle": 1, "cpus": "4000"}), "cpu.cpus"),
        ] {
            let mut document = limits.clone();
            *document.pointer_mut(pointer).unwrap() = value;
            update(t, "untold", &document, &[]).fails(place);
            assert_eq!(now(), before, "{place}");
            systemctl(&["daemon-reload"]);
            assert_eq!(now(), before, "{place}, reloaded");
        }
        t.delete("untold");
        assert!(gone(&unit, &cgroup));
    });
}

/// The access to devices is exactly that of config.json, whatever makes systemd go through its units. Device
/// rules that others set in systemd also apply.
#[test]
fn systemd_does_not_change_the_device_rules() {
    with_systemd("systemd_does_not_change_the_device_rules", |t| {
        // Two devices that every user can open. The second one is allowed by default.
        for module in ["fuse", "tun"] {
            assert!(Command::new("modprobe").arg(module).status().unwrap().success(), "{module}");
        }
        let node = |name: &str, minor: u32| json!({"path": format!("/dev/{name}"), "type": "c", "major": 10, "minor": minor, "fileMode": 438});
        let fuse =
            |access: &str| json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": access});
        let deny = || json!({"allow": false, "access": "rwm"});
        let script = "cd /dev; for f in fuse tun zero; do (: <$f) 2>/dev/null && echo $f r; \
                      (: >>$f) 2>/dev/null && echo $f w; done; true";
        let access = || t.exec("dev", script).ok().lines().collect::<Vec<_>>().join(",");
        let (unit, cgroup) = limited(t, "dev", |c| {
            c["linux"]["devices"] = json!([node("fuse", 229), node("tun", 200)]);
            c["linux"]["resources"] = json!({
                "devices": [deny(), fuse("r")],
            });
        });
        let shaken = |expected: &str| {
            assert_eq!(access(), expected);
            systemctl(&["daemon-reload"]);
            assert_eq!(access(), expected, "reloaded");
            systemctl(&["set-property", "--runtime", &unit, "MemoryLow=4096", "IOWeight=50"]);
            assert_eq!(access(), expected, "with another property");
            systemctl(&["daemon-reload"]);
            assert_eq!(access(), expected, "reloaded again");
        };
        shaken("fuse r,tun r,tun w,zero r,zero w");
        update(t, "dev", &json!({"devices": [deny(), fuse("w")]}), &[]).ok();
        shaken("fuse w,tun r,tun w,zero r,zero w");
        update(t, "dev", &json!({"devices": [{"allow": true, "access": "rwm"}]}), &[]).ok();
        shaken("fuse r,fuse w,tun r,tun w,zero r,zero w");
        // The administrator's rule is a device program of systemd. An update keeps it.
        systemctl(&["set-property", "--runtime", &unit, "DeviceAllow=/dev/net/tun rw"]);
        shaken("tun r,tun w,zero r,zero w");
        update(t, "dev", &json!({"devices": [deny(), fuse("r")]}), &[]).ok();
        shaken("tun r,tun w,zero r,zero w");
        t.delete("dev");
        assert!(gone(&unit, &cgroup));
    });
}

/// A nested slice is a path of slices. `run` removes its unit. A unit with the name of a slice is a slice.
#[test]
fn a_nested_slice_is_a_path_of_slices() {
    with_systemd("a_nested_slice_is_a_path_of_slices", |t| {
        let pid = std::process::id();
        let run = |name: &str, slice: &str| {
            let bundle = t.bundle(|c| {
                without_namespace(c, "cgroup");
                c["linux"]["cgroupsPath"] = path(slice, name);
                c["linux"]["resources"] = json!({"pids": {"limit": 30}});
                c["process"]["args"] = json!(["cat", "/proc/self/cgroup"]);
            });
            t.corten(&["--systemd-cgroup", "run", "-b", bundle.path(), "nested"]).ok()
        };
        let cgroup = format!("cta.slice/cta-b.slice/cta-b-c.slice/{}", unit("nested"));
        assert_eq!(run("nested", "cta-b-c.slice"), format!("0::/{cgroup}\n"));
        assert!(gone(&unit("nested"), &Path::new(CGROUP).join(&cgroup)));
        let slice = format!("ctb{pid}-x.slice");
        let cgroup = format!("ctb{pid}.slice/{slice}");
        assert_eq!(run(&slice, "system.slice"), format!("0::/{cgroup}\n"));
        assert!(gone(&slice, &Path::new(CGROUP).join(&cgroup)));
    });
}

/// If `create` was killed, `gc` lets systemd remove the unit, and does not touch those of others.
#[test]
fn gc_stops_the_unit_of_an_interrupted_create() {
    with_systemd("gc_stops_the_unit_of_an_interrupted_create", |t| {
        let [killed, other] = ["killed", "other"].map(unit);
        let cgroup = |unit: &str| Path::new(CGROUP).join("system.slice").join(unit);
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = path("", "other"));
        create(t, &bundle, "other").ok();
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = path("", "killed");
            without_namespace(c, "pid");
            // A process that is left running keeps the unit.
            let script =
                "sleep 1001 < /dev/null > /dev/null 2>&1 & kill -KILL $(cut -d' ' -f4 /proc/$PPID/stat)";
            let hook =
                json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]});
            c["hooks"] = json!({"createContainer": [hook]});
        });
        create(t, &bundle, "killed").exits(137);
        assert_eq!(property(&killed, "ActiveState"), "active");
        assert_eq!(t.corten(&["gc"]).ok(), "killed: its create was interrupted\n");
        assert!(poll(Duration::from_secs(10), || gone(&killed, &cgroup(&killed))));
        assert_eq!(
            (property(&other, "ActiveState").as_str(), t.status("other").as_str()),
            ("active", "created")
        );
        t.delete("other");
    });
}

/// A create that fails at any moment leaves no unit, and does not touch a unit of others.
#[test]
fn a_failing_create_leaves_no_unit() {
    with_systemd("a_failing_create_leaves_no_unit", |t| {
        let unit = unit("fails");
        let cgroup = Path::new(CGROUP).join("system.slice").join(&unit);
        type Edit = fn(&mut Value);
        let edits: [(Edit, &str); 6] = [
            (|c| c["process"]["args"] = json!(["/nonexistent"]), "/nonexistent"),
            (
                |c| c["linux"]["resources"] = json!({"unified": {"memory.foo": "1"}}),
                "unified[\"memory.foo\"]",
            ),
            (|c| c["linux"]["resources"] = json!({"cpu": {"cpus": "5000"}}), "cpu.cpus"),
            (|c| c["annotations"] = json!({"org.systemd.property.NoSuch": "1"}), "NoSuch"),
            (|c| c["annotations"] = json!({"org.systemd.property.KillSignal": "'x'"}), "KillSignal"),
            (|c| c["annotations"] = json!({"org.systemd.property.PIDs": "[uint32 1]"}), "annotations["),
        ];
        for (edit, word) in edits {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = path("", "fails");
                edit(c);
            });
            create(t, &bundle, "fails").fails(word);
            assert!(gone(&unit, &cgroup), "{word}");
        }
        for cgroups_path in ["/docker/x", "system.slice:x", "system:x:y", "a--b.slice:x:y"] {
            let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!(cgroups_path));
            create(t, &bundle, "fails").fails("linux.cgroupsPath: ");
        }
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = path("", "fails"));
        create(t, &bundle, "fails").ok();
        create(t, &bundle, "other").fails("linux.cgroupsPath: ");
        assert_eq!(property(&unit, "ActiveState"), "active");
        t.corten(&["start", "fails"]).ok();
        t.delete("fails");
        assert!(gone(&unit, &cgroup));
    });
}

/// A failed unit keeps its name until it is reset. The death of a container leaves no failed unit.
#[test]
fn a_failed_unit_does_not_block_its_name() {
    with_systemd("a_failed_unit_does_not_block_its_name", |t| {
        let unit = unit("dead");
        let cgroup = Path::new(CGROUP).join("system.slice").join(&unit);
        let failed = format!("--unit={unit}");
        let made = Command::new("systemd-run")
            .args(["--scope", "-q", &failed, "-p", "RuntimeMaxSec=1", "--"])
            .args(["sh", "-c", "sleep 100"])
            .status();
        assert!(made.is_ok());
        assert!(poll(Duration::from_secs(20), || property(&unit, "ActiveState") == "failed"));
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = path("", "dead"));
        create(t, &bundle, "dead").ok();
        t.corten(&["start", "dead"]).ok();
        t.corten(&["kill", "dead", "KILL"]).ok();
        t.until("dead", "stopped");
        assert!(poll(Duration::from_secs(20), || gone(&unit, &cgroup)), "{}", systemctl(&["status", &unit]));
        t.corten(&["delete", "dead"]).ok();
        // A unit whose runtime was killed meanwhile: PDEATHSIG kills the process, and delete removes the
        // rest.
        for wait in [5, 15, 30, 60, 100] {
            let mut create = t.command(&["--systemd-cgroup", "create", "-b", bundle.path(), "dead"]);
            let mut create = t.spawn(&mut create);
            std::thread::sleep(Duration::from_millis(wait));
            let _ = create.child.kill();
            let _ = create.child.wait();
            t.corten(&["delete", "--force", "dead"]).ok();
            assert!(gone(&unit, &cgroup), "after {wait} ms");
        }
    });
}

/// cgroups(7), delegation: root of a user namespace can make cgroups in the scope. It cannot change the
/// limits of the scope.
#[test]
fn root_of_a_user_namespace_owns_the_scope_but_not_its_limits() {
    with_systemd("root_of_a_user_namespace_owns_the_scope_but_not_its_limits", |t| {
        let script = "cat /proc/self/cgroup; mkdir /sys/fs/cgroup/sub && echo made; \
                      echo 5 2>/dev/null >/sys/fs/cgroup/pids.max && echo a limit";
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["linux"]["cgroupsPath"] = path("", "userns");
            for mount in c["mounts"].as_array_mut().unwrap() {
                if mount["type"] == "cgroup" {
                    mount["options"] = json!([]);
                }
            }
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        give_rootfs(t, &bundle);
        let out = t.corten(&["--systemd-cgroup", "run", "-b", bundle.path(), "userns"]);
        assert!(out.stderr.is_empty(), "{out:?}");
        assert_eq!(out.stdout, "0::/\nmade\n");
        assert!(gone(&unit("userns"), &Path::new(CGROUP).join("system.slice").join(unit("userns"))));
    });
}

/// As with runc: in an unprivileged LXC container, for example, root of a user namespace has a systemd of the system, and
/// engines use it.
#[test]
fn root_of_a_user_namespace_outside_of_a_session_uses_the_systems_systemd() {
    with_systemd("root_of_a_user_namespace_outside_of_a_session_uses_the_systems_systemd", |t| {
        let cgroup = Path::new(CGROUP).join("system.slice").join(unit("system"));
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = path("system.slice", "system");
            // Its group is not mapped.
            c["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
            c["linux"]["resources"] = json!({"pids": {"limit": 20}});
        });
        let runtime = t.command(&["--systemd-cgroup", "create", "-b", bundle.path(), "system"]);
        let mut create = Command::new("unshare");
        create.args(["--user", "--map-root-user", "--mount"]);
        t.call(create.arg(runtime.get_program()).args(runtime.get_args())).exits(0);
        assert_eq!(values(&cgroup, &["pids.max"]), ["20"]);
        t.corten(&["start", "system"]).ok();
        assert_eq!(t.exec("system", "cat /proc/self/cgroup").ok(), "0::/\n");
        t.delete("system");
        assert!(gone(&unit("system"), &cgroup));
    });
}

/// A user's own systemd makes the scope, with and without the user's bus. `exec` from a session enters it.
#[test]
fn a_users_systemd_makes_the_scope() {
    with_systemd("a_users_systemd_makes_the_scope", |t| {
        if !Path::new("/run/user/1000/bus").exists() {
            return eprintln!("skipped: systemd::a_users_systemd_makes_the_scope: user 1000 has no systemd");
        }
        let dir = t.dir.join("alice");
        let corten = dir.join("corten");
        fs::create_dir(&dir).unwrap();
        let runtime = std::env::var("CORTEN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_corten").into());
        fs::copy(runtime, &corten).unwrap();
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = path("", "rootless");
            c["linux"]["resources"] = json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}});
            for (ids, key) in [("uidMappings", "uid"), ("gidMappings", "gid")] {
                c["linux"][ids] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
                c["process"]["user"][key] = json!(0);
            }
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/dev/pts");
        });
        let mut chown = Command::new("chown");
        t.call(chown.arg("-hR").arg("1000:1000").args([&dir, &bundle.dir])).ok();
        let cgroup = "user.slice/user-1000.slice/user@1000.service/user.slice";
        let cgroup: PathBuf = Path::new(CGROUP).join(cgroup).join(unit("rootless"));
        for bus in ["unix:path=/run/user/1000/bus", "unix:path=/nowhere"] {
            // systemd's private socket is tried last, so the bus must be out of sight.
            let hide =
                if bus.contains("nowhere") { "mount --bind /dev/null /run/user/1000/bus;" } else { "" };
            let script = format!(
                "{hide} exec setpriv --reuid 1000 --regid 1000 --init-groups env XDG_RUNTIME_DIR=/run/user/1000 \
                 DBUS_SESSION_BUS_ADDRESS={bus} {} --root {} \"$@\"",
                corten.display(),
                dir.join("state").display()
            );
            let call = |args: &[&str]| {
                t.call(Command::new("unshare").args(["-m", "sh", "-c", &script, "sh"]).args(args))
            };
            call(&["--systemd-cgroup", "create", "-b", bundle.path(), "rootless"]).exits(0);
            assert_eq!(values(&cgroup, &["memory.max", "pids.max"]), ["67108864", "20"], "{bus}");
            call(&["start", "rootless"]).ok();
            assert_eq!(call(&["exec", "rootless", "cat", "/proc/self/cgroup"]).ok(), "0::/\n", "{bus}");
            call(&["update", "--pids-limit", "21", "--memory", "134217728", "rootless"]).ok();
            let mut reload = Command::new("setpriv");
            reload.args(["--reuid", "1000", "--regid", "1000", "--init-groups", "systemctl", "--user"]);
            let reload = reload.arg("daemon-reload").env("XDG_RUNTIME_DIR", "/run/user/1000");
            assert!(reload.status().unwrap().success());
            assert_eq!(values(&cgroup, &["memory.max", "pids.max"]), ["134217728", "21"], "{bus}");
            call(&["delete", "--force", "rootless"]).ok();
            assert!(!cgroup.exists(), "{bus}");
        }
    });
}
