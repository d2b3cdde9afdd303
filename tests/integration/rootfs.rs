//! `root`, `mounts` and the members that depend on them. Most tests are rows of options and the mountinfo
//! inside.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::harness::{Test, isolated};

/// Prints mountinfo's fields of the mount at /mnt: its options, its propagation and the options of its
/// superblock.
const SHOW: &str = "awk '$5 == \"/mnt\" { n = 7; while ($n != \"-\") n++; \
                    print \",\" $6 \",\", (n > 7 ? $7 : \"private\"), \",\" $(n + 3) \",\" }' /proc/self/mountinfo";

/// Returns mountinfo's fields of the mount at /mnt: its options, its propagation and the options of its
/// superblock.
fn mount(c: &mut Value, value: Value) {
    c["mounts"].as_array_mut().unwrap().push(value);
}

/// Mounts a directory with a mount below it, or a tmpfs, at /mnt, and returns the output of a script.
fn show(t: &Test, kind: &str, options: &[&str]) -> crate::harness::Output {
    let source = t.dir.join("shared");
    fs::create_dir_all(source.join("below")).unwrap();
    t.run(SHOW, |c| {
        let source = if kind == "bind" { source.to_str().unwrap() } else { "source" };
        mount(c, json!({"destination": "/mnt", "type": kind, "source": source, "options": options}));
    })
}

/// config.md#linux-mount-options: every option of the table, compared with the kernel's view of the mount.
#[test]
fn every_option_of_the_table_has_its_effect() {
    isolated(|t| {
        // The options, the words that mountinfo must have, and the words that it must not have.
        let rows: &[(&str, &[&str], &str, &str)] = &[
            ("tmpfs", &[], "rw relatime", "ro nosuid nodev noexec"),
            ("tmpfs", &["defaults"], "rw", "ro"),
            ("tmpfs", &[""], "rw", "ro"),
            ("tmpfs", &["x-systemd.automount", "x-anything=1"], "rw", "ro"),
            ("tmpfs", &["ro"], "ro", "rw"),
            ("tmpfs", &["ro", "rw"], "rw", "ro"),
            ("tmpfs", &["nosuid", "nodev", "noexec"], "nosuid nodev noexec", ""),
            ("tmpfs", &["nosuid", "suid", "nodev", "dev", "noexec", "exec"], "rw", "nosuid nodev noexec"),
            ("tmpfs", &["noatime"], "noatime", "relatime"),
            ("tmpfs", &["noatime", "atime"], "", "noatime"),
            ("tmpfs", &["strictatime"], "", "noatime relatime"),
            ("tmpfs", &["nodiratime"], "nodiratime", ""),
            ("tmpfs", &["nodiratime", "diratime"], "", "nodiratime"),
            ("tmpfs", &["noatime", "relatime"], "rw", ""),
            ("tmpfs", &["strictatime", "nostrictatime"], "relatime", "noatime"),
            ("tmpfs", &["relatime", "norelatime"], "rw", ""),
            ("tmpfs", &["nosymfollow"], "nosymfollow", ""),
            ("tmpfs", &["nosymfollow", "symfollow"], "", "nosymfollow"),
            ("tmpfs", &["sync", "dirsync"], "sync dirsync", ""),
            ("tmpfs", &["sync", "async"], "", "sync"),
            ("tmpfs", &["lazytime"], "lazytime", ""),
            ("tmpfs", &["lazytime", "nolazytime"], "", "lazytime"),
            ("tmpfs", &["iversion"], "rw", ""),
            ("tmpfs", &["noiversion", "silent", "loud", "mand", "nomand"], "rw", ""),
            ("tmpfs", &["size=64k", "mode=700"], "size=64k mode=700", ""),
            ("tmpfs", &["rro"], "ro", "rw"),
            ("bind", &["bind"], "rw", "ro"),
            ("bind", &["rbind", "ro"], "ro", ""),
            ("bind", &["bind", "ro", "nosuid", "nodev", "noexec"], "ro nosuid nodev noexec", ""),
            ("bind", &["rbind", "rro"], "ro", ""),
            (
                "bind",
                &["rbind", "rnosuid", "rnodev", "rnoexec", "rnosymfollow"],
                "nosuid nodev noexec nosymfollow",
                "",
            ),
            ("bind", &["rbind", "rnoatime"], "noatime", "relatime"),
            ("bind", &["rbind", "rrelatime", "rnodiratime"], "relatime nodiratime", ""),
            (
                "bind",
                &["rbind", "rro", "rrw", "rsuid", "rdev", "rexec", "rsymfollow"],
                "rw",
                "nosuid nodev noexec",
            ),
            ("bind", &["bind", "defaults"], "rw", ""),
        ];
        let mut wrong = Vec::new();
        for (kind, options, wanted, unwanted) in rows {
            let out = show(t, kind, options);
            let has = |word: &str| out.stdout.contains(&format!(",{word},"));
            // A superblock is rw below a read-only mount.
            let mine = out.stdout.split(' ').next().unwrap_or_default();
            let missing = !wanted.split_whitespace().all(has);
            let present = unwanted.split_whitespace().any(|word| mine.contains(&format!(",{word},")));
            if out.code != 0 || !out.stderr.is_empty() || missing || present {
                wrong.push(format!("{kind} {options:?}: {}{}", out.stdout, out.stderr));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// config.md#linux-mount-options: propagation belongs to one mount.
#[test]
fn each_mount_has_its_own_propagation() {
    isolated(|t| {
        for kind in ["tmpfs", "bind"] {
            for (option, wanted) in [
                ("private", "private"),
                ("rprivate", "private"),
                ("shared", "shared:"),
                ("rshared", "shared:"),
                ("unbindable", "unbindable"),
                ("runbindable", "unbindable"),
            ] {
                let options = if kind == "bind" { vec!["rbind", option] } else { vec![option] };
                let out = show(t, kind, &options).ok();
                assert!(out.contains(&format!(" {wanted}")), "{kind} {option}: {out}");
            }
        }
    });
}

/// An unknown option is one of the file system. A bind mount has none to take it.
#[test]
fn an_unknown_option_is_passed_to_the_file_system() {
    isolated(|t| {
        show(t, "tmpfs", &["nosuchoption=1"]).fails("mounts[7]");
        show(t, "bind", &["bind", "nosuchoption"]).fails("mounts[7]");
        show(t, "nosuchfs", &[]).fails("mounts[7]");
    });
}

/// The program `mounts` of runtime-tools gives every bind mount the options of a tmpfs. They give a warning
/// and change nothing.
#[test]
fn options_of_a_tmpfs_on_a_bind_mount_are_warnings() {
    isolated(|t| {
        let output = show(t, "bind", &["nosuid", "mode=700", "size=1k", "bind", "ro"]).exits(0);
        assert!(output.stdout.contains("ro,nosuid"), "{}", output.stdout);
        for option in ["mode=700", "size=1k"] {
            let expected = format!("mounts[7].options: {option:?} has no effect on a bind mount, ignoring");
            assert!(output.stderr.contains(&expected), "{}", output.stderr);
        }
        assert_eq!(fs::metadata(t.dir.join("shared")).unwrap().permissions().mode() & 0o777, 0o755);
        show(t, "bind", &["mode=700", "bind", "nosuchoption=1"]).fails("\"nosuchoption=1\" is not an option");
    });
}

/// Targets are made as directories or files. A symbolic link is resolved inside the root.
#[test]
fn mount_targets_are_made_inside_the_root() {
    isolated(|t| {
        let host = t.dir.join("outside");
        fs::create_dir(&host).unwrap();
        fs::write(t.dir.join("file"), "bound\n").unwrap();
        for (target, file) in [
            ("/new/deep/dir", false),
            ("/new/deep/file", true),
            ("relative/dir", false),
            ("/dangling/x", false),
            ("/dangling", false),
            ("/dangling-file", true),
            ("/up/x", false),
            ("/mnt/../../../../tmp/x", false),
        ] {
            let bundle = t.bundle(|c| {
                let source = t.dir.join(if file { "file" } else { "shared" });
                fs::create_dir_all(t.dir.join("shared")).unwrap();
                mount(
                    c,
                    json!({"destination": target, "source": source, "type": "bind", "options": ["bind"]}),
                );
                c["process"]["args"] = json!(["true"]);
            });
            symlink(host.join("made"), bundle.rootfs().join("dangling")).unwrap();
            symlink(host.join("made-file"), bundle.rootfs().join("dangling-file")).unwrap();
            symlink("../../../../../../../..", bundle.rootfs().join("up")).unwrap();
            let out = t.run_bundle(&bundle);
            // A relative destination is deprecated, so a warning is correct.
            assert_eq!(out.code, 0, "{target}: {}", out.stderr);
            if target.starts_with("relative") {
                // config.md#mounts: it is relative to "/", with any cwd.
                assert!(bundle.rootfs().join(target).is_dir());
            }
            assert_eq!(fs::read_dir(&host).unwrap().count(), 0, "{target} reached the host");
            assert!(!fs::exists("/x").unwrap(), "{target} reached the host's root");
        }
    });
}

/// config.md#mounts
#[test]
fn a_relative_bind_source_is_relative_to_the_bundle() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            mount(c, json!({"destination": "/mnt/file", "source": "my-file", "options": ["bind", "ro"]}));
            c["process"]["args"] = json!(["cat", "/mnt/file"]);
        });
        fs::write(bundle.dir.join("my-file"), "of the bundle\n").unwrap();
        assert_eq!(t.run_bundle(&bundle).ok(), "of the bundle\n");
        fs::remove_file(bundle.dir.join("my-file")).unwrap();
        t.run_bundle(&bundle).fails("mounts[7]").fails("no such file or directory");
    });
}

/// The options of crun for links. Podman sends `copy-symlink` for no-dereference.
#[test]
fn a_link_as_the_source_of_a_bind_mount_is_followed_copied_or_mounted() {
    isolated(|t| {
        let source = t.dir.join("sources");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), "of the host\n").unwrap();
        symlink("file", source.join("link")).unwrap();
        let with_user_namespace = |c: &mut Value| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
            for map in ["uidMappings", "gidMappings"] {
                c["linux"][map] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            }
        };
        let show = "echo of the image >/mnt/file; ls -l /mnt | awk '$9 ~ /link|there/ { print $1, $9, $10, $11 }'; \
                    cat /mnt/link; grep -c ' /mnt/' /proc/self/mountinfo; true";
        for (name, options, expected) in [
            ("link", &["bind"][..], "-rw-r--r-- link  \nof the host\n1\n"),
            ("link", &["bind", "copy-symlink"], "lrwxrwxrwx link -> file\nof the image\n0\n"),
            ("link", &["bind", "src-nofollow"], "lrwxrwxrwx link -> file\nof the image\n1\n"),
            ("file", &["rbind", "copy-symlink", "ro"], "-rw-r--r-- link  \nof the host\n1\n"),
            ("file", &["rbind", "src-nofollow", "ro"], "-rw-r--r-- link  \nof the host\n1\n"),
        ] {
            for user_namespace in [false, true] {
                let out = t.run(show, |c| {
                    mount(
                        c,
                        json!({"destination": "/mnt/link", "source": source.join(name), "options": options}),
                    );
                    if user_namespace {
                        with_user_namespace(c);
                    }
                });
                assert_eq!(out.ok(), expected, "{name} {options:?} {user_namespace}");
            }
        }
        let copy = |bundle: &crate::harness::Bundle| {
            let link = source.join("link");
            bundle.edit(|c| {
                mount(c, json!({"destination": "/x/y", "source": link, "options": ["bind", "copy-symlink"]}));
                c["process"]["args"] = json!(["readlink", "/x/y"]);
            });
        };
        // A copy that is there already is as good. Anything else is not replaced.
        let bundle = t.bundle(|_| {});
        copy(&bundle);
        assert_eq!(t.run_bundle(&bundle).ok(), "file\n");
        assert_eq!(t.run_bundle(&bundle).ok(), "file\n");
        fs::remove_file(bundle.rootfs().join("x/y")).unwrap();
        symlink("other", bundle.rootfs().join("x/y")).unwrap();
        t.run_bundle(&bundle).fails("there is a link to other already");
        fs::remove_file(bundle.rootfs().join("x/y")).unwrap();
        fs::write(bundle.rootfs().join("x/y"), "mine").unwrap();
        t.run_bundle(&bundle).fails("file exists");
        // No link of the image leads the new link into a volume.
        let bundle = t.bundle(|c| {
            mount(c, json!({"destination": "/volume", "source": source, "options": ["bind"]}));
        });
        symlink("volume", bundle.rootfs().join("x")).unwrap();
        copy(&bundle);
        t.run_bundle(&bundle).fails("a link in the image leads into mounts[7] /volume");
        assert!(fs::symlink_metadata(source.join("y")).is_err());
        for (options, text) in [
            (&["bind", "copy-symlink", "src-nofollow"][..], "exclude each other"),
            (&["bind", "copy-symlink", "dest-nofollow"], "exclude each other"),
            (&["remount", "bind", "copy-symlink"], "is for a bind mount"),
            (&["src-nofollow"], "is for a bind mount"),
        ] {
            show_tmpfs(t, options).fails("mounts[7].options").fails(text);
        }
    });
}

fn show_tmpfs(t: &Test, options: &[&str]) -> crate::harness::Output {
    show(t, "tmpfs", options)
}

/// With `dest-nofollow` a mount covers a link of the image itself, instead of the file that it leads to.
#[test]
fn a_link_at_the_destination_can_be_covered() {
    isolated(|t| {
        let source = t.dir.join("sources");
        fs::create_dir(&source).unwrap();
        symlink("/mine", source.join("link")).unwrap();
        fs::write(source.join("file"), "of the host\n").unwrap();
        let run = |destination: &str, name: &str, options: &[&str]| {
            let bundle = t.bundle(|c| {
                let script = format!("readlink {destination}; cat {destination}; cat /target");
                c["process"]["args"] = json!(["sh", "-c", script]);
                mount(
                    c,
                    json!({"destination": destination, "source": source.join(name), "options": options}),
                );
            });
            for (file, text) in [("target", "target\n"), ("mine", "mine\n")] {
                fs::write(bundle.rootfs().join(file), text).unwrap();
            }
            symlink("/target", bundle.rootfs().join("link")).unwrap();
            symlink("/", bundle.rootfs().join("up")).unwrap();
            t.run_bundle(&bundle)
        };
        let both = &["bind", "src-nofollow", "dest-nofollow"];
        assert_eq!(run("/link", "link", both).ok(), "/mine\nmine\ntarget\n");
        assert_eq!(run("/up/link", "link", both).ok(), "/mine\nmine\ntarget\n");
        assert_eq!(run("/link", "file", &["bind", "dest-nofollow"]).ok(), "of the host\ntarget\n");
        assert_eq!(run("/link", "file", &["bind"]).ok(), "/target\nof the host\nof the host\n");
        // The destination is not made, and the links of the kernel are not covered.
        run("/none", "file", &["bind", "dest-nofollow"]).fails("dest-nofollow").fails("no such file");
        run("/proc/self", "file", &["bind", "dest-nofollow"]).fails("procfs, sysfs or devpts");
    });
}

/// config-linux.md#default-devices and #dev-symbolic-links.
#[test]
fn the_default_devices_and_links_exist() {
    isolated(|t| {
        let script = "cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty; for l in fd stdin stdout stderr ptmx; do readlink $l; done";
        let out = t.run(script, |c| c["process"]["noNewPrivileges"] = json!(true)).ok();
        for line in [
            "null character special file 1:3 666",
            "zero character special file 1:5 666",
            "full character special file 1:7 666",
            "random character special file 1:8 666",
            "urandom character special file 1:9 666",
            "tty character special file 5:0 666",
            "/proc/self/fd",
            "/proc/self/fd/0",
            "/proc/self/fd/1",
            "/proc/self/fd/2",
            "pts/ptmx",
        ] {
            assert!(out.lines().any(|got| got == line), "no {line}: {out}");
        }
    });
}

/// config-linux.md#devices: anywhere in the root, with mode and owner. An existing file must match.
#[test]
fn devices_of_the_configuration_are_made_anywhere() {
    isolated(|t| {
        let device = |value: Value| move |c: &mut Value| c["linux"]["devices"] = json!([value]);
        let show = "stat -c '%F %t:%T %a %u:%g' /dev/x /opt/x /opt/p 2>/dev/null; true";
        for (value, expected) in [
            (
                json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8}),
                "character special file 1:3 640 7:8\n",
            ),
            (
                json!({"path": "/dev/x", "type": "u", "major": 1, "minor": 3}),
                "character special file 1:3 666 0:0\n",
            ),
            (
                json!({"path": "/opt/x", "type": "b", "major": 7, "minor": 0, "fileMode": 0o600}),
                "block special file 7:0 600 0:0\n",
            ),
            (json!({"path": "/opt/p", "type": "p", "fileMode": 0o622}), "fifo 0:0 622 0:0\n"),
        ] {
            assert_eq!(t.run(show, device(value.clone())).ok(), expected, "{value}");
        }
        t.run("true", device(json!({"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3})))
            .fails("linux.devices[0]");
        t.run("true", device(json!({"path": "/dev/x", "type": "c"}))).fails("linux.devices[0]");
        t.run("true", device(json!({"path": "dev/x", "type": "c", "major": 1, "minor": 3})))
            .fails("linux.devices[0]");
    });
}

/// Masked and read-only paths that do not exist are skipped. The root is read-only if the configuration says
/// so. --no-pivot gives the same root.
#[test]
fn masked_and_read_only_paths_can_be_missing() {
    isolated(|t| {
        let script = "cat /etc/secret; ls /home/alice; touch /home/bob 2>&1 | grep -o Read-only; touch /tmp/x && echo written";
        let bundle = t.bundle(|c| {
            c["linux"]["maskedPaths"] = json!(["/etc/secret", "/home/alice", "/no/such"]);
            c["linux"]["readonlyPaths"] = json!(["/home", "/no/such"]);
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
        });
        fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
        fs::write(bundle.rootfs().join("home/alice/file"), "").unwrap();
        assert_eq!(t.run_bundle(&bundle).ok(), "Read-only\nwritten\n");
        let read_only = |c: &mut Value| c["root"]["readonly"] = json!(true);
        assert_eq!(
            t.run("touch /x 2>&1 | grep -o Read-only; : >/dev/shm/x && echo shm", read_only).ok(),
            "Read-only\nshm\n"
        );
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["ls", "/"]));
        let out = t.corten(&["run", "--no-pivot", "-b", bundle.path(), "r"]).ok();
        assert!(out.contains("proc") && !out.contains("boot"), "{out}");
    });
}

/// tmpcopyup: the tmpfs begins with the files of the image, with modes and links.
#[test]
fn tmpcopyup_fills_the_tmpfs_from_the_image() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            mount(
                c,
                json!({"destination": "/home", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}),
            );
            c["process"]["args"] = json!([
                "/bin/sh",
                "-c",
                "cat /home/alice/file; readlink /home/link; stat -c %a /home/alice; echo x >/home/new"
            ]);
        });
        fs::write(bundle.rootfs().join("home/alice/file"), "copied\n").unwrap();
        symlink("alice/file", bundle.rootfs().join("home/link")).unwrap();
        t.call(std::process::Command::new("chmod").arg("751").arg(bundle.rootfs().join("home/alice"))).ok();
        assert_eq!(t.run_bundle(&bundle).ok(), "copied\nalice/file\n751\n");
        assert!(!bundle.rootfs().join("home/new").exists());
    });
}

/// Every user can enter the directories that are made for mounts, with any umask of the caller.
#[test]
fn mount_points_do_not_depend_on_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    isolated(|t| {
        let bundle = t.bundle(|config| {
            let mount = json!({"destination": "/made/here", "type": "tmpfs", "source": "tmpfs"});
            config["mounts"].as_array_mut().unwrap().push(mount);
            config["process"]["args"] = json!(["/bin/true"]);
            config["process"]["cwd"] = json!("/work/here");
        });
        let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
        let out = t.run_bundle(&bundle);
        nix::sys::stat::umask(umask);
        out.ok();
        for dir in ["made", "made/here", "work", "work/here"] {
            let mode = fs::metadata(bundle.rootfs().join(dir)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{dir}");
        }
    });
}

/// config.md#process: a working directory that the image lacks is made, also if its place becomes read-only.
#[test]
fn a_missing_working_directory_is_made_where_all_becomes_read_only() {
    isolated(|t| {
        let tmpfs = |c: &mut Value| {
            mount(c, json!({"destination": "/ro", "type": "tmpfs", "source": "x", "options": ["ro"]}));
        };
        let root = |c: &mut Value| c["root"]["readonly"] = json!(true);
        let path = |c: &mut Value| c["linux"]["readonlyPaths"] = json!(["/home"]);
        type Edit<'a> = &'a dyn Fn(&mut Value);
        let rows: [(&str, &[Edit]); 7] = [
            ("/missing/directory", &[&root]),
            ("/missing/../other/./directory/", &[&root]),
            ("/ro/directory", &[&tmpfs]),
            ("/ro/deep/directory", &[&tmpfs, &root]),
            ("/home/directory", &[&path]),
            ("/home/alice/../bob", &[&path, &root]),
            ("/home", &[&path, &root]),
        ];
        for (cwd, edits) in rows {
            for uid in [0, 1000] {
                let out = t.run("stat -c '%a %u' .; pwd; touch x 2>&1 | grep -o Read-only", |c| {
                    edits.iter().for_each(|edit| edit(c));
                    c["process"]["cwd"] = json!(cwd);
                    c["process"]["user"] = json!({"uid": uid, "gid": uid});
                });
                let place = cwd.replace("missing/../", "").replace("alice/../", "").replace("./", "");
                let place = place.trim_end_matches('/');
                assert_eq!(out.ok(), format!("755 0\n{place}\nRead-only\n"), "{cwd} {uid}");
            }
        }
    });
}
