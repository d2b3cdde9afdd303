//! Mounts that are added to a running container, whose processes prepare for it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Output, Test, isolated, poll};
use crate::{all_capabilities, give_rootfs, map_ids};

fn change(t: &Test, verb: &str, mounts: &Value) -> Output {
    let file = t.dir.join("mounts.json");
    fs::write(&file, mounts.to_string()).unwrap();
    t.corten(&["mounts", verb, "c1", file.to_str().unwrap()])
}

/// mount_namespaces(7): root of a user namespace can neither loosen the restrictions of a mount of the host
/// that is added, nor unmount a mount in it that hides something. Check of the check: the same script on a
/// mount of its own.
#[test]
fn added_mounts_of_the_host_are_locked() {
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
            all_capabilities(c, &[]);
        });
        give_rootfs(t, &bundle);
        t.start(&bundle, "c1");
        let attack = |at: &str| {
            let script = format!(
                "mount -o remount,bind,rw,dev,suid {at} 2>/dev/null && echo remounted; \
                 umount {at}/below 2>/dev/null && echo unmounted; ls -A {at}/below"
            );
            t.exec("c1", &script).ok()
        };
        let own = "mkdir /own && mount -t tmpfs tmpfs /own && mkdir /own/below && touch /own/below/hidden && \
                   mount -t tmpfs tmpfs /own/below && mount -o remount,bind,ro /own";
        t.exec("c1", own).ok();
        assert_eq!(attack("/own"), "remounted\nunmounted\nhidden\n");
        let added = |options: Value| json!([{"destination": "/new", "source": path, "options": options}]);
        change(t, "add", &added(json!(["rbind"]))).ok();
        assert_eq!(attack("/new"), "");
        change(t, "remove", &added(json!(["rbind"]))).ok();
        // As at create, an option that would loosen it is a warning.
        let out = change(t, "add", &added(json!(["rbind", "rw"]))).exits(0);
        assert!(out.stderr.contains("mounts[0].options: \"rw\" has no effect"), "{out:?}");
        assert_eq!(attack("/new"), "");
        t.delete("c1");
        for path in [inner, path] {
            t.call(Command::new("umount").arg(path)).ok();
        }
    });
}

/// A program without capabilities enters a mount namespace that it owns, where it could make an added volume
/// writable again, and the runtime would make mount points with the host's rights. Check of the check: the
/// same container, before its program does so.
#[test]
fn a_mount_namespace_of_the_programs_own_gets_no_mounts() {
    isolated(|t| {
        let source = t.dir.join("my-source");
        fs::create_dir(&source).unwrap();
        for user in [false, true] {
            let bundle = t.bundle(|c| {
                if user {
                    map_ids(c);
                }
                c["process"]["capabilities"] = json!({});
                c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                let script = "until test -e /go; do sleep 0.05; done; exec unshare -U -r -m sleep 1000";
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            if user {
                give_rootfs(t, &bundle);
            }
            let pid = t.start(&bundle, "c1");
            let volume = |at: &str| json!([{"destination": at, "source": source, "options": ["bind", "ro"]}]);
            change(t, "add", &volume("/before")).ok();
            let namespace = || fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
            let first = namespace();
            fs::write(bundle.rootfs().join("go"), "").unwrap();
            let comm = || fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
            assert!(poll(Duration::from_secs(20), || comm() == "sleep\n"), "unshare has failed");
            assert_ne!(namespace(), first);
            let mounts = || fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
            let before = mounts();
            for (verb, at) in [("add", "/new"), ("remove", "/before")] {
                change(t, verb, &volume(at)).fails("a mount namespace of its own making");
                assert_eq!(mounts(), before, "{verb}, user namespace: {user}");
            }
            assert!(!Path::new(&bundle.rootfs().join("new")).exists());
            t.delete("c1");
        }
    });
}
