//! rtnetlink(7), as far as moving a network interface needs it. A socket belongs for ever to the network namespace in
//! which it was made.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Error, Result, retry};

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_GETLINK: u16 = 18;
pub const RTM_NEWADDR: u16 = 20;
pub const RTM_GETADDR: u16 = 22;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
/// Everything there is, instead of one.
pub const DUMP: u16 = 0x300;
/// Make it, if it is not there.
pub const CREATE: u16 = 0x400;

const HEADER: usize = 16;
const MSG_ERROR: u16 = 2;
const MSG_DONE: u16 = 3;

/// A socket to the kernel's rtnetlink.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// In the network namespace that we are in.
    pub fn open() -> Result<Self> {
        let error = |e| Error::new("socket(AF_NETLINK)", e);
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute);
        let fd = fd.map_err(error)?;
        // The kernel answers at once; a wait that would not end is not ours to have.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(10)).map_err(error)?;
        Ok(Self(fd))
    }

    /// Sends a request, and gives the bodies of what is answered. `call` is how an error shows it.
    pub fn request(&self, kind: u16, flags: u16, body: &[u8], call: &str) -> Result<Vec<Vec<u8>>> {
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
                    // With 0 for an error it is only the acknowledgement.
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

/// The first `N` bytes.
#[must_use]
pub fn first<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.get(..N)?.try_into().ok()
}

/// `struct nlmsghdr` and the body.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + body.len());
    out.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Sequence number and port: one request at a time needs neither.
    out.extend([0; 8]);
    out.extend(body);
    out
}

/// The messages in what was received: kind and body.
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
pub fn push(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

/// The attributes after the first `skip` bytes of a body.
#[must_use]
pub fn attributes(body: &[u8], skip: usize) -> Vec<(u16, &[u8])> {
    let mut rest = body.get(skip..).unwrap_or_default();
    let mut all = Vec::new();
    while let (Some(len), Some(kind)) = (first(rest), rest.get(2..).and_then(first)) {
        let len = u16::from_ne_bytes(len) as usize;
        let Some(value) = rest.get(4..len) else { break };
        // The two highest bits are flags of netlink's own.
        all.push((u16::from_ne_bytes(kind) & 0x3fff, value));
        rest = rest.get(aligned(len)..).unwrap_or_default();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut body = vec![9; 8];
        push(&mut body, 3, b"eth0\0");
        push(&mut body, 28, &7u32.to_ne_bytes());
        assert_eq!(body.len(), 8 + 12 + 8);
        assert_eq!(attributes(&body, 8), [(3, &b"eth0\0"[..]), (28, &7u32.to_ne_bytes()[..])]);
        let both = [message(16, 5, &body), message(3, 0, &[])].concat();
        assert_eq!(messages(&both), [(16, &body[..]), (3, &[][..])]);
    }

    #[test]
    fn what_is_cut_short_is_left_out() {
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
