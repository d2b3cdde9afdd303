//! Lists of CPUs and memory nodes in the kernel's notation: `0-3,5` ("List format" in cpuset(7)).
//!
//! As in runc, blanks around an element and empty elements are allowed, and an empty text means no list.

use std::fmt;

/// The largest number of CPUs or memory nodes that a kernel can be built for.
pub(crate) const LARGEST: usize = 8192;

/// A set of small numbers: bit n of word n / 64 is n. Never empty, unless it was made of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List(Vec<u64>);

impl List {
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }

    /// Returns the list as one hexadecimal number, in which bit n is CPU n.
    #[must_use]
    pub fn mask(&self) -> String {
        let mut words = self.0.iter().rev().skip_while(|word| **word == 0);
        let first = words.next().copied().unwrap_or_default();
        words.fold(format!("{first:#x}"), |mask, word| format!("{mask}{word:016x}"))
    }

    /// Reads a bit mask, the lowest numbers first.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self(bytes.chunks(8).map(word).collect())
    }

    /// Returns the bit mask, the lowest numbers first and without zeros at its end.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
        bytes
    }

    /// Returns the numbers in ascending order.
    #[must_use]
    pub fn members(&self) -> Vec<usize> {
        (0..self.0.len() * 64).filter(|n| self.0[n / 64] >> (n % 64) & 1 == 1).collect()
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members();
        for (i, run) in members.chunk_by(|a, b| a + 1 == *b).enumerate() {
            let comma = if i == 0 { "" } else { "," };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                _ => write!(f, "{comma}{}", run[0])?,
            }
        }
        Ok(())
    }
}

/// Parses a list of numbers below `limit`.
pub(crate) fn parse(text: &str, limit: usize) -> Result<Option<List>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut words = Vec::new();
    for element in text.split(',').map(str::trim).filter(|element| !element.is_empty()) {
        let (first, last) = element.split_once('-').unwrap_or((element, element));
        let (first, last) = (number(first, limit)?, number(last, limit)?);
        if first > last {
            return Err(format!("{element:?} runs backwards"));
        }
        if words.len() <= last / 64 {
            words.resize(last / 64 + 1, 0);
        }
        for n in first..=last {
            words[n / 64] |= 1u64 << (n % 64);
        }
    }
    if words.is_empty() { Err(format!("{text:?} names nothing")) } else { Ok(Some(List(words))) }
}

fn number(text: &str, limit: usize) -> Result<usize, String> {
    let text = text.trim();
    // `parse` would accept a sign.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text:?} is not a number"));
    }
    let below = text.parse().ok().filter(|n| *n < limit);
    below.ok_or_else(|| format!("{text} is above {}", limit - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        let some = |words: &[u64]| Ok(Some(List(words.to_vec())));
        let wrong = |message: &str| Err(message.to_string());
        for (text, expected) in [
            ("", Ok(None)),
            ("0", some(&[1])),
            ("0-3,5", some(&[0b10_1111])),
            (" 0 - 1 , 2,, ", some(&[0b111])),
            ("64,0", some(&[1, 1])),
            ("127", some(&[0, 1 << 63])),
            ("3-1", wrong("\"3-1\" runs backwards")),
            (",", wrong("\",\" names nothing")),
            ("+1", wrong("\"+1\" is not a number")),
            ("1-", wrong("\"\" is not a number")),
            ("1-2-3", wrong("\"2-3\" is not a number")),
            ("128", wrong("128 is above 127")),
            ("99999999999999999999999", wrong("99999999999999999999999 is above 127")),
            ("0x1", wrong("\"0x1\" is not a number")),
        ] {
            assert_eq!(parse(text, 128), expected, "{text:?}");
        }
        for (words, mask) in [(&[0b11][..], "0x3"), (&[1, 0], "0x1"), (&[1, 0x10], "0x100000000000000001")] {
            assert_eq!(List(words.to_vec()).mask(), mask);
        }
    }

    #[test]
    fn lists_become_masks_and_text() {
        for (bytes, text) in [
            (&[][..], ""),
            (&[0b1000_0111, 1], "0-2,7-8"),
            (&[0, 2], "9"),
            (&[0, 0, 0, 0, 0, 0, 0, 0b1000_0000, 1], "63-64"),
        ] {
            let list = List::of_bytes(bytes);
            assert_eq!((list.to_string().as_str(), list.bytes().as_slice()), (text, bytes));
        }
        assert_eq!(List::of_bytes(&[1, 0, 0]).bytes(), [1]);
    }
}
