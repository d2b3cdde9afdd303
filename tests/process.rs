//! The effect of `process` and `hooks` of config.json on a real process (config.md#process, config-linux.md,
//! config.md#posix-platform-hooks).
//!
//! Each test runs isolated, in a fork of the test's process. The fork has one thread, as the runtime has, and
//! it may give up its credentials. The tests require root.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[allow(dead_code, unused_imports)]
#[path = "integration/harness.rs"]
mod harness;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caps::Capability;
use corten::testing::error::{Notes, Result};
use corten::testing::hooks::{self, Hook};
use corten::testing::process::capabilities::Sets;
use corten::testing::process::credentials::{self, Groups, Status, User};
use corten::testing::process::rlimits::Rlimit;
use corten::testing::process::{
    affinity, env, io_priority, lookup, lsm, memory_policy, personality, rlimits, scheduler,
};
use corten::testing::sys;
use corten::testing::sys::process::Limit;
use corten::testing::sys::task::Forked;
use corten::testing::sys::{fs, task};
use harness::View;

/// Runs the body of the calling test isolated, in a fork of the test's process.
fn alone<F: FnOnce()>(body: F) {
    harness::isolated_as::<F>(View::V2, |_| assert_eq!(forked(body), 0));
}

/// Returns a directory that only the calling test uses.
fn scratch() -> PathBuf {
    std::env::var_os(harness::INSIDE).unwrap().into()
}

/// Enters a user namespace in which this process is root and setgroups(2) is denied.
fn enter_user_namespace() {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER).unwrap();
    for (file, text) in
        [("uid_map", format!("0 {uid} 1")), ("setgroups", "deny".into()), ("gid_map", format!("0 {gid} 1"))]
    {
        std::fs::write(format!("/proc/self/{file}"), text).unwrap();
    }
}

/// Runs `body` in a fork and returns its exit code: 0 if it returned, 101 if it panicked.
fn forked(body: impl FnOnce()) -> i32 {
    match task::clone3(0, None).unwrap() {
        Forked::Child => {
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            task::exit_now(if ended.is_ok() { 0 } else { 101 })
        }
        Forked::Parent { pidfd, .. } => i32::from(task::wait(pidfd.as_fd()).unwrap().status()),
    }
}

fn proc() -> OwnedFd {
    fs::open(fs::CWD, Path::new("/proc"), fs::O_PATH | fs::O_DIRECTORY, 0).unwrap()
}

fn user(uid: u32, gid: u32, more: &[u32]) -> User {
    User { uid, gid, additional_gids: more.to_vec(), keep_groups: false, umask: None }
}

fn become_user(who: &User, sets: &Sets, groups: Groups) -> Result<()> {
    let proc = proc();
    let before = credentials::prepare(sets, proc.as_fd())?;
    credentials::apply(who, sets, groups, false, &before, proc.as_fd(), None::<fn() -> Result<()>>)
}

const KILL: u64 = 1 << 5;
const CHOWN: u64 = 1;

/// The five sets, also the drop from the bounding set, for root and another user, with and without groups.
#[test]
fn credentials_are_those_of_the_plan() {
    alone(|| {
        let all =
            Sets { bounding: KILL | CHOWN, effective: KILL, permitted: KILL | CHOWN, ..Sets::default() };
        let ambient = Sets { inheritable: KILL, ambient: KILL, ..all };
        for (who, sets) in [
            (user(0, 0, &[]), all),
            (user(0, 5, &[7, 6, 6]), ambient),
            (user(1000, 1001, &[4, 20]), ambient),
            (user(1000, 1001, &[]), Sets::default()),
            (user(65534, 65534, &[65534]), all),
        ] {
            let code = forked(|| {
                sys::credentials::setgroups(&[1234, 5678]).unwrap();
                become_user(&who, &sets, Groups::Set).unwrap();
                let now = Status::read(proc().as_fd()).unwrap();
                assert_eq!((now.uids, now.gids), ([who.uid; 4], [who.gid; 4]));
                let mut groups = who.additional_gids.clone();
                groups.sort_unstable();
                assert_eq!(now.groups, groups);
                assert_eq!(
                    (now.bounding, now.effective, now.permitted),
                    (sets.bounding, sets.effective, sets.permitted)
                );
                assert_eq!((now.inheritable, now.ambient), (sets.inheritable, sets.ambient));
            });
            assert_eq!(code, 0, "{who:?} {sets:?}");
        }
    });
}

/// Ambient capabilities survive execve by a user other than root. No others do.
#[test]
fn only_ambient_capabilities_survive_execve_by_a_user() {
    alone(|| {
        let sets = Sets {
            bounding: KILL | CHOWN,
            effective: KILL,
            permitted: KILL | CHOWN,
            inheritable: KILL,
            ambient: KILL,
        };
        for (uid, sets, expected) in [
            (1000, sets, "0000000000000020"),
            (1000, Sets { ambient: 0, ..sets }, "0000000000000000"),
            (0, sets, "0000000000000021"),
            (0, Sets::default(), "0000000000000000"),
        ] {
            let script = format!("grep -q '^CapPrm:.{expected}$' /proc/self/status");
            let argv = ["sh", "-c", &script].map(|word| CString::new(word).unwrap());
            let code = forked(|| {
                become_user(&user(uid, uid, &[]), &sets, Groups::Set).unwrap();
                panic!("{:#}", lookup::execve(c"/bin/sh", &argv, &[c"PATH=/bin:/usr/bin".into()], || false));
            });
            assert_eq!(code, 0, "{uid} {sets:?}");
        }
    });
}

/// A set that the kernel does not grant is an error, not a container with fewer or more rights.
#[test]
fn an_impossible_set_is_an_error() {
    alone(|| {
        let code = forked(|| {
            let none = Sets::default();
            become_user(&user(0, 0, &[]), &none, Groups::Set).unwrap();
            let more = Sets { permitted: KILL, ..none };
            let error = become_user(&user(0, 0, &[]), &more, Groups::Denied).unwrap_err();
            assert_eq!(
                format!("{error:#}"),
                "process.capabilities: capset(0x0, 0x20, 0x0): operation not permitted"
            );
            // Bounding capabilities that were dropped do not come back. Only reading them back finds that.
            let error = become_user(&user(0, 0, &[]), &Sets { bounding: KILL, ..none }, Groups::Denied);
            assert_eq!(
                error.unwrap_err().to_string(),
                "credentials: the bounding set is 0x0 instead of 0x20"
            );
        });
        assert_eq!(code, 0);
    });
}

/// Each step that the kernel refuses is an error with its place, also if the plan is wrong.
#[test]
fn a_step_that_the_kernel_refuses_is_an_error_with_its_place() {
    alone(|| {
        const SETPCAP: u64 = 1 << 8;
        let none = Sets::default();
        let ours = Status::read(proc().as_fd()).unwrap();
        let all =
            Sets { bounding: ours.bounding, effective: ours.permitted, permitted: ours.permitted, ..none };
        // Our own sets before the step, the requested user and sets, and the result.
        for (before, who, wanted, expected) in [
            (all, user(0, 0, &[]), Sets { inheritable: KILL, ambient: KILL, ..all }, Ok(())),
            (
                all,
                user(0, 0, &[]),
                Sets { permitted: CHOWN, effective: CHOWN, inheritable: KILL, ambient: KILL, ..all },
                Err("process.capabilities: prctl(PR_CAP_AMBIENT_RAISE, CAP_KILL): operation not permitted"),
            ),
            (
                all,
                user(1000, 1000, &[]),
                Sets { ambient: KILL, ..all },
                Err("process.capabilities: prctl(PR_CAP_AMBIENT_RAISE, CAP_KILL): operation not permitted"),
            ),
            (
                Sets { permitted: all.permitted & !SETPCAP, effective: all.effective & !SETPCAP, ..all },
                user(0, 0, &[]),
                Sets { bounding: all.bounding & !CHOWN, ..none },
                Err("process.capabilities.bounding: prctl(PR_CAPBSET_DROP, 0): operation not permitted"),
            ),
            (
                Sets { permitted: KILL, effective: KILL, ..all },
                user(0, 5, &[]),
                Sets { bounding: all.bounding, ..none },
                Err("process.user: setgroups([]): operation not permitted"),
            ),
            (
                Sets { permitted: 1 << 6, effective: 1 << 6, ..all },
                user(7, 5, &[]),
                Sets { bounding: all.bounding, ..none },
                Err("process.user: setresuid(7): operation not permitted"),
            ),
            (
                Sets { permitted: KILL, effective: KILL, ..all },
                user(0, 0, &[]),
                Sets { effective: CHOWN, permitted: CHOWN, ..all },
                Err("process.capabilities: capset(0x1, 0x1, 0x0): operation not permitted"),
            ),
        ] {
            let code = forked(|| {
                sys::credentials::setgroups(&[]).unwrap();
                sys::credentials::capset(before.effective, before.permitted, 0).unwrap();
                let found = become_user(&who, &wanted, Groups::Set).map_err(|e| format!("{e:#}"));
                assert_eq!(found, expected.map_err(str::to_string));
            });
            assert_eq!(code, 0, "{who:?} {wanted:?}");
        }
    });
}

/// "Keep capabilities" applies to the change of the user only. Otherwise a later change by the program would
/// keep them. The same function sets no_new_privs and reads it back.
#[test]
fn keep_capabilities_is_off_after_the_change_of_the_user() {
    alone(|| {
        let sets = Sets { bounding: KILL, effective: KILL, permitted: KILL, ..Sets::default() };
        for (uid, no_new_privs) in [(1000, true), (0, false)] {
            let code = forked(|| {
                let before = credentials::prepare(&sets, proc().as_fd()).unwrap();
                let who = User { umask: Some(0o27), ..user(uid, uid, &[]) };
                let nothing = None::<fn() -> Result<()>>;
                credentials::apply(&who, &sets, Groups::Set, no_new_privs, &before, proc().as_fd(), nothing)
                    .unwrap();
                let now = Status::read(proc().as_fd()).unwrap();
                assert_eq!((now.no_new_privs, now.umask, now.permitted), (no_new_privs, 0o27, KILL));
                assert!(!caps::securebits::has_keepcaps().unwrap());
            });
            assert_eq!(code, 0, "{uid}");
        }
    });
}

/// The step that needs privilege has all of it, also as another user. Then the sets are those of the plan.
#[test]
fn the_privileged_step_comes_before_the_sets() {
    alone(|| {
        let sets = Sets {
            bounding: KILL | CHOWN,
            effective: KILL,
            permitted: KILL,
            inheritable: KILL,
            ambient: KILL,
        };
        for uid in [0, 1000] {
            let code = forked(|| {
                let before = credentials::prepare(&sets, proc().as_fd()).unwrap();
                let mut then = Status::default();
                let privileged = || {
                    then = Status::read(proc().as_fd())?;
                    Ok(())
                };
                let who = user(uid, uid, &[]);
                credentials::apply(
                    &who,
                    &sets,
                    Groups::Set,
                    false,
                    &before,
                    proc().as_fd(),
                    Some(privileged),
                )
                .unwrap();
                assert_eq!((then.effective, then.uids), (before.permitted, [uid; 4]));
                let now = Status::read(proc().as_fd()).unwrap();
                assert_eq!((now.effective, now.ambient, now.bounding), (KILL, KILL, KILL | CHOWN));
                let ambient = [Capability::CAP_KILL, Capability::CAP_CHOWN].map(sys::credentials::is_ambient);
                assert_eq!(ambient, [Ok(true), Ok(false)]);
                let failing = || Err(anyhow::anyhow!("no"));
                let again = Status::read(proc().as_fd()).unwrap();
                let error = credentials::apply(
                    &who,
                    &sets,
                    Groups::Denied,
                    false,
                    &again,
                    proc().as_fd(),
                    Some(failing),
                );
                assert_eq!(error.unwrap_err().to_string(), "no");
            });
            assert_eq!(code, 0, "{uid}");
        }
    });
}

/// In a user namespace that denies setgroups, groups are an error.
#[test]
fn groups_are_an_error_if_setgroups_is_denied() {
    alone(|| {
        enter_user_namespace();
        assert_eq!(Groups::probe(&user(0, 0, &[]), true, proc().as_fd()).unwrap(), Groups::Denied);
        let kept = User { keep_groups: true, ..user(0, 0, &[]) };
        assert_eq!(Groups::probe(&kept, true, proc().as_fd()).unwrap(), Groups::Kept);
        let sets = Sets { bounding: CHOWN, effective: CHOWN, permitted: CHOWN, ..Sets::default() };
        let error = become_user(&user(0, 0, &[0]), &sets, Groups::Denied).unwrap_err();
        assert_eq!(
            error.to_string(),
            "process.user.additionalGids: setgroups is denied in this user namespace"
        );
        let error = become_user(&user(0, 0, &[7]), &sets, Groups::Set).unwrap_err();
        assert_eq!(format!("{error:#}"), "process.user: setgroups([7]): operation not permitted");
    });
}

#[test]
fn no_groups_are_accepted_if_setgroups_is_denied() {
    alone(|| {
        enter_user_namespace();
        let sets = Sets { bounding: CHOWN, effective: CHOWN, permitted: CHOWN, ..Sets::default() };
        become_user(&user(0, 0, &[]), &sets, Groups::Denied).unwrap();
        assert_eq!(Status::read(proc().as_fd()).unwrap().effective, CHOWN);
    });
}

#[test]
fn the_umask_is_set_only_if_the_plan_has_one() {
    alone(|| {
        for (umask, expected) in [(None, "0051"), (Some(0), "0000"), (Some(0o777), "0777")] {
            let who = User { umask, ..user(0, 0, &[]) };
            let code = forked(|| {
                sys::credentials::umask(0o51);
                become_user(&who, &Sets::default(), Groups::Set).unwrap();
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                assert!(status.contains(&format!("Umask:\t{expected}\n")), "{status}");
            });
            assert_eq!(code, 0, "{umask:?}");
        }
    });
}

fn nofile(soft: u64, hard: u64) -> Rlimit {
    let limit = Limit { soft, hard };
    Rlimit { resource: 7, name: "RLIMIT_NOFILE", limit, place: "process.rlimits[0]".into() }
}

#[test]
fn rlimits_are_set_and_errors_name_their_place() {
    alone(|| {
        rlimits::apply(&[nofile(50, 100)]).unwrap();
        assert_eq!(sys::process::prlimit(0, 7, None).unwrap(), Limit { soft: 50, hard: 100 });
        // Raising beyond fs.nr_open is refused with any capabilities.
        let error = rlimits::apply(&[nofile(50, u64::MAX - 1)]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("process.rlimits[0] RLIMIT_NOFILE: prlimit(soft 50, hard "), "{text}");
        assert!(text.ends_with("operation not permitted"), "{text}");
        // From outside only hard limits that are too low are changed.
        rlimits::raise_hard(0, &[nofile(1, 90)]).unwrap();
        assert_eq!(sys::process::prlimit(0, 7, None).unwrap(), Limit { soft: 50, hard: 100 });
    });
}

#[test]
fn scheduler_affinity_personality_and_memory_policy_are_set() {
    alone(|| {
        task::setsid().or_else(|_| sys::process::lead_group(0)).unwrap();
        io_priority::apply(io_priority::IoPriority { class: 2, level: 6 }).unwrap();
        assert_eq!(sys::process::ioprio_get().unwrap(), (2, 6));

        let mut notes = Notes::default();
        let spec = serde_json::from_str(r#"{"policy": "SCHED_BATCH", "nice": 7}"#).unwrap();
        let batch = scheduler::plan(Some(&spec), "s", &mut notes).unwrap();
        scheduler::apply(&batch).unwrap();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Counted from the state, which is field 3: nice is 19, the policy 41.
        assert_eq!((fields[16], fields[38]), ("7", "3"));

        personality::apply(personality::Personality(8)).unwrap();
        assert_eq!(std::fs::read_to_string("/proc/self/personality").unwrap().trim(), "00000008");

        let spec = serde_json::from_str(r#"{"initial": "0"}"#).unwrap();
        let cpus = affinity::plan(Some(&spec), "a", &mut notes).initial.unwrap();
        affinity::apply(&cpus).unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");

        let spec = serde_json::from_str(r#"{"mode": "MPOL_BIND", "nodes": "0"}"#).unwrap();
        match memory_policy::apply(&memory_policy::plan(Some(&spec), &mut notes).unwrap()) {
            Ok(()) => assert!(std::fs::read_to_string("/proc/self/numa_maps").unwrap().contains("bind:0")),
            Err(e) => assert_eq!(
                format!("{e:#}"),
                "linux.memoryPolicy: set_mempolicy(0x2): function not implemented"
            ),
        }
        assert_eq!(notes.problems.to_string(), "");
    });
}

/// If the kernel lacks the module, the failed write is an error that names the profile.
#[test]
fn a_label_that_cannot_be_set_is_an_error() {
    harness::isolated_in(View::V2, |_| {
        if harness::modules() != lsm::Host::default() {
            harness::skip("this kernel runs AppArmor or SELinux");
        }
        let code = forked(|| {
            let labels = lsm::Labels { apparmor: Some("no-such".into()), selinux: None };
            let error = lsm::apply(&labels, proc().as_fd()).unwrap_err();
            let text = format!("{error:#}");
            assert!(text.starts_with("process.apparmorProfile \"no-such\": "), "{text}");
        });
        assert_eq!(code, 0);
    });
}

/// The lookup can enter only directories of the container's user.
#[test]
fn the_lookup_has_the_rights_of_the_containers_user() {
    alone(|| {
        let dir = scratch().join("lookup");
        let closed = dir.join("closed");
        std::fs::create_dir_all(&closed).unwrap();
        std::fs::copy("/bin/true", dir.join("mine")).unwrap();
        std::fs::copy("/bin/true", closed.join("x")).unwrap();
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        };
        mode(&dir, 0o755);
        mode(&closed, 0o700);
        mode(&dir.join("mine"), 0o700);
        let find = |path: &Path| {
            let name = CString::new(path.to_str().unwrap()).unwrap();
            lookup::find(&name, &[]).map(drop).map_err(|e| e.to_string())
        };
        assert_eq!(find(&dir.join("mine")), Ok(()));
        task::setfsgid(1000).unwrap();
        task::setfsuid(1000).unwrap();
        let (mine, x) = (dir.join("mine"), closed.join("x"));
        assert_eq!(find(&mine), Err(format!("exec: {mine:?}: permission denied")));
        assert_eq!(find(&x), Err(format!("exec: {x:?}: stat {}: permission denied", x.display())));
        task::setfsuid(0).unwrap();
        task::setfsgid(0).unwrap();

        // An empty element of PATH is the working directory, from which Go refuses to run.
        std::env::set_current_dir(&dir).unwrap();
        let error = lookup::find(c"mine", &[c"PATH=/none:".into()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "exec: \"mine\": cannot run executable found relative to current directory"
        );
    });
}

fn shell(place: &str, script: &str, timeout: Option<Duration>) -> Hook {
    let argv = ["sh", "-c", script].map(|word| CString::new(word).unwrap()).to_vec();
    Hook {
        place: place.into(),
        path: c"/bin/sh".into(),
        argv,
        env: None,
        timeout,
        output: Default::default(),
    }
}

fn outcome(hook: Hook) -> String {
    hooks::run(&[hook], b"{\"status\":\"creating\"}", env::own)
        .map_or_else(|e| format!("{e:#}"), |()| String::new())
}

#[test]
fn a_failing_hook_is_reported_with_its_output() {
    alone(|| {
        let enough = Some(Duration::from_secs(60));
        for (script, expected) in [
            ("read state; [ \"$state\" = '{\"status\":\"creating\"}' ]", ""),
            ("exit 3", "exit status 3"),
            ("echo out; echo err >&2; exit 1", "exit status 1: out\\nerr"),
            ("echo a; echo b > /dev/stderr; echo c; exit 1", "exit status 1: b\\nc"),
            ("kill -TERM $$", "killed by signal 15"),
            // std ignores SIGPIPE, and the caller can have blocked signals. A hook must inherit neither.
            // (Signal 32 belongs to glibc: its posix_spawn ignores it and its sigaction does not change it.)
            (
                "grep -Eq '^SigIgn:.0{8}[08]0{7}$' /proc/self/status && grep -Eq '^SigBlk:.0+$' /proc/self/status",
                "",
            ),
            // Only the three standard descriptors, and the one that ls itself has open.
            ("[ \"$(ls /proc/self/fd | tr '\\n' ' ')\" = '0 1 2 3 ' ]", ""),
            ("[ \"$(cut -d' ' -f5 /proc/$$/stat)\" = $$ ]", ""),
        ] {
            let expected = if expected.is_empty() {
                String::new()
            } else {
                format!("hooks.x[0] /bin/sh: error running x hook #0: {expected}")
            };
            assert_eq!(outcome(shell("hooks.x[0]", script, enough)), expected, "{script}");
        }
        let missing = Hook { path: c"/no/such".into(), ..shell("hooks.x[0]", "", None) };
        assert_eq!(
            outcome(missing),
            "hooks.x[0] /no/such: error running x hook #0: exit status 127: exec /no/such: no such file or directory"
        );
    });
}

/// Without `env` a hook has the runtime's environment, and otherwise only its own.
#[test]
fn a_hook_has_its_own_environment_or_the_runtimes() {
    alone(|| {
        assert_eq!(outcome(shell("h", "[ -n \"$CORTEN_TEST_DIR\" ]", None)), "");
        let alone = Hook {
            env: Some(vec![c"A=1".into()]),
            ..shell("h", "[ -z \"$CORTEN_TEST_DIR\" -a $A = 1 ]", None)
        };
        assert_eq!(outcome(alone), "");
    });
}

/// The timeout kills the whole process group. A process that keeps the output open delays nothing.
#[test]
fn the_timeout_kills_the_process_group_of_a_hook() {
    alone(|| {
        let second = Some(Duration::from_secs(1));
        let marker = scratch().join("marker");
        let left = format!("(sleep 2; touch {}) & echo waiting; sleep 30", marker.display());
        for (script, expected, at_least, at_most) in [
            (
                left.as_str(),
                "hooks.prestart[0] /bin/sh: error running prestart hook #0: timed out after 1s: waiting",
                1.0,
                1.9,
            ),
            // A process that a hook has left in time is not killed.
            ("sleep 5 & exit 0", "", 0.0, 0.9),
        ] {
            let start = Instant::now();
            assert_eq!(outcome(shell("hooks.prestart[0]", script, second)), expected);
            let took = start.elapsed().as_secs_f64();
            let at_most = at_most * f64::from(harness::patience());
            assert!(took >= at_least && took <= at_most, "{script}: {took}");
        }
        std::thread::sleep(Duration::from_millis(1500));
        assert!(!marker.exists(), "a process of the hook's group outlived it");
        harness::kill_all("sleep 5");
        // A timeout beyond the clock's end is no limit, and does not panic.
        assert_eq!(outcome(shell("h", "exit 0", Some(Duration::from_secs(i64::MAX as u64)))), "");
    });
}

/// poststop: "the remaining hooks and lifecycle continue" (runtime.md#lifecycle).
#[test]
fn one_failing_hook_stops_the_list_except_for_poststop() {
    alone(|| {
        let marker = scratch().join("marker");
        let list =
            [shell("p[0]", "exit 1", None), shell("p[1]", &format!("touch {}", marker.display()), None)];
        let error = hooks::run(&list, b"{}", env::own).unwrap_err();
        let message = "p[0] /bin/sh: error running p hook #0: exit status 1";
        assert_eq!((error.to_string().as_str(), marker.exists()), (message, false));
        assert_eq!(hooks::run_all(&list, b"{}"), [format!("{message}, ignoring")]);
        assert!(marker.exists());
    });
}
