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

/// Makes a bundle with a user namespace and these devices.
fn in_user_namespace(t: &Test, list: Value, script: &str) -> Bundle {
    let bundle = t.bundle(|c| {
        map_ids(c);
        devices(list)(c);
        c["process"]["args"] = json!(["/bin/sh", "-c", script]);
    });
    give_rootfs(t, &bundle);
    bundle
}

/// In a user namespace nobody can make nodes. The runtime makes them ahead, with the owner and the
/// permissions of the configuration, wherever the host's nodes are.
#[test]
fn devices_in_a_user_namespace_have_the_configured_owner_and_mode() {
    isolated(|t| {
        let list = json!([
            {"path": "/opt/dir/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o600, "uid": 3, "gid": 4},
            {"path": "/dev/mine", "type": "u", "major": 1, "minor": 5, "fileMode": 0o100_640},
            {"path": "/dev/full", "type": "c", "major": 1, "minor": 5, "gid": 5},
            {"path": "/opt/disk", "type": "b", "major": 7, "minor": 9, "fileMode": 0o660},
            {"path": "/opt/fifo", "type": "p", "fileMode": 0o620, "uid": 3},
        ]);
        let script = "stat -c '%n %F %t:%T %a %u:%g' /opt/dir/mine /dev/mine /dev/full /opt/disk /opt/fifo; \
                      for n in /dev/mine /dev/full; do head -c 2 $n | wc -c; done";
        let bundle = in_user_namespace(t, list.clone(), script);
        let expected = "/opt/dir/mine character special file 1:5 600 3:4\n\
                        /dev/mine character special file 1:5 640 0:0\n\
                        /dev/full character special file 1:5 666 0:5\n\
                        /opt/disk block special file 7:9 660 0:0\n\
                        /opt/fifo fifo 0:0 620 3:0\n2\n2\n";
        // The caller's umask has no effect. A second container finds the mount points of the first.
        for mask in [0o22, 0o77] {
            let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
            let out = t.run_bundle(&bundle);
            nix::sys::stat::umask(umask);
            assert_eq!(out.code, 0, "{out:#?}");
            assert_eq!(out.stdout, expected, "{mask:o}: {out:#?}");
        }
        // The owner can use the node, other users cannot.
        for (uid, code) in [(3, 0), (7, 1)] {
            bundle.edit(|c| {
                c["process"]["user"]["uid"] = json!(uid);
                c["process"]["args"] = json!(["head", "-c", "2", "/opt/dir/mine"]);
            });
            t.run_bundle(&bundle).exits(code);
        }
        // The same by way of a joined user namespace.
        let first = t.start(&in_user_namespace(t, json!([]), "sleep 1000"), "c1");
        let member = in_user_namespace(t, list, script);
        member.edit(|c| {
            let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.last_mut().unwrap()["path"] = json!(format!("/proc/{first}/ns/user"));
            for name in ["uidMappings", "gidMappings"] {
                c["linux"].as_object_mut().unwrap().remove(name);
            }
        });
        assert_eq!(t.run_bundle(&member).ok(), expected);
        t.delete("c1");
    });
}

/// Nothing of what the nodes were made in is in the container, in the host's mounts, or in the way of hooks
/// that look at the state. An owner that is not mapped is nobody, which is a warning.
#[test]
fn of_devices_made_ahead_only_the_nodes_are_seen() {
    isolated(|t| {
        let list = json!([{"path": "/opt/mine", "type": "c", "major": 1, "minor": 5, "uid": 70_000}]);
        let script = "stat -c '%u:%g' /opt/mine; grep -c ' - tmpfs devices' /proc/self/mountinfo; \
                      grep ' - tmpfs devices' /proc/self/mountinfo | cut -d ' ' -f 5";
        let bundle = in_user_namespace(t, list, script);
        let seen = t.dir.join("my-seen");
        bundle.edit(|c| {
            let look = format!(
                "/bin/ls {}/r; /bin/grep -c ' - tmpfs devices' /proc/self/mountinfo",
                t.state().display()
            );
            let hook =
                json!({"path": "/bin/sh", "args": ["sh", "-c", format!("({look}) >{}; exit 0", seen.display())]});
            c["hooks"] = json!({"createRuntime": [hook]});
        });
        let out = t.run_bundle(&bundle).exits(0);
        assert_eq!(out.stdout, "65534:0\n1\n/opt/mine\n");
        let warning = "warning: linux.devices[0].uid: 70000 is not mapped in the container's user namespace, and the node belongs to nobody\n";
        assert_eq!(out.stderr, warning);
        let seen = fs::read_to_string(seen).unwrap();
        assert!(seen.contains("state.json\n") && seen.ends_with("\n0\n"), "{seen}");
        // A hook in the container's mount namespace, where the state directory was covered for a moment.
        let inside = t.dir.join("my-inside");
        fs::create_dir(&inside).unwrap();
        fs::set_permissions(&inside, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        bundle.edit(|c| {
            let look = format!(
                "/bin/grep -c {} /proc/self/mountinfo >{}/count",
                t.state().display(),
                inside.display()
            );
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("{look}; exit 0")]});
            c["hooks"] = json!({"createContainer": [hook]});
        });
        t.run_bundle(&bundle).exits(0);
        assert_eq!(fs::read_to_string(inside.join("count")).unwrap(), "0\n");
    });
}

/// A privileged container gets every device of the host, more than the runtime may have open, and the
/// multiplexer among them. That is left out, since the default link replaces it.
#[test]
fn every_device_of_the_host_can_be_given_to_a_user_namespace() {
    isolated(|t| {
        let device = |path: String, minor: u32| {
            json!({"path": path, "type": "c", "major": if path == "/dev/ptmx" { 5 } else { 1 }, "minor": minor,
                   "fileMode": 0o600, "uid": 0, "gid": 0})
        };
        let mut list: Vec<Value> = (0..150).map(|i| device(format!("/dev/mine{i}"), 3)).collect();
        list.push(device("/dev/ptmx".into(), 2));
        list.extend(
            [("null", 3), ("zero", 5), ("full", 7)]
                .map(|(name, minor)| device(format!("/dev/{name}"), minor)),
        );
        let script =
            "ls /dev/mine* | wc -l; readlink /dev/ptmx; stat -Lc %t:%T /dev/ptmx; echo >/dev/mine149";
        let bundle = in_user_namespace(t, json!(list), script);
        let runtime = t.command(&["run", "--bundle", bundle.path(), "r"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -S -n 100; exec \"$@\"", "sh"]);
        let out = t.call(limited.arg(runtime.get_program()).args(runtime.get_args())).ok();
        assert_eq!(out, "150\npts/ptmx\n5:2\n");
        // The same without a user namespace.
        let out = t.run(script, devices(json!(list))).ok();
        assert_eq!(out, "150\npts/ptmx\n5:2\n");
        // Another device would be lost.
        let other = json!([{"path": "/dev/ptmx", "type": "c", "major": 1, "minor": 3}]);
        t.run("true", devices(other))
            .fails("linux.devices[0].path: /dev/ptmx is the multiplexer of /dev/pts");
    });
}

/// A runtime that may not make nodes binds the host's, and names what these do not have.
#[test]
fn without_the_right_to_make_nodes_the_hosts_are_bind_mounted() {
    isolated(|t| {
        let run = |bundle: &Bundle| {
            let runtime = t.command(&["run", "--bundle", bundle.path(), "r"]);
            let mut command = Command::new("setpriv");
            command.arg("--bounding-set=-mknod").arg(runtime.get_program()).args(runtime.get_args());
            t.call(&mut command)
        };
        let may_not = "the runtime may not make device nodes here";
        for user in [false, true] {
            let bundle = |list: Value| {
                let bundle = in_user_namespace(t, list, "stat -c '%t:%T %a' /dev/full");
                if !user {
                    bundle.edit(|c| {
                        c["linux"]["namespaces"].as_array_mut().unwrap().pop();
                        for name in ["uidMappings", "gidMappings"] {
                            c["linux"].as_object_mut().unwrap().remove(name);
                        }
                    });
                }
                bundle
            };
            let mut full = json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 7});
            assert_eq!(run(&bundle(json!([full]))).ok(), "1:7 666\n", "{user}");
            full["fileMode"] = json!(0o600);
            full["gid"] = json!(6);
            let gid = if user { 65534 } else { 0 };
            let out = run(&bundle(json!([full]))).exits(0);
            let warning = format!(
                "warning: linux.devices[0] /dev/full: {may_not}, and bind-mounts the host's: \
                 fileMode is 0o666 instead of 0o600, gid is {gid} instead of 6, ignoring\n"
            );
            assert_eq!((out.stdout.as_str(), out.stderr), ("1:7 666\n", warning), "{user}");
            let renamed = json!({"path": "/dev/renamed", "type": "c", "major": 1, "minor": 7});
            run(&bundle(json!([renamed]))).fails(&format!(
                "linux.devices[0] /dev/renamed: {may_not}, and the host has none at this path"
            ));
            let zero_at_full = json!({"path": "/dev/full", "type": "c", "major": 1, "minor": 5});
            run(&bundle(json!([zero_at_full])))
                .fails("linux.devices[0] /dev/full")
                .fails("the host's is a character device 1:7, not the character device 1:5");
        }
    });
}

/// In a user namespace the host's default devices are bind-mounted, since everybody can use them.
#[test]
fn a_user_namespace_gets_the_hosts_default_devices_by_bind_mounts() {
    isolated(|t| {
        let run = |list: Value, script: &str| t.run_bundle(&in_user_namespace(t, list, script));
        let script = "stat -c '%n %t:%T %a' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; \
                      stat -c '%F %a %u:%g' /opt/fifo; echo x >/dev/null; head -c 2 /dev/zero | wc -c";
        let list = json!([{"path": "/opt/fifo", "type": "p", "fileMode": 0o640, "uid": 3, "gid": 4}]);
        let out = run(list, script).ok();
        let expected = "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n\
                        /dev/urandom 1:9 666\n/dev/tty 5:0 666\nfifo 640 3:4\n2\n";
        assert_eq!(out, expected);
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
