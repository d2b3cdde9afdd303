//! Devices: the default ones, those of the configuration, and a /dev that belongs to the host
//! (config-linux.md#devices, #default-devices, runtime-linux.md#dev-symbolic-links).

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated};
use crate::mounts::add;
use crate::namespaces::{give_rootfs, map_ids};

fn devices(list: Value) -> impl FnOnce(&mut Value) {
    move |c| c["linux"]["devices"] = list
}

fn mknod(t: &Test, bundle: &Bundle, path: &str, rest: &[&str]) {
    t.call(Command::new("mknod").arg(bundle.rootfs().join(path)).args(rest)).ok();
}

/// The default nodes and links do not depend on the caller's umask. They are also made if the container has
/// no mount at /dev, and if its /dev already has links.
#[test]
fn every_dev_has_the_default_devices_and_links() {
    isolated(|t| {
        let script = "cd /dev; stat -c '%n %F %t:%T %a %u:%g' null zero full random urandom tty; \
                      for l in fd stdin stdout stderr ptmx; do readlink $l; done; echo x >null && head -c 3 zero | wc -c";
        let nodes = ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"];
        let mut expected: Vec<String> = nodes
            .iter()
            .map(|node| node.split_once(' ').unwrap())
            .map(|(name, number)| format!("{name} character special file {number} 666 0:0"))
            .collect();
        expected.extend(
            ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx", "3"]
                .map(Into::into),
        );
        let without_dev = |c: &mut Value| {
            c["mounts"].as_array_mut().unwrap().retain(|mount| {
                !mount["destination"].as_str().is_some_and(|target| target.starts_with("/dev"))
            });
        };
        for (has_dev, prepared) in [(true, false), (false, false), (false, true)] {
            let bundle = t.bundle(|c| {
                if !has_dev {
                    without_dev(c);
                }
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            let dev = bundle.rootfs().join("dev");
            if prepared {
                for (link, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("ptmx", "/dev/pts/ptmx")]
                {
                    symlink(target, dev.join(link)).unwrap();
                }
                mknod(t, &bundle, "dev/null", &["-m", "666", "c", "1", "3"]);
            }
            let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
            let out = t.run_bundle(&bundle);
            nix::sys::stat::umask(umask);
            // An existing link is kept, except that of the multiplexer.
            let out = out.ok().replace("\nfd/0\n", "\n/proc/self/fd/0\n");
            assert_eq!(out, expected.join("\n") + "\n", "/dev mounted: {has_dev}, links: {prepared}");
            // The same devices can be made again on the existing ones.
            assert_eq!(t.run_bundle(&bundle).ok().replace("\nfd/0\n", "\n/proc/self/fd/0\n"), out);
        }
    });
}

/// config-linux.md#devices: "If a file already exists at path that does not match the requested device, the
/// runtime MUST generate an error". The error has the expected and the existing device.
#[test]
fn an_existing_file_must_match_the_device() {
    isolated(|t| {
        let device =
            json!({"path": "/opt/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 5});
        let block = json!({"path": "/opt/x", "type": "b", "major": 7, "minor": 9});
        let fifo = json!({"path": "/opt/x", "type": "p"});
        let node =
            |rest: &'static [&'static str]| move |t: &Test, bundle: &Bundle| mknod(t, bundle, "opt/x", rest);
        let other = |what: &'static str| {
            move |_: &Test, bundle: &Bundle| {
                let path = bundle.rootfs().join("opt/x");
                match what {
                    "file" => fs::write(path, "").unwrap(),
                    "directory" => fs::create_dir(path).unwrap(),
                    _ => symlink("/dev/null", path).unwrap(),
                }
            }
        };
        type Prepare = Box<dyn Fn(&Test, &Bundle)>;
        let rows: Vec<(&Value, Prepare, &str)> = vec![
            // The existing node keeps its mode and owner.
            (&device, Box::new(node(&["-m", "640", "c", "1", "3"])), ""),
            (&block, Box::new(node(&["b", "7", "9"])), ""),
            (&fifo, Box::new(node(&["p"])), ""),
            (&device, Box::new(node(&["c", "1", "5"])), "character device 1:5, not the character device 1:3"),
            (&device, Box::new(node(&["b", "1", "3"])), "block device 1:3, not the character device 1:3"),
            (&device, Box::new(node(&["p"])), "fifo, not the character device 1:3"),
            (&block, Box::new(node(&["c", "7", "9"])), "character device 7:9, not the block device 7:9"),
            (&fifo, Box::new(node(&["c", "1", "3"])), "character device 1:3, not the fifo"),
            (&device, Box::new(other("file")), "regular file, not the character device 1:3"),
            (&fifo, Box::new(other("directory")), "directory, not the fifo"),
            (&device, Box::new(other("link")), "symbolic link, not the character device 1:3"),
        ];
        for (value, prepare, expected) in rows {
            let bundle = t.bundle(|c| {
                devices(json!([value]))(c);
                c["process"]["args"] = json!(["stat", "-c", "%F %a", "/opt/x"]);
            });
            fs::create_dir(bundle.rootfs().join("opt")).unwrap();
            prepare(t, &bundle);
            let out = t.run_bundle(&bundle);
            if expected.is_empty() {
                assert!(!out.ok().is_empty());
            } else {
                out.fails("linux.devices[0] /opt/x").fails(expected);
            }
        }
    });
}

/// A bind-mounted /dev belongs to the host, so no file is made in it. The devices of the configuration must
/// exist in it.
#[test]
fn no_file_is_made_in_a_bind_mounted_dev() {
    isolated(|t| {
        let dev = t.dir.join("my-dev");
        fs::create_dir(&dev).unwrap();
        t.call(Command::new("mknod").arg(dev.join("null")).args(["-m", "666", "c", "1", "3"])).ok();
        let run = |list: Value, target: &str, script: &str| {
            t.run(script, |c| {
                c["mounts"].as_array_mut().unwrap().retain(|mount| {
                    !mount["destination"].as_str().is_some_and(|target| target.starts_with("/dev"))
                });
                add(c, json!({"destination": target, "source": dev, "options": ["rbind"]}));
                devices(list)(c);
            })
        };
        let like_null = |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 3});
        assert_eq!(run(json!([]), "/dev", "ls /dev").ok(), "null\n");
        assert_eq!(
            run(json!([like_null("/dev/null"), like_null("/opt/null")]), "/dev/", "ls /dev /opt").ok(),
            "/dev:\nnull\n\n/opt:\nnull\n"
        );
        run(json!([like_null("/dev/other")]), "/dev", "true")
            .fails("linux.devices[0] /dev/other")
            .fails("bind");
        run(json!([like_null("/dev/sub/other")]), "/dev", "true").fails("linux.devices[0] /dev/sub/other");
        let zero = json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 5});
        run(json!([zero]), "/dev", "true").fails("character device 1:3, not the character device 1:5");
        assert_eq!(fs::read_dir(&dev).unwrap().count(), 1);
        // The device belongs to the host.
        let before = fs::read_dir("/dev").unwrap().count();
        let out = t.run("ls /dev | wc -l; echo x >/dev/null", |c| {
            c["mounts"].as_array_mut().unwrap().retain(|mount| {
                !mount["destination"].as_str().is_some_and(|target| target.starts_with("/dev"))
            });
            add(c, json!({"destination": "/dev", "source": "/dev", "options": ["rbind", "rslave"]}));
        });
        assert_eq!(out.ok(), format!("{before}\n"));
        assert_eq!(fs::read_dir("/dev").unwrap().count(), before);
    });
}

/// In a user namespace nobody can make nodes. The host's are bind-mounted.
#[test]
fn a_user_namespace_gets_the_hosts_devices_by_bind_mounts() {
    isolated(|t| {
        let run = |list: Value, prepare: &dyn Fn(&Bundle), script: &str| {
            let bundle = t.bundle(|c| {
                map_ids(c);
                devices(list)(c);
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            prepare(&bundle);
            give_rootfs(t, &bundle);
            t.run_bundle(&bundle)
        };
        let script = "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /opt/dir/full; \
                      stat -c '%F %a %u:%g' /opt/fifo; echo x >/dev/null; head -c 2 /dev/zero | wc -c";
        let full = |path: &str| json!({"path": path, "type": "c", "major": 1, "minor": 7});
        let list = json!([{"path": "/opt/fifo", "type": "p", "fileMode": 0o640, "uid": 3, "gid": 4}]);
        let out = run(list, &|_| {}, &script.replace(" /opt/dir/full", "")).ok();
        let expected = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n\
                        /dev/urandom 1:9 666\n/dev/tty 5:0 666\nfifo 640 3:4\n2\n";
        assert_eq!(out, expected);
        // A node of the host with that path and number can be bind-mounted.
        run(json!([full("/opt/full")]), &|_| {}, "true").fails("linux.devices[0] /opt/full");
        let zero_at_full = json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 5});
        run(json!([zero_at_full]), &|_| {}, "true")
            .fails("linux.devices[0] /dev/full")
            .fails("the host's is a character device 1:7, not the character device 1:5");
        // A file that is not a mount target made by a runtime is in the way.
        let without_dev = |what: &dyn Fn(&Bundle)| {
            let bundle = t.bundle(|c| {
                map_ids(c);
                c["mounts"].as_array_mut().unwrap().retain(|mount| {
                    !mount["destination"].as_str().is_some_and(|target| target.starts_with("/dev"))
                });
                c["process"]["args"] = json!(["stat", "-c", "%F", "/dev/null"]);
            });
            what(&bundle);
            give_rootfs(t, &bundle);
            t.run_bundle(&bundle)
        };
        let null = |bundle: &Bundle| bundle.rootfs().join("dev/null");
        assert_eq!(without_dev(&|_| {}).ok(), "character special file\n");
        assert_eq!(without_dev(&|b| fs::write(null(b), "").unwrap()).ok(), "character special file\n");
        without_dev(&|b| fs::write(null(b), "text").unwrap())
            .fails("regular file, not the character device 1:3");
        without_dev(&|b| symlink("/etc/passwd", null(b)).unwrap())
            .fails("symbolic link, not the character device 1:3");
    });
}
