//! `execCPUAffinity`: the CPUs on which the process of an exec runs (config.md#linux-process).
//!
//! It does not apply to the container's first process. `initial` applies until the process is in the
//! container's cgroup, `final` from then on. Without `final`, and for the container's first process, these are
//! all CPUs of the container's cpuset: the affinity of the runtime's caller stays outside ([`reset`]).

use oci_spec::runtime::ExecCPUAffinity;

use nix::errno::Errno;

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

/// Lets the calling process and its future children use all CPUs of their cpuset, whatever the affinity of the
/// runtime's caller is.
///
/// Before Linux 6.2 the kernel did so when a process entered a cpuset. Since then it keeps an affinity that was
/// set before (commit da019032819a). A mask of all CPUs has no such effect: the kernel applies the part of it
/// that is in the cpuset, also in a cpuset that the process enters later. runc and crun do the same.
pub(crate) fn reset() -> Result<()> {
    match sys::process::sched_setaffinity(&[u64::MAX; LARGEST / 64]) {
        // The seccomp filter of an outer container engine may forbid it.
        Err(e) if matches!(e.errno, Errno::EPERM | Errno::ENOSYS) => Ok(()),
        other => Ok(other?),
    }
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
