//! The values of a cgroup's files. The runtime keeps them typed until they are written, so that no limit
//! is parsed after it was formatted. Text of a user (`linux.resources.unified`) or of the kernel stays as it
//! is, and is parsed by [`Value::parse`] only where its meaning matters.

use std::fmt;

use crate::cpu_list::{self, List};

/// A value for one file of a cgroup. `Display` is the text that is written.
#[derive(Clone, PartialEq, Eq)]
pub enum Value {
    Number(i128),
    /// No limit, in the files of cgroup v2.
    Max,
    /// `cpu.max`, in microseconds. A quota of `None` is no limit. A period of `None` leaves the present one.
    Quota {
        quota: Option<u64>,
        period: Option<u64>,
    },
    /// One line of a file with a line for each device: `8:0 rbps=600 wbps=max`, or with one figure that has
    /// no name, `8:0 200`.
    Line {
        key: String,
        figures: Vec<(String, String)>,
    },
    /// CPUs or memory nodes.
    List(List),
    /// The words of a user or of the kernel.
    Text(String),
}

/// The file of cgroup v1 whose lines begin with the name of a network interface.
const PRIORITIES: &str = "net_prio.ifpriomap";

/// Whether a file holds the weight of the cgroup, and in lines of their own those for single devices.
pub(super) fn is_weight(file: &str) -> bool {
    matches!(file, "io.weight" | "io.bfq.weight")
}

/// Returns what a line without a figure of its own would contain, in a file whose lines are a device and one
/// figure without a name.
pub(super) fn unset_figure(file: &str) -> Option<&'static str> {
    match file {
        "io.weight" | "io.bfq.weight" | "blkio.bfq.weight_device" => Some("default"),
        "blkio.weight_device" | "blkio.leaf_weight_device" | PRIORITIES => Some("0"),
        _ => file.starts_with("blkio.throttle.").then_some("0"),
    }
}

/// Returns the power of two that a unit's letter stands for, or `None` if it is not a unit.
pub(crate) fn power_of_unit(letter: &str) -> Option<u32> {
    let at = ["", "k", "m", "g", "t", "p"].iter().position(|unit| *unit == letter)?;
    Some(10 * at as u32)
}

/// Parses a number as the kernel does, with a unit such as `M`. `-1` is cgroup v1's "no limit".
pub(super) fn number(text: &str) -> Option<i128> {
    if text == "-1" {
        return Some(-1);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let power = power_of_unit(&text[digits.len()..].to_ascii_lowercase())?;
    digits.parse::<u64>().ok()?.checked_mul(1 << power).map(Into::into)
}

impl Value {
    /// Makes a line. A figure that stands alone has an empty name.
    pub(super) fn line<'a, T: ToString>(
        key: impl Into<String>,
        figures: impl IntoIterator<Item = (&'a str, T)>,
    ) -> Self {
        let figures = figures.into_iter().map(|(name, figure)| (name.into(), figure.to_string()));
        Self::Line { key: key.into(), figures: figures.collect() }
    }

    /// Parses the text of a file, or text that is to be written there.
    #[must_use]
    pub fn parse(file: &str, text: &str) -> Self {
        let text = text.trim();
        let words: Vec<&str> = text.split_whitespace().collect();
        let value = match words[..] {
            _ if file.starts_with("cpuset.") => {
                cpu_list::parse(text, cpu_list::LARGEST).ok().flatten().map(Self::List)
            }
            [quota, ref period @ ..] if file == "cpu.max" => parse_quota(quota, period),
            ["max"] => Some(Self::Max),
            [word] => number(word).map(Self::Number),
            ["default", word] if is_weight(file) => number(word).map(Self::Number),
            [key, ref figures @ ..] => parse_line(file, key, figures),
            [] => None,
        };
        value.unwrap_or_else(|| Self::Text(text.into()))
    }

    /// Returns the value with its text parsed.
    #[must_use]
    pub fn parsed(&self, file: &str) -> Self {
        match self {
            Self::Text(text) => Self::parse(file, text),
            typed => typed.clone(),
        }
    }

    /// Returns whether a write of this value sets all that a write of `earlier` to the same file has set.
    #[must_use]
    pub fn replaces(&self, file: &str, earlier: &Self) -> bool {
        match (self.parsed(file), earlier.parsed(file)) {
            (Self::Line { key: a, figures: x }, Self::Line { key: b, figures: y }) => {
                a == b && x.iter().map(|(name, _)| name).eq(y.iter().map(|(name, _)| name))
            }
            (Self::Line { .. }, _) | (_, Self::Line { .. }) => false,
            _ => true,
        }
    }

    /// Returns what the file contains when `later` is written after this value: all of it, or of a device's
    /// line only the figures that it names. A line for another device changes nothing.
    #[must_use]
    pub fn then(self, file: &str, later: &Self) -> Self {
        match (self.parsed(file), later.parsed(file)) {
            (Self::Line { key: a, mut figures }, Self::Line { key: b, figures: new }) if a == b => {
                for (name, figure) in &mut figures {
                    if let Some((_, other)) = new.iter().find(|(other, _)| other == name) {
                        figure.clone_from(other);
                    }
                }
                Self::Line { key: a, figures }
            }
            (Self::Line { .. }, _) | (_, Self::Line { .. }) => self,
            _ => later.clone(),
        }
    }
}

fn parse_quota(quota: &str, period: &[&str]) -> Option<Value> {
    let quota = if quota == "max" { None } else { Some(quota.parse().ok()?) };
    let period = match period {
        [] => None,
        [period] => Some(period.parse().ok()?),
        _ => return None,
    };
    Some(Value::Quota { quota, period })
}

fn parse_line(file: &str, key: &str, figures: &[&str]) -> Option<Value> {
    let key_of_one = (key.contains(':') || file == PRIORITIES) && unset_figure(file).is_some();
    let figures = match figures {
        [figure] if key_of_one && !figure.contains('=') => vec![(String::new(), (*figure).to_string())],
        _ => {
            let named = figures.iter().map(|word| word.split_once('='));
            named
                .map(|pair| pair.map(|(name, figure)| (name.into(), figure.into())))
                .collect::<Option<_>>()?
        }
    };
    Some(Value::Line { key: key.into(), figures })
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => n.fmt(f),
            Self::Max => f.write_str("max"),
            Self::Quota { quota, period } => {
                match quota {
                    Some(quota) => quota.fmt(f)?,
                    None => f.write_str("max")?,
                }
                period.map_or(Ok(()), |period| write!(f, " {period}"))
            }
            Self::Line { key, figures } => {
                f.write_str(key)?;
                figures.iter().try_for_each(|(name, figure)| match name.as_str() {
                    "" => write!(f, " {figure}"),
                    name => write!(f, " {name}={figure}"),
                })
            }
            Self::List(list) => list.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// As the text that is written.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}
