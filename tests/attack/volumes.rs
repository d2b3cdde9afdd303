//! Links in the image that lead the runtime's mounts, masks and files into a volume, to the root or into
//! procfs.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, without_namespace};
use crate::{SECRET, add, all_capabilities, give_rootfs, map_ids, without_mount};

fn host(t: &Test, words: &[&str]) {
    t.call(Command::new(words[0]).args(&words[1..])).ok();
}

/// Makes a directory of the host with a file and a directory as targets. It is a mount of its own, shared
/// with the host's others.
fn volume(t: &Test) -> PathBuf {
    let path = t.dir.join("my-volume");
    fs::create_dir_all(&path).unwrap();
    host(t, &["mount", "-t", "tmpfs", "tmpfs", path.to_str().unwrap()]);
    host(t, &["mount", "--make-shared", path.to_str().unwrap()]);
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("file"), SECRET).unwrap();
    path
}

/// Returns all names below a directory, with their kinds, and all mounts there.
fn look(dir: &Path) -> Vec<String> {
    let out = Command::new("find").arg(dir).args(["-printf", "%p %y %U %l\n"]).output().unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let inside = |line: &&str| Path::new(line.split(' ').nth(4).unwrap_or_default()).starts_with(dir);
    let mounts = mounts.lines().filter(inside).map(Into::into);
    String::from_utf8_lossy(&out.stdout).lines().map(Into::into).chain(mounts).collect()
}

fn put(bundle: &Bundle, link: &str, target: &str) {
    let path = bundle.rootfs().join(link);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    symlink(target, path).unwrap();
}

/// Adds the volume at /data, whose mounts arrive on the host.
fn shared_back(c: &mut Value, volume: &Path) {
    c["linux"]["rootfsPropagation"] = json!("rshared");
    c["process"]["args"] = json!(["/bin/true"]);
    add(c, json!({"destination": "/data", "source": volume, "options": ["rbind", "rshared"]}));
}

type Edit = fn(&mut Value);

fn tmpfs(c: &mut Value, at: &str) {
    add(c, json!({"destination": at, "type": "tmpfs", "source": "tmpfs"}));
}

fn file(c: &mut Value, at: &str) {
    add(c, json!({"destination": at, "source": "/etc/passwd", "options": ["bind", "ro"]}));
}

/// For everything that is mounted or made: the link, its target, and the configuration beside the volume's
/// mount.
const ASTRAY: &[(&str, &str, Edit)] = &[
    ("run", "/data/sub", |c| tmpfs(c, "/run")),
    ("run", "/data/new", |c| tmpfs(c, "/run")),
    ("run", "data/../data/sub", |c| tmpfs(c, "/run/deep/er")),
    ("run", "../../data/sub", |c| {
        add(c, json!({"destination": "/run", "type": "tmpfs", "source": "x", "options": ["tmpcopyup"]}));
    }),
    ("run", "/data/sub", |c| {
        let options = json!(["ro", "rprivate"]);
        add(c, json!({"destination": "/run", "type": "tmpfs", "source": "x", "options": options}));
    }),
    ("run", "/data/sub", |c| add(c, json!({"destination": "/run", "type": "cgroup", "source": "cgroup"}))),
    ("etc/hosts", "/data/file", |c| file(c, "/etc/hosts")),
    ("etc/hosts", "/data/new", |c| file(c, "/etc/hosts")),
    // If a link has led the volume itself, a path leads into it.
    ("data", "/run", |c| tmpfs(c, "/run")),
    ("data", "/etc", |c| c["linux"]["maskedPaths"] = json!(["/etc/file"])),
    // A link in the volume leads there too.
    ("x", "/data/link/file", |c| c["linux"]["maskedPaths"] = json!(["/x"])),
    ("etc/secret", "/data/file", |c| c["linux"]["maskedPaths"] = json!(["/etc/secret"])),
    ("etc/secret", "/data/sub", |c| c["linux"]["maskedPaths"] = json!(["/etc/secret"])),
    ("etc/secret", "/data/file", |c| c["linux"]["readonlyPaths"] = json!(["/etc/secret"])),
    ("etc/secret", "/data/sub", |c| c["linux"]["readonlyPaths"] = json!(["/etc/secret"])),
    ("opt", "/data/sub", |c| {
        c["linux"]["devices"] = json!([{"path": "/opt/x", "type": "c", "major": 1, "minor": 3}]);
    }),
    ("dev", "/data/sub", |c| {
        ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"].iter().for_each(|at| without_mount(c, at));
    }),
    ("dev/console", "/data/file", |c| {
        without_mount(c, "/dev");
        c["process"]["terminal"] = json!(true);
    }),
    ("work", "/data/new", |c| c["process"]["cwd"] = json!("/work")),
    ("work", "/data", |c| c["process"]["cwd"] = json!("/work/new/er")),
];

/// `rootfsPropagation: rshared` and a volume with `rshared`: nothing is mounted or made in the volume through
/// a link, because it would also be mounted on the host, and stay there.
#[test]
fn links_do_not_lead_mounts_into_a_shared_volume() {
    isolated(|t| {
        let volume = volume(t);
        symlink(".", volume.join("link")).unwrap();
        let before = look(&volume);
        for (link, target, edit) in ASTRAY {
            let bundle = t.bundle(|c| {
                shared_back(c, &volume);
                edit(c);
            });
            put(&bundle, link, target);
            let out = t.run_bundle(&bundle).fails("a link in the image leads into mounts[");
            out.fails(" /data, whose mounts appear on the host");
            assert_eq!(look(&volume), before, "/{link} -> {target}: {bundle}", bundle = bundle.path());
        }
        // Check of the check: without a link, the same mount arrives. A volume's link at /data belongs to the
        // administrator, and is followed.
        for destination in ["/data", "/var/lib"] {
            let bundle = t.bundle(|c| {
                shared_back(c, &volume);
                c["mounts"][7]["destination"] = json!(destination);
                tmpfs(c, &format!("{destination}/sub"));
                c["linux"]["maskedPaths"] = json!([format!("{destination}/file")]);
            });
            put(&bundle, "var/lib", "/home");
            t.run_bundle(&bundle).ok();
            let arrived = look(&volume).len() - before.len();
            assert_eq!(arrived, 2, "{destination}: {:#?}", look(&volume));
            for name in ["sub", "file"] {
                host(t, &["umount", volume.join(name).to_str().unwrap()]);
            }
        }
        // Links elsewhere, and into volumes that are not shared back, are followed as before.
        for (target, options) in [("/tmp", ["rbind", "rshared"]), ("/data/sub", ["rbind", "rslave"])] {
            let bundle = t.bundle(|c| {
                shared_back(c, &volume);
                c["mounts"][7]["options"] = json!(options);
                tmpfs(c, "/run");
                c["linux"]["maskedPaths"] = json!(["/run"]);
            });
            put(&bundle, "run", target);
            t.run_bundle(&bundle).ok();
        }
        assert_eq!(look(&volume), before);
        host(t, &["umount", volume.to_str().unwrap()]);
    });
}

/// No node and no link is made in a volume through a link, and no multiplexer of the volume is removed:
/// neither if /dev leads to the volume nor if a link has led the volume to /dev. The mount at /dev decides
/// whether it is a bind mount.
#[test]
fn links_do_not_lead_devices_into_a_volume() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("ptmx"), "the host's").unwrap();
        let before = look(&volume);
        let bundle = |bare: bool, link: &str, target: &str| {
            let bundle = t.bundle(|c| {
                if bare {
                    ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"]
                        .iter()
                        .for_each(|at| without_mount(c, at));
                }
                add(c, json!({"destination": "/data", "source": volume, "options": ["rbind"]}));
                c["linux"]["devices"] = json!([{"path": "/opt/x", "type": "c", "major": 1, "minor": 3}]);
                c["process"]["args"] = json!(["ls", "/dev/null"]);
            });
            put(&bundle, link, target);
            bundle
        };
        for (bare, link, target) in
            [(true, "data", "/dev"), (false, "data", "dev"), (true, "dev", "/data"), (true, "opt", "/data")]
        {
            let out = t.run_bundle(&bundle(bare, link, target));
            out.fails("a link in the image leads into mounts")
                .fails("a volume, where nothing is made or changed");
            assert_eq!(look(&volume), before, "/{link} -> {target}");
        }
        // Check of the check: nodes are made elsewhere, and in the volume they would be seen.
        let plain = bundle(true, "data", "/home");
        assert_eq!(t.run_bundle(&plain).ok(), "/dev/null\n");
        assert!(plain.rootfs().join("dev/null").exists() && look(&volume) == before);
        host(t, &["mknod", volume.join("null").to_str().unwrap(), "c", "1", "3"]);
        assert_ne!(look(&volume), before);
    });
}

/// A mount on the root hides everything else. Later mounts and `root.readonly` would apply to another root
/// than the one that `exec` finds. A link leads no mount to the root, and no mount for the root away from it.
#[test]
fn links_do_not_lead_mounts_to_the_root() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir_all(&volume).unwrap();
        let run = |destination: &str, mount: Value, link: &str, target: &str| {
            let bundle = t.bundle(|c| {
                let mut mount = mount;
                mount["destination"] = json!(destination);
                add(c, mount);
                c["process"]["args"] = json!(["/bin/true"]);
            });
            put(&bundle, link, target);
            (t.run_bundle(&bundle), bundle)
        };
        let bind = json!({"source": volume, "options": ["rbind"]});
        let tmpfs = json!({"type": "tmpfs", "source": "x"});
        let propagated = json!({"type": "tmpfs", "source": "x", "options": ["rslave", "ro"]});
        for mount in [&bind, &tmpfs, &propagated] {
            for (destination, link, target, reason) in [
                ("/data", "data", "/", "leads to /"),
                ("/data", "data", "../..", "leads to /"),
                ("/a/data", "a/data", "..", "leads to /"),
                ("/data/..", "data", "/home/alice", "leads to /home"),
            ] {
                run(destination, mount.clone(), link, target)
                    .0
                    .fails(&format!("a link in the image {reason}"));
            }
        }
        // Check of the check: without a link the mount is on the root, which then lacks the program.
        run("/home/..", tmpfs.clone(), "data", "/").0.fails("stat /bin/true");
        run("/data", tmpfs, "data", "/home").0.ok();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
    });
}

/// Nothing is mounted over a file of procfs through a link, except files that engines cover (LXCFS).
#[test]
fn links_do_not_lead_mounts_into_procfs() {
    isolated(|t| {
        fs::write(t.dir.join("my-file"), "mine\n").unwrap();
        let run = |destination: &str, target: &str| {
            let bundle = t.bundle(|c| {
                let source = t.dir.join("my-file");
                add(c, json!({"destination": destination, "source": source, "options": ["bind"]}));
                c["process"]["args"] = json!(["cat", destination]);
            });
            put(&bundle, "etc/link", target);
            t.run_bundle(&bundle)
        };
        for target in ["/proc/version", "/proc/self/status", "../proc/sys/kernel/domainname", "/proc"] {
            run("/etc/link", target).fails("mounts[7] /etc/link: a link in the image leads to /proc");
        }
        for target in ["/proc/uptime", "../proc/cpuinfo", "/proc/loadavg"] {
            assert_eq!(run("/etc/link", target).ok(), "mine\n", "{target}");
        }
        // Without a link every target is possible. The links of procfs are the kernel's.
        for destination in ["/proc/version", "/proc/self/status"] {
            assert_eq!(run(destination, "/proc/version").ok(), "mine\n", "{destination}");
        }
    });
}

/// A remount does not reach another mount through a link: no read-only volume becomes writable.
#[test]
fn links_do_not_lead_a_remount_to_a_volume() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        let run = |destination: &str, link: &str, target: &str| {
            let bundle = t.bundle(|c| {
                add(c, json!({"destination": "/data", "source": volume, "options": ["bind", "ro"]}));
                add(c, json!({"destination": destination, "options": ["remount", "bind", "rw"]}));
                c["process"]["args"] = json!(["touch", "/data/x"]);
            });
            put(&bundle, link, target);
            t.run_bundle(&bundle)
        };
        run("/x", "x", "/data").fails("mounts[8] /x: a link in the image leads into mounts[7] /data");
        run("/x", "x", "/proc").fails("mounts[8] /x: a link in the image leads to /proc");
        for options in [json!(["remount", "bind", "rw"]), json!(["remount", "ro"])] {
            let bundle = t.bundle(|c| {
                file(c, "/data");
                add(c, json!({"destination": "/tmp/file", "options": options}));
            });
            fs::write(bundle.rootfs().join("tmp/file"), "").unwrap();
            put(&bundle, "data", "tmp/file");
            t.run_bundle(&bundle).fails("a link in the image leads into mounts[7] /data");
        }
        run("/y", "data", "/y").fails("mounts[8] /y: a link in the image leads into mounts[7] /data");
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
        // Check of the check: without a link the remount has its effect.
        run("/data", "x", "/data").ok();
        assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
    });
}

/// A path that leads to the root, by its words or by a link, is made read-only like any other. It cannot be
/// masked.
#[test]
fn a_path_that_leads_to_the_root_can_be_read_only_but_not_masked() {
    isolated(|t| {
        let run = |list: &str, path: &str, link: bool| {
            let bundle = t.bundle(|c| {
                c["linux"]["maskedPaths"] = json!([]);
                c["linux"]["readonlyPaths"] = json!([]);
                c["linux"][list] = json!([path]);
                c["process"]["args"] =
                    json!(["/bin/sh", "-c", "touch /x 2>&1; touch /tmp/x && echo written"]);
            });
            if link {
                put(&bundle, "data", "/");
            }
            t.run_bundle(&bundle)
        };
        for (path, link) in [("/", false), ("/home/..", false), ("/data", true), ("/data/data", true)] {
            let out = run("readonlyPaths", path, link);
            assert_eq!(out.stdout.matches("Read-only file system").count(), 1, "{path}: {out:?}");
            assert!(!out.stdout.contains("written"), "{path}: {out:?}");
            run("maskedPaths", path, link)
                .fails("linux.maskedPaths")
                .fails("leads to /, which cannot be masked");
        }
        // Check of the check.
        assert_eq!(run("readonlyPaths", "/home", false).ok(), "written\n");
    });
}

/// A source whose path is in the root file system belongs to the image. Its links stay inside, like those of
/// destinations.
#[test]
fn sources_in_the_image_do_not_leave_it() {
    isolated(|t| {
        let victim = t.dir.join("my-victim");
        fs::create_dir(&victim).unwrap();
        fs::write(victim.join("secret"), SECRET).unwrap();
        let run = |source: &dyn Fn(&Bundle) -> PathBuf, target: &Path, user_namespace: bool| {
            let bundle = t.bundle(|c| {
                c["process"]["args"] = json!(["/bin/sh", "-c", "ls /mnt; cat /mnt/secret"]);
                if user_namespace {
                    map_ids(c);
                }
            });
            let source = source(&bundle);
            bundle.edit(|c| {
                add(c, json!({"destination": "/mnt", "source": source, "options": ["rbind", "ro"]}))
            });
            put(&bundle, "vol", target.to_str().unwrap());
            fs::create_dir_all(bundle.rootfs().join("inside")).unwrap();
            fs::write(bundle.rootfs().join("inside/secret"), "the image's").unwrap();
            if user_namespace {
                give_rootfs(t, &bundle);
            }
            t.run_bundle(&bundle)
        };
        let up = PathBuf::from(format!("../../../../../../../..{}", victim.display()));
        for user_namespace in [false, true] {
            for target in [&victim, &up] {
                for source in
                    ["rootfs/vol", "rootfs/inside/../vol", "rootfs/vol/../my-victim", "rootfs/vol/../../x"]
                {
                    let out = run(&|b| b.dir.join(source), target, user_namespace);
                    out.fails("mounts[7].source");
                    // The same with a path relative to the bundle.
                    run(&|_| source.into(), target, user_namespace).fails("mounts[7].source");
                }
            }
            let inside = run(&|b| b.rootfs().join("vol"), Path::new("/inside"), user_namespace);
            assert_eq!(inside.ok(), "secret\nthe image's");
        }
        // Check of the check: the kernel by itself follows such a link, and the victim can be shown.
        assert!(run(&|_| victim.clone(), &victim, false).ok().contains(SECRET));
        let bundle = t.bundle(|_| {});
        put(&bundle, "vol", victim.to_str().unwrap());
        assert_eq!(fs::read_to_string(bundle.rootfs().join("vol/secret")).unwrap(), SECRET);
    });
}

/// They do not lead into earlier mounts either: a procfs that is not masked yet, or a volume that will be
/// read-only.
#[test]
fn sources_in_the_image_do_not_lead_into_mounts() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        let run = |source: &str, link: Option<&str>| {
            let bundle = t.bundle(|c| {
                add(c, json!({"destination": "/ro", "source": volume, "options": ["bind", "ro"]}));
                c["process"]["args"] = json!(["/bin/touch", "/d2/written"]);
            });
            let source = bundle.rootfs().join(source);
            bundle.edit(|c| {
                add(c, json!({"destination": "/d2", "source": source, "options": ["rbind", "rw"]}))
            });
            if let Some(link) = link {
                put(&bundle, "data", link);
            }
            t.run_bundle(&bundle)
        };
        for link in ["/proc", "/ro", "../ro", "/proc/sys"] {
            run("data", Some(link)).fails("mounts[8].source");
        }
        assert!(!volume.join("written").exists());
        // Check of the check: a path that config.json names is shown, and can be written to.
        run("ro", None).ok();
        assert!(volume.join("written").exists());
    });
}

/// A container with the right to mount can make a mask writable again, but the mask has no room for files.
#[test]
fn a_mask_has_no_room_for_files() {
    isolated(|t| {
        let script = "mount -o remount,rw /home/alice && echo writable; \
                      for f in 1 2 3; do head -c 8192 /dev/zero > $0/x$f; mkdir $0/d$f; done; ls $0 | wc -l";
        let run = |at: &str| {
            let script = script.replace("$0", at);
            let out = t.run(&script, |c| {
                all_capabilities(c, &[]);
                c["linux"]["maskedPaths"] = json!(["/home/alice"]);
                tmpfs(c, "/tmp");
            });
            out.stdout
        };
        assert_eq!(run("/home/alice"), "writable\n0\n");
        // Check of the check: another tmpfs has room.
        assert_eq!(run("/tmp"), "writable\n6\n");
    });
}

/// Nodes of the host that are bind-mounted, because nodes cannot be made or as masks, are only devices.
#[test]
fn bound_device_nodes_are_neither_executed_nor_setuid() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["linux"]["maskedPaths"] = json!(["/etc/passwd", "/etc/group"]);
            c["process"]["args"] = json!(["/bin/sh", "-c", "cat /proc/self/mountinfo; echo x > /dev/null"]);
        });
        give_rootfs(t, &bundle);
        let out = t.run_bundle(&bundle).ok();
        let nodes = ["/dev/null", "/dev/zero", "/dev/tty", "/dev/full", "/etc/passwd", "/etc/group"];
        for node in nodes {
            let line = out.lines().find(|line| line.split(' ').nth(4) == Some(node)).unwrap();
            let options = line.split(' ').nth(5).unwrap();
            assert!(options.contains("nosuid") && options.contains("noexec"), "{line}");
            assert!(!options.contains("nodev"), "{line}");
        }
        // Check of the check: another bind mount lacks these options.
        let out = t.run("cat /proc/self/mountinfo", |c| file(c, "/etc/passwd")).ok();
        let line = out.lines().find(|line| line.contains(" /etc/passwd ")).unwrap();
        assert!(!line.contains("noexec"), "{line}");
    });
}

/// A mask is not a peer of the host's /dev, even in the host's mount namespace. Otherwise a second mask or
/// read-only path on the first would be mounted on the host's null device.
#[test]
fn masks_do_not_spread_to_the_hosts_null_device() {
    isolated(|t| {
        host(t, &["mount", "--bind", "/dev", "/dev"]);
        host(t, &["mount", "--make-shared", "/dev"]);
        let null = Path::new("/dev/null");
        let before = look(null);
        for own_namespace in [true, false] {
            let bundle = t.bundle(|c| {
                if !own_namespace {
                    without_namespace(c, "mount");
                    c["mounts"] = json!([]);
                }
                c["linux"]["maskedPaths"] = json!(["/etc/passwd", "/etc/passwd"]);
                c["linux"]["readonlyPaths"] = json!(["/etc/passwd"]);
            });
            // Only as long as it runs: in the host's namespace the unmounting at the end propagates
            // everywhere.
            t.start(&bundle, "r");
            assert_eq!(look(null), before, "a mount namespace of its own: {own_namespace}");
            t.delete("r");
        }
        // Check of the check: a mount on a peer is seen.
        host(t, &["mount", "--bind", "/dev/zero", "/dev/full"]);
        host(t, &["mount", "--bind", "/dev/random", "/dev/full"]);
        assert_eq!(look(Path::new("/dev/zero")).len(), before.len() + 1);
        for path in ["/dev/full", "/dev/full", "/dev"] {
            host(t, &["umount", "-l", path]);
        }
    });
}

/// A node gets its owner by descriptor. An attacker that shares its directory exchanges it for a file of the
/// host on the same file system, as soon as it exists.
#[test]
fn the_owner_of_a_node_is_never_set_on_another_file() {
    isolated(|t| {
        let volume = t.dir.join("my-volume");
        fs::create_dir(&volume).unwrap();
        let (victim, node, other) = (t.dir.join("my-victim"), volume.join("x"), volume.join("y"));
        fs::write(&victim, SECRET).unwrap();
        let bundle = t.bundle(|c| {
            add(c, json!({"destination": "/vol", "source": volume, "options": ["bind"]}));
            let device = json!({"path": "/vol/x", "type": "c", "major": 1, "minor": 3, "uid": 1234});
            c["linux"]["devices"] = json!([device]);
            c["process"]["args"] = json!(["/bin/true"]);
        });
        let (mut exchanged, mut ran) = (0, 0);
        for _ in 0..crate::rounds() {
            fs::hard_link(&victim, &other).unwrap();
            let (from, to) = (other.clone(), node.clone());
            let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let stopped = stop.clone();
            let racer = std::thread::spawn(move || {
                while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                    if crate::races::exchange(&from, &to).is_ok() {
                        return 1;
                    }
                }
                0
            });
            ran += u32::from(t.run_bundle(&bundle).code == 0);
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            exchanged += racer.join().unwrap();
            assert_eq!(fs::metadata(&victim).unwrap().uid(), 0, "the host's file has got the node's owner");
            let _ = (fs::remove_file(&node), fs::remove_file(&other));
        }
        assert!(exchanged > 0, "nothing was exchanged");
        // Check of the check: without the attacker, the node gets its owner.
        t.run_bundle(&bundle).ok();
        assert_eq!(fs::metadata(&node).unwrap().uid(), 1234, "{ran} ran");
    });
}
