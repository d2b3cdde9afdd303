//! The errors of the JSON parser in the words of this project: what is wrong with a document or a value in it,
//! without the names of Rust's types.

use serde::de::{DeserializeOwned, Error as _};
use serde_json::Error;
use serde_json::error::Category;

use crate::suggest;

/// Reads a document. The text as a whole is checked to be UTF-8: that is faster than to check each string, and the code of each
/// type exists only for one kind of reader.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_str(std::str::from_utf8(bytes).map_err(Error::custom)?)
}

/// Describes an error in a text, with its position if the text is not JSON.
#[must_use]
pub(crate) fn reason(text: &str, error: &Error) -> String {
    let what = match error.classify() {
        Category::Data => return value(error),
        Category::Eof if text.trim().is_empty() => return "is empty".into(),
        Category::Eof => "ends before the document is complete".into(),
        _ => syntax(error, text),
    };
    format!("line {}, column {}: {what}", error.line(), error.column())
}

/// Describes an error without its position.
#[must_use]
pub(crate) fn value(error: &Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    described(text).unwrap_or_else(|| text.into())
}

/// Returns whether a text of [`value`] says that a member is missing.
#[must_use]
pub(crate) fn is_about_a_missing_member(text: &str) -> bool {
    text.starts_with("the member ") && text.ends_with(" is missing")
}

/// Puts a message of serde into our words. Returns `None` for one that is not known.
fn described(text: &str) -> Option<String> {
    if let Some(name) = quoted(text, "missing field ") {
        return Some(format!("the member {name:?} is missing"));
    }
    if let Some(name) = quoted(text, "duplicate field ") {
        return Some(format!("the member {name:?} occurs twice"));
    }
    for (start, what) in [("unknown variant ", "is none of"), ("unknown field ", "is none of the members")] {
        let Some((word, expected)) = text.strip_prefix(start).and_then(|rest| rest.split_once(", ")) else {
            continue;
        };
        let words: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        let word = word.trim_matches('`');
        return Some(match meant(word, &words) {
            Some(meant) => format!("{word:?} is unknown (hint: did you mean {meant:?}?)"),
            None => format!("{word:?} {what} {}", words.join(", ")),
        });
    }
    let rest = text.strip_prefix("invalid type: ").or_else(|| text.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let wanted = wanted(expected);
    let word = found.strip_prefix("string \"").and_then(|rest| rest.strip_suffix('"'));
    let hint = word.and_then(|word| instead(word, &wanted));
    let hint = hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
    Some(format!("must be {wanted}, not {}{hint}", given(found)))
}

/// Returns what to write instead of a string, where something else is wanted.
fn instead(word: &str, wanted: &str) -> Option<String> {
    if wanted.starts_with("a whole number") {
        return match word.parse::<i64>() {
            Ok(_) => Some("write it without quotes".into()),
            Err(_) => bytes(word).map(|bytes| format!("that is {bytes} bytes")),
        };
    }
    // A text with blanks may be a command line, whose words only a shell finds.
    let list = wanted == "an array" && !word.is_empty() && !word.contains([' ', '\\']);
    list.then(|| format!("[\"{}\"]", word.replace(',', "\", \"")))
}

/// Returns the bytes of a size with a unit, such as 512m, as the command lines of engines have it.
fn bytes(word: &str) -> Option<u64> {
    let lower = word.to_ascii_lowercase();
    let (number, unit) = lower.split_at(lower.find(|c: char| !c.is_ascii_digit())?);
    let power = match unit.trim_start().trim_end_matches('b').trim_end_matches('i') {
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << power)
}

/// Returns the word in backquotes that follows the beginning of a text.
fn quoted<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.strip_prefix(start)?.strip_prefix('`')?.strip_suffix('`')
}

/// Returns the word that was probably meant: another name of it, the only one that begins or ends with it, as
/// RLIMIT_NOFILE ends with "nofile", or the nearest one, with or without what all of them begin with.
fn meant<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    let lower = word.to_lowercase();
    // The architectures' names in Go and Debian.
    let other = match lower.strip_prefix("scmp_arch_").unwrap_or(&lower) {
        "amd64" | "x64" => "SCMP_ARCH_X86_64",
        "386" | "i386" | "i686" => "SCMP_ARCH_X86",
        "arm64" => "SCMP_ARCH_AARCH64",
        "armel" | "armhf" => "SCMP_ARCH_ARM",
        "ppc64el" => "SCMP_ARCH_PPC64LE",
        _ => "",
    };
    if let Some(known) = words.iter().find(|known| **known == other) {
        return Some(known);
    }
    let mut longer = words.iter().filter(|known| {
        let known = known.to_lowercase();
        lower.len() > 1 && (known.starts_with(&lower) || known.ends_with(&format!("_{lower}")))
    });
    let only = longer.next().filter(|_| longer.next().is_none());
    let near = || suggest::nearest(word, words.iter().copied());
    only.copied().or_else(near).or_else(|| {
        let start = common_start(words);
        let tail = suggest::nearest(word, words.iter().filter_map(|known| known.strip_prefix(start)))?;
        words.iter().find(|known| known.strip_prefix(start) == Some(tail)).copied()
    })
}

/// Returns what all words begin with, up to an underline.
fn common_start<'a>(words: &[&'a str]) -> &'a str {
    let first = words.first().copied().unwrap_or_default();
    let common = |end: &usize| words.iter().all(|word| word.starts_with(&first[..*end]));
    let ends = first.rmatch_indices('_').map(|(at, _)| at + 1);
    &first[..ends.into_iter().find(common).unwrap_or(0)]
}

/// Describes what a type accepts.
fn wanted(expected: &str) -> String {
    let numbers = |kind: &str| format!("a whole number {kind}");
    match expected {
        "a sequence" => "an array".into(),
        "a map" => "an object".into(),
        "a boolean" => "true or false".into(),
        "path string" | "variant identifier" | "a borrowed string" => "a string".into(),
        "f64" | "f32" => "a number".into(),
        "u8" => numbers("from 0 to 255"),
        "u16" => numbers("from 0 to 65535"),
        "u32" => numbers("from 0 to 4294967295"),
        "i32" => numbers("from -2147483648 to 2147483647"),
        "u64" | "usize" => numbers("of 0 or more"),
        "i64" => "a whole number".into(),
        other if other.starts_with("struct ") => "an object".into(),
        other if other.starts_with("string or ") || other.starts_with("enum ") => "a string".into(),
        other => other.into(),
    }
}

/// Describes a value.
fn given(found: &str) -> String {
    match found.split_once(' ') {
        Some(("integer" | "floating", rest)) => {
            format!("the number {}", rest.trim_start_matches("point ").trim_matches('`'))
        }
        Some(("boolean", rest)) => rest.trim_matches('`').into(),
        Some(("string", _)) => format!("the {found}"),
        _ => match found {
            "map" => "an object".into(),
            "sequence" => "an array".into(),
            "unit value" | "Option value" => "null".into(),
            other => other.into(),
        },
    }
}

/// Describes why a text is not JSON.
fn syntax(error: &Error, text: &str) -> String {
    let shown = error.to_string();
    let shown = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(text, _)| text);
    let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default().as_bytes();
    // The parser points at the character, or behind it.
    let at = |byte: u8| [1, 2].iter().any(|n| line.get(error.column().wrapping_sub(*n)) == Some(&byte));
    let hint = match () {
        () if at(b'/') || at(b'#') => " (hint: JSON has no comments)",
        () if at(b'\'') => " (hint: JSON has double quotes only)",
        () => "",
    };
    let what = match shown {
        "trailing comma" => "a comma follows the last item",
        "trailing characters" => "text follows the end of the document",
        "key must be a string" => "the name of a member, in double quotes, is expected here",
        "expected value" => "a value is expected here",
        "expected ident" => "true, false or null is expected here",
        "expected `:`" => "a colon is expected here",
        "expected `,` or `}`" => "a comma or } is expected here",
        "expected `,` or `]`" => "a comma or ] is expected here",
        "invalid number" => "a number has a wrong form",
        "number out of range" => "a number is too large",
        "invalid escape" => "a string has an unknown escape",
        "recursion limit exceeded" => "values are nested more than 127 levels deep",
        text if text.starts_with("control character") => {
            "a string contains a line end or another control character"
        }
        other => other,
    };
    format!("{what}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_serde_become_ours() {
        for (text, expected) in [
            ("missing field `cwd`", "the member \"cwd\" is missing"),
            ("duplicate field `cwd`", "the member \"cwd\" occurs twice"),
            (
                "unknown variant `net`, expected one of `mount`, `network`, `ipc`",
                "\"net\" is unknown (hint: did you mean \"network\"?)",
            ),
            (
                "unknown variant `NOFILE`, expected one of `RLIMIT_CPU`, `RLIMIT_NOFILE`",
                "\"NOFILE\" is unknown (hint: did you mean \"RLIMIT_NOFILE\"?)",
            ),
            (
                "unknown variant `amd64`, expected one of `SCMP_ARCH_X86`, `SCMP_ARCH_X86_64`",
                "\"amd64\" is unknown (hint: did you mean \"SCMP_ARCH_X86_64\"?)",
            ),
            (
                "unknown variant `SCMP_ARCH_ARM64`, expected one of `SCMP_ARCH_ARM`, `SCMP_ARCH_AARCH64`",
                "\"SCMP_ARCH_ARM64\" is unknown (hint: did you mean \"SCMP_ARCH_AARCH64\"?)",
            ),
            (
                "unknown variant `x86-64`, expected one of `SCMP_ARCH_X86`, `SCMP_ARCH_X86_64`",
                "\"x86-64\" is unknown (hint: did you mean \"SCMP_ARCH_X86_64\"?)",
            ),
            ("unknown variant `z`, expected `aaa` or `bbb`", "\"z\" is none of aaa, bbb"),
            ("unknown field `z`, expected `ro` or `rw`", "\"z\" is none of the members ro, rw"),
            (
                "invalid type: string \"a, expected b\", expected u32",
                "must be a whole number from 0 to 4294967295, not the string \"a, expected b\"",
            ),
            ("invalid type: integer `5`, expected a string", "must be a string, not the number 5"),
            (
                "invalid type: floating point `1.5`, expected i64",
                "must be a whole number, not the number 1.5",
            ),
            (
                "invalid value: integer `-1`, expected u16",
                "must be a whole number from 0 to 65535, not the number -1",
            ),
            ("invalid type: null, expected a boolean", "must be true or false, not null"),
            ("invalid type: sequence, expected struct Root", "must be an object, not an array"),
            ("invalid type: map, expected a sequence", "must be an array, not an object"),
            (
                "invalid type: string \"512m\", expected i64",
                "must be a whole number, not the string \"512m\" (hint: that is 536870912 bytes)",
            ),
            (
                "invalid type: string \"-1\", expected i64",
                "must be a whole number, not the string \"-1\" (hint: write it without quotes)",
            ),
            (
                "invalid type: string \"ro,nosuid\", expected a sequence",
                "must be an array, not the string \"ro,nosuid\" (hint: [\"ro\", \"nosuid\"])",
            ),
            (
                "invalid type: string \"sh -c x\", expected a sequence",
                "must be an array, not the string \"sh -c x\"",
            ),
        ] {
            assert_eq!(described(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(described("something new"), None);
    }

    #[test]
    fn a_size_with_a_unit_has_a_number_of_bytes() {
        for (word, expected) in [
            ("1k", Some(1024)),
            ("2 GiB", Some(2 << 30)),
            ("3MB", Some(3 << 20)),
            ("1t", Some(1 << 40)),
            ("16777216t", None),
            ("1.5g", None),
            ("m", None),
            ("5", None),
            ("max", None),
            ("5x", None),
        ] {
            assert_eq!(bytes(word), expected, "{word}");
        }
    }

    #[test]
    fn a_text_that_is_not_json_has_a_line_and_a_column() {
        for (text, expected) in [
            ("", "is empty"),
            ("{", "line 1, column 1: ends before the document is complete"),
            ("{\"a\": 1,\n}", "line 2, column 1: a comma follows the last item"),
            ("[1 2]", "line 1, column 4: a comma or ] is expected here"),
            (
                "{\"a\": 1, // b\n}",
                "line 1, column 10: the name of a member, in double quotes, is expected here (hint: JSON has no \
                 comments)",
            ),
            ("['a']", "line 1, column 2: a value is expected here (hint: JSON has double quotes only)"),
            ("{} x", "line 1, column 4: text follows the end of the document"),
        ] {
            let error = serde_json::from_str::<serde_json::Value>(text).unwrap_err();
            assert_eq!(reason(text, &error), expected, "{text}");
        }
    }
}
