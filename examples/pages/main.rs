//! Writes the man pages and the completions of bash, zsh and fish: `cargo run --example pages -- DIR DATE`
//! (`make man`). They are made of the same tables as `--help`. The files below DIR have the paths that they
//! have below share/ of a prefix.
//!
//! This is an example instead of a verb, so that the installed executable contains no part of it. Text that
//! the tables do not have (descriptions, examples) is in docs/man, a file for each page.

mod bash;
mod fish;
mod man;
mod zsh;

use std::path::Path;
use std::{env, fs, io};

use corten::testing::cli::table::{GLOBALS, Operands, Opt, Takes, Verb};
use corten::testing::commands::VERBS;

/// The option that clap adds to every command.
const HELP: Opt =
    Opt { long: "help", short: Some('h'), also: None, takes: Takes::Switch, help: "print this help" };

/// The row of `help` for the completions. The table has none, because `help` is not a verb there.
const HELP_VERB: (&str, &str) = ("help", "print the help of a command");

/// The kind of values that a shell may offer for an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Directory,
    File,
    Words(&'static [&'static str]),
    /// A value that only the user knows.
    Text,
}

/// Returns the kind of an option's value, or `None` for a switch.
fn value(option: &Opt) -> Option<Value> {
    match option.takes {
        Takes::Switch => None,
        Takes::Path("DIR") => Some(Value::Directory),
        Takes::Path(_) => Some(Value::File),
        Takes::Word(_, words) => Some(Value::Words(words)),
        Takes::Text(_) | Takes::Number(_) | Takes::Texts(_) | Takes::Numbers(_) => Some(Value::Text),
    }
}

/// Returns the name of an option's value.
fn value_name(option: &Opt) -> Option<&'static str> {
    match option.takes {
        Takes::Switch => None,
        Takes::Text(name)
        | Takes::Word(name, _)
        | Takes::Path(name)
        | Takes::Number(name)
        | Takes::Texts(name)
        | Takes::Numbers(name) => Some(name),
    }
}

fn repeated(option: &Opt) -> bool {
    matches!(option.takes, Takes::Texts(_) | Takes::Numbers(_))
}

/// Returns the options that --help shows. Options that are ignored are only accepted for callers of other
/// runtimes.
fn shown(tables: &[&'static [Opt]]) -> Vec<Opt> {
    let rows = tables.iter().flat_map(|table| table.iter());
    rows.filter(|option| option.help != "ignored").copied().chain([HELP]).collect()
}

fn ignored(tables: &[&'static [Opt]]) -> Vec<Opt> {
    let rows = tables.iter().flat_map(|table| table.iter());
    rows.filter(|option| option.help == "ignored").copied().collect()
}

/// The first operand of a verb.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Nothing,
    /// An id that no container has yet.
    NewId,
    Id,
    /// The word `explain` of `seccomp`.
    Explain,
    File,
}

fn first(verb: &Verb) -> First {
    match verb.operands {
        Operands::None => First::Nothing,
        Operands::Words => First::Explain,
        Operands::File => First::File,
        _ if matches!(verb.name, "create" | "run" | "check") => First::NewId,
        _ => First::Id,
    }
}

/// Returns the names of the kernel's first 31 signals, without SIG.
fn signals() -> Vec<&'static str> {
    nix::sys::signal::Signal::iterator().map(|signal| signal.as_str().trim_start_matches("SIG")).collect()
}

/// Returns all options of a verb, or of corten itself, in both forms.
fn spelled(options: &[Opt]) -> Vec<String> {
    options.iter().flat_map(spellings).collect()
}

fn spellings(option: &Opt) -> Vec<String> {
    let short = option.short.map(|letter| format!("-{letter}"));
    [format!("--{}", option.long)].into_iter().chain(short).collect()
}

/// Writes everything below `share`.
pub(crate) fn write(share: &Path, date: &str) -> io::Result<()> {
    let put = |name: &str, text: String| {
        let path = share.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)
    };
    put("man/man8/corten.8", man::whole(date)?)?;
    for verb in VERBS {
        put(&format!("man/man8/corten-{}.8", verb.name), man::page(verb, date)?)?;
    }
    put("bash-completion/completions/corten", bash::script())?;
    put("zsh/site-functions/_corten", zsh::script())?;
    put("fish/vendor_completions.d/corten.fish", fish::script())
}

#[allow(dead_code)] // The tests take this file as a module.
fn main() -> io::Result<()> {
    let mut args = env::args_os().skip(1);
    let (Some(share), Some(date)) = (args.next(), args.next()) else {
        return Err(io::Error::other("usage: pages DIR DATE"));
    };
    write(Path::new(&share), &date.to_string_lossy())
}
