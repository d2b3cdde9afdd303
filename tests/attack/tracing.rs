//! Processes of the container's that lie in wait for an arriving `exec`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::harness::{Test, isolated, poll};
use crate::{LOOKING, all_capabilities, bind_payload, found, give_rootfs, map_ids, payload};

/// CVE-2016-9962: while `exec` is on its way in, a process of the container's with all capabilities tries to attach to
/// it, to open its memory and to read its environment and descriptors: with CAP_SYS_PTRACE in a user namespace, and
/// without what lets it look into others outside of one. Nothing works as long as it is the runtime. The check's check is the one case that no order
/// of the steps can close: whoever gives CAP_SYS_PTRACE without a user namespace gives the right to trace the host's root
/// wherever it shows, and it is told in SECURITY.md.
#[test]
fn an_arriving_exec() {
    payload(lie_in_wait);
    isolated(|t| {
        assert_eq!(attack(t, true, &[]), 0, "in a user namespace");
        assert_eq!(attack(t, false, &LOOKING), 0, "without CAP_SYS_PTRACE");
        assert_ne!(attack(t, false, &[]), 0, "the payload finds nothing even where it may");
    });
}

/// How often something worked.
fn attack(t: &Test, user: bool, but: &[&str]) -> u32 {
    let bundle = t.bundle(|c| {
        all_capabilities(c, but);
        if user {
            map_ids(c);
        }
        bind_payload(c, "tracing::an_arriving_exec", &[""]);
    });
    if user {
        give_rootfs(t, &bundle);
    }
    let run = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "c1"]));
    assert!(poll(Duration::from_secs(20), || bundle.rootfs().join("ready").exists()));
    for _ in 0..25 {
        // One that it has attached to may not come to its end.
        let exec = t.spawn(&mut t.command(&["exec", "--env", "SECRET=1", "c1", "/bin/true"]));
        drop(exec.wait());
    }
    fs::write(bundle.rootfs().join("stop"), "").unwrap();
    let out = found(&run.wait().ok());
    let (seen, worked) = out.split_once(' ').unwrap();
    assert_ne!(seen, "0", "the payload has seen no exec arrive");
    worked.parse().unwrap()
}

/// The payload: how often the runtime was seen, and how often something worked. It is the runtime as long as its command
/// line says so.
fn lie_in_wait(_: &[String]) -> String {
    let (mut seen, mut worked) = (0, 0);
    fs::write("/ready", "").unwrap();
    let end = Instant::now() + Duration::from_secs(200);
    while !Path::new("/stop").exists() && Instant::now() < end {
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
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"corten init\0\0"))
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
