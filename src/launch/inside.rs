//! A process that changes the mounts of a running container.
//!
//! It is a clone of the runtime, which enters the container's mount namespace, and the user namespace if the
//! container has one. There it has the rights of the container's root and no others, so that nothing is made
//! or attached that the container's root could not make. It stays in the host's other namespaces: a container
//! with a pid namespace of its own does not see it. No process can trace it or open its descriptors.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::program::{become_root, die_with_parent};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::task::{Exit, Forked};
use crate::sys::{fs, task};
use crate::trace;

/// The time limit for the process.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many bytes of an error are passed on.
const LONGEST: usize = 4096;

/// Calls `act` with the container's root, in a process inside. `target` is the pidfd of the container process, and `kinds` are
/// the namespaces to enter (`CLONE_NEW*`). `user` has the user and group of the container's program, for a user namespace that
/// does not map root.
pub(crate) fn inside(
    target: BorrowedFd,
    kinds: i32,
    user: Option<(u32, u32)>,
    act: impl FnOnce(BorrowedFd) -> Result<()>,
) -> Result<()> {
    let message = fs::memfd("error")?;
    match task::clone3(0, None)? {
        Forked::Child => {
            // The trace would take its phases for those of the process that waits for it.
            trace::blind_unless(|| false);
            let enter = || {
                task::set_undumpable()?;
                die_with_parent()?;
                task::setns(target, kinds).context("joining the container's namespaces")?;
                if kinds & libc::CLONE_NEWUSER != 0 {
                    become_root(user)?;
                }
                act(fs::open(fs::CWD, Path::new("/"), fs::O_PATH | fs::O_DIRECTORY, 0)?.as_fd())
            };
            let Err(error) = enter() else { task::exit_now(0) };
            // If this fails too, the exit status still reports a failure.
            let _ = fs::write_open(message.as_fd(), format!("{error:#}").as_bytes());
            task::exit_now(1)
        }
        Forked::Parent { pidfd, .. } => {
            // A file system of the container may never answer.
            if !task::poll_readable(&[pidfd.as_fd()], Some(Instant::now() + PATIENCE))?.contains(&true) {
                task::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
                task::wait_killed(pidfd.as_fd())?;
                let what = format!("the container's file systems did not answer within {PATIENCE:?}");
                return Err(fail(Kind::Os, what));
            }
            if task::wait(pidfd.as_fd())? == Exit::Code(0) {
                return Ok(());
            }
            let mut bytes = [0; LONGEST];
            let read = std::fs::File::from(message).read_at(&mut bytes, 0).unwrap_or(0);
            let said = String::from_utf8_lossy(&bytes[..read]).into_owned();
            Err(fail(Kind::Os, if said.is_empty() { "the process inside was killed".into() } else { said }))
        }
    }
}
