//! `linux.namespaces` and the members that depend on them: id mappings, time offsets, host and domain name.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, isolated, without_namespace};

const KINDS: &[(&str, &str)] = &[
    ("pid", "pid"),
    ("network", "net"),
    ("mount", "mnt"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("user", "user"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn add(config: &mut Value, namespace: Value) {
    config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
}

pub fn map_ids(config: &mut Value) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    config["linux"]["uidMappings"] = map.clone();
    config["linux"]["gidMappings"] = map;
    add(config, json!({"type": "user"}));
}

/// Returns the namespace of a process, from the links in /proc.
fn namespace(pid: &str, link: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{link}")).unwrap()
}

/// Gives the rootfs to the root of the user namespace, which must be able to reach it.
pub fn give_rootfs(t: &Test, bundle: &crate::harness::Bundle) {
    let mut chown = Command::new("chown");
    t.call(chown.args(["-hR", "100000:100000"]).arg(bundle.rootfs())).ok();
}

/// config-linux.md#namespaces: a listed type is new, any other is the runtime's. The test covers all eight
/// types.
#[test]
fn a_listed_namespace_is_new_and_others_are_the_runtimes() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            map_ids(c);
            add(c, json!({"type": "time"}));
        });
        give_rootfs(t, &bundle);
        let pid = t.start(&bundle, "c1").to_string();
        for (kind, link) in KINDS {
            assert_ne!(namespace(&pid, link), namespace("thread-self", link), "{kind}");
        }
        t.delete("c1");
        for (kind, link) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "user" | "time" | "mount")) {
            let bundle = t.bundle(|c| {
                without_namespace(c, kind);
                if *kind == "uts" {
                    c["hostname"] = json!(null);
                    c.as_object_mut().unwrap().remove("hostname");
                }
            });
            let pid = t.start(&bundle, "c1").to_string();
            for (other, other_link) in KINDS.iter().filter(|(kind, _)| !matches!(*kind, "user" | "time")) {
                let same = namespace(&pid, other_link) == namespace("thread-self", other_link);
                assert_eq!(same, other == kind, "without {kind}: {other}");
            }
            assert_eq!(namespace(&pid, link), namespace("thread-self", link));
            t.delete("c1");
        }
    });
}

/// config-linux.md#namespaces: namespaces with a path are joined, one alone and all together.
#[test]
fn a_namespace_with_a_path_is_joined() {
    isolated(|t| {
        let bundle = t.bundle(|c| add(c, json!({"type": "time"})));
        let first = t.start(&bundle, "c1").to_string();
        let kinds = ["pid", "network", "ipc", "uts", "cgroup", "time"];
        let all = kinds.join(" ");
        for joined in kinds.iter().copied().chain([all.as_str()]) {
            let bundle = t.bundle(|c| {
                c.as_object_mut().unwrap().remove("hostname");
                add(c, json!({"type": "time"}));
                for entry in c["linux"]["namespaces"].as_array_mut().unwrap() {
                    let kind = entry["type"].as_str().unwrap().to_string();
                    if joined.split(' ').any(|name| name == kind) {
                        let link = KINDS.iter().find(|(name, _)| *name == kind).unwrap().1;
                        entry["path"] = json!(format!("/proc/{first}/ns/{link}"));
                    }
                }
            });
            let pid = t.start(&bundle, "c2").to_string();
            for (kind, link) in KINDS.iter().filter(|(kind, _)| *kind != "user") {
                let same = namespace(&pid, link) == namespace(&first, link);
                assert_eq!(same, joined.split(' ').any(|name| name == *kind), "joined {joined}: {kind}");
            }
            // exec enters the same namespaces.
            let seen = t.exec("c2", "readlink /proc/self/ns/net").ok();
            assert_eq!(seen.trim_end(), namespace(&pid, "net").to_str().unwrap());
            t.delete("c2");
        }
        t.delete("c1");
    });
}

/// A user namespace is joined together with the namespaces that it owns, as pods with user namespaces do.
#[test]
fn a_user_namespace_is_joined_with_the_namespaces_it_owns() {
    isolated(|t| {
        let bundle = t.bundle(map_ids);
        give_rootfs(t, &bundle);
        let first = t.start(&bundle, "c1").to_string();
        let bundle = t.bundle(|c| {
            c.as_object_mut().unwrap().remove("hostname");
            add(c, json!({"type": "user"}));
            for entry in c["linux"]["namespaces"].as_array_mut().unwrap() {
                let kind = entry["type"].as_str().unwrap().to_string();
                if ["user", "network", "ipc", "uts"].contains(&kind.as_str()) {
                    let link = KINDS.iter().find(|(name, _)| *name == kind).unwrap().1;
                    entry["path"] = json!(format!("/proc/{first}/ns/{link}"));
                }
            }
        });
        give_rootfs(t, &bundle);
        let pid = t.start(&bundle, "c2").to_string();
        for (kind, link) in KINDS {
            let shared = ["user", "network", "ipc", "uts", "time"].contains(kind);
            assert_eq!(namespace(&pid, link) == namespace(&first, link), shared, "{kind}");
        }
        assert_eq!(t.exec("c2", "id -u; cat /proc/self/uid_map | tr -s ' '").ok(), "0\n 0 100000 65536\n");
        t.delete("c2");
        t.delete("c1");
    });
}

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

/// A wrong list is a configuration error that names the entry.
#[test]
fn wrong_namespaces_are_refused() {
    isolated(|t| {
        for (entry, text) in [
            (json!({"type": "time", "path": "/proc/self/ns/net"}), "linux.namespaces[6]"),
            (json!({"type": "time", "path": "/etc/passwd"}), "linux.namespaces[6]"),
            (json!({"type": "time", "path": "/no/such"}), "/no/such"),
            (json!({"type": "time", "path": "relative"}), "linux.namespaces[6]"),
            (json!({"type": "mount"}), "linux.namespaces[6]"),
            (json!({"type": "pid", "path": "/proc/self/ns/pid"}), "linux.namespaces[6]"),
            (json!({"type": "nosuch"}), "linux.namespaces[6]"),
        ] {
            t.run("true", |c| add(c, entry)).fails(text);
        }
    });
}

/// config-linux.md#user-namespace-mappings
#[test]
fn id_mappings_apply_to_processes_and_files() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["linux"]["gidMappings"] = json!([
                {"containerID": 0, "hostID": 100_000, "size": 10},
                {"containerID": 100, "hostID": 200_000, "size": 5},
            ]);
            let script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; stat -Lc %u:%g /proc/self /dev/pts/ptmx; grep ^CapEff /proc/self/status";
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        give_rootfs(t, &bundle);
        let mut list = Command::new("find");
        list.arg(bundle.rootfs()).args(["-name", "dev", "-prune", "-o", "-printf", "%P %U:%G %m\n"]);
        let before = t.call(&mut list).ok();
        let out = t.run_bundle(&bundle).ok();
        // No file gets another owner because of the mapping.
        assert_eq!(t.call(&mut list).ok(), before);
        assert!(out.starts_with(" 0 100000 65536\n 0 100000 10\n 100 200000 5\n0\n0:0\n0:0\n"), "{out}");
        assert!(out.ends_with("CapEff:\t0000000020000420\n"), "{out}");
        let maps: &[(Value, &str)] = &[
            (json!([{"containerID": 0, "hostID": 0, "size": 0}]), "linux.uidMappings"),
            (
                json!([{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}]),
                "linux.uidMappings",
            ),
            (json!([{"containerID": 4294967295u32, "hostID": 0, "size": 2}]), "linux.uidMappings"),
        ];
        for (map, text) in maps {
            let edit = |c: &mut Value| {
                map_ids(c);
                c["linux"]["uidMappings"] = map.clone();
            };
            t.run("true", edit).fails(text);
        }
        t.run("true", |c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}]))
            .fails("linux.uidMappings");
    });
}

/// config-linux.md#offset-for-time-namespace
#[test]
fn time_offsets_change_the_clocks() {
    isolated(|t| {
        let edit = |c: &mut Value| {
            add(c, json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"monotonic": {"secs": 172_800, "nanosecs": 5}, "boottime": {"secs": 86400, "nanosecs": 0}});
        };
        let out = t.run("cat /proc/self/timens_offsets | tr -s ' '; cut -d. -f1 /proc/uptime", edit).ok();
        assert!(out.starts_with("monotonic 172800 5\nboottime 86400 0\n"), "{out}");
        let uptime: f64 = out.lines().last().unwrap().parse().unwrap();
        assert!(uptime > 86400.0, "{uptime}");
        let offsets = json!({"monotonic": {"secs": 1, "nanosecs": 0}});
        t.run("true", |c| c["linux"]["timeOffsets"] = offsets.clone()).fails("linux.timeOffsets");
        let clock = |c: &mut Value| {
            add(c, json!({"type": "time"}));
            c["linux"]["timeOffsets"] = json!({"nosuch": {"secs": 1}});
        };
        t.run("true", clock).fails("linux.timeOffsets");
    });
}

/// config.md#hostname, config.md#domainname: both names are set. They are refused without a uts namespace of
/// the container's own.
#[test]
fn names_are_set_and_require_a_new_uts_namespace() {
    isolated(|t| {
        let show = "hostname; cat /proc/sys/kernel/domainname";
        let edit = |c: &mut Value| {
            c["hostname"] = json!("my.host");
            c["domainname"] = json!("my.domain");
        };
        assert_eq!(t.run(show, edit).ok(), "my.host\nmy.domain\n");
        t.run(show, |c| without_namespace(c, "uts")).fails("hostname");
        let domain = |c: &mut Value| {
            without_namespace(c, "uts");
            c.as_object_mut().unwrap().remove("hostname");
            c["domainname"] = json!("my.domain");
        };
        t.run(show, domain).fails("domainname");
        t.run(show, |c| c["hostname"] = json!("x".repeat(65))).fails("hostname");
    });
}

/// Without a mount namespace the container is only chrooted, and no mount of its rootfs is left on the host.
#[test]
fn without_a_mount_namespace_the_container_is_chrooted() {
    isolated(|t| {
        let edit = |c: &mut Value| {
            without_namespace(c, "mount");
            c["mounts"] = json!([]);
            c["linux"]["maskedPaths"] = json!([]);
            c["linux"]["readonlyPaths"] = json!([]);
        };
        assert_eq!(t.run("ls /etc; pwd", edit).ok(), "group\npasswd\n/\n");
    });
}

/// The container's root is unmounted on the host without any other mount: neither one in a volume that is a
/// peer of the host's, nor, if root.path ends in a link, one at another place.
#[test]
fn without_a_mount_namespace_only_the_containers_mounts_are_removed() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        let mount = |words: &[&str]| drop(t.call(Command::new("mount").args(words)).ok());
        let mountinfo = || -> Vec<String> {
            fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(Into::into).collect()
        };
        fs::create_dir(&volume).unwrap();
        mount(&["-t", "tmpfs", "tmpfs", volume.to_str().unwrap()]);
        mount(&["--make-shared", volume.to_str().unwrap()]);
        let inner = volume.join("inner");
        fs::create_dir(&inner).unwrap();
        mount(&["-t", "tmpfs", "tmpfs", inner.to_str().unwrap()]);
        fs::write(inner.join("file"), "").unwrap();
        for root in ["rootfs", "my-link"] {
            let bundle = t.bundle(|c| {
                without_namespace(c, "mount");
                c["root"]["path"] = json!(root);
                c["linux"]["rootfsPropagation"] = json!("shared");
                let options = json!(["rbind", "rshared"]);
                c["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"destination": "/data", "source": volume, "options": options}));
            });
            if root == "my-link" {
                std::os::unix::fs::symlink("rootfs", bundle.rootfs().with_file_name("my-link")).unwrap();
            }
            let before = mountinfo();
            t.start(&bundle, "c1");
            // The control: the volume is mounted, and its own mount is in it.
            assert!(mountinfo().iter().any(|line| line.contains("/rootfs/data/inner ")));
            t.delete("c1");
            assert_eq!(mountinfo(), before);
            assert!(inner.join("file").exists());
        }
        t.call(Command::new("umount").arg("-R").arg(&volume)).ok();
    });
}

/// config.md: `linux`, `mounts` and all of `process` except cwd and args can be missing. Then the container
/// has no namespace of its own.
#[test]
fn a_configuration_needs_only_a_root_and_a_process() {
    isolated(|t| {
        let script = "ls /etc; pwd";
        let bundle = t.bundle(|c| {
            let args = json!(["/bin/sh", "-c", script]);
            *c = json!({"ociVersion": "1.0.0", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": args}});
        });
        assert_eq!(t.run_bundle(&bundle).ok(), "group\npasswd\n/\n");
        bundle.edit(|c| c["process"]["args"] = json!(["/bin/sleep", "1000"]));
        let pid = t.start(&bundle, "c1").to_string();
        for (kind, link) in KINDS {
            assert_eq!(namespace(&pid, link), namespace("thread-self", link), "{kind}");
        }
        t.delete("c1");
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
    });
}

/// A new file system covers a directory that root of the user namespace cannot enter.
#[test]
fn a_file_system_is_mounted_on_a_directory_without_access() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, PermissionsExt::from_mode(0o700)).unwrap();
        for (covered, expected) in [(false, ""), (true, "open\n")] {
            let bundle = t.bundle(|c| {
                map_ids(c);
                let mounts = c["mounts"].as_array_mut().unwrap();
                mounts.push(json!({"destination": "/mnt", "source": volume, "options": ["bind"]}));
                if covered {
                    mounts.push(json!({"destination": "/mnt", "type": "tmpfs", "source": "x"}));
                }
                let script = "cd /mnt 2>/dev/null && echo open; exit 0";
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            give_rootfs(t, &bundle);
            assert_eq!(t.run_bundle(&bundle).ok(), expected);
        }
    });
}
