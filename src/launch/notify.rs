//! Notifications to a service manager (sd_notify(3)): the runtime process passes on that the container is
//! ready or stopping, and its status.
//!
//! With NOTIFY_SOCKET, `create` binds a datagram socket in the container's state directory and mounts that
//! one file in the container. The container process keeps the socket and gives it to `start` by the channel.
//! `run` and `start` read it and write READY=1, STATUS= and STOPPING=1 to the service manager.
//!
//! The container does not get the service manager's own socket, which takes more from its senders: another
//! main process (`MAINPID=`), descriptors to keep (`FDSTORE=1`), orders to its watchdog. It also drops the
//! container's READY=1, because the sender is in a cgroup that does not belong to the service. The runtime
//! process belongs to the service. runc and crun do the same.
//!
//! `run` passes messages on until its container ends. It remains the main process of its service: it forwards
//! signals, and its exit status is the program's. `run --detach` and `start` end when the container is ready
//! or has ended, after BARRIER=1. They make the container process the main process, by MAINPID= in the
//! message of READY=1: with `NotifyAccess=main`, a second message would come from a process that is no longer
//! the main process. Their wait has no time limit of its own, because the service manager has one
//! (`TimeoutStartSec=`).
//!
//! Several messages become one. After each there is a pause of 50 ms in which the container's senders wait,
//! so that no container keeps the runtime process or the service manager busy.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::error::{Context, Kind, Result, fail};
use crate::plan::Plan;
use crate::state::{Dir, NOTIFY_SOCKET};
use crate::sys::socket::{self, Address};
use crate::sys::task::{self, Poll};
use crate::{log, trace};

/// The longest message, as with systemd. A longer message is ignored.
const MESSAGE_MAX: usize = 4096;

/// The longest status that is passed on, in bytes.
const STATUS_MAX: usize = 1024;

/// The number of messages that are read at once and passed on as one message.
const AT_ONCE: usize = 64;

/// The pause after reading. The kernel queues a few messages during it, and further senders wait.
const PAUSE: Duration = Duration::from_millis(50);

/// The time limit for the answer to `BARRIER=1`, as with runc and crun.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connects to the service manager. `text` is the value of `NOTIFY_SOCKET`.
pub(crate) fn connect(text: &str) -> Result<OwnedFd> {
    let address = address(text).ok_or_else(|| {
        let text =
            format!("NOTIFY_SOCKET: {text:?} is neither an absolute path nor the name of an abstract socket");
        fail(Kind::Usage, text)
    })?;
    socket::connect_datagram(&address).context("NOTIFY_SOCKET")
}

/// Makes the container's notification socket in its state directory, if the plan has one.
pub(super) fn listen(plan: &Plan, dir: &Dir) -> Result<Option<OwnedFd>> {
    if plan.notify_socket.is_none() {
        return Ok(None);
    }
    Ok(Some(socket::datagram_at(dir.fd().as_fd(), Path::new(NOTIFY_SOCKET))?))
}

fn address(text: &str) -> Option<Address> {
    match text.strip_prefix('@') {
        Some(name) if !name.is_empty() => Some(Address::Abstract(name.into())),
        None if text.starts_with('/') => Some(Address::Path(text.into())),
        _ => None,
    }
}

/// The container's messages that are not sent to the service manager yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    ready: bool,
    stopping: bool,
    status: Option<String>,
}

impl News {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a message. One NUL at its end is permitted, as with systemd.
    fn add(&mut self, message: &[u8]) {
        let message = message.strip_suffix(&[0]).unwrap_or(message);
        if message.contains(&0) {
            return;
        }
        for line in message.split(|byte| *byte == b'\n') {
            match line {
                b"READY=1" => self.ready = true,
                b"STOPPING=1" => self.stopping = true,
                _ => self.status = status(line).or(self.status.take()),
            }
        }
    }

    /// Returns one message for all. `main` becomes the main process of the service.
    fn message(&self, main: u32) -> String {
        let ready = if self.ready { format!("READY=1\nMAINPID={main}\n") } else { String::new() };
        let stopping = if self.stopping { "STOPPING=1\n" } else { "" };
        let status = self.status.as_ref().map(|status| format!("STATUS={status}\n")).unwrap_or_default();
        format!("{ready}{stopping}{status}")
    }
}

/// Returns the text of a status line. `systemctl status` prints it, therefore control characters are rejected.
fn status(line: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(line.strip_prefix(b"STATUS=")?).ok()?;
    (text.len() <= STATUS_MAX && !text.chars().any(char::is_control)).then(|| text.into())
}

/// The connection between a container and the service manager.
pub(crate) struct Notify {
    container: OwnedFd,
    manager: OwnedFd,
    main: u32,
    news: News,
    /// The container's socket is not read before this time.
    pause: Option<Instant>,
    sent_ready: bool,
    /// An error has ended the connection.
    broken: bool,
}

impl Notify {
    #[must_use]
    pub(crate) fn new(container: OwnedFd, manager: OwnedFd, main: u32) -> Self {
        let news = News::default();
        Self { container, manager, main, news, pause: None, sent_ready: false, broken: false }
    }

    /// Returns the descriptor to poll, and the longest time until the next [`Self::pass_on`].
    pub(super) fn interest(&self) -> (Poll<'_>, Option<Duration>) {
        let left = self.pause.map(|end| end.saturating_duration_since(Instant::now()));
        match left.filter(|left| !left.is_zero()) {
            _ if self.broken => (Poll::NONE, None),
            Some(left) => (Poll::NONE, Some(left)),
            // The service manager's queue was full: the message is sent again.
            None => (Poll::read(self.container.as_fd()), (!self.news.is_empty()).then_some(Duration::ZERO)),
        }
    }

    /// Passes queued messages on. At the container's `end` the pause is skipped: the last messages are in the queue.
    pub(super) fn pass_on(&mut self, readable: bool, end: bool) {
        let pausing = self.pause.is_some_and(|pause| Instant::now() < pause);
        if self.broken || (pausing && !end) {
            return;
        }
        let passed = self.receive(readable || end).and_then(|received| self.send().map(|()| received));
        match passed {
            Ok(received) => self.pause = (received || !self.news.is_empty()).then(|| Instant::now() + PAUSE),
            Err(e) => {
                self.broken = true;
                log::warn(format!("NOTIFY_SOCKET: {e:#}, ignoring"));
            }
        }
    }

    fn receive(&mut self, readable: bool) -> Result<bool> {
        let mut buffer = [0; MESSAGE_MAX];
        for taken in 0..if readable { AT_ONCE } else { 0 } {
            match socket::take_datagram(self.container.as_fd(), &mut buffer)? {
                None => return Ok(taken > 0),
                Some(length) => self.news.add(buffer.get(..length).unwrap_or_default()),
            }
        }
        Ok(readable)
    }

    /// Sends to the service manager, unless its queue is full.
    fn send(&mut self) -> Result<()> {
        if self.news.is_empty() {
            return Ok(());
        }
        match socket::send(self.manager.as_fd(), self.news.message(self.main).as_bytes(), &[]) {
            Err(e) if e.errno == Errno::EAGAIN => return Ok(()),
            other => other?,
        }
        self.sent_ready |= self.news.ready;
        self.news = News::default();
        Ok(())
    }

    /// Passes messages on until the container is ready or its `process` has ended. `None` is a process that has ended.
    pub(crate) fn until_ready(mut self, process: Option<BorrowedFd>) -> Result<()> {
        let _phase = trace::phase("wait until the container is ready");
        let mut ended = process.is_none();
        self.pass_on(false, ended);
        while !(self.sent_ready || self.broken || ended) {
            let (notified, limit) = self.interest();
            let mut polled = [process.map_or(Poll::NONE, Poll::read), notified];
            task::poll(&mut polled, limit)?;
            let [end, notified] = polled.map(|poll| poll.ready);
            ended = end;
            self.pass_on(notified, ended);
        }
        if !self.broken
            && let Err(e) = self.barrier()
        {
            log::warn(format!("NOTIFY_SOCKET: {e:#}, ignoring"));
        }
        Ok(())
    }

    /// Waits until the service manager has read all messages. systemd finds the sender's service by the sender's pid, so the
    /// sender must still exist. systemd answers by closing the descriptor (`BARRIER=1`, sd_notify(3)).
    fn barrier(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let (ours, theirs) = socket::channel()?;
        while let Err(e) = socket::send(self.manager.as_fd(), b"BARRIER=1", &[theirs.as_fd()]) {
            if e.errno != Errno::EAGAIN || Instant::now() > deadline {
                return Err(e.into());
            }
            std::thread::sleep(PAUSE);
        }
        drop(theirs);
        if !task::poll_readable(&[ours.as_fd()], Some(deadline))?[0] {
            log::warn("NOTIFY_SOCKET: the service manager has not read the notification yet, ignoring");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
