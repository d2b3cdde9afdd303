//! The requirements for every reader of foreign bytes: no panic, no hang, bounded memory, and the same result
//! as a second reading if there is one. The programs in `fuzz_targets` pass libFuzzer's inputs to these
//! functions. `tests/fuzz.rs` passes `seeds` and inputs that are derived from them.

#[path = "targets.rs"]
pub mod targets;

pub use libfuzzer_sys;

/// Defines a libFuzzer program for the target of this name.
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
