//! The one thing that a new network namespace needs from us.

use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, Result, check};

/// Sets the loopback interface of our network namespace up; the kernel gives it its addresses then.
pub fn loopback_up() -> Result<()> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| Error::new("socket()", e))?;
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (to, from) in ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    // IFF_RUNNING is the kernel's to set; a fresh interface has no other flag to keep but IFF_LOOPBACK, which it does
    // not let us change.
    let ifru_flags = libc::IFF_UP as libc::c_short;
    let request = libc::ifreq { ifr_name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags } };
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which is alive.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    check(ret.into(), || "ioctl(SIOCSIFFLAGS, lo)".into()).map(drop)
}
