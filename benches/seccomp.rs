//! The cost of a profile: compiling Docker's default profile, loading it into the kernel, and a profile of
//! 2,000 rules. `cargo bench --bench seccomp`. The sizes and steps that it prints first are asserted in the
//! unit tests.

#![allow(unsafe_code, clippy::unwrap_used)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use corten::testing::error::Notes;
use corten::testing::seccomp::{self, Plan, bpf};
use criterion::{Criterion, criterion_group, criterion_main};
use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

const DOCKER: &str = include_str!("../tests/golden/seccomp/docker.json");
const TABLE: &str = include_str!("../src/seccomp/syscalls/table.rs");

fn plan(profile: &LinuxSeccomp) -> Plan {
    let mut notes = Notes::default();
    seccomp::compile_profile(profile, &mut notes).unwrap_or_else(|| panic!("{}", notes.problems))
}

/// Returns 2,000 rules, four for each of 500 names. Neighbouring names mostly have different actions. The
/// argument decides for every fiftieth name.
fn large() -> LinuxSeccomp {
    let names = TABLE.lines().filter_map(|line| line.trim().strip_prefix("row(\"")?.split('"').next());
    let rules: Vec<_> = (names.take(500).enumerate())
        .flat_map(|(n, name)| {
            (0..4).map(move |i| match n % 50 {
                0 => json!({"names": [name], "action": "SCMP_ACT_LOG",
                    "args": [{"index": 0, "value": i, "op": "SCMP_CMP_EQ"}]}),
                _ => json!({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": n + 1}),
            })
        })
        .collect();
    assert_eq!(rules.len(), 2000);
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]});
    serde_json::from_value(profile).unwrap()
}

/// Returns the time that the kernel takes to load a filter, in a process that ends with it.
fn load(plan: &Plan) -> Duration {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for both descriptors; the child only makes system calls.
    unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        let pid = libc::fork();
        assert!(pid >= 0);
        if pid == 0 {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            let start = Instant::now();
            let loaded = seccomp::apply(plan).is_ok();
            let nanos = start.elapsed().as_nanos() as u64;
            libc::write(pipe[1], (&raw const nanos).cast(), 8);
            libc::_exit(i32::from(!loaded));
        }
        let (mut nanos, mut status) = (0u64, 0);
        assert_eq!(libc::read(pipe[0], (&raw mut nanos).cast(), 8), 8);
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        libc::close(pipe[0]);
        libc::close(pipe[1]);
        assert_eq!(status, 0);
        Duration::from_nanos(nanos)
    }
}

fn benchmarks(criterion: &mut Criterion) {
    let (docker, large): (LinuxSeccomp, _) = (serde_json::from_str(DOCKER).unwrap(), large());
    let compiled = plan(&docker);
    let steps = |nr| bpf::run(&compiled.filter, &bpf::Call { arch: 0xc000_003e, nr, args: [0; 6] }, false);
    let sum: usize = (0..462).filter_map(steps).map(|(_, steps)| steps).sum();
    println!("Docker's profile: {} instructions, {:.1} steps", compiled.filter.len(), sum as f64 / 462.0);
    println!("2,000 rules: {} instructions", plan(&large).filter.len());
    criterion.bench_function("compile Docker's profile", |b| b.iter(|| plan(black_box(&docker))));
    criterion.bench_function("compile 2,000 rules", |b| b.iter(|| plan(black_box(&large))));
    criterion.bench_function("load Docker's profile", |b| {
        b.iter_custom(|times| (0..times).map(|_| load(&compiled)).sum());
    });
}

criterion_group!(all, benchmarks);
criterion_main!(all);
