//! The targets of `fuzz/` without libFuzzer: the kept inputs, and a few seconds of inputs that are derived
//! from them.
//!
//! Each target gets a second, or the time of twenty inputs. CORTEN_FUZZ_SECONDS changes that, and
//! CORTEN_FUZZ_TARGET chooses one target. A failure prints its input. CORTEN_FUZZ_SEED makes other inputs.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use targets::random::{Random, mutate};
use targets::{TARGETS, Target, mutated};

/// The maximum length of an input, as in the programs for libFuzzer.
const LONGEST: usize = 1 << 16;

/// The maximum time of an input, also on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Returns the kept inputs, in the same order everywhere.
fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target.name);
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_unstable();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Prints the input if a target panics.
struct Told<'a>(&'a str, &'a [u8]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} of {:?}", self.0, String::from_utf8_lossy(self.1));
        }
    }
}

fn check(target: &Target, what: &str, input: &[u8]) {
    let told = Told(what, input);
    let start = Instant::now();
    (target.check)(input);
    assert!(start.elapsed() < PATIENCE, "{what} took {:?}", start.elapsed());
    drop(told);
}

/// libFuzzer found each kept input to reach code that no other one does, or it was a finding.
#[test]
fn the_kept_inputs_cause_no_panic_or_hang() {
    for target in TARGETS {
        let seeds = seeds(&target);
        assert!(!seeds.is_empty(), "{}", target.name);
        for seed in seeds {
            check(&target, target.name, &seed);
        }
    }
}

#[test]
fn inputs_derived_from_them_cause_no_panic_or_hang() {
    let seconds = setting("CORTEN_FUZZ_SECONDS", 1);
    let seed = setting("CORTEN_FUZZ_SEED", 1);
    let only = std::env::var("CORTEN_FUZZ_TARGET").ok();
    for target in TARGETS.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name)) {
        let mut pool = seeds(target);
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut count = 0;
        while count < 20 || Instant::now() < until {
            let mut random = Random::new(seed + count);
            let from = &pool[random.below(pool.len())];
            let mut input = from.clone();
            input.resize(LONGEST.max(from.len()), 0);
            let by_bytes = |data: &mut [u8], size: usize| {
                let bytes = mutate(&mut Random::new(seed + count), &data[..size]);
                let size = bytes.len().min(data.len());
                data[..size].copy_from_slice(&bytes[..size]);
                size
            };
            let size = mutated(target.name, &mut input, from.len(), LONGEST, random.next() as u32, by_bytes);
            input.truncate(size);
            check(target, &format!("{}, seed {}", target.name, seed + count), &input);
            // Mutants of mutants reach more code. The first inputs stay.
            if pool.len() < 500 {
                pool.push(input);
            }
            count += 1;
        }
        println!("{}: {count} inputs", target.name);
    }
}
