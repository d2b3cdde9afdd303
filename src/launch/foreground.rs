//! The wait for a process in the foreground: forwards signals to it, relays its terminal, and returns how it
//! has ended.

use std::io::{Stdin, Stdout};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;

use super::notify::Notify;
use super::process::{Process, copy_size};
use crate::cgroups::oom::Observer;
use crate::error::Result;
use crate::sys;
use crate::sys::signal::{self, SignalFd};
use crate::sys::task::{self, Exit, Poll};
use crate::sys::tty::{self, Changes};
use crate::trace;

/// The most bytes that are read from a terminal at once.
const CHUNK: usize = 8192;

/// More bytes than the kernel queues in a pseudo-terminal: 8 KiB in its buffers (`pty_common_install`) and 4 KiB in its line
/// discipline (n_tty.c).
const QUEUE: usize = 32768;

/// Blocked signals, which are read from a descriptor. They are blocked before the process is cloned, so that none is lost.
pub(crate) struct Signals(SignalFd);

impl Signals {
    pub(crate) fn block() -> Result<Self> {
        signal::block_all()?;
        Ok(Self(signal::signalfd(&[])?))
    }
}

/// Waits for the end of the process, and returns how it has ended. Meanwhile `notify` passes the container's notifications on,
/// and `observer` sees what the kernel kills.
pub(crate) fn wait(
    process: &Process,
    signals: &Signals,
    mut notify: Option<Notify>,
    mut observer: Option<&mut Observer>,
) -> Result<Exit> {
    let _phase = trace::phase("wait for the program's end");
    let mut relay = process.console.as_ref().map(|master| Relay::new(master.as_fd())).transpose()?;
    loop {
        let (stdin, master) = relay.as_ref().map_or((Poll::NONE, Poll::NONE), Relay::interest);
        let (notified, limit) = notify.as_ref().map_or((Poll::NONE, None), Notify::interest);
        let (ended, signalled) = (Poll::read(process.pidfd.as_fd()), Poll::read(signals.0.as_fd()));
        let killed = observer.as_ref().map_or(Poll::NONE, |observer| observer.interest());
        let mut polled = [ended, signalled, stdin, master, notified, killed];
        task::poll(&mut polled, limit)?;
        let [ended, signalled, stdin, master, notified, killed] = polled.map(|poll| poll.ready);
        // Before anything else, because systemd has begun to remove the cgroup when the process has ended.
        if let Some(observer) = observer.as_mut().filter(|_| ended || killed) {
            observer.look();
        }
        if let Some(notify) = &mut notify {
            notify.pass_on(notified, ended);
        }
        if let Some(relay) = &mut relay {
            relay.copy(stdin, master)?;
        }
        if signalled {
            forward(process, signals, relay.as_ref())?;
        }
        if ended {
            if let Some(relay) = &mut relay {
                relay.drain()?;
            }
            return Ok(task::wait(process.pidfd.as_fd())?);
        }
    }
}

fn forward(process: &Process, signals: &Signals, relay: Option<&Relay>) -> Result<()> {
    while let Some(number) = signal::next(&signals.0)? {
        match number {
            libc::SIGCHLD => task::reap_others(process.pid),
            // It is about the runtime's terminal. A program without a terminal may take it for a command, as httpd does.
            libc::SIGWINCH => relay.map_or(Ok(()), |relay| copy_size(relay.master))?,
            number => match task::pidfd_send_signal(process.pidfd.as_fd(), number) {
                Err(e) if e.errno != Errno::ESRCH => return Err(e.into()),
                _ => {}
            },
        }
    }
    Ok(())
}

/// The relay between the standard streams, which usually are the user's terminal, and the container's terminal.
struct Relay<'a> {
    master: BorrowedFd<'a>,
    stdin: Stdin,
    stdout: Stdout,
    /// Bytes from standard input that are not yet written to the container's terminal. They are written without blocking, so
    /// that a program which does not read cannot prevent its output from being written.
    input: Vec<u8>,
    input_open: bool,
    /// No process has the terminal open. Then poll(2) would report that again and again, so the next change is waited for.
    closed: Option<Changes>,
    /// Restores the user's terminal at the end.
    _raw: Option<tty::Raw>,
}

impl<'a> Relay<'a> {
    fn new(master: BorrowedFd<'a>) -> Result<Self> {
        let stdin = std::io::stdin();
        let raw = tty::Raw::new(stdin.as_fd());
        let (input, stdout) = (Vec::new(), std::io::stdout());
        tty::set_nonblocking(master)?;
        Ok(Self { master, stdin, stdout, input, input_open: true, closed: None, _raw: raw })
    }

    /// Returns what to poll of standard input and of the master.
    fn interest(&self) -> (Poll<'_>, Poll<'_>) {
        let idle = self.input.is_empty();
        let stdin = if self.input_open && idle { Poll::read(self.stdin.as_fd()) } else { Poll::NONE };
        let master = match (&self.closed, idle) {
            (Some(changes), _) => Poll::read(changes.fd()),
            (None, true) => Poll::read(self.master),
            (None, false) => Poll::read_or_write(self.master),
        };
        (stdin, master)
    }

    fn copy(&mut self, stdin: bool, master: bool) -> Result<()> {
        if stdin {
            // A terminal that is gone, or that this process may not read at the moment, is the end of the input.
            self.input = match read(self.stdin.as_fd()) {
                Err(e) if e.errno == Errno::EAGAIN => return Ok(()),
                other => other.unwrap_or_default(),
            };
            self.input_open = !self.input.is_empty();
        }
        if master {
            // The change is taken before anything is read or written, so that a later one is reported again.
            self.closed.as_ref().map_or(Ok(()), Changes::take)?;
        }
        if master || stdin {
            self.feed()?;
        }
        if master { self.output().map(drop) } else { Ok(()) }
    }

    /// Writes to the container's terminal as much as it accepts.
    fn feed(&mut self) -> Result<()> {
        if self.input.is_empty() {
            return Ok(());
        }
        match nix::unistd::write(self.master, &self.input) {
            Ok(n) => drop(self.input.drain(..n)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // No process has the terminal open. If one opens it, the kernel does not report that, so the input is dropped.
            Err(Errno::EIO) => self.input.clear(),
            Err(e) => return Err(sys::Error::new("write(terminal)", e).into()),
        }
        Ok(())
    }

    /// Copies output of the terminal to standard output. Returns the number of bytes.
    fn output(&mut self) -> Result<usize> {
        let closed = |read: &sys::Result<_>| read.as_ref().is_err_and(|e: &sys::Error| e.errno == Errno::EIO);
        let mut found = read(self.master);
        // The last process that had it open has closed it. If that was just now, the kernel reports it before the last output.
        if closed(&found) {
            found = read(self.master);
        }
        if closed(&found) {
            if self.closed.is_none() {
                self.closed = Some(Changes::of(self.master)?);
            }
            return Ok(0);
        }
        self.closed = None;
        let bytes = match found {
            Err(e) if e.errno == Errno::EAGAIN => return Ok(0),
            other => other?,
        };
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match nix::unistd::write(&self.stdout, rest) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::EINTR) => {}
                // Another process that shares standard output has made it non-blocking.
                Err(Errno::EAGAIN) => task::poll(&mut [Poll::write(self.stdout.as_fd())], None)?,
                // The reader has closed it. The program runs on.
                Err(_) => break,
            }
        }
        Ok(bytes.len())
    }

    /// Copies the output that is left at the end of the process. Other processes may write to the terminal endlessly.
    fn drain(&mut self) -> Result<()> {
        let mut copied = 0;
        while copied < QUEUE {
            match self.output()? {
                0 => break,
                more => copied += more,
            }
        }
        Ok(())
    }
}

fn read(fd: BorrowedFd) -> sys::Result<Vec<u8>> {
    let mut buffer = vec![0; CHUNK];
    let n = nix::unistd::read(fd, &mut buffer).map_err(|e| sys::Error::new("read(terminal)", e))?;
    buffer.truncate(n);
    Ok(buffer)
}
