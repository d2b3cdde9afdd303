//! What is asked of every reader of foreign bytes: no panic, no hang, no runaway memory, and where there is a second reading,
//! the same result. The programs in `fuzz_targets` hand libFuzzer's inputs to these functions, `tests/fuzz.rs` hands
//! them `seeds` and what it makes of these itself.

#[path = "targets.rs"]
pub mod targets;

pub use libfuzzer_sys;

/// A program for the target of this name.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            ($crate::targets::named($name).check)(data);
        });

        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            let by_bytes = |data: &mut [u8], size| $crate::libfuzzer_sys::fuzzer_mutate(data, size, max_size);
            $crate::targets::mutated($name, data, size, max_size, seed, by_bytes)
        });
    };
}
