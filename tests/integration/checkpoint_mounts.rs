//! The mounts that a checkpoint names and a restore makes, with a CRIU that does what a test asks for (examples/criu.rs).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use corten::testing::criu::message::{ExternalMount, Type};
use serde_json::json;

use crate::checkpoint::says;
use crate::harness::{Criu, isolated, poll, skip};
use crate::mounts::add;

/// Mounts of the host's are named by their mount points, masks of files by the file that they show.
#[test]
fn mounts_of_the_host_are_external() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let volume = t.dir.join("volume");
        fs::create_dir(&volume).unwrap();
        let bundle = t.bundle(|c| {
            let bind = json!({"destination": "/vol", "source": volume, "type": "bind", "options": ["rbind"]});
            c["mounts"].as_array_mut().unwrap().push(bind);
        });
        t.start(&bundle, "c1");
        criu.checkpoint(t, &["c1"]).ok();
        let options = criu.options(Type::Dump);
        let has = |key: &str, value: &str| {
            options.external_mounts.contains(&ExternalMount { key: key.into(), value: value.into() })
        };
        assert!(has("/vol", "/vol") && has("/proc/keys", "/dev/null"), "{options:?}");
        assert!(!options.external_mounts.iter().any(|mount| mount.key == "/dev" || mount.key == "/proc"));
        assert_eq!(options.root.as_deref(), bundle.rootfs().to_str());
        let streams: Vec<String> =
            serde_json::from_slice(&fs::read(criu.images.join("descriptors.json")).unwrap()).unwrap();
        assert_eq!(streams.len(), 3);
        assert!(streams[1].starts_with("file[") && options.external.contains(&streams[1]), "{options:?}");
    });
}

/// A file system of the container that never answers does not hold a checkpoint.
#[test]
fn a_file_system_that_never_answers_is_an_error() {
    isolated(|t| {
        if !Path::new("/dev/fuse").exists() {
            skip("the host has no /dev/fuse");
        }
        let criu = Criu::new(&t.dir);
        let bundle =
            t.bundle(|c| add(c, json!({"destination": "/srv/vol", "source": t.dir, "options": ["bind"]})));
        let pid = t.start(&bundle, "c1");
        let script = format!(
            "exec 9<>/dev/fuse; nsenter -m -t {pid} /bin/mount -t fuse -o fd=9,rootmode=40000,user_id=0,group_id=0 none /srv \
             && echo mounted && exec sleep 1000"
        );
        let mut server = t.spawn(Command::new("sh").args(["-c", &script]));
        assert!(poll(Duration::from_secs(10), || fs::read_to_string(&server.stdout).unwrap() == "mounted\n"));
        says(
            criu.checkpoint(t, &["c1"]),
            "checkpoint c1: the container's file systems did not answer within 10s",
        );
        assert_eq!((t.status("c1"), criu.take(Type::Dump)), ("running".into(), None));
        server.child.kill().unwrap();
        server.wait();
        t.delete("c1");
    });
}

/// Masks and read-only paths in a bind mount are as after `create`: they hide what is the host's.
#[test]
fn masks_in_a_volume_are_made_again() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let volume = t.dir.join("my-volume");
        for name in ["secret", "kept"] {
            fs::create_dir_all(volume.join(name)).unwrap();
            fs::write(volume.join(name).join("file"), "the host's\n").unwrap();
        }
        fs::write(volume.join("key"), "the host's\n").unwrap();
        let bundle = t.bundle(|c| {
            add(c, json!({"destination": "/srv", "source": volume, "options": ["bind"]}));
            c["linux"]["maskedPaths"] = json!(["/srv/secret", "/srv/key"]);
            c["linux"]["readonlyPaths"] = json!(["/srv/kept"]);
        });
        fs::create_dir_all(bundle.rootfs().join("srv")).unwrap();
        criu.script(
            &json!({"program": "ls /srv/secret; cat /srv/key; echo x >/srv/kept/file; cat /srv/kept/file"}),
        );
        let output = criu.restore(t, &["-b", bundle.path(), "c1"]).exits(0);
        assert_eq!(output.stdout, "the host's\n");
        assert!(output.stderr.contains("Read-only file system"), "{output:?}");
        // A checkpoint names them as it names the volume.
        t.start(&bundle, "c1");
        criu.checkpoint(t, &["c1"]).ok();
        let named: Vec<_> = criu
            .options(Type::Dump)
            .external_mounts
            .into_iter()
            .map(|mount| (mount.key, mount.value))
            .collect();
        for (point, name) in [
            ("/srv", "/srv"),
            ("/srv/secret", "/srv/secret"),
            ("/srv/key", "/dev/null"),
            ("/srv/kept", "/srv/kept"),
        ] {
            assert!(named.contains(&(point.into(), name.into())), "{point}: {named:?}");
        }
    });
}
