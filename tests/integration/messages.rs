//! The tables of tests/messages: what people do wrong, and the whole message that they get. tests/messages/README.md
//! describes the format. `UPDATE_GOLDEN=1` writes the messages that differ into the tables.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Bundle, Output, Test, View, isolated_as, remains, traces};

/// The container that a row may leave running.
const RUNNING: &str = "c0";
const WIDTH: usize = 110;

/// Runs a table that is a file of tests/messages.
macro_rules! tables {
    ($($name:ident: $file:literal, $view:expr;)*) => {
        const TABLES: &[&str] = &[$(include_str!(concat!("../messages/", $file))),*];
        $(
        #[test]
        fn $name() {
            let body = |t: &Test| table(t, $file, include_str!(concat!("../messages/", $file)));
            run($view, body);
        }
    )*};
}

tables! {
    messages_about_config_json: "config.txt", View::wanted();
    messages_about_the_root_file_system: "rootfs.txt", View::wanted();
    messages_about_the_program: "program.txt", View::wanted();
    messages_about_namespaces_and_users: "users.txt", View::wanted();
    messages_about_cgroups: "cgroups.txt", View::V2;
    messages_about_cgroups_of_v1: "cgroups-v1.txt", View::V1;
    messages_about_the_command_line: "command-line.txt", View::wanted();
    messages_about_running_containers: "running.txt", View::wanted();
}

/// docs/troubleshooting.md quotes messages of the tables. `…` stands for any text.
#[test]
fn the_page_of_troubleshooting_quotes_messages() {
    let texts: String = TABLES.iter().map(|table| joined(table)).collect();
    let page = include_str!("../../docs/troubleshooting.md");
    let (_, page) = page.split_once("\n## The container does not start\n").unwrap();
    let quotes: Vec<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(quotes.len() > 20);
    let said = |quote: &str| texts.lines().any(|line| matches(&format!("…{quote}…"), line));
    let unsaid: Vec<_> = quotes.into_iter().filter(|quote| !said(quote)).collect();
    assert!(unsaid.is_empty(), "{unsaid:#?}");
}

fn run<F: FnOnce(&Test)>(view: View, body: F) {
    isolated_as::<F>(view, body);
}

/// Runs each row of a table. Rows are separated by empty lines.
fn table(t: &Test, file: &str, text: &str) {
    let (mut wrong, mut rows) = (Vec::new(), Vec::new());
    for row in text.trim_end().split("\n\n") {
        let before = traces(t);
        let shown = if row.contains("\n$ ") { play(t, row) } else { row.into() };
        t.corten(&["delete", "--force", RUNNING]);
        let left = remains(t, &before);
        if shown != row || !left.is_empty() {
            wrong.push(format!("expected:\n{row}\n\nbut:\n{shown}\n\nleft behind: {left:?}\n"));
        }
        rows.push(shown);
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/messages").join(file);
        fs::write(path, rows.join("\n\n") + "\n").unwrap();
    }
    assert!(wrong.is_empty(), "{}\n{} rows of {file} are wrong", wrong.join("\n"), wrong.len());
}

/// Carries out a row. Returns it with the messages that were printed.
fn play(t: &Test, row: &str) -> String {
    // A container that starts by mistake ends before the harness loses its patience.
    let bundle = t.bundle(|config| config["process"]["args"] = json!(["/bin/sleep", "20"]));
    let mut shown = String::new();
    let mut lines = row.lines().peekable();
    while let Some(line) = lines.next() {
        // Writing to a string cannot fail.
        let _ = writeln!(shown, "{line}");
        if let Some(condition) = line.strip_prefix("if ") {
            if shell(t, &bundle, condition).code != 0 {
                return row.into();
            }
        } else if let Some(script) = line.strip_prefix("$ ") {
            let expected: Vec<&str> =
                std::iter::from_fn(|| lines.next_if(|l| !l.starts_with("$ "))).collect();
            let printed = printed(t, &bundle, &shell(t, &bundle, script));
            let expected = if expected.is_empty() { String::new() } else { expected.join("\n") + "\n" };
            let same = matches(&joined(&expected), &joined(&printed));
            shown.push_str(if same { &expected } else { &printed });
        } else if let Some((place, value)) = line.split_once(" = ")
            && line.starts_with('/')
        {
            bundle.edit(|config| edit(config, place, value));
        }
    }
    shown.trim_end().into()
}

/// Sets the value at a JSON pointer. `-` is the position after the last item of an array.
fn edit(config: &mut Value, pointer: &str, value: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = config.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    if value == "(absent)" {
        match parent {
            Value::Array(items) => drop(items.remove(key.parse().unwrap())),
            parent => drop(parent.as_object_mut().unwrap().remove(key)),
        }
        return;
    }
    let value = serde_json::from_str(value).unwrap_or_else(|e| panic!("{pointer}: {e}"));
    match parent {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        parent => parent[key.replace("~1", "/")] = value,
    }
}

/// Runs a script in the bundle. `corten` is the runtime, with the test's state directory.
fn shell(t: &Test, bundle: &Bundle, script: &str) -> Output {
    let runtime = t.command(&[]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("corten() {{ \"$RUNTIME\" --root \"$STATE\" \"$@\"; }}\n{script}")]);
    command.env("RUNTIME", runtime.get_program()).env("STATE", t.state());
    for (name, value) in runtime.get_envs() {
        assert!(value.is_none());
        command.env_remove(name);
    }
    t.call(command.current_dir(&bundle.dir))
}

/// Returns the message of a command as it is written in a table.
fn printed(t: &Test, bundle: &Bundle, out: &Output) -> String {
    let mut text = String::new();
    for line in out.stderr.lines() {
        let line = line.replace(bundle.path(), "BUNDLE").replace(t.dir.to_str().unwrap(), "TEST");
        let mut length = 0;
        for word in line.split(' ') {
            let (separator, width) = match length {
                0 => ("", word.len()),
                length if length + 1 + word.len() > WIDTH => ("\n  ", word.len() + 2),
                length => (" ", length + 1 + word.len()),
            };
            length = width;
            text.push_str(separator);
            text.push_str(word);
        }
        text.push('\n');
    }
    match out.code {
        0 => {}
        1 if out.stderr.contains("error: ") => {}
        code => drop(writeln!(text, "(exit status {code})")),
    }
    text
}

/// Joins the lines of each message.
fn joined(text: &str) -> String {
    text.replace("\n  ", " ")
}

/// Returns whether a text is the expected one, in which `…` replaces any characters.
fn matches(expected: &str, text: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = "";
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        (rest, last) = (after, part);
    }
    rest.is_empty() || (expected.contains('…') && (last.is_empty() || rest.ends_with(last)))
}
