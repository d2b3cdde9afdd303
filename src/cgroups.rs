//! Control groups: which one a container gets, with which limits, and what is done with it later.
//!
//! [`Host::probe`] finds the cgroup v2 hierarchy wherever it is mounted, [`plan`] turns the spec's words into
//! writes and a device filter without touching anything, [`create`] makes the directories, sets the limits
//! while the cgroup is empty and gives the descriptor that the container's first process is born into.
//! [`Cgroup`] is what later commands open again: kill, freeze, list, wait, remove.

mod cgroup;
mod device_program;
pub mod devices;
mod directory;
mod hierarchies;
pub mod oom;
mod parse;
mod plan;
mod process;
mod record;
mod request;
pub mod resources;
pub mod search;
pub mod stats;
pub mod systemd;
pub mod update;
pub mod v1;
pub mod v2;
pub mod values;
mod views;

pub use cgroup::{
    Below, Cgroup, attach_filter, create, delegate, frozen, id, is_anothers, join, limit, populated,
    remove_empty,
};
pub use directory::{Directory, remove_parents};
pub use hierarchies::{Host, unescape};
pub use plan::{Plan, plan};
pub use process::{below, beside, freezing};
pub use record::CgroupRecord;
pub use request::{Manager, Request};
pub use resources::Write;
pub use views::{View, views};
