//! Control groups: which cgroup a container gets, with which limits, and what is done with it later.
//!
//! [`Host::probe`] finds the mounted hierarchies. [`plan`] turns the configuration into paths, writes and a
//! device filter, without touching anything. [`create`] makes the directories and sets the limits while the
//! cgroup is empty. The container's first process is then cloned into it. Later commands open the same
//! [`Cgroup`] again, to kill, freeze, list, wait and remove.

mod cgroup;
pub(crate) mod compare;
mod device_program;
pub(crate) mod devices;
mod directory;
pub(crate) mod foresee;
mod hierarchies;
mod lower;
pub(crate) mod oom;
mod parse;
mod plan;
mod process;
mod record;
mod refused;
mod request;
pub(crate) mod resources;
pub(crate) mod search;
pub(crate) mod stats;
pub(crate) mod systemd;
pub(crate) mod update;
pub(crate) mod v1;
pub(crate) mod v2;
pub(crate) mod value;
mod views;

pub(crate) use cgroup::SubCgroup;
pub use cgroup::{Cgroup, attach_filter, create, delegate, frozen};
pub(crate) use cgroup::{id, is_anothers, join, limit, populated, remove_empty};
pub use directory::{Directory, remove_parents};
pub use hierarchies::Host;
pub(crate) use hierarchies::{CGROUP, is_unified};
pub use plan::{Plan, plan};
pub(crate) use process::{current, current_below, frozen_cgroup};
pub use record::CgroupRecord;
pub use request::{Manager, Request};
pub use resources::Write;
pub(crate) use v2::Missing;
pub(crate) use value::Value;
pub(crate) use views::View;
pub(crate) use views::views;
