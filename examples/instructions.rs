//! Prints how many instructions a command's own process takes: `instructions EXECUTABLE WORD...`.
//! `scripts/guard` compares the number with the recorded one. The command is stepped through, because
//! valgrind knows too few system calls.

use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Steps through the process from its first execve on and returns the number of steps. The children of the
/// process are not traced.
fn count(pid: Pid) -> u64 {
    let (mut executed, mut steps) = (false, 0);
    loop {
        let signal = match waitpid(pid, None) {
            Ok(WaitStatus::PtraceEvent(_, _, event)) => {
                executed |= event == libc::PTRACE_EVENT_EXEC;
                None
            }
            Ok(WaitStatus::Stopped(_, Signal::SIGTRAP)) => None,
            Ok(WaitStatus::Stopped(_, signal)) => Some(signal),
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => return steps,
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(e) => panic!("waitpid: {e}"),
        };
        // The process may have been killed since. Then the next wait reports its end.
        let _ = if executed { ptrace::step(pid, signal) } else { ptrace::cont(pid, signal) };
        steps += u64::from(executed);
    }
}

#[allow(clippy::zombie_processes)] // reaped by `count`
fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    assert!(!words.is_empty(), "usage: instructions EXECUTABLE WORD...");
    // A shell that stops can be traced before it becomes the command.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).args(words);
    let child =
        shell.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap_or_else(|e| panic!("sh: {e}"));
    let pid = Pid::from_raw(child.id() as i32);
    let _ = waitpid(pid, Some(WaitPidFlag::WUNTRACED));
    ptrace::seize(pid, Options::PTRACE_O_TRACEEXEC).unwrap_or_else(|e| panic!("ptrace: {e}"));
    let _ = kill(pid, Signal::SIGCONT);
    println!("{}", count(pid));
}
