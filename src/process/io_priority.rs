//! `ioPriority`: the I/O class and level of the container's process group (config.md#linux-process).
//!
//! The specification says "within the process group", which is `IOPRIO_WHO_PGRP`. Therefore it is applied
//! when the process leads a group or session of its own. Otherwise it would change the caller's group.

use oci_spec::runtime::{IOPriorityClass, LinuxIOPriority};

use crate::error::{Context, Notes, Result};
use crate::sys;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoPriority {
    pub class: u32,
    pub level: u32,
}

/// Converts class and level to the kernel's numbers.
pub(crate) fn plan(spec: Option<&LinuxIOPriority>, place: &str, notes: &mut Notes) -> Option<IoPriority> {
    let spec = spec?;
    // linux/ioprio.h
    let class = match spec.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let level = u32::try_from(spec.priority()).ok().filter(|level| *level <= 7);
    if level.is_none() {
        notes.problem(
            format_args!("{place}.priority"),
            format_args!("{} is not within 0 to 7", spec.priority()),
        );
    }
    Some(IoPriority { class, level: level? })
}

/// Sets the priority of all processes in the caller's process group.
pub fn apply(priority: IoPriority) -> Result<()> {
    sys::process::ioprio_set_group(priority.class, priority.level).context("process.ioPriority")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_levels_become_the_kernels_numbers() {
        for (json, expected, problem) in [
            (r#"{"class": "IOPRIO_CLASS_RT", "priority": 0}"#, Some((1, 0)), ""),
            (r#"{"class": "IOPRIO_CLASS_BE", "priority": 7}"#, Some((2, 7)), ""),
            (r#"{"class": "IOPRIO_CLASS_IDLE"}"#, Some((3, 0)), ""),
            (r#"{"class": "IOPRIO_CLASS_BE", "priority": 8}"#, None, "p.priority: 8 is not within 0 to 7"),
            (r#"{"class": "IOPRIO_CLASS_BE", "priority": -1}"#, None, "p.priority: -1 is not within 0 to 7"),
        ] {
            let spec: LinuxIOPriority = serde_json::from_str(json).unwrap();
            let mut notes = Notes::default();
            let expected = expected.map(|(class, level)| IoPriority { class, level });
            assert_eq!(plan(Some(&spec), "p", &mut notes), expected, "{json}");
            assert_eq!(notes.problems.to_string(), problem);
        }
    }
}
