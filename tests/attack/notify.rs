//! The service manager's socket for notifications as a way to command the manager, or to hold the runtime.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde_json::{Value, json};

use crate::harness::{Manager, isolated, poll};
use crate::{add, bind_payload, found, give_rootfs, map_ids, payload};

/// Commands to a service manager (sd_notify(3)), alone and together with messages that are passed on, and
/// words that it must not show.
const COMMANDS: [&str; 12] = [
    "MAINPID=1",
    "MAINPID=1\nREADY=1",
    "READY=1\nWATCHDOG=1\nWATCHDOG_USEC=1\nEXTEND_TIMEOUT_USEC=18446744073709551615",
    "RELOADING=1\nMONOTONIC_USEC=1",
    "RESTART_RESET=1\nNOTIFYACCESS=all\nERRNO=2\nBUSERROR=a.b\nEXIT_STATUS=9",
    "FDSTORE=1\nFDNAME=x\nFDPOLL=0",
    "X_READY=1\nREADY=10\nREADY=1 \n READY=1",
    "READY=1\0MAINPID=1",
    "STATUS=\u{1b}]0;title\u{7}",
    "STATUS=a\rb",
    "STATUS=\u{9b}31m",
    "STATUS=an honest word\nMAINPID=1",
];

const FLOOD: usize = 300;

/// Sends all commands to the socket, with a descriptor each, then a message that is too long, and a flood.
fn command_it() -> String {
    let address = std::env::var("NOTIFY_SOCKET").unwrap();
    let socket = UnixDatagram::unbound().unwrap();
    let to = UnixAddr::new(address.as_str()).unwrap();
    let fd = [socket.as_raw_fd() as RawFd];
    let rights = [ControlMessage::ScmRights(&fd)];
    let say = |bytes: &[u8], rights: &[ControlMessage]| {
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::empty(), Some(&to)).is_ok()
    };
    let mut sent = COMMANDS.iter().filter(|command| say(command.as_bytes(), &rights)).count();
    sent += usize::from(say(b"STATUS=\xff\xfe", &[]));
    sent += usize::from(say(format!("STATUS={}\nMAINPID=1", "x".repeat(5000)).as_bytes(), &[]));
    sent += (0..FLOOD).filter(|n| say(format!("STATUS=flood {n}").as_bytes(), &[])).count();
    format!("{sent}")
}

/// With the service manager's own socket an image could do everything: name another main process, leave
/// descriptors, change its time limits. Only readiness, an end and a status are passed on, and they come from
/// the runtime.
#[test]
fn only_readiness_an_end_and_a_status_reach_the_service_manager() {
    const NAME: &str = "notify::only_readiness_an_end_and_a_status_reach_the_service_manager";
    payload(|_| command_it());
    isolated(|t| {
        let manager = Manager::listen(&t.dir);
        let all = (COMMANDS.len() + 2 + FLOOD).to_string();
        for (user_namespace, uid) in [(false, 0), (false, 1000), (true, 0), (true, 1000)] {
            let bundle = t.bundle(|c| {
                bind_payload(c, NAME, &[""]);
                c["process"]["user"] = json!({"uid": uid, "gid": uid});
                c["process"]["capabilities"] = json!({});
                if user_namespace {
                    map_ids(c);
                }
            });
            if user_namespace {
                give_rootfs(t, &bundle);
            }
            let mut command = t.command(&["run", "-b", bundle.path(), "r"]);
            let running = t.spawn(command.env("NOTIFY_SOCKET", &manager.address));
            let runtime = running.child.id();
            assert_eq!(found(&running.wait().ok()), all, "user namespace: {user_namespace}, user {uid}");
            manager.until(&format!("STATUS=flood {}", FLOOD - 1));
            let heard = manager.heard();
            for message in &heard {
                assert_eq!((message.descriptors, message.pid), (0, runtime as i32), "{message:?}");
                let known = |line: &str| {
                    line == "READY=1"
                        || line == format!("MAINPID={runtime}")
                        || line
                            .strip_prefix("STATUS=")
                            .is_some_and(|s| s == "an honest word" || s.starts_with("flood "))
                };
                assert!(message.text.lines().all(known), "{message:?}");
            }
            assert!(manager.lines().iter().any(|line| line == "READY=1"), "{heard:?}");
            assert!(heard.len() < FLOOD / 2, "{} messages", heard.len());
            manager.forget();
        }
        // Check of the check: through the service manager's own socket, all commands arrive.
        let bundle = t.bundle(|c| {
            bind_payload(c, NAME, &[""]);
            add(c, json!({"destination": "/raw", "source": t.dir.join("manager"), "options": ["bind"]}));
            let env: &mut Vec<Value> = c["process"]["env"].as_array_mut().unwrap();
            env.push(json!("NOTIFY_SOCKET=/raw"));
        });
        assert_eq!(found(&t.run_bundle(&bundle).ok()), all);
        manager.until(&format!("STATUS=flood {}", FLOOD - 1));
        let heard = manager.heard();
        assert_eq!(heard.len().to_string(), all);
        assert!(heard[0].text == "MAINPID=1" && heard[0].descriptors == 1, "{heard:?}");
    });
}

/// An image that never reports that it is ready holds `start` as long as it runs. Other commands see the
/// container and can kill it, which ends `start`. A signal ends it too.
#[test]
fn an_image_that_is_never_ready_holds_only_start() {
    isolated(|t| {
        let manager = Manager::listen(&t.dir);
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        let waiting = |verb: &[&str]| {
            let mut command = t.command(verb);
            let running = t.spawn(command.env("NOTIFY_SOCKET", &manager.address));
            assert!(poll(Duration::from_secs(20), || t.corten(&["state", "c1"]).stdout.contains("running")));
            running
        };
        let create = || {
            let mut command = t.command(&["create", "-b", bundle.path(), "c1"]);
            t.call(command.env("NOTIFY_SOCKET", &manager.address)).ok();
        };
        create();
        let mut start = waiting(&["start", "c1"]);
        std::thread::sleep(Duration::from_millis(300));
        // Check of the check: start waits.
        assert!(start.child.try_wait().unwrap().is_none());
        t.delete("c1");
        start.wait().ok();

        let mut run = waiting(&["run", "-d", "-b", bundle.path(), "c1"]);
        std::thread::sleep(Duration::from_millis(300));
        assert!(run.child.try_wait().unwrap().is_none());
        t.corten(&["kill", "c1", "KILL"]).ok();
        run.wait().ok();
        t.delete("c1");

        create();
        let start = waiting(&["start", "c1"]);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(start.child.id() as i32),
            nix::sys::signal::SIGTERM,
        )
        .unwrap();
        start.wait().exits(143);
        assert_eq!(t.status("c1"), "running");
        t.delete("c1");
        assert!(manager.lines().iter().all(|line| line == "BARRIER=1"), "{:?}", manager.heard());
    });
}
