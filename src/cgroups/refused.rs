//! Why the kernel refuses a limit: what its errno does not say.

use nix::errno::Errno;

use super::resources::Write;
use crate::error::Result;
use crate::sys::{self, fs};

/// Adds to the error of a write its place in the configuration and the reason. `read` returns the text of
/// another file of the cgroup.
pub(super) fn explain(
    error: anyhow::Error,
    write: &Write,
    read: impl Fn(&str) -> Result<Option<String>>,
) -> anyhow::Error {
    let reason = sys::errno(&error).and_then(|errno| reason(&write.file, errno, read));
    error.context(match reason {
        Some(reason) => format!("{}: {reason}", write.place),
        None => write.place.clone(),
    })
}

fn reason(file: &str, errno: Errno, read: impl Fn(&str) -> Result<Option<String>>) -> Option<String> {
    let host = |path: &str| {
        let text = fs::read_text(fs::CWD, std::path::Path::new(path)).ok()?;
        Some(text.trim().to_string())
    };
    Some(match (file, errno) {
        ("cpuset.cpus", Errno::EINVAL | Errno::ERANGE) => {
            format!(
                "must be a list such as 0-1,3 of the host's CPUs, which are {}",
                host("/sys/devices/system/cpu/online")?
            )
        }
        ("cpuset.mems", Errno::EINVAL | Errno::ERANGE) => {
            format!(
                "must be a list of the host's memory nodes, which are {}",
                host("/sys/devices/system/node/online")?
            )
        }
        ("memory.limit_in_bytes" | "memory.memsw.limit_in_bytes", Errno::EBUSY) => {
            let used = read(&file.replace("limit", "usage")).ok()??;
            format!("it is below the usage, {}, which the kernel cannot reduce", used.trim())
        }
        ("cpu.cfs_period_us" | "cpu.cfs_quota_us" | "cpu.max", Errno::EINVAL) => {
            "a period is 1000 to 1000000 µs, and a quota at least 1000 µs and within that of the cgroup above"
                .into()
        }
        ("cpu.rt_runtime_us" | "cpu.rt_period_us", Errno::EINVAL) => {
            "the cgroup above has less real-time budget (its cpu.rt_runtime_us)".into()
        }
        _ => return None,
    })
}
