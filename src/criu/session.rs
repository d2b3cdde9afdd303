//! The conversation with a CRIU process, from the first request to its end.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use prost::Message;

use super::message::{Features, Request, Response, Type};
use crate::error::{Context, Kind, Result, fail};
use crate::log;
use crate::sys::socket;
use crate::sys::task::{self, Exit};

/// The oldest CRIU: it freezes by cgroup v2, and knows external pid namespaces and the option for LSM profiles.
const OLDEST: (u32, &str) = (31_600, "3.16");

/// How often [`Session::receive`] looks whether CRIU makes progress.
const LOOK: Duration = Duration::from_secs(5);

/// The longest time without any progress. CRIU and the container's processes have then used no processor.
pub(crate) const STILL: Duration = Duration::from_secs(60);

/// The time limit for CRIU to end after its last answer.
const END: Duration = Duration::from_secs(10);

/// A step that CRIU reports, and that it begins when the report has been answered.
pub(crate) struct Step {
    pub name: String,
    /// The first process of the container that is being restored.
    pub pid: Option<i32>,
    /// The master of a terminal.
    pub fd: Option<OwnedFd>,
}

/// A CRIU process and its socket.
pub(crate) struct Session<'a> {
    pub socket: OwnedFd,
    pub pidfd: OwnedFd,
    /// Returns a number that grows while CRIU or the container's processes work, and does not when they stand still.
    pub progress: &'a dyn Fn() -> u64,
    /// Nothing is heard of CRIU while it waits for another machine, as long as that takes.
    pub may_wait: bool,
    /// The longest time without any progress: [`STILL`], or less for what is answered at once.
    pub still: Duration,
}

impl Session<'_> {
    /// Asks for CRIU's version, which must be new enough, and for the features that `wanted` has. Returns the version as text.
    pub(crate) fn check(&self, wanted: Option<Features>) -> Result<String> {
        let request = |kind| Request { keep_open: Some(true), ..Request::of(kind, None) };
        let answer = self.answer(&request(Type::Version))?;
        let version = answer.version.context("CRIU does not tell its version")?;
        let (number, text) = super::version(&version);
        if number < OLDEST.0 {
            let text = format!("CRIU {text} is too old: {} or newer is needed", OLDEST.1);
            return Err(fail(Kind::Unsupported, text));
        }
        let Some(wanted) = wanted else { return Ok(text) };
        let has = self.answer(&Request { features: Some(wanted.clone()), ..request(Type::FeatureCheck) })?;
        let has = has.features.unwrap_or_default();
        for (wanted, has, option, why) in [
            (wanted.mem_track, has.mem_track, "--pre-dump", "does not track changes of memory"),
            (wanted.lazy_pages, has.lazy_pages, "--lazy-pages", "has no userfaultfd that CRIU can use"),
        ] {
            if wanted == Some(true) && has != Some(true) {
                return Err(fail(Kind::Unsupported, format!("{option}: this kernel {why}")));
            }
        }
        Ok(text)
    }

    /// Sends a request that CRIU answers at once.
    fn answer(&self, request: &Request) -> Result<Response> {
        self.send(request)?;
        let (answer, _) = self.receive()?;
        if !answer.success {
            return Err(refused(&answer));
        }
        Ok(answer)
    }

    /// Makes a request. Calls `on` for each step that CRIU reports. If that fails, CRIU undoes what it has done, and the
    /// error is that of `on`.
    pub(crate) fn request(
        &self,
        request: &Request,
        mut on: impl FnMut(Step) -> Result<()>,
    ) -> Result<Response> {
        self.send(request)?;
        let mut failed = None;
        let answer = loop {
            let (answer, fd) = match self.receive() {
                Ok(received) => received,
                Err(e) => break Err(e),
            };
            if answer.kind() != Type::Notify {
                break if answer.success { Ok(answer) } else { Err(refused(&answer)) };
            }
            let notify = answer.notify.unwrap_or_default();
            let name = notify.script.unwrap_or_default();
            log::debug(|| format!("criu: {name}"));
            let done = match &failed {
                None => on(Step { name, pid: notify.pid, fd }),
                Some(_) => Ok(()),
            };
            let success = failed.is_none() && done.is_ok();
            failed = failed.or(done.err());
            let reply = Request { notify_success: Some(success), ..Request::of(Type::Notify, None) };
            if let Err(e) = self.send(&reply) {
                break Err(e);
            }
        };
        match failed {
            Some(error) => Err(error),
            None => answer,
        }
    }

    /// Waits for the end of CRIU, which has answered.
    pub(crate) fn end(self) -> Result<Exit> {
        drop(self.socket);
        if task::poll_readable(&[self.pidfd.as_fd()], Some(Instant::now() + END))?.contains(&true) {
            return Ok(task::wait(self.pidfd.as_fd())?);
        }
        kill(&self.pidfd);
        Err(fail(Kind::Os, "CRIU has answered, but does not end"))
    }

    /// Ends the conversation after an error. CRIU undoes what it has done, and is killed if it does not come to an end.
    pub(crate) fn abandon(self) {
        drop(self.socket);
        let ended = task::poll_readable(&[self.pidfd.as_fd()], Some(Instant::now() + END));
        if ended.is_ok_and(|ended| ended.contains(&true)) {
            let _ = task::wait(self.pidfd.as_fd());
        } else {
            kill(&self.pidfd);
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        socket::send(self.socket.as_fd(), &request.encode_to_vec(), &[]).context("CRIU does not listen")
    }

    /// Waits for the next message, as long as there is progress.
    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let look = LOOK.min(self.still);
        let (mut since, mut before) = (Instant::now(), (self.progress)());
        while !task::poll_readable(&[self.socket.as_fd()], Some(Instant::now() + look))?.contains(&true) {
            let now = (self.progress)();
            if now != before || self.may_wait {
                (since, before) = (Instant::now(), now);
            } else if since.elapsed() >= self.still {
                return Err(Failed(format!("CRIU has stood still for {:?}", self.still)).into());
            }
        }
        let (bytes, fd) = socket::receive(self.socket.as_fd())?;
        if bytes.is_empty() {
            return Err(self.died());
        }
        let answer = Response::decode(&bytes[..]);
        Ok((answer.map_err(|e| fail(Kind::Os, format!("CRIU's answer is not understood: {e}")))?, fd))
    }

    /// Returns the error for the end of the socket.
    fn died(&self) -> anyhow::Error {
        let how = match task::poll_readable(&[self.pidfd.as_fd()], Some(Instant::now() + END)) {
            Ok(ended) if ended.contains(&true) => match task::peek(self.pidfd.as_fd()) {
                Ok(Exit::Code(code)) => format!(" (exit status {code})"),
                Ok(Exit::Signal(signal)) => format!(" (killed by signal {signal})"),
                Err(_) => String::new(),
            },
            _ => String::new(),
        };
        Failed(format!("CRIU has ended without an answer{how}")).into()
    }
}

/// CRIU could not do what it was asked for. Its log has the reason.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

fn refused(answer: &Response) -> anyhow::Error {
    let mut text = String::from("CRIU failed");
    if let Some(errno) = answer.errno.filter(|errno| *errno > 0) {
        text = format!("{text}: {}", crate::sys::text(nix::errno::Errno::from_raw(errno)));
    }
    if let Some(message) = answer.message.as_deref().filter(|message| !message.trim().is_empty()) {
        text = format!("{text}: {}", super::log::without_place(message.trim()));
    }
    Failed(text).into()
}

fn kill(pidfd: &OwnedFd) {
    let _ = task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = task::wait_killed(pidfd.as_fd());
}
