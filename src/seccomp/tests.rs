//! Decisions of compiled filters, through the interpreter.

use oci_spec::runtime::Arch;

use super::bpf::{Call, run, valid};
use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32: u32 = 0x4000_0000;

const KILL: u32 = 0;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x5_0001;
const ENOSYS: u32 = 0x5_0000 + 38;

pub(super) const DOCKER: &str = include_str!("../../tests/golden/seccomp/docker.json");
pub(super) const PODMAN: &str = include_str!("../../tests/golden/seccomp/podman.json");

fn plan_of(json: &str, native: Arch) -> (Option<Plan>, String, Vec<String>) {
    let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
    let (mut problems, mut warnings) = (Problems::default(), Vec::new());
    let plan = plan_for(&profile, native, &mut problems, &mut warnings);
    if let Some(plan) = &plan {
        assert!(valid(&plan.filter), "{}", bpf::dump(&plan.filter));
    }
    (plan, problems.to_string(), warnings)
}

fn filter_of(json: &str, native: Arch) -> Vec<sock_filter> {
    let (plan, problems, _) = plan_of(json, native);
    assert_eq!(problems, "");
    plan.unwrap().filter
}

fn decide(filter: &[sock_filter], arch: u32, nr: u32, args: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    let big_endian = arch & 0x4000_0000 == 0;
    run(filter, &Call { arch, nr, args: all }, big_endian).unwrap().0
}

fn check(filter: &[sock_filter], rows: &[(u32, u32, &[u64], u32)]) {
    for (arch, nr, args, expected) in rows {
        let found = decide(filter, *arch, *nr, args);
        assert_eq!(found, *expected, "{arch:#x} {nr} {args:x?}: {found:#x}\n{}", bpf::dump(filter));
    }
}

#[test]
fn dockers_profile() {
    let filter = filter_of(DOCKER, Arch::ScmpArchX86_64);
    check(
        &filter,
        &[
            (X86_64, 0, &[], ALLOW),
            (X86_64, 59, &[], ALLOW),
            (X86_64, 165, &[], EPERM),
            // clone: no new namespaces; clone3, whose flags lie in memory: not there.
            (X86_64, 56, &[0x11], ALLOW),
            (X86_64, 56, &[0x1000_0000], EPERM),
            (X86_64, 56, &[1 << 40 | 0x11], ALLOW),
            (X86_64, 435, &[], ENOSYS),
            (X86_64, 135, &[0xffff_ffff], ALLOW),
            (X86_64, 135, &[0x1_ffff_ffff], EPERM),
            (X86_64, 135, &[4], EPERM),
            (X86_64, 41, &[2], ALLOW),
            (X86_64, 41, &[40], EPERM),
            (X86_64, 401, &[], EPERM),
            (X86_64, 600, &[], ENOSYS),
            (X86_64, X32 | 59, &[], EPERM),
            (X86_64, X32 | 520, &[], ALLOW),
            (X86_64, X32 | 135, &[0x1_0000_0008], ALLOW),
            (X86_64, X32 | 600, &[], ENOSYS),
            (I386, 11, &[], ALLOW),
            (I386, 120, &[0x2000_0000], EPERM),
            (I386, 102, &[1], ALLOW),
            (I386, 117, &[], ALLOW),
            (I386, 359, &[40], EPERM),
            (I386, 21, &[], EPERM),
            (I386, 900, &[], ENOSYS),
            (0xc000_00b7, 0, &[], KILL),
        ],
    );
    let steps: usize =
        (0..462).map(|nr| run(&filter, &Call { arch: X86_64, nr, args: [0; 6] }, false).unwrap().1).sum();
    println!("{} instructions, {:.1} steps", filter.len(), steps as f64 / 462.0);
    assert!(filter.len() <= 700 && steps <= 12 * 462);
}

#[test]
fn podmans_profile() {
    let filter = filter_of(PODMAN, Arch::ScmpArchX86_64);
    const EINVAL: u32 = 0x5_0000 + 22;
    check(
        &filter,
        &[
            (X86_64, 0, &[], ALLOW),
            (X86_64, 246, &[], EPERM),
            // Netlink's audit needs CAP_AUDIT_WRITE.
            (X86_64, 41, &[16, 3, 9], EINVAL),
            (X86_64, 41, &[16, 3, 0], ALLOW),
            (X86_64, 41, &[2, 3, 9], ALLOW),
            (X86_64, 41, &[40], EPERM),
            (X86_64, 600, &[], ENOSYS),
            (I386, 102, &[1], ALLOW),
        ],
    );
    println!("{} instructions", filter.len());
}
