//! The options of `mounts` (config.md#linux-mount-options), on trees of mounts and on new file systems.

use std::fs;

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, isolated};

pub fn add(c: &mut Value, mount: Value) {
    c["mounts"].as_array_mut().unwrap().push(mount);
}

pub fn host_mount(t: &Test, args: &[&str]) {
    t.call(Command::new("mount").args(args)).ok();
}

/// Returns the options of the last mount at a path, and those of its superblock, from mountinfo.
pub fn options<'a>(mountinfo: &'a str, path: &str) -> Option<(Vec<&'a str>, Vec<&'a str>)> {
    let mut lines = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let line = lines.rfind(|fields| fields.get(4) == Some(&path))?;
    Some((line[5].split(',').collect(), line.last()?.split(',').collect()))
}

/// Returns whether all expected words are in the options, and no word that is marked with an exclamation
/// mark.
pub fn fits(options: &[&str], wanted: &str) -> bool {
    wanted.split_whitespace().all(|word| match word.strip_prefix('!') {
        Some(word) => !options.contains(&word),
        None => options.contains(&word),
    })
}

/// A directory of the host that is a mount with these options. Below it is a tmpfs with the same options.
struct Tree<'a> {
    t: &'a Test,
    path: String,
}

impl<'a> Tree<'a> {
    fn new(t: &'a Test) -> Self {
        let path = t.dir.join("tree").to_str().unwrap().to_string();
        fs::create_dir(&path).unwrap();
        host_mount(t, &["-t", "tmpfs", "tmpfs", &path]);
        fs::create_dir(format!("{path}/below")).unwrap();
        host_mount(t, &["-t", "tmpfs", "tmpfs", &format!("{path}/below")]);
        Self { t, path }
    }

    /// Gives both mounts these options and otherwise the kernel's default ones.
    fn remount(&self, options: &str) {
        for path in [self.path.clone(), format!("{}/below", self.path)] {
            let all = "remount,bind,rw,suid,dev,exec,diratime,atime,relatime,symfollow";
            host_mount(self.t, &["-o", &format!("{all},{options}"), &path]);
        }
    }
}

impl Drop for Tree<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.t.call(Command::new("umount").args(["-R", &self.path])).ok();
        }
    }
}

/// config.md#linux-mount-options: recursive options apply to the mounts below, the others do not. Of
/// contradicting options the last one applies.
#[test]
fn recursive_options_reach_the_mounts_below() {
    isolated(|t| {
        let tree = Tree::new(t);
        // The source's options, the mount's, and the words that must (or with ! must not) be in the options
        // at the top and below.
        let rows: &[(&str, &[&str], &str, &str)] = &[
            ("rw", &["rbind"], "rw", "rw"),
            ("ro,nosuid,noatime", &["rbind"], "ro nosuid noatime", "ro nosuid noatime"),
            ("rw", &["rbind", "ro"], "ro", "rw"),
            ("rw", &["rbind", "nosuid", "nodev", "noexec"], "nosuid nodev noexec", "!nosuid !nodev !noexec"),
            ("rw", &["rbind", "rro"], "ro", "ro"),
            ("ro", &["rbind", "rrw"], "rw", "rw"),
            ("ro", &["rbind", "rw"], "rw", "ro"),
            ("rw", &["rbind", "rnosuid"], "nosuid", "nosuid"),
            ("nosuid", &["rbind", "rsuid"], "!nosuid", "!nosuid"),
            ("nosuid", &["rbind", "suid"], "!nosuid", "nosuid"),
            ("rw", &["rbind", "rnodev"], "nodev", "nodev"),
            ("nodev", &["rbind", "rdev"], "!nodev", "!nodev"),
            ("nodev", &["rbind", "dev"], "!nodev", "nodev"),
            ("rw", &["rbind", "rnoexec"], "noexec", "noexec"),
            ("noexec", &["rbind", "rexec"], "!noexec", "!noexec"),
            ("noexec", &["rbind", "exec"], "!noexec", "noexec"),
            ("rw", &["rbind", "rnosymfollow"], "nosymfollow", "nosymfollow"),
            ("nosymfollow", &["rbind", "rsymfollow"], "!nosymfollow", "!nosymfollow"),
            ("nosymfollow", &["rbind", "symfollow"], "!nosymfollow", "nosymfollow"),
            ("rw", &["rbind", "rnodiratime"], "nodiratime", "nodiratime"),
            ("nodiratime", &["rbind", "rdiratime"], "!nodiratime", "!nodiratime"),
            ("nodiratime", &["rbind", "diratime"], "!nodiratime", "nodiratime"),
            ("rw", &["rbind", "rnoatime"], "noatime", "noatime"),
            ("noatime", &["rbind", "ratime"], "relatime", "relatime"),
            ("noatime", &["rbind", "atime"], "relatime", "noatime"),
            ("noatime", &["rbind", "rrelatime"], "relatime", "relatime"),
            ("noatime", &["rbind", "rnorelatime"], "noatime", "noatime"),
            ("rw", &["rbind", "rstrictatime"], "!relatime !noatime", "!relatime !noatime"),
            ("rw", &["rbind", "strictatime"], "!relatime !noatime", "relatime"),
            ("strictatime", &["rbind", "rnostrictatime"], "relatime", "relatime"),
            ("strictatime", &["rbind", "nostrictatime"], "relatime", "!relatime !noatime"),
            ("strictatime", &["rbind", "noatime", "nostrictatime"], "noatime", "!relatime !noatime"),
            ("rw", &["rbind", "ro", "rrw"], "rw", "rw"),
            ("rw", &["rbind", "rro", "rw"], "rw", "ro"),
            ("rw", &["rbind", "rro", "rrw"], "rw", "rw"),
            ("rw", &["rbind", "rnoatime", "strictatime"], "!relatime !noatime", "noatime"),
            ("rw", &["rbind", "strictatime", "rnoatime"], "noatime", "noatime"),
            ("rw", &["rbind", "rro", "nosuid", "rnodev"], "ro nosuid nodev", "ro !nosuid nodev"),
        ];
        let mut wrong = Vec::new();
        for (source, mount_options, top, below) in rows {
            tree.remount(source);
            let out = t.run("cat /proc/self/mountinfo", |c| {
                add(c, json!({"destination": "/mnt", "source": tree.path, "options": mount_options}));
            });
            let found = [("/mnt", top), ("/mnt/below", below)];
            let ok = found
                .iter()
                .all(|(path, wanted)| options(&out.stdout, path).is_some_and(|(o, _)| fits(&o, wanted)));
            if out.code != 0 || !out.stderr.is_empty() || !ok {
                let lines: Vec<_> = out.stdout.lines().filter(|line| line.contains(" /mnt")).collect();
                wrong.push(format!("{source} {mount_options:?}: {lines:?} {}", out.stderr));
            }
        }
        // Without the r of rbind there is no mount below.
        let out = t.run("cat /proc/self/mountinfo", |c| {
            add(c, json!({"destination": "/mnt", "source": tree.path, "options": ["bind", "rro"]}));
        });
        assert_eq!(options(&out.ok(), "/mnt/below"), None);
        tree.remount("rw");
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// On a new file system a recursive option applies to its one mount. Flags of the superblock apply too.
#[test]
fn options_apply_to_new_file_systems() {
    isolated(|t| {
        let rows: &[(&[&str], &str)] = &[
            (&["ro", "rrw"], "rw !ro"),
            (&["rro", "rw"], "rw !ro"),
            (&["rro"], "ro"),
            (&["rnosuid", "rnodev", "rnoexec", "rnosymfollow"], "nosuid nodev noexec nosymfollow"),
            (&["rnosuid", "suid"], "!nosuid"),
            (&["nosuid", "rsuid"], "!nosuid"),
            (&["rnoatime", "strictatime"], "!noatime !relatime"),
            (&["strictatime", "rnoatime"], "noatime"),
            (&["rnoatime", "ratime"], "relatime"),
            (&["rnodiratime", "diratime"], "!nodiratime"),
            (&["rstrictatime", "rnostrictatime"], "relatime"),
            (&["ro", "tmpcopyup"], "ro"),
            (&["rro", "tmpcopyup", "nosuid"], "ro nosuid"),
            (&["rro", "rw", "tmpcopyup"], "rw !ro"),
            (&["loud", "silent", "iversion", "ro"], "ro"),
        ];
        let mut wrong = Vec::new();
        for (mount_options, wanted) in rows {
            let out = t.run("cat /proc/self/mountinfo", |c| {
                add(
                    c,
                    json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": mount_options}),
                );
            });
            if out.code != 0 || !options(&out.stdout, "/mnt").is_some_and(|(o, _)| fits(&o, wanted)) {
                wrong.push(format!("{mount_options:?}: {:?} {}", options(&out.stdout, "/mnt"), out.stderr));
            }
        }
        for (mount_options, wanted) in [
            (vec!["sync", "dirsync", "lazytime"], "sync dirsync lazytime"),
            (vec!["sync", "async", "lazytime", "nolazytime", "mand", "nomand"], "!sync !lazytime !mand"),
            // Together with a flag that only mount(2) takes.
            (vec!["sync", "silent", "size=1m", "nr_inodes=7"], "sync size=1024k nr_inodes=7"),
            (
                vec!["defaults", "", "x-mount.mkdir", "X-any", "comment=x", "nofail", "user=x", "size=1m"],
                "size=1024k",
            ),
        ] {
            let out = t.run("cat /proc/self/mountinfo", |c| {
                add(
                    c,
                    json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": mount_options}),
                );
            });
            if out.code != 0 || !options(&out.stdout, "/mnt").is_some_and(|(_, sb)| fits(&sb, wanted)) {
                wrong.push(format!("{mount_options:?}: {:?} {}", options(&out.stdout, "/mnt"), out.stderr));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// `remount`: with `bind` it changes the mount and keeps its other options. Without `bind` it changes the
/// file system.
#[test]
fn remount_changes_the_mount_or_the_file_system() {
    isolated(|t| {
        let tree = Tree::new(t);
        tree.remount("nosuid,nodev,noatime");
        let run = |first: Value, second: Value| {
            t.run("cat /proc/self/mountinfo", |c| {
                add(c, first);
                add(c, second);
            })
        };
        let bind = json!({"destination": "/mnt", "source": tree.path, "options": ["rbind"]});
        let tmpfs = |options: Value| json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": options});
        let again = |options: Value| json!({"destination": "/mnt", "source": "x", "options": options});
        for (first, second, wanted, superblock, below) in [
            (
                bind.clone(),
                again(json!(["bind", "remount", "ro"])),
                "ro nosuid nodev noatime",
                "rw",
                "!ro nosuid",
            ),
            (
                bind.clone(),
                again(json!(["remount", "bind", "suid", "relatime"])),
                "!nosuid nodev relatime",
                "rw",
                "nosuid",
            ),
            (bind.clone(), again(json!(["rbind", "remount", "rro"])), "ro nosuid nodev", "rw", "ro nosuid"),
            (tmpfs(json!(["nosuid"])), again(json!(["remount", "size=1m"])), "!nosuid", "size=1024k", ""),
            (tmpfs(json!(["rw"])), again(json!(["remount", "ro"])), "ro", "ro", ""),
            (tmpfs(json!(["ro"])), again(json!(["remount", "rw", "noexec"])), "rw noexec", "rw", ""),
            (tmpfs(json!(["rw"])), again(json!(["remount", "bind", "ro"])), "ro", "rw", ""),
            (tmpfs(json!(["sync"])), again(json!(["remount", "async"])), "rw", "!sync", ""),
        ] {
            let out = run(first, second.clone()).ok();
            let (top, sb) = options(&out, "/mnt").unwrap();
            assert!(fits(&top, wanted) && fits(&sb, superblock), "{second}: {top:?} {sb:?}");
            if let Some((below_top, _)) = options(&out, "/mnt/below") {
                assert!(fits(&below_top, below), "{second}: below {below_top:?}");
            }
        }
        // A path that is not a mount cannot be remounted. An option that a remount cannot change is an error.
        for (second, expected) in [
            (json!({"destination": "/etc", "options": ["bind", "remount", "ro"]}), "mounts[8]"),
            (json!({"destination": "/nowhere", "options": ["remount", "ro"]}), "mounts[8] /nowhere"),
            (again(json!(["remount", "nosuchoption=1"])), "nosuchoption"),
            (again(json!(["remount", "bind", "errors=1m"])), "mounts[8].options: \"errors=1m\""),
            (again(json!(["remount", "tmpcopyup"])), "mounts[8].options"),
            (again(json!(["remount", "bind", "idmap"])), "mounts[8]"),
        ] {
            run(tmpfs(json!(["rw"])), second).fails(expected);
        }
        tree.remount("rw");
    });
}
