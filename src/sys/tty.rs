//! Pseudo-terminals.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::{Error, Result, check, check_fd};

/// Unlocks and opens the slave of a master. No path is walked, because a container could have prepared one.
pub(crate) fn open_slave(master: BorrowedFd) -> Result<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one live int.
    let ret = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    check(ret.into(), || "ioctl(TIOCSPTLCK)".into())?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value.
    let ret = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    check_fd(ret.into(), || "ioctl(TIOCGPTPEER)".into())
}

/// Makes `slave` the controlling terminal of the caller's new session.
pub(crate) fn set_controlling(slave: BorrowedFd) -> Result<()> {
    // SAFETY: TIOCSCTTY takes a number.
    let ret = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    check(ret.into(), || "ioctl(TIOCSCTTY)".into()).map(drop)
}

/// Sets a terminal's size in character cells.
pub fn set_size(tty: BorrowedFd, rows: u16, columns: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a live winsize.
    let ret = unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    check(ret.into(), || "ioctl(TIOCSWINSZ)".into()).map(drop)
}

/// Returns the size of a terminal (rows, columns), or `None` if `fd` is not a terminal.
#[must_use]
pub fn size(fd: BorrowedFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a live winsize.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (ret == 0).then_some((size.ws_row, size.ws_col))
}

/// Makes a terminal pass on the newlines that its programs write, without a carriage return before them
/// (`ONLCR` of termios(3)).
pub(crate) fn keep_newlines(tty: BorrowedFd) -> Result<()> {
    let mut mode = tcgetattr(tty).map_err(|e| Error::new("tcgetattr()", e))?;
    mode.output_flags.remove(OutputFlags::ONLCR);
    tcsetattr(tty, SetArg::TCSANOW, &mode).map_err(|e| Error::new("tcsetattr()", e))
}

/// A terminal in raw mode. Dropping the value restores the former mode.
pub(crate) struct Raw {
    tty: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Puts a terminal into raw mode. Returns `None` if `fd` is not a terminal.
    #[must_use]
    pub(crate) fn new(fd: BorrowedFd) -> Option<Self> {
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
        // The terminal may have vanished. Then there is nothing to restore.
        let _ = tcsetattr(self.tty.as_fd(), SetArg::TCSANOW, &self.before);
    }
}

/// Reports that a terminal changes: a program opens it and reads or writes, or closes it. poll(2) reports a closed one all the
/// time.
pub(crate) struct Changes(Epoll);

impl Changes {
    pub(crate) fn of(master: BorrowedFd) -> Result<Self> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|e| Error::new("epoll_create1()", e))?;
        let change = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        let added = epoll.add(master, EpollEvent::new(change, 0));
        added.map(|()| Self(epoll)).map_err(|e| Error::new("epoll_ctl(terminal)", e))
    }

    /// Returns a descriptor that can be read after a change, until [`Changes::take`].
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }

    pub(crate) fn take(&self) -> Result<()> {
        let taken = self.0.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO);
        taken.map(drop).map_err(|e| Error::new("epoll_wait(terminal)", e))
    }
}

/// Makes reads and writes fail with EAGAIN instead of waiting.
pub(crate) fn set_nonblocking(fd: BorrowedFd) -> Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK))
        .map(drop)
        .map_err(|e| Error::new("fcntl(F_SETFL)", e))
}

/// Makes a terminal the standard input, output and error of this process.
pub(crate) fn become_stdio(tty: BorrowedFd) -> Result<()> {
    for number in 0..=2 {
        replace(tty, number)?;
    }
    Ok(())
}

/// Replaces the standard stream `number` (0, 1 or 2) by a copy of `fd`.
pub(crate) fn replace(fd: BorrowedFd, number: i32) -> Result<()> {
    match number {
        0 => dup2_stdin(fd),
        1 => dup2_stdout(fd),
        2 => dup2_stderr(fd),
        _ => Err(Errno::EBADF),
    }
    .map_err(|e| Error::new(format!("dup2({number})"), e))
}
