//! The loopback interface, which is down in a new network namespace.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, Result, check};

/// Sets the loopback interface of the caller's network namespace up. The kernel then gives it its addresses.
pub(crate) fn loopback_up() -> Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| Error::new("socket()", e))?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // A new interface has only IFF_LOOPBACK set, which the kernel does not let us change. IFF_RUNNING is set
    // by the kernel.
    let ifru_flags = libc::IFF_UP as libc::c_short;
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    // SAFETY: SIOCSIFFLAGS reads a live ifreq.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    check(ret.into(), || "ioctl(SIOCSIFFLAGS, lo)".into()).map(drop)
}
