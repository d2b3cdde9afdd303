//! linux.intelRdt. The test machines lack the hardware, and without it the kernel does not mount resctrl, so
//! no test sees its answer to `schemata`. (The code has unit tests for them.) A cgroup v1 hierarchy behaves
//! like resctrl otherwise, because it is part of the kernel: a class is a directory that comes with a file
//! `tasks`, a process that writes to it enters with its children, and rmdir(2) removes it. It stands in for
//! resctrl, and mountinfo is changed accordingly.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Output, Test, View, isolated, isolated_in, poll};

/// The hierarchy that stands in for resctrl.
const STAND_IN: &str = "/sys/fs/cgroup/memory";

/// Returns the directory of a class in the hierarchy that stands in.
fn class(name: &str) -> PathBuf {
    Path::new(STAND_IN).join(name)
}

/// Runs a command of the runtime that sees the stand-in mounted as resctrl.
fn with_resctrl(t: &Test, args: &[&str]) -> Command {
    let file = t.dir.join("mountinfo");
    let real = fs::read_to_string("/proc/self/mountinfo").unwrap();
    fs::write(&file, format!("{real}9999 1 0:999 / {STAND_IN} rw - resctrl resctrl rw\n")).unwrap();
    let runtime = t.command(&[]);
    // The process whose mountinfo is replaced becomes the runtime.
    let script = "mount --bind \"$0\" /proc/$$/mountinfo && exec \"$@\"";
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).arg(file).arg(runtime.get_program()).args(runtime.get_args()).args(args);
    command
}

/// Creates a container without a cgroup, which would be in the same hierarchy.
fn create(t: &Test, rdt: Value, edit: impl FnOnce(&mut Value)) -> Output {
    let bundle = t.bundle(|c| {
        c["linux"]["intelRdt"] = rdt;
        edit(c);
    });
    t.call(&mut with_resctrl(t, &["--cgroup-manager", "disabled", "create", "-b", bundle.path(), "c1"]))
}

/// Returns the class of a process according to the kernel.
fn place(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.split_once(":memory:")).unwrap().1.to_string()
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn record(t: &Test) -> Value {
    serde_json::from_str(&fs::read_to_string(t.state().join("c1/state.json")).unwrap()).unwrap()
}

/// config-linux.md#intelrdt: without a mounted resctrl it is an error, with any members. `features` reports
/// the abilities of the runtime, not of the machine.
#[test]
fn without_resctrl_any_intel_rdt_is_an_error() {
    isolated(|t| {
        for rdt in [json!({}), json!({"closID": "/"}), json!({"l3CacheSchema": "L3:0=f"})] {
            let bundle = t.bundle(|c| c["linux"]["intelRdt"] = rdt);
            for command in ["create", "run"] {
                t.corten(&[command, "-b", bundle.path(), "c1"])
                    .fails("linux.intelRdt: no resctrl file system is mounted (hint: mount -t resctrl");
            }
        }
        let features: Value = serde_json::from_str(&t.corten(&["features"]).ok()).unwrap();
        let expected = json!({"enabled": true, "schemata": true, "monitoring": true});
        assert_eq!(features["linux"]["intelRdt"], expected);
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        for option in ["--l3-cache-schema=L3:0=f", "--mem-bw-schema=MB:0=10"] {
            for more in [&["--dry-run"][..], &[]] {
                let args = [&["update", option], more, &["c1"]].concat();
                t.corten(&args).fails("the container has no linux.intelRdt");
            }
        }
        t.delete("c1");
    });
}

/// config-linux.md#intelrdt: an existing class is joined by the container's process, its children and
/// processes of exec, and is not removed.
#[test]
fn an_existing_class_is_joined_and_not_removed() {
    isolated_in(View::V1, |t| {
        fs::create_dir(class("gold")).unwrap();
        create(t, json!({"closID": "gold"}), |c| {
            c["process"]["args"] = json!(["/bin/sh", "-c", "sleep 1000 & wait"]);
        })
        .ok();
        let pid = t.pid("c1");
        assert_eq!(place(pid), "/gold");
        t.corten(&["start", "c1"]).ok();
        assert!(poll(Duration::from_secs(10), || !children(pid).is_empty()));
        assert_eq!(place(children(pid)[0]), "/gold");
        let file = t.dir.join("pid");
        t.corten(&["exec", "-d", "--pid-file", file.to_str().unwrap(), "c1", "/bin/sleep", "1000"]).ok();
        let executed: i32 = fs::read_to_string(&file).unwrap().parse().unwrap();
        assert_eq!(place(executed), "/gold");
        assert_eq!(record(t)["intelRdt"], json!({"mount": STAND_IN, "group": class("gold"), "made": []}));
        t.corten(&["update", "--l3-cache-schema", "L3:0=f", "c1"])
            .fails("was not created for this container");

        let applied: Value =
            serde_json::from_str(&t.corten(&["state", "--applied", "--format", "json", "c1"]).ok()).unwrap();
        let row = json!({"place": "linux.intelRdt", "file": class("gold").join("tasks"), "asked": pid, "applied": pid, "ok": true});
        assert!(applied["applied"].as_array().unwrap().contains(&row), "{applied:#}");
        fs::write(class("harness/tasks"), pid.to_string()).unwrap();
        t.corten(&["state", "--applied", "--format", "json", "c1"])
            .fails("not applied as asked: linux.intelRdt");

        fs::write(class("harness/tasks"), executed.to_string()).unwrap();
        t.delete("c1");
        assert!(class("gold").exists());
        fs::remove_dir(class("gold")).unwrap();
    });
}

/// config-linux.md#intelrdt: without closID the class has the container's id, and is removed with the
/// container.
#[test]
fn a_class_without_closid_is_removed_with_the_container() {
    isolated_in(View::V1, |t| {
        create(t, json!({}), |_| {}).ok();
        assert_eq!(place(t.pid("c1")), "/c1");
        assert_eq!(record(t)["intelRdt"]["made"], json!([class("c1")]));
        t.delete("c1");
        assert!(!class("c1").exists());
        // The class is also removed if the creation fails in the end.
        create(t, json!({}), |c| c["process"]["args"] = json!(["/does/not/exist"])).fails("/does/not/exist");
        assert!(!class("c1").exists());
        // An existing class is not removed.
        fs::create_dir(class("c1")).unwrap();
        create(t, json!({}), |_| {})
            .fails("linux.intelRdt: the class /sys/fs/cgroup/memory/c1 exists already");
        assert!(class("c1").exists());
        fs::remove_dir(class("c1")).unwrap();
        create(t, json!({"closID": "iron"}), |_| {}).fails("linux.intelRdt.closID: the class");
        assert!(!class("iron").exists());
        create(t, json!({"closID": "a/b"}), |_| {}).fails("linux.intelRdt.closID: the class \"a/b\"");
    });
}

/// config-linux.md#intelrdt: the monitoring group has the container's id, in any class, and is removed with
/// the container.
#[test]
fn a_monitoring_group_is_removed_with_the_container() {
    isolated_in(View::V1, |t| {
        create(t, json!({"closID": "/", "enableMonitoring": true}), |_| {})
            .fails("linux.intelRdt.enableMonitoring: resctrl has no monitoring");
        fs::create_dir(class("mon_groups")).unwrap();
        fs::create_dir_all(class("gold/mon_groups")).unwrap();
        for (name, group) in [("/", "mon_groups/c1"), ("gold", "gold/mon_groups/c1")] {
            create(t, json!({"closID": name, "enableMonitoring": true}), |_| {}).ok();
            assert_eq!(place(t.pid("c1")), format!("/{group}"));
            assert_eq!(record(t)["intelRdt"]["made"], json!([class(group)]));
            t.delete("c1");
            assert!(!class(group).exists());
        }
        for dir in ["gold/mon_groups", "gold", "mon_groups"] {
            fs::remove_dir(class(dir)).unwrap();
        }
    });
}

/// The class that a killed `create` has made is on record, so `delete --force` removes it.
#[test]
fn delete_removes_the_class_of_a_killed_create() {
    isolated_in(View::V1, |t| {
        let bundle = t.bundle(|c| {
            c["linux"]["intelRdt"] = json!({});
            c["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]});
        });
        let args = ["--cgroup-manager", "disabled", "create", "-b", bundle.path(), "c1"];
        let mut child = with_resctrl(t, &args).stdin(Stdio::null()).spawn().unwrap();
        let inside = || fs::read_to_string(class("c1/tasks")).is_ok_and(|text| !text.is_empty());
        assert!(poll(Duration::from_secs(10), inside));
        child.kill().unwrap();
        child.wait().unwrap();
        // Unlike resctrl, the stand-in is busy until the process that was killed with the runtime is reaped.
        assert!(poll(Duration::from_secs(10), || {
            crate::harness::kill_all("sleep");
            crate::harness::reap();
            !inside()
        }));
        t.corten(&["delete", "--force", "c1"]).ok();
        assert!(!class("c1").exists());
    });
}

/// Starts a container with a record of a class of its own: a plain directory, whose file keeps whatever is
/// written.
fn in_a_directory(t: &Test) -> PathBuf {
    let bundle = t.bundle(|_| {});
    t.start(&bundle, "c1");
    let (mount, edit) = (t.dir.join("resctrl"), |name: &str, change: &dyn Fn(&mut Value)| {
        let file = t.state().join("c1").join(name);
        let mut value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut value);
        fs::write(&file, value.to_string()).unwrap();
    });
    let group = mount.join("c1");
    fs::create_dir_all(&group).unwrap();
    fs::write(group.join("schemata"), "L3:0=f\n").unwrap();
    edit("state.json", &|record| {
        record["intelRdt"] = json!({"mount": mount, "group": group, "made": [group]});
    });
    edit("config.json", &|config| config["linux"]["intelRdt"] = json!({"schemata": ["L3:0=f"]}));
    group
}

fn kept(t: &Test) -> Value {
    let config: Value =
        serde_json::from_str(&fs::read_to_string(t.state().join("c1/config.json")).unwrap()).unwrap();
    config["linux"].clone()
}

/// `update` changes the schemata of cache and memory bandwidth, both or none, and also the kept
/// configuration.
#[test]
fn update_changes_both_rdt_limits_or_none() {
    isolated_in(View::V2, |t| {
        let group = in_a_directory(t);
        let says = || fs::read_to_string(group.join("schemata")).unwrap();
        let l3 = ["update", "--l3-cache-schema", "L3:0=3"];
        let shown = t.corten(&[&l3[..], &["--dry-run", "c1"]].concat()).ok();
        assert_eq!((shown.as_str(), says().as_str()), ("schemata: L3:0=f -> L3:0=3\n", "L3:0=f\n"));
        assert_eq!(kept(t)["intelRdt"], json!({"schemata": ["L3:0=f"]}));
        let limits = t.dir.join("limits");
        for (document, error) in [
            (json!({"unified": {"cgroup.max.depth": "nonsense"}}), "cgroup.max.depth"),
            (json!({"unified": {"nonesuch.max": "1"}}), "nonesuch"),
        ] {
            fs::write(&limits, document.to_string()).unwrap();
            t.corten(&[&l3[..], &["--resources", limits.to_str().unwrap(), "c1"]].concat()).fails(error);
            assert_eq!(says(), "L3:0=f\n", "{document}");
            assert_eq!(kept(t)["intelRdt"], json!({"schemata": ["L3:0=f"]}));
        }
        t.corten(&["update", "--mem-bw-schema", "MB:0=10", "c1"]).fails("this machine has no MB to share");
        let before = kept(t)["resources"].clone();
        t.corten(&[&l3[..], &["c1"]].concat()).ok();
        let expected = json!({"schemata": ["L3:0=3"], "l3CacheSchema": "L3:0=3"});
        assert_eq!((says().as_str(), &kept(t)["intelRdt"]), ("L3:0=3\n", &expected));
        assert_eq!(kept(t)["resources"], before);
        fs::write(&limits, json!({"unified": {"cgroup.max.depth": "2"}}).to_string()).unwrap();
        let args = ["--l3-cache-schema", "L3:0=1", "--resources", limits.to_str().unwrap(), "c1"];
        t.corten(&[&["update"][..], &args].concat()).ok();
        assert_eq!(says(), "L3:0=1\n");
        assert_eq!(kept(t)["resources"]["unified"]["cgroup.max.depth"], "2");
        let stats: Value = serde_json::from_str(&t.corten(&["events", "--stats", "c1"]).ok()).unwrap();
        assert_eq!(stats["data"]["intel_rdt"], json!({"l3_cache_schema": "L3:0=1"}));
        fs::remove_file(group.join("schemata")).unwrap();
        t.delete("c1");
        assert!(!group.exists());
    });
}
