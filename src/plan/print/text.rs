//! The lines and words of a printed plan.

use std::ffi::CString;
use std::fmt::{Display, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::namespaces::KINDS;
use crate::namespaces::idmap::IdMap;

/// Sections of indented lines. The name of a section is written with its first line.
#[derive(Default)]
pub(super) struct Text(pub(super) String, Option<&'static str>);

impl Text {
    pub(super) fn section(&mut self, name: &'static str) {
        self.1 = Some(name);
    }

    pub(super) fn line(&mut self, line: impl Display) {
        if let Some(name) = self.1.take() {
            self.0 += name;
            self.0.push('\n');
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {line}");
    }

    /// Writes the line if `wanted`.
    pub(super) fn line_if(&mut self, wanted: bool, line: &str) {
        if wanted {
            self.line(line);
        }
    }
}

/// Returns text of the configuration so that it is one word on one line: in quotes and escaped, unless it is
/// plain.
pub(super) fn word(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\(),;".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(plain) {
        String::from_utf8_lossy(bytes).into_owned()
    } else {
        format!("\"{}\"", bytes.escape_ascii())
    }
}

pub(super) fn path_word(path: &Path) -> String {
    word(path.as_os_str().as_bytes())
}

pub(super) fn words(list: &[CString]) -> String {
    joined(list.iter().map(|text| word(text.as_bytes())), " ")
}

pub(super) fn joined(items: impl IntoIterator<Item: ToString>, separator: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator)
}

/// Returns the names of the bits that are set; bits without a name as a number.
pub(super) fn flags<'a>(bits: u64, names: impl IntoIterator<Item = (u64, &'a str)>) -> String {
    let mut left = bits;
    let mut found = Vec::new();
    for (bit, name) in names {
        if left & bit != 0 {
            found.push(name.to_string());
            left &= !bit;
        }
    }
    if left != 0 {
        found.push(format!("{left:#x}"));
    }
    found.join(" ")
}

/// Returns the names of `CLONE_NEW*` flags.
pub(super) fn kinds(bits: i32) -> String {
    flags(u64::from(bits as u32), KINDS.iter().map(|kind| (u64::from(kind.flag as u32), kind.name)))
}

pub(super) fn id_map(map: &[IdMap]) -> String {
    let row =
        |IdMap { container, host, size }: &IdMap| format!("{container} = {host} on the host, {size} ids");
    joined(map.iter().map(row), "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_configuration_is_one_word_on_one_line() {
        for (text, expected) in [
            ("/a-b_c.d:e=f", "/a-b_c.d:e=f"),
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a\n  devices allow a *:* rwm", r#""a\n  devices allow a *:* rwm""#),
            ("\u{1b}[2J", r#""\x1b[2J""#),
            (r#"a"b\"#, r#""a\"b\\""#),
        ] {
            assert_eq!(word(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn bits_without_a_name_are_shown_as_a_number() {
        let names = [(1, "one"), (4, "four")];
        assert_eq!(flags(0, names), "");
        assert_eq!(flags(5, names), "one four");
        assert_eq!(flags(0x14, names), "four 0x10");
    }
}
