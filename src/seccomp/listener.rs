//! Hands the descriptor of a filter with SCMP_ACT_NOTIFY to the agent that answers its questions: one connection to
//! `listenerPath`, one message with the container process state as JSON and the descriptor
//! (config-linux.md#containerprocessstate).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Context, Result};
use crate::sys;

/// The name of the only descriptor that is sent: the spec's word for it.
const SECCOMP_FD: &str = "seccompFd";

/// The container process state; `state` is the container's, as `state` prints it.
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

/// Sends the descriptor with the rendered state. Closing the connection marks the state's end.
pub fn send(listener: BorrowedFd, path: &Path, state: &[u8]) -> Result<()> {
    let place = || format!("linux.seccomp.listenerPath {path:?}");
    let socket = sys::socket::connect_path(path).with_context(place)?;
    sys::socket::send(socket.as_fd(), state, &[listener]).with_context(place)
}
