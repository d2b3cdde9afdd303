//! The lines of resctrl's `schemata`, such as `L3:0=7f0;1=1f`: a resource and its share in each domain. The
//! kernel pads with blanks and zeros, accepts a line with only some of the domains, and rounds bandwidths up.
//! Therefore the text that was written cannot be compared with the file letter by letter.

/// A parsed line.
struct Line<'a> {
    name: &'a str,
    values: Vec<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (name, rest) = text.split_once(':')?;
        let pair = |part: &'a str| {
            let (domain, value) = part.split_once('=')?;
            Some((significant(domain), significant(value)))
        };
        let parts = rest.split(';').map(str::trim).filter(|part| !part.is_empty());
        let values = parts.map(pair).collect::<Option<Vec<_>>>()?;
        (!name.trim().is_empty() && !values.is_empty()).then_some(Self { name: name.trim(), values })
    }

    fn value(&self, domain: &str) -> Option<&'a str> {
        self.values.iter().find(|(name, _)| *name == domain).map(|(_, value)| *value)
    }
}

/// Returns a number without leading zeros and `0x`.
fn significant(number: &str) -> &str {
    let number = number.trim();
    let digits = number.strip_prefix("0x").unwrap_or(number).trim_start_matches('0');
    if digits.is_empty() { &number[number.len().saturating_sub(1)..] } else { digits }
}

/// Returns the resource of a line, or `None` if the line is malformed.
#[must_use]
pub(super) fn name(line: &str) -> Option<&str> {
    Line::parse(line).map(|line| line.name)
}

/// Returns the line for a resource.
#[must_use]
pub(super) fn line_of<'a>(text: &'a str, resource: &str) -> Option<&'a str> {
    text.lines().find(|line| name(line) == Some(resource)).map(str::trim)
}

/// Reports whether `present` has the values of the line, except for those that a `later` line overrides. A
/// bandwidth may be rounded up to a multiple of `step`.
#[must_use]
pub(super) fn holds<S: AsRef<str>>(asked: &str, later: &[S], present: &str, step: u64) -> bool {
    let Some(asked) = Line::parse(asked) else { return false };
    let later: Vec<Line> = later.iter().filter_map(|line| Line::parse(line.as_ref())).collect();
    let overridden =
        |domain: &str| later.iter().any(|line| line.name == asked.name && line.value(domain).is_some());
    let present = line_of(present, asked.name).and_then(Line::parse);
    asked.values.iter().filter(|(domain, _)| !overridden(domain)).all(|(domain, value)| {
        let found = present.as_ref().and_then(|line| line.value(domain));
        found.is_some_and(|found| same(asked.name, value, found, step))
    })
}

fn same(resource: &str, asked: &str, found: &str, step: u64) -> bool {
    let rounded = || asked.parse::<u64>().ok()?.checked_next_multiple_of(step);
    let up = || rounded().is_some_and(|value| found.parse() == Ok(value));
    asked.eq_ignore_ascii_case(found) || (resource == "MB" && up())
}

/// Returns `text` with the values of `line`. As in the kernel, the domains that are not in `line` keep their
/// values.
#[must_use]
pub(super) fn merged(text: &str, line: &str) -> String {
    let Some(new) = Line::parse(line) else { return text.to_string() };
    let mut lines: Vec<String> = text.lines().map(Into::into).collect();
    let Some(old) = lines.iter_mut().find(|old| name(old) == Some(new.name)) else {
        lines.push(line.to_string());
        return lines.join("\n");
    };
    let before = Line::parse(old).map(|line| line.values).unwrap_or_default();
    let kept = before.into_iter().map(|(domain, value)| (domain, new.value(domain).unwrap_or(value)));
    let mut values: Vec<(&str, &str)> = kept.collect();
    let added = new.values.iter().filter(|(domain, _)| !values.iter().any(|(known, _)| known == domain));
    values.extend(added.copied().collect::<Vec<_>>());
    let values: Vec<String> = values.into_iter().map(|(domain, value)| format!("{domain}={value}")).collect();
    *old = format!("{}:{}", new.name, values.join(";"));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel shows it.
    const PRESENT: &str =
        "    MB:0= 20;1=100\n  SMBA:0=2048\n    L3:0=07f0;1=0000\n    L2:0=0f;1=ff;2=f;3=0\n";

    #[test]
    fn lines_are_compared_by_what_they_mean() {
        let none: [&str; 0] = [];
        for (asked, expected) in [
            ("L3:0=7f0;1=0", true),
            ("L3:1=0;0=7F0", true),
            ("L3:0=0x07f0", true),
            ("L3: 0 = 7f0 ;", true),
            ("L3:00=7f0", true),
            ("L3:0=7f", false),
            ("L3:0=7f0;2=1", false),
            ("L3CODE:0=7f0", false),
            ("L2:0=f;1=ff;2=0f;3=0", true),
            ("MB:0=20;1=100", true),
            // Rounded up by the kernel.
            ("MB:0=15", true),
            ("MB:0=11;1=91", true),
            ("MB:0=10", false),
            ("MB:0=21", false),
            ("SMBA:0=2048", true),
            ("SMBA:0=2041", false),
            ("", false),
            ("L3", false),
        ] {
            assert_eq!(holds(asked, &none, PRESENT, 10), expected, "{asked}");
        }
        assert!(!holds("MB:0=15", &none, PRESENT, 1), "rounded where the kernel does not");
        assert!(!holds("MB:0=15", &none, PRESENT, 0));
    }

    /// config-linux.md#intelrdt: `schemata` is applied last.
    #[test]
    fn a_later_line_overrides_an_earlier_one() {
        for (asked, later, expected) in [
            ("L3:0=1;1=0", &["L3:0=7f0"][..], true),
            ("L3:0=1;1=1", &["L3:0=7f0"], false),
            ("L3:0=1", &["L2:0=7f0"], false),
        ] {
            assert_eq!(holds(asked, later, PRESENT, 1), expected, "{asked} {later:?}");
        }
    }

    #[test]
    fn only_lines_have_a_resource() {
        for (line, expected) in [
            ("L3:0=f", Some("L3")),
            ("  MB:0= 10;1=20;", Some("MB")),
            ("L3:", None),
            (":0=f", None),
            ("L3:0", None),
            ("0=f", None),
            ("", None),
        ] {
            assert_eq!(name(line), expected, "{line}");
        }
        assert_eq!(line_of(PRESENT, "MB"), Some("MB:0= 20;1=100"));
        assert_eq!(line_of(PRESENT, "L4"), None);
    }

    #[test]
    fn lines_are_merged_by_domain() {
        for (text, line, expected) in [
            ("", "L3:0=f", "L3:0=f"),
            ("L3:0=f;1=ff", "L3:1=3", "L3:0=f;1=3"),
            ("L3:0=f", "L3:1=3", "L3:0=f;1=3"),
            ("L3CODE:0=f\nL3DATA:0=f", "L3DATA:0=1", "L3CODE:0=f\nL3DATA:0=1"),
            ("L3CODE:0=f", "L3DATA:0=1", "L3CODE:0=f\nL3DATA:0=1"),
        ] {
            assert_eq!(merged(text, line), expected, "{text} {line}");
        }
    }
}
