//! Launching: `create` and `exec` carry out a plan in two processes, the runtime's and the container's.
//!
//! The container process is a clone, which has the plan by inheritance. A channel between the two carries
//! events, descriptors and at most one error.
//!
//! * The runtime's side: [`create`](create()) and [`exec`](exec::exec) prepare, `spawn` clones for both, and
//!   `process` is their handle of the clone until its program runs.
//! * Each process: `init` for the container's first one, `enter` for one of `exec`, with what the runtime does
//!   for it around the clone. Both end in `program`.
//! * `inside` is a process that changes the mounts of a running container.
//! * `criu` is the process that becomes CRIU. `dump` saves a container, `restore` creates one from the files.
//! * [`destroy`](destroy()) removes what `create` has made.

mod caller;
mod channel;
mod create;
mod criu;
mod destroy;
mod dump;
mod enter;
pub(crate) mod exec;
pub(crate) mod foreground;
mod images;
mod init;
mod inside;
pub(crate) mod notify;
mod process;
mod program;
mod restore;
mod spawn;
mod watch;

pub(crate) use caller::Caller;
pub(crate) use create::{Launched, Request, Start, create};
pub(crate) use criu::version as criu_version;
pub(crate) use destroy::{destroy, destroy_cgroup, undo};
pub(crate) use dump::Dump;
pub(crate) use inside::Inside;
pub(crate) use process::{Process, start};
pub(crate) use restore::{Images, restore};
