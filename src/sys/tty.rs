//! Pseudo-terminals.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{Error, Result, check, check_fd};

/// Unlocks the master's slave and opens it, without walking a path that a container could have prepared.
pub fn open_slave(master: BorrowedFd) -> Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which is alive.
    let ret = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    check(ret.into(), || "ioctl(TIOCSPTLCK)".into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let ret = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    check_fd(ret.into(), || "ioctl(TIOCGPTPEER)".into())
}

/// Makes `slave` the controlling terminal of our new session.
pub fn set_controlling(slave: BorrowedFd) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    let ret = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    check(ret.into(), || "ioctl(TIOCSCTTY)".into()).map(drop)
}

/// Sets a terminal's size in character cells.
pub fn set_size(tty: BorrowedFd, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which is alive.
    let ret = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    check(ret.into(), || "ioctl(TIOCSWINSZ)".into()).map(drop)
}

/// A terminal's size, or nothing if `fd` is not one.
#[must_use]
pub fn size(fd: BorrowedFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize, which is alive.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (ret == 0).then_some((size.ws_row, size.ws_col))
}

/// Puts the user's terminal into raw mode and gives it back as it was when dropped.
pub struct Raw {
    tty: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Nothing if `fd` is not a terminal.
    #[must_use]
    pub fn new(fd: BorrowedFd) -> Option<Self> {
        let before = tcgetattr(fd).ok()?;
        let tty = fd.try_clone_to_owned().ok()?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(tty.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { tty, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // The terminal may be gone; there is nobody left to tell.
        let _ = tcsetattr(self.tty.as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Makes reads and writes of it fail with EAGAIN instead of waiting.
pub fn set_nonblocking(fd: BorrowedFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|e| Error::new("fcntl(F_SETFL)", e))
}

/// Makes the descriptor the process's standard input, output and error.
pub fn become_stdio(tty: BorrowedFd) -> Result<()> {
    for number in 0..=2 {
        replace(tty, number)?;
    }
    Ok(())
}

/// Puts a copy of `fd` in the place of standard descriptor `number`.
pub fn replace(fd: BorrowedFd, number: i32) -> Result<()> {
    match number {
        0 => dup2_stdin(fd),
        1 => dup2_stdout(fd),
        2 => dup2_stderr(fd),
        _ => Err(Errno::EBADF),
    }
    .map_err(|e| Error::new(format!("dup2({number})"), e))
}
