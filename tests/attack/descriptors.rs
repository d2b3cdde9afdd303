//! Descriptors of the runtime and of its caller as ways out.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use serde_json::json;

use crate::harness::{Bundle, isolated};
use crate::{LOOKING, SECRET, Victim, all_capabilities, give_rootfs, map_ids};

/// Numbers that descriptors of the runtime can have.
const NUMBERS: std::ops::Range<u32> = 0..12;

/// Like CVE-2024-21626 and CVE-2019-5736: the image's program is a link, or a script whose interpreter is
/// one, through a descriptor that the runtime has open until execve. The host's procfs would lead to the root
/// of every process with the same rights, for instance another container's.
#[test]
fn a_program_cannot_be_reached_through_a_descriptor_of_the_runtime() {
    isolated(|t| {
        let victim = t.bundle(|_| {});
        let pid = t.start(&victim, "victim");
        let inside = format!("{pid}/root/bin/true");
        let bundle = t.bundle(|_| {});
        let put = |bundle: &Bundle, number: u32, how: &str| {
            let _ = fs::remove_file(bundle.rootfs().join("true"));
            let target = format!("/proc/self/fd/{number}/{inside}");
            match how {
                "link" => symlink(target, bundle.rootfs().join("true")).unwrap(),
                _ => {
                    let path = bundle.rootfs().join("true");
                    fs::write(&path, format!("#!{target} true\n")).unwrap();
                    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
        };
        let other = t.bundle(|_| {});
        t.start(&other, "other");
        for no_new_privs in [true, false] {
            bundle.edit(|c| {
                c["process"]["args"] = json!(["/true"]);
                c["process"]["noNewPrivileges"] = json!(no_new_privs);
                c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                    {"names": ["acct"], "action": "SCMP_ACT_ERRNO"}]});
            });
            for (number, how) in NUMBERS.flat_map(|number| [(number, "link"), (number, "interpreter")]) {
                put(&bundle, number, how);
                put(&other, number, how);
                let run = t.run_bundle(&bundle);
                assert_ne!(run.code, 0, "run: a {how} to descriptor {number} has led to another container");
                let exec = t.corten(&["exec", "other", "/true"]);
                assert_ne!(exec.code, 0, "exec: a {how} to descriptor {number} has led to another container");
            }
        }
        // Check of the check: with such a descriptor open, the attack succeeds.
        for how in ["link", "interpreter"] {
            put(&bundle, 7, how);
            let root = bundle.rootfs();
            let root = root.display();
            let naive = format!("exec 7</proc; mount -t proc p {root}/proc; chroot {root} /true");
            t.call(Command::new("unshare").args(["-m", "sh", "-c", &naive])).ok();
        }
        t.delete("victim");
        t.delete("other");
    });
}

/// CVE-2024-21626: the working directory is a descriptor, directly or by links of the image, for run and
/// exec.
#[test]
fn a_working_directory_behind_a_descriptor_is_refused() {
    isolated(|t| {
        let victim = Victim::new(t);
        let bundle = t.bundle(|c| all_capabilities(c, &[]));
        let script = format!(
            "cat secret ../secret; ls -d boot ../boot ../../boot; cat .{}/secret",
            victim.dir.display()
        );
        let root = bundle.rootfs();
        symlink("/proc/self/cwd", root.join("cwd")).unwrap();
        symlink("/proc/1/root", root.join("root1")).unwrap();
        for number in NUMBERS {
            symlink(format!("/proc/self/fd/{number}"), root.join(format!("fd{number}"))).unwrap();
            symlink(format!("/proc/thread-self/fd/{number}/.."), root.join(format!("up{number}"))).unwrap();
        }
        let numbered =
            NUMBERS.flat_map(|n| [format!("/proc/self/fd/{n}"), format!("/fd{n}"), format!("/up{n}/tmp")]);
        let places: Vec<String> =
            numbered.chain(["/cwd", "/root1", "/proc/self/root", "/proc/1/cwd"].map(Into::into)).collect();
        bundle.edit(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        t.start(&bundle, "c1");
        let quiet = |out: crate::harness::Output, what: &str| {
            assert!(!out.stdout.contains(SECRET) && !out.stdout.contains("boot"), "{what}: {out:?}");
            assert_ne!(out.code, 0, "{what}: {out:?}");
        };
        for place in &places {
            bundle.edit(|c| {
                c["process"]["args"] = json!(["sh", "-c", script]);
                c["process"]["cwd"] = json!(place);
            });
            quiet(t.run_bundle(&bundle), place);
            quiet(t.corten(&["exec", "--cwd", place, "c1", "sh", "-c", &script]), place);
        }
        t.delete("c1");
        // Check of the check.
        let (root, dir) = (root.display(), victim.dir.display());
        let naive = format!(
            "exec 7<{dir}; mount -t proc p {root}/proc; exec chroot {root} /bin/sh -c 'cd /fd7; cat secret'"
        );
        assert_eq!(t.call(Command::new("unshare").args(["-m", "sh", "-c", &naive])).ok(), SECRET);
        victim.is_untouched("the working directory");
    });
}

/// CVE-2024-21626, CVE-2016-9962: directories of the host that the caller has left open reach no process in
/// the container. Neither do descriptors of the runtime.
#[test]
fn descriptors_of_the_caller_reach_no_process_of_the_container() {
    isolated(|t| {
        let victim = Victim::new(t);
        let open = (3..40).map(|n| format!("exec {n}<{}; ", victim.dir.display())).collect::<String>();
        let through = |args: &[&str]| {
            let mut command = Command::new("bash");
            command.args(["-c", &format!("{open} exec \"$@\""), "bash"]);
            let call = t.command(args);
            t.call(command.arg(call.get_program()).args(call.get_args()))
        };
        // The shell's glob has one descriptor of its own open, that of the directory.
        let script = "cat /proc/self/fd/*/secret 2>/dev/null; for fd in /proc/self/fd/*; do readlink $fd; done | grep -v ^/proc | wc -l";
        let bundle = t.bundle(|c| {
            all_capabilities(c, &[]);
            c["process"]["args"] = json!(["sh", "-c", script]);
        });
        assert_eq!(through(&["run", "-b", bundle.path(), "r"]).ok(), "3\n");
        bundle.edit(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        through(&["create", "-b", bundle.path(), "c1"]).ok();
        t.corten(&["start", "c1"]).ok();
        let first = t.exec("c1", "cat /proc/1/fd/*/secret 2>/dev/null; ls /proc/1/fd");
        assert_eq!(first.ok(), "0\n1\n2\n");
        assert_eq!(through(&["exec", "c1", "sh", "-c", script]).ok(), "3\n");
        t.delete("c1");
        // Check of the check: a descriptor that the caller passes on is seen.
        bundle.edit(|c| c["process"]["args"] = json!(["sh", "-c", script]));
        let passed = through(&["run", "--preserve-fds", "2", "-b", bundle.path(), "r"]).ok();
        assert_eq!(passed, format!("{SECRET}{SECRET}5\n"));
        victim.is_untouched("the caller's descriptors");
    });
}

/// The container's processes get no descriptor of the log, also with `--debug`, when the container process
/// itself has records. Neither do the hooks that run in the container, nor the process that waits for `start`.
#[test]
fn descriptors_of_the_log_reach_no_process_of_the_container() {
    isolated(|t| {
        let log = t.dir.join("records");
        let debug = ["--debug", "--log", log.to_str().unwrap()];
        // The shell's glob has one descriptor of its own open, that of the directory.
        let look = "for fd in /proc/self/fd/*; do readlink $fd; done | grep -v ^/proc | sort";
        let bundle = t.bundle(|c| {
            all_capabilities(c, &[]);
            c["process"]["args"] = json!(["sh", "-c", look]);
            let hook = format!("{{ {look}; }} >/hook");
            c["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]});
        });
        let plain = t.corten(&["run", "-b", bundle.path(), "r"]).ok();
        let hook = || fs::read_to_string(bundle.rootfs().join("hook")).unwrap();
        let plain_hook = hook();
        let run = t.corten(&[&debug[..], &["run", "-b", bundle.path(), "r"]].concat()).ok();
        let lines = |text: &str| text.lines().count();
        assert_eq!((lines(&run), lines(&hook())), (lines(&plain), lines(&plain_hook)));
        assert!(!run.contains("records") && !hook().contains("records"), "{run}{}", hook());
        assert!(fs::read_to_string(&log).unwrap().contains("process=container"));
        bundle.edit(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        t.corten(&[&debug[..], &["create", "-b", bundle.path(), "c1"]].concat()).ok();
        let of = |pid: i32| {
            let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            links.map(|link| fs::read_link(link.path()).unwrap()).collect::<Vec<_>>()
        };
        assert!(!of(t.pid("c1")).contains(&log));
        t.corten(&[&debug[..], &["start", "c1"]].concat()).ok();
        assert!(!of(t.pid("c1")).contains(&log));
        let exec = t.corten(&[&debug[..], &["exec", "c1", "sh", "-c", look]].concat()).ok();
        assert!(lines(&exec) == lines(&plain) && !exec.contains("records"), "{exec}");
        t.delete("c1");
        // Check of the check: a descriptor of the file that the caller passes on is seen.
        bundle.edit(|c| c["process"]["args"] = json!(["sh", "-c", look]));
        let run = t.command(&["run", "--preserve-fds", "1", "-b", bundle.path(), "r"]);
        let mut naive = Command::new("bash");
        naive
            .args(["-c", "exec 3>>\"$0\"; exec \"$@\""])
            .arg(&log)
            .arg(run.get_program())
            .args(run.get_args());
        assert_eq!(lines(&t.call(&mut naive).ok()), lines(&plain) + 1);
    });
}

/// CVE-2016-9962, CVE-2024-21626: the process of a created container holds descriptors of the runtime. Other
/// processes in the container cannot open them: in a user namespace not even with all capabilities, and
/// without one not without CAP_SYS_PTRACE.
#[test]
fn descriptors_of_a_created_container_cannot_be_opened() {
    isolated(|t| {
        let look = "readlink /proc/1/fd/*; for d in map_files cwd/ fd/3/; do ls /proc/1/$d; done 2>/dev/null; cat /proc/1/environ /proc/1/maps 2>/dev/null; \
                    readlink /proc/1/exe /proc/1/root";
        let created = |user: bool, but: &[&str]| {
            let bundle = t.bundle(|c| {
                all_capabilities(c, but);
                if user {
                    map_ids(c);
                }
            });
            if user {
                give_rootfs(t, &bundle);
            }
            t.create(&bundle, "c1");
            let seen = t.exec("c1", look).stdout;
            t.corten(&["start", "c1"]).ok();
            // Check of the check: a descriptor of the container's own program is seen.
            let own = t.exec("c1", "readlink /proc/1/fd/0; cat /proc/1/environ").stdout;
            assert!(own.contains("/dev/null\n") && own.contains("TERM"), "{own}");
            t.delete("c1");
            seen
        };
        assert_eq!(created(true, &[]), "", "in a user namespace");
        assert_eq!(created(false, &LOOKING), "", "without CAP_SYS_PTRACE");
    });
}
