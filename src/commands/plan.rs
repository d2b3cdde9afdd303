//! `plan`: prints what `create` would do, without doing it.

use super::create::Prepared;
use crate::cli::{Create, Globals};
use crate::error::Result;

pub(super) fn run(globals: &Globals, args: &Create) -> Result<()> {
    let prepared = Prepared::new(globals, args)?;
    super::print(&prepared.plan.print())
}
