//! `resume`: thaws a paused container.

use std::time::Instant;

use super::pause::{FREEZE, freezable};
use crate::cli::Globals;
use crate::error::Result;
use crate::state::Status;

pub(super) fn run(globals: &Globals, id: &str) -> Result<()> {
    let may = |status: Status| status == Status::Paused;
    freezable(globals, id, "resume", may, |cgroup| cgroup.thaw(Instant::now() + FREEZE))
}
