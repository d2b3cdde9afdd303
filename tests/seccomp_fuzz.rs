//! Compiles random profiles, and the engines' profiles with some bytes changed. For every profile, the reader
//! and the compiler return an error, or a program that the kernel accepts.
//!
//! The test runs for five seconds, or for CORTEN_FUZZ_SECONDS. A failure prints its profile, and
//! CORTEN_FUZZ_SEED repeats it. The check of a profile is in `fuzz/src/seccomp.rs`, which libFuzzer uses too.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

#[path = "../fuzz/src/random.rs"]
mod random;
#[path = "../fuzz/src/seccomp.rs"]
mod seccomp;

use std::time::{Duration, Instant};

use libc::sock_filter;
use random::{Random, mutate};
use seccomp::{Counts, one, profile, verify};

const ENGINES: [&str; 3] = [
    include_str!("golden/seccomp/docker.json"),
    include_str!("golden/seccomp/podman.json"),
    include_str!("golden/seccomp/containerd.json"),
];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn no_profile_does_harm() {
    let until = Instant::now() + Duration::from_secs(setting("CORTEN_FUZZ_SECONDS", 5));
    let first = setting("CORTEN_FUZZ_SEED", 1);
    let (mut random_ones, mut mutated) = (Counts::default(), Counts::default());
    let mut seed = first;
    while Instant::now() < until {
        let mut random = Random::new(seed);
        let (text, counts) = if seed.is_multiple_of(3) {
            let engine = random.of(&ENGINES);
            (mutate(&mut random, engine.as_bytes()), &mut mutated)
        } else {
            (profile(&mut random).to_string().into_bytes(), &mut random_ones)
        };
        if let Err(error) = one(&text, counts) {
            panic!("seed {seed}: {error}\n{}", String::from_utf8_lossy(&text));
        }
        seed += 1;
    }
    println!("{} profiles: random {random_ones:?}, mutated {mutated:?}", seed - first);
    // Profiles that never reach the compiler would prove nothing.
    assert!(random_ones.compiled > 10 && mutated.compiled > 2, "{random_ones:?} {mutated:?}");
}

/// The check reports programs that the kernel would refuse.
#[test]
fn the_check_refuses_what_the_kernel_refuses() {
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let (load, ret) = (instruction(0x20, 0, 0, 4), instruction(0x06, 0, 0, 0));
    assert_eq!(verify(&[load, ret]), Ok(()));
    for (program, expected) in [
        (vec![], "0 instructions"),
        (vec![ret; 4097], "4097 instructions"),
        (vec![load, load], "leaves the program"),
        (vec![instruction(0x20, 0, 0, 64), ret], "loads from outside"),
        (vec![instruction(0x20, 0, 0, 6), ret], "loads from outside"),
        (vec![instruction(0x15, 0, 0, 1), ret], "an accumulator that holds nothing"),
        (vec![load, instruction(0x15, 0, 1, 1), ret], "leaves the program"),
        (vec![load, instruction(0x05, 0, 0, u32::MAX), ret], "leaves the program"),
        (vec![ret, ret], "is never reached"),
        (vec![instruction(0x28, 0, 0, 0), ret], "is not what the compiler knows"),
    ] {
        let error = verify(&program).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}
