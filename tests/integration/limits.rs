//! Limits by their effect: a process over a limit is killed, refused or slowed down. A test is skipped if the
//! kernel or the machine lacks its features. The VM (scripts/test-vm) has all of them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, isolated, poll, skip};

const CGROUP: &str = "/sys/fs/cgroup";
const MIB: u64 = 1 << 20;

/// Skips the test unless the v2 hierarchy has all of these controllers.
pub fn needs(controllers: &[&str]) {
    let there = fs::read_to_string(Path::new(CGROUP).join("cgroup.controllers")).unwrap();
    for controller in controllers {
        if !there.split_whitespace().any(|name| name == *controller) {
            skip(&format!("no {controller} controller on the cgroup v2 hierarchy"));
        }
    }
}

/// Makes a bundle in the cgroup /c1, with these resources, that runs a script.
fn limited(t: &Test, resources: Value, script: &str) -> Bundle {
    t.bundle(|c| {
        c["linux"]["cgroupsPath"] = json!("/c1");
        c["linux"]["resources"] = resources;
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    })
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(CGROUP).join("c1").join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// Returns a number of a file such as cpu.stat by its key.
fn figure(file: &str, key: &str) -> u64 {
    let text = read(file);
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{file} has no {key}: {text}")).parse().unwrap()
}

/// config-linux.md#memory: a process over `limit` is killed, which `run` reports as 137. Swap does not help
/// it.
#[test]
fn a_process_over_the_memory_limit_is_killed() {
    isolated(|t| {
        needs(&["memory"]);
        // tail keeps an endless line in memory until the limit stops it.
        let bundle =
            limited(t, json!({"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}), "exec tail /dev/zero");
        t.run_bundle(&bundle).exits(137);
        t.start(&bundle, "c1");
        t.until("c1", "stopped");
        assert!(figure("memory.events", "oom_kill") >= 1, "{}", read("memory.events"));
        t.delete("c1");
        // A process that stays below the limit is not killed.
        let script = "head -c 8000000 /dev/zero | tail | wc -c";
        let bundle = limited(t, json!({"memory": {"limit": 64 * MIB}}), script);
        assert_eq!(t.run_bundle(&bundle).ok(), "8000000\n");
    });
}

/// config-linux.md#pids: one process more than the limit is not made.
#[test]
fn a_fork_over_the_pids_limit_fails() {
    isolated(|t| {
        needs(&["pids"]);
        let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo all";
        let out = t.run_bundle(&limited(t, json!({"pids": {"limit": 6}}), script));
        assert!(out.code != 0 && out.stdout.is_empty() && out.stderr.contains("fork"), "{out:?}");
        assert_eq!(t.run_bundle(&limited(t, json!({"pids": {"limit": 9}}), script)).ok(), "all\n");
        // A process of exec counts too.
        t.start(&limited(t, json!({"pids": {"limit": 3}}), "sleep 1000 & sleep 1000 & wait"), "c1");
        assert!(poll(Duration::from_secs(10), || figure_of("pids.current") == 3));
        t.exec("c1", "true").fails("the container's own limit on tasks is reached").fails("c1 is 3");
        t.delete("c1");
    });
}

/// Returns the number in a file that has only one.
fn figure_of(file: &str) -> u64 {
    read(file).trim().parse().unwrap()
}

/// config-linux.md#cpu: a busy loop with a tenth of a processor gets no more.
#[test]
fn the_cpu_quota_holds_a_busy_loop_back() {
    isolated(|t| {
        needs(&["cpu"]);
        let cpu = json!({"cpu": {"quota": 10000, "period": 100_000}});
        t.start(&limited(t, cpu, "while :; do :; done"), "c1");
        assert!(poll(Duration::from_secs(10), || figure("cpu.stat", "nr_throttled") > 2));
        let (start, before) = (Instant::now(), figure("cpu.stat", "usage_usec"));
        std::thread::sleep(Duration::from_secs(2));
        let used = figure("cpu.stat", "usage_usec") - before;
        let share = used as f64 / start.elapsed().as_micros() as f64;
        assert!(share < 0.2, "{share} of a processor instead of 0.1");
        t.delete("c1");
    });
}

/// config-linux.md#cpu: `shares` of two containers that need one processor decide how much each gets.
#[test]
fn cpu_shares_divide_one_processor() {
    isolated(|t| {
        needs(&["cpu", "cpuset"]);
        let busy = |path: &str, shares: u64| {
            t.bundle(|c| {
                c["linux"]["cgroupsPath"] = json!(path);
                c["linux"]["resources"] = json!({"cpu": {"shares": shares, "cpus": "0"}});
                c["process"]["args"] = json!(["/bin/sh", "-c", "while :; do :; done"]);
            })
        };
        t.start(&busy("/light", 128), "light");
        t.start(&busy("/heavy", 4096), "heavy");
        let used = |name: &str| {
            let text = fs::read_to_string(format!("{CGROUP}/{name}/cpu.stat")).unwrap();
            text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap().parse::<u64>().unwrap()
        };
        let before = (used("light"), used("heavy"));
        std::thread::sleep(Duration::from_secs(3));
        let (light, heavy) = (used("light") - before.0, used("heavy") - before.1);
        assert!(heavy > 3 * light, "light {light}, heavy {heavy}");
        t.delete("light");
        t.delete("heavy");
    });
}

/// config-linux.md#cpu: `cpus` and `mems` confine. A processor or node that does not exist is refused.
#[test]
fn a_cpuset_confines_and_must_exist() {
    isolated(|t| {
        needs(&["cpuset"]);
        let allowed = "grep allowed_list /proc/self/status | tr -d '\\t'";
        let last = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).unwrap().unwrap() - 1;
        let cpu = json!({"cpu": {"cpus": last.to_string(), "mems": "0"}});
        let expected = format!("Cpus_allowed_list:{last}\nMems_allowed_list:0\n");
        assert_eq!(t.run_bundle(&limited(t, cpu.clone(), allowed)).ok(), expected);
        t.start(&limited(t, cpu, "sleep 1000"), "c1");
        assert_eq!(t.exec("c1", allowed).ok(), expected);
        t.delete("c1");
        let bundle = limited(t, json!({"cpu": {"mems": "4000"}}), "true");
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("linux.resources.cpu.mems");
    });
}

/// Returns a disk of this machine, as (device node, major, minor).
fn disk() -> (String, u64, u64) {
    for entry in fs::read_dir("/sys/block").unwrap().flatten() {
        // A real disk has a device behind it.
        if entry.path().join("device").exists() {
            let number = fs::read_to_string(entry.path().join("dev")).unwrap();
            let (major, minor) = number.trim().split_once(':').unwrap();
            let node = format!("/dev/{}", entry.file_name().to_string_lossy());
            return (node, major.parse().unwrap(), minor.parse().unwrap());
        }
    }
    skip("there is no disk")
}

/// config-linux.md#block-io: reading a disk is slowed down to the limit, in bytes or in operations.
#[test]
fn reading_a_disk_is_throttled() {
    isolated(|t| {
        needs(&["io"]);
        let (_, major, minor) = disk();
        // 32 reads of 64 KiB, which bypass the cache.
        let script = "dd if=/dev/disk of=/dev/null bs=64k count=32 iflag=direct 2>/dev/null && echo read";
        let time = |limit: Option<(&str, u64)>| {
            let bundle = limited(t, json!({}), script);
            bundle.edit(|c| {
                let disk = json!({"path": "/dev/disk", "type": "b", "major": major, "minor": minor});
                c["linux"]["devices"] = json!([disk]);
                let allow =
                    json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": "r"});
                c["linux"]["resources"] = json!({"devices": [allow]});
                if let Some((name, rate)) = limit {
                    let throttle = json!([{"major": major, "minor": minor, "rate": rate}]);
                    c["linux"]["resources"]["blockIO"] = json!({ name: throttle });
                }
            });
            let start = Instant::now();
            assert_eq!(t.run_bundle(&bundle).ok(), "read\n");
            start.elapsed()
        };
        let free = time(None);
        for (name, rate) in [("throttleReadBpsDevice", MIB / 2), ("throttleReadIOPSDevice", 8)] {
            // Both limits mean four seconds, but Linux 7 takes only two for the second.
            let slow = time(Some((name, rate)));
            assert!(slow > free + Duration::from_millis(1500), "{name}: {slow:?}, without {free:?}");
        }
    });
}

/// config-linux.md#huge-page-limits: one page more than the limit is refused.
#[test]
fn a_huge_page_over_the_limit_is_refused() {
    isolated(|t| {
        needs(&["hugetlb"]);
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        if free.is_ok_and(|text| text.trim().parse::<u64>().unwrap() < 3) {
            skip("fewer than three huge pages are reserved");
        }
        let run = |resources: Value| {
            let script = "busybox fallocate -l 2097152 /mnt/one && echo one; \
                          busybox fallocate -l 4194304 /mnt/two 2>/dev/null && echo two; true";
            let bundle = limited(t, resources, script);
            bundle.edit(|c| {
                c["mounts"].as_array_mut().unwrap().push(
                    json!({"destination": "/mnt", "type": "hugetlbfs", "source": "hugetlbfs", "options": ["pagesize=2M"]}),
                );
            });
            t.run_bundle(&bundle).ok()
        };
        assert_eq!(run(json!({})), "one\ntwo\n");
        assert_eq!(run(json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 2 * MIB}]})), "one\n");
    });
}

/// config-linux.md#control-groups: the kernel shows each limit whose effect cannot be waited for.
#[test]
fn the_kernel_shows_the_limits_of_the_configuration() {
    isolated(|t| {
        needs(&["memory", "cpu", "pids", "cpuset"]);
        let resources = json!({
            "memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
            "cpu": {"shares": 1024, "quota": 50000, "period": 200_000, "burst": 10000},
            "pids": {"limit": 77},
            "unified": {"memory.high": "50331648", "memory.oom.group": "1", "cpu.weight.nice": "5"},
        });
        let bundle = limited(t, resources, "sleep 1000");
        t.start(&bundle, "c1");
        for (file, expected) in [
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "33554432"),
            ("memory.high", "50331648"),
            ("memory.oom.group", "1"),
            ("cpu.weight.nice", "5"),
            ("cpu.max", "50000 200000"),
            ("cpu.max.burst", "10000"),
            ("pids.max", "77"),
        ] {
            assert_eq!(read(file).trim(), expected, "{file}");
        }
        t.delete("c1");
        for resources in [
            json!({"memory": {"limit": -1, "swap": -1}}),
            json!({"pids": {"limit": -1}}),
            json!({"pids": {"limit": 0}}),
        ] {
            t.start(&limited(t, resources, "sleep 1000"), "c1");
            assert_eq!((read("memory.max").trim(), read("pids.max").trim()), ("max", "max"));
            t.delete("c1");
        }
        t.start(&limited(t, json!({"cpu": {"idle": 1}}), "sleep 1000"), "c1");
        assert_eq!(read("cpu.idle").trim(), "1");
        t.delete("c1");
    });
}

/// Makes a directory that belongs to the user 1000, with the runtime's own process below it, as systemd
/// delegates one.
fn delegate(dir: &Path) {
    fs::create_dir(dir).unwrap();
    fs::create_dir(dir.join("own")).unwrap();
    let top = dir.parent().unwrap();
    let controllers = fs::read_to_string(top.join("cgroup.controllers")).unwrap();
    for controller in controllers.split_whitespace() {
        fs::write(top.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    }
    for name in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "own", "own/cgroup.procs"] {
        std::os::unix::fs::chown(dir.join(name), Some(1000), Some(1000)).unwrap();
    }
}

/// Runs a bundle as the user 1000 whose own cgroup is `cgroup`.
pub(crate) fn run_as_user(t: &Test, cgroup: &str, resources: Value, script: &str) -> Output {
    let bundle = limited(t, resources, script);
    bundle.edit(|c| {
        c["linux"].as_object_mut().unwrap().remove("cgroupsPath");
        c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        for kind in ["uid", "gid"] {
            c["linux"][format!("{kind}Mappings")] = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        }
        // A group that is not mapped cannot own terminals.
        c["mounts"][2]["options"] = json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666"]);
    });
    let mut chown = std::process::Command::new("chown");
    let state = t.dir.join("user-state");
    fs::create_dir_all(&state).unwrap();
    t.call(chown.args(["-hR", "1000:1000"]).arg(&bundle.dir).arg(&state)).ok();
    let corten = t.command(&[]).get_program().to_string_lossy().into_owned();
    // The shell enters the cgroup while it is still root.
    let line = format!(
        "echo $$ > {CGROUP}/{cgroup}/cgroup.procs && exec setpriv --reuid 1000 --regid 1000 --clear-groups \
         {corten} --root {} run -b {} r",
        state.display(),
        bundle.path(),
    );
    let out = t.call(std::process::Command::new("sh").args(["-c", &line]));
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "{out:?}");
    fs::remove_dir(&state).unwrap();
    out
}

/// cgroups(7), delegation: a user's container has limits below a cgroup that belongs to the user.
#[test]
fn a_user_can_set_limits_in_a_delegated_cgroup() {
    isolated(|t| {
        needs(&["pids", "memory"]);
        delegate(&Path::new(CGROUP).join("mine"));
        let many = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo all";
        let out = run_as_user(t, "mine/own", json!({"pids": {"limit": 6}}), many);
        assert!(out.code != 0 && out.stdout.is_empty() && out.stderr.contains("fork"), "{out:?}");
        let out = run_as_user(t, "mine/own", json!({"memory": {"limit": 32 * MIB}}), "exec tail /dev/zero");
        out.exits(137);
        assert_eq!(run_as_user(t, "mine/own", json!({}), "echo ran").stdout, "ran\n");
        fs::remove_dir(format!("{CGROUP}/mine/own")).unwrap();
        fs::remove_dir(format!("{CGROUP}/mine")).unwrap();
    });
}

/// Rootless without delegation: a container without limits runs, and a limit is an error.
#[test]
fn a_user_without_a_cgroup_runs_only_unlimited_containers() {
    isolated(|t| {
        needs(&["pids"]);
        fs::create_dir_all(format!("{CGROUP}/theirs/own")).unwrap();
        assert_eq!(run_as_user(t, "theirs/own", json!({}), "echo ran").stdout, "ran\n");
        let out = run_as_user(t, "theirs/own", json!({"pids": {"limit": 6}}), "echo ran");
        assert!(out.code != 0 && out.stdout.is_empty(), "{out:?}");
        out.fails("ermission denied");
        fs::remove_dir(format!("{CGROUP}/theirs/own")).unwrap();
        fs::remove_dir(format!("{CGROUP}/theirs")).unwrap();
    });
}

/// An AppArmor profile that allows all except reading /etc/passwd. It is loaded as long as the value lives.
struct Profile(&'static str);

impl Profile {
    fn load(t: &Test, name: &'static str) -> Self {
        if !Path::new("/sys/kernel/security/apparmor/.load").exists() {
            skip("this kernel does not run AppArmor");
        }
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  network,\n  \
             signal,\n  deny /etc/passwd r,\n}}\n"
        );
        let file = t.dir.join(name);
        fs::write(&file, text).unwrap();
        t.call(std::process::Command::new("apparmor_parser").args(["-r", "-K"]).arg(&file)).exits(0);
        Self(name)
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = fs::write("/sys/kernel/security/apparmor/.remove", self.0);
    }
}

/// config.md#linux-process, apparmorProfile: the profile denies, also to processes of exec. A profile that is
/// not loaded is an error.
#[test]
fn an_apparmor_profile_denies() {
    isolated(|t| {
        let profile = Profile::load(t, "corten-test");
        let script = "cat /proc/self/attr/current; cat /etc/group | head -n 1; cat /etc/passwd 2>&1";
        for no_new_privileges in [true, false] {
            let bundle = t.bundle(|c| {
                c["process"]["apparmorProfile"] = json!(profile.0);
                c["process"]["noNewPrivileges"] = json!(no_new_privileges);
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            let expected =
                "corten-test (enforce)\nroot:x:0:\ncat: can't open '/etc/passwd': Permission denied\n";
            assert_eq!(t.run_bundle(&bundle).exits(1).stdout, expected);
            bundle.edit(|c| c["process"]["args"] = json!(["sleep", "1000"]));
            t.start(&bundle, "c1");
            assert_eq!(t.exec("c1", script).exits(1).stdout, expected);
            t.delete("c1");
            bundle.edit(|c| c["process"]["apparmorProfile"] = json!("corten-not-loaded"));
            t.run_bundle(&bundle).fails("process.apparmorProfile \"corten-not-loaded\"");
        }
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let denied = t.corten(&["exec", "--apparmor", profile.0, "c1", "cat", "/etc/passwd"]);
        denied.exits(1).fails("Permission denied");
        let missing = t.corten(&["exec", "--apparmor", "corten-not-loaded", "c1", "true"]);
        missing.fails("process.apparmorProfile \"corten-not-loaded\"");
        t.delete("c1");
    });
}
