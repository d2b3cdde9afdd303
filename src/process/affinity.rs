//! `execCPUAffinity`: the CPUs on which the process of an exec runs (config.md#linux-process).
//!
//! It does not apply to the container's first process. `initial` applies until the process is in the
//! container's cgroup, `final` from then on. If one of them is absent, nothing is set and the kernel decides.

use oci_spec::runtime::ExecCPUAffinity;

use crate::cpu_list::{self, LARGEST, List};
use crate::error::{Context, Notes, Result};
use crate::sys;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    pub initial: Option<List>,
    pub last: Option<List>,
}

/// Parses the lists of CPUs.
pub fn plan(spec: Option<&ExecCPUAffinity>, place: &str, notes: &mut Notes) -> Affinity {
    let Some(spec) = spec else { return Affinity::default() };
    let mut cpus = |name: &str, text: &Option<String>| {
        let parsed = cpu_list::parse(text.as_deref().unwrap_or_default(), LARGEST);
        parsed.unwrap_or_else(|message| {
            notes.problem(format_args!("{place}.{name}"), message);
            None
        })
    };
    Affinity { initial: cpus("initial", spec.initial()), last: cpus("final", spec.cpu_affinity_final()) }
}

/// Binds the calling process and its future children to CPUs.
pub fn apply(cpus: &List) -> Result<()> {
    sys::process::sched_setaffinity(cpus.words()).context("execCPUAffinity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_list_is_checked() {
        // oci-spec refuses blanks and bad lists when it parses, so they can only come through the setters.
        let mut spec = ExecCPUAffinity::default();
        spec.set_initial(Some("0, 2-3".into()));
        spec.set_cpu_affinity_final(Some("8192".into()));
        let mut notes = Notes::default();
        let affinity = plan(Some(&spec), "process.execCPUAffinity", &mut notes);
        assert_eq!(affinity.initial.unwrap().words(), [0b1101]);
        assert_eq!(notes.problems.to_string(), "process.execCPUAffinity.final: 8192 is above 8191");
        assert_eq!(plan(None, "", &mut notes), Affinity::default());
    }
}
