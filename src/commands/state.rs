//! `state`: the container's state (runtime.md#query-state), with runc's further members.

use super::applied;
use crate::cli::{Globals, Shown, State};
use crate::error::{Context, Result};
use crate::state::document;

pub(super) fn run(globals: &Globals, args: &State) -> Result<()> {
    if args.shown != Shown::State {
        return applied::run(globals, &args.id, args.shown);
    }
    let (dir, mut record) = super::open(globals, &args.id)?;
    let status = super::status(&dir, &record)?;
    super::ended::complete(&mut record, status);
    let text = serde_json::to_string_pretty(&document(&record, status)).context("JSON")?;
    super::print(&(text + "\n"))
}
