//! The formats of cgroup files that both versions have.

use std::collections::BTreeMap;

use crate::cpu_list;

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
pub(super) fn list(text: &str) -> Vec<usize> {
    let list = cpu_list::parse(text.trim(), cpu_list::LARGEST).ok().flatten();
    list.map(|list| list.members()).unwrap_or_default()
}
