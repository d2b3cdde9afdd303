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

const CONTAINERD: &str = include_str!("../../tests/golden/seccomp/containerd.json");

fn plan_of(json: &str, native: Arch) -> (Option<Plan>, String, Vec<String>) {
    let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
    let mut notes = Notes::default();
    let plan = plan_for(&profile, native, &mut notes);
    if let Some(plan) = &plan {
        assert!(valid(&plan.filter), "{}", dump::dump(&plan.filter));
    }
    (plan, notes.problems.to_string(), notes.warnings)
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
        assert_eq!(found, *expected, "{arch:#x} {nr} {args:x?}: {found:#x}\n{}", dump::dump(filter));
    }
}

#[test]
fn dockers_profile_decides_these_calls() {
    let filter = filter_of(DOCKER, Arch::ScmpArchX86_64);
    check(
        &filter,
        &[
            (X86_64, 0, &[], ALLOW),
            (X86_64, 59, &[], ALLOW),
            (X86_64, 165, &[], EPERM),
            // clone must create no namespaces. The flags of clone3 are in memory, so it gets ENOSYS.
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
fn podmans_profile_decides_these_calls() {
    let filter = filter_of(PODMAN, Arch::ScmpArchX86_64);
    let unknown = plan_of(PODMAN, Arch::ScmpArchX86_64).0.unwrap().unknown;
    assert_eq!(unknown, [""; 0]);
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

#[test]
fn containerds_profile_decides_these_calls() {
    let filter = filter_of(CONTAINERD, Arch::ScmpArchX86_64);
    assert_eq!(plan_of(CONTAINERD, Arch::ScmpArchX86_64).0.unwrap().unknown, [""; 0]);
    check(
        &filter,
        &[
            (X86_64, 0, &[], ALLOW),
            (X86_64, 56, &[0x11], ALLOW),
            (X86_64, 56, &[0x1000_0000], EPERM),
            (X86_64, 101, &[], ALLOW),
            (X86_64, 135, &[8], ALLOW),
            (X86_64, 135, &[4], EPERM),
            (X86_64, 161, &[], ALLOW),
            (X86_64, 165, &[], EPERM),
            (X86_64, 435, &[], ENOSYS),
            (X86_64, 600, &[], ENOSYS),
            (I386, 102, &[1], ALLOW),
            (I386, 120, &[0x2000_0000], EPERM),
        ],
    );
}

#[test]
fn the_first_rule_without_arguments_decides() {
    let errno = |n: u32| 0x5_0000 | n;
    // A rule with the default action is dropped. The first rule without arguments decides, wherever it is.
    let filter = filter_of(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_NATIVE"], "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["read", "no_such_call", ""], "action": "SCMP_ACT_ALLOW"},
            {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2},
            {"names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 3,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["close"], "action": "SCMP_ACT_LOG"},
            {"names": ["stat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["stat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5,
             "args": [{"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["fstat"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535,
             "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]}"#,
        Arch::ScmpArchX86_64,
    );
    check(
        &filter,
        &[
            (X86_64, 0, &[], ALLOW),
            (X86_64, 1, &[], EPERM),
            (X86_64, 3, &[1], 0x7ffc_0000),
            (X86_64, 4, &[1, 2], errno(4)),
            (X86_64, 4, &[0, 2], errno(5)),
            (X86_64, 4, &[1, 1], EPERM),
            (X86_64, 5, &[1], 0x7ff0_ffff),
            (X86_64, 5, &[2], 0x7ff0_ffff),
            (X86_64, 5, &[3], EPERM),
            (X86_64, 6, &[], ENOSYS),
            (X86_64, X32, &[], KILL),
            (X86_64, u32::MAX, &[], EPERM),
            (I386, 3, &[], KILL),
        ],
    );
}

/// Calls that are newer than the profile get ENOSYS, unless the default is ENOSYS or not an errno.
#[test]
fn newer_calls_get_enosys() {
    for (default, expected) in [
        (r#""SCMP_ACT_ERRNO""#, ENOSYS),
        (r#""SCMP_ACT_ERRNO", "defaultErrnoRet": 38"#, ENOSYS),
        (r#""SCMP_ACT_ERRNO", "defaultErrnoRet": 5"#, ENOSYS),
        (r#""SCMP_ACT_KILL_PROCESS""#, 0x8000_0000),
        (r#""SCMP_ACT_ALLOW""#, ALLOW),
        (r#""SCMP_ACT_TRACE""#, 0x7ff0_0001),
    ] {
        let json = format!(
            r#"{{"defaultAction": {default}, "syscalls": [{{"names": ["read", "mount"], "action": "SCMP_ACT_LOG"}}]}}"#
        );
        let filter = filter_of(&json, Arch::ScmpArchX86_64);
        check(&filter, &[(X86_64, 166, &[], expected), (X86_64, 165, &[], 0x7ffc_0000)]);
    }
    // Without a named call, no call is newer.
    let filter = filter_of(r#"{"defaultAction": "SCMP_ACT_ERRNO"}"#, Arch::ScmpArchX86_64);
    check(&filter, &[(X86_64, 0, &[], EPERM), (X86_64, 9999, &[], EPERM)]);
    // Number 0 of s390 stands for every call that the kernel does not know.
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let filter = filter_of(json, Arch::ScmpArchS390x);
    check(
        &filter,
        &[(0x8000_0016, 0, &[], ENOSYS), (0x8000_0016, 3, &[], ALLOW), (0x8000_0016, 2, &[], EPERM)],
    );
}

#[test]
fn every_problem_is_reported_with_its_place() {
    let rule = |members: &str| {
        format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["read"], {members}}}]}}"#)
    };
    let rows: &[(String, &str)] = &[
        (
            rule(r#""action": "SCMP_ACT_ALLOW", "errnoRet": 1"#),
            "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_ALLOW takes no errno",
        ),
        (
            rule(r#""action": "SCMP_ACT_ERRNO", "errnoRet": 4096"#),
            "linux.seccomp.syscalls[0].errnoRet: 4096 is above 4095",
        ),
        (
            rule(r#""action": "SCMP_ACT_TRACE", "errnoRet": 65536"#),
            "linux.seccomp.syscalls[0].errnoRet: 65536 is above 65535",
        ),
        (
            rule(r#""action": "SCMP_ACT_LOG", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#),
            "linux.seccomp.syscalls[0].args[0].index: 6 is not within 0 to 5",
        ),
        (
            rule(r#""action": "SCMP_ACT_NOTIFY""#),
            "linux.seccomp.listenerPath: SCMP_ACT_NOTIFY needs a listener",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1,
                "syscalls": [{"names": [], "action": "SCMP_ACT_LOG"}]}"#
                .into(),
            "linux.seccomp.defaultErrnoRet: SCMP_ACT_KILL takes no errno; \
             linux.seccomp.syscalls[0].names: must name a system call",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}"#.into(),
            "linux.seccomp.defaultAction: must not be SCMP_ACT_NOTIFY",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "a", "syscalls": [
                {"names": ["open", "sendmsg"], "action": "SCMP_ACT_NOTIFY"},
                {"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}"#
                .into(),
            "linux.seccomp.syscalls[0].names[1]: SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall, which sends the listener; \
             linux.seccomp.syscalls[1].names[0]: SCMP_ACT_NOTIFY cannot be used for the write syscall, which sends the listener; \
             linux.seccomp.listenerPath: \"a\" is not absolute",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": ""}"#.into(),
            "linux.seccomp.listenerMetadata: must not be set without listenerPath",
        ),
    ];
    for (json, expected) in rows {
        let (plan, problems, _) = plan_of(json, Arch::ScmpArchX86_64);
        assert_eq!((plan.is_none(), problems.as_str()), (true, *expected), "{json}");
    }
}

#[test]
fn a_program_with_too_many_instructions_is_refused() {
    let rule = |i| {
        format!(
            r#"{{"names": ["read"], "action": "SCMP_ACT_LOG",
                "args": [{{"index": 0, "value": {i}, "op": "SCMP_CMP_EQ"}}]}}"#
        )
    };
    let json = |n| {
        let rules: Vec<String> = (0..n).map(rule).collect();
        format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#, rules.join(","))
    };
    assert!(plan_of(&json(800), Arch::ScmpArchX86_64).0.is_some());
    let (_, notes, _) = plan_of(&json(900), Arch::ScmpArchX86_64);
    assert_eq!(notes, "linux.seccomp: needs 4514 instructions; the kernel takes 4096");
}

#[test]
fn flags_and_the_listener_are_planned() {
    use crate::sys::seccomp::{LOG, NEW_LISTENER, TSYNC, TSYNC_ESRCH, WAIT_KILLABLE_RECV};
    let flags = r#""flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
    let asks = r#""syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]"#;
    let listener = Listener { path: "/a".into(), metadata: Some("m".into()) };
    for (members, bits, expected, warnings) in [
        (r#""flags": []"#.to_string(), 0, None, vec![]),
        (
            flags.to_string(),
            LOG | TSYNC,
            None,
            vec![
                "linux.seccomp.flags[2]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV without a call that has \
                  SCMP_ACT_NOTIFY, ignoring",
            ],
        ),
        (
            format!(r#"{flags}, {asks}, "listenerPath": "/a", "listenerMetadata": "m""#),
            LOG | TSYNC | TSYNC_ESRCH | WAIT_KILLABLE_RECV | NEW_LISTENER,
            Some(listener),
            vec![],
        ),
        (
            r#""listenerPath": "/a""#.to_string(),
            0,
            None,
            vec!["linux.seccomp.listenerPath: no call has SCMP_ACT_NOTIFY, ignoring"],
        ),
    ] {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", {members}}}"#);
        let (plan, problems, found) = plan_of(&json, Arch::ScmpArchX86_64);
        let plan = plan.unwrap();
        assert_eq!((plan.flags, plan.listener, problems.as_str()), (bits, expected, ""), "{json}");
        assert_eq!(found, warnings);
    }
}

/// Reports whether a comparison is true, by the documentation of the compiler.
fn holds(arg: &compile::Comparison, args: &[u64; 6], mask: u64) -> bool {
    let (left, right) = (args[usize::from(arg.index)] & mask, arg.value & mask);
    match arg.operator {
        SeccompCmpOp::Eq => left == right,
        SeccompCmpOp::Ne => left != right,
        SeccompCmpOp::Lt => left < right,
        SeccompCmpOp::Le => left <= right,
        SeccompCmpOp::Gt => left > right,
        SeccompCmpOp::Ge => left >= right,
        SeccompCmpOp::MaskedEq(bits) => left & bits == right & bits,
    }
}

/// `explain` agrees with the program about every call and its neighbours, on every architecture of the
/// profile.
#[test]
fn explain_agrees_with_the_program() {
    let several = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 5, "architectures":
        ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_S390X", "SCMP_ARCH_S390", "SCMP_ARCH_MIPS64N32"], "syscalls": [
        {"names": ["read", "shmget", "clone"], "action": "SCMP_ACT_LOG"},
        {"names": ["socket", "bind"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_LE"},
            {"index": 1, "value": 3, "op": "SCMP_CMP_NE"}, {"index": 2, "value": 4294967295, "op": "SCMP_CMP_GT"}]},
        {"names": ["socket"], "action": "SCMP_ACT_TRAP", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_LT"},
            {"index": 1, "value": 7, "valueTwo": 5, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
    let values = [0, 1, 2, 3, 5, 8, 9, 40, 0xffff_ffff, 0x1_0000_0000, u64::MAX];
    let mut calls = 0;
    for json in [DOCKER, PODMAN, CONTAINERD, several] {
        let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
        let filter = filter_of(json, Arch::ScmpArchX86_64);
        let (policy, _) = policy(&profile, Arch::ScmpArchX86_64, &mut Notes::default());
        for abi in &policy.abis {
            let view = View::new(&policy, *abi);
            let mask = if abi.wide() { u64::MAX } else { 0xffff_ffff };
            let numbers = syscalls::all().iter().filter_map(|row| abi.number(row));
            for nr in numbers.flat_map(|nr| [nr.saturating_sub(1).max(abi.range().0), nr, nr + 1]) {
                let clauses = view.clauses(nr);
                for shift in 0..values.len() {
                    let args = std::array::from_fn(|i| values[(shift + i * 3) % values.len()]);
                    let explained = clauses.iter().find(|c| c.args.iter().all(|arg| holds(arg, &args, mask)));
                    let call = Call { arch: abi.audit, nr, args };
                    let (found, _) = run(&filter, &call, abi.big_endian()).unwrap();
                    assert_eq!(explained.unwrap().action, found, "{} {nr:#x} {args:x?}", abi.name());
                    calls += 1;
                }
            }
        }
    }
    assert!(calls > 50_000, "{calls}");
}

#[test]
#[cfg(target_arch = "x86_64")] // the architectures in the text are those of the profile and of this machine
fn explanations_and_dumps_have_these_words() {
    let explained = |json: &str, names: &[&str]| {
        let profile: LinuxSeccomp = serde_json::from_str(json).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        explain(&profile, &names).map(|(text, _)| text).map_err(|e| e.to_string())
    };
    let text = explained(DOCKER, &["clone", "socket", "mseal", "waitpid"]).unwrap();
    let (summary, calls) = text.split_once("\n\n").unwrap();
    assert!(
        summary.starts_with("program: ") && summary.contains(" steps a call on average (x86_64 "),
        "{summary}"
    );
    assert!(summary.contains("\ndefault: SCMP_ACT_ERRNO EPERM\n"), "{summary}");
    let expected = "\
clone
  x86_64 56, x86 120, x32 0x40000038:
    if arg0 & 0x7e020000 == 0: SCMP_ACT_ALLOW (syscalls[10])
    else SCMP_ACT_ERRNO EPERM (defaultAction)

socket
  x86_64 41, x86 359, x32 0x40000029:
    if arg0 != 40: SCMP_ACT_ALLOW (syscalls[2])
    else SCMP_ACT_ERRNO EPERM (defaultAction)
  x86 socketcall(1):
    SCMP_ACT_ALLOW (syscalls[0])

mseal
  x86_64 462, x86 462:
    SCMP_ACT_ERRNO ENOSYS (newer than 456, the profile's newest)
  x32 0x400001ce:
    SCMP_ACT_ERRNO EPERM (defaultAction)

waitpid
  x86 7:
    SCMP_ACT_ALLOW (syscalls[0])
  x86_64, x32: no such call
";
    assert_eq!(calls, expected);
    assert_eq!(
        explained(DOCKER, &["read", "reed"]).unwrap_err(),
        "no architecture has a system call \"reed\""
    );
    let all = explained(DOCKER, &[]).unwrap();
    for line in [
        "\nSCMP_ACT_ALLOW (syscalls[1])\n    process_vm_readv process_vm_writev ptrace\n",
        "\nSCMP_ACT_ERRNO \
        ENOSYS (newer than the profile), on x86_64, x86 only\n",
    ] {
        assert!(all.contains(line), "{all}");
    }
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_TRACE",
        "errnoRet": 7, "args": [{"index": 1, "value": 255, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
    let text = dump::dump(&filter_of(json, Arch::ScmpArchX86_64));
    assert!(text.contains("if nr != 62 (kill) goto "), "{text}");
    assert!(text.contains("and 255\n") && text.contains("if arg1.low & 255 != 1 goto "), "{text}");
    assert!(
        text.contains("return SCMP_ACT_TRACE 7\n") && text.ends_with("return SCMP_ACT_KILL_THREAD\n"),
        "{text}"
    );
    assert_eq!(text.lines().count(), filter_of(json, Arch::ScmpArchX86_64).len());
}
