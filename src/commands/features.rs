//! `features`: prints what this executable supports, on any host (features.md of the runtime-spec).

use serde_json::{Value, json};

use super::checkpoint;
use crate::SPEC_VERSION;
use crate::cgroups::systemd;
use crate::cli::Globals;
use crate::error::{Context, Result};
use crate::process::{credentials, landlock};
use crate::{criu, hooks, launch, namespaces, rootfs, seccomp};

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

pub(super) fn run(globals: &Globals, (): &()) -> Result<()> {
    let seccomp = Seccomp {
        actions: seccomp::ACTIONS,
        operators: seccomp::OPERATORS,
        archs: &seccomp::archs(),
        known_flags: seccomp::FLAGS,
        supported_flags: &seccomp::supported_flags(),
    };
    let criu = criu::program(globals.criu.as_deref()).and_then(|program| launch::criu_version(&program)).ok();
    let value = document(&rootfs::options::names(), &seccomp, criu.as_deref());
    super::print(&(serde_json::to_string_pretty(&value).context("JSON")? + "\n"))
}

/// Returns the document. It is the same on every host, except for the supported flags of seccomp and the version of CRIU.
/// containerd reads `linux` without a check, `rro` among the mount options, and `idmap`.
#[must_use]
pub(crate) fn document(mount_options: &[&str], seccomp: &Seccomp, criu: Option<&str>) -> Value {
    let mut capabilities: Vec<_> = caps::all().into_iter().collect();
    capabilities.sort_unstable_by_key(caps::Capability::index);
    let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
    // The first is runc's name, by which engines know that the verbs exist.
    let mut annotations = json!({"org.opencontainers.runc.checkpoint.enabled": "true"});
    if let Some(version) = criu {
        annotations["dev.corten.criu.version"] = version.into();
    }
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
        "annotations": annotations,
        "potentiallyUnsafeConfigAnnotations": [
            systemd::ANNOTATION,
            landlock::ANNOTATION,
            checkpoint::ANNOTATION,
            credentials::KEEP_GROUPS,
            hooks::STDOUT,
            hooks::STDERR,
        ],
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
        let value = document(&["ro", "rro"], &seccomp, Some("4.1.1"));
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
                "org.criu.config",
                "run.oci.keep_original_groups",
                "run.oci.hooks.stdout",
                "run.oci.hooks.stderr",
            ])
        );
        assert_eq!(value["linux"]["mountExtensions"]["idmap"]["enabled"], true);
        assert_eq!(value["mountOptions"][1], "rro");
        let annotations = &value["annotations"];
        assert_eq!(annotations["org.opencontainers.runc.checkpoint.enabled"], "true");
        assert_eq!(annotations["dev.corten.criu.version"], "4.1.1");
        assert!(document(&[], &seccomp, None)["annotations"].get("dev.corten.criu.version").is_none());
    }
}
