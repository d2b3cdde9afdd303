//! Unix sockets: the channel between the two processes, the socket that `start` uses, console sockets.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use nix::cmsg_space;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, connect, listen, recvmsg, sendmsg, socket, socketpair,
};

use super::{Error, Result, retry};

/// The longest message on a channel.
pub const MESSAGE_MAX: usize = 8192;

/// Two connected ends that keep message borders.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
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

/// Receives one message and at most one descriptor. No bytes: the other end is closed.
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

/// Calls `act` with an address for `name` in `dir` that fits `sockaddr_un` however long the path is.
fn with_address<T>(
    dir: BorrowedFd,
    name: &Path,
    act: impl FnOnce(&UnixAddr) -> nix::Result<T>,
) -> nix::Result<T> {
    let path = super::fs::proc_fd(dir).join(name);
    act(&UnixAddr::new(&path)?)
}

/// A stream socket listening at `name` in the directory `dir`.
pub fn listen_at(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let fd = stream()?;
    with_address(dir, name, |address| {
        bind(fd.as_raw_fd(), address)?;
        listen(&fd, Backlog::new(1)?)
    })
    .map_err(|e| Error::new(format!("bind({name:?})"), e))?;
    Ok(fd)
}

/// A stream socket connected to `name` in the directory `dir`.
pub fn connect_at(dir: BorrowedFd, name: &Path) -> Result<OwnedFd> {
    let fd = stream()?;
    with_address(dir, name, |address| connect(fd.as_raw_fd(), address))
        .map_err(|e| Error::new(format!("connect({name:?})"), e))?;
    Ok(fd)
}

/// A stream socket connected to an engine's path of any length.
pub fn connect_path(path: &Path) -> Result<OwnedFd> {
    let shown = |e| Error::new(format!("connect({path:?})"), e);
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| shown(nix::errno::Errno::EINVAL))?;
    let dir = super::fs::open(super::fs::CWD, parent, super::fs::O_PATH | super::fs::O_DIRECTORY, 0)?;
    connect_at(dir.as_fd(), Path::new(name)).map_err(|e| shown(e.errno))
}

/// Accepts one connection.
pub fn accept(listener: BorrowedFd) -> Result<OwnedFd> {
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
