//! Ways back through the container's own mount namespace.

use std::fs;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, without_namespace};
use crate::{SECRET, Victim, all_capabilities, bind_payload, found, give_rootfs, map_ids, payload};

/// Joins the user namespace of the container `c1`.
fn join_user(t: &Test, c: &mut Value) {
    let namespace = json!({"type": "user", "path": format!("/proc/{}/ns/user", t.pid("c1"))});
    c["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
}

/// A process with all capabilities unmounts the mount at "/" and enters its mount namespace anew, where "/"
/// is then the mount below. In a user namespace the root is locked. If no lock prevents it, the container is
/// refused. Check of the check: the two cases that SECURITY.md names, CAP_SYS_ADMIN without a user namespace
/// with --no-pivot, and the host's mount namespace, from which a chroot leads back.
#[test]
fn unmounting_the_root_does_not_uncover_the_hosts() {
    payload(unmount_the_root);
    isolated(|t| {
        let victim = Victim::new(t);
        let other = t.bundle(map_ids);
        give_rootfs(t, &other);
        t.start(&other, "c1");
        let refused =
            Err("linux.namespaces: with a user namespace, --no-pivot leaves the host's root within reach");
        let needed = Err("linux.namespaces: a user namespace needs a mount namespace");
        for (user, mounts, no_pivot, expected) in [
            ("none", true, false, Ok("no")),
            ("new", true, false, Ok("EINVAL")),
            ("joined", true, false, Ok("EINVAL")),
            ("new", true, true, refused),
            ("joined", true, true, refused),
            ("new", false, false, needed),
            ("joined", false, false, needed),
            // The capabilities of the row.
            ("none", true, true, Ok(SECRET)),
            ("none", false, false, Ok(SECRET)),
        ] {
            let what = format!("user namespace: {user}, mount namespace: {mounts}, --no-pivot: {no_pivot}");
            let bundle = t.bundle(|c| {
                all_capabilities(c, &[]);
                let secret = victim.dir.join("secret");
                bind_payload(
                    c,
                    "leaving::unmounting_the_root_does_not_uncover_the_hosts",
                    &[secret.to_str().unwrap()],
                );
                if !mounts {
                    without_namespace(c, "mount");
                }
                match user {
                    "new" => map_ids(c),
                    "joined" => join_user(t, c),
                    _ => {}
                }
            });
            give_to(t, &bundle, user);
            let more: &[&str] = if no_pivot { &["--no-pivot"] } else { &[] };
            let out = t.corten(&[&["run"], more, &["-b", bundle.path(), "r"]].concat());
            match expected {
                Ok(expected) => assert_eq!(found(&out.ok()), expected, "{what}"),
                Err(text) => drop(out.fails(text)),
            }
        }
        t.delete("c1");
        victim.is_untouched("the root below");
    });
}

fn give_to(t: &Test, bundle: &Bundle, user: &str) {
    if user != "none" {
        give_rootfs(t, bundle);
    }
}

/// The payload: the content of the host's file, or the reason of the failure.
fn unmount_the_root(arguments: &[String]) -> String {
    let own = fs::File::open("/proc/self/ns/mnt").unwrap();
    // A thread that shares its root with another cannot enter a mount namespace.
    unshare(CloneFlags::CLONE_FS).unwrap();
    let unmounted = umount2("/", MntFlags::MNT_DETACH);
    if let Err(e) = setns(&own, CloneFlags::CLONE_NEWNS) {
        return format!("setns: {e:?}");
    }
    match (fs::read_to_string(&arguments[0]), unmounted) {
        (Ok(text), _) => text,
        (Err(_), Err(e)) => format!("{e:?}"),
        (Err(_), Ok(())) => "no".into(),
    }
}

/// CAP_SYS_ADMIN in a user namespace undoes the masks and read-only paths of its own mount namespace:
/// SECURITY.md says that they are no boundary against it. Without the capability they hold. Even with it, the
/// container cannot change files that are not its own, and a read-only mount of the host stays so.
#[test]
fn masks_hold_without_cap_sys_admin() {
    payload(undo_masks);
    isolated(|t| {
        let victim = Victim::new(t);
        let path = victim.dir.to_str().unwrap();
        let (bind, remount) = (MsFlags::MS_BIND, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
        mount(Some(path), path, None::<&str>, bind, None::<&str>).unwrap();
        mount(None::<&str>, path, None::<&str>, remount, None::<&str>).unwrap();
        for (but, expected) in [
            (&[][..], "unmasked writable-root parameter:EACCES host:EPERM"),
            (&["CAP_SYS_ADMIN"], "masked:EPERM read-only-root:EPERM parameter:EACCES host:EPERM"),
        ] {
            let bundle = t.bundle(|c| {
                all_capabilities(c, but);
                map_ids(c);
                c["root"]["readonly"] = json!(true);
                bind_payload(c, "leaving::masks_hold_without_cap_sys_admin", &[""]);
                crate::add(c, json!({"destination": "/mnt", "source": path, "options": ["rbind"]}));
            });
            give_rootfs(t, &bundle);
            assert_eq!(found(&t.run_bundle(&bundle).ok()), expected, "without {but:?}");
        }
        umount2(path, MntFlags::MNT_DETACH).unwrap();
        victim.is_untouched("masks");
    });
}

/// The payload: which masks could be undone, and the content below.
fn undo_masks(_: &[String]) -> String {
    let writable = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    let remount = |path: &str| mount(None::<&str>, path, None::<&str>, writable, None::<&str>);
    let errno = |path: &str| {
        let opened = fs::OpenOptions::new().write(true).open(path);
        opened.map_or_else(
            |e| format!("{:?}", nix::errno::Errno::from_raw(e.raw_os_error().unwrap())),
            |_| "open".into(),
        )
    };
    let masked = match umount2("/proc/sys", MntFlags::MNT_DETACH) {
        Ok(()) => "unmasked".to_string(),
        Err(e) => format!("masked:{e:?}"),
    };
    let root = match remount("/") {
        Ok(()) if fs::write("/written", "").is_ok() => "writable-root".to_string(),
        Ok(()) => "remounted".into(),
        Err(e) => format!("read-only-root:{e:?}"),
    };
    let host = remount("/mnt").map_or_else(|e| format!("{e:?}"), |()| "remounted".into());
    format!("{masked} {root} parameter:{} host:{host}", errno("/proc/sys/kernel/core_pattern"))
}
