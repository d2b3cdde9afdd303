//! CRIU, the program that saves the processes of a container in files and creates them again from those files.
//!
//! corten runs `criu swrk` and talks to it over a socket, one message at a time ([`message`]). CRIU reports
//! its steps as notifications, and waits for the answer to each ([`session`]). After an error, what CRIU has
//! written to its log says why ([`log`]).
//!
//! This module knows the requests and the answers. Which processes, mounts and descriptors they are about is
//! decided in `launch/dump.rs` and `launch/restore.rs`.

pub(crate) mod log;
pub(crate) mod message;
pub(crate) mod session;
pub(crate) mod stats;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Context, Kind, Result, fail};
use crate::host;
use crate::sys::{self, fs};

/// The files that CRIU writes into the work directory for a dump, and for a restore.
pub(crate) const DUMP_LOG: &str = "dump.log";
pub(crate) const RESTORE_LOG: &str = "restore.log";

/// The file in the directory of the images that names what the standard streams were, as runc keeps it.
pub(crate) const DESCRIPTORS: &str = "descriptors.json";

/// What `checkpoint` and `restore` both ask of CRIU, beside what follows from the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub tcp_established: bool,
    pub ext_unix_sk: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub lazy_pages: bool,
    pub auto_dedup: bool,
    /// `None` is CRIU's default, which is soft.
    pub cgroups_mode: Option<message::CgroupsMode>,
}

/// The directory of the images, and that of CRIU's log and statistics.
pub(crate) struct Directories {
    pub images: OwnedFd,
    pub work: OwnedFd,
    images_path: PathBuf,
    pub work_path: PathBuf,
}

impl Directories {
    /// Opens the directories, and makes those that are missing, with the mode 0700: memory contains secrets. Without a
    /// `work` directory it is that of the images.
    pub(crate) fn make(images: &Path, work: Option<&Path>) -> Result<Self> {
        Self::with(images, work, make_and_open)
    }

    /// Opens the directories for a restore. That of the images must exist.
    pub(crate) fn open(images: &Path, work: Option<&Path>) -> Result<Self> {
        Self::with(images, work, open)
    }

    fn with(images: &Path, work: Option<&Path>, open: fn(&Path) -> sys::Result<OwnedFd>) -> Result<Self> {
        let absolute = |path: &Path, option| std::path::absolute(path).with_context(|| at(option, path));
        let images_path = absolute(images, "--image-path")?;
        let work_path = absolute(work.unwrap_or(images), "--work-path")?;
        let images = open(&images_path).with_context(|| at("--image-path", images))?;
        let work = make_and_open(&work_path).with_context(|| at("--work-path", &work_path))?;
        Ok(Self { images, work, images_path, work_path })
    }

    /// Opens them again, under the same numbers, in the mount namespace of the calling process. CRIU mounts in the work
    /// directory, which the kernel allows only with a descriptor of its own namespace.
    pub(crate) fn reopen(&self) -> Result<()> {
        for (fd, path) in [(&self.images, &self.images_path), (&self.work, &self.work_path)] {
            let again = open(path)?;
            let id = |fd: &OwnedFd| fs::fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino));
            if id(fd)? != id(&again)? {
                return Err(fail(Kind::Os, format!("{} has been replaced", path.display())));
            }
            fs::redirect(fd.as_fd(), again.as_fd())?;
        }
        Ok(())
    }

    /// Removes files that CRIU writes into the work directory. Those of an earlier call must not be taken for its own.
    pub(crate) fn clear(&self, names: [&str; 2]) -> Result<()> {
        names.into_iter().try_for_each(|name| remove(self.work.as_fd(), name))
    }

    /// Replaces that of the images, under the same number.
    pub(crate) fn replace_images(&self, images: BorrowedFd) -> Result<()> {
        Ok(fs::redirect(self.images.as_fd(), images)?)
    }

    /// Returns the numbers of their descriptors.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        vec![self.images.as_raw_fd(), self.work.as_raw_fd()]
    }
}

/// Removes a file, if it exists.
pub(crate) fn remove(dir: BorrowedFd, name: &str) -> Result<()> {
    let path = Path::new(name);
    let unlink = || fs::unlinkat(dir, path);
    fs::existing(dir, path, unlink).context(name.to_string()).map(drop)
}

fn at(option: &str, path: &Path) -> String {
    format!("{option} {}", path.display())
}

fn open(path: &Path) -> sys::Result<OwnedFd> {
    fs::open(fs::CWD, path, fs::O_RDONLY | fs::O_DIRECTORY, 0)
}

fn make_and_open(path: &Path) -> sys::Result<OwnedFd> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| sys::Error::of_std(format!("mkdir({path:?})"), &e))?;
    open(path)
}

/// Returns the path of the CRIU program: `given` (`--criu`), or `criu` in `PATH`.
pub(crate) fn program(given: Option<&Path>) -> Result<PathBuf> {
    let name = given.unwrap_or(Path::new("criu"));
    if name.as_os_str().as_encoded_bytes().contains(&b'/') {
        return std::path::absolute(name).with_context(|| at("--criu", name));
    }
    host::in_path(name).ok_or_else(|| {
        let text =
            format!("the program {} is not in PATH (hint: install CRIU, or --criu PATH)", name.display());
        fail(Kind::Unsupported, text)
    })
}

/// Returns the version of CRIU as one number, such as 40101 for 4.1.1, and as text.
pub(crate) fn version(told: &message::Version) -> (u32, String) {
    let (major, minor, sub) = (told.major, told.minor, told.sublevel.unwrap_or(0));
    let number = (major.max(0) as u32).saturating_mul(10_000)
        + (minor.clamp(0, 99) as u32) * 100
        + sub.clamp(0, 99) as u32;
    let text = if sub == 0 { format!("{major}.{minor}") } else { format!("{major}.{minor}.{sub}") };
    (number, text)
}
