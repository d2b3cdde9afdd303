//! The formats of cgroup files that both versions have.

use std::collections::BTreeMap;

pub(super) fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// Parses lines of `name value`.
pub(super) fn flat(text: &str) -> BTreeMap<&str, u64> {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(name, value)| (name, number(value))).collect()
}

pub(super) fn of(values: &BTreeMap<&str, u64>, name: &str) -> u64 {
    values.get(name).copied().unwrap_or(0)
}

/// Returns the members of a list such as `0-3,7`.
pub(super) fn list(text: &str) -> Vec<u32> {
    super::values::list(text.trim()).unwrap_or_default().into_iter().collect()
}
