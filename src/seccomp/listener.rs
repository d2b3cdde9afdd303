//! Sends the descriptor of a filter with SCMP_ACT_NOTIFY to the agent that answers for its calls: in one
//! message on one connection to `listenerPath`, with the container process state as JSON
//! (config-linux.md#containerprocessstate).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Context, Result};
use crate::sys;

/// The specification's name for the only descriptor that is sent.
const SECCOMP_FD: &str = "seccompFd";

/// Returns the container process state. `state` is the container's state, as `corten state` prints it.
#[must_use]
pub fn process_state(oci_version: &str, pid: i32, metadata: Option<&str>, state: Value) -> Value {
    let mut value = json!({
        "ociVersion": oci_version,
        "fds": [SECCOMP_FD],
        "pid": pid,
        "state": state,
    });
    if let (Some(metadata), Some(members)) = (metadata, value.as_object_mut()) {
        members.insert("metadata".into(), metadata.into());
    }
    value
}

/// Sends the descriptor with the rendered state. The end of the connection marks the end of the state.
pub fn send(listener: BorrowedFd, path: &Path, state: &[u8]) -> Result<()> {
    let place = || format!("linux.seccomp.listenerPath {path:?}");
    let agent = || format!("{}: failed to connect with seccomp agent", place());
    let socket = sys::socket::connect_path(path).with_context(agent)?;
    sys::socket::send(socket.as_fd(), state, &[listener]).with_context(place)
}
