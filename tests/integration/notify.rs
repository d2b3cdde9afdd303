//! Notifications to a service manager, sd_notify(3): which of them arrive, from which process, and how long a
//! command waits.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Bundle, Manager, Output, Running, Test, isolated, patience, poll, with_systemd, without_namespace,
};
use crate::joined::Other;
use crate::namespaces::{give_rootfs, map_ids};

fn call(t: &Test, address: &str, args: &[&str]) -> Output {
    t.call(t.command(args).env("NOTIFY_SOCKET", address))
}

fn spawn(t: &Test, manager: &Manager, args: &[&str]) -> Running {
    let running = t.spawn(t.command(args).env("NOTIFY_SOCKET", &manager.address));
    assert!(poll(Duration::from_secs(20), || t.corten(&["state", "c1"]).stdout.contains("running")));
    running
}

/// Sends a message to the container's socket, from inside the container.
fn say(t: &Test, text: &str) {
    let path = format!("/proc/{}/root/run/notify/notify.sock", t.pid("c1"));
    UnixDatagram::unbound().unwrap().send_to(text.as_bytes(), path).unwrap();
}

fn sleeping(t: &Test) -> Bundle {
    t.bundle(|c| c["process"]["args"] = json!(["sleep", "1000"]))
}

/// `run` is itself the main process of its service. It waits for the container and forwards notifications all
/// the time.
#[test]
fn run_forwards_notifications_until_the_container_ends() {
    isolated(|t| {
        let manager = Manager::listen(&t.dir);
        let bundle = sleeping(t);
        let run = spawn(t, &manager, &["run", "-b", bundle.path(), "c1"]);
        let pid = run.child.id();
        say(t, "STATUS=loading\n");
        manager.until("STATUS=loading");
        say(t, "READY=1\nSTATUS=Größe: 1\0");
        manager.until("STATUS=Größe: 1");
        say(t, "STOPPING=1");
        manager.until("STOPPING=1");
        let expected =
            ["STATUS=loading", "READY=1", &format!("MAINPID={pid}"), "STATUS=Größe: 1", "STOPPING=1"];
        assert_eq!(manager.lines(), expected);
        assert!(manager.heard().iter().all(|heard| heard.pid == pid as i32), "{:?}", manager.heard());
        t.corten(&["kill", "c1", "KILL"]).ok();
        run.wait().exits(137);
    });
}

/// `start` and `run --detach` end when the container is ready, and name its process as the main one. The
/// service manager has read that before they end, because afterwards it could not identify the sender.
#[test]
fn start_and_run_detached_wait_until_the_container_is_ready() {
    isolated(|t| {
        let manager = Manager::listen(&t.dir);
        let users = t.bundle(map_ids);
        give_rootfs(t, &users);
        let plain = sleeping(t);
        let rows = [("start", &plain), ("start", &users), ("run", &plain), ("run", &users)];
        for (verb, bundle) in rows {
            let waiting = if verb == "start" {
                call(t, &manager.address, &["create", "-b", bundle.path(), "c1"]).ok();
                assert!(manager.heard().is_empty(), "{:?}", manager.heard());
                spawn(t, &manager, &["start", "c1"])
            } else {
                spawn(t, &manager, &["run", "-d", "-b", bundle.path(), "c1"])
            };
            say(t, "STATUS=almost");
            manager.until("STATUS=almost");
            let sender = waiting.child.id() as i32;
            say(t, "READY=1\nSTOPPING=0");
            waiting.wait().ok();
            let main = format!("MAINPID={}", t.pid("c1"));
            assert_eq!(manager.lines(), ["STATUS=almost", "READY=1", &main, "BARRIER=1"], "{verb}");
            let heard = manager.heard();
            assert!(heard.iter().all(|heard| heard.pid == sender), "{verb}: {heard:?}");
            assert_eq!(heard.last().map(|barrier| barrier.descriptors), Some(1), "{verb}");
            t.delete("c1");
            manager.forget();
        }
    });
}

/// The path of the socket exists in the container and has no other file of the host. The program's
/// environment names only this socket.
#[test]
fn the_container_sees_only_its_own_socket() {
    isolated(|t| {
        let manager = Manager::listen(&t.dir);
        let bundle = t.bundle(|c| {
            c["process"]["env"].as_array_mut().unwrap().push(json!("NOTIFY_SOCKET=/elsewhere"));
            let script = "test -S $NOTIFY_SOCKET && echo $NOTIFY_SOCKET; ls -a /run/notify; \
                          grep -o '/run/notify.* ro,nosuid,nodev,noexec' /proc/self/mountinfo; ls /proc/1/fd; true";
            c["process"]["args"] = json!(["sh", "-c", script]);
        });
        let socket = "/run/notify/notify.sock";
        let expected = format!("{socket}\n.\n..\nnotify.sock\n{socket} ro,nosuid,nodev,noexec\n0\n1\n2\n");
        assert_eq!(call(t, &manager.address, &["run", "-b", bundle.path(), "r"]).ok(), expected);
        // A file that an earlier container has left is not a socket.
        let plain = t.run_bundle(&bundle).stdout;
        assert!(plain.starts_with(".\n..\nnotify.sock\n0\n"), "{plain}");
        // The runtime opens the socket itself if the container's process does not see the host's paths.
        let other = Other::new("private");
        let host = |c: &mut Value| without_namespace(c, "mount");
        let joined = |c: &mut Value| other.join(c);
        let rows = [("joined", &joined as &dyn Fn(&mut Value)), ("host's", &host)];
        for (name, edit) in rows {
            let bundle = t.bundle(|c| {
                c["process"]["args"] = json!(["sh", "-c", "test -S $NOTIFY_SOCKET && echo $NOTIFY_SOCKET"]);
                edit(c);
            });
            let out = call(t, &manager.address, &["run", "-b", bundle.path(), "r"]);
            assert_eq!((out.code, out.stdout.trim()), (0, socket), "{name}: {out:?}");
        }
    });
}

/// The address must be one of the two kinds of socket addresses, and a process must listen there.
#[test]
fn a_wrong_notify_socket_is_refused_before_anything_is_made() {
    isolated(|t| {
        let bundle = sleeping(t);
        for (address, text) in [
            (
                "relative",
                "NOTIFY_SOCKET: \"relative\" is neither an absolute path nor the name of an abstract socket",
            ),
            ("vsock:2:1234", "NOTIFY_SOCKET: \"vsock:2:1234\" is neither"),
            ("@", "NOTIFY_SOCKET: \"@\" is neither"),
            ("/nowhere/notify", "NOTIFY_SOCKET: connect(\"/nowhere/notify\"): no such file"),
            ("@corten-nobody", "NOTIFY_SOCKET: connect("),
        ] {
            for verb in ["create", "run"] {
                call(t, address, &[verb, "-b", bundle.path(), "c1"]).fails(text);
            }
        }
        t.create(&bundle, "c1");
        call(t, "relative", &["start", "c1"]).fails("NOTIFY_SOCKET: \"relative\" is neither");
        assert_eq!(t.status("c1"), "created");
        // A container that was created without NOTIFY_SOCKET cannot send notifications.
        let manager = Manager::listen_abstract("manager");
        let started = call(t, &manager.address, &["start", "c1"]);
        assert_eq!((started.code, started.stderr.contains("created without it")), (0, true), "{started:?}");
        t.delete("c1");
        call(t, &manager.address, &["create", "-b", bundle.path(), "c1"]).ok();
        // Neither can a container that is started without it.
        t.corten(&["start", "c1"]).ok();
        t.delete("c1");
        let run = spawn(t, &manager, &["run", "-d", "-b", bundle.path(), "c1"]);
        say(t, "READY=1");
        run.wait().ok();
        manager.until("READY=1");
        t.delete("c1");
    });
}

const SERVICE: &str = "CORTEN_TEST_SERVICE";

/// A service: it reports that it is ready, with words that it must not use, and serves.
fn serve(address: &str) -> ! {
    let socket = UnixDatagram::unbound().unwrap();
    let say = |text: &str| drop(socket.send_to(text.as_bytes(), address));
    say("STATUS=warming up");
    say("MAINPID=1\nFDSTORE=1\nREADY=1\nSTATUS=serving");
    loop {
        std::thread::park();
    }
}

fn systemctl(args: &[&str]) -> (bool, String) {
    let output = Command::new("systemctl").args(args).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat().trim().into())
}

/// A unit of the test, which is removed when the test ends.
struct Unit(String);

impl Unit {
    fn new(name: &str, service: &str) -> Self {
        let unit = Self(format!("ctest{}-{name}.service", std::process::id()));
        std::fs::create_dir_all("/run/systemd/system").unwrap();
        std::fs::write(unit.file(), format!("[Service]\nType=notify\n{service}")).unwrap();
        systemctl(&["daemon-reload"]);
        unit
    }

    fn file(&self) -> PathBuf {
        PathBuf::from("/run/systemd/system").join(&self.0)
    }

    fn property(&self, name: &str) -> String {
        systemctl(&["show", &self.0, "--value", "-p", name]).1
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        systemctl(&["stop", &self.0]);
        let _ = std::fs::remove_file(self.file());
        systemctl(&["daemon-reload"]);
    }
}

/// A service of `Type=notify` becomes active when its container is ready, also if systemd accepts messages of
/// the main process only. With systemd's own socket in the container it never became active, because no
/// message came from a process of the service.
#[test]
fn a_service_of_type_notify_becomes_active() {
    if std::env::var_os(SERVICE).is_some() {
        serve(&std::env::var("NOTIFY_SOCKET").unwrap());
    }
    with_systemd("a_service_of_type_notify_becomes_active", |t| {
        let number = std::process::id();
        let bundle = t.bundle(|c| {
            let own = std::env::current_exe().unwrap();
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/service", "source": own, "options": ["bind", "ro"]}));
            let name = "notify::a_service_of_type_notify_becomes_active";
            // The first process is a shell, which ignores SIGTERM without a handler.
            let script =
                format!("trap 'exit 0' TERM; /service --exact {name} --nocapture --test-threads=1 & wait");
            c["process"]["args"] = json!(["/bin/sh", "-c", script]);
            c["process"]["env"].as_array_mut().unwrap().push(json!(format!("{SERVICE}=1")));
            c["linux"]["cgroupsPath"] = json!(format!(":ctest{number}:notify"));
        });
        let runtime = t.command(&[]);
        let runtime = format!(
            "{} --root {} --systemd-cgroup",
            runtime.get_program().to_str().unwrap(),
            t.state().display()
        );
        let make = |verb: &str| format!("{runtime} {verb} -b {} c1", bundle.path());
        let limit = 20 * patience();
        let run = format!("ExecStart={}", make("run"));
        let two = format!("ExecStartPre={}\nExecStart={runtime} start c1", make("create"));
        let one = format!("ExecStart=/bin/sh -c '{} && exec {runtime} start c1'", make("create"));
        let rows =
            [("run", "main", &run), ("run", "all", &run), ("start", "all", &two), ("start", "main", &one)];
        for (verb, access, commands) in rows {
            let unit = Unit::new(
                &format!("{verb}-{access}"),
                &format!(
                    "NotifyAccess={access}\nTimeoutStartSec={limit}\n{commands}\nExecStopPost=-{runtime} delete --force c1\n"
                ),
            );
            let (started, text) = systemctl(&["start", &unit.0]);
            let journal = || Command::new("journalctl").args(["-n", "30", "-u", &unit.0]).output().unwrap();
            let log = || String::from_utf8_lossy(&journal().stdout).into_owned();
            assert!(started, "{verb}, {access}: {text}\n{}", log());
            let show = |names: [&str; 2]| names.map(|name| unit.property(name));
            assert_eq!(show(["ActiveState", "StatusText"]), ["active", "serving"], "{verb}, {access}");
            let main: i32 = unit.property("MainPID").parse().unwrap();
            let name = std::fs::read_to_string(format!("/proc/{main}/comm")).unwrap();
            let expected = if verb == "run" { "corten\n" } else { "sh\n" };
            assert_eq!((name.as_str(), main == t.pid("c1")), (expected, verb == "start"), "{verb}, {access}");
            assert_eq!(unit.property("NFileDescriptorStore"), "0");
            systemctl(&["stop", &unit.0]);
            assert_eq!(show(["ActiveState", "Result"]), ["inactive", "success"], "{}", log());
            t.corten(&["state", "c1"]).fails("does not exist");
        }
        // Check of the check: systemd's own socket in the container.
        bundle.edit(|c| {
            let mounts = c["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/raw", "source": "/run/systemd/notify", "options": ["bind"]}));
            c["process"]["env"].as_array_mut().unwrap().push(json!("NOTIFY_SOCKET=/raw"));
        });
        let raw = format!("ExecStart=/usr/bin/env -u NOTIFY_SOCKET {}", make("run"));
        let unit = Unit::new(
            "raw",
            &format!(
                "NotifyAccess=main\nTimeoutStartSec=5\n{raw}\nExecStopPost=-{runtime} delete --force c1\n"
            ),
        );
        assert!(!systemctl(&["start", &unit.0]).0);
        assert_eq!(unit.property("Result"), "timeout");
    });
}
