//! The fallbacks of docs/kernel.md. A seccomp filter around corten takes a newer system call away, with the
//! errno of a kernel without it (ENOSYS) and with that of an outer container engine's filter that does not
//! know it (EPERM). If the call is required, one error names it and nothing is left. If there is a fallback,
//! the container is the same as without it.

use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{
    Bundle, Output, Test, View, isolated, isolated_in, processes, remains, traces, without_namespace,
};

/// The answer to a call: to every call, or only if an argument has this bit.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    pub call: i64,
    pub errno: i32,
    pub bit: Option<(u32, u32)>,
}

fn refused(call: i64, errno: i32) -> Refused {
    Refused { call, errno, bit: None }
}

/// Returns the program of a filter that allows all calls except one.
fn program(refused: Refused) -> Vec<libc::sock_filter> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let allow = step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let errno = step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | refused.errno as u32);
    let mut all = vec![step(LOAD, 0, 0, 0), step(EQUAL, 1, 0, refused.call as u32), allow];
    if let Some((argument, bit)) = refused.bit {
        // Loads the low half of the argument.
        let low = 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 };
        all.extend([step(LOAD, 0, 0, low), step(ANY_BIT, 1, 0, bit), allow]);
    }
    all.push(errno);
    all
}

/// Runs a command of the runtime under one filter for each refused call.
#[allow(unsafe_code)]
pub fn call(t: &Test, args: &[&str], all: &[Refused]) -> Output {
    let mut command: Command = t.command(args);
    for refused in all {
        let program = program(*refused);
        let install = move || {
            let all = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
            // SAFETY: `all` describes the program, which lives as long as the command.
            let ret = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const all) };
            if ret == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: between fork and exec the closure makes one system call, and allocates nothing.
        unsafe { command.pre_exec(install) };
    }
    t.call(&mut command)
}

/// The container program's report: its rights, mounts, devices and descriptors.
const REPORT: &str = "grep -E '^(Cap|NoNewPrivs|Uid|Gid|Groups)' /proc/self/status; \
    cut -d' ' -f4- /proc/self/mountinfo | sed 's/ master:[0-9]*//'; ls /dev; ls /proc/self/fd | wc -l";

fn bundle(t: &Test, edit: impl FnOnce(&mut Value)) -> Bundle {
    t.bundle(|config| {
        config["process"]["args"] = json!(["/bin/sh", "-c", REPORT]);
        edit(config);
    })
}

fn nothing_left(t: &Test, before: &[String], case: &str) {
    let left = remains(t, before);
    assert!(left.is_empty(), "{case}: {left:#?}");
}

const BOTH: [i32; 2] = [libc::ENOSYS, libc::EPERM];

/// The first table of docs/kernel.md. The error comes before the program runs, and before anything is made
/// that could not be removed.
#[test]
fn a_required_call_that_is_missing_is_named() {
    // On v1, device rules do not use bpf(2).
    isolated_in(View::V2, |t| {
        let bundle = bundle(t, |_| {});
        call(t, &["run", "--bundle", bundle.path(), "c"], &[]).ok();
        let before = traces(t);
        for (name, number) in [
            ("clone3", libc::SYS_clone3),
            ("openat2", libc::SYS_openat2),
            ("open_tree", libc::SYS_open_tree),
            ("move_mount", libc::SYS_move_mount),
            ("mount_setattr", libc::SYS_mount_setattr),
            ("fsopen", libc::SYS_fsopen),
            ("fsconfig", libc::SYS_fsconfig),
            ("fsmount", libc::SYS_fsmount),
            ("pidfd_open", libc::SYS_pidfd_open),
            ("pidfd_send_signal", libc::SYS_pidfd_send_signal),
            ("close_range", libc::SYS_close_range),
            ("execveat", libc::SYS_execveat),
            ("bpf", libc::SYS_bpf),
        ] {
            for errno in BOTH {
                for verb in ["run", "create"] {
                    let out =
                        call(t, &[verb, "--bundle", bundle.path(), "c"], &[refused(number, errno)]).exits(1);
                    assert_eq!(out.stdout, "", "{name}");
                    out.fails(&format!(": {name}("));
                    nothing_left(t, &before, name);
                }
            }
        }
    });
}

/// A call that only `exec` requires is named, and the container is unchanged.
#[test]
fn a_call_that_exec_requires_is_named() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c");
        let exec = ["exec", "c", "/bin/echo", "here"];
        let running = || processes().iter().filter(|line| line.contains("sleep 1000")).count();
        for (name, number) in [
            ("clone3", libc::SYS_clone3),
            ("close_range", libc::SYS_close_range),
            ("execveat", libc::SYS_execveat),
            ("openat2", libc::SYS_openat2),
            ("pidfd_open", libc::SYS_pidfd_open),
            ("setns", libc::SYS_setns),
        ] {
            for errno in BOTH {
                let out = call(t, &exec, &[refused(number, errno)]).exits(255);
                assert_eq!(out.stdout, "", "{name}");
                out.fails(&format!(": {name}("));
                assert_eq!((t.status("c").as_str(), running()), ("running", 1), "{name}");
            }
        }
        assert_eq!(call(t, &exec, &[]).ok(), "here\n");
        t.delete("c");
    });
}

/// mount(2) refuses a file system, and the new calls refuse it without a reason, as those of an overlay do
/// before Linux 6.5. The error is the one that shows the options.
#[test]
fn the_error_of_a_new_file_system_shows_its_options() {
    isolated(|t| {
        let bundle = bundle(t, |c| {
            let options = ["dirsync", "size=12345k"];
            let mount = json!({"destination": "/mnt", "type": "tmpfs", "source": "x", "options": options});
            c["mounts"].as_array_mut().unwrap().push(mount);
        });
        let dirsync = Some((3, libc::MS_DIRSYNC as u32));
        let mount = Refused { call: libc::SYS_mount, errno: libc::EINVAL, bit: dirsync };
        // A bit of FSCONFIG_CMD_CREATE that no other command in use has.
        let create = Refused { call: libc::SYS_fsconfig, errno: libc::EINVAL, bit: Some((1, 4)) };
        let out = call(t, &["run", "--bundle", bundle.path(), "c"], &[mount, create]);
        out.fails("mounts[7] /mnt: mount(").fails("size=12345k").fails("invalid argument");
        call(t, &["run", "--bundle", bundle.path(), "c"], &[mount]).ok();
    });
}

type Edit = fn(&mut Value);

/// A call that only some configurations use is not missed by others.
#[test]
fn a_call_is_required_only_by_the_configuration_that_uses_it() {
    isolated(|t| {
        let rows: [(&str, i64, Edit); 6] = [
            ("statx", libc::SYS_statx, |c| {
                without_namespace(c, "mount");
                c["linux"]["maskedPaths"] = json!([]);
                c["linux"]["readonlyPaths"] = json!([]);
            }),
            ("memfd_create", libc::SYS_memfd_create, |c| {
                c["hooks"] = json!({"prestart": [{"path": "/bin/true"}]})
            }),
            ("seccomp", libc::SYS_seccomp, |c| {
                let rule = json!({"names": ["acct"], "action": "SCMP_ACT_ERRNO"});
                c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
            }),
            ("sched_setattr", libc::SYS_sched_setattr, |c| {
                c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH"});
            }),
            ("ioprio_set", libc::SYS_ioprio_set, |c| {
                c["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 5});
            }),
            ("set_mempolicy", libc::SYS_set_mempolicy, |c| {
                c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "0"});
            }),
        ];
        let plain = bundle(t, |_| {});
        let run = |bundle: &Bundle, all: &[Refused]| call(t, &["run", "--bundle", bundle.path(), "c"], all);
        let nothing = [refused(libc::SYS_acct, libc::ENOSYS)];
        let expected = run(&plain, &nothing).ok();
        for (name, number, edit) in rows {
            let asked = bundle(t, edit);
            let before = traces(t);
            for errno in BOTH {
                let all = [refused(number, errno)];
                assert_eq!(run(&plain, &all).ok(), expected, "{name}");
                let out = run(&asked, &all).exits(1);
                assert_eq!(out.stdout, "", "{name}");
                out.fails(&format!("{name}("));
                nothing_left(t, &before, name);
            }
        }
    });
}

/// The second table: with the fallback the container is the same, and every verb works.
#[test]
fn a_container_made_with_a_fallback_is_the_same() {
    isolated(|t| {
        let hooked = |c: &mut Value| c["hooks"] = json!({"prestart": [{"path": "/bin/true"}]});
        let (report, waits) = (bundle(t, hooked), t.bundle(hooked));
        let run = |all: &[Refused]| call(t, &["run", "--bundle", report.path(), "c"], all);
        let expected = run(&[refused(libc::SYS_acct, libc::ENOSYS)]).ok();
        let before = traces(t);
        let flag =
            |bit: u32| Refused { call: libc::SYS_memfd_create, errno: libc::EINVAL, bit: Some((1, bit)) };
        let rows = [
            ("faccessat2", vec![refused(libc::SYS_faccessat2, libc::ENOSYS)]),
            ("faccessat2 behind a filter", vec![refused(libc::SYS_faccessat2, libc::EPERM)]),
            ("keyctl", vec![refused(libc::SYS_keyctl, libc::ENOSYS)]),
            ("memfd_create's flags", vec![flag(libc::MFD_EXEC), flag(libc::MFD_NOEXEC_SEAL)]),
            ("Landlock", vec![refused(libc::SYS_landlock_create_ruleset, libc::ENOSYS)]),
            // The network namespace is made by a process of its own.
            (
                "clone",
                vec![Refused {
                    call: libc::SYS_clone,
                    errno: libc::EPERM,
                    bit: Some((0, libc::CLONE_FILES as u32)),
                }],
            ),
            ("unshare", vec![refused(libc::SYS_unshare, libc::ENOSYS)]),
        ];
        for (name, all) in rows {
            assert_eq!(run(&all).ok(), expected, "{name}");
            let create = ["create", "--bundle", waits.path(), "c"];
            let exec = ["exec", "c", "/bin/true"];
            for args in [
                &create[..],
                &["start", "c"],
                &exec,
                &["pause", "c"],
                &["resume", "c"],
                &["kill", "c", "KILL"],
            ] {
                assert_eq!(call(t, args, &all).ok(), "", "{name} {args:?}");
            }
            t.until("c", "stopped");
            call(t, &["delete", "c"], &all).ok();
            nothing_left(t, &before, name);
        }
    });
}

/// `run` joins the network namespace that has been made for it. A filter may know setns(2) only for `exec`.
#[test]
fn without_setns_the_container_has_a_network_namespace() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/readlink", "/proc/self/ns/net"]));
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        for errno in BOTH {
            let filter = [refused(libc::SYS_setns, errno)];
            let seen = call(t, &["run", "--bundle", bundle.path(), "c"], &filter).ok();
            assert!(seen.starts_with("net:[") && seen.trim_end() != own.to_str().unwrap(), "{seen}");
        }
    });
}

/// If nodes cannot be made, the host's are bind-mounted: the same devices, and a mount for each.
#[test]
fn without_mknod_the_hosts_devices_are_bind_mounted() {
    isolated(|t| {
        let bundle = bundle(t, |_| {});
        let run =
            |errno| call(t, &["run", "--bundle", bundle.path(), "c"], &[refused(libc::SYS_mknodat, errno)]);
        let none =
            call(t, &["run", "--bundle", bundle.path(), "c"], &[refused(libc::SYS_acct, libc::ENOSYS)]).ok();
        let with = run(libc::EPERM).ok();
        let bound =
            |line: &&str| line.starts_with('/') && line.contains(" - devtmpfs ") && line.contains(" /dev/");
        assert_eq!(with.lines().filter(bound).count(), 6, "{with}");
        assert_eq!(
            with.lines().filter(|line| !bound(line)).collect::<Vec<_>>(),
            none.lines().collect::<Vec<_>>()
        );
        run(libc::ENOSYS).exits(1).fails("mknodat(");
    });
}

/// The executable is sealed (CVE-2019-5736) by a copy in memory, also without the flags of Linux 6.3. Without
/// any way to seal, the command fails.
#[test]
fn without_the_mount_calls_the_executable_is_sealed_in_memory() {
    isolated(|t| {
        let bundle = t.bundle(|_| {});
        t.start(&bundle, "c");
        let exec = ["exec", "c", "/bin/echo", "here"];
        let flag =
            |bit: u32| Refused { call: libc::SYS_memfd_create, errno: libc::EINVAL, bit: Some((1, bit)) };
        for mounts in [libc::SYS_open_tree, libc::SYS_mount_setattr] {
            for errno in BOTH {
                let without = refused(mounts, errno);
                assert_eq!(call(t, &exec, &[without]).ok(), "here\n");
                assert_eq!(call(t, &exec, &[without, flag(libc::MFD_EXEC)]).ok(), "here\n");
                let neither = [without, refused(libc::SYS_memfd_create, errno)];
                call(t, &exec, &neither)
                    .exits(255)
                    .fails("copying our executable into memory: memfd_create(");
            }
        }
        t.delete("c");
    });
}

/// An outer engine's filter usually refuses keyctl(2) with EPERM. Then the caller's keys would stay within
/// reach.
#[test]
fn a_keyring_that_is_refused_is_an_error() {
    isolated(|t| {
        let bundle = bundle(t, |_| {});
        let filter = [refused(libc::SYS_keyctl, libc::EPERM)];
        let out = call(t, &["run", "--bundle", bundle.path(), "c"], &filter).exits(1);
        out.fails("keyctl(JOIN_SESSION_KEYRING").fails("hint: --no-new-keyring");
        call(t, &["run", "--no-new-keyring", "--bundle", bundle.path(), "c"], &filter).ok();
        let waits = t.bundle(|_| {});
        call(t, &["create", "--no-new-keyring", "--bundle", waits.path(), "c"], &filter).ok();
        call(t, &["start", "c"], &filter).ok();
        assert_eq!(call(t, &["exec", "c", "/bin/echo", "here"], &filter).ok(), "here\n");
        t.delete("c");
    });
}
