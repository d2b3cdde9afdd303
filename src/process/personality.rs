//! `linux.personality`: the execution domain (config-linux.md#personality).
//!
//! The specification has two domains and supports no flags, so a flag is an error.

use oci_spec::runtime::{LinuxPersonality, LinuxPersonalityDomain};

use crate::error::{Context, Notes, Result};
use crate::sys;

/// The argument of `personality(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Personality(pub u32);

/// Converts the domain to the kernel's number.
pub(crate) fn plan(spec: Option<&LinuxPersonality>, notes: &mut Notes) -> Option<Personality> {
    let spec = spec?;
    if spec.flags().as_ref().is_some_and(|flags| !flags.is_empty()) {
        notes.problem("linux.personality.flags", "no flag is supported");
    }
    // linux/personality.h
    Some(Personality(match spec.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }))
}

/// Sets the execution domain of the calling process. execve preserves it.
pub fn apply(personality: Personality) -> Result<()> {
    sys::process::personality(personality.0).context("linux.personality")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_converted_and_flags_are_errors() {
        for (json, expected, problem) in [
            (r#"{"domain": "LINUX"}"#, 0, ""),
            (r#"{"domain": "LINUX32", "flags": []}"#, 8, ""),
            (
                r#"{"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}"#,
                0,
                "linux.personality.flags: no flag is supported",
            ),
        ] {
            let spec: LinuxPersonality = serde_json::from_str(json).unwrap();
            let mut notes = Notes::default();
            assert_eq!(plan(Some(&spec), &mut notes), Some(Personality(expected)), "{json}");
            assert_eq!(notes.problems.to_string(), problem);
        }
    }
}
