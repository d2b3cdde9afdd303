//! What corten records of a container, and the status that the kernel shows.
//!
//! `<root>/<id>/` contains `config.json`, a verbatim copy, since later edits of the bundle must have no
//! effect (runtime.md#lifecycle), and `state.json`, which has only facts. The status is never stored: it is
//! derived from the process.
//!
//! state.json has the id, the bundle, the pid with its start time and the boot id, the cgroup, and the
//! parents that were made for it. Later commands never signal a pid without comparing its start time and the
//! boot id, and read no record in a directory of another user. The record also has the name of the session
//! keyring. It cannot be guessed, because keyctl(2) joins a keyring by name, even one that another user has
//! made.
//!
//! mkdir(2) of the directory prevents a second container of that id. A command that changes a container holds
//! flock(2) on the directory. Files are replaced by rename(2), so that a reader sees the old or the new one.

mod end;
mod process;
mod record;

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

pub(crate) use end::{End, Ended};
pub(crate) use process::{exit_of_first, first_process, pidfd, pidfd_until_reaped};
pub(crate) use record::{Document, owner};
pub use record::{Record, Status, document, spec_state};

use crate::cgroups::CgroupRecord;
use crate::error::{Context, Kind, Result, fail, kind};
use crate::procstat::boot_id;
use crate::sys::{self, fs};
use crate::{json, trace, wait};

const CONFIG: &str = "config.json";
const STATE: &str = "state.json";
/// The socket to which `start` connects.
pub(crate) const START_SOCKET: &str = "start.sock";
/// The container's notification socket. This single file is bound into the container.
pub(crate) const NOTIFY_SOCKET: &str = "notify.sock";
/// The names of all files that corten creates in a container's directory.
const OURS: [&str; 6] = [CONFIG, "config.json.new", STATE, "state.json.new", START_SOCKET, NOTIFY_SOCKET];
const MAX_FILE: u64 = 64 << 20;

/// How often `create` tries again because the directory was removed before it had a lock.
const TRIES: u32 = 10;

/// The prefix of a directory that is being removed. No id contains a colon.
const DELETED: &str = ".deleted:";

/// The longest name of a file (path_resolution(7)).
const NAME_MAX: usize = 255;

/// The longest id. The longest file name that contains the id is that of its directory while this is removed.
const LONGEST_ID: usize = NAME_MAX - DELETED.len();

/// Checks an id. As in runc, it consists of letters, digits, `_`, `+`, `-` and `.`, and is not a path.
pub(crate) fn check_id(id: &str) -> Result<()> {
    if id.is_empty() {
        return Err(fail(Kind::Usage, "container id cannot be empty"));
    }
    let known = |b: u8| b.is_ascii_alphanumeric() || b"_+-.".contains(&b);
    // A megabyte in a log line would not help.
    let shown: String = id.chars().take(64).collect();
    let allowed = "(hint: letters of ASCII, digits, and any of _ + - . are allowed)";
    if id == "." || id == ".." {
        return Err(fail(
            Kind::Usage,
            format!("invalid container ID format: {shown:?} is a directory's name"),
        ));
    }
    if let Some(wrong) = id.chars().find(|c| !c.is_ascii() || !known(*c as u8)) {
        let why = format!("{shown:?} contains {wrong:?} {allowed}");
        return Err(fail(Kind::Usage, format!("invalid container ID format: {why}")));
    }
    if id.len() > LONGEST_ID {
        let why = format!("{shown:?}... is longer than {LONGEST_ID} bytes");
        return Err(fail(Kind::Usage, format!("invalid container ID format: {why}")));
    }
    Ok(())
}

/// Returns the directory of all states: `--root`, or else that of [`choose_root`].
pub(crate) fn root(given: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = given {
        return std::path::absolute(path).with_context(|| format!("--root {path:?}"));
    }
    let xdg = std::env::var_os("XDG_RUNTIME_DIR");
    let user = std::env::var_os("USER");
    choose_root(xdg.as_deref(), user.as_deref(), sys::task::euid(), crate::host::in_user_namespace)
}

/// Returns `/run/corten` for the host's root, and `$XDG_RUNTIME_DIR/corten` for other users. Rootless Podman
/// runs corten as root of its user namespace. As in runc, XDG_RUNTIME_DIR is used there too, unless USER is
/// "root".
fn choose_root(
    xdg: Option<&OsStr>,
    user: Option<&OsStr>,
    euid: u32,
    in_user_namespace: impl FnOnce() -> Result<bool>,
) -> Result<PathBuf> {
    match xdg.filter(|dir| !dir.is_empty()) {
        Some(dir) if euid != 0 || (user != Some(OsStr::new("root")) && in_user_namespace()?) => {
            Ok(Path::new(dir).join("corten"))
        }
        None if euid != 0 => {
            Err(fail(Kind::Usage, "XDG_RUNTIME_DIR is not set (hint: --root DIR keeps the state in DIR)"))
        }
        _ => Ok(PathBuf::from("/run/corten")),
    }
}

/// A container's directory, open.
#[derive(Debug)]
pub(crate) struct Dir {
    root: OwnedFd,
    id: String,
    fd: OwnedFd,
    inode: Inode,
    locked: Cell<bool>,
}

/// A device number and an inode number.
type Inode = (u64, u64);

/// Returns the inode of a directory, or an error if it belongs to another user. That user has written the
/// record, which can name any file of ours, and any program as a hook. Therefore root, too, acts only on its
/// own containers.
fn own_inode(dir: &OwnedFd) -> Result<Inode> {
    let stat = fs::fstat(dir.as_fd())?;
    check_owner(&stat)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn check_owner(stat: &libc::stat) -> Result<()> {
    let uid = stat.st_uid;
    if uid == sys::args::euid() {
        return Ok(());
    }
    Err(fail(Kind::Config, format!("its directory belongs to user {uid} (hint: be that user)")))
}

fn not_found(id: &str) -> anyhow::Error {
    fail(Kind::NotFound, format!("container {id:?} does not exist"))
}

fn open_dir(parent: &OwnedFd, name: &Path) -> sys::Result<OwnedFd> {
    fs::open(parent.as_fd(), name, fs::O_RDONLY | fs::O_DIRECTORY | fs::O_NOFOLLOW, 0)
}

/// Creates a container's directory and locks it. Of two callers with the same id, one fails.
pub(crate) fn create_dir(root: &Path, id: &str) -> Result<Dir> {
    let _phase = trace::phase("make the state directory");
    check_id(id)?;
    // `gc` or `delete --force` may remove the directory in between: it is empty, like the leftover of a
    // killed `create`.
    for _ in 1..TRIES {
        match claim(root, id) {
            Err(e) if kind(&e) == Kind::NotFound => {}
            other => return other,
        }
    }
    claim(root, id)
}

/// Returns the error for an id that is taken. It says so if the container is not a finished one.
fn exists(root: &Path, id: &str) -> anyhow::Error {
    let unfinished = open(root, id)
        .ok()
        .filter(|dir| dir.find_record().is_ok_and(|record| record.is_none_or(|record| !record.created_done)));
    let why = match unfinished {
        Some(dir) if dir.in_use() => ": another corten command is creating it",
        Some(_) => ": its create has not finished (hint: corten gc removes what an interrupted one has left)",
        None => "",
    };
    fail(Kind::Exists, format!("container with ID {id:?} already exists{why}"))
}

/// Creates and locks the directory. Returns [`not_found`] if it does not exist any more, or is another one,
/// once it is locked.
fn claim(root: &Path, id: &str) -> Result<Dir> {
    let parent = match fs::open(fs::CWD, root, fs::O_RDONLY | fs::O_DIRECTORY, 0) {
        Err(e) if e.errno == Errno::ENOENT => {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root)
                .map_err(|e| sys::Error::of_std(format!("mkdir({root:?})"), &e))?;
            fs::open(fs::CWD, root, fs::O_RDONLY | fs::O_DIRECTORY, 0)?
        }
        other => other?,
    };
    match fs::mkdirat(parent.as_fd(), Path::new(id), 0o700) {
        Err(e) if e.errno == Errno::EEXIST => {
            return Err(exists(root, id));
        }
        other => other?,
    }
    // rmdir(2) removes it only if it is empty. It may be another container's by now.
    let undo = |parent: &OwnedFd| drop(fs::rmdirat(parent.as_fd(), Path::new(id)));
    let opened = open_dir(&parent, Path::new(id)).map_err(|e| match e.errno {
        Errno::ENOENT => not_found(id),
        _ => e.into(),
    });
    let opened = opened.and_then(|fd| Ok((own_inode(&fd)?, fd)));
    let (inode, fd) = opened.inspect_err(|_| undo(&parent))?;
    let dir = Dir { root: parent, id: id.to_string(), fd, inode, locked: Cell::new(false) };
    dir.lock(Duration::from_secs(10)).inspect_err(|_| undo(&dir.root))?;
    Ok(dir)
}

/// Opens a container's directory, without the lock. Fails if it belongs to another user.
pub(crate) fn open(root: &Path, id: &str) -> Result<Dir> {
    let _phase = trace::phase("open the state directory");
    check_id(id)?;
    // It is absent if it is so twice. One wrong answer of the kernel is not believed, and a `create` in
    // between causes no other error.
    let twice = |open: &dyn Fn() -> sys::Result<OwnedFd>| {
        let absent = |e: &sys::Error| matches!(e.errno, Errno::ENOENT | Errno::ENOTDIR);
        let again = open().or_else(|e| if absent(&e) { open() } else { Err(e) });
        again.map_err(|e| if absent(&e) { not_found(id) } else { e.into() })
    };
    let parent = twice(&|| fs::open(fs::CWD, root, fs::O_RDONLY | fs::O_DIRECTORY, 0))?;
    let fd = twice(&|| open_dir(&parent, Path::new(id)))?;
    let inode = own_inode(&fd)?;
    Ok(Dir { root: parent, id: id.to_string(), fd, inode, locked: Cell::new(false) })
}

/// Opens the directory of all states. Returns `None` if it does not exist.
pub(crate) fn open_root(root: &Path) -> Result<Option<OwnedFd>> {
    Ok(fs::existing(fs::CWD, root, || fs::open(fs::CWD, root, fs::O_RDONLY | fs::O_DIRECTORY, 0))?)
}

/// Returns the record and the status of a container whose `create` has finished. `buffer` is used to read the
/// record. Returns `None` for all other containers, which need [`open`]. This costs half as much as [`open`].
pub(crate) fn read_status(
    root: &OwnedFd,
    id: &str,
    buffer: &mut Vec<u8>,
    frozen: impl FnOnce(&CgroupRecord) -> bool,
) -> Result<Option<(Record, Status)>> {
    let path = Path::new(id).join(STATE);
    let Ok(stat) = fs::stat_at(root.as_fd(), Path::new(id)) else { return Ok(None) };
    check_owner(&stat)?;
    let opened = fs::openat2(root.as_fd(), &path, fs::O_RDONLY, 0, fs::RESOLVE_NO_SYMLINKS);
    let Ok(file) = opened else { return Ok(None) };
    fs::read_whole_into(file, MAX_FILE, buffer)?;
    let Ok(record) = json::read::<Record>(buffer) else { return Ok(None) };
    if !record.created_done {
        return Ok(None);
    }
    let status = status(&record, || false, frozen)?;
    Ok(Some((record, status)))
}

/// Derives the status from the process and, if it runs, from `frozen`.
fn status(
    record: &Record,
    in_use: impl FnOnce() -> bool,
    frozen: impl FnOnce(&CgroupRecord) -> bool,
) -> Result<Status> {
    let stat = process::alive(record)?;
    let being_created = !record.created_done && in_use();
    let status = record::derive(record, stat.as_ref(), being_created);
    let stopped = matches!(status, Status::Stopped | Status::Creating);
    match &record.cgroup {
        Some(cgroup) if !stopped && frozen(cgroup) => Ok(Status::Paused),
        _ => Ok(status),
    }
}

/// An entry of the directory of all states.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Container(String),
    /// The directory of a container of that id whose `delete` is at its last step, or was killed there.
    Deleted(String),
}

/// Returns all entries, sorted.
pub(crate) fn entries(root: &Path) -> Result<Vec<Entry>> {
    open_root(root)?.map_or(Ok(Vec::new()), |parent| entries_in(&parent))
}

fn entries_in(parent: &OwnedFd) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in fs::list_dir(parent.as_fd())? {
        let Some(name) = name.to_str() else { continue };
        if let Some(id) = name.strip_prefix(DELETED) {
            entries.push(Entry::Deleted(id.into()));
        } else if check_id(name).is_ok() {
            entries.push(Entry::Container(name.into()));
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

/// Returns the ids of all containers, sorted. Removes the leftovers of a `delete` that was killed.
pub(crate) fn ids(root: &OwnedFd) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in entries_in(root)? {
        match entry {
            Entry::Container(id) => ids.push(id),
            // Its own `delete` may be removing it too. An error is ignored, since the next `list` tries
            // again.
            Entry::Deleted(id) => _ = purge(root, &deleted_name(&id)),
        }
    }
    Ok(ids)
}

/// Reports whether there is an [`Entry::Deleted`] that no `delete` is removing.
pub(crate) fn deleted_is_left(root: &Path, id: &str) -> Result<bool> {
    let parent = fs::open(fs::CWD, root, fs::O_RDONLY | fs::O_DIRECTORY, 0)?;
    let dir = match open_dir(&parent, &deleted_name(id)) {
        Err(e) if e.errno == Errno::ENOENT => return Ok(false),
        other => other?,
    };
    own_inode(&dir)?;
    // The lock is also free if a `delete` has just removed the directory.
    Ok(fs::try_lock(dir.as_fd()).is_ok() && fs::fstat(dir.as_fd())?.st_nlink > 0)
}

/// Removes the leftovers of a `delete` that was killed at its last step.
pub(crate) fn purge_deleted(root: &Path, id: &str) -> Result<()> {
    open_root(root)?.map_or(Ok(()), |parent| purge(&parent, &deleted_name(id)))
}

fn deleted_name(id: &str) -> PathBuf {
    PathBuf::from(format!("{DELETED}{id}"))
}

/// Removes a directory of ours and the files in it, but no sub-directories.
fn purge(parent: &OwnedFd, name: &Path) -> Result<()> {
    let gone = |result: sys::Result<()>| match result {
        Err(e) if e.errno == Errno::ENOENT => Ok(()),
        other => other,
    };
    let Some(dir) = fs::existing(parent.as_fd(), name, || open_dir(parent, name))? else { return Ok(()) };
    own_inode(&dir)?;
    let entries = match fs::list_dir(dir.as_fd()) {
        // Another `delete` has removed it by now. If not, the removal below fails.
        Err(e) if e.errno == Errno::ENOENT => Vec::new(),
        entries => entries?,
    };
    for entry in entries {
        gone(fs::unlinkat(dir.as_fd(), &entry))?;
    }
    Ok(gone(fs::rmdirat(parent.as_fd(), name))?)
}

impl Dir {
    #[must_use]
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Returns the directory, for the files that other modules keep in it. [`Dir::remove`] removes them.
    #[must_use]
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Waits for the lock, which lasts as long as this value. Fails if the container is deleted before.
    pub(crate) fn lock(&self, patience: Duration) -> Result<()> {
        let _phase = trace::phase("lock");
        // flock(2) has no timeout, and the signal of a timer could interrupt other calls.
        let locked =
            wait::until(Instant::now() + patience, Duration::from_millis(1), || {
                match fs::try_lock(self.fd.as_fd()) {
                    Err(e) if e.errno == Errno::EAGAIN => Ok(false),
                    locked => Ok(locked.map(|()| true)?),
                }
            })?;
        if !locked {
            let text = format!("container {:?} is in use by another corten command", self.id);
            return Err(fail(Kind::WrongStatus, text));
        }
        // The locked directory may have been removed or replaced by now.
        if !self.exists()? {
            return Err(not_found(&self.id));
        }
        self.locked.set(true);
        Ok(())
    }

    /// Reports whether this is still the directory of the container with this id.
    fn exists(&self) -> Result<bool> {
        let name = Path::new(&self.id);
        let stat = fs::existing(self.root.as_fd(), name, || fs::stat_at(self.root.as_fd(), name))?;
        Ok(stat.is_some_and(|stat| (stat.st_dev, stat.st_ino) == self.inode))
    }

    /// Releases the lock, so that other commands may change the container.
    pub(crate) fn unlock(&self) -> Result<()> {
        self.locked.set(false);
        Ok(fs::unlock(self.fd.as_fd())?)
    }

    /// Reports whether another command holds the lock.
    fn in_use(&self) -> bool {
        if self.locked.get() {
            return false;
        }
        // The lock is tried on a new descriptor. Closing it releases the lock.
        open_dir(&self.fd, Path::new(".")).is_ok_and(|own| fs::try_lock(own.as_fd()).is_err())
    }

    /// Replaces a file. A reader sees the old or the new one.
    fn replace(&self, name: &str, bytes: &[u8]) -> sys::Result<()> {
        let part = PathBuf::from(format!("{name}.new"));
        self.write(&part, bytes)?;
        fs::rename(self.fd.as_fd(), &part, Path::new(name))
    }

    fn write(&self, name: &Path, bytes: &[u8]) -> sys::Result<()> {
        let _phase = trace::phase_of("write", || name.display());
        let flags = fs::O_WRONLY | fs::O_CREAT | libc::O_TRUNC | fs::O_NOFOLLOW;
        let file = fs::open(self.fd.as_fd(), name, flags, 0o600)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = nix::unistd::write(&file, rest)
                .map_err(|e| sys::Error::new(format!("write({name:?})"), e))?;
            rest = &rest[n..];
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let _phase = trace::phase_of("read", || name.to_string());
        let path = Path::new(name);
        let open = || fs::open(self.fd.as_fd(), path, fs::O_RDONLY | fs::O_NOFOLLOW, 0);
        let Some(file) = fs::existing(self.fd.as_fd(), path, open)? else { return Ok(None) };
        fs::read_whole(file, MAX_FILE).with_context(|| name.to_string()).map(Some)
    }

    /// Saves the bundle's configuration as it was read. It must be saved after the record: a configuration
    /// without a record means that the record is lost. No command reads it before the container process is
    /// recorded.
    pub(crate) fn save_config(&self, text: &str) -> Result<()> {
        self.write(Path::new(CONFIG), text.as_bytes()).context("keeping config.json")
    }

    /// Replaces the saved configuration.
    pub(crate) fn replace_config(&self, text: &str) -> Result<()> {
        self.replace(CONFIG, text.as_bytes()).context("keeping config.json")
    }

    /// Returns the configuration with which the container was created, as changed by `update`.
    pub(crate) fn load_config(&self) -> Result<String> {
        let bytes = self.read(CONFIG)?.ok_or_else(|| self.unfinished())?;
        String::from_utf8(bytes).context(CONFIG)
    }

    pub(crate) fn save(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).context("state.json")?;
        self.replace(STATE, &bytes).context("keeping the state")
    }

    /// Returns the record, or `None` if `create` has not written one yet, or was killed before.
    pub(crate) fn find_record(&self) -> Result<Option<Record>> {
        let Some(bytes) = self.read(STATE)? else { return Ok(None) };
        json::read(&bytes).with_context(|| format!("container {:?}: state.json", self.id)).map(Some)
    }

    /// Reports whether the directory is as [`create_dir`] creates it, and contains only our files. A user who
    /// gives a wrong `--root` must not lose other files.
    pub(crate) fn is_ours(&self) -> Result<bool> {
        let ours = |name: &PathBuf| OURS.iter().any(|ours| name.as_os_str() == *ours);
        let private = fs::fstat(self.fd.as_fd())?.st_mode & 0o077 == 0;
        Ok(private && fs::list_dir(self.fd.as_fd())?.iter().all(ours))
    }

    /// Reports whether the record is lost: the configuration exists, before which `create` writes the record.
    pub(crate) fn lost_record(&self) -> Result<bool> {
        let config = Path::new(CONFIG);
        Ok(fs::existing(self.fd.as_fd(), config, || fs::stat_at(self.fd.as_fd(), config))?.is_some())
    }

    /// Returns the records of the user's other containers of this root. One that is damaged or not yet
    /// written is skipped.
    pub(crate) fn others(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for name in fs::list_dir(self.root.as_fd())? {
            let path = name.join(STATE);
            if name.as_os_str() == OsStr::new(&self.id)
                || name.to_str().is_none_or(|id| check_id(id).is_err())
            {
                continue;
            }
            match fs::stat_at(self.root.as_fd(), &name) {
                Ok(stat) if check_owner(&stat).is_err() => continue,
                Err(e) if !fs::absent(self.root.as_fd(), &name, &e) => return Err(e.into()),
                _ => {}
            }
            let open = || fs::openat2(self.root.as_fd(), &path, fs::O_RDONLY, 0, fs::RESOLVE_NO_SYMLINKS);
            let Some(file) = fs::existing(self.root.as_fd(), &path, open)? else { continue };
            records.extend(json::read::<Record>(&fs::read_whole(file, MAX_FILE)?).ok());
        }
        Ok(records)
    }

    /// Returns a container that has the same cgroup on record or a sub-cgroup of it; if `below`, only one
    /// with a sub-cgroup.
    ///
    /// A stopped container with the same cgroup does not count if it was created before `created`: since
    /// `create` refuses a cgroup with processes, those in it now belong to the later container. A stopped
    /// container with a sub-cgroup does not count if that has no processes (`populated`).
    pub(crate) fn shares_cgroup(
        &self,
        cgroup: &CgroupRecord,
        created: &str,
        below: bool,
        populated: impl Fn(&CgroupRecord) -> Result<bool>,
    ) -> Result<Option<Record>> {
        let boot = boot_id()?;
        let shares = |theirs: &CgroupRecord| cgroup.contains(theirs) && !(below && theirs.contains(cgroup));
        let mut others = self.others()?;
        others.retain(|other| other.boot_id == boot && other.cgroup.as_ref().is_some_and(shares));
        // A container with the same cgroup is returned rather than one with a sub-cgroup.
        let same = |other: &Record| other.cgroup.as_ref().is_some_and(|theirs| theirs.contains(cgroup));
        others.sort_by_key(same);
        while let Some(other) = others.pop() {
            let counts = match &other.cgroup {
                _ if pidfd(&other)?.is_some() => true,
                Some(theirs) if !same(&other) => populated(theirs)?,
                _ => other.created.as_str() >= created,
            };
            if counts {
                return Ok(Some(other));
            }
        }
        Ok(None)
    }

    /// Returns the record. Fails if there is none.
    pub(crate) fn load(&self) -> Result<Record> {
        self.find_record()?.ok_or_else(|| self.unfinished())
    }

    /// Returns the error for a container without a record: its `create` has not finished, or it was deleted.
    pub(crate) fn unfinished(&self) -> anyhow::Error {
        // Another command may have deleted it after it was opened here.
        if self.exists().is_ok_and(|exists| !exists) {
            return not_found(&self.id);
        }
        let hint = if self.in_use() {
            "is being created"
        } else {
            "was never finished (hint: corten gc or delete --force removes it)"
        };
        fail(Kind::WrongStatus, format!("container {:?} {hint}", self.id))
    }

    /// Derives the status from the process and, if it runs, from `frozen`.
    pub(crate) fn status(
        &self,
        record: &Record,
        frozen: impl FnOnce(&CgroupRecord) -> bool,
    ) -> Result<Status> {
        status(record, || self.in_use(), frozen)
    }

    /// Removes the container's directory. The id is free at once. If the command is killed in between, the
    /// leftover hinders no other command.
    pub(crate) fn remove(self) -> Result<()> {
        let _phase = trace::phase("remove the state directory");
        let id = Path::new(&self.id);
        let trash = deleted_name(&self.id);
        match fs::rename(self.root.as_fd(), id, &trash) {
            Err(e) if matches!(e.errno, Errno::ENOTEMPTY | Errno::EEXIST) => {
                // A former `delete` was killed after its rename(2).
                purge(&self.root, &trash)?;
                fs::rename(self.root.as_fd(), id, &trash)?;
            }
            other => other?,
        }
        self.purge_known(&trash)
            .or_else(|_| purge(&self.root, &trash))
            .context("removing the container's state")
    }

    /// Removes the directory with the files that it usually contains, without listing it.
    fn purge_known(&self, trash: &Path) -> sys::Result<()> {
        for name in [CONFIG, STATE] {
            fs::unlinkat(self.fd.as_fd(), Path::new(name))?;
        }
        fs::rmdirat(self.root.as_fd(), trash)
    }
}

#[cfg(test)]
mod tests;
