//! The options of `update`. Those for single limits come from the table of limits, and make up a
//! `linux.resources` document.

use clap::ArgMatches;
use serde_json::{Map, Value, json};

use super::table::{Opt, Takes, opt};
use super::{Update, read};
use crate::cgroups::resources::{Bounds, LIMITS, Limit};
use crate::cgroups::value::power_of_unit;
use crate::error::{Kind, Result, fail};

pub(crate) const OPTIONS: &[Opt] = &[
    opt(
        "resources",
        Some('r'),
        Takes::Path("FILE"),
        "read linux.resources (JSON) from FILE, or - for standard input",
    ),
    opt("dry-run", None, Takes::Switch, "print what would be written, and write nothing"),
    opt("l3-cache-schema", None, Takes::Text("SCHEMA"), "intelRdt.l3CacheSchema"),
    opt("mem-bw-schema", None, Takes::Text("SCHEMA"), "intelRdt.memBwSchema"),
];

/// The options for the limits that have one.
pub(crate) const LIMIT_OPTIONS: &[Opt] = &limit_options::<{ count(LIMITS) }>();

const fn count(limits: &[Limit]) -> usize {
    match limits {
        [] => 0,
        [first, rest @ ..] => first.option.is_some() as usize + count(rest),
    }
}

const fn limit_options<const COUNT: usize>() -> [Opt; COUNT] {
    let mut options = [OPTIONS[0]; COUNT];
    let (mut row, mut filled) = (0, 0);
    while row < LIMITS.len() {
        if let Some(option) = LIMITS[row].option {
            options[filled] = opt(option.name, None, Takes::Text(option.value), option.help);
            filled += 1;
        }
        row += 1;
    }
    options
}

pub(crate) fn read(m: &ArgMatches) -> Result<Update> {
    let mut document = Map::new();
    for limit in LIMITS {
        let (Some(option), Some((section, member))) = (limit.option, limit.member.split_once('.')) else {
            continue;
        };
        let Some(text) = read::one::<String>(m, option.name) else { continue };
        let invalid = || {
            let hint = wanted(limit.bounds);
            fail(Kind::Usage, format!("invalid value {text:?} for --{} (hint: {hint})", option.name))
        };
        let value = convert(&text, limit.bounds).ok_or_else(invalid)?;
        document.entry(section).or_insert_with(|| json!({}))[member] = value;
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

/// Describes the values that [`convert`] accepts.
fn wanted(bounds: Bounds) -> &'static str {
    match bounds {
        Bounds::Size => "a number of bytes such as 1048576, 512M or 1.5G, or -1 for no limit",
        Bounds::Time | Bounds::Tasks | Bounds::Switch => "a whole number",
        Bounds::Positive | Bounds::OrZero | Bounds::Between(..) => "a whole number of 0 or more",
        Bounds::List | Bounds::Structure => "a text",
    }
}

fn convert(text: &str, bounds: Bounds) -> Option<Value> {
    match bounds {
        Bounds::Size if text == "-1" => Some(json!(-1)),
        Bounds::Size => size(text).map(Value::from),
        Bounds::Time | Bounds::Tasks | Bounds::Switch => text.parse::<i64>().ok().map(Value::from),
        Bounds::Positive | Bounds::OrZero | Bounds::Between(..) => text.parse::<u64>().ok().map(Value::from),
        Bounds::List | Bounds::Structure => Some(text.into()),
    }
}

/// Parses a number of bytes as runc does: `1048576`, `512M`, `1.5 GiB`. Every unit is a power of 1024.
fn size(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text[digits.len()..].to_ascii_lowercase();
    let letter = suffix.strip_suffix("ib").or(suffix.strip_suffix('b')).unwrap_or(&suffix);
    let power = power_of_unit(letter).filter(|_| suffix != "ib")?;
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
