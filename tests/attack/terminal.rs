//! The caller's terminal, which a container without a terminal can have as its standard input.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use serde_json::json;

use crate::harness::{Output, Test, isolated};
use crate::{all_capabilities, bind_payload, found, payload, payload_words};

const NAME: &str = "terminal::the_callers_terminal_is_not_typed_into";

/// Like CVE-2017-5226 and CVE-2023-28339: the container types into the caller's terminal with TIOCSTI, or
/// first makes it its controlling terminal. Without CAP_SYS_ADMIN its own session, which create and exec give
/// it, prevents that.
#[test]
fn the_callers_terminal_is_not_typed_into() {
    payload(|_| type_into());
    isolated(|t| {
        // Check of the check: a process that the caller has only started can type.
        let (words, variable) = payload_words(NAME, &[""]);
        let mut naive = Command::new(std::env::current_exe().unwrap());
        naive.args(&words[1..]).env("CORTEN_ATTACK_PAYLOAD", variable.split_once('=').unwrap().1);
        let without = found(&with_terminal(t, naive).ok());
        // This also works if dev.tty.legacy_tiocsti is off, because the process has CAP_SYS_ADMIN.
        assert!(without.contains("typed"), "{without}");

        let bundle = t.bundle(|c| {
            all_capabilities(c, &["CAP_SYS_ADMIN"]);
            bind_payload(c, NAME, &[""]);
        });
        let run = with_terminal(t, t.command(&["run", "-b", bundle.path(), "r"]));
        assert_eq!(found(&run.ok()), "session leader, terminal");
        bundle.edit(|c| c["process"]["args"] = json!(["sleep", "1000"]));
        t.start(&bundle, "c1");
        let mut exec = t.command(&["exec", "c1"]);
        exec.args(&words);
        assert_eq!(found(&with_terminal(t, exec).ok()), "session leader, terminal");
        t.delete("c1");
    });
}

/// Runs a command whose standard input is its controlling terminal.
fn with_terminal(t: &Test, mut command: Command) -> Output {
    let pty = openpty(None, None).unwrap();
    command.stdin(Stdio::from(File::from(pty.slave)));
    // SAFETY: setsid(2) and ioctl(2) are async-signal-safe and take no memory of ours.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    t.spawn(&mut command).wait()
}

/// The payload: its identity, and the operations that have worked.
fn type_into() -> String {
    let stdin = std::io::stdin().as_raw_fd();
    let mut events = Vec::new();
    // SAFETY: these calls read one byte of ours at most.
    unsafe {
        if libc::getsid(0) == libc::getpid() {
            events.push("session leader");
        }
        if libc::isatty(stdin) == 1 {
            events.push("terminal");
        }
        let typed = || libc::ioctl(stdin, libc::TIOCSTI, b"x".as_ptr()) == 0;
        if typed() {
            events.push("typed");
        }
        if libc::getsid(0) == libc::getpid() && libc::ioctl(stdin, libc::TIOCSCTTY, 1) == 0 {
            events.push("taken");
        }
        if typed() {
            events.push("typed later");
        }
        if libc::open(c"/dev/tty".as_ptr(), libc::O_RDWR) >= 0 && !events.contains(&"typed") {
            events.push("opened");
        }
    }
    events.join(", ")
}
