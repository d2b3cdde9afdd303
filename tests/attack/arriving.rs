//! Attacks by the container's processes on a process that arrives among them, and secrets that they learn
//! from it.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{Output, Test, isolated, patience, poll, skip, without_namespace};
use crate::{bind_payload, found, payload, rounds};

/// A mark in the host's mountinfo and in its list of sockets. No container has it.
const MARK: &str = "mark-of-the-host";

/// While `exec` enters, a process of the container without any right opens `mountinfo` and `net/unix` of the
/// next process. The kernel requires no right for that, and an open descriptor keeps the host's mount
/// namespace. The arriving process must show only the container's. Check of the check: a process that is
/// cloned into the pid namespace alone.
#[test]
fn an_arriving_exec_shows_nothing_of_the_host() {
    payload(read_what_arrives);
    isolated(|t| {
        let (seen, host) = watched(t, "arriving::an_arriving_exec_shows_nothing_of_the_host", |pid| {
            for _ in 0..rounds() {
                t.corten(&["exec", "c1", "/bin/true"]).ok();
            }
            pid
        });
        assert!(seen > 0 && host == 0, "exec: seen {seen} times, {host} times with the host's");
        let naive = |pid: i32| drop(naive(t, pid, "0.05"));
        let (_, host) = watched(t, "arriving::an_arriving_exec_shows_nothing_of_the_host", |pid| {
            (0..10).for_each(|_| naive(pid));
            pid
        });
        assert!(host > 0, "the payload sees nothing even where it could");
    });
}

/// The same for a container that is created in the pid and network namespaces of another, as in a pod. It
/// must be in the network namespace before it can be seen.
#[test]
fn an_arriving_container_shows_no_socket_of_the_host() {
    payload(read_what_arrives);
    isolated(|t| {
        let name = "arriving::an_arriving_container_shows_no_socket_of_the_host";
        let (seen, host) = watched(t, name, |pid| {
            let member = t.bundle(|c| {
                for (kind, file) in [("pid", "pid"), ("network", "net")] {
                    without_namespace(c, kind);
                    let join = json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")});
                    c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
                }
                c["process"]["args"] = json!(["/bin/true"]);
            });
            for _ in 0..rounds() {
                t.run_bundle(&member).ok();
            }
            pid
        });
        assert!(seen > 0 && host & 0xffff == 0, "seen {seen} times, {host:x} times with the host's");
    });
}

/// Runs a process that enters the pid namespace before the others, as a naive runtime does.
fn naive(t: &Test, pid: i32, seconds: &str) -> Output {
    let pid = pid.to_string();
    t.call(Command::new("nsenter").args(["--target", &pid, "--pid", "sleep", seconds]))
}

/// Returns how often the payload, as a user without rights, has seen a process arrive, and how often that
/// showed the host: its mounts times 0x10000, and its sockets.
fn watched(t: &Test, name: &str, arrive: impl FnOnce(i32) -> i32) -> (u32, u32) {
    let mark = t.dir.join(MARK);
    fs::create_dir_all(&mark).unwrap();
    mount(Some("tmpfs"), &mark, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let address = SocketAddr::from_abstract_name(MARK).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    for file in ["mountinfo", "net/unix"] {
        assert!(fs::read_to_string(format!("/proc/self/{file}")).unwrap().contains(MARK), "{file}");
    }
    let bundle = t.bundle(|c| {
        bind_payload(c, name, &[""]);
        c["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        c["process"]["capabilities"] = json!({});
    });
    fs::set_permissions(bundle.rootfs().join("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    let run = t.spawn(&mut t.command(&["run", "-b", bundle.path(), "c1"]));
    assert!(poll(Duration::from_secs(20), || bundle.rootfs().join("tmp/ready").exists()));
    arrive(t.pid("c1"));
    fs::write(bundle.rootfs().join("tmp/stop"), "").unwrap();
    let out = found(&run.wait().ok());
    drop(socket);
    umount(&mark).unwrap();
    let numbers: Vec<u32> = out.split(' ').map(|number| number.parse().unwrap()).collect();
    (numbers[0], (numbers[1] << 16) + numbers[2])
}

/// The payload of both tests.
fn read_what_arrives(_: &[String]) -> String {
    let (mut seen, mut mounts, mut sockets) = (0, 0, 0);
    fs::write("/tmp/ready", "").unwrap();
    let end = Instant::now() + Duration::from_secs(200);
    while !fs::exists("/tmp/stop").unwrap() && Instant::now() < end {
        let last = last_pid();
        for pid in last..last + 3 {
            let has = |file: &str| {
                fs::read_to_string(format!("/proc/{pid}/{file}")).map(|text| text.contains(MARK))
            };
            let mark = has("mountinfo");
            seen += u32::from(mark.is_ok() && pid > std::process::id());
            mounts += u32::from(mark.unwrap_or(false));
            sockets += u32::from(has("net/unix").unwrap_or(false));
        }
    }
    format!("{seen} {} {}", mounts.min(0xffff), sockets.min(0xffff))
}

/// Returns the last pid that was given in this pid namespace (proc_loadavg(5)).
fn last_pid() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap();
    text.split_whitespace().last().unwrap().parse().unwrap()
}

/// The payload of both tests of stopped processes.
fn stop_everything(_: &[String]) -> String {
    loop {
        let _ = kill(Pid::from_raw(-1), Signal::SIGSTOP);
    }
}

/// A process of the container sends SIGSTOP to all processes, again and again. `exec` can succeed or fail,
/// but it ends, and the process that it has brought in ends with it. Check of the check: an arriving process
/// is found stopped.
#[test]
fn an_arriving_process_that_is_stopped_does_not_hold_exec() {
    payload(stop_everything);
    isolated(|t| {
        hold(
            t,
            "arriving::an_arriving_process_that_is_stopped_does_not_hold_exec",
            "it was stopped by a signal",
            |_| {},
        );
    });
}

/// The same for a container that is created in the pid namespace of such a container.
#[test]
fn an_arriving_process_that_is_stopped_does_not_hold_create() {
    payload(stop_everything);
    isolated(|t| {
        let bundle = t.bundle(|c| {
            bind_payload(c, "arriving::an_arriving_process_that_is_stopped_does_not_hold_create", &[""]);
        });
        let pid = t.start(&bundle, "c1");
        let member = t.bundle(|c| {
            without_namespace(c, "pid");
            let join = json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
        });
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            in_time(end, "no create was ever held up");
            let out = t.corten(&["create", "-b", member.path(), "c2"]);
            if out.code != 0 {
                out.fails("it was stopped by a signal");
                break;
            }
            t.delete("c2");
        }
        t.delete("c1");
    });
}

/// A container that waits for `start` in a shared pid namespace can be stopped there. `start` reports it and
/// ends it.
#[test]
fn a_created_process_that_is_stopped_does_not_hold_start() {
    isolated(|t| {
        let first = t.bundle(|_| {});
        let pid = t.start(&first, "c1");
        let member = t.bundle(|c| {
            without_namespace(c, "pid");
            let join = json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")});
            c["linux"]["namespaces"].as_array_mut().unwrap().push(join);
        });
        for stopped in [false, true] {
            t.create(&member, "c2");
            if stopped {
                t.exec("c1", "kill -STOP -1").ok();
                t.corten(&["start", "c2"]).fails("it was stopped by a signal");
                t.until("c2", "stopped");
            } else {
                t.corten(&["start", "c2"]).ok();
            }
            t.delete("c2");
        }
        t.delete("c1");
    });
}

/// The same with a frozen cgroup below the container's, into which the payload moves every arriving process.
#[test]
fn an_arriving_process_that_is_frozen_does_not_hold_exec() {
    payload(|_| {
        let below = "/sys/fs/cgroup/below";
        fs::create_dir(below).unwrap();
        fs::write(format!("{below}/cgroup.freeze"), "1").unwrap();
        loop {
            let inside = fs::read_to_string("/sys/fs/cgroup/cgroup.procs").unwrap_or_default();
            for pid in inside.lines().filter(|pid| *pid != "1") {
                let _ = fs::write(format!("{below}/cgroup.procs"), pid);
            }
        }
    });
    isolated(|t| {
        hold(t, "arriving::an_arriving_process_that_is_frozen_does_not_hold_exec", "/below is frozen", |c| {
            c["mounts"].as_array_mut().unwrap().last_mut().unwrap()["options"] = json!(["rw"]);
            c["linux"]["cgroupsPath"] = json!("/mine");
        });
    });
}

/// Fails when the time is up. On an emulated machine, on which the race may never be won, the test is skipped
/// instead.
fn in_time(end: Instant, otherwise: &str) {
    if Instant::now() >= end && patience() > 1 {
        skip(otherwise);
    }
    assert!(Instant::now() < end, "{otherwise}");
}

/// Repeats `exec` until it was held up once. The image slows it down by a long list of users.
fn hold(t: &Test, name: &str, how: &str, edit: impl FnOnce(&mut Value)) {
    let bundle = t.bundle(|c| {
        edit(c);
        bind_payload(c, name, &[""]);
    });
    let passwd = bundle.rootfs().join("etc/passwd");
    let users = "somebody:x:1001:1001::/home/somebody:/bin/sh\n".repeat(20_000);
    fs::write(&passwd, users + &fs::read_to_string(&passwd).unwrap()).unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    let mut held = 0;
    while held == 0 {
        in_time(end, "no exec was ever held up");
        t.start(&bundle, "c1");
        let pid_file = |i: i32| t.dir.join(format!("pid{i}"));
        let exec = |i: i32| {
            let mut command = t.command(&["exec", "-d", "--user", "alice", "--pid-file"]);
            t.spawn(command.arg(pid_file(i)).args(["c1", "/bin/sleep", "1000"]))
        };
        // Each must end by itself, because the harness waits for half a minute.
        let (mut ran, execs) = (0, [0, 1, 2, 3].map(exec));
        for (i, exec) in (0..).zip(execs) {
            let out = exec.wait();
            let begun = out.code == 0;
            assert_eq!(pid_file(i).exists(), begun, "{out:?}");
            drop(fs::remove_file(pid_file(i)));
            if begun {
                out.ok();
                ran += 1;
            } else {
                out.fails(how).exits(255);
                held += 1;
            }
        }
        let inside = t.corten(&["ps", "-f", "json", "c1"]).ok().split(',').count();
        assert_eq!(inside, 1 + ran, "{held} were held up");
        t.delete("c1");
    }
}
