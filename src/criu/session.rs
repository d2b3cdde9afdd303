//! The conversation with a CRIU process, from the first request to its end.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use prost::Message;

use super::message::{Features, Request, Response, Type};
use crate::error::{Context, Kind, Result, fail};
use crate::log;
use crate::sys::task::{self, Exit};
use crate::sys::{self, socket};

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
    /// Returns a number that grows while CRIU or the container's processes work, and stays the same otherwise.
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
        accept(request, answer)
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
                break accept(request, answer);
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

    /// Ends the conversation. After an answer CRIU has to end, and with status 0; but after a pre-dump it waits for the next
    /// one, and fails because none comes. After an error see [`Self::abandon`].
    pub(crate) fn conclude(self, answer: Result<Response>) -> Result<()> {
        match answer {
            Ok(answer) => match self.end()?.status() {
                status if status != 0 && answer.kind() != Type::PreDump => {
                    Err(fail(Kind::Os, format!("CRIU ended with status {status}")))
                }
                _ => Ok(()),
            },
            Err(e) => {
                self.abandon();
                Err(e)
            }
        }
    }

    /// Waits for the end of CRIU, which has answered.
    fn end(self) -> Result<Exit> {
        drop(self.socket);
        if task::poll_readable(&[self.pidfd.as_fd()], Some(end_limit(self.still)))?.contains(&true) {
            return Ok(task::wait(self.pidfd.as_fd())?);
        }
        kill(&self.pidfd);
        Err(fail(Kind::Os, "CRIU has answered, but does not end"))
    }

    /// Ends the conversation after an error. CRIU undoes what it has done, and is killed if it does not come to an end.
    pub(crate) fn abandon(self) {
        drop(self.socket);
        let ended = task::poll_readable(&[self.pidfd.as_fd()], Some(end_limit(self.still)));
        if ended.is_ok_and(|ended| ended.contains(&true)) {
            let _ = task::wait(self.pidfd.as_fd());
        } else {
            kill(&self.pidfd);
        }
    }

    fn send(&self, request: &Request) -> Result<()> {
        socket::send(self.socket.as_fd(), &request.encode_to_vec(), &[]).map_err(|e| self.closed(e))
    }

    /// Waits for the next message, as long as there is progress.
    fn receive(&self) -> Result<(Response, Option<OwnedFd>)> {
        let look = LOOK.min(self.still);
        let (mut since, mut before) = (Instant::now(), (self.progress)());
        loop {
            // A child of CRIU's may keep the socket open.
            let fds = [self.socket.as_fd(), self.pidfd.as_fd()];
            match task::poll_readable(&fds, Some(Instant::now() + look))?[..] {
                [true, _] => break,
                [_, true] => return Err(self.died()),
                _ => {}
            }
            let now = (self.progress)();
            if now != before || self.may_wait {
                (since, before) = (Instant::now(), now);
            } else if since.elapsed() >= self.still {
                return Err(Failed(format!("CRIU has stood still for {:?}", self.still)).into());
            }
        }
        let (bytes, fd) = socket::receive(self.socket.as_fd()).map_err(|e| self.closed(e))?;
        if bytes.is_empty() {
            return Err(self.died());
        }
        let answer = Response::decode(&bytes[..]).map_err(|e| {
            log::debug(|| format!("criu: {e}"));
            fail(Kind::Os, "CRIU's answer is not understood")
        })?;
        Ok((answer, fd))
    }

    /// Returns the error of a call on the socket. It names the end of CRIU, if that is the reason.
    fn closed(&self, error: sys::Error) -> anyhow::Error {
        match error.errno {
            Errno::EPIPE | Errno::ECONNRESET => self.died(),
            _ => error.into(),
        }
    }

    /// Returns the error for the end of the socket.
    fn died(&self) -> anyhow::Error {
        let text = match task::poll_readable(&[self.pidfd.as_fd()], Some(end_limit(self.still))) {
            Ok(ended) if ended.contains(&true) => match task::peek(self.pidfd.as_fd()) {
                Ok(Exit::Code(code)) => format!("CRIU has ended without an answer (exit status {code})"),
                Ok(Exit::Signal(signal)) => {
                    format!("CRIU has ended without an answer (killed by signal {signal})")
                }
                Err(_) => "CRIU has ended without an answer".into(),
            },
            _ => "CRIU has closed its socket without an answer".into(),
        };
        Failed(text).into()
    }
}

/// Returns the moment at which CRIU must have ended, given the longest time without progress.
fn end_limit(still: Duration) -> Instant {
    Instant::now() + END.min(still)
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

/// Returns the answer to a request if CRIU has done what was asked for. Its answer to a request that it refuses can have any type.
fn accept(request: &Request, answer: Response) -> Result<Response> {
    if !answer.success {
        return Err(refused(&answer));
    }
    if answer.kind != request.kind {
        return Err(fail(Kind::Os, "CRIU's answer is about another request"));
    }
    Ok(answer)
}

fn refused(answer: &Response) -> anyhow::Error {
    let mut text = String::from("CRIU failed");
    if let Some(errno) = answer.errno.filter(|errno| *errno > 0) {
        text = format!("{text}: {}", sys::text(Errno::from_raw(errno)));
    }
    let message = answer.message.as_deref().map(|message| super::log::without_place(message.trim()));
    if let Some(message) = message.filter(|message| super::log::says_more(message)) {
        text = format!("{text}: {message}");
    }
    Failed(text).into()
}

fn kill(pidfd: &OwnedFd) {
    let _ = task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    let _ = task::wait_killed(pidfd.as_fd());
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::Command;

    use super::super::message::{Notify, Options, Version};
    use super::*;

    fn answer(kind: Type) -> Response {
        Response { kind: kind.into(), success: true, ..Response::default() }
    }

    fn step(name: &str) -> Response {
        let notify = Some(Notify { script: Some(name.into()), pid: Some(7) });
        Response { notify, ..answer(Type::Notify) }
    }

    fn version(major: i32, minor: i32) -> Response {
        let version = Some(Version { major, minor, sublevel: None });
        Response { version, ..answer(Type::Version) }
    }

    fn features(mem_track: Option<bool>, lazy_pages: Option<bool>) -> Response {
        let features = Some(Features { mem_track, lazy_pages });
        Response { features, ..answer(Type::FeatureCheck) }
    }

    /// Calls `act` with a session whose CRIU is `process`, and the other end of its socket.
    fn session<T>(process: &mut Command, act: impl FnOnce(Session, OwnedFd) -> T) -> T {
        let mut child = process.spawn().unwrap();
        let pidfd = task::pidfd_open(child.id() as i32).unwrap();
        let (socket, peer) = socket::channel().unwrap();
        let still = Duration::from_millis(50);
        let done = act(Session { socket, pidfd, progress: &|| 0, may_wait: false, still }, peer);
        let _ = child.kill();
        let _ = child.wait();
        done
    }

    /// Calls `act` with a session that finds these answers. Returns the requests too. CRIU does not end before it is killed.
    fn with<T>(answers: &[Response], act: impl FnOnce(&Session) -> T) -> (T, Vec<Request>) {
        session(Command::new("sleep").arg("100"), |session, peer| {
            for answer in answers {
                socket::send(peer.as_fd(), &answer.encode_to_vec(), &[]).unwrap();
            }
            let done = act(&session);
            drop(session.socket);
            let next = || {
                let (bytes, _) = socket::receive(peer.as_fd()).unwrap();
                (!bytes.is_empty()).then(|| Request::decode(&bytes[..]).unwrap())
            };
            (done, std::iter::from_fn(next).collect())
        })
    }

    fn error<T>(result: Result<T>) -> String {
        format!("{:#}", result.err().unwrap())
    }

    fn dump() -> Request {
        Request::of(Type::Dump, Some(Options::default()))
    }

    #[test]
    fn the_version_must_be_new_enough() {
        for (major, minor, expected) in [(3, 16, "3.16"), (4, 0, "4.0"), (5, 1, "5.1")] {
            let (checked, requests) = with(&[version(major, minor)], |session| session.check(None).unwrap());
            assert_eq!(checked, expected);
            assert_eq!((requests[0].kind(), requests[0].keep_open), (Type::Version, Some(true)));
        }
        for (major, minor) in [(3, 15), (0, 99), (-4, 1)] {
            let (text, _) = with(&[version(major, minor)], |session| error(session.check(None)));
            assert!(text.ends_with("is too old: 3.16 or newer is needed"), "{text}");
        }
        let (text, _) = with(&[answer(Type::Version)], |session| error(session.check(None)));
        assert_eq!(text, "CRIU does not tell its version");
    }

    #[test]
    fn only_wanted_features_are_asked_for_and_must_be_there() {
        let [memory, lazy] = [(Some(true), None), (None, Some(true))];
        let no_memory = "--pre-dump: this kernel does not track changes of memory";
        let no_lazy = "--lazy-pages: this kernel has no userfaultfd that CRIU can use";
        let (yes, no) = (Some(true), Some(false));
        for (wanted, has, expected) in [
            (memory, features(yes, no), Ok("4.1".to_string())),
            (lazy, features(None, yes), Ok("4.1".to_string())),
            (memory, features(no, yes), Err(no_memory)),
            (memory, features(None, yes), Err(no_memory)),
            (lazy, features(yes, no), Err(no_lazy)),
            (lazy, answer(Type::FeatureCheck), Err(no_lazy)),
        ] {
            let wanted = Features { mem_track: wanted.0, lazy_pages: wanted.1 };
            let (checked, requests) =
                with(&[version(4, 1), has], |session| session.check(Some(wanted.clone())));
            assert_eq!(checked.map_err(|e| format!("{e:#}")), expected.map_err(Into::into));
            assert_eq!(requests[1].features, Some(wanted));
        }
    }

    #[test]
    fn a_refusal_has_the_errno_and_the_message() {
        let refused = |kind, errno, message: &str| Response {
            success: false,
            errno: Some(errno),
            message: Some(message.into()),
            ..answer(kind)
        };
        for (refusal, expected) in [
            (refused(Type::Dump, 1, ""), "CRIU failed: operation not permitted"),
            (refused(Type::Empty, 0, "Error (criu/x.c:1): why"), "CRIU failed: why"),
            (refused(Type::Empty, -1, " "), "CRIU failed"),
            (refused(Type::Empty, 0, "Error (criu/x.c:1): Dumping FAILED."), "CRIU failed"),
        ] {
            let (failed, _) = with(&[refusal], |session| session.request(&dump(), |_| Ok(())).err().unwrap());
            assert_eq!(failed.to_string(), expected);
            assert!(failed.is::<Failed>());
        }
        let (text, _) = with(&[answer(Type::Restore)], |session| error(session.request(&dump(), |_| Ok(()))));
        assert_eq!(text, "CRIU's answer is about another request");
    }

    #[test]
    fn the_end_of_criu_has_its_status() {
        for (script, expected) in [
            ("exit 4", "CRIU has ended without an answer (exit status 4)"),
            ("kill -KILL $$", "CRIU has ended without an answer (killed by signal 9)"),
            ("exec sleep 100", "CRIU has closed its socket without an answer"),
        ] {
            let (sent, received) = session(Command::new("sh").args(["-c", script]), |session, peer| {
                // What has arrived is unread at the end, which is an error of the next call.
                session.send(&dump()).unwrap();
                drop(peer);
                if !expected.starts_with("CRIU has closed") {
                    task::poll_readable(&[session.pidfd.as_fd()], None).unwrap();
                }
                let received = error(session.receive());
                (error(session.send(&dump())), received)
            });
            assert_eq!((&*sent, &*received), (expected, expected));
        }
    }

    #[test]
    fn a_criu_that_does_not_end_is_killed() {
        let runs = |pid| crate::procstat::runs(pid).unwrap();
        for (script, expected) in
            [("exit 6", Some(6)), ("kill -KILL $$", Some(128 + 9)), ("exec sleep 100", None)]
        {
            let ended = session(Command::new("sh").args(["-c", script]), |session, _peer| session.end());
            match (ended, expected) {
                (Ok(exit), Some(status)) => assert_eq!(exit.status(), status, "{script}"),
                (ended, _) => assert_eq!(error(ended), "CRIU has answered, but does not end"),
            }
        }
        for script in ["exit 6", "exec sleep 100"] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pid = child.id() as i32;
            let (socket, _peer) = socket::channel().unwrap();
            let (pidfd, still) = (task::pidfd_open(pid).unwrap(), Duration::from_millis(50));
            Session { socket, pidfd, progress: &|| 0, may_wait: false, still }.abandon();
            assert!(!runs(pid), "{script}");
            let _ = child.wait();
        }
    }

    #[test]
    fn the_steps_get_their_answers() {
        let mut seen = Vec::new();
        let (done, requests) = with(&[step("a"), step("b"), answer(Type::Dump)], |session| {
            session.request(&dump(), |step| {
                seen.push((step.name, step.pid));
                Ok(())
            })
        });
        done.unwrap();
        assert_eq!(seen, [("a".into(), Some(7)), ("b".into(), Some(7))]);
        let replies: Vec<_> =
            requests.iter().map(|request| (request.kind(), request.notify_success)).collect();
        assert_eq!(replies, [(Type::Dump, None), (Type::Notify, Some(true)), (Type::Notify, Some(true))]);
    }

    #[test]
    fn a_step_that_fails_is_the_error_whatever_criu_answers() {
        let failed = Response { success: false, ..answer(Type::Dump) };
        for last in [vec![failed], vec![answer(Type::Dump)], vec![]] {
            let answers = [vec![step("a"), step("b"), step("c")], last].concat();
            let mut seen = Vec::new();
            let (text, requests) = with(&answers, |session| {
                error(session.request(&dump(), |step| {
                    seen.push(step.name.clone());
                    if step.name == "b" { Err(fail(Kind::Os, "the reason")) } else { Ok(()) }
                }))
            });
            assert_eq!((&*text, seen), ("the reason", vec!["a".to_string(), "b".into()]));
            let replies: Vec<_> = requests[1..].iter().map(|request| request.notify_success).collect();
            assert_eq!(replies, [Some(true), Some(false), Some(false)]);
        }
    }

    #[test]
    fn a_criu_without_progress_is_given_up() {
        let (text, _) = with(&[step("a")], |session| error(session.request(&dump(), |_| Ok(()))));
        assert_eq!(text, "CRIU has stood still for 50ms");
    }

    #[test]
    fn a_criu_with_progress_or_that_may_wait_is_not_given_up() {
        for may_wait in [false, true] {
            session(Command::new("sleep").arg("100"), |session, peer| {
                let looks = Cell::new(0);
                let progress = || {
                    looks.set(looks.get() + 1);
                    if looks.get() == 4 {
                        socket::send(peer.as_fd(), &answer(Type::Dump).encode_to_vec(), &[]).unwrap();
                    }
                    if may_wait { 0 } else { looks.get() }
                };
                let session = Session { progress: &progress, may_wait, ..session };
                session.request(&dump(), |_| Ok(())).unwrap();
                assert_eq!(looks.get(), 4);
            });
        }
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        for bytes in [&[0xff; 9][..], b"\x08", b"x"] {
            let text = session(Command::new("sleep").arg("100"), |session, peer| {
                socket::send(peer.as_fd(), bytes, &[]).unwrap();
                error(session.request(&dump(), |_| Ok(())))
            });
            assert_eq!(text, "CRIU's answer is not understood");
        }
    }
}
