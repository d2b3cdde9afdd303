//! Bind mounts: their sources, their targets and their order (config.md#mounts).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::harness::isolated;
use crate::mounts::{add, fits, options};
use crate::namespaces::{give_rootfs, map_ids};

/// Files of every kind can be bind-mounted. A missing target is made as the same kind of file.
#[test]
fn every_kind_of_file_is_bind_mounted() {
    isolated(|t| {
        let dir = t.dir.join("my-sources");
        fs::create_dir_all(dir.join("dir")).unwrap();
        fs::write(dir.join("file"), "text\n").unwrap();
        fs::write(dir.join("dir/inside"), "").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
        t.call(Command::new("mkfifo").arg(dir.join("fifo"))).ok();
        t.call(Command::new("mknod").arg(dir.join("node")).args(["c", "1", "5"])).ok();
        std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
        std::os::unix::fs::symlink("nothing", dir.join("dangling")).unwrap();
        for (source, kind, made) in [
            ("file", "regular file", "regular empty file 644"),
            ("link", "regular file", "regular empty file 644"),
            ("socket", "socket", "regular empty file 644"),
            ("fifo", "fifo", "regular empty file 644"),
            ("node", "character special file", "regular empty file 644"),
            ("dir", "directory", "directory 755"),
        ] {
            let bundle = t.bundle(|c| {
                add(c, json!({"destination": "/made/here", "source": dir.join(source), "options": ["rbind", "ro"]}));
                c["process"]["args"] = json!(["stat", "-c", "%F", "/made/here"]);
            });
            assert_eq!(t.run_bundle(&bundle).ok(), format!("{kind}\n"), "{source}");
            let stat = |path: &str| {
                t.call(Command::new("stat").args(["-c", "%F %a"]).arg(bundle.rootfs().join(path))).ok()
            };
            assert_eq!(
                (stat("made").as_str(), stat("made/here")),
                ("directory 755\n", format!("{made}\n")),
                "{source}"
            );
        }
        let bind = |source: &str, target: &str| {
            let source = dir.join(source);
            t.run("true", |c| add(c, json!({"destination": target, "source": source, "options": ["bind"]})))
        };
        bind("dangling", "/mnt").fails("mounts[7].source").fails("no such file or directory");
        bind("nothing", "/mnt").fails("mounts[7].source").fails("no such file or directory");
        bind("file/x", "/mnt").fails("mounts[7].source").fails("not a directory");
        // dockerd adds its explanation to "not a directory", but takes "is a directory" for an error of the program.
        for (source, target, said) in [
            ("file", "/mnt", "/mnt: the source is not a directory"),
            ("dir", "/etc/passwd", "/etc/passwd: the destination is not a directory"),
            ("dir", "/etc/passwd/x", "not a directory"),
            ("file", "/etc/passwd/x", "not a directory"),
        ] {
            let out = bind(source, target).fails(&format!("mounts[7] {target}: ")).fails(said);
            assert!(!out.stderr.contains("is a directory"), "{source} {target}: {}", out.stderr);
        }
        for kind in ["tmpfs", "proc", "devpts", "cgroup"] {
            for options in [json!([]), json!(["private"])] {
                let mount =
                    json!({"destination": "/etc/passwd", "type": kind, "source": "x", "options": options});
                let out = t.run("true", |c| add(c, mount)).fails("mounts[7] /etc/passwd");
                assert!(!out.stderr.contains("is a directory"), "{kind}: {}", out.stderr);
                let out = out.fails("not a directory");
                assert_eq!(out.stdout, "");
            }
        }
    });
}

/// A source in the root file system can be a mount that is listed before, whichever process has to open it.
#[test]
fn a_source_can_be_an_earlier_mount_of_the_container() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir_all(volume.join("dir")).unwrap();
        fs::write(volume.join("dir/file"), "").unwrap();
        t.call(Command::new("chown").arg("-R").arg("100000:100000").arg(&volume)).ok();
        for user_namespace in [false, true] {
            for (idmap, root) in [(false, ""), (true, ""), (true, "shared"), (false, "private")] {
                let bundle = t.bundle(|c| {
                    if user_namespace {
                        map_ids(c);
                    }
                    c["process"]["args"] = json!([
                        "/bin/sh",
                        "-c",
                        "touch /opt/tmpfs/x && ls /srv/tmpfs; stat -c '%n %u' /srv/dir/file /run/same/dir/file"
                    ]);
                });
                fs::create_dir_all(bundle.rootfs().join("opt/volume/dir")).unwrap();
                if user_namespace {
                    give_rootfs(t, &bundle);
                }
                bundle.edit(|c| {
                    let inside = |path: &str| bundle.rootfs().join(path);
                    let bind = |source: std::path::PathBuf, target: &str| json!({"destination": target, "source": source, "options": ["rbind"]});
                    add(c, json!({"destination": "/opt/tmpfs", "type": "tmpfs", "source": "x"}));
                    add(c, bind(inside("opt/tmpfs"), "/srv/tmpfs"));
                    add(c, bind(volume.clone(), "/opt/volume"));
                    let mut mapped = bind(inside("opt/volume/dir"), "/srv/dir");
                    if idmap {
                        let map = json!([{"containerID": 100_000, "hostID": 100_005, "size": 10}]);
                        (mapped["uidMappings"], mapped["gidMappings"]) = (map.clone(), map);
                    }
                    add(c, mapped);
                    add(c, bind(inside("opt/volume"), "/run/same"));
                    c["linux"]["rootfsPropagation"] = json!(root);
                });
                let (first, mapped) = if user_namespace { (0, 5) } else { (100_000, 100_005) };
                let mapped = if idmap { mapped } else { first };
                let expected = format!("x\n/srv/dir/file {mapped}\n/run/same/dir/file {first}\n");
                assert_eq!(t.run_bundle(&bundle).ok(), expected, "{user_namespace} {idmap} {root}");
            }
            // What does not exist yet is missing, also for the runtime.
            for idmap in [false, true] {
                let bundle = t.bundle(|c| {
                    if user_namespace {
                        map_ids(c);
                    }
                    c["process"]["args"] = json!(["/bin/true"]);
                });
                if user_namespace {
                    give_rootfs(t, &bundle);
                }
                bundle.edit(|c| {
                    let source = bundle.rootfs().join("opt/tmpfs/later");
                    let mut bind = json!({"destination": "/srv", "source": source, "options": ["rbind"]});
                    if idmap {
                        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 10}]);
                        (bind["uidMappings"], bind["gidMappings"]) = (map.clone(), map);
                    }
                    add(c, bind);
                    add(c, json!({"destination": "/opt/tmpfs/later", "type": "tmpfs", "source": "x"}));
                });
                t.run_bundle(&bundle).fails("mounts[7].source").fails("no such file or directory");
            }
        }
    });
}

/// Only root can reach the bundle and the sources. The root of the user namespace, who is another user, gets
/// them from the runtime.
#[test]
fn a_user_namespace_takes_a_root_that_only_the_caller_can_reach() {
    isolated(|t| {
        let source = t.dir.join("my-source");
        fs::create_dir_all(source.join("volume")).unwrap();
        fs::set_permissions(&source, fs::Permissions::from_mode(0o700)).unwrap();
        let bundle = |edit: &dyn Fn(&mut serde_json::Value)| {
            let bundle = t.bundle(|c| {
                edit(c);
                add(c, json!({"destination": "/mnt", "source": source.join("volume"), "options": ["rbind"]}));
            });
            give_rootfs(t, &bundle);
            fs::set_permissions(&bundle.dir, fs::Permissions::from_mode(0o700)).unwrap();
            bundle
        };
        let first = bundle(&map_ids);
        let pid = t.start(&first, "c1");
        assert_eq!(t.exec("c1", "id -u; ls -d /mnt").ok(), "0\n/mnt\n");
        let second = bundle(&|c| {
            let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user", "path": format!("/proc/{pid}/ns/user")}));
            c["process"]["args"] = json!(["/bin/sh", "-c", "id -u; ls -d /mnt"]);
        });
        assert_eq!(t.run_bundle(&second).ok(), "0\n/mnt\n");
        t.delete("c1");
    });
}

/// config.md#mounts: the option `bind` or `rbind` makes a bind mount, with any type or none. The type alone
/// does not. A file system that needs no source is mounted without one.
#[test]
fn an_option_makes_a_bind_mount_and_the_type_does_not() {
    isolated(|t| {
        let dir = t.dir.join("my-source");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "").unwrap();
        let run = |mount: serde_json::Value| t.run("ls /mnt", |c| add(c, mount));
        for kind in [json!("bind"), json!("none"), json!("tmpfs"), json!("nosuchfs"), json!(null)] {
            for option in ["bind", "rbind"] {
                let bind = json!({"destination": "/mnt", "source": dir, "type": kind, "options": [option]});
                assert_eq!(run(bind).ok(), "file\n", "{kind} {option}");
            }
        }
        for kind in [json!("bind"), json!("none"), json!(null)] {
            let expected = "is not a file system (hint: the option bind or rbind makes a bind mount)";
            run(json!({"destination": "/mnt", "source": dir, "type": kind}))
                .fails("mounts[7].type")
                .fails(expected);
        }
        run(json!({"destination": "/mnt", "type": "none", "options": ["bind"]})).fails("mounts[7].source");
        assert_eq!(run(json!({"destination": "/mnt", "type": "tmpfs"})).ok(), "");
    });
}

/// A mount can be on an earlier one, below it, or on a link inside it.
#[test]
fn mounts_are_made_in_the_order_given() {
    isolated(|t| {
        let dir = t.dir.join("my-sources");
        for path in ["a/sub", "b/sub", "c"] {
            fs::create_dir_all(dir.join(path)).unwrap();
            fs::write(dir.join(path).join(format!("file-{}", path.replace('/', "-"))), "").unwrap();
        }
        std::os::unix::fs::symlink("/root/target", dir.join("a/leads-out")).unwrap();
        let out = t.run("cd /mnt; ls . sub; ls /root/target", |c| {
            for (source, target) in [("b", "/mnt"), ("a", "/mnt"), ("c", "/mnt/sub"), ("b", "/mnt/leads-out")]
            {
                add(c, json!({"destination": target, "source": dir.join(source), "options": ["rbind"]}));
            }
        });
        // The link's target did not exist. It is made in the root.
        assert_eq!(out.ok(), ".:\nleads-out\nsub\n\nsub:\nfile-c\nsub\n");
        assert!(!dir.join("a/leads-out").exists());
    });
}

/// mountinfo, which lists mounts by their age since Linux 6.8, has the order of the configuration.
#[test]
fn the_age_of_mounts_follows_the_order_given() {
    isolated(|t| {
        let out = t.run("cat /proc/self/mountinfo", |c| {
            add(c, json!({"destination": "/mnt", "source": t.dir, "options": ["bind"]}));
            add(c, json!({"destination": "/opt", "type": "tmpfs"}));
            add(c, json!({"destination": "/srv", "source": t.dir, "options": ["rbind", "ro"]}));
            add(c, json!({"destination": "/var", "type": "tmpfs"}));
        });
        let mut ages: Vec<(u32, String)> = Vec::new();
        for line in out.ok().lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            ages.push((fields[0].parse().unwrap(), fields[4].into()));
        }
        let at = |path: &str| ages.iter().position(|(_, at)| at == path).unwrap_or_else(|| panic!("{path}"));
        let places = ["/", "/proc", "/dev", "/sys", "/mnt", "/opt", "/srv", "/var"].map(at);
        assert!(places.is_sorted(), "{places:?} {ages:?}");
        // A mount that stays a peer of the host's is copied before the others, except on the root.
        let out = t.run("cut -d' ' -f5 /proc/self/mountinfo", |c| {
            c["linux"]["rootfsPropagation"] = json!("shared");
            add(c, json!({"destination": "/mnt", "source": t.dir, "options": ["rbind", "rshared"]}));
        });
        assert_eq!(out.ok().lines().next(), Some("/"));
    });
}

/// A mount on `/` is the root for all later mounts.
#[test]
fn a_mount_on_the_root_is_the_root_for_later_mounts() {
    isolated(|t| {
        let other = t.bundle(|_| {});
        fs::write(other.rootfs().join("etc/other"), "the other root\n").unwrap();
        for target in ["/", "/.", "/mnt/..", ""] {
            let bundle = t.bundle(|c| {
                let mounts = c["mounts"].as_array_mut().unwrap();
                mounts.insert(0, json!({"destination": target, "source": other.rootfs(), "options": ["rbind", "nosuid"]}));
                c["linux"]["maskedPaths"] = json!(["/etc/group"]);
                c["linux"]["readonlyPaths"] = json!(["/home"]);
                c["process"]["args"] =
                    json!(["/bin/sh", "-c", "cat /etc/other /etc/group; ls /proc/self/fd | head -n 1; touch /home/x 2>&1 | grep -o Read-only; ls -d /dev/null; cat /proc/self/mountinfo"]);
            });
            let out = t.run_bundle(&bundle);
            if target.is_empty() {
                out.fails("mounts[0].destination");
                continue;
            }
            let out = out.ok();
            assert!(out.starts_with("the other root\n0\nRead-only\n/dev/null\n"), "{target}: {out}");
            assert!(fits(&options(&out, "/").unwrap().0, "nosuid rw"), "{target}: {out}");
            assert_eq!(fs::read_dir(bundle.rootfs().join("proc")).unwrap().count(), 0);
            bundle.edit(|c| c["root"]["readonly"] = json!(true));
            let out = t.corten(&["run", "--no-pivot", "-b", bundle.path(), "r"]).ok();
            assert!(fits(&options(&out, "/").unwrap().0, "nosuid ro"), "{target}: {out}");
        }
        // A tmpfs as the root hides the image, so the program is missing.
        t.run("true", |c| {
            c["mounts"]
                .as_array_mut()
                .unwrap()
                .insert(0, json!({"destination": "/", "type": "tmpfs", "source": "x"}));
        })
        .fails("/bin/sh");
    });
}
