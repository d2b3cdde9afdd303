//! The pass over argv that gives every option one form.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::table::{Opt, Takes};

/// Where the pass ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Before the first operand, which is the verb.
    Before,
    /// At the first operand. The words after it belong to another program.
    AtFirstOperand,
    /// At the end.
    Never,
}

/// Gives every known option the form `--name=value`, and a switch the form `--name`. Returns also the words
/// from where the pass ended. An unknown option stays as it is, and clap reports it.
pub(super) fn normalise<'a>(
    words: &'a [OsString],
    tables: &[&[Opt]],
    stop: Stop,
) -> (Vec<OsString>, &'a [OsString]) {
    let mut out = Vec::with_capacity(words.len());
    let mut rest = words;
    while let Some((word, after)) = rest.split_first() {
        let operand = !word.as_bytes().starts_with(b"-") || word == "-" || word == "--";
        match stop {
            Stop::Before if operand => break,
            Stop::AtFirstOperand if operand && word != "--" => {
                out.push("--".into());
                out.push(word.clone());
                // Users of other tools write `exec ID -- program`.
                let words = if after.first().is_some_and(|w| w == "--") { &after[1..] } else { after };
                out.extend(words.iter().cloned());
                return (out, &[]);
            }
            Stop::Never if word == "--" => {
                out.extend(rest.iter().cloned());
                return (out, &[]);
            }
            _ => {}
        }
        rest = after;
        let Some((option, value)) = known(word, tables) else {
            if word != "--" {
                out.push(word.clone());
            }
            continue;
        };
        let value = match value {
            None if option.takes != Takes::Switch => match rest.split_first() {
                Some((next, after)) => {
                    rest = after;
                    Some(next.as_bytes())
                }
                None => None,
            },
            value => value,
        };
        out.extend(rewritten(option, value));
    }
    (out, rest)
}

/// Returns one option in the normal form, or `None` if Go's flag package would set the default.
fn rewritten(option: &Opt, value: Option<&[u8]>) -> Option<OsString> {
    let name = option.long;
    let several = matches!(option.takes, Takes::Texts(_) | Takes::Numbers(_));
    match (option.takes, value) {
        (Takes::Switch, Some(b"true" | b"1" | b"t" | b"T" | b"TRUE" | b"True")) | (_, None) => {
            Some(OsString::from(format!("--{name}")))
        }
        (Takes::Switch, Some(b"false" | b"0" | b"f" | b"F" | b"FALSE" | b"False")) => None,
        (_, Some(b"")) if !several => None,
        (_, Some(value)) => {
            let mut word = format!("--{name}=").into_bytes();
            word.extend_from_slice(value);
            Some(OsString::from_vec(word))
        }
    }
}

/// Returns whether a word that begins with a dash is one of these options, or asks for help.
pub(super) fn is_known(word: &OsStr, options: &[Opt]) -> bool {
    word == "-h" || word == "--help" || known(word, &[options]).is_some()
}

/// Returns the option that a word names, and the value after its `=`.
fn known<'a, 't>(word: &'a OsStr, tables: &[&'t [Opt]]) -> Option<(&'t Opt, Option<&'a [u8]>)> {
    let bytes = word.as_bytes().strip_prefix(b"-")?;
    let bytes = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let mut parts = bytes.splitn(2, |b| *b == b'=');
    let name = std::str::from_utf8(parts.next()?).ok()?;
    let value = parts.next();
    let mut options = tables.iter().flat_map(|table| table.iter());
    let mut letters = name.chars();
    let option = match (letters.next(), letters.next()) {
        (Some(letter), None) => options.find(|o| o.short == Some(letter) || o.also == Some(letter)),
        _ => options.find(|o| o.long == name),
    };
    option.map(|option| (option, value))
}
