//! User namespaces: joined ones, ones without root, their limits, and what they may not change of the host's mounts.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{isolated, without_namespace};
use crate::namespaces::{add, give_rootfs, map_ids};

/// Engines describe the mappings of a joined user namespace, which must be right. An idmapped mount without
/// its own mappings has those of the joined namespace.
#[test]
fn a_joined_user_namespace_has_its_own_mappings() {
    isolated(|t| {
        let bundle = t.bundle(map_ids);
        give_rootfs(t, &bundle);
        let first = t.start(&bundle, "c1");
        let source = t.dir.join("my-source");
        fs::create_dir(&source).unwrap();
        std::os::unix::fs::chown(&source, Some(5), Some(6)).unwrap();
        let member = |path: &str, mappings: &[(&str, Value)], option: &str| {
            let bundle = t.bundle(|c| {
                add(c, json!({"type": "user", "path": path}));
                for (name, map) in mappings {
                    c["linux"][name] = map.clone();
                }
                let mount = json!({"destination": "/mnt", "source": source, "options": ["rbind", option]});
                c["mounts"].as_array_mut().unwrap().push(mount);
                c["process"]["args"] = json!(["stat", "-c", "%u:%g", "/mnt"]);
            });
            give_rootfs(t, &bundle);
            t.run_bundle(&bundle)
        };
        let map = |rows: &[[u32; 3]]| {
            let row = |[container, host, size]: &[u32; 3]| json!({"containerID": container, "hostID": host, "size": size});
            Value::Array(rows.iter().map(row).collect())
        };
        let same = map(&[[0, 100_000, 65536]]);
        let split = map(&[[10, 100_010, 65526], [0, 100_000, 10]]);
        // The path is that of a process, or a file that outlives it.
        let pinned = t.dir.join("my-pinned");
        fs::write(&pinned, "").unwrap();
        let process = format!("/proc/{first}/ns/user");
        t.call(Command::new("mount").args(["--bind", &process]).arg(&pinned)).ok();
        for path in [process.as_str(), pinned.to_str().unwrap()] {
            for (option, seen) in [("ro", "65534:65534\n"), ("idmap", "5:6\n"), ("ridmap", "5:6\n")] {
                assert_eq!(member(path, &[], option).ok(), seen, "{path} {option}");
            }
            for equal in [&same, &split] {
                let both = [("uidMappings", equal.clone()), ("gidMappings", equal.clone())];
                assert_eq!(member(path, &both, "idmap").ok(), "5:6\n", "{path} {equal}");
            }
            for (name, other) in [
                ("uidMappings", map(&[[0, 200_000, 65536]])),
                ("gidMappings", map(&[[0, 100_000, 65535]])),
                ("gidMappings", map(&[[0, 100_000, 65536], [65536, 200_000, 1]])),
            ] {
                let mut both = [("uidMappings", same.clone()), ("gidMappings", same.clone())];
                both[usize::from(name == "gidMappings")].1 = other;
                let said =
                    format!("linux.{name}: the joined user namespace has other mappings: 0 100000 65536");
                member(path, &both, "ro").fails(&said);
            }
        }
        t.call(Command::new("umount").arg(&pinned)).ok();
        t.delete("c1");
    });
}

/// user_namespaces(7): a namespace can map any ids. Without root, its first process is the user of the
/// program, which has all capabilities there. Such a namespace can be joined, and exec enters it.
#[test]
fn a_user_namespace_without_root_runs_as_the_programs_user() {
    isolated(|t| {
        let show = "id -u; id -g; cat /proc/self/uid_map | tr -s ' '; grep ^CapEff /proc/self/status; \
                    touch /tmp/mine && stat -Lc '%u:%g' /tmp/mine /dev/shm /proc/self";
        let edit = |c: &mut Value| {
            let map = json!([{"containerID": 1000, "hostID": 1000, "size": 1}]);
            (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
            c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            for mount in c["mounts"].as_array_mut().unwrap() {
                mount["options"].as_array_mut().unwrap().retain(|option| option != "gid=5");
            }
        };
        let bundle = |edit: &dyn Fn(&mut Value)| {
            let bundle = t.bundle(|c| edit(c));
            t.call(Command::new("chown").args(["-hR", "1000:1000"]).arg(bundle.rootfs())).ok();
            bundle
        };
        let new = bundle(&|c| {
            edit(c);
            add(c, json!({"type": "user"}));
        });
        let expected =
            "1000\n1000\n 1000 1000 1\nCapEff:\t0000000000000000\n1000:1000\n1000:1000\n1000:1000\n";
        let first = t.start(&new, "c1").to_string();
        assert_eq!(t.exec("c1", show).ok(), expected);
        let refused = "process.user.uid: the user namespace maps neither root nor this id: setresuid(0)";
        t.corten(&["exec", "-u", "0", "c1", "/bin/true"]).fails(refused).exits(255);
        let args = json!(["/bin/sh", "-c", show]);
        let joined = bundle(&|c| {
            edit(c);
            add(c, json!({"type": "user", "path": format!("/proc/{first}/ns/user")}));
            c["process"]["args"] = args.clone();
        });
        assert_eq!(t.run_bundle(&joined).ok(), expected);
        joined.edit(|c| c["process"]["user"]["uid"] = json!(0));
        t.run_bundle(&joined).fails(refused);
        t.delete("c1");
        new.edit(|c| c["process"]["args"] = args);
        assert_eq!(t.run_bundle(&new).ok(), expected);
        // Ambient capabilities are the program's, too.
        new.edit(|c| {
            for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
                c["process"]["capabilities"][set] = json!(["CAP_KILL"]);
            }
        });
        assert!(t.run_bundle(&new).ok().contains("CapEff:\t0000000000000020\n"));
        new.edit(|c| c["process"]["user"]["uid"] = json!(0));
        t.run_bundle(&new).fails("linux.uidMappings: maps no root, which the process is");
        new.edit(|c| c["process"]["user"]["uid"] = json!(7));
        t.run_bundle(&new).fails("linux.uidMappings: maps neither root nor 7, which is process.user.uid");
        // The program is looked up with its user's rights, not with those of the user namespace.
        let closed = new.rootfs().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::copy(t.dir.join("busybox"), closed.join("true")).unwrap();
        t.call(Command::new("chown").arg("1005:1005").arg(&closed)).ok();
        t.call(Command::new("chmod").arg("700").arg(&closed)).ok();
        new.edit(|c| {
            let map = json!([{"containerID": 1000, "hostID": 1000, "size": 10}]);
            (c["linux"]["uidMappings"], c["linux"]["gidMappings"]) = (map.clone(), map);
            c["process"]["user"]["uid"] = json!(1000);
            c["process"]["args"] = json!(["/closed/true"]);
        });
        t.corten(&["create", "-b", new.path(), "c2"]).fails("permission denied");
    });
}

/// config-linux.md#sysctl, user_namespaces(7): the limits of a new user namespace are set. Any other's are
/// refused.
#[test]
fn the_limits_of_a_new_user_namespace_are_set() {
    isolated(|t| {
        let files = ["max_net_namespaces", "max_inotify_watches"];
        let host = || files.map(|file| fs::read_to_string(format!("/proc/sys/user/{file}")).unwrap());
        let before = host();
        let edit = |c: &mut Value| {
            c["linux"]["sysctl"] = json!({"user.max_net_namespaces": "7", "user/max_inotify_watches": "77"});
            c["process"]["args"] =
                json!(["cat", "/proc/sys/user/max_net_namespaces", "/proc/sys/user/max_inotify_watches"]);
        };
        let bundle = t.bundle(|c| {
            map_ids(c);
            edit(c);
        });
        give_rootfs(t, &bundle);
        assert_eq!(t.run_bundle(&bundle).ok(), "7\n77\n");
        bundle.edit(|c| {
            c["linux"]["sysctl"] = json!({});
            c["process"]["args"] = json!(["sleep", "1000"]);
        });
        let first = t.start(&bundle, "c1");
        let refused = "linux.sysctl[\"user.max_net_namespaces\"]: needs a new user namespace";
        t.run_bundle(&t.bundle(edit)).fails(refused);
        let joined = |c: &mut Value| {
            edit(c);
            add(c, json!({"type": "user", "path": format!("/proc/{first}/ns/user")}));
        };
        t.run_bundle(&t.bundle(joined)).fails(refused);
        t.delete("c1");
        assert_eq!(host(), before);
    });
}

/// mount_namespaces(7): root of another user namespace can neither loosen the restrictions of the host's
/// mounts nor unmount a mount that hides something.
#[test]
fn the_hosts_mount_flags_are_locked() {
    isolated(|t| {
        let source = t.dir.join("my-source");
        let below = source.join("below");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("hidden"), "").unwrap();
        let mount = |args: &[&str]| t.call(Command::new("mount").args(args)).ok();
        let (path, inner) = (source.to_str().unwrap(), below.to_str().unwrap());
        mount(&["--bind", path, path]);
        mount(&["-o", "remount,bind,ro,nosuid,nodev", path]);
        mount(&["-t", "tmpfs", "tmpfs", inner]);
        let bundle = t.bundle(|c| {
            map_ids(c);
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/mnt", "type": "bind", "source": path, "options": ["rbind"]}));
            for set in ["bounding", "effective", "permitted"] {
                c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
            }
            let script = "mount -o remount,bind,rw,dev,suid /mnt 2>/dev/null && echo remounted; \
                          umount /mnt/below 2>/dev/null && echo unmounted; ls /mnt/below; grep -c /mnt /proc/mounts";
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        give_rootfs(t, &bundle);
        let out = t.run_bundle(&bundle).ok();
        for path in [inner, path] {
            t.call(Command::new("umount").arg(path)).ok();
        }
        assert_eq!(out, "2\n");
    });
}

/// Engines send `rw` for every volume that is not to be read-only. The flags of the host's mount stay, and a
/// warning names the option.
#[test]
fn an_option_that_would_loosen_a_mount_of_the_host_is_a_warning() {
    isolated(|t| {
        let source = t.dir.join("my-source");
        fs::create_dir(&source).unwrap();
        let path = source.to_str().unwrap();
        let mount = |args: &[&str]| t.call(Command::new("mount").args(args)).ok();
        mount(&["--bind", path, path]);
        mount(&["-o", "remount,bind,ro,nosuid", path]);
        for (user_namespace, options, warned, expected) in [
            (true, json!(["rbind", "rw"]), &["rw"][..], "ro,nosuid,"),
            (
                true,
                json!(["rbind", "nodev", "rw", "suid", "noexec"]),
                &["rw", "suid"],
                "ro,nosuid,nodev,noexec,",
            ),
            (true, json!(["rbind", "ro"]), &[], "ro,nosuid,"),
            (true, json!(["rbind"]), &[], "ro,nosuid,"),
            (false, json!(["rbind", "rw"]), &[], "rw,nosuid,"),
        ] {
            let bundle = t.bundle(|c| {
                if user_namespace {
                    map_ids(c);
                }
                let mounts = c["mounts"].as_array_mut().unwrap();
                mounts.push(json!({"destination": "/mnt", "source": path, "options": options}));
                c["process"]["args"] = json!(["/bin/grep", " /mnt ", "/proc/mounts"]);
            });
            if user_namespace {
                give_rootfs(t, &bundle);
            }
            let out = t.run_bundle(&bundle).exits(0);
            assert!(out.stdout.contains(&format!(" {expected}")), "{options}: {}", out.stdout);
            assert_eq!(out.stderr.lines().count(), warned.len(), "{options}: {}", out.stderr);
            for name in warned {
                let said = format!("mounts[7].options: {name:?} has no effect");
                assert!(out.stderr.contains(&said), "{options}: {}", out.stderr);
            }
        }
        t.call(Command::new("umount").arg(path)).ok();
    });
}

/// Only the user namespace that owns the network namespace may mount a sysfs. With another one, the
/// container has the host's, read-only whatever the options are.
#[test]
fn a_sysfs_of_a_foreign_network_namespace_is_the_hosts_read_only() {
    isolated(|t| {
        for options in
            [json!(["nosuid", "noexec", "nodev", "ro"]), json!(["rw"]), json!(["rslave", "nosuid"])]
        {
            let bundle = t.bundle(|c| {
                map_ids(c);
                without_namespace(c, "network");
                let sysfs = &mut c["mounts"][5];
                assert_eq!(sysfs["destination"], "/sys");
                sysfs["options"] = options.clone();
                let script =
                    "ls -d /sys/class/net/lo /sys/kernel; grep ' /sys' /proc/mounts; mkdir /sys/fs/cgroup/x";
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            give_rootfs(t, &bundle);
            let out = t.run_bundle(&bundle);
            assert!(out.stdout.starts_with("/sys/class/net/lo\n/sys/kernel\n"), "{out:?}");
            let mounts: Vec<&str> = out.stdout.lines().filter(|line| line.contains(" /sys")).collect();
            assert!(mounts.iter().any(|line| line.contains(" /sys sysfs ro,")), "{options}: {out:?}");
            assert!(mounts.iter().all(|line| line.contains(" ro,")), "{options}: {out:?}");
        }
        // With a network namespace of its own the sysfs is a new one.
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["process"]["args"] = json!(["/bin/ls", "/sys/class/net"]);
        });
        give_rootfs(t, &bundle);
        assert_eq!(t.run_bundle(&bundle).ok(), "lo\n");
        // The kernel refuses that one too where something covers a part of the host's. The host's /sys would
        // show the interfaces of another network namespace.
        t.call(Command::new("mount").args(["-t", "tmpfs", "none", "/sys/kernel"])).ok();
        t.run_bundle(&bundle).fails("operation not permitted");
        t.call(Command::new("umount").arg("/sys/kernel")).ok();
    });
}
