//! rtnetlink(7) for moving a network interface. A socket always belongs to the network namespace in which it
//! was created.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Error, Result, retry};

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_GETADDR: u16 = 22;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Requests all objects instead of one.
pub(crate) const DUMP: u16 = 0x300;
/// Creates the object if it does not exist.
pub(crate) const CREATE: u16 = 0x400;

const HEADER: usize = 16;
const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;

/// An rtnetlink socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket in the caller's network namespace.
    pub(crate) fn open() -> Result<Self> {
        let error = |e| Error::new("socket(AF_NETLINK)", e);
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute);
        let fd = fd.map_err(error)?;
        // The kernel answers at once. Without a limit, an answer that never comes would block us for ever.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).map_err(error)?;
        Ok(Self(fd))
    }

    /// Sends a request and returns the bodies of the answers. `call` names the request in errors.
    pub(crate) fn request(&self, kind: u16, flags: u16, body: &[u8], call: &str) -> Result<Vec<Vec<u8>>> {
        let error = |e| Error::new(format!("rtnetlink({call})"), e);
        let flags = REQUEST | flags | if flags & DUMP == DUMP { 0 } else { ACK };
        let message = message(kind, flags, body);
        let fd = self.0.as_raw_fd();
        retry(|| send(fd, &message, MsgFlags::empty()).map_err(error))?;
        let (mut bodies, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        loop {
            let n = retry(|| recv(fd, &mut buffer, MsgFlags::empty()).map_err(error))?;
            for (kind, body) in messages(&buffer[..n]) {
                match kind {
                    // The error 0 is an acknowledgement.
                    MSG_ERROR => match i32::from_ne_bytes(first(body).ok_or_else(|| error(Errno::EPROTO))?) {
                        0 => return Ok(bodies),
                        code => return Err(error(Errno::from_raw(-code))),
                    },
                    MSG_DONE => return Ok(bodies),
                    _ => bodies.push(body.to_vec()),
                }
            }
        }
    }
}

/// Returns the first `N` bytes, or `None` if there are fewer.
#[must_use]
pub(crate) fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(..N)?.try_into().ok()
}

/// Returns a message: `struct nlmsghdr` and the body.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // The sequence number and the port are 0: they are not needed for one request at a time.
    out.extend([0; 8]);
    out.extend(body);
    out
}

/// Splits received bytes into messages: kind and body.
fn messages(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut all = Vec::new();
    while let (Some(len), Some(kind)) = (first(bytes), bytes.get(4..).and_then(first)) {
        let len = u32::from_ne_bytes(len) as usize;
        let Some(body) = bytes.get(HEADER..len) else { break };
        all.push((u16::from_ne_bytes(kind), body));
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    all
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Adds an attribute (`struct rtattr`) to a body.
pub(crate) fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

/// Returns the attributes after the first `skip` bytes of a body: kind and value.
#[must_use]
pub(crate) fn attributes(body: &[u8], skip: usize) -> Vec<(u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    let mut all = Vec::new();
    while let (Some(len), Some(kind)) = (first(rest), rest.get(2..).and_then(first)) {
        let len = u16::from_ne_bytes(len) as usize;
        let Some(value) = rest.get(4..len) else { break };
        // The two highest bits are netlink's own flags.
        all.push((u16::from_ne_bytes(kind) & 0x3fff, value));
        rest = rest.get(aligned(len)..).unwrap_or_default();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_messages_and_attributes_are_read_back() {
        let mut body = vec![9; 8];
        push(&mut body, 3, b"eth0\0");
        push(&mut body, 28, &7u32.to_ne_bytes());
        assert_eq!(body.len(), 8 + 12 + 8);
        assert_eq!(attributes(&body, 8), [(3, &b"eth0\0"[..]), (28, &7u32.to_ne_bytes()[..])]);
        let both = [message(16, 5, &body), message(3, 0, &[])].concat();
        assert_eq!(messages(&both), [(16, &body[..]), (3, &[][..])]);
    }

    #[test]
    fn truncated_messages_and_attributes_are_skipped() {
        let whole = message(16, 0, &[1; 12]);
        for n in 0..whole.len() {
            assert_eq!(messages(&whole[..n]), []);
        }
        let mut body = Vec::new();
        push(&mut body, 1, &[1; 6]);
        for n in 0..10 {
            assert_eq!(attributes(&body[..n], 0), []);
        }
        assert_eq!(attributes(&[0; 8], 0), []);
    }
}
