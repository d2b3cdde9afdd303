//! The options of `update` for single limits, as the `linux.resources` document that they stand for.

use clap::ArgMatches;
use serde_json::{Map, Value, json};

use super::{Update, read};
use crate::error::{Kind, Result, fail};

/// How an option's value is read.
#[derive(Clone, Copy)]
enum Form {
    /// A size with a suffix, or -1.
    Size,
    Signed,
    Unsigned,
    Text,
}

/// The option, the section and member that it sets, and how it is read.
const LIMITS: [(&str, &str, &str, Form); 16] = [
    ("memory", "memory", "limit", Form::Size),
    ("memory-reservation", "memory", "reservation", Form::Size),
    ("memory-swap", "memory", "swap", Form::Size),
    ("kernel-memory", "memory", "kernel", Form::Size),
    ("kernel-memory-tcp", "memory", "kernelTCP", Form::Size),
    ("cpu-share", "cpu", "shares", Form::Unsigned),
    ("cpu-quota", "cpu", "quota", Form::Signed),
    ("cpu-period", "cpu", "period", Form::Unsigned),
    ("cpu-burst", "cpu", "burst", Form::Unsigned),
    ("cpu-idle", "cpu", "idle", Form::Signed),
    ("cpu-rt-period", "cpu", "realtimePeriod", Form::Unsigned),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", Form::Signed),
    ("cpuset-cpus", "cpu", "cpus", Form::Text),
    ("cpuset-mems", "cpu", "mems", Form::Text),
    ("blkio-weight", "blockIO", "weight", Form::Unsigned),
    ("pids-limit", "pids", "limit", Form::Signed),
];

pub(crate) fn read(m: &ArgMatches) -> Result<Update> {
    let mut document = Map::new();
    for (option, section, member, form) in LIMITS {
        let Some(text) = read::one::<String>(m, option) else { continue };
        let invalid = || fail(Kind::Usage, format!("invalid value {text:?} for --{option}"));
        let value = convert(&text, form).ok_or_else(invalid)?;
        let section = document.entry(section).or_insert_with(|| json!({}));
        section[member] = value;
    }
    let schemas = [("l3-cache-schema", "l3CacheSchema"), ("mem-bw-schema", "memBwSchema")];
    let schemas = schemas.into_iter().filter_map(|(option, member)| Some((member, read::one(m, option)?)));
    Ok(Update {
        id: read::id(m)?,
        resources: read::path(m, "resources"),
        document: Value::Object(document),
        schemas: schemas.collect(),
        dry_run: read::flag(m, "dry-run"),
    })
}

fn convert(text: &str, form: Form) -> Option<Value> {
    match form {
        Form::Size if text == "-1" => Some(json!(-1)),
        Form::Size => size(text).map(Value::from),
        Form::Signed => text.parse::<i64>().ok().map(Value::from),
        Form::Unsigned => text.parse::<u64>().ok().map(Value::from),
        Form::Text => Some(text.into()),
    }
}

/// A number of bytes as runc takes it: `1048576`, `512M`, `1.5 GiB`, always by 1024.
fn size(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text[digits.len()..].to_ascii_lowercase();
    let power = match suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix) {
        "" if suffix != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Ok(whole) = digits.parse::<i64>() {
        return whole.checked_mul(1 << power);
    }
    if !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let bytes = digits.parse::<f64>().ok()? * (1i64 << power) as f64;
    (bytes < i64::MAX as f64).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("512M", Some(512 << 20)),
            ("512m", Some(512 << 20)),
            ("512MB", Some(512 << 20)),
            ("512MiB", Some(512 << 20)),
            ("1.5g", Some(3 << 29)),
            ("2 k", Some(2048)),
            ("7b", Some(7)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("M", None),
            ("-5", None),
            ("12x", None),
            ("12mbb", None),
            ("12Mi", None),
            ("12ib", None),
            ("1.2.3", None),
            ("1e3", None),
            ("inf", None),
            ("9999999999p", None),
        ] {
            assert_eq!(size(text), expected, "{text:?}");
        }
    }
}
