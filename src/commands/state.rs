//! `state`: the container's state (runtime.md#query-state), with runc's further members.

use crate::cli::Globals;
use crate::error::{Context, Result};
use crate::state::document;

pub(super) fn run(globals: &Globals, id: &str) -> Result<()> {
    let (dir, mut record) = super::open(globals, id)?;
    let status = super::status(&dir, &record)?;
    super::ended::complete(&mut record, status);
    let text = serde_json::to_string_pretty(&document(&record, status)).context("JSON")?;
    super::print(&(text + "\n"))
}
