//! Processes of the container that lie in wait for an arriving `exec`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::unistd::Pid;
use serde_json::json;

use crate::harness::{Test, isolated, poll};
use crate::{
    LOOKING, all_capabilities, bind_payload, found, give_rootfs, map_ids, payload, payload_words, rounds,
    without_mount,
};

/// CVE-2016-9962: while `exec` enters, a process of the container with all capabilities tries to attach to
/// it, to open its memory and to read its environment and descriptors. It has CAP_SYS_PTRACE in a user
/// namespace, or lacks the capabilities to look into other processes without one. Nothing works as long as
/// the process is the runtime. Check of the check: the one case that no order of the steps can close.
/// CAP_SYS_PTRACE without a user namespace is the right to trace the host's root wherever it shows, and
/// SECURITY.md says so.
#[test]
fn an_arriving_exec_cannot_be_traced() {
    payload(lie_in_wait);
    isolated(|t| {
        assert_eq!(attack(t, true, &[]), 0, "in a user namespace");
        assert_eq!(attack(t, false, &LOOKING), 0, "without CAP_SYS_PTRACE");
        assert_ne!(attack(t, false, &[]), 0, "the payload finds nothing even where it may");
    });
}

/// Returns how often an attack has worked.
fn attack(t: &Test, user: bool, but: &[&str]) -> u32 {
    let bundle = t.bundle(|c| {
        all_capabilities(c, but);
        if user {
            map_ids(c);
        }
        bind_payload(c, "tracing::an_arriving_exec_cannot_be_traced", &[""]);
    });
    if user {
        give_rootfs(t, &bundle);
    }
    let run = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "c1"]));
    assert!(poll(Duration::from_secs(20), || bundle.rootfs().join("ready").exists()));
    for _ in 0..25 {
        // A process that the payload has attached to may not end.
        let exec = t.spawn(&mut t.command(&["exec", "--env", "SECRET=1", "c1", "/bin/true"]));
        drop(exec.wait());
    }
    fs::write(bundle.rootfs().join("stop"), "").unwrap();
    let out = found(&run.wait().ok());
    let (seen, worked) = out.split_once(' ').unwrap();
    assert_ne!(seen, "0", "the payload has seen no exec arrive");
    worked.parse().unwrap()
}

/// A user's container joins a user namespace of the user's. A process of the same user is root there and sees
/// the runtime. With CAP_SYS_PTRACE it would have the host's files through `/proc/PID/root` of a process that
/// has entered and is not out of its reach yet. Check of the check: a process that only enters.
#[test]
fn an_arriving_create_cannot_be_traced_from_its_user_namespace() {
    payload(|arguments| lie_in_wait_at(Path::new(&arguments[0])));
    isolated(|t| {
        let share = t.dir.join("share");
        fs::create_dir(&share).unwrap();
        std::os::unix::fs::chown(&share, Some(1000), Some(1000)).unwrap();
        // The tests' binary can be in a directory that is closed to the user.
        fs::copy(std::env::current_exe().unwrap(), share.join("spy")).unwrap();
        fs::copy(t.command(&[]).get_program(), share.join("corten")).unwrap();
        for naive in [false, true] {
            let (seen, worked) = attack_create(t, &share, naive);
            assert!(seen > 0 && (worked > 0) == naive, "naive: {naive}, seen: {seen}, worked: {worked}");
        }
    });
}

fn attack_create(t: &Test, share: &Path, naive: bool) -> (u32, u32) {
    let user = |command: &mut Command| {
        command.uid(1000).gid(1000);
    };
    let [_, words @ ..] =
        payload_words("tracing::an_arriving_create_cannot_be_traced_from_its_user_namespace", &[]).0;
    let mut spy = Command::new("unshare");
    spy.args(["--user", "--map-root-user"]).arg(share.join("spy")).args(words);
    spy.env(crate::PAYLOAD, share).stdin(Stdio::null());
    user(&mut spy);
    let spy = t.spawn(&mut spy);
    assert!(poll(Duration::from_secs(20), || share.join("ready").exists()));
    let namespace = format!("/proc/{}/ns/user", spy.child.id());
    let bundle = t.bundle(|c| {
        let join = json!({"type": "user", "path": namespace});
        c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
        // A cgroup and a group that belong to no user.
        ["/sys/fs/cgroup", "/dev/pts"].iter().for_each(|at| without_mount(c, at));
        c["process"]["args"] = json!(["/bin/true"]);
    });
    t.call(Command::new("chown").args(["-hR", "1000:1000"]).arg(&bundle.dir)).ok();
    for _ in 0..rounds() {
        let mut command = if naive {
            let mut command = Command::new("nsenter");
            command.args([
                "--preserve-credentials",
                &format!("--user={namespace}"),
                "bash",
                "-c",
                "exec -a 'corten init' sleep 0.01",
            ]);
            command
        } else {
            let runtime = t.command(&["--cgroup-manager", "disabled", "run", "-b", bundle.path(), "r"]);
            let mut command = Command::new(share.join("corten"));
            command.arg("--root").arg(share.join("state")).args(runtime.get_args().skip(2));
            command
        };
        user(&mut command);
        t.call(&mut command).exits(0);
    }
    fs::write(share.join("stop"), "").unwrap();
    let out = found(&spy.wait().ok());
    for file in ["ready", "stop"] {
        fs::remove_file(share.join(file)).unwrap();
    }
    let (seen, worked) = out.split_once(' ').unwrap();
    (seen.parse().unwrap(), worked.parse().unwrap())
}

/// The payload: how often the runtime was seen, and how often an attack has worked. A process is the runtime
/// as long as its command line says so.
fn lie_in_wait(_: &[String]) -> String {
    lie_in_wait_at(Path::new("/"))
}

fn lie_in_wait_at(dir: &Path) -> String {
    let (mut seen, mut worked) = (0, 0);
    fs::write(dir.join("ready"), "").unwrap();
    let end = Instant::now() + Duration::from_secs(200);
    while !dir.join("stop").exists() && Instant::now() < end {
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            if pid == std::process::id() as i32 || !is_runtime(pid) {
                continue;
            }
            seen += 1;
            worked += u32::from(tried(pid));
        }
    }
    format!("{seen} {worked}")
}

fn is_runtime(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"corten init\0"))
}

fn tried(pid: i32) -> bool {
    let of = |name: &str| format!("/proc/{pid}/{name}");
    let looked = fs::OpenOptions::new().read(true).write(true).open(of("mem")).is_ok()
        || fs::read(of("environ")).is_ok_and(|text| !text.is_empty())
        || fs::read_link(of("fd/0")).is_ok()
        || fs::read(of("maps")).is_ok_and(|text| !text.is_empty())
        || fs::read_link(of("exe")).is_ok()
        || fs::read_dir(of("root/")).is_ok();
    if looked && is_runtime(pid) {
        return true;
    }
    let attached = ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()).is_ok();
    let won = attached && is_runtime(pid);
    if attached {
        let _ = ptrace::interrupt(Pid::from_raw(pid));
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
        let _ = ptrace::detach(Pid::from_raw(pid), None);
    }
    won
}
