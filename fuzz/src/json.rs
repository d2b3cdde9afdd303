//! Changes a JSON document into another JSON document, mostly of the shape that a reader expects. New values
//! come from real documents, from members with the same name.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Map, Value, json};

use super::random::Random;

const DOCUMENTS: [&str; 9] = [
    include_str!("../seeds/config/all.json"),
    include_str!("../seeds/state/all.json"),
    include_str!("../../tests/golden/full/config.json"),
    include_str!("../../tests/golden/joined/config.json"),
    include_str!("../../tests/golden/rootless/config.json"),
    include_str!("../../tests/golden/wrong/config.json"),
    include_str!("../../tests/golden/seccomp/docker.json"),
    include_str!("../../tests/golden/seccomp/podman.json"),
    include_str!("../../tests/golden/seccomp/containerd.json"),
];

/// Texts that are difficult for a reader.
const TEXTS: [&str; 40] = [
    "",
    " ",
    "/",
    "//",
    ".",
    "..",
    "/..",
    "/a/../b",
    "a",
    "/proc",
    "/proc/self/fd/1",
    "/dev",
    "/sys/fs/cgroup",
    "a\0b",
    "a\nb",
    "a=b",
    "=",
    "ä",
    "\u{fe0f}",
    "\u{10ffff}",
    "0",
    "-1",
    "1",
    "max",
    "0-3,5",
    "3-1",
    "0-8191",
    "8:0",
    "8:0 rbps=1",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "99999999999999999999",
    "1e9",
    "0x10",
    "{}",
    "[1]",
    "[uint32 1, 2]",
    "%s",
];

/// The contents of the documents: for each object, by the name of its member, its members and their values.
type Known = BTreeMap<String, BTreeMap<String, Vec<Value>>>;

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut known = Known::new();
        for text in DOCUMENTS {
            let document = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            learn("", &document, &mut known);
        }
        known
    })
}

/// Learns from a value. Items of a list have the name of the list.
fn learn(name: &str, value: &Value, known: &mut Known) {
    match value {
        Value::Object(members) => {
            for (member, value) in members {
                known.entry(name.into()).or_default().entry(member.clone()).or_default().push(value.clone());
                learn(member, value, known);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| learn(name, item, known)),
        _ => {}
    }
}

/// Returns a changed document, or `None` if the input is not JSON.
#[must_use]
pub fn mutate(text: &[u8], random: &mut Random) -> Option<String> {
    let mut document: Value = serde_json::from_slice(text).ok()?;
    for _ in 0..=random.below(4) {
        let mut at = random.below(count(&document));
        change("", &mut document, &mut at, random);
    }
    let pretty = random.one_in(50);
    let text =
        if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) };
    text.ok()
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Object(members) => members.values().map(count).sum(),
        Value::Array(items) => items.iter().map(count).sum::<usize>(),
        _ => 0,
    }
}

/// Changes the value that `at` counts to. `name` is the member that has the value.
fn change(name: &str, value: &mut Value, at: &mut usize, random: &mut Random) -> bool {
    if *at == 0 {
        one(name, value, random);
        return true;
    }
    *at -= 1;
    match value {
        Value::Object(members) => members.iter_mut().any(|(member, value)| change(member, value, at, random)),
        Value::Array(items) => items.iter_mut().any(|item| change(name, item, at, random)),
        _ => false,
    }
}

fn one(name: &str, value: &mut Value, random: &mut Random) {
    match value {
        Value::Object(members) => object(name, members, random),
        Value::Array(items) => array(name, items, random),
        _ if random.one_in(12) => *value = anything(random),
        Value::String(text) => *text = string(name, text, random),
        Value::Number(number) => *value = changed(number.as_i64(), random),
        Value::Bool(on) => *on = !*on,
        Value::Null => *value = anything(random),
    }
}

fn object(name: &str, members: &mut Map<String, Value>, random: &mut Random) {
    let present = members.keys().nth(random.below(members.len())).cloned();
    match random.below(8) {
        0 => drop(present.map(|member| members.remove(&member))),
        1 if random.one_in(4) => {
            if let Some(value) = present.and_then(|member| members.remove(&member)) {
                members.insert(random.of(&TEXTS).into(), value);
            }
        }
        2 if random.one_in(4) => {
            present.map(|member| members.insert(member, anything(random)));
        }
        _ => {
            // Adds a member that the object can have, or replaces one.
            let Some(all) = known().get(name) else { return };
            let Some((member, values)) = all.iter().nth(random.below(all.len())) else { return };
            members.insert(member.clone(), values[random.below(values.len())].clone());
        }
    }
}

fn array(name: &str, items: &mut Vec<Value>, random: &mut Random) {
    let at = random.below(items.len());
    match random.below(8) {
        0 if !items.is_empty() => drop(items.remove(at)),
        1 if !items.is_empty() => {
            let other = random.below(items.len());
            items.swap(at, other);
        }
        2 if !items.is_empty() => {
            let many = if random.one_in(20) { 1 << random.below(9) } else { 1 };
            let item = items[at].clone();
            items.splice(at..at, std::iter::repeat_n(item, many));
        }
        3 if random.one_in(4) => items.insert(at, anything(random)),
        _ => {
            // An item of a real list of this name.
            let lists = known().values().filter_map(|members| members.get(name)).flatten();
            let real: Vec<&Value> = lists.filter_map(Value::as_array).flatten().collect();
            if !real.is_empty() {
                items.insert(at, real[random.below(real.len())].clone());
            }
        }
    }
}

fn string(name: &str, text: &str, random: &mut Random) -> String {
    match random.below(5) {
        0 => random.of(&TEXTS).into(),
        1 | 2 => {
            // A value of real documents.
            let values = known().values().filter_map(|members| members.get(name)).flatten();
            let items =
                values.flat_map(|value| value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice));
            let real: Vec<&str> = items.filter_map(Value::as_str).collect();
            if real.is_empty() { text.into() } else { random.of(&real).into() }
        }
        3 => {
            let mut chars: Vec<char> = text.chars().collect();
            let at = random.below(chars.len() + 1);
            match random.below(4) {
                0 => chars.truncate(at),
                1 if at < chars.len() => drop(chars.remove(at)),
                2 => drop(chars.splice(at..at, random.of(&TEXTS).chars())),
                _ => chars.insert(at, char::from(b' ' + random.below(95) as u8)),
            }
            chars.into_iter().collect()
        }
        _ => {
            let many = if random.one_in(20) { 1 + random.below(5000) } else { 2 };
            if text.len() * many > 1 << 16 { text.into() } else { text.repeat(many) }
        }
    }
}

fn changed(number: Option<i64>, random: &mut Random) -> Value {
    match (number, random.below(6)) {
        (Some(n), 0) => json!(n.wrapping_add(1)),
        (Some(n), 1) => json!(n.wrapping_sub(1)),
        (Some(n), 2) => json!(n.wrapping_neg()),
        (_, 3) => json!(-1),
        (_, 4) if random.one_in(4) => json!(1.5),
        _ => json!(random.number()),
    }
}

fn anything(random: &mut Random) -> Value {
    match random.below(9) {
        0 => Value::Null,
        1 => json!(random.one_in(2)),
        2 => json!([]),
        3 => json!({}),
        4 => json!(random.number() as i64),
        5 => json!(random.number()),
        6 => json!([random.of(&TEXTS)]),
        7 => json!({random.of(&TEXTS): random.of(&TEXTS)}),
        _ => json!(random.of(&TEXTS)),
    }
}
