//! Propagation: of the root (config-linux.md#rootfs-mount-propagation) and of each mount, by what mountinfo says on both
//! sides and by which mounts arrive where.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated};
use crate::namespaces::{give_rootfs, map_ids};

/// A host's directory that is a mount of its own, shared with others; unmounted at the end.
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

    /// The number of its peer group.
    fn group(&self) -> String {
        let tags = tags(&fs::read_to_string("/proc/self/mountinfo").unwrap(), self.path.to_str().unwrap());
        tags.strip_prefix("shared:").unwrap().to_string()
    }

    /// Moves a bundle's rootfs here.
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

/// mountinfo's propagation tags of the last mount at a path.
fn tags(mountinfo: &str, path: &str) -> String {
    let mut lines = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.rfind(|fields| fields[4] == path).unwrap_or_default();
    line.iter().skip(6).take_while(|tag| **tag != "-").copied().collect::<Vec<_>>().join(" ")
}

/// How many mounts the host has at or below a path.
fn host_mounts(below: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines()
        .filter(|line| Path::new(line.split(' ').nth(4).unwrap_or_default()).starts_with(below))
        .count()
}

/// May mount.
fn administrator(c: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        c["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
    }
}

fn add(c: &mut Value, mount: Value) {
    c["mounts"].as_array_mut().unwrap().push(mount);
}

/// What the root's propagation is inside, and that nothing that is mounted inside arrives at the host, whose rootfs lies
/// on a shared mount.
#[test]
fn of_the_root() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        for (value, wanted) in [
            (None, "master:"),
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
            // A slave gets what the host mounts; the others do not.
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

/// Each mount's own propagation holds whatever the root's is; towards the host a mount is a peer only if both it and the
/// root say "shared", as with runc.
#[test]
fn of_bind_mounts() {
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
        // The root's; the mount's own; whether it is of the host's group, slave to it, shared itself, and the one below.
        let rows = [
            ("", "", "master"),
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

/// config.md#linux-mount-options: a propagation without an r is that of the one mount, not of those below.
#[test]
fn of_one_mount_alone() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        let below = host.path.join("below");
        fs::create_dir(&below).unwrap();
        mount(t, &["-t", "tmpfs", "x", below.to_str().unwrap()]);
        mount(t, &["--make-shared", below.to_str().unwrap()]);
        for (root, own, top, rest) in [
            // What the host mounts below arrives there, too, if it is to arrive above.
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

/// Of more than one propagation each is applied, the last wins: `unbindable` mounts are left out of later copies.
#[test]
fn of_new_file_systems() {
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

/// Pinned mount namespaces, as `unshare --mount=FILE` makes them below what it is to be kept in, do not come into newer
/// ones: where a source has some below, it comes without.
#[test]
fn of_a_source_with_pinned_mount_namespaces() {
    isolated(|t| {
        let host = Shared::new(t, "host");
        let pins = host.path.join("pins");
        fs::create_dir(&pins).unwrap();
        mount(t, &["--bind", pins.to_str().unwrap(), pins.to_str().unwrap()]);
        mount(t, &["--make-private", pins.to_str().unwrap()]);
        let pin = pins.join("namespace");
        fs::write(&pin, "").unwrap();
        // The kernel numbers namespaces by processor and takes one made on another for an older one, which cannot be pinned.
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
            // A slave that is shared with what the container makes of it.
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
        // The runtime has to copy what is idmapped; whether the pin is the older one then, see above.
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1}]);
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            let mut mapped = json!({"destination": "/mnt", "source": host.path, "options": ["rbind"]});
            (mapped["uidMappings"], mapped["gidMappings"]) = (map.clone(), map);
            add(c, mapped);
        });
        let refused = (0..50).map(|_| t.run_bundle(&bundle)).find(|out| out.code != 0);
        let text = "mounts[7] /mnt: a mount namespace is pinned below the source and cannot come along";
        refused.expect("no older mount namespace was refused").fails(text);
        t.call(Command::new("umount").arg(&pin)).ok();
    });
}
