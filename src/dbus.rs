//! A small D-Bus client for systemd. It connects, calls one method at a time, and receives the signals about
//! finished jobs.
//!
//! It blocks. Every wait has a deadline, and an error that names what was waited for. The peer is a bus
//! daemon, or systemd itself at its private socket, which has neither names nor Hello. A peer in another pid
//! namespace is refused: our process ids would name other processes there. Among the signals, only systemd's
//! `JobRemoved` is kept.
//!
//! The peer may be hostile. On the system's bus every user of the host can send us signals, of any form and
//! number: a signal that cannot be read is skipped, and the deadline holds even if signals never stop. An
//! answer must have the serial number of the call, and a bus delivers answers only from the called service.
//! recv(2) closes attached descriptors. Nothing relies on the word of the bus alone: corten itself writes the
//! limits, and reads in the cgroup whether the process is there ([`limit`](crate::cgroups::limit)).

pub(crate) mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;

pub(crate) use wire::Call;
pub use wire::Value;

use crate::error::{Context, Kind, Result, fail};
use crate::host;
use crate::sys::socket::Address;
use crate::sys::{self, fs, socket};
use wire::{Message, Reply};

/// How long an answer may take, which is the default of other D-Bus clients.
const PATIENCE: Duration = Duration::from_secs(25);

/// How many signals about finished jobs are kept while an answer is awaited.
const MAX_JOBS: usize = 256;

/// The longest path of a job with its result, in bytes. systemd's have about fifty.
const JOB_MAX: usize = 512;

/// The longest text of an error reply that is reported, in characters.
const TEXT_MAX: usize = 1000;

/// A method's error reply: its name, on which callers branch, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallError {
    pub name: String,
    pub message: String,
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.message.trim_end_matches('.');
        if text.is_empty() { f.write_str(&self.name) } else { write!(f, "{text} ({})", self.name) }
    }
}

impl std::error::Error for CallError {}

/// Returns the name of the error reply in an error's chain.
#[must_use]
pub(crate) fn error_name(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<CallError>().map(|e| e.name.as_str())
}

/// A signal about a finished job of systemd's.
#[derive(Debug)]
struct Removed {
    sender: Option<String>,
    job: String,
    result: String,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Bus {
    socket: OwnedFd,
    serial: u32,
    /// The bytes that were read after the last message.
    buffer: Vec<u8>,
    /// The peer is systemd itself instead of a bus.
    direct: bool,
    removed: VecDeque<Removed>,
    patience: Duration,
}

/// A method's answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub body: Vec<Value>,
    sender: Option<String>,
}

impl Bus {
    /// Connects to the first of `places` that accepts a connection. At a `direct` place systemd itself
    /// listens.
    pub(crate) fn connect(places: &[(Address, bool)]) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut first = None;
        for (address, direct) in places {
            match socket::connect_before(address, deadline) {
                Ok(socket) => {
                    let what = || format!("D-Bus at {address}");
                    check_pid_namespace(&socket).with_context(what)?;
                    let mut bus = Self::new(socket, *direct);
                    bus.authenticate(deadline).with_context(what)?;
                    return Ok(bus);
                }
                Err(e) => first = first.or(Some(e)),
            }
        }
        Err(first.map_or_else(|| anyhow!("D-Bus: no address of a Unix socket is known"), Into::into))
    }

    fn new(socket: OwnedFd, direct: bool) -> Self {
        let (buffer, removed) = (Vec::new(), VecDeque::new());
        Self { socket, serial: 0, buffer, direct, removed, patience: PATIENCE }
    }

    /// Reports whether the peer is systemd itself instead of a bus.
    #[must_use]
    pub(crate) fn direct(&self) -> bool {
        self.direct
    }

    /// Authenticates by the credentials that the kernel shows to the peer. An id that we sent ourselves would
    /// be wrong in a user namespace.
    fn authenticate(&mut self, deadline: Instant) -> Result<()> {
        let hello = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        socket::write_before(self.socket.as_fd(), hello, deadline)
            .map_err(|e| timed_out(e, "authentication"))?;
        // The first answer asks for the identity, which is empty and already sent.
        let asked = self.line(deadline)?;
        if asked.trim_end() != "DATA" {
            return Err(refused(&asked));
        }
        let accepted = self.line(deadline)?;
        if !accepted.starts_with("OK") {
            return Err(refused(&accepted));
        }
        if !self.direct {
            self.call(&Call {
                destination: Some("org.freedesktop.DBus"),
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "Hello",
                body: &[],
            })?;
        }
        Ok(())
    }

    /// Returns the next line of the authentication.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > 4096 {
                return Err(anyhow!("authentication: the peer does not speak D-Bus"));
            }
            self.read_more(deadline, "authentication")?;
        }
    }

    fn read_more(&mut self, deadline: Instant, what: &str) -> Result<()> {
        let mut bytes = [0; 4096];
        let n =
            socket::read_before(self.socket.as_fd(), &mut bytes, deadline).map_err(|e| timed_out(e, what))?;
        if n == 0 {
            return Err(anyhow!("{what}: the connection was closed"));
        }
        self.buffer.extend_from_slice(&bytes[..n]);
        Ok(())
    }

    /// Returns the next message that can be read. An answer that cannot be read is an error.
    fn receive(&mut self, deadline: Instant, what: &str) -> Result<Message> {
        loop {
            let Some(head) = self.buffer.first_chunk() else {
                self.read_more(deadline, what)?;
                continue;
            };
            let (length, is_answer) = (wire::length(head)?, wire::is_answer(head));
            if length > wire::MAX && is_answer {
                return Err(wire::malformed("it is too long"));
            }
            if length > wire::MAX {
                self.skip(length, deadline, what)?;
            } else if self.buffer.len() < length {
                self.read_more(deadline, what)?;
            } else {
                let message = Message::parse(&self.buffer[..length]);
                self.buffer.drain(..length);
                if message.is_ok() || is_answer {
                    return message;
                }
            }
        }
    }

    /// Discards a message of this length.
    fn skip(&mut self, length: usize, deadline: Instant, what: &str) -> Result<()> {
        let mut left = length;
        while left > self.buffer.len() {
            left -= self.buffer.len();
            self.buffer.clear();
            self.read_more(deadline, what)?;
        }
        self.buffer.drain(..left);
        Ok(())
    }

    /// Calls a method and waits for its answer. An error reply is a [`CallError`].
    pub(crate) fn call(&mut self, call: &Call) -> Result<Answer> {
        let deadline = Instant::now() + self.patience;
        let what = || call.member.to_string();
        let serial = self.send(call, Reply::Expected, deadline)?;
        loop {
            let message = self.receive(deadline, call.member)?;
            if message.reply_to == Some(serial) {
                match message.kind {
                    wire::METHOD_RETURN => return Ok(Answer { body: message.body, sender: message.sender }),
                    wire::ERROR => return Err(call_error(message)).with_context(what),
                    _ => {}
                }
            }
            self.note_job(message);
        }
    }

    /// Calls a method without waiting for its answer.
    pub(crate) fn call_without_reply(&mut self, call: &Call) -> Result<()> {
        self.send(call, Reply::Unwanted, Instant::now() + self.patience).map(drop)
    }

    fn send(&mut self, call: &Call, reply: Reply, deadline: Instant) -> Result<u32> {
        self.serial += 1;
        let destination = call.destination.filter(|_| !self.direct);
        let bytes = Call { destination, ..*call }.encode(self.serial, reply);
        socket::write_before(self.socket.as_fd(), &bytes, deadline).map_err(|e| timed_out(e, call.member))?;
        Ok(self.serial)
    }

    /// Keeps a message if it is systemd's signal about a finished job.
    fn note_job(&mut self, message: Message) {
        let is = |field: &Option<String>, value: &str| field.as_deref() == Some(value);
        let wanted = message.kind == wire::SIGNAL
            && is(&message.member, "JobRemoved")
            && is(&message.interface, "org.freedesktop.systemd1.Manager")
            && is(&message.path, "/org/freedesktop/systemd1");
        let [Value::U32(_), Value::Path(job), Value::Str(_), Value::Str(result)] = &message.body[..] else {
            return;
        };
        if wanted && job.len() + result.len() <= JOB_MAX {
            let (job, result) = (job.clone(), result.clone());
            // The oldest is dropped: systemd's signal for our job comes shortly before its answer, or after
            // it.
            self.removed.truncate(MAX_JOBS - 1);
            self.removed.push_front(Removed { sender: message.sender, job, result });
        }
    }

    /// Waits for the end of the job in the `answer` to a call. Returns its result, which is `done` for
    /// success.
    pub(crate) fn await_job(&mut self, answer: &Answer, what: &str) -> Result<String> {
        let deadline = Instant::now() + self.patience;
        let [Value::Path(job)] = &answer.body[..] else {
            return Err(anyhow!("{what}: the answer is not a job"));
        };
        loop {
            // The sender must be the one that answered, since on a bus every client can send us a signal.
            let ended = self.removed.iter().find(|r| r.job == *job && r.sender == answer.sender);
            if let Some(removed) = ended {
                return Ok(removed.result.clone());
            }
            self.removed.clear();
            let message = self.receive(deadline, what)?;
            self.note_job(message);
        }
    }
}

fn refused(line: &str) -> anyhow::Error {
    fail(
        Kind::Os,
        format!("authentication: the peer answered {:?}", line.chars().take(100).collect::<String>()),
    )
}

/// Returns the error of a wait, with the name of what was waited for.
fn timed_out(error: sys::Error, what: &str) -> anyhow::Error {
    let text = match error.errno {
        Errno::ETIMEDOUT => format!("{what}: no answer within {} seconds", PATIENCE.as_secs()),
        _ => what.to_string(),
    };
    anyhow!(error).context(text)
}

fn call_error(message: Message) -> anyhow::Error {
    let short = |text: &str| text.chars().take(TEXT_MAX).collect();
    let text = short(message.body.first().and_then(Value::text).unwrap_or_default());
    CallError { name: short(&message.error.unwrap_or_default()), message: text }.into()
}

/// Refuses a peer in another pid namespace: there the process ids that we send are those of other processes.
/// A process of our own pid namespace has a single id in /proc.
fn check_pid_namespace(socket: &OwnedFd) -> Result<()> {
    let pid = socket::peer_pid(socket.as_fd())?;
    let file = PathBuf::from(format!("{pid}/status"));
    let levels = match fs::read_text(host::procfs()?, &file) {
        _ if pid == 0 => 0,
        // The process is hidden from us or has ended.
        Err(_) => 1,
        Ok(text) => levels(&text),
    };
    if levels == 1 {
        return Ok(());
    }
    Err(fail(
        Kind::Unsupported,
        "the peer is in another pid namespace, where our process ids belong to other processes",
    ))
}

/// Returns in how many pid namespaces, ours and those below, a process has an id, from its
/// `/proc/PID/status`.
fn levels(status: &str) -> usize {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.map_or(1, |ids| ids.split_whitespace().count())
}

/// Returns the Unix sockets in a list of addresses such as `unix:path=/run/bus,guid=1;unix:abstract=x` (D-Bus
/// specification, "Server Addresses").
#[must_use]
pub fn addresses(list: &str) -> Vec<Address> {
    let one = |address: &str| {
        let keys = address.strip_prefix("unix:")?;
        keys.split(',').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = unescape(value)?;
            match key {
                "path" => Some(Address::Path(Path::new(std::str::from_utf8(&value).ok()?).into())),
                "abstract" => Some(Address::Abstract(value)),
                _ => None,
            }
        })
    };
    list.split(';').filter_map(one).collect()
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
