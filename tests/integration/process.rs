//! `process`: the attributes of the container's program. Most tests are rows of an edit, a script and its
//! output.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, isolated};

/// An edit of the configuration, a script, and its expected output.
type Row<'a> = (fn(&mut Value), &'a str, &'a str);

/// Runs a script with an edited configuration and compares its output.
#[track_caller]
fn check(t: &Test, rows: &[Row]) {
    for (edit, script, expected) in rows {
        let out = t.run(script, *edit).ok();
        assert_eq!(out, *expected, "{script}");
    }
}

/// config.md#user: ids, additional groups (none by default) and umask.
#[test]
fn the_program_has_the_users_ids_groups_and_umask() {
    isolated(|t| {
        let ids = "grep -E '^(Uid|Gid|Groups)' /proc/self/status | tr -s ' \\t' ' '; umask";
        let root = "Uid: 0 0 0 0\nGid: 0 0 0 0\nGroups: \n0022\n";
        check(
            t,
            &[
                (|c| c["process"]["user"] = json!({"uid": 0, "gid": 0, "umask": 0o22}), ids, root),
                (
                    |c| {
                        c["process"]["user"] =
                            json!({"uid": 1000, "gid": 1001, "umask": 0o77, "additionalGids": [5, 1234567]})
                    },
                    ids,
                    "Uid: 1000 1000 1000 1000\nGid: 1001 1001 1001 1001\nGroups: 5 1234567 \n0077\n",
                ),
                (
                    |c| {
                        c["process"]["user"] = json!({"uid": 4294967294u32, "gid": 4294967294u32, "umask": 0})
                    },
                    ids,
                    "Uid: 4294967294 4294967294 4294967294 4294967294\nGid: 4294967294 4294967294 4294967294 4294967294\nGroups: \n0000\n",
                ),
            ],
        );
    });
}

/// The kernel decides whether the program may be executed. A user with CAP_DAC_OVERRIDE may execute what the
/// permissions reserve to others, and in a directory that only others may search.
#[test]
fn the_user_may_execute_what_its_capabilities_allow() {
    isolated(|t| {
        let bundle = |capabilities: &[&str], args: &[&str]| {
            let bundle = t.bundle(|c| {
                let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
                c["process"]["capabilities"] = sets.iter().map(|set| (*set, capabilities)).collect();
                c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
                c["process"]["env"] = json!(["PATH=/root/hidden"]);
                c["process"]["args"] = json!(args);
            });
            let hidden = bundle.rootfs().join("root/hidden");
            fs::create_dir(&hidden).unwrap();
            fs::copy(t.dir.join("busybox"), hidden.join("echo")).unwrap();
            let mode =
                |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            mode(&hidden.join("echo"), 0o744);
            mode(&hidden, 0o700);
            bundle
        };
        for args in [["/root/hidden/echo", "done"], ["echo", "done"]] {
            let capable = bundle(&["CAP_DAC_OVERRIDE"], &args);
            assert_eq!(t.run_bundle(&capable).ok(), "done\n");
            t.run_bundle(&bundle(&["CAP_CHOWN"], &args)).fails("exec: ");
            // It may search the directory, and may not execute the file.
            t.run_bundle(&bundle(&["CAP_DAC_READ_SEARCH"], &args)).fails("exec: ");
        }
        let incapable = bundle(&["CAP_DAC_READ_SEARCH"], &["/root/hidden/echo"]);
        t.run_bundle(&incapable).fails(r#"exec: "/root/hidden/echo": permission denied"#);
    });
}

/// config.md#posix-platform-user: without a umask in the configuration the caller's applies.
#[test]
fn without_a_umask_the_callers_applies() {
    isolated(|t| {
        for mask in [0o022, 0o077, 0] {
            let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
            let out = t.run("umask", |_| {});
            nix::sys::stat::umask(before);
            assert_eq!(out.ok(), format!("{mask:04o}\n"));
        }
    });
}

/// config-linux.md#memory-policy: the container's program has the policy, on any node of the machine.
#[test]
fn the_program_has_the_memory_policy() {
    isolated(|t| {
        let run = |policy: Value| {
            t.run("sort -u -k 2,2 /proc/self/numa_maps | cut -d' ' -f2", |c| {
                c["linux"]["memoryPolicy"] = policy;
            })
        };
        if !Path::new("/proc/self/numa_maps").exists() {
            // A kernel without NUMA reports that it cannot set the policy.
            run(json!({"mode": "MPOL_BIND", "nodes": "0"})).fails("linux.memoryPolicy");
            return;
        }
        assert_eq!(run(json!({"mode": "MPOL_BIND", "nodes": "0"})).ok(), "bind:0\n");
        assert_eq!(run(json!({"mode": "MPOL_DEFAULT", "nodes": ""})).ok(), "default\n");
        let flags = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        assert_eq!(run(flags).ok(), "interleave=static:0\n");
        run(json!({"mode": "MPOL_BIND", "nodes": "1023"})).fails("linux.memoryPolicy");
    });
}

/// `create` does not wait for what the process does to itself before `start`. An error in it is one of `start`.
#[test]
fn start_reports_a_policy_that_the_kernel_refuses() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "1023"}));
        t.create(&bundle, "c");
        t.until("c", "created");
        t.corten(&["start", "c"]).fails("linux.memoryPolicy").exits(1);
        t.until("c", "stopped");
        t.corten(&["delete", "c"]).ok();
    });
}

/// config.md#user: the caller's supplementary groups do not reach the container.
#[test]
fn the_callers_groups_stay_outside() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["id", "-G"]));
        let runtime = t.command(&["run", "-b", bundle.path(), "r"]);
        let mut command = Command::new("setpriv");
        command.args(["--groups", "1234,5678"]).arg(runtime.get_program()).args(runtime.get_args());
        assert_eq!(t.call(&mut command).ok(), "0\n");
    });
}

/// The five capability sets, as the kernel shows them.
#[test]
fn the_program_has_exactly_the_five_capability_sets() {
    isolated(|t| {
        let sets = "grep ^Cap /proc/self/status | tr '\\t' ' '";
        let show = |inheritable: &str, permitted: &str, effective: &str, bounding: &str, ambient: &str| {
            format!(
                "CapInh: {inheritable:0>16}\nCapPrm: {permitted:0>16}\nCapEff: {effective:0>16}\nCapBnd: {bounding:0>16}\nCapAmb: {ambient:0>16}\n"
            )
        };
        check(
            t,
            &[
                (
                    |c| {
                        c["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]});
                    },
                    sets,
                    &show("0", "20", "20", "21", "0"),
                ),
                (
                    |c| {
                        let kill = json!(["CAP_KILL"]);
                        c["process"]["noNewPrivileges"] = json!(false);
                        c["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": kill, "permitted": kill});
                    },
                    sets,
                    // Root's execve raises permitted and effective to the bounding set, unless no_new_privs
                    // is set.
                    &show("0", "21", "21", "21", "0"),
                ),
                (
                    |c| {
                        let all = json!(["CAP_CHOWN", "CAP_NET_RAW"]);
                        c["process"]["user"]["uid"] = json!(1000);
                        c["process"]["capabilities"] = json!({
                            "bounding": ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"], "effective": all, "permitted": all,
                            "inheritable": all, "ambient": ["CAP_NET_RAW"],
                        });
                    },
                    sets,
                    &show("2001", "2000", "2000", "2021", "2000"),
                ),
                (
                    |c| {
                        c["process"]["user"]["uid"] = json!(1000);
                        c["process"]["capabilities"] = json!({});
                    },
                    sets,
                    &show("0", "0", "0", "0", "0"),
                ),
            ],
        );
    });
}

/// config.md#linux-process: an unknown capability is ignored with a warning from 1.1.0 on, and an error
/// before.
#[test]
fn an_unknown_capability_is_a_warning_from_1_1_0_on() {
    isolated(|t| {
        let with = |version: &'static str| {
            move |c: &mut Value| {
                c["ociVersion"] = json!(version);
                c["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_FLY"]);
            }
        };
        let out = t.run("grep CapBnd /proc/self/status", with("1.2.0")).exits(0);
        assert_eq!(out.stdout, "CapBnd:\t0000000000000020\n");
        assert!(out.stderr.contains("CAP_FLY") && out.stderr.trim_end().ends_with("ignoring"), "{out:?}");
        t.run("true", with("1.0.2")).fails("CAP_FLY");
    });
}

/// config.md#posix-process: limits are set. Unknown and repeated ones are errors.
#[test]
fn rlimits_are_set_and_wrong_ones_are_errors() {
    isolated(|t| {
        let limits = "grep -E 'open files|file size|core file' /proc/self/limits | tr -s ' '";
        let edit = |c: &mut Value| {
            c["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_FSIZE", "soft": 1_000_000, "hard": 2_000_000},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]);
        };
        let out = t.run(limits, edit).ok();
        assert_eq!(
            out,
            "Max file size 1000000 2000000 bytes \nMax core file size 0 0 bytes \nMax open files 100 200 files \n"
        );
        let nofile = json!({"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200});
        for (list, text) in [
            (json!([nofile, nofile]), "process.rlimits[1]"),
            (json!([{"type": "RLIMIT_NOSUCH", "soft": 1, "hard": 1}]), "RLIMIT_NOSUCH"),
            (json!([{"type": "RLIMIT_NOFILE", "soft": 200, "hard": 100}]), "process.rlimits[0]"),
        ] {
            t.run("true", |c| c["process"]["rlimits"] = list).fails(text);
        }
    });
}

/// noNewPrivileges and oomScoreAdj are set, and unchanged if they are missing.
#[test]
fn no_new_privileges_and_the_oom_score_are_set() {
    isolated(|t| {
        let show = "grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj";
        let mine = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
        check(
            t,
            &[
                (|_| {}, show, &format!("NoNewPrivs:\t1\n{mine}")),
                (
                    |c| {
                        c["process"]["noNewPrivileges"] = json!(false);
                        c["process"]["oomScoreAdj"] = json!(500);
                    },
                    show,
                    "NoNewPrivs:\t0\n500\n",
                ),
                (|c| c["process"]["oomScoreAdj"] = json!(1000), show, "NoNewPrivs:\t1\n1000\n"),
            ],
        );
        t.run("true", |c| c["process"]["oomScoreAdj"] = json!(1001)).fails("oomScoreAdj");
    });
}

/// config.md#scheduler
#[test]
fn the_program_has_the_scheduler() {
    isolated(|t| {
        // proc(5): nice, real-time priority and policy.
        let show = "awk '{print $19, $40, $41}' /proc/$$/stat";
        // A real-time policy ignores the nice value and keeps it.
        let mine = fs::read_to_string("/proc/self/stat").unwrap();
        let realtime = format!("{} 3 2\n", mine.rsplit(')').next().unwrap().split(' ').nth(17).unwrap());
        check(
            t,
            &[
                (
                    |c| c["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5}),
                    show,
                    "5 0 3\n",
                ),
                (
                    |c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 19}),
                    show,
                    "19 0 0\n",
                ),
                (|c| c["process"]["scheduler"] = json!({"policy": "SCHED_IDLE"}), show, "0 0 5\n"),
                (|c| c["process"]["scheduler"] = json!({"policy": "SCHED_IDLE", "nice": 5}), show, "5 0 5\n"),
                (
                    |c| c["process"]["scheduler"] = json!({"policy": "SCHED_RR", "priority": 3}),
                    show,
                    &realtime,
                ),
            ],
        );
        // Without a nice value it is 0, with any value of the caller.
        for (policy, expected) in
            [("SCHED_OTHER", "0 0 0\n"), ("SCHED_BATCH", "0 0 3\n"), ("SCHED_IDLE", "0 0 5\n")]
        {
            let bundle = t.bundle(|c| {
                c["process"]["scheduler"] = json!({"policy": policy});
                c["process"]["args"] = json!(["/bin/sh", "-c", show]);
            });
            let runtime = t.command(&["run", "-b", bundle.path(), "r"]);
            let mut command = Command::new("nice");
            command.args(["-n", "7"]).arg(runtime.get_program()).args(runtime.get_args());
            assert_eq!(t.call(&mut command).ok(), expected);
        }
        for scheduler in [
            json!({"policy": "SCHED_NOSUCH"}),
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            json!({"policy": "SCHED_FIFO", "priority": 100}),
            json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_NOSUCH"]}),
        ] {
            t.run("true", |c| c["process"]["scheduler"] = scheduler).fails("scheduler");
        }
    });
}

/// config.md#linux-process: ioPriority applies to the whole process group.
#[test]
fn the_process_group_has_the_io_priority() {
    isolated(|t| {
        let show = "ionice -p $$; ionice -p $(ionice -p 0 >/dev/null; echo $$)";
        for (class, priority, expected) in
            [("IOPRIO_CLASS_BE", 3, "best-effort: prio 3\n"), ("IOPRIO_CLASS_IDLE", 0, "idle\n")]
        {
            let edit =
                |c: &mut Value| c["process"]["ioPriority"] = json!({"class": class, "priority": priority});
            assert_eq!(t.run(show, edit).ok(), expected.repeat(2));
        }
        for (class, priority) in [("IOPRIO_CLASS_BE", 8), ("IOPRIO_CLASS_BE", -1), ("IOPRIO_CLASS_NOSUCH", 0)]
        {
            let edit =
                |c: &mut Value| c["process"]["ioPriority"] = json!({"class": class, "priority": priority});
            t.run("true", edit).fails("ioPriority");
        }
    });
}

/// config-linux.md#personality
#[test]
fn the_program_has_the_personality() {
    // A kernel without programs of 32 bits, as Debian's for riscv64, has one name for both.
    let machine = |set: &str| {
        let out = Command::new(set).args(["uname", "-m"]).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let (short, long) = (machine("linux32"), machine("linux64"));
    isolated(|t| {
        check(
            t,
            &[
                (|c| c["linux"]["personality"] = json!({"domain": "LINUX32"}), "uname -m", &short),
                (|c| c["linux"]["personality"] = json!({"domain": "LINUX"}), "uname -m", &long),
            ],
        );
        t.run("true", |c| c["linux"]["personality"] = json!({"domain": "NOSUCH"})).fails("personality");
    });
}

/// config.md#process: a missing cwd is made, and the container's user can enter it. It must be absolute.
#[test]
fn a_missing_working_directory_is_made_for_the_user() {
    isolated(|t| {
        check(
            t,
            &[
                (|c| c["process"]["cwd"] = json!("/etc"), "pwd", "/etc\n"),
                (|c| c["process"]["cwd"] = json!("/new/deep/dir"), "pwd; ls /new", "/new/deep/dir\ndeep\n"),
                (
                    |c| {
                        c["process"]["cwd"] = json!("/home/alice");
                        c["process"]["user"]["uid"] = json!(1000);
                    },
                    "pwd",
                    "/home/alice\n",
                ),
            ],
        );
        for cwd in ["relative", "", "."] {
            t.run("true", |c| c["process"]["cwd"] = json!(cwd)).fails("process.cwd");
        }
        t.run("true", |c| c["process"]["cwd"] = json!("/etc/passwd")).fails("not a directory");
        // CVE-2024-21626: a descriptor of the host must not be a way out.
        for fd in 3..12 {
            let out = t.run("pwd; ls ..", |c| c["process"]["cwd"] = json!(format!("/proc/self/fd/{fd}")));
            assert!(out.code != 0, "{out:?}");
        }
    });
}

/// HOME is taken from the container's passwd if env has none. All other variables are those of env, in its
/// order.
#[test]
fn home_is_taken_from_passwd_if_the_environment_has_none() {
    isolated(|t| {
        let alice = |c: &mut Value| c["process"]["user"]["uid"] = json!(1000);
        assert_eq!(t.run("echo $HOME", |_| {}).ok(), "/root\n");
        assert_eq!(t.run("echo $HOME", alice).ok(), "/home/alice\n");
        assert_eq!(t.run("echo $HOME", |c| c["process"]["user"]["uid"] = json!(4242)).ok(), "/\n");
        let given = json!(["PATH=/bin", "HOME=/given", "A=1=2", "EMPTY="]);
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["env"]);
            c["process"]["env"] = given;
        });
        let out = t.run_bundle(&bundle).ok();
        assert_eq!(out, "PATH=/bin\nHOME=/given\nA=1=2\nEMPTY=\n");
        t.run("true", |c| c["process"]["env"] = json!(["=x"])).fails("process.env[0]");
        t.run("true", |c| c["process"]["env"] = json!(["A=\u{0}b"])).fails("process.env[0]");
    });
}

/// The program is looked up in the PATH of env and gets the arguments unchanged, also the first.
#[test]
fn the_program_is_found_in_path_and_gets_its_arguments() {
    isolated(|t| {
        let run = |args: Value, path: &str| {
            let bundle = t.bundle(|c| {
                c["process"]["args"] = args;
                c["process"]["env"] = json!([format!("PATH={path}")]);
            });
            t.run_bundle(&bundle)
        };
        assert_eq!(run(json!(["echo", "a b", "", "ü"]), "/bin").ok(), "a b  ü\n");
        assert_eq!(run(json!(["echo", "x"]), "/no/such:/etc:/bin").ok(), "x\n");
        run(json!(["echo"]), "/no/such").fails("executable file not found in $PATH");
        run(json!(["bin/echo", "x"]), "/bin").exits(0);
        run(json!([]), "/bin").fails("process.args");
        run(json!([""]), "/bin").fails("");
        run(json!(["a\u{0}b"]), "/bin").fails("process.args[0]");
    });
}

/// config-linux.md#sysctl: both separators are accepted. Only sysctls of the container's own namespaces are
/// set.
#[test]
fn only_sysctls_of_the_containers_namespaces_are_set() {
    isolated(|t| {
        let edit = |c: &mut Value| {
            c["linux"]["sysctl"] = json!({
                "net.ipv4.ip_forward": "1", "net/ipv4/conf/lo/forwarding": "1", "kernel.msgmax": "4242", "fs.mqueue.msg_max": "42",
            });
        };
        let show = "cd /proc/sys; cat net/ipv4/ip_forward net/ipv4/conf/lo/forwarding kernel/msgmax fs/mqueue/msg_max";
        assert_eq!(t.run(show, edit).ok(), "1\n1\n4242\n42\n");
        for name in
            ["kernel.panic", "vm.swappiness", "net", "", "net/../kernel/panic", "kernel.shm_rmid_forced.x"]
        {
            t.run("true", |c| c["linux"]["sysctl"] = json!({name: "1"})).fails("linux.sysctl");
        }
        let shared = |c: &mut Value| {
            crate::harness::without_namespace(c, "network");
            c["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1"});
        };
        t.run("true", shared).fails("linux.sysctl");
    });
}

/// Signals that the caller ignores or blocks have their default disposition in the payload.
#[test]
fn signal_dispositions_are_reset() {
    isolated(|t| {
        let bundle =
            t.bundle(|c| c["process"]["args"] = json!(["grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]));
        let runtime = t.command(&["run", "-b", bundle.path(), "r"]);
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg("trap '' PIPE USR1 HUP; exec \"$0\" \"$@\"")
            .arg(runtime.get_program())
            .args(runtime.get_args());
        let out = t.call(&mut shell).ok();
        let masks: Vec<_> = out.lines().map(|line| u64::from_str_radix(&line[8..], 16).unwrap()).collect();
        // The signals 32 and 33 belong to the C library. Its sigaction does not change them.
        assert_eq!(masks.iter().map(|mask| mask & !0x1_8000_0000).collect::<Vec<_>>(), [0, 0], "{out}");
    });
}

/// The container has a session keyring of its own, unless --no-new-keyring is given.
#[test]
fn the_session_keyring_is_new() {
    isolated(|t| {
        // /proc/keys lists keys of the user in other containers too. runc and crun name the keyring after the
        // container.
        let since = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let (new, old) = (format!("new-{since}"), format!("old-{since}"));
        let bundle = t.bundle(|c| {
            c["linux"]["maskedPaths"] = json!([]);
            c["process"]["args"] = json!(["cat", "/proc/keys"]);
        });
        let out = t.corten(&["run", "-b", bundle.path(), &new]).ok();
        assert!(out.contains(&format!("_ses.{new}")), "{out}");
        let out = t.corten(&["run", "--no-new-keyring", "-b", bundle.path(), &old]).ok();
        assert!(!out.contains(&format!("_ses.{old}")), "{out}");
    });
}

/// The caller's inheritable and ambient capabilities reach neither a container nor an exec unless they are
/// configured.
#[test]
fn the_callers_capabilities_stay_outside() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["user"]["uid"] = json!(1000));
        t.start(&bundle, "c1");
        let show = ["grep", "-E", "^Cap(Inh|Prm|Amb)", "/proc/self/status"];
        let runs = t.bundle(|c| {
            c["process"]["user"]["uid"] = json!(1000);
            c["process"]["args"] = json!(show);
        });
        for args in [&["run", "-b", runs.path(), "r"][..], &[&["exec", "c1"], &show[..]].concat()] {
            let runtime = t.command(args);
            let mut command = Command::new("setpriv");
            command.args(["--inh-caps", "+kill,+chown", "--ambient-caps", "+kill,+chown"]);
            let out = t.call(command.arg(runtime.get_program()).args(runtime.get_args())).ok();
            assert!(
                out.lines().count() == 3 && out.lines().all(|line| line.ends_with("\t0000000000000000")),
                "{out}"
            );
        }
        t.delete("c1");
    });
}

/// create and exec report an id that the user namespace does not map, with its place.
#[test]
fn an_id_without_a_mapping_is_an_error() {
    isolated(|t| {
        let bundle = |user: Value| {
            let bundle = t.bundle(|c| {
                crate::namespaces::map_ids(c);
                c["process"]["user"] = user;
            });
            crate::namespaces::give_rootfs(t, &bundle);
            bundle
        };
        for (user, text) in [
            (json!({"uid": 70000, "gid": 0}), "process.user.uid"),
            (json!({"uid": 1, "gid": 70000}), "process.user.gid"),
            (json!({"uid": 0, "gid": 70000}), "process.user"),
            (
                json!({"uid": 0, "gid": 0, "additionalGids": [70000]}),
                "process.user.additionalGids[0]: 70000 is not mapped",
            ),
        ] {
            t.run_bundle(&bundle(user)).fails(text);
        }
        t.start(&bundle(json!({"uid": 0, "gid": 0})), "c1");
        t.corten(&["exec", "-u", "70000", "c1", "/bin/true"]).fails("process.user.uid").exits(255);
        t.corten(&["exec", "-g", "70000", "c1", "/bin/true"]).fails("setgroups([70000])").exits(255);
        t.delete("c1");
    });
}
