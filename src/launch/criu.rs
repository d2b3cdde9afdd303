//! The process that becomes CRIU.
//!
//! It is a clone of the runtime, in the host's namespaces and with the runtime's rights, as CRIU needs them.
//! For a restore it is in the container's cgroup before it is CRIU, so that the restored processes never run without the
//! limits, and it first makes the mounts that CRIU finds there ([`Criu::prepared`]). For a dump it first looks at the mounts of
//! the container, whose file systems may never answer.
//!
//! CRIU keeps running if the runtime is killed. It notices the end of the socket at its next report, and then
//! undoes what it has done: a dump that is cut off would leave its code in the container's processes.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::channel::{Channel, Event, Go, unexpected};
use super::spawn::end_with;
use crate::cgroups::{self, Cgroup};
use crate::criu::Directories;
use crate::criu::session::{Failed, STILL, Session};
use crate::error::{Context, Kind, Result, fail};
use crate::intel_rdt;
use crate::process::env;
use crate::rootfs::{External, null};
use crate::sys::task::Forked;
use crate::sys::{self, fs, process, signal, socket, task, tty};
use crate::{log, procstat, trace};

/// What the process does before it becomes CRIU, with the channel for what it finds.
pub(super) type Prepare<'a> = &'a dyn Fn(&Channel) -> Result<()>;

/// A process that is to become CRIU.
#[derive(Default)]
pub(super) struct Child<'a> {
    /// The cgroup in which it starts.
    pub(super) cgroup: Option<&'a Cgroup>,
    /// The join fds of cgroups of v1, and of its resctrl class.
    pub(super) cgroup_joins: Vec<OwnedFd>,
    pub(super) class_joins: Vec<OwnedFd>,
    /// It waits for [`Criu::go`] before anything else.
    pub(super) waits: bool,
    /// What it does before it becomes CRIU.
    pub(super) prepare: Option<Prepare<'a>>,
    /// CRIU has the standard streams of the runtime. Otherwise it has /dev/null.
    pub(super) streams: bool,
    /// CRIU belongs to the runtime's session and process group, which the processes of a shell job join.
    pub(super) shell_job: bool,
    /// Descriptors that CRIU gets, with their numbers.
    pub(super) given: Vec<i32>,
}

/// The process, before it is CRIU.
pub(super) struct Criu {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    channel: Channel,
}

impl Child<'_> {
    /// Clones the process.
    pub(super) fn spawn(mut self, program: &Path, directories: Option<&Directories>) -> Result<Criu> {
        let _phase = trace::phase_of("spawn CRIU", || program.display());
        let (ours, theirs) = Channel::pair()?;
        // Read here, because the clone has no environment.
        let env = env::own();
        let cloned = match self.cgroup.and_then(|cgroup| Some((cgroup, cgroup.cgroup_fd()?))) {
            None => task::clone3(0, None)?,
            Some((cgroup, fd)) => match task::clone3_into(0, fd)? {
                Some(cloned) => cloned,
                None => {
                    self.cgroup_joins.extend(cgroup.unified_join_fd()?);
                    task::clone3(0, None)?
                }
            },
        };
        match cloned {
            Forked::Child => {
                drop(ours);
                end_with(theirs, |report| self.run(program, &env, directories, report))
            }
            Forked::Parent { pid, pidfd } => {
                trace::cloned(pid);
                log::debug(|| format!("{} is process {pid}", program.display()));
                Ok(Criu { pid, pidfd, channel: ours })
            }
        }
    }

    /// The cloned process, which becomes CRIU.
    fn run(
        self,
        program: &Path,
        env: &[CString],
        directories: Option<&Directories>,
        report: &Channel,
    ) -> Result<Infallible> {
        if self.streams {
            null::replace_streams()?;
        }
        cgroups::join(self.cgroup_joins)?;
        intel_rdt::join(self.class_joins)?;
        if self.waits {
            report.await_go()?;
        }
        if let Some(prepare) = self.prepare {
            prepare(report)?;
            report.send(&Event::Ready)?;
            report.await_go()?;
        }
        if !self.shell_job {
            // A signal of the terminal is for the runtime.
            process::lead_group(0)?;
        }
        if !self.streams {
            let null = fs::open(fs::CWD, Path::new("/dev/null"), fs::O_RDWR, 0)?;
            (0..3).try_for_each(|number| tty::replace(null.as_fd(), number))?;
        }
        // CRIU looks for the directories among the files of the process that has made the socket.
        let (theirs, socket) = socket::channel()?;
        report.send(&Event::Socket(theirs))?;
        log::mute();
        signal::reset(signal::ALL)?;
        // CRIU must not end at once if the runtime does: the container's processes would keep its code.
        signal::ignore_pipe()?;
        fs::close_on_exec_from(3)?;
        let numbers = directories.map(Directories::numbers).unwrap_or_default();
        let kept = [&self.given[..], &numbers[..], &[socket.as_raw_fd()]].concat();
        kept.into_iter().try_for_each(fs::keep_on_exec)?;
        let path = CString::new(program.as_os_str().as_bytes()).context("the path of CRIU")?;
        let word = |text: String| CString::new(text).unwrap_or_default();
        let argv = [path.clone(), word("swrk".into()), word(socket.as_raw_fd().to_string())];
        let errno = task::execve(&path, &argv, env);
        Err(not_executed(program, errno))
    }
}

fn not_executed(program: &Path, errno: Errno) -> anyhow::Error {
    let error = sys::Error::new(format!("exec {}", program.display()), errno);
    anyhow::Error::new(error).context("CRIU (hint: --criu PATH is another one)")
}

impl Criu {
    /// Lets the process go on.
    pub(super) fn go(&self) -> Result<()> {
        self.channel.go(Go::On)
    }

    /// Waits until the process has prepared what it has to, for as long as `limit` is. It then waits for [`Self::go`]. Returns
    /// the mounts that it has found.
    pub(super) fn prepared(&self, limit: Option<Duration>) -> Result<Vec<External>> {
        let mut found = Vec::new();
        loop {
            if let Some(limit) = limit
                && !task::poll_readable(&[self.channel.fd()], Some(Instant::now() + limit))?.contains(&true)
            {
                let what = format!("the container's file systems did not answer within {limit:?}");
                return Err(fail(Kind::Os, what));
            }
            match self.next()? {
                Event::External(mount) => found.push(mount),
                Event::Ready => return Ok(found),
                Event::Closed => return Err(fail(Kind::Os, "the process that is to become CRIU was killed")),
                _ => return Err(unexpected()),
            }
        }
    }

    /// Waits until the process is CRIU.
    pub(super) fn executed<'a>(self, progress: &'a dyn Fn() -> u64) -> Result<(Session<'a>, Channel)> {
        let socket = || {
            let Event::Socket(socket) = self.next()? else { return Err(unexpected()) };
            match self.next()? {
                // The end of the channel: execve has closed it, or the process has died, as the socket will tell.
                Event::Closed => Ok(socket),
                _ => Err(unexpected()),
            }
        };
        let socket = socket().inspect_err(|_| self.kill())?;
        trace::gone();
        let session = Session { socket, pidfd: self.pidfd, progress, may_wait: false, still: STILL };
        Ok((session, self.channel))
    }

    fn next(&self) -> Result<Event> {
        loop {
            match self.channel.receive()? {
                Event::Warning(text) => log::warn(text),
                Event::Debug(text) => log::forwarded("criu", &text),
                Event::Error(error) => return Err(error),
                other => return Ok(other),
            }
        }
    }

    /// Kills and reaps the process.
    pub(super) fn kill(&self) {
        let _ = task::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = task::wait_killed(self.pidfd.as_fd());
        trace::gone();
    }
}

/// The time limit for an answer that CRIU has at once.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Returns the version of a CRIU program.
pub(crate) fn version(program: &Path) -> Result<String> {
    let (mut session, _channel) = Child::default().spawn(program, None)?.executed(&|| 0)?;
    session.still = AT_ONCE;
    let version = session.check(None);
    session.abandon();
    version
}

/// Returns a number that grows while CRIU, the process `pid`, works: its time on a processor and the length of its log, with
/// the time that the container's processes have had.
pub(super) fn progress(pid: i32, work: BorrowedFd, log: &str, cgroup: Option<&Cgroup>) -> u64 {
    let own = procstat::processor_time(pid);
    let written = fs::stat_at(work, Path::new(log)).map_or(0, |stat| stat.st_size as u64);
    let read = |file: &str| cgroup?.read(file).ok()?;
    let used =
        |text: String| text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok());
    // The second file is v1's, and in nanoseconds.
    let on_v1 = || read("cpuacct.usage")?.trim().parse::<u64>().ok();
    let used = read("cpu.stat").and_then(used).or_else(on_v1);
    own.wrapping_add(written).wrapping_add(used.unwrap_or(0))
}

/// The name that the hierarchy of v2 has in a directory for CRIU.
pub(super) const UNIFIED: &str = "unified";

/// Returns the directory of the hierarchy of v2 if it is the only one and `process` is found in it.
///
/// CRIU gets it in a directory of its own (`cgroup_yard`). Otherwise it mounts the hierarchy anew and without options, which the
/// kernel takes as new options for the whole host: nsdelegate and memory_recursiveprot would be off from then on.
pub(super) fn hierarchy(proc: BorrowedFd, process: &str) -> Result<Option<&'static Path>> {
    let text = fs::read_text(proc, &Path::new(process).join("cgroup"))?;
    let mut lines = text.lines();
    let path = lines.next().and_then(|line| line.strip_prefix("0::/"));
    let only = path.filter(|_| lines.next().is_none() && cgroups::is_unified());
    let found = |path: &&str| Path::new(cgroups::CGROUP).join(path).join("cgroup.procs").exists();
    Ok(only.filter(found).map(|_| Path::new(cgroups::CGROUP)))
}

/// Replaces an error of CRIU's by what its log says, if it has written one.
pub(super) fn with_log(error: anyhow::Error, directories: &Directories, name: &str) -> anyhow::Error {
    let work = directories.work.as_fd();
    if !error.is::<Failed>() || fs::stat_at(work, Path::new(name)).is_err() {
        // What went wrong is the runtime's own step.
        return error;
    }
    let whole = format!("the whole log: {}", directories.work_path.join(name).display());
    match crate::criu::log::errors(work, name) {
        Some(errors) => fail(Kind::Os, format!("criu: {errors} ({whole})")),
        None => fail(Kind::Os, format!("{error} ({whole})")),
    }
}
