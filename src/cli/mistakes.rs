//! Errors of the command line, in the words of this project instead of clap's.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::table::{GLOBALS, Opt, Verb};
use crate::error::{Kind, fail};
use crate::suggest;

/// Returns the error for words that clap does not accept. `verb` is the verb on the command line, if there is one.
pub(super) fn explain(error: &clap::Error, verb: Option<&Verb>, verbs: &[Verb]) -> anyhow::Error {
    let label = verb.map(|verb| format!("{}: ", verb.name)).unwrap_or_default();
    fail(Kind::Usage, label + &described(error, verb, verbs).unwrap_or_else(|| first_paragraph(error)))
}

/// Returns the first lines of clap's message, without its usage text.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).into()
}

fn described(error: &clap::Error, verb: Option<&Verb>, verbs: &[Verb]) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        Some(ContextValue::Strings(texts)) => texts.first().map(String::as_str),
        _ => None,
    };
    let argument = text(ContextKind::InvalidArg)?;
    // clap shows an option with the name of its value: `--preserve-fds <N>`.
    let option = argument.split(' ').next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let name = verb.map_or("corten", |verb| verb.name);
    Some(match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with('-') => unknown_option(argument, verb, verbs),
        ErrorKind::UnknownArgument => {
            format!("unexpected operand {argument:?} (hint: corten {name} --help shows its operands)")
        }
        ErrorKind::MissingRequiredArgument => {
            let what = match argument {
                "<ID>" => "the id of a container",
                "<FILE>" => "the name of a file",
                "[WORD]..." | "<WORD>..." => "an action",
                other => other,
            };
            format!("needs {what} (hint: corten {name} --help)")
        }
        ErrorKind::InvalidValue if value.is_empty() => format!("{option} requires an argument"),
        ErrorKind::ValueValidation => {
            format!("invalid value {value:?} for {option} (hint: a whole number from 0 to {})", u32::MAX)
        }
        ErrorKind::TooManyValues => format!("invalid value {value:?} for {option} (hint: true or false)"),
        _ => return None,
    })
}

/// Describes an option that the verb does not have, nor corten before the verb.
pub(super) fn unknown_option(option: &str, verb: Option<&Verb>, verbs: &[Verb]) -> String {
    let name = option.split('=').next().unwrap_or_default();
    let long = name.trim_start_matches('-');
    let has = |options: &[Opt]| {
        options
            .iter()
            .any(|known| known.long == long || known.short.is_some_and(|letter| long == letter.to_string()))
    };
    let owners: Vec<&str> = verbs
        .iter()
        .filter(|verb| verb.options.iter().any(|options| has(options)))
        .map(|verb| verb.name)
        .collect();
    let own = verb.map(|verb| verb.options).unwrap_or_default().iter().copied().flatten();
    let others: &[Opt] = if verb.is_some() { &[] } else { GLOBALS };
    let known = own.chain(others).filter(|option| option.help != "ignored").map(|option| option.long);
    let hint = match suggest::nearest(long, known) {
        _ if verb.is_some() && has(GLOBALS) => {
            format!("it stands before the command: corten {name} ... {}", verb.map_or("", |verb| verb.name))
        }
        Some(known) if long.len() > 1 => format!("did you mean --{known}?"),
        _ if long.len() > 1 && !owners.is_empty() => format!("it is an option of {}", owners.join(", ")),
        _ => format!(
            "corten {}--help lists the options",
            verb.map(|v| format!("{} ", v.name)).unwrap_or_default()
        ),
    };
    format!("unknown option {name} (hint: {hint})")
}
