//! The options of `exec`, which are runc's: good values, and the errors of bad ones.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Test, isolated, poll};
use crate::terminal::Socket;

/// Starts a container `c1` that waits.
fn start(t: &Test, edit: impl FnOnce(&mut Value)) -> crate::harness::Bundle {
    let bundle = t.bundle(edit);
    t.start(&bundle, "c1");
    bundle
}

/// Returns the output of a script that exec runs in `c1` with these options.
#[track_caller]
fn prints(t: &Test, options: &[&str], script: &str) -> String {
    t.corten(&[&["exec"], options, &["c1", "/bin/sh", "-c", script]].concat()).ok()
}

#[track_caller]
fn refused(t: &Test, options: &[&str], text: &str) {
    t.corten(&[&["exec"], options, &["c1", "/bin/true"]].concat()).fails(text).exits(255);
}

/// The options that change the process.
#[test]
fn options_of_exec_change_the_process() {
    isolated(|t| {
        let bundle = t.bundle(|config| {
            for set in ["bounding", "effective", "permitted"] {
                config["process"]["capabilities"][set] = json!(["CAP_KILL"]);
            }
            config["process"]["env"].as_array_mut().unwrap().push(json!("OLD=1"));
            config["process"]["cwd"] = json!("/tmp");
        });
        t.start(&bundle, "c1");
        let show = "echo $A.$B.$OLD; pwd; id -u; id -g; id -G; grep CapEff /proc/self/status";
        let rows: &[(&[&str], &str)] = &[
            (&[], "..1\n/tmp\n0\n0\n0\nCapEff:\t0000000000000020\n"),
            (
                &["-e", "A=x", "--env", "B=y", "--env=OLD=2"],
                "x.y.2\n/tmp\n0\n0\n0\nCapEff:\t0000000000000020\n",
            ),
            (&["--cwd", "/etc"], "..1\n/etc\n0\n0\n0\nCapEff:\t0000000000000020\n"),
            (&["-u", "1000:100"], "..1\n/tmp\n1000\n100\n100\nCapEff:\t0000000000000000\n"),
            (&["--user=1000"], "..1\n/tmp\n1000\n0\n0\nCapEff:\t0000000000000000\n"),
            (
                &["-u", "1000:100", "-g", "7", "-g", "8"],
                "..1\n/tmp\n1000\n100\n100 7 8\nCapEff:\t0000000000000000\n",
            ),
            (&["-u", ""], "..1\n/tmp\n0\n0\n0\nCapEff:\t0000000000000020\n"),
            (&["--cap", "CAP_CHOWN", "-c", "CAP_SETUID"], "..1\n/tmp\n0\n0\n0\nCapEff:\t00000000000000a1\n"),
        ];
        for (flags, expected) in rows {
            let args = [&["exec"], *flags, &["c1", "/bin/sh", "-c", show]].concat();
            assert_eq!(t.corten(&args).ok(), *expected, "{flags:?}");
        }
        t.delete("c1");
    });
}

/// --process takes a whole process object from a file.
#[test]
fn exec_takes_a_process_object_from_a_file() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c1");
        let document = json!({
            "args": ["/bin/sh", "-c", "echo $WORD; pwd; id -u; umask; grep -E 'CapEff|NoNewPrivs' /proc/self/status; ulimit -n"],
            "cwd": "/var",
            "env": ["PATH=/bin", "WORD=given"],
            "user": {"uid": 1000, "gid": 1000, "umask": 0o27},
            "noNewPrivileges": true,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}],
        });
        let file = t.dir.join("process.json");
        fs::write(&file, document.to_string()).unwrap();
        let expected = "given\n/var\n1000\n0027\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n99\n";
        for flag in ["--process", "-p"] {
            assert_eq!(t.corten(&["exec", flag, file.to_str().unwrap(), "c1"]).ok(), expected);
        }
        for broken in ["{", "[]", r#"{"args": [], "cwd": "/"}"#, r#"{"args": ["true"], "cwd": "relative"}"#] {
            fs::write(&file, broken).unwrap();
            t.corten(&["exec", "--process", file.to_str().unwrap(), "c1"]).fails("").exits(255);
        }
        t.delete("c1");
    });
}

/// The process object may come from a pipe, as what a shell passes for `<(command)`, and from standard input.
#[test]
fn exec_takes_a_process_object_from_a_pipe() {
    isolated(|t| {
        start(t, |_| {});
        let document = json!({"args": ["/bin/echo", "given"], "cwd": "/"}).to_string();
        let exec = |path: &str, line: &str| {
            let mut shell = Command::new("sh");
            let exec = format!("\"$0\" --root \"$1\" exec --process {path} c1");
            shell.arg("-c").arg(line.replace("EXEC", &exec));
            shell.arg(t.command(&[]).get_program()).arg(t.state()).arg(&document).arg(t.dir.join("pipe"));
            t.call(&mut shell).ok()
        };
        for path in ["-", "/dev/stdin", "/dev/fd/0"] {
            assert_eq!(exec(path, "printf %s \"$2\" | EXEC"), "given\n", "{path}");
        }
        assert_eq!(exec("/dev/fd/3", "printf %s \"$2\" | EXEC 3<&0 </dev/null"), "given\n");
        let fifo = "mkfifo \"$3\" && { printf %s \"$2\" >\"$3\" & } && EXEC";
        assert_eq!(exec("\"$3\"", fifo), "given\n");
        t.delete("c1");
    });
}

/// A member that the process object leaves out is inherited from the container, as in runc. Otherwise the
/// object would be a way to fewer restrictions.
#[test]
fn a_process_object_inherits_the_containers_restrictions() {
    isolated(|t| {
        start(t, |c| {
            c["process"]["user"]["umask"] = json!(0o27);
            c["process"]["oomScoreAdj"] = json!(700);
            c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
            c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
            c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]);
        });
        let script = "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; ulimit -n; cat /proc/self/oom_score_adj; \
                      awk '{print $19, $41}' /proc/$$/stat; ionice -p $$; echo $HOME; umask";
        let inherited = "CapEff:\t0000000020000420\nCapBnd:\t0000000020000420\nNoNewPrivs:\t1\n99\n700\n5 3\n\
                         best-effort: prio 6\n/root\n0027\n";
        let own = "CapEff:\t0000000000000020\nCapBnd:\t0000000000000020\nNoNewPrivs:\t0\n50\n800\n6 3\n\
                   best-effort: prio 7\n/root\n0077\n";
        let kill = json!(["CAP_KILL"]);
        let rest = json!({
            "capabilities": {"bounding": kill, "permitted": kill, "effective": kill}, "noNewPrivileges": false,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 50, "hard": 60}], "oomScoreAdj": 800,
            "user": {"uid": 0, "gid": 0, "umask": 0o77},
            "scheduler": {"policy": "SCHED_BATCH", "nice": 6},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
        });
        let file = t.dir.join("process.json");
        for (more, expected) in
            [(json!({}), inherited), (json!({"user": {"uid": 0, "gid": 0}}), inherited), (rest, own)]
        {
            let mut document = json!({"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"]});
            document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            fs::write(&file, document.to_string()).unwrap();
            let out = t.corten(&["exec", "--process", file.to_str().unwrap(), "c1"]).ok();
            assert_eq!(out, expected, "{document}");
        }
        t.delete("c1");
    });
}

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:,,,:/var:/bin/sh\nhalf:x:7\n";
const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:35:web,root\naudio:x:36:web\n";

/// --user takes a number, which keeps the container's groups as in runc, or a name, which brings the user's
/// own groups.
#[test]
fn exec_takes_a_user_by_number_or_by_name() {
    isolated(|t| {
        let bundle = start(t, |c| c["process"]["user"]["additionalGids"] = json!([7]));
        fs::write(bundle.rootfs().join("etc/passwd"), PASSWD).unwrap();
        fs::write(bundle.rootfs().join("etc/group"), GROUP).unwrap();
        let show = "grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -s '\\t\\n' ' '; echo $HOME";
        for (user, groups, uid, gid, more, home) in [
            ("33", &[][..], 33, 0, "7 ", "/var"),
            ("33:5", &[], 33, 5, "7 ", "/var"),
            ("33:5", &["8", "9"], 33, 5, "7 8 9 ", "/var"),
            ("4294967294:4294967294", &[], 4_294_967_294u32, 4_294_967_294u32, "7 ", "/"),
            ("web", &[], 33, 34, "35 36 ", "/var"),
            ("web", &["8"], 33, 34, "8 35 36 ", "/var"),
            ("web:log", &[], 33, 35, "", "/var"),
            ("web:6", &["8"], 33, 6, "8 ", "/var"),
            ("33:www", &[], 33, 34, "7 ", "/var"),
            ("root", &[], 0, 0, "35 ", "/root"),
        ] {
            let mut options = vec!["--user", user];
            groups.iter().for_each(|group| options.extend(["-g", group]));
            let expected =
                format!("Uid: {uid} {uid} {uid} {uid} Gid: {gid} {gid} {gid} {gid} Groups: {more}{home}\n");
            assert_eq!(prints(t, &options, show), expected, "{options:?}");
        }
        for (user, text) in [
            ("4294967295", "--user"),
            ("4294967296", "--user"),
            ("99999999999999999999", "--user"),
            ("0:4294967295", "--user"),
            ("-1", "no user \"-1\" in the container's passwd file"),
            ("web:", "--user \"web:\": an empty user or group"),
            ("web:4294967295", "--user \"web:4294967295\": 4294967295 is not a valid id"),
            ("nobody", "--user \"nobody\": no user \"nobody\" in the container's passwd file"),
            ("web:none", "--user \"web:none\": no group \"none\" in the container's group file"),
            ("half", "--user \"half\": user \"half\" of the container's passwd file has no valid ids"),
        ] {
            refused(t, &["--user", user], text);
        }
        refused(t, &["-g", "4294967295"], "4294967295 is not a valid group id");
        refused(t, &["-g", "-1"], "additional-gids");
        refused(t, &["-g", "staff"], "additional-gids");
        t.delete("c1");
    });
}

/// HOME is taken from the container's env, as in runc. It is set only if that has none.
#[test]
fn home_is_the_containers_unless_it_is_missing() {
    isolated(|t| {
        start(t, |c| c["process"]["env"] = json!(["PATH=/bin", "HOME=/given"]));
        assert_eq!(prints(t, &["-u", "1000"], "echo $HOME"), "/given\n");
        assert_eq!(prints(t, &["-u", "alice"], "echo $HOME"), "/given\n");
        assert_eq!(prints(t, &["-u", "alice", "-e", "HOME="], "echo $HOME"), "/home/alice\n");
        t.delete("c1");
    });
}

/// The container's passwd is not trusted. It can be a link to the host's, a fifo, a device, or endless.
#[test]
fn passwd_must_be_a_small_regular_file_of_the_container() {
    isolated(|t| {
        let bundle = start(t, |_| {});
        let passwd = bundle.rootfs().join("etc/passwd");
        let hosts = t.dir.join("hosts-passwd");
        fs::write(&hosts, "spy:x:5:5::/:\n").unwrap();
        let make = |script: &str| {
            fs::remove_file(&passwd).unwrap();
            t.call(Command::new("sh").args(["-c", script]).arg(&passwd)).ok();
        };
        for (script, text) in [
            ("mkfifo $0", "is not a regular file"),
            // A device on a mount with nodev cannot be opened.
            ("mknod $0 c 1 5", "--user \"spy\": "),
            ("head -c 1048577 /dev/zero > $0", "is larger than 1 MiB"),
            (&format!("ln -s {} $0", hosts.display()), "no user \"spy\""),
            ("ln -s /proc/self/root/../../hosts-passwd $0", "too many levels of symbolic links"),
            ("ln -s passwd $0", "too many levels of symbolic links"),
        ] {
            make(script);
            let out = t.corten(&["exec", "-u", "spy", "c1", "/bin/true"]).fails(text).exits(255);
            assert_eq!(
                out.stderr.contains("no user"),
                script.contains(hosts.to_str().unwrap()),
                "{script}: {out:?}"
            );
            // For a user by number the file is read only for HOME.
            assert_eq!(prints(t, &["-u", "5"], "echo $HOME"), "/\n", "{script}");
        }
        fs::remove_file(&passwd).unwrap();
        refused(t, &["-u", "spy"], "no user \"spy\"");
        fs::write(bundle.rootfs().join("etc/inside"), "spy:x:6:6::/:\n").unwrap();
        symlink("/etc/inside", &passwd).unwrap();
        assert_eq!(prints(t, &["-u", "spy"], "id -u"), "6\n");
        t.delete("c1");
    });
}

/// --cap adds to bounding, effective and permitted, never to inheritable (CVE-2022-29162). A user other than
/// root gets it only if it was inheritable.
#[test]
fn an_added_capability_is_never_inheritable() {
    isolated(|t| {
        start(t, |c| {
            let two = json!(["CAP_KILL", "CAP_CHOWN"]);
            let kill = json!(["CAP_KILL"]);
            c["process"]["capabilities"] = json!({
                "bounding": two, "effective": kill, "permitted": kill, "inheritable": ["CAP_CHOWN"],
            });
        });
        let sets = "grep ^Cap /proc/self/status | sed 's/Cap//; s/:.0*/ /' | tr '\\n' ' '";
        for (options, expected) in [
            (&[][..], "Inh 1 Prm 20 Eff 20 Bnd 21 Amb  "),
            (&["--cap", "CAP_SYSLOG"], "Inh 1 Prm 400000020 Eff 400000020 Bnd 400000021 Amb  "),
            (&["-c", "syslog", "-c", "CAP_CHOWN"], "Inh 1 Prm 400000021 Eff 400000021 Bnd 400000021 Amb 1 "),
            (&["-u", "1000", "-c", "CAP_SYSLOG"], "Inh 1 Prm  Eff  Bnd 400000021 Amb  "),
            (&["-u", "1000", "--cap=CAP_CHOWN"], "Inh 1 Prm 1 Eff 1 Bnd 21 Amb 1 "),
        ] {
            assert_eq!(prints(t, options, sets), expected, "{options:?}");
        }
        refused(t, &["--cap", "CAP_FLY"], "--cap \"CAP_FLY\": unknown capability");
        refused(t, &["--cap", ""], "--cap \"\": unknown capability");
        t.delete("c1");
    });
}

/// --no-new-privs, also as =false, overrides the container's value.
#[test]
fn no_new_privs_of_exec_overrides_the_containers() {
    isolated(|t| {
        start(t, |c| c["process"]["noNewPrivileges"] = json!(false));
        let show = "grep NoNewPrivs /proc/self/status";
        for (options, expected) in [
            (&[][..], 0),
            (&["--no-new-privs"], 1),
            (&["--no-new-privs=true"], 1),
            (&["--no-new-privs=false"], 0),
        ] {
            assert_eq!(prints(t, options, show), format!("NoNewPrivs:\t{expected}\n"), "{options:?}");
        }
        t.delete("c1");
    });
}

/// --apparmor and --process-label on a kernel without those modules give a warning, and the process runs.
#[test]
fn a_label_of_exec_without_its_module_is_a_warning() {
    isolated(|t| {
        if crate::harness::modules() != corten::testing::process::lsm::Host::default() {
            crate::harness::skip("this kernel runs AppArmor or SELinux");
        }
        start(t, |_| {});
        for (option, module) in [("--apparmor", "AppArmor"), ("--process-label", "SELinux")] {
            let out = t.corten(&["exec", option, "some:label", "c1", "/bin/echo", "x"]).exits(0);
            assert_eq!(out.stdout, "x\n");
            assert!(
                out.stderr.contains(&format!("\"some:label\": this kernel does not run {module}, ignoring")),
                "{out:?}"
            );
            assert_eq!(out.stderr.lines().count(), 1);
        }
        refused(t, &["--apparmor", "a\nb"], "process.apparmorProfile: contains a NUL or line break");
        t.delete("c1");
    });
}

/// The labels of config.json on a kernel without those modules give a warning each, and the container runs.
#[test]
fn a_label_of_the_container_without_its_module_is_a_warning() {
    isolated(|t| {
        if crate::harness::modules() != corten::testing::process::lsm::Host::default() {
            crate::harness::skip("this kernel runs AppArmor or SELinux");
        }
        let out = t.run("grep -c context= /proc/self/mountinfo", |c| {
            c["process"]["apparmorProfile"] = json!("web");
            c["process"]["selinuxLabel"] = json!("u:r:t:s0");
            c["linux"]["mountLabel"] = json!("u:r:f:s0:c1,c2");
        });
        assert_eq!(out.stdout, "0\n");
        for label in [
            "linux.mountLabel \"u:r:f:s0:c1,c2\": this kernel does not run SELinux, ignoring",
            "process.selinuxLabel \"u:r:t:s0\": this kernel does not run SELinux, ignoring",
            "process.apparmorProfile \"web\": this kernel does not run AppArmor, ignoring",
        ] {
            assert!(out.stderr.contains(label), "{out:?}");
        }
        t.run("true", |c| c["linux"]["mountLabel"] = json!("a\"b")).fails("linux.mountLabel: contains");
    });
}

/// With --strict-labels each such label is an error. `state --applied` reports labels that were ignored
/// without it.
#[test]
fn with_strict_labels_a_label_without_its_module_is_an_error() {
    isolated(|t| {
        if crate::harness::modules() != corten::testing::process::lsm::Host::default() {
            crate::harness::skip("this kernel runs AppArmor or SELinux");
        }
        let bundle = t.bundle(|c| {
            c["process"]["apparmorProfile"] = json!("web");
            c["process"]["selinuxLabel"] = json!("u:r:t:s0");
            c["linux"]["mountLabel"] = json!("u:r:f:s0:c1,c2");
        });
        let places = ["linux.mountLabel", "process.selinuxLabel", "process.apparmorProfile"];
        for verb in ["create", "run"] {
            let out =
                t.corten(&["--strict-labels", verb, "-b", bundle.path(), "c1"]).fails("does not run SELinux");
            places.iter().for_each(|place| assert!(out.stderr.contains(&format!("{place}: \"")), "{out:?}"));
        }
        t.corten(&["create", "-b", bundle.path(), "c1"]).exits(0);
        t.corten(&["start", "c1"]).ok();
        t.corten(&["--strict-labels", "exec", "c1", "/bin/true"]).fails("process.apparmorProfile: \"web\"");
        let out = t.corten(&["state", "--applied", "c1"]).fails("not applied as asked: ");
        places.iter().for_each(|place| assert!(out.stderr.contains(place), "{out:?}"));
        t.delete("c1");
        let plain = t.bundle(|_| {});
        t.corten(&["--strict-labels", "create", "-b", plain.path(), "c1"]).ok();
        t.delete("c1");
    });
}

/// --cgroup takes a cgroup below the container's, in runc's form, and no other.
#[test]
fn exec_can_enter_a_cgroup_below_the_containers() {
    isolated(|t| {
        start(t, |c| {
            c["linux"]["cgroupsPath"] = json!("/mine");
            c["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "cgroup");
        });
        fs::create_dir_all("/sys/fs/cgroup/mine/sub/deep").unwrap();
        fs::create_dir("/sys/fs/cgroup/other").unwrap();
        let show = "grep ^0:: /proc/self/cgroup";
        for (path, expected) in [
            ("sub", "/mine/sub"),
            ("/sub", "/mine/sub"),
            ("sub/deep/", "/mine/sub/deep"),
            (":sub", "/mine/sub"),
            ("/", "/mine"),
        ] {
            assert_eq!(prints(t, &["--cgroup", path], show), format!("0::{expected}\n"), "{path}");
        }
        for (paths, text) in [
            (&["none"][..], "error adding pid of the process to cgroups "),
            (&["../other"], "must be a path below the container's cgroup"),
            (&["sub/../../other"], "must be a path below the container's cgroup"),
            (&["cpu,memory:sub"], "controllers cannot be named on cgroup v2"),
            (&["sub", "sub/deep"], "a process is in one cgroup"),
            (&["cgroup.procs"], "not a directory"),
        ] {
            let options = paths.iter().flat_map(|path| ["--cgroup", path]).collect::<Vec<_>>();
            refused(t, &options, text);
        }
        fs::remove_dir("/sys/fs/cgroup/other").unwrap();
        t.delete("c1");
    });
}

/// A paused container takes a process only with --ignore-paused. exec then waits for the thaw without a
/// limit, as in runc. A signal ends the wait and the process.
#[test]
fn exec_in_a_paused_container_requires_ignore_paused() {
    isolated(|t| {
        start(t, |c| c["linux"]["cgroupsPath"] = json!("/mine"));
        let freeze = |on: &str| fs::write("/sys/fs/cgroup/mine/cgroup.freeze", on).unwrap();
        freeze("1");
        t.until("c1", "paused");
        refused(t, &[], "paused");
        let inside = || fs::read_to_string("/sys/fs/cgroup/mine/cgroup.procs").unwrap().lines().count();
        let exec = |options: &[&str]| {
            let args = [&["exec", "--ignore-paused"], options, &["c1", "/bin/echo", "thawed"]].concat();
            let exec = t.spawn(&mut t.command(&args));
            assert!(poll(Duration::from_secs(10), || inside() == 2));
            exec
        };
        for (options, signal) in [(&[][..], "TERM"), (&["-d"], "TERM"), (&[], "HUP"), (&["-d"], "INT")] {
            let exec = exec(options);
            t.call(Command::new("kill").args(["-s", signal, &exec.child.id().to_string()])).ok();
            exec.wait().fails("before the program ran").exits(255);
            assert_eq!(inside(), 1, "{options:?}, {signal}");
        }
        let waiting = exec(&[]);
        // This is longer than exec waits for a process that is not paused.
        std::thread::sleep(Duration::from_secs(11));
        freeze("0");
        assert_eq!(waiting.wait().ok(), "thawed\n");
        t.delete("c1");
    });
}

/// --preserve-fds of exec is that of run: the first N descriptors after the standard streams, which are open.
#[test]
fn exec_preserves_the_first_open_descriptors() {
    isolated(|t| {
        start(t, |_| {});
        let runtime = t.command(&[]);
        let open = |redirect: &str, options: &str| {
            let inside = "'cd /proc/self/fd; for n in *; do [ -e $n ] && echo $n; done; true'";
            let line = format!("exec \"$0\" --root \"$1\" exec {options} c1 /bin/sh -c {inside} {redirect}");
            let mut shell = Command::new("sh");
            t.call(shell.arg("-c").arg(line).arg(runtime.get_program()).arg(t.state()))
                .ok()
                .replace('\n', " ")
        };
        assert_eq!(open("3</dev/null 4</dev/null", ""), "0 1 2 ");
        assert_eq!(open("3</dev/null 4</dev/null 5</dev/null", "--preserve-fds 2"), "0 1 2 3 4 ");
        refused(t, &["--preserve-fds=1"], "unable to stat preserved-fd 0 (of 1): descriptor 3 is not open");
        refused(t, &["--preserve-fds", "-1"], "preserve-fds");
        refused(t, &["--preserve-fds", "x"], "preserve-fds");
        t.delete("c1");
    });
}

/// --pidfd-socket of create, run and exec gets one message with a pidfd of the process.
#[test]
fn a_pidfd_is_sent_to_the_pidfd_socket() {
    isolated(|t| {
        let pid_of = |fd: &dyn AsRawFd| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
            info.lines().find_map(|line| line.strip_prefix("Pid:\t")).map(str::to_string).unwrap()
        };
        let bundle = t.bundle(|_| {});
        let socket = Socket::new(t, "pidfd");
        for command in [&["create"][..], &["run", "-d"]] {
            t.corten(&[command, &["-b", bundle.path(), "--pidfd-socket", socket.path(), "c1"]].concat()).ok();
            assert_eq!(pid_of(&socket.master()), t.pid("c1").to_string(), "{command:?}");
            if command[0] == "create" {
                t.delete("c1");
            }
        }
        let file = t.dir.join("pid");
        let options = ["-d", "--pid-file", file.to_str().unwrap(), "--pidfd-socket", socket.path()];
        t.corten(&[&["exec"], &options[..], &["c1", "/bin/sleep", "1000"]].concat()).ok();
        assert_eq!(pid_of(&socket.master()), fs::read_to_string(&file).unwrap());
        fs::remove_file(&file).unwrap();
        let nowhere = t.dir.join("no-socket");
        let nowhere =
            ["-d", "--pid-file", file.to_str().unwrap(), "--pidfd-socket", nowhere.to_str().unwrap()];
        refused(t, &nowhere, "--pidfd-socket");
        assert!(!file.exists());
        t.corten(&["create", "-b", bundle.path(), nowhere[3], nowhere[4], "c2"]).fails("--pidfd-socket");
        t.delete("c1");
    });
}

/// --detach leaves the process running with its standard streams. An error of --pid-file or --cwd is
/// reported.
#[test]
fn a_detached_exec_leaves_its_process_running() {
    isolated(|t| {
        start(t, |_| {});
        let file = t.dir.join("pid");
        t.corten(&["exec", "--detach", "--pid-file", file.to_str().unwrap(), "c1", "/bin/sleep", "1001"])
            .ok();
        let pid = fs::read_to_string(&file).unwrap();
        let mut line = String::new();
        fs::File::open(format!("/proc/{pid}/cmdline")).unwrap().read_to_string(&mut line).unwrap();
        assert_eq!(line, "/bin/sleep\u{0}1001\u{0}");
        refused(t, &["-d", "--pid-file", "/no/such/dir/pid"], "--pid-file /no/such/dir/pid");
        refused(t, &["-d", "--tty"], "--console-socket");
        refused(t, &["--cwd", "relative"], "process.cwd");
        refused(t, &["--cwd", "/etc/passwd"], "not a directory");
        refused(t, &["--env", "=x"], "process.env");
        refused(t, &["--env", "NONAME"], "process.env");
        t.delete("c1");
    });
}

/// A detached process can stay a zombie. `delete` then either succeeds, because the cgroup counts as empty
/// before Linux 7.0, or reports its reason and can be called again.
#[test]
fn delete_does_not_depend_on_a_zombie_of_a_detached_exec() {
    isolated(|t| {
        start(t, |_| {});
        t.corten(&["exec", "--detach", "c1", "/bin/sleep", "1001"]).ok();
        // The harness would reap the process.
        let delete = t.command(&["delete", "--force", "c1"]).output().unwrap();
        let stderr = String::from_utf8_lossy(&delete.stderr);
        assert!(
            delete.status.success() && stderr.is_empty() || stderr.contains("are reaped (hint:"),
            "{stderr}"
        );
        crate::harness::reap();
        t.delete("c1");
    });
}
