//! A small D-Bus client, for systemd: it connects, calls methods one at a time and hears of jobs that have ended.
//!
//! It blocks, with a deadline on every wait and an error that says what was waited for. The other end is a bus daemon
//! or systemd itself, at its private socket, where there are no names and no Hello. Of what comes unasked only
//! systemd's `JobRemoved` is kept.
//!
//! The peer may be hostile. On the system's bus every user of the host can send us signals, of any form and number: a
//! signal that cannot be read is skipped, and the deadline holds even if signals never stop. An answer must have the
//! serial number of the call, and a bus delivers answers only from the called service. recv(2) closes attached
//! descriptors. Nothing relies on the word of the bus alone: corten itself writes the limits, and reads in the cgroup
//! whether the process is there ([`limit`](crate::cgroups::limit)).

pub(crate) mod wire;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::anyhow;
use nix::errno::Errno;

pub use wire::{Call, Value};

use crate::error::{Context, Kind, Result, fail};
use crate::host;
use crate::sys::socket::Address;
use crate::sys::{self, fs, socket};
use wire::Message;

/// How long an answer may take, as long as other clients of D-Bus wait by default.
const PATIENCE: Duration = Duration::from_secs(25);

/// As much is kept of what was heard of others' jobs while an answer was waited for.
const MAX_JOBS: usize = 256;

/// The longest path of a job and its result. systemd's have some fifty bytes.
const JOB_MAX: usize = 512;

/// The longest text of an error reply that is reported, in characters.
const TEXT_MAX: usize = 1000;

/// A method's error reply: its name, for whoever branches on it, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
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

/// The name of the error reply in an error's chain.
#[must_use]
pub fn error_name(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<CallError>().map(|e| e.name.as_str())
}

/// An end of a job of systemd's.
#[derive(Debug)]
struct Removed {
    sender: Option<String>,
    job: String,
    result: String,
}

/// A connection.
#[derive(Debug)]
pub struct Bus {
    socket: OwnedFd,
    serial: u32,
    /// What was read beyond the last message.
    buffer: Vec<u8>,
    /// systemd is the other end, with no bus between.
    direct: bool,
    removed: VecDeque<Removed>,
    patience: Duration,
}

/// A method's answer.
#[derive(Debug)]
pub struct Answer {
    pub body: Vec<Value>,
    sender: Option<String>,
}

impl Bus {
    /// Connects to the first of `places` where anybody listens; one that is `direct` is systemd's own.
    pub fn connect(places: &[(Address, bool)]) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let mut first = None;
        for (address, direct) in places {
            match socket::connect_before(address, deadline) {
                Ok(socket) => {
                    let what = || format!("D-Bus at {address:?}");
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

    /// Whether there is no bus between us and systemd.
    #[must_use]
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Says who we are: nothing but what the kernel tells the other end of our credentials. An id of our own would be
    /// wrong in a user namespace.
    fn authenticate(&mut self, deadline: Instant) -> Result<()> {
        let hello = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n";
        socket::write_before(self.socket.as_fd(), hello, deadline).map_err(|e| late(e, "authentication"))?;
        // The first answer asks for the identity, which is the empty one sent already.
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

    /// A line of the authentication.
    fn line(&mut self, deadline: Instant) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Ok(line);
            }
            if self.buffer.len() > 4096 {
                return Err(anyhow!("authentication: the other end does not speak D-Bus"));
            }
            self.fill(deadline, "authentication")?;
        }
    }

    fn fill(&mut self, deadline: Instant, what: &str) -> Result<()> {
        let mut bytes = [0; 4096];
        let n = socket::read_before(self.socket.as_fd(), &mut bytes, deadline).map_err(|e| late(e, what))?;
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
                self.fill(deadline, what)?;
                continue;
            };
            let (length, is_answer) = (wire::length(head)?, wire::is_answer(head));
            if length > wire::MAX && is_answer {
                return Err(wire::malformed("it is too long"));
            }
            if length > wire::MAX {
                self.pass_over(length, deadline, what)?;
            } else if self.buffer.len() < length {
                self.fill(deadline, what)?;
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
    fn pass_over(&mut self, length: usize, deadline: Instant, what: &str) -> Result<()> {
        let mut left = length;
        while left > self.buffer.len() {
            left -= self.buffer.len();
            self.buffer.clear();
            self.fill(deadline, what)?;
        }
        self.buffer.drain(..left);
        Ok(())
    }

    /// Calls a method and waits for its answer. An error reply is a [`CallError`].
    pub fn call(&mut self, call: &Call) -> Result<Answer> {
        let deadline = Instant::now() + self.patience;
        let what = || call.member.to_string();
        let serial = self.send(call, true, deadline)?;
        loop {
            let message = self.receive(deadline, call.member)?;
            if message.reply_to == Some(serial) {
                match message.kind {
                    wire::METHOD_RETURN => return Ok(Answer { body: message.body, sender: message.sender }),
                    wire::ERROR => return Err(call_error(message)).with_context(what),
                    _ => {}
                }
            }
            self.keep(message);
        }
    }

    /// Calls a method whose answer nobody needs.
    pub fn tell(&mut self, call: &Call) -> Result<()> {
        self.send(call, false, Instant::now() + self.patience).map(drop)
    }

    fn send(&mut self, call: &Call, answered: bool, deadline: Instant) -> Result<u32> {
        self.serial += 1;
        let destination = call.destination.filter(|_| !self.direct);
        let bytes = Call { destination, ..*call }.encode(self.serial, answered);
        socket::write_before(self.socket.as_fd(), &bytes, deadline).map_err(|e| late(e, call.member))?;
        Ok(self.serial)
    }

    /// Keeps what a message says of a job's end.
    fn keep(&mut self, message: Message) {
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
            // The oldest is dropped: systemd's signal for our job comes shortly before its answer, or after it.
            self.removed.truncate(MAX_JOBS - 1);
            self.removed.push_front(Removed { sender: message.sender, job, result });
        }
    }

    /// Waits for the end of the job that `answer` to a call has begun, and gives its result: `done`, if all is well.
    pub fn await_job(&mut self, answer: &Answer, what: &str) -> Result<String> {
        let deadline = Instant::now() + self.patience;
        let [Value::Path(job)] = &answer.body[..] else {
            return Err(anyhow!("{what}: the answer is not a job"));
        };
        loop {
            // Only from whom the job is: on a bus anybody may send us a signal.
            let ended = self.removed.iter().find(|r| r.job == *job && r.sender == answer.sender);
            if let Some(removed) = ended {
                return Ok(removed.result.clone());
            }
            self.removed.clear();
            let message = self.receive(deadline, what)?;
            self.keep(message);
        }
    }
}

fn refused(line: &str) -> anyhow::Error {
    fail(
        Kind::Os,
        format!("authentication: the other end says {:?}", line.chars().take(100).collect::<String>()),
    )
}

/// An error of a wait that names what was waited for.
fn late(error: sys::Error, what: &str) -> anyhow::Error {
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

/// Process ids that we send must mean the same there: elsewhere systemd would take a stranger's process for ours. A
/// process of our own pid namespace has one id in /proc, its own.
fn check_pid_namespace(socket: &OwnedFd) -> Result<()> {
    let pid = socket::peer_pid(socket.as_fd())?;
    let file = PathBuf::from(format!("{pid}/status"));
    let levels = match fs::read_text(host::procfs()?, &file) {
        _ if pid == 0 => 0,
        // Hidden from us, or gone by now.
        Err(_) => 1,
        Ok(text) => levels(&text),
    };
    if levels == 1 {
        return Ok(());
    }
    Err(fail(
        Kind::Unsupported,
        "the other end is in another pid namespace, where our process ids mean others",
    ))
}

/// In how many pid namespaces from ours on a process has an id, by its `/proc/PID/status`.
fn levels(status: &str) -> usize {
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.map_or(1, |ids| ids.split_whitespace().count())
}

/// The Unix sockets in a list of addresses such as `unix:path=/run/bus,guid=1;unix:abstract=x` (D-Bus specification,
/// "Server Addresses").
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
