//! Propagation of the root (config-linux.md#rootfs-mount-propagation) and of each mount. The tests compare
//! mountinfo on both sides, and where later mounts arrive.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, linux_since};
use crate::namespaces::{give_rootfs, map_ids};

/// A directory of the host that is a mount of its own, shared with others. It is unmounted at the end.
struct Shared<'a> {
    t: &'a Test,
    path: PathBuf,
}

impl<'a> Shared<'a> {
    fn new(t: &'a Test, name: &str) -> Self {
        let path = t.dir.join(name);
        fs::create_dir(&path).unwrap();
        mount(t, &["-t", "tmpfs", "tmpfs", path.to_str().unwrap()]);
        mount(t, &["--make-shared", path.to_str().unwrap()]);
        Self { t, path }
    }

    /// Returns the number of its peer group.
    fn group(&self) -> String {
        let tags = tags(&fs::read_to_string("/proc/self/mountinfo").unwrap(), self.path.to_str().unwrap());
        tags.strip_prefix("shared:").unwrap().to_string()
    }

    /// Moves a bundle's rootfs into this directory.
    fn take(&self, bundle: &Bundle) -> PathBuf {
        let rootfs = self.path.join("rootfs");
        self.t.call(Command::new("cp").arg("-a").args([&bundle.rootfs(), &rootfs])).ok();
        bundle.edit(|c| c["root"]["path"] = json!(rootfs));
        rootfs
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.t.call(Command::new("umount").arg("-R").arg(&self.path)).ok();
        }
    }
}

fn mount(t: &Test, args: &[&str]) {
    t.call(Command::new("mount").args(args)).ok();
}

/// Returns the propagation tags of the last mount at a path, from mountinfo.
fn tags(mountinfo: &str, path: &str) -> String {
    let mut lines = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.rfind(|fields| fields[4] == path).unwrap_or_default();
    line.iter().skip(6).take_while(|tag| **tag != "-").copied().collect::<Vec<_>>().join(" ")
}

/// Counts the host's mounts at or below a path.
fn host_mounts(below: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| Path::new(line.split(' ').nth(4).unwrap_or_default()).starts_with(below))
        .count()
}

/// Gives the container the right to mount.
fn administrator(c: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
}

fn add(c: &mut Value, mount: Value) {
    c["mounts"].as_array_mut().unwrap().push(mount);
}

/// The root has the configured propagation inside. No mount made inside arrives at the host, whose rootfs is
/// on a shared mount.
#[test]
fn the_root_has_its_propagation_and_the_host_gets_no_mount() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        for (value, wanted) in [
            (None, ""),
            (Some("shared"), "shared:"),
            (Some("rshared"), "shared:"),
            (Some("slave"), "master:"),
            (Some("rslave"), "master:"),
            (Some("private"), ""),
            (Some("rprivate"), ""),
            (Some("unbindable"), "unbindable"),
            (Some("runbindable"), "unbindable"),
        ] {
            let bundle = t.bundle(|c| {
                administrator(c);
                c["linux"]["rootfsPropagation"] = value.map_or(Value::Null, |value| json!(value));
            });
            let rootfs = host.take(&bundle);
            let before = host_mounts(&t.dir);
            t.start(&bundle, "r");
            assert_eq!(host_mounts(&t.dir), before, "{value:?}: create's mounts arrived at the host");
            let inside = tags(&t.exec("r", "mount -t tmpfs x /home; cat /proc/self/mountinfo").ok(), "/");
            assert_eq!(host_mounts(&t.dir), before, "{value:?}: a container's mount arrived at the host");
            let same = if wanted.is_empty() { inside.is_empty() } else { inside.starts_with(wanted) };
            assert!(same, "{value:?}: {inside:?}");
            let group = host.group();
            assert_ne!(inside.split(' ').next(), Some(format!("shared:{group}").as_str()), "{value:?}");
            // A slave receives later mounts of the host; the others do not.
            let sub = rootfs.join("mnt");
            mount(t, &["-t", "tmpfs", "x", sub.to_str().unwrap()]);
            let arrived = t.exec("r", "grep -c ' /mnt ' /proc/self/mountinfo; true").ok();
            assert_eq!(arrived == "1\n", wanted == "master:", "{value:?}: {arrived}");
            t.call(Command::new("umount").arg(&sub)).ok();
            t.delete("r");
            assert_eq!(host_mounts(&t.dir), before, "{value:?}: delete left mounts");
            fs::remove_dir_all(&rootfs).unwrap();
        }
        t.run("true", |c| c["linux"]["rootfsPropagation"] = json!("rw")).fails("linux.rootfsPropagation");
    });
}

/// Each mount has its own propagation, whatever the root's is. A mount is a peer of the host's only if both
/// it and the root are "shared", as with runc.
#[test]
fn a_bind_mount_is_a_peer_of_the_host_only_if_the_root_is_shared() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        let source = host.path.join("source");
        for dir in ["inner", "outer", "below"] {
            fs::create_dir_all(source.join(dir)).unwrap();
        }
        mount(t, &["-t", "tmpfs", "x", source.join("below").to_str().unwrap()]);
        mount(t, &["--make-shared", source.join("below").to_str().unwrap()]);
        let group = host.group();
        let (peer, master) = (format!("shared:{group}"), format!("master:{group}"));
        // The root's propagation, the mount's own, and the expected result: in the host's group, its slave,
        // shared itself, and the same of the mount below.
        let rows = [
            ("", "", "private"),
            ("", "rprivate", "private"),
            ("", "rslave", "master"),
            ("", "rshared", "shared master"),
            ("", "runbindable", "unbindable"),
            ("private", "", "private"),
            ("private", "rslave", "master"),
            ("private", "rshared", "shared"),
            ("slave", "rprivate", "private"),
            ("slave", "rshared", "shared master"),
            ("shared", "", "master"),
            ("shared", "rprivate", "private"),
            ("shared", "rslave", "master"),
            ("shared", "rshared", "peer"),
            ("rshared", "rshared", "peer"),
            ("rshared", "rslave", "master"),
            ("rshared", "runbindable", "unbindable"),
            ("unbindable", "rshared", "shared master"),
            ("rprivate", "rshared", "shared"),
        ];
        let mut wrong = Vec::new();
        for (root, own, wanted) in rows {
            let bundle = t.bundle(|c| {
                administrator(c);
                c["linux"]["rootfsPropagation"] = json!(root);
                let options = if own.is_empty() { json!(["rbind"]) } else { json!(["rbind", own]) };
                add(c, json!({"destination": "/mnt", "source": source, "options": options}));
            });
            let before = host_mounts(&t.dir);
            t.start(&bundle, "r");
            let after_create = host_mounts(&t.dir);
            let info = t.exec("r", "cat /proc/self/mountinfo").ok();
            let (top, below) = (tags(&info, "/mnt"), tags(&info, "/mnt/below"));
            let shared = top.contains("shared:");
            let got = match () {
                () if top.contains(&peer) => "peer",
                () if shared && top.contains(&master) => "shared master",
                () if shared => "shared",
                () if top.contains(&master) => "master",
                () if top == "unbindable" => "unbindable",
                () => "private",
            };
            let below_fits = below.contains("shared:") == shared
                && below.contains("master:") == top.contains("master:")
                && below.contains("unbindable") == top.contains("unbindable");
            t.exec("r", "mount -t tmpfs x /mnt/inner").ok();
            let to_host = host_mounts(&t.dir) != after_create;
            mount(t, &["-t", "tmpfs", "x", source.join("outer").to_str().unwrap()]);
            let from_host = t.exec("r", "grep -c ' /mnt/outer ' /proc/self/mountinfo; true").ok() == "1\n";
            t.call(Command::new("umount").arg(source.join("outer"))).ok();
            t.exec("r", "umount /mnt/inner").ok();
            t.delete("r");
            let expected = (wanted, wanted == "peer", wanted == "peer" || wanted.contains("master"));
            if (got, to_host, from_host) != expected
                || !below_fits
                || host_mounts(&t.dir) != before
                || after_create != before
            {
                wrong.push(format!(
                    "{root:?} {own:?}: {got} ({top}; {below}) to host {to_host} from host {from_host}"
                ));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// What the host mounts later on its /dev/null does not appear on masks, nor on devices that are bind-mounted.
#[test]
fn masks_and_devices_are_no_slaves_of_the_hosts() {
    isolated(|t| {
        let dev = Shared::new(t, "dev");
        let null = dev.path.join("null");
        t.call(Command::new("mknod").arg("-m").arg("666").arg(&null).args(["c", "1", "3"])).ok();
        mount(t, &["--bind", null.to_str().unwrap(), "/dev/null"]);
        mount(t, &["--make-shared", "/dev/null"]);
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["process"]["args"] = json!(["/bin/cat", "/proc/self/mountinfo"]);
            c["linux"]["maskedPaths"] = json!(["/etc/passwd", "/etc/group", "/home"]);
        });
        give_rootfs(t, &bundle);
        let out = t.run_bundle(&bundle);
        // The tests' own processes have it open.
        t.call(Command::new("umount").args(["-l", "/dev/null"])).ok();
        let out = out.ok();
        for path in ["/dev/null", "/etc/passwd", "/etc/group", "/home"] {
            assert!(out.contains(&format!(" {path} ")) && tags(&out, path).is_empty(), "{path}: {out}");
        }
    });
}

/// A bind mount of an earlier mount of the container is none of the host's, even if that one is: links of the
/// image may lead into it.
#[test]
fn a_bind_mount_of_an_earlier_peer_is_no_peer() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        let source = host.path.join("source");
        fs::create_dir(&source).unwrap();
        let group = format!("shared:{}", host.group());
        for options in [json!(["rbind"]), json!(["rbind", "rshared"]), json!(["rbind", "rslave"])] {
            let bundle = t.bundle(|c| {
                c["linux"]["rootfsPropagation"] = json!("shared");
                c["process"]["args"] = json!(["/bin/cat", "/proc/self/mountinfo"]);
                add(c, json!({"destination": "/mnt", "source": source, "options": ["rbind", "rshared"]}));
            });
            bundle.edit(|c| {
                add(c, json!({"destination": "/home", "source": bundle.rootfs().join("mnt"), "options": options}));
            });
            let out = t.run_bundle(&bundle).ok();
            assert!(tags(&out, "/mnt").contains(&group), "{options}: {out}");
            assert!(!tags(&out, "/home").contains(&group), "{options}: {out}");
        }
    });
}

/// config.md#linux-mount-options: a propagation without an r applies to one mount, not to those below.
#[test]
fn propagation_without_r_applies_to_one_mount() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        let below = host.path.join("below");
        fs::create_dir(&below).unwrap();
        mount(t, &["-t", "tmpfs", "x", below.to_str().unwrap()]);
        mount(t, &["--make-shared", below.to_str().unwrap()]);
        for (root, own, top, rest) in [
            // A later mount of the host below arrives if it would arrive at the mount above.
            ("private", "slave", "master:", "master:"),
            ("private", "shared", "shared:", ""),
            ("slave", "private", "", "master:"),
            ("slave", "unbindable", "unbindable", "master:"),
            ("private", "rslave", "master:", "master:"),
            ("slave", "rprivate", "", ""),
        ] {
            let out = t.run("cat /proc/self/mountinfo", |c| {
                c["linux"]["rootfsPropagation"] = json!(root);
                add(c, json!({"destination": "/mnt", "source": host.path, "options": ["rbind", own]}));
            });
            let out = out.ok();
            for (path, wanted) in [("/mnt", top), ("/mnt/below", rest)] {
                let tags = tags(&out, path);
                let same = if wanted.is_empty() { tags.is_empty() } else { tags.starts_with(wanted) };
                assert!(same, "{root} {own} {path}: {tags:?}");
            }
        }
    });
}

/// Of several propagation options each is applied, and the last remains. Later copies leave `unbindable`
/// mounts out.
#[test]
fn the_last_propagation_of_a_new_file_system_applies() {
    isolated(|t| {
        for (root, own, wanted) in [
            ("shared", "private", ""),
            ("shared", "shared", "shared:"),
            ("private", "shared", "shared:"),
            ("rslave", "unbindable", "unbindable"),
            ("unbindable", "rshared", "shared:"),
        ] {
            let out = t.run("cat /proc/self/mountinfo", |c| {
                c["linux"]["rootfsPropagation"] = json!(root);
                add(c, json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": [own]}));
            });
            let tags = tags(&out.ok(), "/mnt");
            assert!(
                if wanted.is_empty() { tags.is_empty() } else { tags.starts_with(wanted) },
                "{root} {own}: {tags}"
            );
        }
    });
}

/// `unshare --mount=FILE` pins a mount namespace below a source. The kernel does not copy it into a newer
/// namespace, so the source comes without it.
#[test]
fn a_source_comes_without_its_pinned_mount_namespaces() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        let pins = host.path.join("pins");
        fs::create_dir(&pins).unwrap();
        mount(t, &["--bind", pins.to_str().unwrap(), pins.to_str().unwrap()]);
        mount(t, &["--make-private", pins.to_str().unwrap()]);
        let pin = pins.join("namespace");
        fs::write(&pin, "").unwrap();
        // The kernel numbers namespaces by processor. It takes a namespace that was made on another processor
        // for an older one, which cannot be pinned.
        let pinned = || {
            let out = t.call(Command::new("unshare").arg(format!("--mount={}", pin.display())).arg("true"));
            out.code == 0
        };
        assert!((0..50).any(|_| pinned()), "no namespace could be pinned");
        let host_info = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(host_info.contains(&format!(" {} ", pin.display())), "{host_info}");
        let group = host.group();
        for (root, own, user_namespace, wanted) in [
            ("rprivate", "rprivate", false, String::new()),
            ("rslave", "rslave", false, format!("master:{group}")),
            ("rshared", "rshared", false, format!("shared:{group}")),
            ("rslave", "rslave", true, format!("master:{group}")),
            // A slave that is also shared with the mounts of the container.
            ("rshared", "rshared", true, "shared:".to_string()),
        ] {
            let bundle = t.bundle(|c| {
                if user_namespace {
                    map_ids(c);
                }
                c["process"]["args"] = json!(["/bin/cat", "/proc/self/mountinfo"]);
                c["linux"]["rootfsPropagation"] = json!(root);
                add(c, json!({"destination": "/mnt", "source": host.path, "options": ["rbind", own]}));
            });
            if user_namespace {
                give_rootfs(t, &bundle);
            }
            let out = t.run_bundle(&bundle).ok();
            let (tags, case) = (tags(&out, "/mnt"), format!("{root} {user_namespace}"));
            assert!(
                if wanted.is_empty() { tags.is_empty() } else { tags.starts_with(&wanted) },
                "{case}: {tags}"
            );
            assert!(out.contains(" /mnt/pins ") && !out.contains(" /mnt/pins/namespace "), "{case}: {out}");
        }
        // The runtime has to copy idmapped mounts. The pin can be the older namespace then: see above.
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1}]);
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            let mut mapped = json!({"destination": "/mnt", "source": host.path, "options": ["rbind"]});
            (mapped["uidMappings"], mapped["gidMappings"]) = (map.clone(), map);
            add(c, mapped);
        });
        let refused = (0..50).map(|_| t.run_bundle(&bundle)).find(|out| out.code != 0);
        let text = if linux_since(6, 3) {
            "mounts[7] /mnt: a mount namespace is pinned below the source and cannot come along"
        } else {
            // tmpfs has no idmapped mounts before.
            "mount_setattr(set 0x100000"
        };
        refused.expect("no older mount namespace was refused").fails(text);
        t.call(Command::new("umount").arg(&pin)).ok();
    });
}
