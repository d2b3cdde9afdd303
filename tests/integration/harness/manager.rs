//! The part of a service manager that receives notifications. It listens at the address in `NOTIFY_SOCKET` and
//! records them.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, RawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};

use super::poll;

/// A received message.
#[derive(Clone, Debug)]
pub struct Heard {
    pub text: String,
    pub descriptors: usize,
    /// The sender's pid, which the kernel has filled in.
    pub pid: i32,
}

pub struct Manager {
    /// The value for `NOTIFY_SOCKET`.
    pub address: String,
    socket: Arc<UnixDatagram>,
    heard: Arc<Mutex<Vec<Heard>>>,
    /// The directory that the address goes through.
    _dir: Option<File>,
}

impl Manager {
    /// Listens in a directory. The path of a test's directory can be too long for a socket's address, so the
    /// address goes through a descriptor.
    pub fn listen(dir: &Path) -> Self {
        let dir = File::open(dir).unwrap();
        let address = format!("/proc/{}/fd/{}/manager", std::process::id(), dir.as_raw_fd());
        let socket = UnixDatagram::bind(&address).unwrap();
        Self::hear(address, socket, Some(dir))
    }

    /// Listens at an abstract name in the network namespace.
    pub fn listen_abstract(name: &str) -> Self {
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap();
        Self::hear(format!("@{name}"), socket, None)
    }

    fn hear(address: String, socket: UnixDatagram, dir: Option<File>) -> Self {
        let socket = Arc::new(socket);
        setsockopt(&*socket, sockopt::PassCred, &true).unwrap();
        let heard = Arc::<Mutex<Vec<Heard>>>::default();
        let (reader, list) = (socket.clone(), heard.clone());
        std::thread::spawn(move || {
            while let Some(message) = next(&reader) {
                list.lock().unwrap().push(message);
            }
        });
        Self { address, socket, heard, _dir: dir }
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Returns the lines of all messages.
    pub fn lines(&self) -> Vec<String> {
        self.heard().iter().flat_map(|heard| heard.text.lines().map(Into::into).collect::<Vec<_>>()).collect()
    }

    pub fn until(&self, line: &str) {
        let heard = poll(Duration::from_secs(10), || self.lines().iter().any(|heard| heard == line));
        assert!(heard, "{line} has not arrived, only {:?}", self.heard());
    }

    /// Forgets all messages.
    pub fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if self.address.starts_with('/') {
            let _ = std::fs::remove_file(&self.address);
        }
    }
}

/// Reads the next message. Its descriptors are closed at once, which is the answer to `BARRIER=1`.
fn next(socket: &UnixDatagram) -> Option<Heard> {
    let mut buffer = [0; 8192];
    let mut control = nix::cmsg_space!([RawFd; 16], nix::sys::socket::UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    let (mut descriptors, mut pid) = (0, 0);
    for part in message.cmsgs().unwrap() {
        match part {
            ControlMessageOwned::ScmRights(fds) => {
                descriptors += fds.len();
                fds.into_iter().for_each(|fd| nix::unistd::close(fd).unwrap());
            }
            ControlMessageOwned::ScmCredentials(credentials) => pid = credentials.pid(),
            _ => {}
        }
    }
    let length = message.bytes;
    if length == 0 && pid == 0 {
        return None;
    }
    Some(Heard { text: String::from_utf8_lossy(&buffer[..length]).into_owned(), descriptors, pid })
}
