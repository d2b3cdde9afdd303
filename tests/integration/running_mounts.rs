//! `mounts add` and `mounts remove`: the mounts of a running container.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Output, Test, isolated, without_namespace};

/// Writes a file of mounts, and calls the command with it.
fn change(t: &Test, verb: &str, id: &str, mounts: &Value) -> Output {
    let file = t.dir.join("mounts.json");
    fs::write(&file, mounts.to_string()).unwrap();
    t.corten(&["mounts", verb, id, file.to_str().unwrap()])
}

/// Makes a directory of the host with a file in it.
fn source(t: &Test) -> PathBuf {
    let source = t.dir.join("sources");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "of the host\n").unwrap();
    source
}

fn map_everything(c: &mut Value) {
    c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    for map in ["uidMappings", "gidMappings"] {
        c["linux"][map] = json!([{"containerID": 0, "hostID": 1000, "size": 65536}]);
    }
}

fn without_user_namespace(_: &mut Value) {}

/// The mounts have their options, and can be removed.
#[test]
fn mounts_are_added_to_a_running_container_and_removed() {
    isolated(|t| {
        let source = source(t);
        for (edit, owner) in [(without_user_namespace as fn(&mut Value), 0), (map_everything, 1000)] {
            let bundle = t.bundle(edit);
            std::os::unix::fs::chown(bundle.rootfs(), Some(1000), Some(1000)).unwrap();
            std::os::unix::fs::chown(bundle.rootfs().join("mnt"), Some(1000), Some(1000)).unwrap();
            t.start(&bundle, "c1");
            let before = t.exec("c1", "cat /proc/self/mountinfo").ok();
            let mounts = json!({"mounts": [
                {"destination": "/new", "source": source, "type": "bind", "options": ["rbind", "ro", "nosuid"]},
                {"destination": "/mnt/file", "source": source.join("file"), "options": ["bind"]},
            ]});
            change(t, "add", "c1", &mounts).ok();
            assert_eq!(t.exec("c1", "cat /new/file /mnt/file").ok(), "of the host\nof the host\n");
            let shown = t.exec("c1", "grep ' /new ' /proc/self/mountinfo").ok();
            assert!(shown.contains(" ro,nosuid"), "{shown}");
            change(t, "remove", "c1", &mounts).ok();
            assert_eq!(t.exec("c1", "cat /proc/self/mountinfo").ok(), before);
            assert_eq!(t.exec("c1", "ls /new; stat -c %u /new").ok(), "0\n");
            change(t, "remove", "c1", &mounts).fails("mounts[0] /new: is not a mount point");
            // What was made belongs to the container's root.
            assert_eq!(fs::metadata(bundle.rootfs().join("new")).unwrap().uid(), owner);
            t.delete("c1");
        }
        assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "of the host\n");
    });
}

/// A list alone is accepted too, in the states created and paused as well. The options are those of config.json.
#[test]
fn mounts_are_added_in_every_state_of_a_live_container() {
    isolated(|t| {
        let source = source(t);
        symlink("file", source.join("link")).unwrap();
        let bundle = t.bundle(|_| {});
        t.create(&bundle, "c1");
        change(t, "add", "c1", &json!([{"destination": "/a", "source": source, "options": ["bind"]}])).ok();
        t.corten(&["start", "c1"]).ok();
        t.corten(&["pause", "c1"]).ok();
        let copied = json!([{"destination": "/b", "source": source.join("link"), "options": ["bind", "copy-symlink"]}]);
        change(t, "add", "c1", &copied).ok();
        t.corten(&["resume", "c1"]).ok();
        assert_eq!(t.exec("c1", "cat /a/file; readlink /b").ok(), "of the host\nfile\n");
        let mapped = "idmap=uids=0-5000-10;gids=0-5000-10";
        change(
            t,
            "add",
            "c1",
            &json!([{"destination": "/c", "source": source, "options": ["bind", mapped]}]),
        )
        .ok();
        assert_eq!(t.exec("c1", "stat -c %u:%g /c/file").ok(), "5000:5000\n");
        t.delete("c1");
        change(t, "add", "c1", &copied).fails("does not exist");
    });
}

/// A mount goes into one that is listed before, and on top of it. The caller's umask has no effect, and the file may be a pipe.
#[test]
fn added_mounts_are_nested_in_their_order() {
    isolated(|t| {
        let source = source(t);
        for name in ["sub", "other"] {
            fs::create_dir(source.join(name)).unwrap();
        }
        fs::write(source.join("other/inner"), "inner\n").unwrap();
        symlink("file", source.join("link")).unwrap();
        for edit in [without_user_namespace as fn(&mut Value), map_everything] {
            let bundle = t.bundle(edit);
            std::os::unix::fs::chown(bundle.rootfs(), Some(1000), Some(1000)).unwrap();
            t.start(&bundle, "c1");
            let before = t.exec("c1", "cat /proc/self/mountinfo").ok();
            let copied = json!({"destination": "/l", "source": source.join("link"), "options": ["bind", "copy-symlink"]});
            let mounts = json!([
                {"destination": "/new", "source": source, "options": ["bind"]},
                {"destination": "/new/sub", "source": source.join("other"), "options": ["bind"]},
                {"destination": "/top", "source": source, "options": ["bind"]},
                {"destination": "/top", "source": source.join("other"), "options": ["bind"]},
                copied, copied,
            ]);
            let file = t.dir.join("mounts.json");
            fs::write(&file, mounts.to_string()).unwrap();
            let runtime = t.command(&["mounts", "add", "c1", "-"]);
            let mut command = Command::new("sh");
            command.args(["-c", "umask 077; f=$1; shift; cat \"$f\" | \"$@\"", "sh"]).arg(&file);
            command.arg(runtime.get_program()).args(runtime.get_args());
            t.call(&mut command).ok();
            let shown = t.exec("c1", "cat /new/file /new/sub/inner /top/inner; readlink /l").ok();
            assert_eq!(shown, "of the host\ninner\ninner\nfile\n");
            let four = json!(mounts.as_array().unwrap()[..4]);
            change(t, "remove", "c1", &json!([four[1], four[3]])).ok();
            change(t, "remove", "c1", &json!([four[0], four[2]])).ok();
            assert_eq!(t.exec("c1", "cat /proc/self/mountinfo").ok(), before);
            assert_eq!(t.exec("c1", "stat -c %a /new /top").ok(), "755\n755\n");
            t.delete("c1");
        }
    });
}

/// After an error nothing is attached and nothing is made.
#[test]
fn a_failed_addition_leaves_nothing() {
    isolated(|t| {
        let source = source(t);
        let good = json!({"destination": "/new", "source": source, "options": ["bind"]});
        let file = json!({"destination": "/made", "source": source.join("file"), "options": ["bind"]});
        let bundle = t.bundle(|_| {});
        symlink("/mnt", bundle.rootfs().join("link")).unwrap();
        t.start(&bundle, "c1");
        let before = t.exec("c1", "cat /proc/self/mountinfo; ls /").ok();
        let bind =
            |destination: &str| json!({"destination": destination, "source": source, "options": ["bind"]});
        for (bad, text) in [
            (bind("/no/such/dir"), "mounts[2] /no/such/dir"),
            (bind("/link"), "none is followed in a running container"),
            (bind("/link/below"), "none is followed in a running container"),
            (bind("/etc/passwd"), "not a directory"),
            (bind("/"), "mounts[2].destination: is the root"),
            (bind("/mnt/.."), "mounts[2].destination: is the root"),
            (
                json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}),
                "no such file or directory",
            ),
            (
                json!({"destination": "/x", "source": source, "options": ["bind", "nosuch"]}),
                "mounts[2].options",
            ),
            (json!({"destination": "/x", "type": "tmpfs"}), "mounts[2].type: only a bind mount"),
        ] {
            let changed = || fs::metadata(bundle.rootfs()).map(|m| (m.ctime(), m.ctime_nsec())).unwrap();
            let last = changed();
            change(t, "add", "c1", &json!([good, file, bad])).fails(text);
            // All paths are walked before anything is made.
            assert!(changed() == last || text == "not a directory", "{bad}");
            assert_eq!(t.exec("c1", "cat /proc/self/mountinfo; ls /").ok(), before, "{bad}");
        }
        for (document, text) in [
            ("{}", "mounts: there are none"),
            ("[", "ends before the document is complete"),
            ("[{}]", "destination"),
            ("3", "none"),
        ] {
            let file = t.dir.join("wrong.json");
            fs::write(&file, document).unwrap();
            t.corten(&["mounts", "add", "c1", file.to_str().unwrap()]).fails(text);
        }
        // Nothing is removed either if one of the mounts is not there.
        change(t, "remove", "c1", &json!([bind("/proc"), bind("/mnt")]))
            .fails("mounts[1] /mnt: is not a mount point");
        change(t, "remove", "c1", &json!([bind("/proc"), bind("/")])).fails("mounts[1].destination");
        assert_eq!(t.exec("c1", "cat /proc/self/mountinfo; ls /").ok(), before);
        t.delete("c1");
        for line in [&["mounts"][..], &["mounts", "add", "c1"], &["mounts", "add", "../x", "f"]] {
            t.corten(line).fails("");
        }
        t.corten(&["mounts", "list", "c1", "f"]).fails("mounts: \"list\" is neither add nor remove");
    });
}

/// A container without a mount namespace of its own would share them.
#[test]
fn mounts_are_not_added_to_a_foreign_mount_namespace() {
    isolated(|t| {
        let source = source(t);
        let bundle = t.bundle(|c| without_namespace(c, "mount"));
        t.start(&bundle, "c1");
        let mounts = json!([{"destination": "/new", "source": source, "options": ["bind"]}]);
        change(t, "add", "c1", &mounts).fails("no mount namespace of its own");
        t.delete("c1");
    });
}
