//! The channel between the two processes of a launch. It carries events, descriptors and at most one error.
//! It does not carry the plan, which the child inherits as a copy of the runtime process.
//!
//! A message is a tag and its bytes, on a SEQPACKET socket, which keeps message borders. The end of the
//! stream means that the other process has ended, or that `execve` has closed the socket. The reader then
//! asks the kernel whether the program runs or the process has died.
//!
//! After `create`, the start socket takes the channel's place. The container process accepts once, on the
//! descriptor that it inherited. `start` unlinks the socket's name when it has connected.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Kind, Result, fail};
use crate::rootfs::External;
use crate::sys::{self, socket};
use crate::{json, log, trace};

/// A message from the container's side to the runtime.
#[derive(Debug)]
pub(super) enum Event {
    /// The process waits in a user namespace: a new one that needs its id maps, or a joined one whose maps the runtime reads.
    MapsWanted,
    /// The intermediate process has cloned the container's: its id and a descriptor of it.
    Cloned {
        pid: i32,
        pidfd: OwnedFd,
    },
    /// The process is in its mount namespace and waits until the runtime has opened the sources from there.
    SourcesWanted,
    /// The process waits until the runtime has opened the source of the mount with this index.
    SourceWanted(usize),
    /// A warning for the log.
    Warning(String),
    /// A record for the log, which the process has begun with [`Channel::forward_log`].
    Debug(String),
    /// All mounts are made. The process waits for the prestart and createRuntime hooks.
    Mounted,
    /// The master of the container's terminal.
    Console(OwnedFd),
    /// The descriptor of a seccomp filter that asks an agent, and the process under it as the runtime sees it.
    Listener {
        fd: OwnedFd,
        pid: i32,
    },
    /// A mount of the container that CRIU must not save.
    External(External),
    /// The socket on which CRIU will answer.
    Socket(OwnedFd),
    /// The container's notification socket, for `start`.
    Notify(OwnedFd),
    /// Everything is done except what needs no message, and what `start` begins.
    Ready,
    Error(anyhow::Error),
    /// The other end is closed, because the program runs or the process has died.
    Closed,
}

/// A message from the runtime to the container's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Go {
    /// The process goes on: the runtime has done its part.
    On,
    /// The container is on record: wait for `start`.
    Wait,
    /// The container is on record, or a process of `exec` has its limits and its terminal: run the program.
    Start,
}

/// The tag of [`Event::Debug`].
const DEBUG: u8 = b'd';

/// The most characters of a warning.
const WARNING_MAX: usize = 1024;

/// One end of a channel.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

impl Channel {
    pub(super) fn pair() -> Result<(Self, Self)> {
        let (a, b) = socket::channel()?;
        Ok((Self(a), Self(b)))
    }

    /// Returns the channel of a connection between `start` and the container process.
    pub(super) fn from_socket(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes this channel the way of this process's records to the log. The channel must remain open as long as the process
    /// makes records.
    pub(super) fn forward_log(&self) {
        log::forward(self.0.as_raw_fd(), DEBUG);
    }

    pub(super) fn send(&self, event: &Event) -> Result<()> {
        match event {
            Event::MapsWanted => self.send_bytes(b"u", &[]),
            Event::Cloned { pid, pidfd } => {
                self.send_bytes(&[&b"p"[..], &pid.to_le_bytes()].concat(), &[pidfd.as_fd()])
            }
            Event::SourcesWanted => self.send_bytes(b"t", &[]),
            Event::SourceWanted(index) => {
                self.send_bytes(&[&b"b"[..], &(*index as i32).to_le_bytes()].concat(), &[])
            }
            Event::Warning(text) => {
                let short: String = text.chars().take(WARNING_MAX).collect();
                self.send_bytes(&[b"w", short.as_bytes()].concat(), &[])
            }
            Event::Debug(text) => self.send_bytes(&[&[DEBUG], text.as_bytes()].concat(), &[]),
            Event::Mounted => self.send_bytes(b"m", &[]),
            Event::Console(master) => self.send_bytes(b"c", &[master.as_fd()]),
            Event::Listener { fd, pid } => {
                self.send_bytes(&[&b"l"[..], &pid.to_le_bytes()].concat(), &[fd.as_fd()])
            }
            Event::External(External { point, name }) => {
                let [point, name] = [point, name].map(|path| path.as_os_str().as_bytes());
                self.send_bytes(&[b"x", point, b"\0", name].concat(), &[])
            }
            Event::Socket(fd) => self.send_bytes(b"k", &[fd.as_fd()]),
            Event::Notify(fd) => self.send_bytes(b"n", &[fd.as_fd()]),
            Event::Ready => self.send_bytes(b"r", &[]),
            // More seccomp profiles allow write(2) than sendmsg(2).
            Event::Error(error) => {
                let bytes = [&b"e"[..], &encode(error)].concat();
                let written = nix::unistd::write(&self.0, &bytes);
                Ok(written.map(drop).map_err(|e| sys::Error::new("write(channel)", e))?)
            }
            Event::Closed => Ok(()),
        }
    }

    fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd]) -> Result<()> {
        Ok(socket::send(self.fd(), bytes, fds)?)
    }

    pub(super) fn receive(&self) -> Result<Event> {
        let _phase = trace::wait("wait for the container's process");
        let (bytes, fd) = self.receive_bytes()?;
        let Some((tag, rest)) = bytes.split_first() else { return Ok(Event::Closed) };
        match (tag, fd, rest.try_into().map(i32::from_le_bytes)) {
            (b'w', ..) => Ok(Event::Warning(String::from_utf8_lossy(rest).into_owned())),
            (&DEBUG, ..) => Ok(Event::Debug(String::from_utf8_lossy(rest).into_owned())),
            (b'u', _, _) => Ok(Event::MapsWanted),
            (b'p', Some(pidfd), Ok(pid)) => Ok(Event::Cloned { pid, pidfd }),
            (b't', _, _) => Ok(Event::SourcesWanted),
            (b'b', _, Ok(index)) => Ok(Event::SourceWanted(index as usize)),
            (b'm', _, _) => Ok(Event::Mounted),
            (b'c', Some(master), _) => Ok(Event::Console(master)),
            (b'l', Some(fd), Ok(pid)) => Ok(Event::Listener { fd, pid }),
            (b'x', ..) => {
                let mut paths = rest.split(|byte| *byte == 0).map(|path| OsStr::from_bytes(path).into());
                let mut path = || paths.next().unwrap_or_default();
                Ok(Event::External(External { point: path(), name: path() }))
            }
            (b'k', Some(fd), _) => Ok(Event::Socket(fd)),
            (b'n', Some(fd), _) => Ok(Event::Notify(fd)),
            (b'r', _, _) => Ok(Event::Ready),
            (b'e', _, _) => Ok(Event::Error(decode(rest))),
            _ => Err(fail(
                Kind::Os,
                "a message between the runtime and the container's process could not be decoded",
            )),
        }
    }

    fn receive_bytes(&self) -> sys::Result<(Vec<u8>, Option<OwnedFd>)> {
        match socket::receive(self.fd()) {
            // A process that ends before it has read a message resets the connection, as the runtime of `create` does if it
            // has not read the last record. The kernel reports that once, before the messages that the process sent.
            Err(e) if e.errno == Errno::ECONNRESET => socket::receive(self.fd()),
            other => other,
        }
    }

    pub(super) fn go(&self, go: Go) -> Result<()> {
        let byte = match go {
            Go::On => b'o',
            Go::Wait => b'w',
            Go::Start => b's',
        };
        self.send_bytes(&[byte], &[])
    }

    /// Sends a descriptor to the container process.
    pub(super) fn give(&self, fd: BorrowedFd) -> Result<()> {
        self.send_bytes(b"f", &[fd])
    }

    /// Sends a descriptor to the container process, or tells it that there is none.
    pub(super) fn give_if_any(&self, fd: Option<OwnedFd>) -> Result<()> {
        fd.map_or_else(|| self.go(Go::On), |fd| self.give(fd.as_fd()))
    }

    /// Waits for a descriptor from the runtime.
    pub(super) fn take(&self) -> Result<OwnedFd> {
        self.take_if_any()?.ok_or_else(|| fail(Kind::Os, "the runtime is gone"))
    }

    /// Waits for a descriptor from the runtime, or for its message that there is none.
    pub(super) fn take_if_any(&self) -> Result<Option<OwnedFd>> {
        let _phase = trace::phase("wait for the runtime");
        match self.receive_bytes()? {
            (bytes, None) if bytes.is_empty() => Err(fail(Kind::Os, "the runtime is gone")),
            (_, fd) => Ok(fd),
        }
    }

    /// Waits for the runtime's message. Without the runtime there is no reason for this container.
    pub(super) fn await_go(&self) -> Result<Go> {
        let _phase = trace::phase("wait for the runtime");
        match self.receive_bytes()?.0.as_slice() {
            b"o" => Ok(Go::On),
            b"w" => Ok(Go::Wait),
            b"s" => Ok(Go::Start),
            _ => Err(fail(Kind::Os, "the runtime is gone")),
        }
    }
}

/// Returns the error for an event that is not expected at this point.
pub(super) fn unexpected() -> anyhow::Error {
    fail(Kind::Os, "the container's process sent an unexpected message")
}

/// An error as a message: its context, outermost first, and what the runtime branches on.
#[derive(Serialize, Deserialize)]
struct Wire {
    kind: Kind,
    context: Vec<String>,
    call: Option<(String, i32)>,
}

/// Returns the message of an error. The texts of an error that does not fit are cut.
fn encode(error: &anyhow::Error) -> Vec<u8> {
    let fits = |bytes: &Vec<u8>| bytes.len() < socket::MESSAGE_MAX;
    [2048, 512, 64].map(|most| encode_with(error, most)).into_iter().find(fits).unwrap_or_default()
}

fn encode_with(error: &anyhow::Error, most: usize) -> Vec<u8> {
    let short = |text: &str| text.chars().take(most).collect::<String>();
    let call = error.downcast_ref::<sys::Error>().map(|e| (short(&e.call), e.errno as i32));
    let mut context: Vec<String> = error.chain().map(|e| short(&e.to_string())).collect();
    if call.is_some() {
        context.pop();
    }
    let kind = crate::error::kind(error);
    // Strings and numbers always have a JSON form.
    serde_json::to_vec(&Wire { kind, context, call }).unwrap_or_default()
}

fn decode(bytes: &[u8]) -> anyhow::Error {
    let Ok(mut wire) = json::read::<Wire>(bytes) else {
        return fail(Kind::Os, "an error from the container's process could not be decoded");
    };
    let root = match wire.call {
        Some((call, errno)) => sys::Error::new(call, Errno::from_raw(errno)).into(),
        None => {
            let message = wire.context.pop().unwrap_or_default();
            if wire.kind == Kind::Os { anyhow::Error::msg(message) } else { fail(wire.kind, message) }
        }
    };
    wire.context.into_iter().rev().fold(root, anyhow::Error::context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_arrive_unchanged() {
        let system = anyhow::Error::new(sys::Error::new("move_mount()", Errno::EPERM));
        let long = anyhow::Error::msg("\u{1}".repeat(9000)).context("x");
        for (error, text, kind) in [
            (
                system.context("mounts[1] /proc").context("outer"),
                "outer: mounts[1] /proc: move_mount(): operation not permitted",
                Kind::Os,
            ),
            (fail(Kind::Config, "is wrong").context("a"), "a: is wrong", Kind::Config),
            (anyhow::Error::msg("plain"), "plain", Kind::Os),
        ] {
            let errno = sys::errno(&error);
            let arrived = decode(&encode(&error));
            assert_eq!(format!("{arrived:#}"), text);
            assert_eq!((crate::error::kind(&arrived), sys::errno(&arrived)), (kind, errno));
        }
        assert!(encode(&long).len() < socket::MESSAGE_MAX);
        assert!(format!("{:#}", decode(&encode(&long))).starts_with("x: \u{1}"));
    }

    #[test]
    fn each_end_is_notified_when_the_other_end_closes() {
        let (a, b) = Channel::pair().unwrap();
        a.send(&Event::Ready).unwrap();
        assert!(matches!(b.receive().unwrap(), Event::Ready));
        b.go(Go::Start).unwrap();
        assert_eq!(a.await_go().unwrap(), Go::Start);
        drop(a);
        assert!(matches!(b.receive().unwrap(), Event::Closed));
        let (a, b) = Channel::pair().unwrap();
        a.send(&Event::Ready).unwrap();
        b.go(Go::On).unwrap();
        drop(a);
        assert!(matches!(b.receive().unwrap(), Event::Ready));
        assert!(matches!(b.receive().unwrap(), Event::Closed));
        // The runtime of `create` ends without having read the last record.
        let (a, b) = Channel::pair().unwrap();
        a.send(&Event::Debug("x".into())).unwrap();
        b.go(Go::Wait).unwrap();
        drop(b);
        assert_eq!(a.await_go().unwrap(), Go::Wait);
        assert_eq!(a.await_go().unwrap_err().to_string(), "the runtime is gone");
        let (a, b) = Channel::pair().unwrap();
        drop(b);
        assert_eq!(a.await_go().unwrap_err().to_string(), "the runtime is gone");
    }
}
