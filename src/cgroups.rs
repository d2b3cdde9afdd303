//! Control groups: which cgroup a container gets, with which limits, and what is done with it later.
//!
//! [`Host::probe`] finds the mounted hierarchies. [`plan`] turns the configuration into paths, writes and a
//! device filter, without touching anything. [`create`] makes the directories and sets the limits while the
//! cgroup is empty. The container's first process is then cloned into it. Later commands open the same
//! [`Cgroup`] again, to kill, freeze, list, wait and remove.

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
    Cgroup, SubCgroup, attach_filter, create, delegate, frozen, id, is_anothers, join, limit, populated,
    remove_empty,
};
pub use directory::{Directory, remove_parents};
pub use hierarchies::{Host, unescape};
pub use plan::{Plan, plan};
pub use process::{current, current_below, frozen_cgroup};
pub use record::CgroupRecord;
pub use request::{Manager, Request};
pub use resources::Write;
pub use views::{View, views};
