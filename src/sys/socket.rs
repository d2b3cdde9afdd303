//! Unix sockets: the channel between the two processes, the socket of `start`, and the sockets of other
//! services.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, connect, getsockopt, listen, recv, recvmsg, sendmsg, socket, socketpair,
};

use super::task::poll_until;
use super::{Error, Result, credentials, retry};

/// The most bytes of a message on a channel.
pub(crate) const MESSAGE_MAX: usize = 8192;

/// Returns two connected sockets that preserve message boundaries.
pub(crate) fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|e| Error::new("socketpair()", e))
}

/// Sends one message, with descriptors.
pub fn send(socket: BorrowedFd, bytes: &[u8], fds: &[BorrowedFd]) -> Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    retry(|| {
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .map_err(|e| Error::new("sendmsg()", e))
    })
}

/// Sends one message that consists of parts, without an allocation.
pub(crate) fn send_parts(socket: RawFd, parts: [&[u8]; 2]) -> Result<()> {
    retry(|| {
        sendmsg::<()>(socket, &parts.map(IoSlice::new), &[], MsgFlags::MSG_NOSIGNAL, None)
            .map(drop)
            .map_err(|e| Error::new("sendmsg()", e))
    })
}

/// Receives one message and at most one descriptor. An empty message means that the other end is closed.
pub fn receive(socket: BorrowedFd) -> Result<(Vec<u8>, Option<OwnedFd>)> {
    use std::os::fd::FromRawFd;
    let mut buffer = vec![0u8; MESSAGE_MAX];
    let mut control = cmsg_space!(RawFd);
    let (n, fd) = retry(|| {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)
            .map_err(|e| Error::new("recvmsg()", e))?;
        let mut received = None;
        if let Ok(messages) = message.cmsgs() {
            for part in messages {
                if let ControlMessageOwned::ScmRights(fds) = part {
                    for fd in fds {
                        // SAFETY: the kernel has just put this descriptor into our table.
                        received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
                    }
                }
            }
        }
        Ok((message.bytes, received))
    })?;
    buffer.truncate(n);
    Ok((buffer, fd))
}

/// Calls `act` with an address of `name` in `dir` that fits into `sockaddr_un` even if the path is long.
fn with_address<T>(
    dir: BorrowedFd,
    name: &Path,
    act: impl FnOnce(&UnixAddr) -> nix::Result<T>,
) -> nix::Result<T> {
    let path = super::fs::proc_fd(dir).join(name);
    act(&UnixAddr::new(&path)?)
}

/// Returns a stream socket that listens at `name` in the directory `dir`.
pub(crate) fn listen_at(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let fd = stream()?;
    with_address(dir, name, |address| {
        bind(fd.as_raw_fd(), address)?;
        listen(&fd, Backlog::new(1)?)
    })
    .map_err(|e| Error::new(format!("bind({name:?})"), e))?;
    Ok(fd)
}

/// Returns a stream socket that is connected to `name` in the directory `dir`.
pub(crate) fn connect_at(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let fd = stream()?;
    with_address(dir, name, |address| connect(fd.as_raw_fd(), address))
        .map_err(|e| Error::new(format!("connect({name:?})"), e))?;
    Ok(fd)
}

/// Returns a stream socket that is connected to a path, which may be longer than `sockaddr_un` allows.
pub(crate) fn connect_path(path: &Path) -> Result<OwnedFd> {
    let shown = |e| Error::new(format!("connect({path:?})"), e);
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| shown(Errno::EINVAL))?;
    let dir = super::fs::open(super::fs::CWD, parent, super::fs::O_PATH | super::fs::O_DIRECTORY, 0)?;
    connect_at(dir.as_fd(), Path::new(name)).map_err(|e| shown(e.errno))
}

/// Returns a datagram socket bound to `name` in the directory `dir`. Every user that can reach the name may
/// send to it.
pub(crate) fn datagram_at(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let fd = datagram()?;
    // bind(2) gives the name the mode 0777 without the umask. A later chmod(2) would have to trust the name.
    let umask = credentials::umask(0);
    let bound = with_address(dir, name, |address| bind(fd.as_raw_fd(), address));
    credentials::umask(umask);
    bound.map_err(|e| Error::new(format!("bind({name:?})"), e))?;
    Ok(fd)
}

/// Returns a datagram socket that is connected to the socket of a service.
pub(crate) fn connect_datagram(address: &Address) -> Result<OwnedFd> {
    let shown = |e| Error::new(format!("connect({address})"), e);
    let unix = unix_address(address).map_err(shown)?;
    let fd = datagram()?;
    connect(fd.as_raw_fd(), &unix).map_err(shown)?;
    Ok(fd)
}

/// Reads the next message and returns its length, or `None` if no message is queued. A length above that of
/// the buffer means that the message was truncated. The kernel closes attached descriptors, because the call
/// passes no buffer for control messages (`scm_recv` in include/net/scm.h).
pub(crate) fn take_datagram(socket: BorrowedFd, buffer: &mut [u8]) -> Result<Option<usize>> {
    match retry(|| {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        recv(socket.as_raw_fd(), buffer, flags).map_err(|e| Error::new("recv()", e))
    }) {
        Err(e) if e.errno == Errno::EAGAIN => Ok(None),
        other => other.map(Some),
    }
}

/// Accepts one connection.
pub(crate) fn accept(listener: BorrowedFd) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;
    retry(|| {
        let fd =
            accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC).map_err(|e| Error::new("accept4()", e))?;
        // SAFETY: the kernel has just returned this descriptor to us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })
}

fn stream() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| Error::new("socket()", e))
}

fn datagram() -> Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
        .map_err(|e| Error::new("socket()", e))
}

/// The address of another service's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Path(std::path::PathBuf),
    /// A name in the network namespace, without a file.
    Abstract(Vec<u8>),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{path:?}"),
            // The kernel's files and ss(8) show the first byte, which is 0, as @.
            Self::Abstract(name) => write!(f, "{:?}", format!("@{}", String::from_utf8_lossy(name))),
        }
    }
}

fn unix_address(address: &Address) -> nix::Result<UnixAddr> {
    match address {
        Address::Path(path) => UnixAddr::new(path),
        Address::Abstract(name) => UnixAddr::new_abstract(name),
    }
}

/// Returns a connected stream socket that never blocks. [`read_before`] and [`write_before`] do the waiting.
pub(crate) fn connect_before(address: &Address, deadline: Instant) -> Result<OwnedFd> {
    let shown = |e| Error::new(format!("connect({address})"), e);
    let unix = unix_address(address).map_err(shown)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd =
        socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(|e| Error::new("socket()", e))?;
    loop {
        match connect(fd.as_raw_fd(), &unix) {
            Ok(()) => return Ok(fd),
            Err(Errno::EINTR) => {}
            // The listener's queue is full, and the kernel does not report when it has room again.
            Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(Errno::EAGAIN) => return Err(shown(Errno::ETIMEDOUT)),
            Err(e) => return Err(shown(e)),
        }
    }
}

/// Reads the available bytes, or waits for some. Returns 0 if the other end is closed, and ETIMEDOUT after
/// the deadline even if the peer never stops sending.
pub(crate) fn read_before(socket: BorrowedFd, buffer: &mut [u8], deadline: Instant) -> Result<usize> {
    loop {
        if Instant::now() >= deadline {
            return Err(Error::new("recv()", Errno::ETIMEDOUT));
        }
        match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EAGAIN) => await_socket(socket, PollFlags::POLLIN, "recv()", deadline)?,
            Err(Errno::EINTR) => {}
            other => return other.map_err(|e| Error::new("recv()", e)),
        }
    }
}

/// Writes all bytes. Returns ETIMEDOUT if the other end does not take them before the deadline.
pub(crate) fn write_before(socket: BorrowedFd, mut bytes: &[u8], deadline: Instant) -> Result<()> {
    while !bytes.is_empty() {
        match nix::sys::socket::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::EAGAIN) => await_socket(socket, PollFlags::POLLOUT, "send()", deadline)?,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::new("send()", e)),
        }
    }
    Ok(())
}

fn await_socket(socket: BorrowedFd, events: PollFlags, call: &str, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Error::new(call, Errno::ETIMEDOUT));
    }
    poll_until(&mut [PollFd::new(socket, events)], Some(deadline))
}

/// Returns the id of the process that listened at the other end or created it, or 0 if it is not in the
/// caller's pid namespace or one below.
pub(crate) fn peer_pid(socket: BorrowedFd) -> Result<i32> {
    let credentials = getsockopt(&socket, PeerCredentials);
    credentials.map(|c| c.pid()).map_err(|e| Error::new("getsockopt(SO_PEERCRED)", e))
}
