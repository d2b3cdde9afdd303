//! What state.json says of a container's class in resctrl.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The container's class in resctrl, in absolute paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassRecord {
    pub mount: PathBuf,
    pub group: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitor: Option<PathBuf>,
    /// Those of these directories that were created for the container, outermost first.
    #[serde(default)]
    pub made: Vec<PathBuf>,
}
