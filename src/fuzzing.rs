//! The door through which `fuzz/` and `tests/fuzz.rs` reach what is read from others and is nobody's interface.

use std::path::PathBuf;

use oci_spec::runtime::Process;
use serde_json::Value;

use crate::cgroups::Write;
pub use crate::cgroups::dbus::Value as BusValue;
use crate::cgroups::dbus::{Call, wire};
use crate::commands;
use crate::error::Result;
use crate::rootfs::moved;

/// The values in a D-Bus message that a peer has sent; `None` if more bytes are to come.
pub fn read_message(bytes: &[u8]) -> Result<Option<Vec<BusValue>>> {
    let Some(head) = bytes.first_chunk() else { return Ok(None) };
    let message = bytes.get(..wire::length(head)?).map(wire::Message::parse);
    Ok(message.transpose()?.map(|message| message.body))
}

/// A D-Bus message with these values.
#[must_use]
pub fn write_message(body: &[BusValue]) -> Vec<u8> {
    Call { destination: None, path: "/p", interface: "a.B", member: "M", body }.encode(1, true)
}

/// The resources in the configuration that is kept of a container.
#[must_use]
pub fn asked(kept: &Value) -> Value {
    commands::update::asked(kept)
}

/// What `update` sets where `asked` is configured and `wanted` is said.
#[must_use]
pub fn complete(wanted: Value, asked: &Value) -> Value {
    commands::update::complete(wanted, asked)
}

/// What is configured after that, if `effective` has come to these writes.
#[must_use]
pub fn kept(asked: Value, effective: Value, written: &[Write]) -> Value {
    commands::update::kept_resources(asked, effective, written)
}

/// What `exec` makes of a process document, beside the container's own.
pub fn inherit(process: &mut Process, own: &Process) {
    commands::exec::inherit(process, own);
}

/// The mount points in a mountinfo that are not of the container whose root is the mount `own`.
#[must_use]
pub fn foreign_mounts(mountinfo: &[u8], own: u64) -> Vec<PathBuf> {
    moved::others(mountinfo, own).into_iter().map(|mount| mount.point).collect()
}
