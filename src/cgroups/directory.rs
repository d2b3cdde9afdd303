//! A cgroup in one hierarchy, and the sub-tree below it: kill, signal, list, freeze, wait, remove.
//!
//! The container may have made the sub-tree itself, if the cgroup is delegated: with any names, of any depth,
//! and changing at every moment. Therefore the walk holds one descriptor whatever the depth, opens names
//! relative to it without following links, and treats a directory that has vanished as empty.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use crate::error::Result;
use crate::sys::{self, fs, task};
use crate::{host, log, trace, wait};

/// How often a directory may be removed while it is being used here, because another container was the last
/// one in it.
pub(super) const TRIES: u32 = 10;

/// How long it may take to freeze or thaw a cgroup back after an error.
const UNDO: Duration = Duration::from_secs(1);

/// The longest file that is read, far above the length of every cgroup file.
const MAX_FILE: u64 = 64 << 20;

/// A cgroup in one hierarchy, by its directory.
#[derive(Debug)]
pub struct Directory {
    pub(super) dir: OwnedFd,
    /// The absolute path of the directory.
    pub path: PathBuf,
    /// The directories that [`super::v2::create`] made for it, outermost first.
    pub made: Vec<PathBuf>,
}

/// Opens a directory, to read it and to open names in it.
pub(super) fn open_dir(at: BorrowedFd, path: &Path) -> sys::Result<OwnedFd> {
    fs::open(at, path, fs::O_RDONLY | fs::O_DIRECTORY | fs::O_NOFOLLOW, 0)
}

/// Reads a file of the kernel's that is one record.
pub(super) fn read_file(at: BorrowedFd, name: &str) -> Result<String> {
    let fd = fs::open(at, Path::new(name), fs::O_RDONLY | fs::O_NOFOLLOW, 0)?;
    let bytes = fs::read_whole(fd, MAX_FILE).with_context(|| name.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reports whether an error says that a cgroup was removed while we used it.
pub(super) fn vanished(error: &anyhow::Error) -> bool {
    matches!(sys::errno(error), Some(Errno::ENOENT | Errno::ENODEV))
}

/// Reports whether an error says that we lack the right to change cgroups here.
pub(super) fn denied(error: &anyhow::Error) -> bool {
    matches!(sys::errno(error), Some(Errno::EACCES | Errno::EPERM | Errno::EROFS))
}

/// Reads a file of the kernel's that is a list of any length.
pub(super) fn read_list(at: BorrowedFd, name: &str) -> Result<String> {
    let fd = fs::open(at, Path::new(name), fs::O_RDONLY | fs::O_NOFOLLOW, 0)?;
    let bytes = fs::read_limited(fd, MAX_FILE).with_context(|| name.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Directory {
    /// Opens a cgroup of v2. Returns `None` if it does not exist.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let Some(dir) = fs::existing(fs::CWD, path, || open_dir(fs::CWD, path))? else { return Ok(None) };
        if fs::filesystem_magic(dir.as_fd())? != libc::CGROUP2_SUPER_MAGIC {
            return Err(anyhow!("{}: is not in a cgroup v2 file system", path.display()));
        }
        Ok(Some(Self { dir, path: path.into(), made: Vec::new() }))
    }

    /// Opens a cgroup in a hierarchy of v1. Returns `None` if it does not exist. It has no `cgroup.events`,
    /// by which [`Directory::freeze`], [`Directory::populated`] and the like work: they are for v2.
    pub(super) fn open_v1(path: &Path) -> Result<Option<Self>> {
        let dir = fs::existing(fs::CWD, path, || open_dir(fs::CWD, path))?;
        Ok(dir.map(|dir| Self { dir, path: path.into(), made: Vec::new() }))
    }

    /// Returns the descriptor of the directory.
    #[must_use]
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(super) fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.with_context(|| self.path.display().to_string())
    }

    /// Opens the file by which a process joins it.
    pub(super) fn open_procs(&self) -> Result<OwnedFd> {
        let procs = fs::open(self.dir(), Path::new("cgroup.procs"), fs::O_WRONLY, 0);
        self.named(procs.map_err(Into::into))
    }

    /// Reads one of its files. Returns `None` if there is no such file.
    pub fn read(&self, file: &str) -> Result<Option<String>> {
        match read_list(self.dir(), file) {
            Err(e) if sys::errno(&e) == Some(Errno::ENOENT) && self.lacks(file) => Ok(None),
            other => self.named(other).map(Some),
        }
    }

    /// Opens one of its files for reading. Returns `None` if there is no such file.
    pub fn open_file(&self, file: &str) -> Result<Option<OwnedFd>> {
        match fs::open(self.dir(), Path::new(file), fs::O_RDONLY | fs::O_NOFOLLOW, 0) {
            Err(e) if e.errno == Errno::ENOENT && self.lacks(file) => Ok(None),
            other => self.named(other.map_err(Into::into)).map(Some),
        }
    }

    /// Reports whether it has a file of that name. A file that cannot be looked at for another reason is an
    /// error: if it were taken for absent, a limit would not be set.
    pub(super) fn has(&self, file: &str) -> sys::Result<bool> {
        match fs::open(self.dir(), Path::new(file), fs::O_PATH, 0) {
            Err(e) if fs::absent(self.dir(), Path::new(file), &e) => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn lacks(&self, file: &str) -> bool {
        fs::stat_at(self.dir(), Path::new(file)).is_err()
    }

    /// Writes to one of its files.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let _phase = trace::phase_of("write", || format!("{file} = {value}"));
        Ok(fs::write_at(self.dir(), Path::new(file), value.as_bytes())?)
    }

    /// Returns the ids of all processes in it and below it, as our own pid namespace knows them.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        // A threaded cgroup does not list its processes, but its thread root above does (cgroups(7)). If that is
        // above this cgroup too, it would list processes of others. Then the threads are listed.
        let mut file = "cgroup.procs";
        let read = |dir: BorrowedFd| {
            let mut text = read_list(dir, file);
            let refused = text.as_ref().is_err_and(|e| sys::errno(e) == Some(Errno::EOPNOTSUPP));
            if refused && dir.as_raw_fd() == self.dir.as_raw_fd() {
                file = "cgroup.threads";
                text = read_list(dir, file);
            }
            let text = match text {
                // A removed cgroup has none.
                Err(e)
                    if matches!(sys::errno(&e), Some(Errno::EOPNOTSUPP | Errno::ENODEV | Errno::ENOENT)) =>
                {
                    return Ok(());
                }
                other => other?,
            };
            // A process outside our pid namespace is listed as 0.
            pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0));
            Ok(())
        };
        self.named(walk(self.dir(), read, |_, _| Ok(())))?;
        if file == "cgroup.threads" { self.named(leaders(pids)) } else { Ok(pids) }
    }

    /// Kills every process in it and below it, also processes that are forked at the same time. Does not wait
    /// for their end.
    pub fn kill(&self) -> Result<()> {
        let _phase = trace::phase("kill all in the cgroup");
        match fs::write_at(self.dir(), Path::new("cgroup.kill"), b"1") {
            // A threaded cgroup refuses it.
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EOPNOTSUPP) => {
                // A process that is forked between the list and the signal is killed in the next round.
                for _ in 0..100 {
                    if self.signal_all(libc::SIGKILL)? == 0 {
                        break;
                    }
                }
                Ok(())
            }
            result => self.named(result.map_err(Into::into)),
        }
    }

    /// Thaws every process that v1's freezer holds, also in sub-cgroups that are frozen on their own.
    pub(super) fn thaw_all(&self) -> Result<()> {
        let thaw = |dir: BorrowedFd| write_freezer(dir, "THAWED");
        self.named(walk(self.dir(), thaw, |_, _| Ok(())))
    }

    /// Sends a signal to every process in it and below it. Returns how many were reached.
    pub fn signal_all(&self, signal: i32) -> Result<usize> {
        // The kernel may give a pid to another process between the list and the signal. A pid that a second
        // list still contains belongs to the process that the pidfd holds, or that process is dead and gets
        // no signal.
        let held: Vec<(i32, OwnedFd)> = self
            .pids()?
            .into_iter()
            .filter_map(|pid| task::pidfd_open(pid).ok().map(|fd| (pid, fd)))
            .collect();
        let inside: BTreeSet<i32> = self.pids()?.into_iter().collect();
        let mut sent = 0;
        for (pid, pidfd) in held {
            if !inside.contains(&pid) {
                continue;
            }
            match task::pidfd_send_signal(pidfd.as_fd(), signal) {
                Ok(()) => sent += 1,
                Err(e) if e.errno == Errno::ESRCH => {}
                Err(e) => return Err(anyhow!(e).context(format!("process {pid}"))),
            }
        }
        Ok(sent)
    }

    /// Reports whether a process that is not a zombie is in it or below it.
    pub fn populated(&self) -> Result<bool> {
        self.named(self.event("populated 1"))
    }

    /// Reports whether everything in it and below it is frozen.
    pub fn frozen(&self) -> Result<bool> {
        self.named(self.event("frozen 1"))
    }

    /// Reports whether `cgroup.events` contains a line. A cgroup that no longer exists has none: systemd
    /// removes an empty scope at any moment.
    fn event(&self, line: &str) -> Result<bool> {
        match read_file(self.dir(), "cgroup.events") {
            Err(e) if vanished(&e) && self.lacks("cgroup.events") => Ok(false),
            events => Ok(events?.lines().any(|l| l == line)),
        }
    }

    /// Freezes it, and waits until that is done. After an error it is thawed again.
    pub fn freeze(&self, deadline: Instant) -> Result<()> {
        self.named(self.write_freeze(b"1"))?;
        let done = self.in_time(self.await_frozen(deadline), "did not freeze in time, thawed again");
        done.inspect_err(|_| {
            let back = self.write_freeze(b"0");
            warn_undone(back.and_then(|()| self.await_thawed(Instant::now() + UNDO).map(drop)));
        })
    }

    /// Thaws it, and waits until that is done. After an error it is frozen again.
    pub fn thaw(&self, deadline: Instant) -> Result<()> {
        self.named(self.write_freeze(b"0"))?;
        let late = "did not thaw in time (hint: a cgroup above it may be frozen)";
        self.in_time(self.await_thawed(deadline), late).inspect_err(|_| {
            let back = self.write_freeze(b"1");
            // The kernel takes a moment to freeze, and until then the container would be reported as running.
            warn_undone(back.and_then(|()| self.await_frozen(Instant::now() + UNDO).map(drop)));
        })
    }

    fn write_freeze(&self, value: &[u8]) -> Result<()> {
        Ok(fs::write_at(self.dir(), Path::new("cgroup.freeze"), value)?)
    }

    /// Returns the error `late` if a wait has ended by its deadline.
    fn in_time(&self, waited: Result<bool>, late: &str) -> Result<()> {
        match self.named(waited) {
            Ok(false) => Err(anyhow!("{}: {late}", self.path.display())),
            other => other.map(drop),
        }
    }

    fn await_thawed(&self, deadline: Instant) -> Result<bool> {
        wait_for(self.dir(), "frozen 0", deadline)
    }

    fn await_frozen(&self, deadline: Instant) -> Result<bool> {
        // A cgroup with processes of its own reports that it is frozen as soon as these are, although
        // processes below it may still run: the kernel counts the two separately.
        let mut frozen = true;
        let wait = |dir: BorrowedFd| {
            frozen = frozen && wait_for(dir, "frozen 1", deadline)?;
            Ok(())
        };
        walk(self.dir(), wait, |_, _| Ok(()))?;
        Ok(frozen)
    }

    /// Waits until no process is in it or below it. Returns false if the deadline passes first.
    pub fn wait_empty(&self, deadline: Instant) -> Result<bool> {
        let _phase = trace::phase("until the cgroup is empty");
        self.named(wait_for(self.dir(), "populated 0", deadline))
    }

    /// Removes it and its sub-cgroups, once no process is in them any more.
    pub fn remove(self, deadline: Instant) -> Result<()> {
        let _phase = trace::phase("remove the cgroup");
        let mut busy = None;
        let removed = wait::until(deadline, Duration::ZERO, || {
            // It is busy because of sub-cgroups, or because of processes that are ending.
            if busy.is_some() && self.wait_empty(deadline)? {
                self.named(remove_below(self.dir()))?;
            }
            match fs::rmdirat(fs::CWD, &self.path) {
                Ok(()) => Ok(true),
                Err(e) if fs::absent(fs::CWD, &self.path, &e) => Ok(true),
                Err(e) if e.errno == Errno::EBUSY => {
                    busy = Some(e);
                    Ok(false)
                }
                Err(e) => Err(anyhow!(e)),
            }
        })?;
        busy.filter(|_| !removed).map_or(Ok(()), |e| Err(anyhow!(e)))
    }

    /// Gives the cgroup to its container's user, who can then create sub-cgroups and move processes among
    /// them. The user cannot change the cgroup's own limits, since only the files that the kernel lists are
    /// given (cgroups(7), "delegation").
    pub(super) fn delegate(&self, uid: u32, gid: u32) -> Result<()> {
        let names = delegated(read_list(fs::CWD, "/sys/kernel/cgroup/delegate"));
        for name in std::iter::once("").chain(names.lines()) {
            // Some of the files belong to a controller that this cgroup does not have.
            match fs::chown(self.dir(), Path::new(name), uid, gid) {
                Err(e) if e.errno != Errno::ENOENT => return self.named(Err(e.into())),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Returns the processes of threads.
fn leaders(threads: Vec<i32>) -> Result<Vec<i32>> {
    let proc = host::procfs()?;
    let leader = |thread: i32| {
        let status = fs::read_text(proc, Path::new(&format!("{thread}/status"))).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
    };
    let leaders: BTreeSet<i32> = threads.into_iter().filter_map(leader).collect();
    Ok(leaders.into_iter().collect())
}

/// Warns that the state before an error could not be restored.
pub(super) fn warn_undone(undone: Result<()>) {
    undone.unwrap_or_else(|e| log::warn(format!("undoing: {e:#}, ignoring")));
}

/// Removes a cgroup if it has no process and no sub-cgroup. Returns whether it no longer exists.
#[must_use]
pub(super) fn remove_empty(path: &Path) -> bool {
    // In some versions since Linux 7.0 rmdir(2) waits for ending processes and cannot be interrupted. The
    // first process of a pid namespace ends only when the processes that were put there from outside are
    // reaped. The process that reaps them may be waiting for us.
    let events = fs::read_text(fs::CWD, &path.join("cgroup.events"));
    if events.is_ok_and(|text| text.lines().any(|line| line == "populated 1")) {
        return false;
    }
    match fs::rmdirat(fs::CWD, path) {
        Ok(()) => true,
        Err(e) => fs::absent(fs::CWD, path, &e),
    }
}

/// Removes those of `parents`, outermost first, that no other container uses by now.
pub fn remove_parents(parents: &[PathBuf]) {
    // A parent that is in use is removed by the container that uses it. The list can have the parents of
    // several hierarchies.
    parents.iter().rev().for_each(|parent| _ = remove_empty(parent));
}

/// Waits until `cgroup.events` contains a line. The kernel reports each change of that file by POLLPRI.
/// Returns false if the deadline passes first, and true if the cgroup does not exist any more: then it is
/// empty, and nothing in it runs.
fn wait_for(dir: BorrowedFd, line: &str, deadline: Instant) -> Result<bool> {
    let name = "cgroup.events";
    let events = match fs::open(dir, Path::new(name), fs::O_RDONLY | fs::O_NOFOLLOW, 0) {
        Err(e) if e.errno == Errno::ENODEV || fs::absent(dir, Path::new(name), &e) => return Ok(true),
        other => File::from(other?),
    };
    let mut text = [0u8; 256];
    loop {
        // The read arms the next POLLPRI, so that a change after it is not lost.
        let n = match events.read_at(&mut text, 0) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(true),
            other => other.map_err(|e| sys::Error::of_std(format!("read({name})"), &e))?,
        };
        if text[..n].split(|&b| b == b'\n').any(|l| l == line.as_bytes()) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let mut polled = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        task::poll_until(&mut polled, Some(deadline)).context(name)?;
    }
}

/// Removes all sub-cgroups. A sub-cgroup that is busy is left to the next attempt.
fn remove_below(dir: BorrowedFd) -> Result<()> {
    walk(
        dir,
        |_| Ok(()),
        |parent, name| match fs::rmdirat(parent, name) {
            Err(e) if !matches!(e.errno, Errno::EBUSY | Errno::ENOENT) => Err(e.into()),
            _ => Ok(()),
        },
    )
}

/// Returns the files to give to the user: those that the kernel lists, or else those of
/// config-linux.md#cgroup-ownership.
fn delegated(listed: Result<String>) -> String {
    listed.unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads".into())
}

/// The file of v1's freezer.
pub(super) const FREEZER: &str = "freezer.state";

/// Writes the state of v1's freezer, unless the cgroup or its freezer does not exist any more.
pub(super) fn write_freezer(dir: BorrowedFd, state: &str) -> Result<()> {
    match fs::write_at(dir, Path::new(FREEZER), state.as_bytes()) {
        Err(e) if e.errno == Errno::ENODEV || fs::absent(dir, Path::new(FREEZER), &e) => Ok(()),
        other => Ok(other?),
    }
}

/// Visits the cgroup and all sub-cgroups. `enter` is called on the way down. `leave` is called for
/// sub-cgroups on the way up, with the parent directory and the name.
fn walk(
    root: BorrowedFd,
    mut enter: impl FnMut(BorrowedFd) -> Result<()>,
    mut leave: impl FnMut(BorrowedFd, &Path) -> Result<()>,
) -> Result<()> {
    enter(root)?;
    // For each directory from the root to the present one: its name (the root has none), and the names in it
    // that are not visited yet.
    let mut way = vec![(PathBuf::new(), children(root)?)];
    let mut here = fs::dup(root)?;
    while let Some((_, rest)) = way.last_mut() {
        if let Some(name) = rest.pop() {
            let below = match open_dir(here.as_fd(), &name) {
                // A file, or a directory that was removed.
                Err(e) if matches!(e.errno, Errno::ENOTDIR | Errno::ENOENT | Errno::ENODEV) => continue,
                other => other?,
            };
            enter(below.as_fd())?;
            way.push((name, children(below.as_fd())?));
            here = below;
        } else {
            let Some((name, _)) = way.pop() else { break };
            if way.is_empty() {
                break;
            }
            // A cgroup cannot be moved to another parent, so that this is the directory that was visited
            // before.
            here = open_dir(here.as_fd(), Path::new(".."))?;
            leave(here.as_fd(), &name)?;
        }
    }
    Ok(())
}

/// Returns the names that may be directories. The link count shows that most cgroups have no sub-cgroup,
/// which saves a listing.
fn children(dir: BorrowedFd) -> Result<Vec<PathBuf>> {
    if fs::fstat(dir)?.st_nlink <= 2 {
        return Ok(Vec::new());
    }
    match fs::list_dir(dir) {
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::ENODEV) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_kernels_list_the_files_of_the_specification_are_delegated() {
        let missing = || read_list(fs::CWD, "/no/such/list");
        assert_eq!(delegated(missing()), "cgroup.procs\ncgroup.subtree_control\ncgroup.threads");
        assert_eq!(
            delegated(Ok("cgroup.procs\nmemory.oom.group\n".into())),
            "cgroup.procs\nmemory.oom.group\n"
        );
    }
}
