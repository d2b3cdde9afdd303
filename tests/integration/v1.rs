//! cgroup v1, and v2 beside it: limits by their effect. The harness checks that nothing is left in any
//! hierarchy. The planner's own tests cover the translation of limits.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten::testing::cgroups::{Cgroup, CgroupRecord, frozen as frozen_at};
use serde_json::{Value, json};

use crate::cgroups::opens_a_tunnel;
use crate::harness::{Test, View, directories, isolated_in, patience, poll, skip, without_namespace};
use crate::limits::run_as_user;

const CGROUP: &str = "/sys/fs/cgroup";

/// Returns the directory of the container's cgroup with a controller.
fn dir(controller: &str, path: &str) -> PathBuf {
    Path::new(CGROUP).join(controller).join(path)
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_string()
}

fn limited(t: &Test, resources: Value, script: &str) -> crate::harness::Output {
    t.run(script, |c| c["linux"]["resources"] = resources)
}

/// config-linux.md#cgroups-path: the container is in all hierarchies, and they are the roots of its cgroup
/// namespace.
#[test]
fn the_container_is_in_all_v1_hierarchies() {
    isolated_in(View::V1, |t| joined(t, View::V1));
}

/// On a hybrid host the container starts in v2's hierarchy.
#[test]
fn the_container_is_in_all_v1_hierarchies_and_v2() {
    isolated_in(View::Hybrid, |t| joined(t, View::Hybrid));
}

fn joined(t: &Test, view: View) {
    let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/above/c1"));
    let pid = t.start(&bundle, "c1");
    let outside = read(format!("/proc/{pid}/cgroup").into());
    for line in outside.lines() {
        let there = line.ends_with(":/above/c1") || (view == View::V1 && line.starts_with("0::"));
        assert!(there, "{outside}");
    }
    let inside = t.exec("c1", "cat /proc/1/cgroup /proc/self/cgroup").ok();
    for line in inside.lines() {
        assert!(line.ends_with(":/") || (view == View::V1 && line.starts_with("0::")), "{inside}");
    }
    let pids: Vec<i32> = serde_json::from_str(&t.corten(&["ps", "--format", "json", "c1"]).ok()).unwrap();
    assert_eq!(pids, [pid]);
    let state = read(t.state().join("c1/state.json"));
    assert!(state.contains("/sys/fs/cgroup/memory/above/c1"), "{state}");
    t.delete("c1");
    assert!(directories(Path::new(CGROUP)).iter().all(|dir| !dir.ends_with("above")));
}

/// config.md#mounts with type cgroup: the container's own part of each hierarchy, at the host's places,
/// read-only if the options say so.
#[test]
fn a_cgroup_mount_has_all_v1_hierarchies() {
    isolated_in(View::V1, |t| mounted(t, View::V1));
}

/// On a hybrid host v2 is among them.
#[test]
fn a_cgroup_mount_has_all_v1_hierarchies_and_v2() {
    isolated_in(View::Hybrid, |t| mounted(t, View::Hybrid));
}

fn mounted(t: &Test, view: View) {
    let names = |dir: &Path| {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into())
            .collect();
        names.sort();
        names.join("\n") + "\n"
    };
    let expected = names(Path::new(CGROUP));
    assert_eq!(expected.contains("unified"), view == View::Hybrid);
    let script = "ls /sys/fs/cgroup; cat /sys/fs/cgroup/*/cgroup.procs | sort -u; \
                  cd /sys/fs/cgroup; for dir in . *; do mkdir $dir/x 2>/dev/null && echo made $dir; done; true";
    for namespace in [true, false] {
        for options in [json!(["ro", "nosuid"]), json!(["nosuid"])] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                for mount in c["mounts"].as_array_mut().unwrap() {
                    if mount["type"] == "cgroup" {
                        mount["options"] = options.clone();
                    }
                }
                if !namespace {
                    without_namespace(c, "cgroup");
                }
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            let out = t.run_bundle(&bundle).ok();
            let rest = out.strip_prefix(&expected).unwrap_or_else(|| panic!("{out}"));
            // Only the container's own processes.
            assert!(
                rest.starts_with("1\n") && rest.lines().all(|l| l.starts_with("made") || l.len() < 3),
                "{out}"
            );
            assert_eq!(rest.contains("made"), options.as_array().unwrap().len() == 1, "{out}");
        }
    }
}

/// A user who cannot make cgroups runs containers without them. The mounts show the caller's cgroups, as with
/// runc.
#[test]
fn a_user_without_cgroups_gets_the_callers_mounted() {
    // The tests are closures, because the harness takes the test's name from them.
    isolated_in(View::V1, |t| {
        users_view(t);
    });
}

#[test]
fn a_user_without_cgroups_gets_the_callers_mounted_with_v2() {
    isolated_in(View::Hybrid, |t| {
        users_view(t);
    });
}

fn users_view(t: &Test) {
    let script = "cd /sys/fs/cgroup && for dir in *; do [ -e $dir/cgroup.procs ] || echo no $dir; done; \
                  echo pids/*.procs; mkdir pids/x 2>/dev/null && echo made; true";
    assert_eq!(run_as_user(t, "pids", json!({}), script).stdout, "pids/cgroup.procs\n");
}

/// On a host with v1, the type cgroup2 is v2 alone. In a user namespace all hierarchies are mounted too.
#[test]
fn a_cgroup2_mount_has_v2_alone() {
    isolated_in(View::Hybrid, |t| {
        let out = t.run("ls /sys/fs/cgroup", |c| {
            for mount in c["mounts"].as_array_mut().unwrap() {
                if mount["type"] == "cgroup" {
                    mount["type"] = json!("cgroup2");
                }
            }
        });
        assert!(out.ok().contains("cgroup.controllers"));
        let bundle = t.bundle(|c| {
            crate::namespaces::map_ids(c);
            c["process"]["args"] = json!(["cat", "/sys/fs/cgroup/pids/cgroup.procs"]);
        });
        crate::namespaces::give_rootfs(t, &bundle);
        assert_eq!(t.run_bundle(&bundle).ok(), "1\n");
    });
}

/// With a new user namespace, a joined one, and an intermediate process, the container is in all hierarchies.
#[test]
fn every_way_of_cloning_puts_the_container_into_all_hierarchies() {
    isolated_in(View::V1, |t| {
        let script = "cut -d: -f3 /proc/self/cgroup | sort -u";
        let with_user = |c: &mut Value| {
            crate::namespaces::map_ids(c);
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            c["mounts"].as_array_mut().unwrap().retain(|m| m["type"] != "cgroup");
        };
        let bundle = t.bundle(with_user);
        crate::namespaces::give_rootfs(t, &bundle);
        let out = t.run_bundle(&bundle).ok();
        // v2 is not visible here. Its line is the harness's own cgroup, beside the root of the namespace.
        assert!(out.lines().any(|line| line == "/") && !out.contains("c1"), "{out}");
        let bundle = t.bundle(|c| {
            with_user(c);
            without_namespace(c, "cgroup");
        });
        crate::namespaces::give_rootfs(t, &bundle);
        assert!(t.run_bundle(&bundle).ok().lines().any(|line| line == "/c1"));
    });
}

/// config-linux.md#memory: more memory than the limit is refused.
#[test]
fn a_process_over_the_memory_limit_is_killed() {
    isolated_in(View::V1, |t| {
        let resources = json!({"memory": {"limit": 33_554_432, "swap": 33_554_432, "reservation": 16_777_216, "swappiness": 10}});
        // tail keeps its input in memory until the line ends.
        limited(t, resources.clone(), "tail -n 1 /dev/zero").exits(137);
        limited(t, resources, "head -c 1000000 /dev/zero | tail -n 1 | wc -c").ok();
    });
}

/// config-linux.md#pids: the fork that would exceed the limit fails.
#[test]
fn a_fork_over_the_pids_limit_fails() {
    isolated_in(View::V1, |t| {
        let script = "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo unlimited";
        let out = limited(t, json!({"pids": {"limit": 5}}), script);
        assert!(out.stderr.contains("fork") && !out.stdout.contains("unlimited"), "{out:?}");
        assert!(limited(t, json!({"pids": {"limit": 50}}), script).ok().contains("unlimited"));
        // As engines mean it, 0 is no limit.
        assert!(limited(t, json!({"pids": {"limit": 0}}), script).ok().contains("unlimited"));
    });
}

/// config-linux.md#cpu: the quota holds a busy container back, and shares are set.
#[test]
fn the_cpu_quota_holds_a_busy_loop_back() {
    isolated_in(View::V1, |t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"cpu": {"quota": 10_000, "period": 50_000, "shares": 512}});
            c["process"]["args"] = json!(["/bin/sh", "-c", "while :; do :; done"]);
        });
        t.start(&bundle, "c1");
        let usage = || read(dir("cpuacct", "c1/cpuacct.usage")).parse::<u128>().unwrap();
        let (begin, before) = (Instant::now(), usage());
        std::thread::sleep(Duration::from_secs(1));
        let (used, passed) = (usage() - before, begin.elapsed().as_nanos());
        assert!(used < passed * 2 / 5, "{used} of {passed} ns, allowed is a fifth");
        let stat = read(dir("cpu", "c1/cpu.stat"));
        let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        assert!(throttled.parse::<u32>().unwrap() > 0, "{stat}");
        assert_eq!(read(dir("cpu", "c1/cpu.shares")), "512");
        t.delete("c1");
    });
}

/// config-linux.md#cpu: the container runs on these processors, or on those of its parent cgroup.
#[test]
fn a_cpuset_confines_or_is_inherited() {
    isolated_in(View::V1, |t| {
        let script = "sed -n 's/Cpus_allowed_list:\t//p' /proc/self/status";
        let all = t.run(script, |_| {}).ok();
        if all.trim() == "0" {
            skip("has one processor only");
        }
        for path in ["/c1", "/above/c1"] {
            let run = |resources: Value| {
                t.run(script, |c| {
                    c["linux"]["cgroupsPath"] = json!(path);
                    c["linux"]["resources"] = resources;
                })
            };
            assert_eq!(run(json!({"cpu": {"cpus": "1", "mems": "0"}})).ok(), "1\n");
            assert_eq!(run(json!({})).ok(), all);
        }
    });
}

/// As on cgroup v2, every container can open /dev/net/tun.
#[test]
fn the_tunnel_device_can_be_opened_without_a_rule() {
    isolated_in(View::V1, |t| assert_eq!(opens_a_tunnel(t), "opened\n"));
}

/// config-linux.md#device-whitelist, in the order that runtime-tools reads: the user's rules, then the
/// defaults.
#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    isolated_in(View::V1, |t| {
        if fs::File::open("/dev/fuse").is_err() {
            skip("no /dev/fuse, a device that anyone may open and no runtime allows by default");
        }
        let rule = json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        let deny = json!({"allow": false, "access": "rwm"});
        let script = "head -c1 /dev/zero >/dev/null && echo zero; (: </dev/my) 2>/dev/null && echo mine";
        for (rules, expected) in [(json!([deny]), "zero\n"), (json!([deny, rule]), "zero\nmine\n")] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                c["linux"]["devices"] =
                    json!([{"path": "/dev/my", "type": "c", "major": 10, "minor": 229, "fileMode": 438}]);
                c["linux"]["resources"] = json!({"devices": rules});
            });
            t.start(&bundle, "c1");
            assert_eq!(t.exec("c1", script).stdout, expected, "{rules}");
            let list = read(dir("devices", "c1/devices.list"));
            let first = if expected.contains("mine") { "c 10:229 rw" } else { "c *:* m" };
            assert_eq!(list.lines().next(), Some(first), "{list}");
            t.delete("c1");
        }
        let part = json!({"allow": true, "type": "c", "major": 10, "access": "rw"});
        let back = json!({"allow": false, "type": "c", "major": 10, "minor": 229, "access": "rw"});
        limited(t, json!({"devices": [part, back]}), "true").fails("linux.resources.devices");
    });
}

/// The freezer stops and resumes all processes. A frozen container can be killed and deleted.
#[test]
fn a_frozen_container_stands_still_and_can_be_killed() {
    isolated_in(View::V1, |t| frozen(t, View::V1));
}

/// The same with v2's freezer.
#[test]
fn a_container_frozen_by_v2_stands_still_and_can_be_killed() {
    isolated_in(View::Hybrid, |t| frozen(t, View::Hybrid));
}

fn frozen(t: &Test, view: View) {
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["process"]["args"] =
            json!(["/bin/sh", "-c", "i=0; while :; do echo $((i=i+1)) >/my; sleep 0.01; done"]);
    });
    let soon = || Instant::now() + Duration::from_secs(5);
    let count = || fs::read_to_string(bundle.rootfs().join("my")).unwrap_or_default();
    let moves = || {
        let before = count();
        poll(Duration::from_millis(500), || count() != before)
    };
    for end in [&["kill", "--all", "c1", "KILL"][..], &["delete", "--force", "c1"]] {
        t.start(&bundle, "c1");
        let record: Value = serde_json::from_str(&read(t.state().join("c1/state.json"))).unwrap();
        let record: CgroupRecord = serde_json::from_value(record["cgroup"].clone()).unwrap();
        assert_eq!(record.path.as_os_str().is_empty(), view == View::V1, "{record:?}");
        let cgroup = Cgroup::open(&record).unwrap().unwrap();
        assert!(moves() && !frozen_at(&record).unwrap());
        cgroup.freeze(soon()).unwrap();
        assert_eq!(t.status("c1"), "paused");
        assert!(!moves(), "still runs");
        t.corten(&["exec", "c1", "true"]).fails("paused");
        cgroup.thaw(soon()).unwrap();
        assert!(moves() && t.status("c1") == "running");
        cgroup.freeze(soon()).unwrap();
        t.corten(end).ok();
        if end[0] == "kill" {
            t.until("c1", "stopped");
            t.corten(&["delete", "c1"]).ok();
        }
    }
}

/// A signal to `exec --ignore-paused` ends it at once. The process that it has started is killed, and dies when
/// the container is resumed: v1's freezer holds a killed process too.
#[test]
fn exec_in_a_frozen_container_can_be_ended() {
    isolated_in(View::V1, |t| {
        t.start(&t.bundle(|_| {}), "c1");
        t.corten(&["pause", "c1"]).ok();
        let exec = t.spawn(&mut t.command(&["exec", "--ignore-paused", "c1", "/bin/sleep", "1001"]));
        let inside = || t.corten(&["ps", "-f", "json", "c1"]).ok().matches(',').count() == 1;
        assert!(poll(Duration::from_secs(10), inside));
        let begun = Instant::now();
        t.call(std::process::Command::new("kill").arg(exec.child.id().to_string())).ok();
        exec.wait().fails("before the program ran").exits(255);
        assert!(begun.elapsed() < Duration::from_secs(4) * patience());
        t.corten(&["resume", "c1"]).ok();
        assert!(poll(Duration::from_secs(10), || !inside()));
        t.delete("c1");
    });
}

/// A container can freeze a cgroup below its own. Its processes are killed all the same.
#[test]
fn a_process_that_the_container_has_frozen_is_killed() {
    isolated_in(View::V1, |t| frozen_below(t, View::V1));
}

/// The same if v2 kills them.
#[test]
fn a_process_that_the_container_has_frozen_is_killed_with_v2() {
    isolated_in(View::Hybrid, |t| frozen_below(t, View::Hybrid));
}

fn frozen_below(t: &Test, view: View) {
    let script = "mkdir -p /sys/fs/cgroup/freezer/a/b; cd /sys/fs/cgroup/freezer/a/b; sleep 1000 & \
                  echo $! > cgroup.procs; echo FROZEN > freezer.state; while :; do sleep 1; done";
    let bundle = t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["rw"]);
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    let state = dir("freezer", "c1/a/b/freezer.state");
    let frozen = || fs::read_to_string(&state).is_ok_and(|text| text == "FROZEN\n");
    for end in [&["kill", "--all", "c1", "KILL"][..], &["delete", "--force", "c1"]] {
        t.start(&bundle, "c1");
        assert!(poll(Duration::from_secs(10), frozen), "{view:?}");
        t.corten(end).ok();
        if end[0] == "kill" {
            t.until("c1", "stopped");
            t.corten(&["delete", "c1"]).ok();
        }
    }
}

/// `kill --all` and `delete` reach every process, also those that fork and those in cgroups below.
#[test]
fn kill_all_and_delete_reach_every_process() {
    isolated_in(View::V1, |t| {
        let script = "while :; do sleep 100 & sleep 0.01; done";
        for kill in [true, false] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/c1");
                c["linux"]["resources"] = json!({"pids": {"limit": 100}});
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
                without_namespace(c, "pid");
            });
            t.start(&bundle, "c1");
            let below = dir("freezer", "c1/a/b");
            fs::create_dir_all(&below).unwrap();
            let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
            fs::write(below.join("cgroup.procs"), sleep.id().to_string()).unwrap();
            if kill {
                t.corten(&["kill", "--all", "c1", "KILL"]).ok();
                t.until("c1", "stopped");
                sleep.wait().unwrap();
                t.corten(&["delete", "c1"]).ok();
            } else {
                t.delete("c1");
                sleep.wait().unwrap();
            }
        }
    });
}

/// A limit that the kernel refuses, or that has no controller, is an error that leaves nothing in any
/// hierarchy.
#[test]
fn a_limit_that_cannot_be_set_is_refused() {
    isolated_in(View::V1, |t| {
        for (resources, place) in [
            (json!({"cpu": {"cpus": "4000"}}), "linux.resources.cpu.cpus"),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}),
                "linux.resources.hugepageLimits[0]",
            ),
            (json!({"network": {"classID": 1_048_577}}), "linux.resources.network.classID"),
            (json!({"memory": {"kernel": 1_048_576}}), "linux.resources.memory.kernel"),
            (json!({"unified": {"memory.max": "1000"}}), "linux.resources.unified"),
            (json!({"blockIO": {"leafWeight": 100}}), "linux.resources.blockIO.leafWeight"),
        ] {
            let bundle = t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!("/above/c1");
                c["linux"]["resources"] = resources;
            });
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(place);
        }
    });
}

/// A controller that only v2 has is used there.
#[test]
fn a_controller_that_only_v2_has_is_used() {
    isolated_in(View::Hybrid, |t| {
        let offered = read(dir("unified", "cgroup.controllers"));
        if !offered.contains("hugetlb") {
            skip("v2 has no hugetlb controller here");
        }
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
                                             "pids": {"limit": 77}});
        });
        t.start(&bundle, "c1");
        assert_eq!(read(dir("unified", "c1/hugetlb.2MB.max")), "4194304");
        assert_eq!(read(dir("pids", "c1/pids.max")), "77");
        t.delete("c1");
    });
}

/// runtime.md#create: cgroups with other processes are refused, and are not changed.
#[test]
fn a_cgroup_in_use_is_refused() {
    isolated_in(View::V1, |t| {
        let taken = dir("pids", "taken");
        fs::create_dir(&taken).unwrap();
        let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(taken.join("cgroup.procs"), sleep.id().to_string()).unwrap();
        let bundle = t.bundle(|c| c["linux"]["cgroupsPath"] = json!("/taken"));
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("pids/taken");
        assert!(sleep.try_wait().unwrap().is_none(), "the other process lives");
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        // An empty cgroup is accepted, with any limits.
        fs::write(taken.join("pids.max"), "3").unwrap();
        t.start(&bundle, "c1");
        t.delete("c1");
    });
}

/// The lifecycle tests and those of run pass in every view.
#[test]
fn the_lifecycle_is_the_same_on_v1() {
    again("v1");
}

#[test]
fn the_lifecycle_is_the_same_on_v1_with_v2() {
    again("hybrid");
}

fn again(view: &str) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args(["lifecycle::", "run::"]).env("CORTEN_TEST_VIEW", view);
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("running ") && !text.contains("running 0 tests"),
        "{text}"
    );
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        // The line bypasses libtest, as those of the harness do.
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{line} (view {view})\n")));
    }
}

/// On v1 a frozen process does not die of a signal, so kill thaws the container.
#[test]
fn kill_thaws_a_paused_container() {
    isolated_in(View::V1, |t| {
        t.start(&t.bundle(|_| {}), "c1");
        t.corten(&["pause", "c1"]).ok();
        t.corten(&["kill", "c1", "KILL"]).ok();
        t.until("c1", "stopped");
        t.corten(&["delete", "c1"]).ok();
        t.start(&t.bundle(|_| {}), "c1");
        t.corten(&["pause", "c1"]).ok();
        t.delete("c1");
    });
}

/// `update` writes to the hierarchy that has the file, and writes the old values back if one write fails.
#[test]
fn update_writes_to_the_hierarchy_of_each_limit() {
    isolated_in(View::Hybrid, |t| {
        let bundle = t.bundle(|c| {
            c["linux"]["cgroupsPath"] = json!("/c1");
            c["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 40}});
        });
        t.start(&bundle, "c1");
        let limits = || (read(dir("memory", "c1/memory.limit_in_bytes")), read(dir("pids", "c1/pids.max")));
        let now = |memory: u64, pids: &str| assert_eq!(limits(), (memory.to_string(), pids.to_string()));
        t.corten(&["update", "--memory", "128M", "--pids-limit", "1", "c1"]).ok();
        now(128 << 20, "1");
        t.exec("c1", "/bin/true & wait").exits(2);
        t.corten(&["update", "--memory", "32M", "c1"]).ok();
        now(32 << 20, "1");
        t.corten(&["update", "--pids-limit", "30", "--cpuset-cpus", "4000", "c1"]).fails("cpu.cpus");
        now(32 << 20, "1");
        for none in ["-1", "0"] {
            t.corten(&["update", "--pids-limit", "7", "c1"]).ok();
            t.corten(&["update", "--pids-limit", none, "c1"]).ok();
            now(32 << 20, "max");
        }
        t.delete("c1");
    });
}
