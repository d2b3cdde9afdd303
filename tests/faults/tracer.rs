//! Runs a command under ptrace, and lets one system call of one of its processes fail, or kills the process
//! there.
//!
//! strace counts the calls of all processes together. Here a call has the number of its process, in the order
//! of their creation, and its number in the process, so a sweep meets each call exactly once. Only processes
//! of the runtime are watched. A process other than the first that executes another program is the
//! container's, and is not watched any longer.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The fault that is injected at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Error(Errno),
    Kill,
}

/// A call: the number of the process, and of the call in it.
pub type Place = (usize, usize);

/// The end of the command.
#[derive(Debug, Default)]
pub struct Traced {
    /// 128 + the signal, if a signal ended it. `None` if it hung and was killed.
    pub code: Option<i32>,
    /// The numbers of all calls, for each process, as far as they were watched.
    pub calls: Vec<Vec<i64>>,
    /// The fault has happened. A program with threads does not make every call every time.
    pub met: bool,
}

const SECONDS: u64 = 30;

/// Returns whether a call takes effect without any way to report a failure.
fn cannot_fail(call: i64) -> bool {
    [
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        libc::SYS_arch_prctl,
        libc::SYS_set_tid_address,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_umask,
    ]
    .contains(&call)
}

/// Returns the calls at which `fault` can be tried.
pub fn places(calls: &[Vec<i64>], fault: Fault) -> Vec<Place> {
    let all = calls.iter().enumerate().flat_map(|(process, calls)| {
        calls.iter().enumerate().map(move |(number, &call)| ((process, number), call))
    });
    all.filter(|&(_, call)| fault == Fault::Kill || !cannot_fail(call)).map(|(place, _)| place).collect()
}

struct Watched {
    number: usize,
    /// The process is between a call's entry and its exit.
    inside: bool,
    inject: Option<Errno>,
}

struct Tracer {
    first: Pid,
    watched: HashMap<Pid, Watched>,
    fault: Option<(Place, Fault)>,
    /// The shell that was stopped for us has become the command.
    begun: bool,
    /// The command's file name.
    name: String,
    /// The fault has happened: no more calls need to be seen.
    over: bool,
    result: Traced,
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Runs `command` with its output thrown away.
#[allow(clippy::zombie_processes)] // reaped by `Tracer::run`
/// Runs `command` and discards its output.
pub fn trace(command: &Command, fault: Option<(Place, Fault)>) -> Traced {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    let child = shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = Pid::from_raw(child.id() as i32);
    assert!(matches!(waitpid(first, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..))));
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(first, options).unwrap();
    let mut tracer = Tracer {
        first,
        watched: HashMap::new(),
        fault,
        begun: false,
        name: file_name(Path::new(command.get_program())),
        over: false,
        result: Traced::default(),
    };
    tracer.number(first);
    kill(first, Signal::SIGCONT).unwrap();
    let (done, wait) = channel();
    let watchdog = std::thread::spawn(move || bite(first, &wait));
    tracer.run();
    drop(done);
    if watchdog.join().unwrap() {
        tracer.result.code = None;
    }
    tracer.release();
    tracer.result.met = tracer.over;
    tracer.result
}

/// Kills a process that takes too long. Returns whether it had to.
fn bite(pid: Pid, wait: &Receiver<()>) -> bool {
    let late = wait.recv_timeout(Duration::from_secs(SECONDS)) == Err(RecvTimeoutError::Timeout);
    late && kill(pid, Signal::SIGKILL).is_ok()
}

/// Returns the process that the one of `status` has just made.
fn made(status: WaitStatus) -> Option<Pid> {
    const MADE: [i32; 3] = [libc::PTRACE_EVENT_CLONE, libc::PTRACE_EVENT_FORK, libc::PTRACE_EVENT_VFORK];
    match status {
        WaitStatus::PtraceEvent(pid, _, event) if MADE.contains(&event) => {
            ptrace::getevent(pid).ok().map(|child| Pid::from_raw(child as i32))
        }
        _ => None,
    }
}

impl Tracer {
    fn number(&mut self, pid: Pid) -> &mut Watched {
        let calls = &mut self.result.calls;
        self.watched.entry(pid).or_insert_with(|| {
            calls.push(Vec::new());
            Watched { number: calls.len() - 1, inside: false, inject: None }
        })
    }

    /// Runs until the first process has ended.
    fn run(&mut self) {
        loop {
            let status = self.next();
            if let Some(child) = made(status) {
                // The process is known from now on, even if it has not stopped yet, because it must not be
                // left stopped.
                self.number(child);
            }
            match status {
                WaitStatus::Exited(pid, code) if pid == self.first => return self.result.code = Some(code),
                WaitStatus::Signaled(pid, signal, _) if pid == self.first => {
                    return self.result.code = Some(128 + signal as i32);
                }
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => drop(self.watched.remove(&pid)),
                WaitStatus::PtraceSyscall(pid) => self.at_call(pid),
                WaitStatus::PtraceEvent(pid, _, libc::PTRACE_EVENT_EXEC) => self.at_exec(pid),
                WaitStatus::PtraceEvent(pid, ..) => {
                    self.number(pid);
                    self.go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Returns the next change of a process. Stops by real-time signals are skipped: Go's threads send them
    /// to each other, and nix has no name for them.
    #[allow(unsafe_code)]
    fn next(&self) -> WaitStatus {
        loop {
            let mut status = 0;
            // SAFETY: the kernel writes only to `status`, which outlives the call.
            let pid = Errno::result(unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) }).unwrap();
            let signal = libc::WSTOPSIG(status);
            if !libc::WIFSTOPPED(status)
                || status >> 16 != 0
                || !(libc::SIGRTMIN() - 2..128).contains(&signal)
            {
                return WaitStatus::from_raw(Pid::from_raw(pid), status).unwrap();
            }
            let request = if self.over { libc::PTRACE_CONT } else { libc::PTRACE_SYSCALL };
            // SAFETY: with these requests the kernel reads no memory of ours. ESRCH means that the process
            // was killed meanwhile.
            unsafe { libc::ptrace(request, pid, 0, signal) };
        }
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let result = if self.over { ptrace::cont(pid, signal) } else { ptrace::syscall(pid, signal) };
        // A process that was killed meanwhile is not traced any more.
        assert!(matches!(result, Ok(()) | Err(Errno::ESRCH)), "{result:?}");
    }

    fn at_exec(&mut self, pid: Pid) {
        if pid == self.first {
            self.begun = true;
        }
        if pid == self.first || self.executes_itself(pid) {
            // The next stop is the end of execve.
            self.number(pid).inside = true;
            self.go_on(pid, None);
        } else {
            self.watched.remove(&pid);
            let _ = ptrace::detach(pid, None);
        }
    }

    /// Returns whether the process executes the runtime again, as runc does for its part in the container.
    fn executes_itself(&self, pid: Pid) -> bool {
        let file = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        file_name(&file).starts_with(&self.name) || file.starts_with("/memfd:")
    }

    fn at_call(&mut self, pid: Pid) {
        let begun = self.begun;
        let watched = self.number(pid);
        watched.inside = begun && !watched.inside;
        if watched.inside {
            self.at_entry(pid);
        } else if let Some(errno) = self.watched.get_mut(&pid).and_then(|watched| watched.inject.take())
            && let Ok(mut registers) = ptrace::getregs(pid)
        {
            registers.rax = -(errno as i64) as u64;
            let _ = ptrace::setregs(pid, registers);
            self.over = true;
        }
        self.go_on(pid, None);
    }

    fn at_entry(&mut self, pid: Pid) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        let watched = self.watched.get_mut(&pid).unwrap();
        let calls = &mut self.result.calls[watched.number];
        let place = (watched.number, calls.len());
        calls.push(registers.orig_rax as i64);
        match self.fault {
            Some((at, Fault::Kill)) if at == place => {
                self.over = kill(pid, Signal::SIGKILL).is_ok();
            }
            Some((at, Fault::Error(errno))) if at == place => {
                watched.inject = Some(errno);
                // close(2) has closed the descriptor even if it returns an error.
                if registers.orig_rax != libc::SYS_close as u64 {
                    // No call has this number, so none is made.
                    registers.orig_rax = u64::MAX;
                    let _ = ptrace::setregs(pid, registers);
                }
            }
            _ => {}
        }
    }

    /// Lets a process that outlives the command go: the container's process, which waits for `start`. Any
    /// process can be waited for. The first process of a namespace that was killed ends only after those
    /// below it were waited for, and a process in vfork stops only when its child goes on.
    fn release(&mut self) {
        self.watched.remove(&self.first);
        self.watched.retain(|&pid, _| ptrace::interrupt(pid).is_ok());
        while !self.watched.is_empty() {
            let status = self.next();
            if let Some(child) = made(status)
                && ptrace::interrupt(child).is_ok()
            {
                self.number(child);
            }
            let signal = if let WaitStatus::Stopped(_, signal) = status { Some(signal) } else { None };
            if let Some(pid) = status.pid() {
                self.watched.remove(&pid);
                // ESRCH means that the process has ended.
                let _ = ptrace::detach(pid, signal);
            }
        }
    }
}
