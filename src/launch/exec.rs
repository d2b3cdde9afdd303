//! The runtime side of `exec`: starts one more process in a container.
//!
//! If the container has a pid namespace, `exec` enters its mount, network and pid namespaces by the
//! container's pidfd, clones into the container's cgroup, and returns to its own namespaces. It enters the
//! network and mount namespaces too, because `/proc/PID/mountinfo` and `/proc/PID/net` require no right: a
//! process in the container's pid namespace and in the host's other namespaces would show the host to
//! everyone inside. The new process enters the remaining namespaces itself. With a user namespace, an
//! intermediate process enters all of them instead (`enter.rs`).
//!
//! The new process ends in the same `program::find`, `settle` and `run` as the container process. A member
//! that its process document omits is taken from the container's configuration (`commands/exec.rs`). The
//! process itself looks up a user's name, inside the container: whatever the image's passwd and group make it
//! open is then subject to the device filter and the limits of the container's cgroup.
//!
//! Its cgroup is the one on record if the container process is in it or below. If an administrator has moved
//! the container process, it is the cgroup of that process. It is never the caller's.

use super::enter::Entry;
pub(crate) use super::enter::Request;
use super::process::{Process, send_pidfd};
use super::spawn::{Child, Target, spawn};
use super::watch::Watch;
use crate::cgroups::{Cgroup, systemd};
use crate::error::Result;
use crate::namespaces::Stages;
use crate::process::affinity;
use crate::state::Status;
use crate::sys::task;
use crate::{intel_rdt, log, trace};

/// Starts the process, whose program runs when this returns. Until then, one of [`ENDS`](crate::sys::signal::ENDS) ends it.
pub(crate) fn exec(request: &Request) -> Result<Process> {
    let _phase = trace::phase("exec");
    let caller = request.caller;
    let [console_socket, pidfd_socket] = caller.connect()?;
    let relays = request.process.terminal && console_socket.is_none();
    let entry = Entry::open(request)?;
    if let Some(cpus) = &request.process.affinity.initial {
        // The clone inherits it, and so it is in force before the process joins the container's cgroup.
        affinity::apply(cpus)?;
        log::debug(|| format!("nsexec: affinity: {}", cpus.mask()));
    }
    let record = request.record;
    let watch = Watch::new(record.cgroup.clone().filter(|_| request.status == Status::Paused))?;
    let stages = entry.stages;
    let child = Child {
        caller,
        target: Target::Existing(entry),
        stages,
        kinds: 0,
        // The container's processes are about to see this one, and must not be able to look into it. A user could not set
        // the limits of a hidden process: the intermediate process hides before it enters.
        hidden: stages == Stages::Direct || task::euid() == 0,
        waits: stages == Stages::Intermediate,
        cgroup: request.cgroup,
        cgroup_joins: request.cgroup.map_or(Ok(Vec::new()), Cgroup::join_fds)?,
        // It is no child of the container process, and so not born in its class.
        class_joins: record.intel_rdt.as_ref().map_or(Ok(Vec::new()), intel_rdt::join_fds)?,
        console_socket,
    };
    let (process, unit) = spawn(child, Some(watch))?;
    process.or_kill(|process| {
        unit.map_or(Ok(()), |unit| systemd::attach(unit, process.pid))?;
        process.prepare(Some(request.process), None, caller.proc())?;
        process.await_setup(relays)?;
        log::debug(|| "setns_init: about to exec".into());
        process.start(request.seccomp, record, request.status)?;
        send_pidfd(&process.pidfd, pidfd_socket.as_ref())?;
        caller.write_pid_file(process.pid)
    })
}
