//! The properties of a unit: those for limits, and those of `org.systemd.property.*` annotations.
//!
//! systemd has to know each limit that it has a property for. Otherwise it would remove the limit when it
//! next writes to the unit's files. The runtime writes the files too, therefore a value that is rounded here
//! is exact there.

use super::super::resources::{Absent, LIMITS, Write};
use super::super::value as file;
use crate::dbus::Value;

/// The name and the value of a unit's property.
pub(crate) type Property = (String, Value);

/// The prefix of annotations that set a property of the container's unit.
pub(crate) const ANNOTATION: &str = "org.systemd.property.";

/// The properties for files that only `linux.resources.unified` sets. [`LIMITS`] has the others.
const UNIFIED: [(&str, &str); 2] = [("memory.high", "MemoryHigh"), ("memory.min", "MemoryMin")];

/// Returns the property that systemd writes to a file.
fn property_of(file: &str) -> Option<&'static str> {
    let limits =
        LIMITS.iter().filter(|limit| limit.v2.file() == Some(file)).filter_map(|limit| limit.property);
    let unified = UNIFIED.iter().filter(|(known, _)| *known == file).map(|(_, name)| *name);
    limits.chain(unified).next()
}

/// systemd's number for no limit.
const INFINITY: u64 = u64::MAX;

/// Returns the property of an idle cgroup: a weight of 0.
pub(super) fn idle() -> Property {
    ("CPUWeight".into(), Value::U64(0))
}

/// Returns the properties for those of `writes` that systemd has one for. Of two writes for the same
/// property, the later one counts.
#[must_use]
pub(crate) fn of_writes(writes: &[Write]) -> Vec<Property> {
    let mut properties: Vec<Property> = Vec::new();
    let mut add = |(name, value): Property| {
        properties.retain(|(known, _)| *known != name);
        properties.push((name, value));
    };
    writes.iter().flat_map(of_write).for_each(|(name, value)| add((name.into(), value)));
    // systemd has one property for the weight and for idle. The kernel accepts no weight while a cgroup is
    // idle.
    match writes.iter().rfind(|write| write.file == "cpu.idle").map(|write| write.value.parsed("cpu.idle")) {
        Some(file::Value::Number(1)) => add(idle()),
        Some(_) if !writes.iter().any(|write| write.file == "cpu.weight") => {
            add(("CPUWeight".into(), Value::U64(INFINITY)));
        }
        _ => {}
    }
    properties
}

fn of_write(write: &Write) -> Vec<(&'static str, Value)> {
    let (file, value) = match &write.absent {
        Absent::Instead { file, value } => (*file, value),
        _ => (write.file.as_str(), &write.value),
    };
    let Some(name) = property_of(file) else { return Vec::new() };
    match value.parsed(file) {
        file::Value::Number(n) => u64::try_from(n).map(|n| vec![(name, Value::U64(n))]).unwrap_or_default(),
        file::Value::Max => vec![(name, Value::U64(INFINITY))],
        file::Value::List(list) => vec![(name, Value::bytes(&list.bytes()))],
        file::Value::Quota { quota, period } => {
            let period = period.unwrap_or(100_000);
            let Some(per_second) = per_second(quota, period) else { return Vec::new() };
            vec![(name, Value::U64(per_second)), ("CPUQuotaPeriodUSec", Value::U64(period))]
        }
        file::Value::Line { .. } | file::Value::Text(_) => Vec::new(),
    }
}

/// Returns the quota in microseconds of each second, or `None` for a period of 0. systemd keeps whole
/// percents. They are rounded up, because the value that systemd may write one day must not be below the
/// requested one.
fn per_second(quota: Option<u64>, period: u64) -> Option<u64> {
    const PERCENT: u128 = 10_000;
    let Some(quota) = quota else { return Some(INFINITY) };
    let exact = (u128::from(quota) * 1_000_000).checked_div(period.into())?;
    Some(u64::try_from(exact.div_ceil(PERCENT) * PERCENT).unwrap_or(INFINITY))
}

/// Returns the property that an annotation sets. `name` is what follows the prefix. As in runc, a time in
/// seconds (`TimeoutStopSec`) becomes the property in microseconds that systemd has.
pub(super) fn of_annotation(name: &str, text: &str) -> Result<Property, String> {
    /// These decide which cgroup the container process is in.
    const OURS: [&str; 5] = ["PIDs", "PIDFDs", "Slice", "Delegate", "Scope"];
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("is not the name of a property".into());
    }
    if OURS.contains(&name) {
        return Err("is not for the configuration to set".into());
    }
    let value =
        Text::parse(text).ok_or_else(|| format!("{text:?} is not a value in GVariant's text format"))?;
    // A signature's length is one byte.
    if value.signature().len() > usize::from(u8::MAX) {
        return Err("has more values side by side than D-Bus has a type for".into());
    }
    let stem = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    match stem {
        None => Ok((name.into(), value)),
        Some(stem) => {
            let time = microseconds(&value).ok_or_else(|| format!("{text:?} is not a time in seconds"))?;
            Ok((format!("{stem}USec"), Value::U64(time)))
        }
    }
}

fn microseconds(seconds: &Value) -> Option<u64> {
    let whole = match *seconds {
        Value::Byte(n) => n.into(),
        Value::I16(n) => n.try_into().ok()?,
        Value::U16(n) => n.into(),
        Value::I32(n) => n.try_into().ok()?,
        Value::U32(n) => n.into(),
        Value::I64(n) => n.try_into().ok()?,
        Value::U64(n) => n,
        Value::Double(bits) => {
            let time = f64::from_bits(bits) * 1e6;
            return (0.0..1.8e19).contains(&time).then_some(time as u64);
        }
        _ => return None,
    };
    whole.checked_mul(1_000_000)
}

/// A parser for the part of GVariant's text format that unit properties need: strings, booleans, numbers with
/// or without a type, arrays and tuples.
struct Text<'a> {
    rest: &'a str,
}

impl<'a> Text<'a> {
    fn parse(text: &'a str) -> Option<Value> {
        let mut text = Self { rest: text };
        let value = text.value(None, 0)?;
        text.skip_blanks();
        text.rest.is_empty().then_some(value)
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Skips a token. Returns whether it was there.
    fn take(&mut self, token: char) -> bool {
        self.skip_blanks();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> &'a str {
        self.skip_blanks();
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    /// Parses a value. `kind` is its type, if something before it has set one.
    fn value(&mut self, kind: Option<&str>, depth: u32) -> Option<Value> {
        self.skip_blanks();
        match self.rest.chars().next()? {
            _ if depth > 8 => None,
            '@' if kind.is_none() => {
                self.rest = &self.rest[1..];
                let end = self.rest.find(char::is_whitespace)?;
                let (kind, rest) = self.rest.split_at(end);
                self.rest = rest;
                self.value(Some(kind), depth + 1)
            }
            quote @ ('\'' | '"') => {
                self.rest = &self.rest[1..];
                string(kind, self.quoted(quote)?)
            }
            '[' => self.array(kind, depth),
            '(' if kind.is_none() => {
                self.rest = &self.rest[1..];
                let values = self.list(')', None, depth)?;
                (!values.is_empty()).then_some(Value::Struct(values))
            }
            _ => {
                let word = self.word();
                match KEYWORDS.iter().find(|(name, _)| *name == word) {
                    Some((_, kind)) => self.value(Some(kind), depth + 1),
                    None => scalar(word, kind),
                }
            }
        }
    }

    fn array(&mut self, kind: Option<&str>, depth: u32) -> Option<Value> {
        let element = match kind {
            Some(kind) => Some(kind.strip_prefix('a')?),
            None => None,
        };
        self.rest = &self.rest[1..];
        let values = self.list(']', element, depth)?;
        let signature = match (values.first(), element) {
            (Some(first), _) => first.signature(),
            (None, Some(element)) if "ybnqiuxtdsog".contains(element) && element.len() == 1 => element.into(),
            (None, _) => return None,
        };
        let same = values.iter().all(|value| value.signature() == signature);
        same.then_some(Value::Array(signature, values))
    }

    /// Parses values up to the closing bracket. In an array, a number without a type has the type of the
    /// first one.
    fn list(&mut self, close: char, kind: Option<&str>, depth: u32) -> Option<Vec<Value>> {
        let mut values: Vec<Value> = Vec::new();
        while !self.take(close) {
            if !values.is_empty() && !self.take(',') {
                return None;
            }
            if self.take(close) {
                break;
            }
            let number = values.first().filter(|_| close == ']').map(Value::signature);
            let kind = kind.or(number.as_deref().filter(|kind| "ybnqiuxtd".contains(*kind)));
            values.push(self.value(kind, depth + 1)?);
        }
        Some(values)
    }

    fn quoted(&mut self, quote: char) -> Option<String> {
        let mut text = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next()? {
                c if c == quote => break,
                '\0' => return None,
                '\\' => text.push(match chars.next()? {
                    'n' => '\n',
                    't' => '\t',
                    c @ ('\\' | '\'' | '"') => c,
                    _ => return None,
                }),
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }
}

/// Words that set the type of the value after them.
const KEYWORDS: &[(&str, &str)] = &[
    ("boolean", "b"),
    ("byte", "y"),
    ("int16", "n"),
    ("uint16", "q"),
    ("int32", "i"),
    ("uint32", "u"),
    ("int64", "x"),
    ("uint64", "t"),
    ("double", "d"),
    ("string", "s"),
    ("objectpath", "o"),
    ("signature", "g"),
];

fn string(kind: Option<&str>, text: String) -> Option<Value> {
    match kind.unwrap_or("s") {
        "s" => Some(Value::Str(text)),
        "o" if text.starts_with('/') => Some(Value::Path(text)),
        "g" if text.len() < 256 => Some(Value::Signature(text)),
        _ => None,
    }
}

fn scalar(word: &str, kind: Option<&str>) -> Option<Value> {
    if let Ok(value) = word.parse() {
        return matches!(kind, None | Some("b")).then_some(Value::Bool(value));
    }
    let number = integer(word);
    let default = if number.is_some() { "i" } else { "d" };
    match kind.unwrap_or(default) {
        "y" => number?.try_into().ok().map(Value::Byte),
        "n" => number?.try_into().ok().map(Value::I16),
        "q" => number?.try_into().ok().map(Value::U16),
        "i" => number?.try_into().ok().map(Value::I32),
        "u" => number?.try_into().ok().map(Value::U32),
        "x" => number?.try_into().ok().map(Value::I64),
        "t" => number?.try_into().ok().map(Value::U64),
        "d" if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
            word.parse::<f64>().ok().map(|n| Value::Double(n.to_bits()))
        }
        _ => None,
    }
}

fn integer(word: &str) -> Option<i128> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let number = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => digits.parse(),
    };
    number.ok().map(|n| sign * i128::from(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &str, value: &str) -> Write {
        Write::new(file, value, "x")
    }

    #[test]
    fn limits_become_properties() {
        let n = Value::U64;
        for (file, value, expected) in [
            ("memory.max", "1048576", vec![("MemoryMax", n(1 << 20))]),
            ("memory.max", "max", vec![("MemoryMax", n(u64::MAX))]),
            ("memory.max", "2G", vec![("MemoryMax", n(2 << 30))]),
            ("memory.max", "2X", vec![]),
            ("memory.low", "4096", vec![("MemoryLow", n(4096))]),
            ("memory.high", "4k", vec![("MemoryHigh", n(4096))]),
            ("memory.swap.max", "0", vec![("MemorySwapMax", n(0))]),
            ("pids.max", "64", vec![("TasksMax", n(64))]),
            ("pids.max", "max", vec![("TasksMax", n(u64::MAX))]),
            ("cpu.weight", "59", vec![("CPUWeight", n(59))]),
            (
                "cpu.max",
                "50000 100000",
                vec![("CPUQuotaPerSecUSec", n(500_000)), ("CPUQuotaPeriodUSec", n(100_000))],
            ),
            (
                "cpu.max",
                "33333 100000",
                vec![("CPUQuotaPerSecUSec", n(340_000)), ("CPUQuotaPeriodUSec", n(100_000))],
            ),
            (
                "cpu.max",
                "max 50000",
                vec![("CPUQuotaPerSecUSec", n(u64::MAX)), ("CPUQuotaPeriodUSec", n(50_000))],
            ),
            ("cpu.max", "5", vec![("CPUQuotaPerSecUSec", n(10_000)), ("CPUQuotaPeriodUSec", n(100_000))]),
            ("cpu.max", "5 0", vec![]),
            ("cpu.max", "x", vec![]),
            ("cpuset.cpus", "0-1,3", vec![("AllowedCPUs", Value::bytes(&[0b1011]))]),
            ("cpuset.cpus", "9, 1", vec![("AllowedCPUs", Value::bytes(&[2, 2]))]),
            ("cpuset.cpus", "3-1", vec![]),
            ("cpuset.cpus", "0-4000000000", vec![]),
            ("cpuset.cpus", "one", vec![]),
            ("cpuset.mems", "0", vec![("AllowedMemoryNodes", Value::bytes(&[1]))]),
            ("io.weight", "default 50", vec![("IOWeight", n(50))]),
            ("io.weight", "8:0 50", vec![]),
            ("io.max", "8:0 rbps=1", vec![]),
            ("hugetlb.2MB.max", "0", vec![]),
        ] {
            let expected: Vec<Property> = expected.into_iter().map(|(k, v)| (k.into(), v)).collect();
            assert_eq!(of_writes(&[write(file, value)]), expected, "{file} {value}");
        }
        let instead = Absent::Instead { file: "io.weight", value: "4950".into() };
        let bfq = Write { absent: instead, ..write("io.bfq.weight", "500") };
        assert_eq!(of_writes(&[bfq]), [("IOWeight".into(), n(4950))]);
        let weight = |writes: &[(&str, &str)]| {
            let writes: Vec<Write> = writes.iter().map(|(file, value)| write(file, value)).collect();
            of_writes(&writes).into_iter().map(|(_, value)| value).collect::<Vec<_>>()
        };
        assert_eq!(weight(&[("cpu.weight", "59"), ("cpu.idle", "1")]), [n(0)]);
        assert_eq!(weight(&[("cpu.idle", "1"), ("cpu.weight", "59")]), [n(0)]);
        assert_eq!(weight(&[("cpu.weight", "59"), ("cpu.idle", "0")]), [n(59)]);
        assert_eq!(weight(&[("cpu.idle", "0")]), [n(u64::MAX)]);
        let twice = [write("pids.max", "5"), write("memory.max", "7"), write("pids.max", "6")];
        assert_eq!(of_writes(&twice), [("MemoryMax".into(), n(7)), ("TasksMax".into(), n(6))]);
    }

    #[test]
    fn annotations_become_properties() {
        let strings = |texts: &[&str]| Value::strings(texts.iter().map(ToString::to_string));
        let u64s =
            |numbers: &[u64]| Value::Array("t".into(), numbers.iter().copied().map(Value::U64).collect());
        let pair = |a: &str, b: &str| Value::Struct(vec![Value::str(a), Value::str(b)]);
        for (name, text, expected) in [
            ("KillSignal", "15", ("KillSignal", Value::I32(15))),
            ("TimeoutStopUSec", "uint64 123456789", ("TimeoutStopUSec", Value::U64(123_456_789))),
            ("TimeoutStopUSec", "@t 5", ("TimeoutStopUSec", Value::U64(5))),
            ("TimeoutStopSec", "10", ("TimeoutStopUSec", Value::U64(10_000_000))),
            ("TimeoutStopSec", "uint64 1", ("TimeoutStopUSec", Value::U64(1_000_000))),
            ("RuntimeMaxSec", "1.5", ("RuntimeMaxUSec", Value::U64(1_500_000))),
            ("CollectMode", "'inactive-or-failed'", ("CollectMode", Value::str("inactive-or-failed"))),
            ("Description", "\"it's \\\"it\\\"\"", ("Description", Value::str("it's \"it\""))),
            ("SendSIGHUP", " true ", ("SendSIGHUP", Value::Bool(true))),
            ("After", "['a.service', 'b.service']", ("After", strings(&["a.service", "b.service"]))),
            ("After", "@as []", ("After", strings(&[]))),
            ("X", "[uint64 1, 2,]", ("X", u64s(&[1, 2]))),
            ("X", "@at [1, 2]", ("X", u64s(&[1, 2]))),
            ("X", "byte 0xff", ("X", Value::Byte(255))),
            ("X", "int64 -9223372036854775808", ("X", Value::I64(i64::MIN))),
            ("X", "-1", ("X", Value::I32(-1))),
            ("X", "objectpath '/a'", ("X", Value::Path("/a".into()))),
            ("X", "-2.5e3", ("X", Value::Double((-2500f64).to_bits()))),
            (
                "DeviceAllow",
                "[('/dev/null', 'rw')]",
                ("DeviceAllow", Value::Array("(ss)".into(), vec![pair("/dev/null", "rw")])),
            ),
        ] {
            let got = of_annotation(name, text);
            assert_eq!(got, Ok((expected.0.into(), expected.1)), "{name} {text}");
        }
        let deep = "[".repeat(100_000);
        let wide = |count: usize| format!("({})", "1,".repeat(count));
        assert!(of_annotation("X", &wide(253)).is_ok());
        for (name, text, word) in [
            ("", "1", "name of a property"),
            ("A-B", "1", "name of a property"),
            ("PIDs", "[uint32 1]", "not for the configuration"),
            ("Slice", "'x.slice'", "not for the configuration"),
            ("TimeoutStopSec", "'x'", "time in seconds"),
            ("TimeoutStopSec", "-1", "time in seconds"),
            ("TimeoutStopSec", "uint64 18446744073709551615", "time in seconds"),
            ("X", "", "GVariant"),
            ("X", "word", "GVariant"),
            ("X", "'open", "GVariant"),
            ("X", "'bad \\q'", "GVariant"),
            ("X", "1 2", "GVariant"),
            ("X", "[]", "GVariant"),
            ("X", "[1 2]", "GVariant"),
            ("X", "[1, 'a']", "GVariant"),
            ("X", "byte 256", "GVariant"),
            ("X", "4294967296", "GVariant"),
            ("X", "uint64 'a'", "GVariant"),
            ("X", "uint64", "GVariant"),
            ("X", "inf", "GVariant"),
            ("X", "()", "GVariant"),
            ("X", "@a{sv} {}", "GVariant"),
            ("X", deep.as_str(), "GVariant"),
            ("X", wide(254).as_str(), "more values"),
        ] {
            let error = of_annotation(name, text).unwrap_err();
            assert!(error.contains(word), "{name} {text:.20}: {error}");
        }
    }
}
