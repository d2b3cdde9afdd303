//! Access for `fuzz/` and `tests/fuzz.rs` to the internal functions that read foreign bytes.

use std::path::PathBuf;

use oci_spec::runtime::Process;
use serde_json::Value;

use crate::cgroups::Write;
use crate::commands;
pub use crate::dbus::Value as BusValue;
use crate::dbus::{
    Call,
    wire::{self, Reply},
};
use crate::error::Result;
use crate::rootfs::no_pivot;

/// Returns the values in a D-Bus message that a peer has sent, or `None` if the message is incomplete.
pub fn read_message(bytes: &[u8]) -> Result<Option<Vec<BusValue>>> {
    let Some(head) = bytes.first_chunk() else { return Ok(None) };
    let message = bytes.get(..wire::length(head)?).map(wire::Message::parse);
    Ok(message.transpose()?.map(|message| message.body))
}

/// Returns a D-Bus message with these values.
#[must_use]
pub fn write_message(body: &[BusValue]) -> Vec<u8> {
    Call { destination: None, path: "/p", interface: "a.B", member: "M", body }.encode(1, Reply::Expected)
}

/// Returns the resources in the configuration that a container was created with.
#[must_use]
pub fn asked(kept: &Value) -> Value {
    commands::update::asked(kept)
}

/// Returns the resources that `update` sets if `asked` is configured and `wanted` is requested.
#[must_use]
pub fn complete(wanted: Value, asked: &Value) -> Value {
    commands::update::complete(wanted, asked)
}

/// Returns the configuration after that update, which wrote these values to these files.
#[must_use]
pub fn kept(asked: Value, effective: Value, written: &[Write]) -> Value {
    commands::update::kept_resources(asked, effective, written)
}

/// Completes a process document from the container's own, as `exec` does.
pub fn inherit(process: &mut Process, own: &Process) {
    commands::exec::inherit(process, own);
}

/// Returns the mount points in a mountinfo that are outside the container whose root is the mount `own`.
#[must_use]
pub fn foreign_mounts(mountinfo: &[u8], own: u64) -> Vec<PathBuf> {
    no_pivot::others(mountinfo, own).into_iter().map(|mount| mount.point).collect()
}
