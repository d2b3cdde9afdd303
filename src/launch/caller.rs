//! What the caller of `create`, `run` or `exec` gives to the new process, and how the caller learns of the
//! process.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Context, Kind, Result, fail};
use crate::host::Host;
use crate::process::env;
use crate::sys::{self, socket};
use crate::trace;

/// The surroundings of a new process that its configuration does not describe. All paths are absolute.
pub(crate) struct Caller {
    pub host: Host,
    pub service: env::Service,
    /// Descriptors that the program inherits in addition to the standard streams.
    pub preserved: Vec<i32>,
    pub console_socket: Option<PathBuf>,
    pub pidfd_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
}

impl Caller {
    /// The root of the host's procfs.
    pub(super) fn proc(&self) -> BorrowedFd<'_> {
        self.host.proc.as_fd()
    }

    /// Connects to `--console-socket`, which receives the terminal's master, and `--pidfd-socket`.
    pub(super) fn connect(&self) -> Result<[Option<OwnedFd>; 2]> {
        let connect = |path: &Option<PathBuf>, option| {
            let at = |path: &Path| format!("{option} {}", path.display());
            path.as_deref().map(|path| socket::connect_path(path).with_context(|| at(path))).transpose()
        };
        let console = connect(&self.console_socket, "--console-socket")?;
        Ok([console, connect(&self.pidfd_socket, "--pidfd-socket")?])
    }

    pub(super) fn write_pid_file(&self, pid: i32) -> Result<()> {
        self.pid_file.as_deref().map_or(Ok(()), |path| write_pid_file(path, pid))
    }
}

/// Writes a process id without a newline, which containerd could not parse. The file appears by rename: a reader finds the
/// whole number or no file.
fn write_pid_file(path: &Path, pid: i32) -> Result<()> {
    let _phase = trace::phase("write the pid file");
    let at = || format!("--pid-file {}", path.display());
    let invalid = || fail(Kind::Usage, format!("{}: is not the name of a file", at()));
    let name = path.file_name().ok_or_else(invalid)?;
    let part = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    // The file must be new: in a directory that all users can write to, a link of that name could lead anywhere.
    let mut file = std::fs::File::create_new(&part)
        .map_err(|e| sys::Error::of_std(format!("open({part:?})"), &e))
        .with_context(at)?;
    let written = file.write_all(pid.to_string().as_bytes());
    let written = written.map_err(|e| sys::Error::of_std("write", &e)).and_then(|()| {
        std::fs::rename(&part, path)
            .map_err(|e| sys::Error::of_std(format!("rename({part:?}, {path:?})"), &e))
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    }
    written.with_context(at)
}
