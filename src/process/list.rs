//! Lists of CPUs and memory nodes as the kernel writes them: `0-3,5`.
//!
//! As in runc, blanks around an element and empty elements are allowed, and an empty text means no list.

/// A set of small numbers that is never empty. Bit n % 64 of word n / 64 stands for n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List(Vec<u64>);

impl List {
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.0
    }
}

/// Parses a list of numbers below `limit`.
pub fn parse(text: &str, limit: usize) -> Result<Option<List>, String> {
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
    }
}
