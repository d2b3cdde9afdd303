//! Namespaces, cgroups and the restrictions of a restored container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::criu::{Volume, call, command, load, moved, save, with_criu};
use crate::criu_files::start_with;
use crate::harness::{poll, skip, with_systemd, without_namespace};
use crate::namespaces::{add, give_rootfs, map_ids};

/// Returns the links of a process to its namespaces.
fn links(pid: i32, kinds: &[&str]) -> Vec<PathBuf> {
    kinds.iter().map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()).collect()
}

/// Joined namespaces are those of the configuration at the restore. Ones that the container shares with its caller are the caller's.
#[test]
fn namespaces_are_joined_again() {
    with_criu(|t| {
        // It reaps what is reparented to it: a zombie keeps the number of its session.
        let reaps = json!(["/bin/sh", "-c", "while :; do usleep 50000; done"]);
        let other = t.start(&t.bundle(|c| c["process"]["args"] = reaps.clone()), "other");
        let volume = Volume::new(t);
        let rows: &[(&[(&str, &str)], bool)] = &[
            (&[("network", "net")], true),
            (&[("ipc", "ipc")], true),
            (&[("uts", "uts")], true),
            (&[("pid", "pid")], true),
            (&[("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid")], true),
            (&[("network", "net")], false),
            (&[("uts", "uts")], false),
            (&[("ipc", "ipc")], false),
        ];
        for (kinds, joined) in rows {
            println!("row: {kinds:?} {joined}");
            let bundle = t.bundle(|c| {
                volume.count(c, "", "true");
                for (kind, link) in *kinds {
                    without_namespace(c, kind);
                    if *joined {
                        add(c, json!({"type": kind, "path": format!("/proc/{other}/ns/{link}")}));
                    }
                    if *kind == "uts" {
                        c.as_object_mut().unwrap().remove("hostname");
                    }
                }
            });
            let _ = fs::remove_file(volume.dir.join("said"));
            moved(t, &volume, &bundle, &[], &[]);
            let pid = t.pid("c2");
            let all = ["net", "ipc", "uts", "pid", "cgroup"];
            for (link, kind) in all.iter().zip(links(pid, &all)) {
                let expected = match kinds.iter().any(|(_, listed)| listed == link) {
                    true if *joined => Some(other),
                    true => Some(std::process::id() as i32),
                    false => None,
                };
                match expected {
                    Some(process) => assert_eq!(kind, links(process, &[link])[0], "{kinds:?} {link}"),
                    None => assert!(
                        kind != links(other, &[link])[0]
                            && kind != links(std::process::id() as i32, &[link])[0],
                        "{kinds:?} {link}"
                    ),
                }
            }
            assert_eq!(
                t.exec("c2", "readlink /proc/self/ns/net").ok().trim(),
                links(pid, &["net"])[0].to_str().unwrap()
            );
            t.delete("c2");
            fs::remove_dir_all(crate::criu::directory(t, "c1", "images")).unwrap();
        }
        t.delete("other");
    });
}

/// What the program sees of its own namespaces stays: host name, cgroup, clocks. The loopback interface is up.
#[test]
fn own_namespaces_look_the_same() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let show = "hostname; cat /proc/self/cgroup; cat /proc/sys/kernel/msgmax; cat /sys/class/net/lo/operstate; grep -c . /proc/net/if_inet6";
        let bundle = t.bundle(|c| volume.count(c, "", show));
        bundle.edit(|c| c["linux"]["sysctl"] = json!({"kernel.msgmax": "4321"}));
        let [before, after] = moved(t, &volume, &bundle, &[], &[]);
        assert_eq!(before, after);
        assert!(after.starts_with("corten\n0::/\n4321\n"), "{after}");
        t.delete("c2");
    });
}

/// A user namespace has its mappings, and exec enters it. CRIU may read an image before it has written the mappings. Root of the
/// namespace has no right in the directory at that moment, so a second attempt can be necessary.
#[test]
fn a_user_namespace_is_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let show =
            "id -u; cat /proc/self/uid_map /proc/self/gid_map; grep -E '^(Cap|NoNew)' /proc/self/status";
        let bundle = t.bundle(|c| {
            volume.count(c, "", show);
            map_ids(c);
        });
        give_rootfs(t, &bundle);
        // CRIU opens a file of the host as root of the namespace.
        let nothing = || [0; 3].map(|_| Stdio::null());
        start_with(t, &bundle, nothing());
        let (_, before) = volume.after(0);
        // The last dump leaves the most of the memory to that before it.
        for (last, parent) in [(1, None), (2, Some(1)), (3, Some(2))] {
            let images = |number: u32| t.dir.join(format!("my-dump-{number}"));
            let parent = parent.map(|number| Path::new("..").join(images(number).file_name().unwrap()));
            let parent = parent.iter().flat_map(|dir| ["--parent-path", dir.to_str().unwrap()]);
            let more: &[&str] = if last == 3 { &[] } else { &["--pre-dump"] };
            let args: Vec<&str> = parent.chain(more.iter().copied()).collect();
            let images = images(last);
            t.corten(
                &[&["checkpoint", "--image-path", images.to_str().unwrap()], &args[..], &["c1"]].concat(),
            )
            .ok();
        }
        let number = volume.stopped_at();
        let copy = |from: &Path, to: &Path| {
            let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
            assert!(copied.unwrap().success());
        };
        let volume_then = t.dir.join("my-volume");
        fs::create_dir(&volume_then).unwrap();
        copy(&volume.dir, &volume_then);
        // CRIU opens the first image at any time before it has written the id maps, or after it.
        for _ in 0..5 {
            // A program that was about to write or to rename a file finds that as it was.
            copy(&volume_then, &volume.dir);
            let images = t.dir.join("my-dump-3");
            let images = ["restore", "--image-path", images.to_str().unwrap()];
            t.corten(&[&images[..], &["--detach", "--bundle", bundle.path(), "c2"]].concat()).ok();
            let after = volume.goes_on(number);
            assert_eq!(before, after);
            assert_eq!(t.exec("c2", show).ok().trim_end(), after);
            let outside = fs::read_to_string(format!("/proc/{}/status", t.pid("c2"))).unwrap();
            assert!(outside.contains("Uid:\t100000\t"), "{outside}");
            t.delete("c2");
        }
    });
}

/// The clocks of a time namespace go on, and exec sees them too.
#[test]
fn a_time_namespace_is_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| {
            volume.count(c, "", "cut -d. -f1 /proc/uptime");
            add(c, json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 172_800, "nanosecs": 5}, "boottime": {"secs": 86400, "nanosecs": 0}});
        });
        let [before, after] = moved(t, &volume, &bundle, &[], &[]);
        let [before, after]: [u64; 2] = [before, after].map(|text| text.parse().unwrap());
        assert!(before > 86400 && after >= before && after < before + 1000, "{before} {after}");
        let inside: u64 = t.exec("c2", "cut -d. -f1 /proc/uptime").ok().trim().parse().unwrap();
        assert!(inside >= after && inside < after + 1000, "{inside} {after}");
        t.delete("c2");
    });
}

/// The restored container has the limits and the device rules of its new configuration.
#[test]
fn limits_are_those_of_the_new_configuration() {
    with_criu(|t| {
        crate::limits::needs(&["memory", "pids", "cpu"]);
        let volume = Volume::new(t);
        let edit = |c: &mut Value, pids: u32, memory: u32| {
            volume.count(c, "", "(: <>/dev/kmsg) 2>&1 | grep -o 'not permitted'; true");
            c["linux"]["cgroupsPath"] = json!(format!("/c{pids}"));
            c["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}]);
            c["linux"]["resources"] = json!({
                "pids": {"limit": pids}, "memory": {"limit": memory}, "cpu": {"shares": 2048},
                "devices": [{"allow": false, "access": "rwm"}],
            });
        };
        let first = t.bundle(|c| edit(c, 100, 64 << 20));
        let second = t.bundle(|c| edit(c, 200, 96 << 20));
        fs::remove_dir_all(second.rootfs()).unwrap();
        fs::rename(first.rootfs(), second.rootfs()).unwrap();
        fs::create_dir(first.rootfs()).unwrap();
        std::os::unix::fs::symlink(second.rootfs(), first.dir.join("my-root")).unwrap();
        first.edit(|c| c["root"]["path"] = json!(second.rootfs()));
        t.start(&first, "c1");
        volume.after(0);
        save(t, "c1", &[]);
        assert!(!Path::new("/sys/fs/cgroup/c100").exists());
        let number = volume.stopped_at();
        load(t, &second, "c1", "c2", &[]);
        assert_eq!(volume.goes_on(number), "not permitted");
        let read = |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup/c200").join(file)).unwrap();
        assert_eq!((read("pids.max").trim(), read("memory.max").trim()), ("200", "100663296"));
        assert!(read("cgroup.procs").contains(&t.pid("c2").to_string()));
        assert!(!Path::new("/sys/fs/cgroup/c100").exists());
        t.delete("c2");
    });
}

/// Cgroups that the container has made are made again below its new one, as `--manage-cgroups-mode` says.
#[test]
fn cgroups_below_are_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let bundle = t.bundle(|c| {
            let first = "mkdir -p /sys/fs/cgroup/sub/leaf; (while :; do usleep 100000; done) & echo $! >/sys/fs/cgroup/sub/leaf/cgroup.procs";
            volume.count(c, first, "cat /proc/$!/cgroup; ls -d /sys/fs/cgroup/sub/leaf");
            let mounts = c["mounts"].as_array_mut().unwrap();
            let cgroup = mounts.iter_mut().find(|mount| mount["type"] == "cgroup").unwrap();
            cgroup["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
        });
        for mode in [None, Some("soft"), Some("full"), Some("strict"), Some("ignore")] {
            println!("row: {mode:?}");
            let args: Vec<&str> = mode.iter().flat_map(|mode| ["--manage-cgroups-mode", *mode]).collect();
            let _ = fs::remove_file(volume.dir.join("said"));
            t.start(&bundle, "c1");
            volume.after(0);
            save(t, "c1", &args);
            let number = volume.stopped_at();
            let mut restore = command(t, &["restore", "-d"], "c1");
            let output = call(t, "c1", restore.args(&args).args(["-b", bundle.path(), "c2"]));
            if mode == Some("strict") {
                // The container's own cgroup exists.
                output.fails("Abort restore of existing cgroups");
            } else {
                output.ok();
                let after = volume.goes_on(number);
                match mode {
                    // Not even the cgroup namespace is restored.
                    Some("ignore") => assert!(after.starts_with("0::/corten-c2\n"), "{after}"),
                    _ => assert_eq!(after, "0::/sub/leaf\n/sys/fs/cgroup/sub/leaf"),
                }
                t.delete("c2");
            }
            fs::remove_dir_all(crate::criu::directory(t, "c1", "images")).unwrap();
        }
    });
}

/// The scope of systemd's is a new one, with the container's processes in it. The host's cgroups keep the options that they are
/// mounted with.
#[test]
fn a_scope_of_systemd_gets_the_restored_processes() {
    with_systemd("a_scope_of_systemd_gets_the_restored_processes", |t| {
        if !Command::new("criu").arg("check").output().is_ok_and(|output| output.status.success()) {
            println!("skipped: criu does not work");
            return;
        }
        let volume = Volume::new(t);
        let name = |number: u32| format!("ctest{}-criu{number}", std::process::id());
        let bundle = |number: u32, rootfs: &Path| {
            t.bundle(|c| {
                volume.count(c, "", "true");
                c["root"]["path"] = json!(rootfs);
                c["linux"]["cgroupsPath"] = json!(format!(":ctest{}:criu{number}", std::process::id()));
                c["linux"]["resources"] = json!({"pids": {"limit": 100 + number}});
            })
        };
        let cgroup =
            |number: u32| Path::new("/sys/fs/cgroup/system.slice").join(format!("{}.scope", name(number)));
        let root = t.bundle(|_| {}).rootfs();
        let options = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
            mounts.lines().find_map(|line| Some(line.split_once(" - cgroup2 ")?.1.to_string())).unwrap()
        };
        let before = options();
        t.corten(&["--systemd-cgroup", "run", "-d", "-b", bundle(1, &root).path(), "c1"]).ok();
        volume.after(0);
        save(t, "c1", &[]);
        assert!(poll(crate::criu::LONG, || !cgroup(1).exists()));
        let number = volume.stopped_at();
        let mut restore = t.command(&["--systemd-cgroup", "restore", "-d", "--image-path"]);
        restore
            .arg(crate::criu::directory(t, "c1", "images"))
            .arg("--work-path")
            .arg(crate::criu::directory(t, "c1", "work"));
        call(t, "c1", restore.args(["-b", bundle(2, &root).path(), "c2"])).ok();
        volume.goes_on(number);
        assert_eq!(fs::read_to_string(cgroup(2).join("pids.max")).unwrap().trim(), "102");
        let pid = t.pid("c2");
        assert!(fs::read_to_string(cgroup(2).join("cgroup.procs")).unwrap().contains(&pid.to_string()));
        assert!(!cgroup(1).exists());
        t.delete("c2");
        assert!(poll(crate::criu::LONG, || !cgroup(2).exists()));
        assert_eq!(options(), before, "the options of the host's cgroups have changed");
    });
}

/// Restrictions stay in force: seccomp, capabilities, no_new_privs, limits, priorities, the umask, the user.
#[test]
fn restrictions_are_restored() {
    with_criu(|t| {
        let volume = Volume::new(t);
        let show = "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask)' /proc/self/status; ulimit -a; cat /proc/1/limits; cat /proc/self/oom_score_adj; mkdir /tmp/x 2>&1; nice";
        for (no_new_privileges, uid) in [(true, 1000), (false, 0)] {
            let bundle = t.bundle(|c| {
                volume.count(c, "", show);
                c["process"]["noNewPrivileges"] = json!(no_new_privileges);
                c["process"]["user"] = json!({"uid": uid, "gid": uid, "additionalGids": [5, 1234], "umask": 0o27});
                c["process"]["oomScoreAdj"] = json!(321);
                c["process"]["rlimits"] = json!([
                    {"type": "RLIMIT_NOFILE", "hard": 512, "soft": 256}, {"type": "RLIMIT_CORE", "hard": 4096, "soft": 0},
                ]);
                c["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
                });
            });
            // The next program is another user's.
            for file in ["said", "new"] {
                let _ = fs::remove_file(volume.dir.join(file));
            }
            let [before, after] = moved(t, &volume, &bundle, &[], &[]);
            assert_eq!(before, after);
            assert!(after.contains("Operation not permitted") && after.contains("Seccomp:\t2"), "{after}");
            let inside = t.exec("c2", "grep ^Seccomp: /proc/self/status; mkdir /tmp/x 2>&1; true").ok();
            assert!(inside.contains("not permitted") && inside.contains("Seccomp:\t2"), "{inside}");
            t.delete("c2");
        }
    });
}

const PROFILES: &str = "profile corten-criu-1 flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
  deny /etc/secret r,
}
profile corten-criu-2 flags=(attach_disconnected,mediate_deleted) {
  file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,
  deny /etc/secret r,
}
";

/// An AppArmor profile is in force after a restore. `--lsm-profile` is another one.
#[test]
fn a_profile_of_apparmor_is_restored() {
    with_criu(|t| {
        if !crate::harness::modules().apparmor
            || Command::new("apparmor_parser").arg("--version").output().is_err()
        {
            skip("AppArmor is not here");
        }
        let file = t.dir.join("profiles");
        fs::write(&file, PROFILES).unwrap();
        t.call(Command::new("apparmor_parser").arg("-qKr").arg(&file)).ok();
        let volume = Volume::new(t);
        for (more, label) in [
            (&[] as &[&str], "corten-criu-1"),
            (&["--lsm-profile", "apparmor:corten-criu-2"], "corten-criu-2"),
        ] {
            let bundle = t.bundle(|c| {
                volume.count(c, "", "cat /proc/self/attr/current; cat /etc/secret 2>/dev/null");
                c["process"]["apparmorProfile"] = json!("corten-criu-1");
            });
            fs::write(bundle.rootfs().join("etc/secret"), "secret\n").unwrap();
            let _ = fs::remove_file(volume.dir.join("said"));
            let [_, after] = moved(t, &volume, &bundle, &[], more);
            assert_eq!(after, format!("{label} (enforce)"));
            t.delete("c2");
        }
        t.call(Command::new("apparmor_parser").arg("-qKR").arg(&file)).ok();
    });
}
