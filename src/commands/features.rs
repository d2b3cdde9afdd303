//! `features`: prints what this executable supports, on any host (features.md of the runtime-spec).

use serde_json::{Value, json};

use crate::SPEC_VERSION;
use crate::cgroups::systemd;
use crate::cli::Globals;
use crate::error::{Context, Result};
use crate::process::{credentials, landlock};
use crate::{hooks, namespaces, rootfs, seccomp};

/// What the seccomp compiler supports, by the specification's names.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seccomp<'a> {
    pub actions: &'a [&'a str],
    pub operators: &'a [&'a str],
    pub archs: &'a [&'a str],
    pub known_flags: &'a [&'a str],
    /// The flags among them that the running kernel has.
    pub supported_flags: &'a [&'a str],
}

const HOOKS: &[&str] =
    &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

const MEMORY_MODES: &[&str] = &[
    "MPOL_BIND",
    "MPOL_DEFAULT",
    "MPOL_INTERLEAVE",
    "MPOL_LOCAL",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_WEIGHTED_INTERLEAVE",
];

const MEMORY_FLAGS: &[&str] = &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

pub(super) fn run(_: &Globals, (): &()) -> Result<()> {
    let seccomp = Seccomp {
        actions: seccomp::ACTIONS,
        operators: seccomp::OPERATORS,
        archs: &seccomp::archs(),
        known_flags: seccomp::FLAGS,
        supported_flags: &seccomp::supported_flags(),
    };
    let value = document(&rootfs::options::names(), &seccomp);
    super::print(&(serde_json::to_string_pretty(&value).context("JSON")? + "\n"))
}

/// Returns the document. It is the same on every kernel, except for the supported flags of seccomp.
/// containerd reads `linux` without a check, `rro` among the mount options, and `idmap`.
#[must_use]
pub(crate) fn document(mount_options: &[&str], seccomp: &Seccomp) -> Value {
    let mut capabilities: Vec<_> = caps::all().into_iter().collect();
    capabilities.sort_unstable_by_key(caps::Capability::index);
    let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": HOOKS,
        "mountOptions": mount_options,
        "linux": {
            "namespaces": namespaces::names(),
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": true, "systemdUser": true, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp.actions,
                "operators": seccomp.operators,
                "archs": seccomp.archs,
                "knownFlags": seccomp.known_flags,
                "supportedFlags": seccomp.supported_flags,
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": true, "schemata": true, "monitoring": true},
            "memoryPolicy": {"modes": MEMORY_MODES, "flags": MEMORY_FLAGS},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": true},
        },
        "potentiallyUnsafeConfigAnnotations":
            [systemd::ANNOTATION, landlock::ANNOTATION, credentials::KEEP_GROUPS, hooks::STDOUT, hooks::STDERR],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Features;

    #[test]
    fn the_document_is_the_specs() {
        let seccomp = Seccomp {
            actions: &["SCMP_ACT_ALLOW"],
            operators: &["SCMP_CMP_EQ"],
            archs: &["SCMP_ARCH_X86_64"],
            known_flags: &["SECCOMP_FILTER_FLAG_LOG"],
            supported_flags: &[],
        };
        let value = document(&["ro", "rro"], &seccomp);
        let typed: Features = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(typed.oci_version_max(), "1.3.0");
        let linux = typed.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        let capabilities = linux.capabilities().as_ref().unwrap();
        assert_eq!(capabilities.len(), 41);
        assert_eq!(
            (capabilities[0].as_str(), capabilities[40].as_str()),
            ("CAP_CHOWN", "CAP_CHECKPOINT_RESTORE")
        );
        assert_eq!(value["linux"]["cgroup"]["systemd"], true);
        assert_eq!(
            value["potentiallyUnsafeConfigAnnotations"],
            json!([
                "org.systemd.property.",
                "dev.corten.landlock",
                "run.oci.keep_original_groups",
                "run.oci.hooks.stdout",
                "run.oci.hooks.stderr",
            ])
        );
        assert_eq!(value["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(value["mountOptions"][1], "rro");
    }
}
