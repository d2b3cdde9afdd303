//! The host's null device, which containers get as masks and as standard streams.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};

use crate::harness::{Test, isolated, poll};
use crate::{all_capabilities, give_rootfs, map_ids};

/// What root of a container tries on the files that are the host's null device.
const CHANGE: &str = "for f in /masked /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2; do
    chmod 600 $f; chown 7:7 $f; touch -d @5 $f; done 2>/dev/null
    echo x >/masked; cat /masked; [ -c /masked ]";

/// Replaces the host's null device by one that only this test sees. Returns its attributes when called.
fn own_null(t: &Test) -> impl Fn() -> (u32, u32, u32, i64) {
    let node = t.dir.join("my-null");
    mknod(&node, SFlag::S_IFCHR, Mode::empty(), makedev(1, 3)).unwrap();
    fs::set_permissions(&node, Permissions::from_mode(0o666)).unwrap();
    mount(Some(&node), "/dev/null", None::<&Path>, MsFlags::MS_BIND, None::<&Path>).unwrap();
    move || {
        let stat = fs::metadata(&node).unwrap();
        (stat.mode(), stat.uid(), stat.gid(), stat.mtime())
    }
}

fn masked(c: &mut Value) {
    all_capabilities(c, &[]);
    c["linux"]["maskedPaths"] = json!(["/masked"]);
    c["process"]["args"] = json!(["/bin/sh", "-c", format!("{CHANGE}; exec sleep 1000 <&- >&- 2>&-")]);
}

/// Root of a container without a user namespace owns the host's nodes. It needs no capability to change the mode of a
/// mask or of a standard stream, and the host's /dev/null would be closed to every user.
#[test]
fn a_container_cannot_change_the_hosts_null_device() {
    isolated(|t| {
        let attributes = own_null(t);
        let before = attributes();
        let bundle = t.bundle(masked);
        fs::write(bundle.rootfs().join("masked"), "masked").unwrap();
        let null = |command: &mut Command| {
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap()
                .success()
        };
        let closed = |command: &Command| {
            let mut shell = Command::new("/bin/sh");
            shell
                .args(["-c", "\"$@\" <&- >&- 2>&-", "sh"])
                .arg(command.get_program())
                .args(command.get_args());
            shell.status().unwrap().success()
        };
        assert!(null(&mut t.command(&["create", "-b", bundle.path(), "c1"])));
        assert!(null(&mut t.command(&["start", "c1"])));
        assert!(closed(&t.command(&["run", "-d", "-b", bundle.path(), "c2"])));
        for exec in ["c1", "c2"].map(|id| t.command(&["exec", id, "/bin/sh", "-c", CHANGE])) {
            assert!(closed(&exec));
        }
        assert!(null(&mut t.command(&["exec", "c1", "/bin/sh", "-c", CHANGE])));
        // The first processes have tried it too.
        for id in ["c1", "c2"] {
            let comm = format!("/proc/{}/comm", t.pid(id));
            assert!(poll(Duration::from_secs(20), || fs::read_to_string(&comm).unwrap() == "sleep\n"));
        }
        // Without a null device in the container, the streams are the host's.
        t.exec("c2", "rm /dev/null; echo file >/dev/null").ok();
        assert!(null(&mut t.command(&["exec", "c2", "/bin/sh", "-c", CHANGE])));
        // In a user namespace no node can be made. Its root does not own the host's.
        let bundle = t.bundle(|c| {
            masked(c);
            map_ids(c);
        });
        fs::write(bundle.rootfs().join("masked"), "masked").unwrap();
        give_rootfs(t, &bundle);
        assert!(null(&mut t.command(&["run", "-d", "-b", bundle.path(), "c3"])));
        t.exec("c3", ": >/dev/shm/file; mount -o bind /dev/shm/file /dev/null").ok();
        assert!(null(&mut t.command(&["exec", "c3", "/bin/sh", "-c", CHANGE])));
        t.delete("c3");
        assert_eq!(attributes(), before);
        // Check of the check: what was tried changes a node that can be changed.
        t.exec("c1", &CHANGE.replace("/masked", "/dev/null")).ok();
        assert!(t.exec("c1", "stat -c '%a %u' /dev/null").ok().starts_with("600 7"));
        t.delete("c1");
        t.delete("c2");
        umount("/dev/null").unwrap();
    });
}
