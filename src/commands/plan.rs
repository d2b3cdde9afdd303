//! `plan` (hidden): prints what `create` would do, and does nothing.

use super::create::Prepared;
use crate::cli::{Create, Globals};
use crate::error::Result;

pub(super) fn run(globals: &Globals, args: &Create) -> Result<()> {
    let prepared = Prepared::new(globals, args)?;
    super::print(&format!("{:#?}\n", prepared.plan))
}
