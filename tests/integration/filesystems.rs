//! New file systems in `mounts`, with their own options (config.md#mounts).

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::isolated;
use crate::mounts::{add, fits, host_mount, options};
use crate::terminal::Socket;

/// A tmpfs without `mode=` has the mode of the directory that it covers, as with other runtimes. If there is
/// none, it has the kernel's 1777.
#[test]
fn a_tmpfs_without_a_mode_has_the_mode_of_its_directory() {
    isolated(|t| {
        let tmpfs = |target: &str, options: &[&str]| json!({"destination": target, "type": "tmpfs", "source": "x", "options": options});
        let bundle = t.bundle(|c| {
            add(c, tmpfs("/home", &[]));
            add(c, tmpfs("/var", &["mode=711"]));
            add(c, tmpfs("/run/new", &[]));
            add(c, tmpfs("/tmp", &["nosuid", "size=1m"]));
            add(c, tmpfs("/link", &[]));
            c["process"]["args"] =
                json!(["stat", "-c", "%n %a", "/home", "/var", "/run/new", "/tmp", "/mnt"]);
        });
        for (path, mode) in [("home", 0o2750), ("var", 0o700), ("tmp", 0o7777), ("mnt", 0o500)] {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(bundle.rootfs().join(path), permissions).unwrap();
        }
        std::os::unix::fs::symlink("mnt", bundle.rootfs().join("link")).unwrap();
        let out = t.run_bundle(&bundle).ok();
        assert_eq!(out, "/home 2750\n/var 711\n/run/new 1777\n/tmp 7777\n/mnt 500\n");
    });
}

/// Options of a file system that exceed the page of mount(2) are not cut off. The file system's own errors
/// are reported.
#[test]
fn long_options_of_a_file_system_are_not_cut_off() {
    isolated(|t| {
        let tmpfs = |options: Value| {
            t.run("cat /proc/self/mountinfo", |c| {
                add(c, json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": options}));
            })
        };
        let mut many = vec!["size=1m"; 512];
        many.push("nr_inodes=9");
        let out = tmpfs(json!(many)).ok();
        assert!(fits(&options(&out, "/mnt").unwrap().1, "nr_inodes=9"), "{out}");
        tmpfs(json!(["size=none"])).fails("mounts[7] /mnt").fails("size");
        tmpfs(json!(["nosuchoption"])).fails("mounts[7] /mnt").fails("nosuchoption");
        tmpfs(json!(["nosuchoption=1"])).fails("nosuchoption");
        tmpfs(json!(["huge=nonsense", "ro"])).fails("huge");
        tmpfs(json!(["silent", "nosuchoption"])).fails("nosuchoption");
        // An unknown option together with a long value, which only mount(2) takes.
        let long = format!("mpol={}", "x".repeat(300));
        tmpfs(json!([long])).fails("mounts[7] /mnt").fails("mpol");
    });
}

/// A read-only tmpfs becomes so after it has all that the configuration puts in it: mounts, devices, links,
/// the console. Other runtimes do the same, and read-only containers of engines have such a /dev.
#[test]
fn a_read_only_tmpfs_is_filled_before_it_is_read_only() {
    isolated(|t| {
        let tmpfs = |target: &str, options: &[&str]| json!({"destination": target, "type": "tmpfs", "source": "x", "options": options});
        let edit = |c: &mut Value| {
            c["mounts"][1]["options"].as_array_mut().unwrap().push(json!("ro"));
            add(c, tmpfs("/run", &["ro", "size=1m"]));
            add(c, tmpfs("/run/below", &[]));
            add(c, tmpfs("/home", &["tmpcopyup", "ro"]));
            add(c, tmpfs("/home/below", &["rro"]));
            add(c, tmpfs("/again", &["ro"]));
            add(c, json!({"destination": "/again", "options": ["remount", "bind", "rw"]}));
            add(c, tmpfs("/kept", &["ro"]));
            add(c, json!({"destination": "/kept", "options": ["remount", "bind", "nosuid"]}));
            add(c, tmpfs("/covered", &["ro"]));
            add(c, tmpfs("/covered", &[]));
            c["linux"]["devices"] = json!([{"path": "/run/zero", "type": "c", "major": 1, "minor": 5}]);
        };
        let script = "for d in /dev /dev/shm /run /run/below /home /home/below /again /kept /covered; do \
            touch $d/x 2>/dev/null && echo $d; done; echo x >/dev/null && ls -d /dev/pts/ptmx /dev/fd/0 /dev/tty /run/zero /home/alice";
        let out = t.run_bundle(&t.bundle(|c| {
            edit(c);
            c["process"]["args"] =
                json!(["/bin/sh", "-c", format!("mkdir -p /home/alice 2>/dev/null; {script}")]);
        }));
        let written = "/dev/shm\n/run/below\n/again\n/covered\n";
        assert!(out.stdout.starts_with(written), "{} {}", out.stdout, out.stderr);
        for path in ["/dev/pts/ptmx", "/dev/fd/0", "/dev/tty", "/run/zero"] {
            assert!(out.stdout.contains(path), "{path} {} {}", out.stdout, out.stderr);
        }
        let terminal = t.bundle(|c| {
            edit(c);
            c["process"]["terminal"] = json!(true);
            c["process"]["args"] = json!(["/bin/sh", "-c", "[ -c /dev/console ] && ! touch /dev/x"]);
        });
        let socket = Socket::new(t, "console");
        t.corten(&["create", "-b", terminal.path(), "--console-socket", socket.path(), "c1"]).ok();
        let _master = socket.master();
        t.delete("c1");
    });
}

/// overlay with its directories as options, also with values that are too long for fsconfig(2).
#[test]
fn an_overlay_takes_long_lists_of_directories() {
    isolated(|t| {
        // The tests' directory is not used, because it can be on an overlay itself.
        let base = t.dir.join("overlay");
        fs::create_dir(&base).unwrap();
        host_mount(t, &["-t", "tmpfs", "x", base.to_str().unwrap()]);
        let mut lower = Vec::new();
        for layer in 0..12 {
            let dir = base.join(format!("{layer}-{}", "long".repeat(20)));
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join(format!("file{layer}")), "").unwrap();
            lower.push(dir.to_str().unwrap().to_string());
        }
        for dir in ["upper", "work"] {
            fs::create_dir(base.join(dir)).unwrap();
        }
        for count in [2, 12] {
            let data = [
                format!("lowerdir={}", lower[..count].join(":")),
                format!("upperdir={}/upper", base.display()),
                format!("workdir={}/work", base.display()),
            ];
            let run = |more: &[&str]| {
                let mut options: Vec<&str> = data.iter().map(String::as_str).collect();
                options.extend(more);
                t.run("ls /mnt | grep -c file; touch /mnt/new && echo made", |c| {
                    add(c, json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options}));
                })
            };
            assert_eq!(run(&[]).ok(), format!("{count}\nmade\n"));
            assert!(base.join("upper/new").exists());
            assert_eq!(run(&["nosuid", "ro"]).stdout, format!("{count}\n"));
            run(&["nosuchoption"]).fails("mounts[7] /mnt").fails("nosuchoption");
        }
        t.run("true", |c| {
            let options = ["lowerdir=/no/such/dir"];
            add(
                c,
                json!({"destination": "/mnt", "type": "overlay", "source": "overlay", "options": options}),
            );
        })
        .fails("mounts[7] /mnt")
        .fails("/no/such/dir");
        t.call(Command::new("umount").arg(&base)).ok();
    });
}

/// The kernel's own file systems.
#[test]
fn the_kernels_file_systems_are_mounted() {
    isolated(|t| {
        let of = |kind: &str, options: &[&str]| json!({"destination": "/mnt", "type": kind, "source": kind, "options": options});
        for (kind, mount_options, script, wanted) in [
            ("ramfs", vec!["mode=700"], "stat -c %a /mnt; echo x >/mnt/x; cat /mnt/x", "700\nx\n"),
            (
                "mqueue",
                vec!["nosuid"],
                "stat -c %a /mnt; touch /mnt/q; cat /mnt/q | cut -c 1-8",
                "1777\nQSIZE:0 \n",
            ),
            (
                "devpts",
                vec!["newinstance", "ptmxmode=0600", "mode=0640", "gid=7"],
                "stat -c '%a %t:%T' /mnt/ptmx",
                "600 5:2\n",
            ),
            (
                "sysfs",
                vec!["ro"],
                "ls -d /mnt/kernel; mkdir /mnt/kernel/x 2>&1 | grep -o Read-only",
                "/mnt/kernel\nRead-only\n",
            ),
            (
                "proc",
                vec!["hidepid=2", "nosuid"],
                "cat /mnt/1/comm; grep -c 'proc rw,hidepid=invisible' /proc/self/mountinfo",
                "sh\n1\n",
            ),
            ("proc", vec!["subset=pid"], "ls /mnt/meminfo 2>/dev/null; ls -d /mnt/1", "/mnt/1\n"),
            (
                "proc",
                vec!["hidepid=2", "subset=pid", "ro"],
                "ls /mnt/meminfo 2>/dev/null; ls -d /mnt/1",
                "/mnt/1\n",
            ),
            ("tmpfs", vec!["uid=7", "gid=8", "mode=0750"], "stat -c '%u:%g %a' /mnt", "7:8 750\n"),
        ] {
            let out = t.run(script, |c| add(c, of(kind, &mount_options)));
            assert_eq!(out.ok(), wanted, "{kind} {mount_options:?}");
        }
        t.run("true", |c| add(c, of("proc", &["hidepid=nonsense"]))).fails("mounts[7] /mnt").fails("hidepid");
        t.run("true", |c| add(c, of("cgroup2", &["nosuchoption"])))
            .fails("mounts[7] /mnt")
            .fails("nosuchoption");
    });
}

/// tmpcopyup copies everything that a directory can hold, with modes and owners. The image is not changed.
#[test]
fn tmpcopyup_copies_everything() {
    isolated(|t| {
        let run = |more: &[&str], script: &str| {
            let bundle = t.bundle(|c| {
                let options: Vec<_> = ["tmpcopyup"].iter().chain(more).collect();
                add(c, json!({"destination": "/home", "type": "tmpfs", "source": "x", "options": options}));
                for set in ["bounding", "effective", "permitted"] {
                    c["process"]["capabilities"][set] = json!(["CAP_DAC_OVERRIDE"]);
                }
                c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            });
            let home = bundle.rootfs().join("home");
            let make = format!(
                "cd {} && mkdir -p a/b && echo text >a/b/file && chown 3:4 a/b/file && chmod 4751 a/b/file && \
                 ln -s b/file a/link && ln -s /etc/passwd a/absolute && chown -h 5:6 a/link && mkfifo -m 620 fifo && \
                 mknod -m 640 null c 1 3 && mknod -m 600 loop b 7 99 && chown 7:8 a && chmod 1730 a && \
                 chmod 2711 . && chown 9:10 . && : >empty && chmod 0 empty",
                home.display()
            );
            t.call(Command::new("sh").args(["-c", &make])).ok();
            let before = t.call(Command::new("find").arg(&home).args(["-printf", "%p %m %U:%G %y\n"])).ok();
            let out = t.run_bundle(&bundle);
            let after = t.call(Command::new("find").arg(&home).args(["-printf", "%p %m %U:%G %y\n"])).ok();
            assert_eq!(before, after);
            out
        };
        let show = "cd /home; for f in . a a/b a/b/file a/link a/absolute fifo null loop empty; do \
                    stat -c '%n %a %u:%g %F %t:%T' $f; done; cat a/link; readlink a/absolute; touch new && echo made";
        let expected = ". 2711 9:10 directory 0:0\na 1730 7:8 directory 0:0\na/b 755 0:0 directory 0:0\n\
                        a/b/file 4751 3:4 regular file 0:0\na/link 777 5:6 symbolic link 0:0\n\
                        a/absolute 777 0:0 symbolic link 0:0\nfifo 620 0:0 fifo 0:0\n\
                        null 640 0:0 character special file 1:3\nloop 600 0:0 block special file 7:63\n\
                        empty 0 0:10 regular empty file 0:0\ntext\n/etc/passwd\nmade\n";
        assert_eq!(run(&[], show).ok(), expected);
        assert_eq!(
            run(&["uid=0", "gid=0", "mode=0750"], show).ok(),
            expected.replace(". 2711 9:10", ". 750 0:0")
        );
        assert_eq!(run(&["ro"], "touch /home/new 2>&1 | grep -o Read-only").ok(), "Read-only\n");
        run(&["nosuchoption"], show).fails("nosuchoption");
        // The copy is larger than the tmpfs.
        run(&["nr_inodes=5"], show).fails("mounts[7] /home: tmpcopyup");
        t.run("true", |c| {
            add(c, json!({"destination": "/mnt", "type": "ramfs", "source": "x", "options": ["tmpcopyup"]}));
        })
        .fails("mounts[7].options: \"tmpcopyup\"");
        // A directory that the image lacks is not copied. The tmpfs has the kernel's mode, as without tmpcopyup.
        for (user, options, expected) in [
            (0, json!(["tmpcopyup"]), "1777 0:0\n.\n..\n"),
            (1000, json!(["tmpcopyup", "nosuid"]), "1777 0:0\n.\n..\nx\n"),
            (1000, json!(["mode=711", "tmpcopyup", "uid=7"]), "711 7:0\n"),
        ] {
            let out = t.run("stat -c '%a %u:%g' /new/dir; touch /new/dir/x; ls -a /new/dir", |c| {
                c["process"]["user"] = json!({"uid": user, "gid": user});
                c["process"]["capabilities"] = json!({});
                add(
                    c,
                    json!({"destination": "/new/dir", "type": "tmpfs", "source": "x", "options": options}),
                );
            });
            let expected = if user == 0 { format!("{expected}x\n") } else { expected.into() };
            assert_eq!(out.stdout, expected, "{user} {options}: {}", out.stderr);
        }
    });
}
