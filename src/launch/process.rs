//! The runtime's handle of a process in a container, from its clone until its program runs, and the wait for
//! that.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::anyhow;
use nix::errno::Errno;

use super::channel::{Channel, Event, Go, unexpected};
use super::watch::Watch;
use crate::SPEC_VERSION;
use crate::error::{Context, Kind, Result, fail};
use crate::log::Level;
use crate::namespaces::{self, idmap};
use crate::process::{self, rlimits};
use crate::seccomp::{self, Listener};
use crate::state::{self, Dir, Record, START_SOCKET, Status, spec_state};
use crate::sys::task::{self, Exit};
use crate::sys::{self, fs, socket, tty};
use crate::{cgroups, log, procstat, trace};

/// The name of the container process in the log, and of a process of `exec`.
const CONTAINER: &str = "container";

const KILLED: &str = "the container's process was killed before its program ran";

/// The most records that are read from the channel of a dead process. Its buffer has room for fewer.
const REST_MAX: usize = 4096;

/// A process in a container, before its program runs.
pub(crate) struct Process {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The master of its terminal, if no console socket receives it.
    pub console: Option<OwnedFd>,
    /// This is the intermediate process, which has not cloned the container process yet.
    pub(super) intermediate: bool,
    /// The process waits for [`Go::On`] before it enters any namespace.
    pub(super) waits: bool,
    pub(super) channel: Channel,
    /// Ends the wait for a process that other processes of a container can already stop.
    pub(super) watch: Option<Watch>,
}

/// The agent that decides on a seccomp filter's system calls, and the container whose state it gets.
#[derive(Clone, Copy)]
struct Agent<'a> {
    listener: &'a Listener,
    record: &'a Record,
    /// The container's status, not the process's.
    status: Status,
}

impl Process {
    /// Does `act`, and kills the process if that fails.
    pub(super) fn or_kill(mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<Self> {
        match act(&mut self) {
            Ok(()) => Ok(self),
            Err(e) => {
                self.kill();
                Err(e)
            }
        }
    }

    /// Sets what the process may have no right to set itself, and its children inherit. Then lets the process go on, if it
    /// waits. `maps` has the id maps of the new user namespace that the process was cloned into.
    pub(super) fn prepare(
        &self,
        plan: Option<&process::Plan>,
        maps: Option<&namespaces::Plan>,
        proc: BorrowedFd,
    ) -> Result<()> {
        let _phase = trace::phase("prepare");
        if let Some(plan) = plan {
            rlimits::raise_hard(self.pid, &plan.rlimits)?;
            if let Some(score) = plan.oom_score_adj {
                let file = PathBuf::from(format!("{}/oom_score_adj", self.pid));
                fs::write_at(proc, &file, score.to_string().as_bytes()).context("process.oomScoreAdj")?;
            }
        }
        if let Some(maps) = maps {
            idmap::write(proc, self.pid, &maps.uid_map, &maps.gid_map)?;
        }
        if self.waits { self.go(Go::On) } else { Ok(()) }
    }

    /// Returns the next event that its caller must handle.
    pub(super) fn next(&mut self) -> Result<Event> {
        loop {
            match self.step()? {
                Some(Event::Closed) => return Err(self.died()),
                Some(event) => return Ok(event),
                None => {}
            }
        }
    }

    /// Waits until the intermediate process, if there is one, has cloned the container's, and until the terminal is set up that
    /// the runtime relays (`relays`).
    pub(super) fn await_setup(&mut self, relays: bool) -> Result<()> {
        while self.intermediate || relays && self.console.is_none() {
            match self.step()? {
                Some(Event::Closed) => return Err(self.died()),
                Some(_) => return Err(unexpected()),
                None => {}
            }
        }
        Ok(())
    }

    /// Receives one event, and returns it if its caller must handle it.
    fn step(&mut self) -> Result<Option<Event>> {
        match self.receive()? {
            Event::Cloned { pid, pidfd } => {
                self.intermediate = false;
                trace::cloned(pid);
                let intermediate = std::mem::replace(&mut self.pidfd, pidfd);
                self.pid = pid;
                self.poll(&[intermediate.as_fd()])?;
                task::wait(intermediate.as_fd())?;
                self.channel.go(Go::On)?;
            }
            Event::Console(master) => {
                // The program may ask for the size and write as soon as it runs.
                copy_size(master.as_fd())?;
                if tty::size(std::io::stdout().as_fd()).is_none() {
                    // A file or a pipe gets the bytes of the program, as with runc. A terminal of the user's needs
                    // the carriage returns, because it is in raw mode.
                    tty::keep_newlines(master.as_fd())?;
                }
                self.console = Some(master);
            }
            Event::Warning(text) => log::warn(text),
            Event::Debug(text) => log::forwarded(self.name(), &text),
            Event::Error(error) => return Err(error),
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    /// Lets the process go on. If it has ended, the error is its own, or says what ended it.
    pub(super) fn go(&self, go: Go) -> Result<()> {
        self.sent(self.channel.go(go))
    }

    /// Sends the network namespace that the process awaits, or tells it to make one. Errors are those of [`go`](Self::go).
    pub(super) fn give_network(&self, network: Option<OwnedFd>) -> Result<()> {
        self.sent(self.channel.give_if_any(network))
    }

    fn sent(&self, result: Result<()>) -> Result<()> {
        result.map_err(|e| match sys::errno(&e) {
            Some(Errno::EPIPE | Errno::ECONNRESET) => match self.receive_error() {
                Ok(Some(own)) => own,
                _ => self.died(),
            },
            _ => e,
        })
    }

    /// Returns the error that a process which has ended has reported.
    fn receive_error(&self) -> Result<Option<anyhow::Error>> {
        loop {
            match self.channel.receive()? {
                Event::Debug(text) => log::forwarded(self.name(), &text),
                Event::Error(error) => return Ok(Some(error)),
                Event::Closed => return Ok(None),
                _ => {}
            }
        }
    }

    /// Returns the name of the process in the log.
    fn name(&self) -> &'static str {
        if self.intermediate { "intermediate" } else { CONTAINER }
    }

    /// Waits until one of `fds` is readable or at its end.
    pub(super) fn poll(&self, fds: &[BorrowedFd]) -> Result<Vec<bool>> {
        match &self.watch {
            Some(watch) => watch.poll(fds, self.pid),
            None => Ok(task::poll_readable(fds, None)?),
        }
    }

    /// Returns the next event.
    pub(super) fn receive(&self) -> Result<Event> {
        // If the intermediate process dies, the channel can stay open: the container process waits on it.
        let fds = [self.channel.fd(), self.pidfd.as_fd()];
        let fds = if self.intermediate { &fds[..] } else { &fds[..1] };
        if (self.intermediate || self.watch.is_some()) && !self.poll(fds)?[0] {
            return Err(self.died());
        }
        let event = self.channel.receive()?;
        if let (Event::Listener { .. }, Some(watch)) = (&event, &self.watch) {
            watch.be_patient();
        }
        Ok(event)
    }

    /// Lets the program run. Returns an error if it does not.
    pub(crate) fn start(
        &mut self,
        filter: Option<&seccomp::Plan>,
        record: &Record,
        status: Status,
    ) -> Result<()> {
        let _phase = trace::phase("start");
        let listener = filter.and_then(|filter| filter.listener.as_ref());
        let agent = listener.map(|listener| Agent { listener, record, status });
        let started = self.go(Go::Start).and_then(|()| await_program(|| self.step(), agent));
        let started = started.and_then(|_| self.check_runs());
        // In a running container the kernel may have killed another process for want of memory.
        if status == Status::Created { started.map_err(|e| with_reason(record, e)) } else { started }
    }

    /// Returns the error for a process that died without reporting one.
    fn died(&self) -> anyhow::Error {
        match task::wait(self.pidfd.as_fd()) {
            Ok(Exit::Signal(signal)) => anyhow!("the container's process was killed by signal {signal}"),
            Ok(Exit::Code(code)) => anyhow!("the container's process ended with code {code}"),
            Err(e) => e.into(),
        }
    }

    /// Fails as [`check_runs`] does, and names the signal that has killed this child.
    fn check_runs(&self) -> Result<()> {
        if !procstat::ended_before_exec(self.pid)? {
            return Ok(());
        }
        Err(match task::wait(self.pidfd.as_fd()) {
            Ok(Exit::Signal(signal)) => anyhow!("{KILLED} (signal {signal})"),
            _ => anyhow!(KILLED),
        })
    }

    /// Writes the records that a dead process has left, which show how far it came. Another process can have a copy of the
    /// channel, so its end may never come, and records may come for ever.
    fn log_the_rest(&self) {
        let now = Instant::now();
        for _ in 0..REST_MAX {
            if !matches!(task::poll_readable(&[self.channel.fd()], Some(now)).as_deref(), Ok([true])) {
                return;
            }
            match self.channel.receive() {
                Ok(Event::Closed) | Err(_) => return,
                Ok(Event::Debug(text)) => log::forwarded(self.name(), &text),
                Ok(_) => {}
            }
        }
    }

    /// Kills and reaps the process, which may be dead and reaped already.
    fn kill(&self) {
        let _phase = trace::phase("kill and reap");
        let _ = task::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        // A process in a frozen cgroup v1 dies only when the cgroup is thawed, which is not the runtime's decision.
        let held = self.watch.as_ref().is_some_and(Watch::holds_killed);
        if held || matches!(task::wait_killed(self.pidfd.as_fd()), Ok(false)) {
            log::warn(format!(
                "the process {} has been killed, but does not end (hint: is it frozen?)",
                self.pid
            ));
        } else if log::has(Level::Debug) {
            self.log_the_rest();
        }
        trace::gone();
    }
}

/// Lets the program of a created container run. Returns the container's notification socket, or an error if the program
/// does not run.
pub(crate) fn start(dir: &Dir, listener: Option<&Listener>, record: &Record) -> Result<Option<OwnedFd>> {
    let _phase = trace::phase("start");
    // Opened before anything begins: afterwards no descriptor may be left for it.
    let process = state::pidfd(record)?;
    let connected = socket::connect_at(dir.fd().as_fd(), Path::new(START_SOCKET)).and_then(|socket| {
        // The container process accepts once.
        fs::unlinkat(dir.fd().as_fd(), Path::new(START_SOCKET)).map(|()| socket)
    });
    let socket = connected.map_err(|e| match e.errno {
        Errno::ECONNREFUSED | Errno::ENOENT => {
            fail(Kind::WrongStatus, "the container is being started already, or its process has ended")
        }
        _ => e.into(),
    })?;
    let agent = listener.map(|listener| Agent { listener, record, status: Status::Created });
    let channel = Channel::from_socket(socket);
    let pid = record.pid.unwrap_or_default();
    // Another process of a shared pid namespace may have stopped the container process.
    let watch = Watch::patient(record.cgroup.clone());
    let fds: Vec<_> = [channel.fd()].into_iter().chain(process.as_ref().map(AsFd::as_fd)).collect();
    // The end of the process may be the only sign: a hook's process has a copy of the channel.
    let receive = || {
        let event = if watch.poll(&fds, pid)?[0] { channel.receive()? } else { Event::Closed };
        Ok(Some(event))
    };
    let started = await_program(receive, agent).and_then(|notify| check_runs(pid).map(|()| notify));
    if started.is_err()
        && let Some(pidfd) = process
    {
        // A process that reported an error is about to end. A process that did not, because its agent cannot be reached,
        // must not run on as if it were started.
        let _ = task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
    started.map_err(|e| with_reason(record, e))
}

/// Waits until the channel is closed: either execve closed it, or the process ended. Returns the notification socket that
/// the process has kept. `receive` returns `None` for an event that it has handled.
fn await_program(
    mut receive: impl FnMut() -> Result<Option<Event>>,
    agent: Option<Agent>,
) -> Result<Option<OwnedFd>> {
    let mut notify = None;
    loop {
        let Some(event) = receive()? else { continue };
        match event {
            Event::Closed => {
                trace::gone();
                return Ok(notify);
            }
            Event::Error(error) => return Err(error),
            Event::Listener { fd, pid } => send_listener(&fd, pid, agent)?,
            Event::Notify(socket) => notify = Some(socket),
            Event::Debug(text) => log::forwarded(CONTAINER, &text),
            _ => return Err(unexpected()),
        }
    }
}

/// Adds the reason for the death of the container process, if the kernel knows it.
pub(super) fn with_reason(record: &Record, error: anyhow::Error) -> anyhow::Error {
    match record.cgroup.as_ref().and_then(cgroups::oom::kills) {
        Some(kills) => error.context(format!("linux.resources.memory: {kills}")),
        None => error,
    }
}

/// Fails if a process ended before its program ran. The channel of a process that ends is closed some time before the
/// process can be waited for, therefore /proc is read.
fn check_runs(pid: i32) -> Result<()> {
    if procstat::ended_before_exec(pid)? {
        return Err(anyhow!(KILLED));
    }
    Ok(())
}

/// Sends the descriptor of the filter of process `pid` to the agent.
fn send_listener(fd: &OwnedFd, pid: i32, agent: Option<Agent>) -> Result<()> {
    let Agent { listener, record, status } = agent.ok_or_else(unexpected)?;
    let state = serde_json::from_str(&spec_state(record, status, record.pid)).context("state")?;
    let state = seccomp::listener::process_state(SPEC_VERSION, pid, listener.metadata.as_deref(), state);
    seccomp::listener::send(fd.as_fd(), &listener.path, state.to_string().as_bytes())
}

/// Sends a pidfd to the caller's socket, if there is one.
pub(super) fn send_pidfd(pidfd: &OwnedFd, socket: Option<&OwnedFd>) -> Result<()> {
    let Some(socket) = socket else { return Ok(()) };
    socket::send(socket.as_fd(), b"pidfd", &[pidfd.as_fd()]).context("--pidfd-socket")
}

/// Makes the container's terminal as large as the caller's terminal, if the caller has one.
pub(super) fn copy_size(master: BorrowedFd) -> Result<()> {
    match tty::size(std::io::stdin().as_fd()) {
        Some((rows, columns)) => Ok(tty::set_size(master, rows, columns)?),
        None => Ok(()),
    }
}
