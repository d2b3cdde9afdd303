//! Hooks whose program or surroundings belong to the image.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use serde_json::{Value, json};

use crate::harness::{Bundle, Test, isolated, patience, skip};
use crate::{PAYLOAD, SECRET, Victim, add, bind_payload, payload, payload_words};

/// Prints every right of the calling process and every descriptor, without the differences between any two
/// processes.
const RIGHTS: &str = "grep -vE '^(Name|Pid|PPid|Tgid|Ngid|NSpid|NSpgid|NSsid|NStgid|Vm|Rss|Hugetlb|Threads|SigQ|.*ctxt|State|Cpus|Mems\
                      |FDSize|Shd|Sig|x86|Core|THP|untag|Kthread|Seccomp_f|Spec)' /proc/self/status; ulimit -n; \
                      cat /proc/self/attr/current /proc/self/personality 2>/dev/null; pwd; env | sort; ls /proc/self/fd | tr '\\n' ' '";

const CANNOT_DIE: &str = "hooks::a_start_container_hook_that_cannot_die_does_not_hold_the_runtime";

fn install(bundle: &Bundle, name: &str, text: &str) {
    let file = bundle.rootfs().join(name);
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Makes a bundle with a directory at /out that everybody can write to, and a container that is confined as
/// much as possible.
fn bundle(t: &Test, edit: impl FnOnce(&mut Value)) -> Bundle {
    let out = t.dir.join("out");
    fs::create_dir_all(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    t.bundle(|c| {
        add(c, json!({"destination": "/out", "source": out, "options": ["bind", "rw"]}));
        c["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o27});
        c["process"]["env"] = json!(["PATH=/bin", "HOME=/tmp", "A=1"]);
        c["process"]["cwd"] = json!("/tmp");
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "hard": 99, "soft": 77}]);
        c["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 39}],
        });
        edit(c);
    })
}

/// Like NVIDIAScape (CVE-2025-23266): a startContainer hook's program is found in the image. Therefore it
/// must have exactly the rights of the container's program.
#[test]
fn a_start_container_hook_has_only_the_programs_rights() {
    isolated(|t| {
        for no_new_privs in [true, false] {
            let script = |name: &str| format!("({RIGHTS}; mkdir /out/x 2>&1) >/out/{name}; true");
            let hook = |name: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", script(name)]});
            let bundle = bundle(t, |c| {
                c["process"]["noNewPrivileges"] = json!(no_new_privs);
                c["process"]["args"] = json!(["sh", "-c", script("program")]);
                // Check of the check: a hook that runs beside it with the runtime's rights is told apart.
                c["hooks"] = json!({"startContainer": [hook("hook")], "createContainer": [hook("host")]});
                c["hooks"]["createContainer"][0]["args"][2] =
                    json!(script("host").replace("/out/", &format!("{}/out/", t.dir.display())));
                c["hooks"]["createContainer"][0]["env"] = json!(["PATH=/bin:/usr/bin"]);
            });
            t.run_bundle(&bundle).ok();
            let read = |name: &str| fs::read_to_string(t.dir.join("out").join(name)).unwrap();
            assert_eq!(read("hook"), read("program"));
            let (hook, host) = (read("hook"), read("host"));
            assert!(
                hook.contains("Uid:\t1000") && hook.contains("Seccomp:\t2") && hook.contains("77\n"),
                "{hook}"
            );
            assert!(host.contains("Uid:\t0") && host.contains("Seccomp:\t0"), "{host}");
            assert!(host.contains(&format!("\n{}\n", bundle.rootfs().display())), "{host}");
            fs::remove_dir(t.dir.join("out/x")).unwrap();
        }
    });
}

/// The descriptors of the runtime that are open while the hook begins lead nowhere, neither as a path nor as
/// a script's interpreter. A link of the image leads nowhere either.
#[test]
fn a_start_container_hook_finds_no_way_to_the_host() {
    isolated(|t| {
        let victim = Victim::new(t);
        let marker = victim.dir.join("marker");
        let tool = t.dir.join("tool");
        fs::write(&tool, format!("#!/bin/sh\necho escaped >{}\n", marker.display())).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        let through = |n: u32| format!("#!/proc/self/fd/{n}/1/root{}\n", tool.display());
        // The same script escapes if a descriptor of the host's procfs is open.
        let naive = t.dir.join("naive");
        fs::write(&naive, format!("#!/proc/self/fd/3/1/root/bin/sh\n: >{}\n", marker.display())).unwrap();
        fs::set_permissions(&naive, fs::Permissions::from_mode(0o755)).unwrap();
        t.call(Command::new("sh").args(["-c", &format!("exec 3</proc; exec {}", naive.display())])).ok();
        assert!(victim.is_touched());
        let victim = victim.again(t);
        for n in 0..20 {
            let bundle = bundle(t, |c| {
                c["process"]["user"] = json!({"uid": 0, "gid": 0});
                c["process"]["args"] = json!(["true"]);
                c["hooks"] = json!({"startContainer": [{"path": "/hook"}]});
            });
            install(&bundle, "hook", &through(n));
            let out = t.run_bundle(&bundle);
            victim.is_untouched(&format!("descriptor {n}: {out:?}"));
            out.fails("hooks.startContainer[0]");
        }
        let secret = victim.dir.join("secret");
        let script = format!(
            "#!/bin/sh\nfor p in 1 self $$ $PPID; do cat /proc/$p/fd/*/1/root{0} /proc/$p/root{0} /proc/$p/cwd{0} \
             /proc/$p/cwd/../../../../..{0}; done >/out/read 2>/dev/null; true\n",
            secret.display()
        );
        let bundle = bundle(t, |c| {
            c["process"]["user"] = json!({"uid": 0, "gid": 0});
            c["process"]["args"] = json!(["true"]);
            c["hooks"] = json!({"startContainer": [{"path": "/hook"}]});
        });
        install(&bundle, "hook", &script);
        t.run_bundle(&bundle).ok();
        assert!(!fs::read_to_string(t.dir.join("out/read")).unwrap().contains(SECRET));
    });
}

/// The environment is that of the hook, or else the container's. The runtime's can contain a secret of the
/// caller.
#[test]
fn hooks_in_the_container_get_nothing_of_the_callers_environment() {
    isolated(|t| {
        for kind in ["createContainer", "startContainer"] {
            for (env, expected) in [
                (Some(json!(["A=2", "PATH=/bin:/usr/bin"])), "A=2"),
                (None, if kind == "startContainer" { "A=1" } else { "" }),
            ] {
                let path = format!("{}/out/env", t.dir.display());
                let bundle = bundle(t, |c| {
                    add(
                        c,
                        json!({"destination": t.dir.join("out"), "source": t.dir.join("out"), "options": ["bind"]}),
                    );
                    let script = format!("PATH=/bin:/usr/bin; cat /proc/self/environ >{path} 2>{path}.err");
                    c["process"]["args"] = json!(["true"]);
                    c["hooks"] = json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
                    if let Some(env) = env {
                        c["hooks"][kind][0]["env"] = env;
                    }
                });
                let mut command = t.command(&["run", "-b", bundle.path(), "c"]);
                t.call(command.env("SECRET_OF_CALLER", SECRET)).ok();
                let found = fs::read_to_string(&path).unwrap();
                assert!(
                    !found.contains(SECRET) && found.contains(expected),
                    "{kind}: {found:?} {:?}",
                    fs::read_to_string(format!("{path}.err"))
                );
                fs::remove_file(&path).unwrap();
                fs::remove_file(format!("{path}.err")).unwrap();
            }
        }
    });
}

/// A killed hook ends only if its tracer lets it. A hook of the image that is traced does not hold the
/// runtime beyond its timeout.
#[test]
fn a_start_container_hook_that_cannot_die_does_not_hold_the_runtime() {
    payload(|arguments| {
        match arguments[0].parse() {
            Ok(hook) => {
                let hook = nix::unistd::Pid::from_raw(hook);
                ptrace::seize(hook, ptrace::Options::PTRACE_O_TRACEEXIT).unwrap();
                fs::write("/out/seized", "").unwrap();
            }
            // In a session of its own, the tracer is not in the hook's process group.
            Err(_) => {
                let own = std::process::id().to_string();
                let words = payload_words(CANNOT_DIE, &[]).0;
                Command::new("/bin/setsid").args(words).env(PAYLOAD, own).status().unwrap();
            }
        }
        loop {
            std::thread::sleep(Duration::from_secs(1000));
        }
    });
    isolated(|t| {
        if fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0") {
            skip("Yama lets no process trace its parent");
        }
        let bundle = bundle(t, |c| {
            bind_payload(c, CANNOT_DIE, &["hook"]);
            let (words, variable) = payload_words(CANNOT_DIE, &["hook"]);
            c["process"]["args"] = json!(["true"]);
            c["hooks"] = json!({"startContainer": [
                {"path": "/attack", "args": words, "env": [variable], "timeout": 2},
            ]});
        });
        let begun = Instant::now();
        t.run_bundle(&bundle).fails("timed out after 2s");
        // Check of the check: the hook was held.
        assert!(
            t.dir.join("out/seized").exists() && begun.elapsed() > Duration::from_secs(6),
            "{:?}",
            begun.elapsed()
        );
    });
}

/// A hook of the image that does not end, or that the filter kills, is reported with its place, and nothing
/// of it is left.
#[test]
fn a_failing_start_container_hook_is_reported() {
    isolated(|t| {
        let kill = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"});
        for (script, expected) in [
            ("exec mkdir /out/y", "bad system call"),
            ("sleep 1000 & exec sleep 1000", "timed out after 1s"),
            ("echo sad >&2; exit 3", "exit status 3: sad"),
            ("kill -9 $$", "killed by signal 9"),
        ] {
            let bundle = bundle(t, |c| {
                c["linux"]["seccomp"]["syscalls"] = json!([kill]);
                c["hooks"] = json!({"startContainer": [
                    {"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1},
                ]});
            });
            let begun = Instant::now();
            for at_once in [true, false] {
                let out = if at_once {
                    t.run_bundle(&bundle)
                } else {
                    t.create(&bundle, "c");
                    t.corten(&["start", "c"])
                };
                assert!(
                    out.stderr.contains("hooks.startContainer[0] /bin/sh") && out.stderr.contains(expected),
                    "{out:?}"
                );
                assert_ne!(out.code, 0);
                t.corten(&["state", "c"]).fails("does not exist");
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10) * patience(),
                "{script}: {:?}",
                begun.elapsed()
            );
        }
    });
}
