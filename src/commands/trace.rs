//! `trace`: prints a trace as a timeline.

use std::path::Path;

use crate::cli::Globals;
use crate::error::{Context, Result};
use crate::{config, trace};

pub(super) fn run(_: &Globals, path: &Path) -> Result<()> {
    let text = config::read_given(path)?;
    super::print(&trace::timeline(&text).with_context(|| path.display().to_string())?)
}
