//! `linux.memoryPolicy`: the NUMA nodes on which memory is allocated (config-linux.md#memory-policy).
//!
//! The rules of `set_mempolicy(2)` are checked in the plan, so that the error says more than `EINVAL`. Only
//! the call itself shows whether the nodes exist and whether the kernel supports NUMA.

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType as Flag, MemoryPolicyModeType as Mode};

use crate::cpu_list::{self, List};
use crate::error::{Context, Notes, Result};
use crate::sys;

/// `MAX_NUMNODES` of the largest kernels.
const NODES: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// The mode and, in its high bits, the flags.
    pub mode: u32,
    pub nodes: Option<List>,
}

/// Converts the policy to the kernel's numbers and checks its rules.
pub fn plan(spec: Option<&LinuxMemoryPolicy>, notes: &mut Notes) -> Option<MemoryPolicy> {
    let spec = spec?;
    let mode = spec.mode();
    let nodes = cpu_list::parse(spec.nodes().as_deref().unwrap_or_default(), NODES);
    let nodes = nodes.unwrap_or_else(|message| {
        notes.problem("linux.memoryPolicy.nodes", format_args!("invalid memory policy node: {message}"));
        None
    });
    let count =
        nodes.as_ref().map_or(0, |nodes| nodes.words().iter().map(|word| word.count_ones()).sum::<u32>());
    match mode {
        Mode::MpolDefault | Mode::MpolLocal if nodes.is_some() => {
            notes.problem(
                "linux.memoryPolicy.nodes",
                format_args!("{mode} mode requires 0 nodes but got {count}"),
            );
        }
        // Without nodes the policy means the local node.
        Mode::MpolDefault | Mode::MpolLocal | Mode::MpolPreferred => {}
        _ if nodes.is_none() => {
            notes.problem("linux.memoryPolicy.nodes", format_args!("{mode} needs at least one node"));
        }
        _ => {}
    }
    let flags = spec.flags().as_deref().unwrap_or_default();
    check_flags(mode, nodes.is_some(), flags, notes);
    let bits = flags.iter().fold(0, |bits, flag| bits | flag_bit(*flag));
    Some(MemoryPolicy { mode: mode_number(mode) | bits, nodes })
}

/// Reports the flags that the kernel's `sanitize_mpol_flags` and `mpol_new` refuse.
fn check_flags(mode: Mode, nodes: bool, flags: &[Flag], notes: &mut Notes) {
    const PLACE: &str = "linux.memoryPolicy.flags";
    let nodemask = [Flag::MpolFStaticNodes, Flag::MpolFRelativeNodes];
    if nodemask.iter().all(|flag| flags.contains(flag)) {
        notes.problem(PLACE, "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other");
    }
    if !nodes && nodemask.iter().any(|flag| flags.contains(flag)) {
        notes.problem(PLACE, format_args!("{mode} without nodes takes no flag about nodes"));
    }
    let balanced = matches!(mode, Mode::MpolBind | Mode::MpolPreferredMany);
    if flags.contains(&Flag::MpolFNumaBalancing) && !balanced {
        notes.problem(PLACE, "MPOL_F_NUMA_BALANCING needs MPOL_BIND or MPOL_PREFERRED_MANY");
    }
}

/// linux/mempolicy.h
fn mode_number(mode: Mode) -> u32 {
    match mode {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    }
}

fn flag_bit(flag: Flag) -> u32 {
    match flag {
        Flag::MpolFNumaBalancing => 1 << 13,
        Flag::MpolFRelativeNodes => 1 << 14,
        Flag::MpolFStaticNodes => 1 << 15,
    }
}

/// Sets the policy of the calling process. execve preserves it.
pub fn apply(policy: &MemoryPolicy) -> Result<()> {
    let nodes = policy.nodes.as_ref().map_or(&[][..], List::words);
    sys::process::set_mempolicy(policy.mode, nodes).context("linux.memoryPolicy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_modes_nodes_and_flags_are_errors() {
        for (json, mode, nodes, problem) in [
            (r#"{"mode": "MPOL_DEFAULT"}"#, 0, None, ""),
            (r#"{"mode": "MPOL_PREFERRED"}"#, 1, None, ""),
            (r#"{"mode": "MPOL_INTERLEAVE", "nodes": "0-1"}"#, 3, Some(0b11), ""),
            (r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}"#, 0x8002, Some(1), ""),
            (r#"{"mode": "MPOL_WEIGHTED_INTERLEAVE", "nodes": "1"}"#, 6, Some(0b10), ""),
            (r#"{"mode": "MPOL_BIND"}"#, 2, None, "nodes: MPOL_BIND needs at least one node"),
            (
                r#"{"mode": "MPOL_LOCAL", "nodes": "0"}"#,
                4,
                Some(1),
                "nodes: MPOL_LOCAL mode requires 0 nodes but got 1",
            ),
            (
                r#"{"mode": "MPOL_PREFERRED", "nodes": "1024"}"#,
                1,
                None,
                "nodes: invalid memory policy node: 1024 is above 1023",
            ),
            (
                r#"{"mode": "MPOL_PREFERRED", "flags": ["MPOL_F_RELATIVE_NODES"]}"#,
                0x4001,
                None,
                "flags: MPOL_PREFERRED without nodes takes no flag about nodes",
            ),
            (
                r#"{"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}"#,
                0xc002,
                Some(1),
                "flags: MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other",
            ),
            (
                r#"{"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_NUMA_BALANCING"]}"#,
                0x2003,
                Some(1),
                "flags: MPOL_F_NUMA_BALANCING needs MPOL_BIND or MPOL_PREFERRED_MANY",
            ),
        ] {
            let spec: LinuxMemoryPolicy = serde_json::from_str(json).unwrap();
            let mut notes = Notes::default();
            let policy = plan(Some(&spec), &mut notes).unwrap();
            assert_eq!((policy.mode, policy.nodes.map(|n| n.words()[0])), (mode, nodes), "{json}");
            assert_eq!(notes.problems.to_string().replace("linux.memoryPolicy.", ""), problem, "{json}");
        }
    }
}
