//! The man pages and the completions of the shells (examples/pages). They contain everything that --help
//! prints, roff reports no warning, and bash, zsh and fish complete with them. `make install` installs them
//! where man and the shells look.
//!
//! The expectations are read from `corten --help`, not from the tables that the pages are made of.

#![allow(clippy::unwrap_used)]

#[path = "../examples/pages/main.rs"]
mod pages;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const CORTEN: &str = env!("CARGO_BIN_EXE_corten");

/// A directory that is removed after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = env::temp_dir().join(format!("corten-pages-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes the pages, and the containers web1 and web2 below `state`.
fn written(name: &str) -> Scratch {
    let scratch = Scratch::new(name);
    pages::write(&scratch.0, "2026-01-02").unwrap();
    for id in ["web1", "web2"] {
        fs::create_dir_all(scratch.0.join("state").join(id)).unwrap();
    }
    scratch
}

/// Returns standard output and error of a program that must succeed.
fn output(program: &str, args: &[&str]) -> (String, String) {
    let mut command = Command::new(program);
    let bin = Path::new(CORTEN).parent().unwrap().display();
    command.args(args).env("PATH", format!("{bin}:{}", env::var("PATH").unwrap())).env("TERM", "xterm");
    let output = command.output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}: {err}{out}", output.status);
    (out, err)
}

/// Reports whether a program is installed. If not, prints that the test is skipped.
fn has(program: &str, test: &str) -> bool {
    let found = env::split_paths(&env::var_os("PATH").unwrap()).any(|dir| dir.join(program).exists());
    if !found {
        println!("skipped: {test}: {program} is not installed");
    }
    found
}

/// Returns the words of each line in a section of a help text, such as `Commands:`.
fn section(help: &str, title: &str) -> Vec<Vec<String>> {
    let lines = help.lines().skip_while(|line| *line != title).skip(1).take_while(|line| !line.is_empty());
    lines.map(|line| line.split_whitespace().map(|w| w.trim_end_matches(',').into()).collect()).collect()
}

fn verbs() -> Vec<String> {
    let found: Vec<_> =
        section(&output(CORTEN, &["--help"]).0, "Commands:").iter().map(|w| w[0].clone()).collect();
    assert!(found.len() >= 16, "{found:?}");
    found
}

/// Returns the options of a verb, or of corten itself: `-b` and `--bundle`.
fn options(verb: &str) -> BTreeSet<String> {
    let args: Vec<_> = [verb, "--help"].into_iter().filter(|word| !word.is_empty()).collect();
    let mut found = BTreeSet::new();
    for words in section(&output(CORTEN, &args).0, "Options:") {
        found.extend(words.into_iter().take_while(|word| word.starts_with('-')));
    }
    assert!(found.contains("--help"), "{verb}: {found:?}");
    found
}

/// Returns the empty string for corten itself, and its verbs, as `options` takes them.
fn commands() -> Vec<String> {
    [String::new()].into_iter().chain(verbs()).collect()
}

/// Returns the path of the page of a verb, or of corten itself.
fn page(scratch: &Scratch, verb: &str) -> String {
    scratch.path(&if verb.is_empty() {
        "man/man8/corten.8".into()
    } else {
        format!("man/man8/corten-{verb}.8")
    })
}

/// Every option of --help is on the page, and roff renders the page without a warning.
#[test]
fn man_pages_contain_every_option() {
    if !has("groff", "man_pages_contain_every_option") {
        return;
    }
    let scratch = written("groff");
    for verb in commands() {
        let (text, warnings) =
            output("groff", &["-ww", "-man", "-Tascii", "-P-cbou", &page(&scratch, &verb)]);
        assert_eq!(warnings, "", "{verb}");
        for option in options(&verb) {
            let documented = text.lines().any(|line| {
                let words = line.split_whitespace().map(|word| word.trim_end_matches(','));
                words.take_while(|word| word.starts_with('-')).any(|word| word == option)
            });
            assert!(documented, "{verb}: {option}: {text}");
        }
        if verb.is_empty() {
            for verb in verbs() {
                assert!(text.contains(&format!("corten-{verb}(8)")), "{verb}: {text}");
            }
        }
    }
    // No file is about a verb that does not exist.
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/man")).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_string();
        assert!(name == "corten" || verbs().contains(&name), "docs/man/{name}.roff");
    }
}

#[test]
fn man_shows_the_pages() {
    if !has("man", "man_shows_the_pages") {
        return;
    }
    let scratch = written("man");
    for verb in commands() {
        let (text, warnings) = output("man", &["--warnings", "-l", &page(&scratch, &verb)]);
        assert_eq!(warnings, "", "{verb}");
        assert!(text.contains("SYNOPSIS") && text.contains(&verb), "{text}");
    }
}

#[test]
fn mandoc_reports_nothing() {
    if !has("mandoc", "mandoc_reports_nothing") {
        return;
    }
    let scratch = written("mandoc");
    for verb in commands() {
        let lint = output("mandoc", &["-Tlint", "-W", "warning", &page(&scratch, &verb)]);
        assert_eq!(lint.0 + &lint.1, "", "{verb}");
    }
}

/// Returns the words that a shell offers for the last word of each line.
type Ask = fn(&Scratch, &[String]) -> Vec<BTreeSet<String>>;

/// Asks bash, by the steps of its completion: break the line into words, call the function, look at
/// COMPREPLY.
fn bash(scratch: &Scratch, lines: &[String]) -> Vec<BTreeSet<String>> {
    let script = r#"
        set -u
        source "$1"
        [[ $(complete -p corten) == "complete -F _corten corten" ]] || exit 3
        compopt() { return 0; }
        for line in "${@:2}"; do
            # COMP_WORDBREAKS contains the =.
            read -ra COMP_WORDS <<<"${line//=/ = }"
            [[ $line == *[\ ] ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _corten corten "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            ((${#COMPREPLY[@]} == 0)) || printf '%s\n' "${COMPREPLY[@]}"
            echo
        done"#;
    let file = scratch.path("bash-completion/completions/corten");
    let args = ["--norc", "-c", script, "bash", &file].into_iter().chain(lines.iter().map(String::as_str));
    answers(&output("bash", &args.collect::<Vec<_>>()))
}

/// Asks fish, with the command that prints what a tab would offer.
fn fish(scratch: &Scratch, lines: &[String]) -> Vec<BTreeSet<String>> {
    let file = scratch.path("fish/vendor_completions.d/corten.fish");
    let script = format!("source {file}; for line in $argv; complete --do-complete $line; echo; end");
    let args = ["--no-config", "-c", &script].into_iter().chain(lines.iter().map(String::as_str));
    answers(&output("fish", &args.collect::<Vec<_>>()))
}

/// Asks zsh, by typing the line and a tab on a terminal.
fn zsh(scratch: &Scratch, lines: &[String]) -> Vec<BTreeSet<String>> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zsh-complete");
    let input = scratch.path("lines");
    fs::write(&input, lines.join("\n") + "\n").unwrap();
    let (functions, file) = (scratch.path("zsh/site-functions"), scratch.path("offered"));
    let command = format!("exec zsh -f {script} {functions} {file} <{input}");
    answers(&output("timeout", &["120", "sh", "-c", &command]))
}

/// Returns the words of each answer. An answer ends with an empty line; an explanation follows a word after a
/// tab.
fn answers((out, err): &(String, String)) -> Vec<BTreeSet<String>> {
    assert_eq!(err, "");
    let words = |answer: &[&str]| {
        answer.iter().map(|line| line.split('\t').next().unwrap().trim_end().into()).collect()
    };
    let lines: Vec<_> = out.lines().collect();
    let mut found: Vec<_> = lines.split(|line| line.is_empty()).map(words).collect();
    // Nothing follows the last answer.
    found.pop();
    found
}

fn set(words: &str) -> BTreeSet<String> {
    words.split_whitespace().map(Into::into).collect()
}

/// Returns lines, and the words that must be offered for their last words: every verb and every option of
/// --help, and nothing else.
fn rows(scratch: &Scratch) -> Vec<(String, BTreeSet<String>)> {
    let mut all: BTreeSet<_> = verbs().into_iter().collect();
    all.insert("help".into());
    let mut rows = vec![("corten ".into(), all.clone()), ("corten help ".into(), all)];
    for verb in commands() {
        rows.push((format!("corten {verb} -").replace("  ", " "), options(&verb)));
    }
    let (dir, root) = (scratch.0.display(), format!("corten --root {}", scratch.path("state")));
    rows.extend(
        [
            ("corten --root /x --debug ex".into(), "exec"),
            (format!("{root} start "), "web1 web2"),
            (format!("corten --root={dir}/state start web1"), "web1"),
            (format!("{root} kill --all web"), "web1 web2"),
            (format!("{root} exec -t --user 0 "), "web1 web2"),
            (format!("{root} exec web1 sh -"), ""),
            (format!("{root} create "), ""),
            (format!("{root} start web1 "), ""),
            (format!("{root} kill web1 HU"), "HUP"),
            ("corten --log-format ".into(), "json text"),
            ("corten list --format j".into(), "json"),
            ("corten list --format=j".into(), "json"),
            ("corten list -f j".into(), "json"),
            ("corten --cgroup-manager=".into(), "cgroupfs disabled systemd"),
            ("corten seccomp ex".into(), "explain"),
            (format!("corten create --bundle {dir}/sta"), "state"),
            (format!("corten seccomp explain {dir}/bash-c"), "bash-completion"),
            (format!("corten trace {dir}/bash-c"), "bash-completion"),
            (format!("corten --trace {dir}/bash-c"), "bash-completion"),
        ]
        .map(|(line, words)| (line, set(words))),
    );
    rows
}

fn completes(name: &str, ask: Ask) {
    let scratch = written(name);
    let rows = rows(&scratch);
    // fish offers long options after two dashes only.
    let twice =
        |line: &String| [line.clone(), format!("{line}{}", if line.ends_with('-') { "-" } else { "" })];
    let lines: Vec<_> = rows.iter().flat_map(|(line, _)| twice(line)).collect();
    let answers = ask(&scratch, &lines);
    assert_eq!(answers.len(), lines.len());
    for ((line, expected), offered) in rows.iter().zip(answers.chunks(2)) {
        // A path may be offered whole or by its last part, and the value of an option with the option. zsh
        // offers options if there is nothing else.
        let last = |word: &String| word.trim_end_matches('/').rsplit(['/', '=']).next().unwrap().to_string();
        let wanted = |word: &&String| line.ends_with('-') || !word.starts_with("--help") && *word != "-h";
        let offered = offered.iter().flatten().filter(wanted).map(last).collect::<BTreeSet<_>>();
        assert_eq!(&offered, expected, "{line}");
    }
}

#[test]
fn bash_completes() {
    completes("bash", bash);
}

#[test]
fn fish_completes() {
    if has("fish", "fish_completes") {
        completes("fish", fish);
    }
}

#[test]
fn zsh_completes() {
    if has("zsh", "zsh_completes") {
        completes("zsh", zsh);
    }
}

/// Returns every file below a directory, and whether it is executable.
fn files(dir: &Path) -> BTreeSet<(String, bool)> {
    let mut found = BTreeSet::new();
    let mut left = vec![dir.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().into();
                found.insert((name, meta.permissions().mode() & 0o111 == 0o111));
            }
        }
    }
    found
}

/// `make install` writes everything below DESTDIR and PREFIX, and nothing elsewhere. `make uninstall` removes
/// these files and no others.
#[test]
fn make_installs_and_uninstalls() {
    if !has("make", "make_installs_and_uninstalls") {
        return;
    }
    let scratch = written("make");
    let destination = scratch.path("dest dir");
    let make = |target: &str| {
        let (share, dest) = (format!("SHARE={}", scratch.0.display()), format!("DESTDIR={destination}"));
        let binary = format!("BINARY={CORTEN}");
        let args = ["-C", env!("CARGO_MANIFEST_DIR"), target, &binary, &share, &dest, "PREFIX=/usr"];
        output("make", &args)
    };
    let pages = verbs().into_iter().map(|verb| format!("-{verb}")).chain([String::new()]);
    let mut expected: BTreeSet<_> =
        pages.map(|verb| (format!("usr/share/man/man8/corten{verb}.8"), false)).collect();
    expected.insert(("usr/bin/corten".into(), true));
    for file in [
        "bash-completion/completions/corten",
        "zsh/site-functions/_corten",
        "fish/vendor_completions.d/corten.fish",
        "doc/corten/samples/containerd/containerd-1.toml",
        "doc/corten/samples/containerd/containerd-2.toml",
        "doc/corten/samples/containers.conf.d/corten.conf",
        "doc/corten/samples/crio.conf.d/10-corten.conf",
        "doc/corten/samples/docker/daemon.json",
        "doc/corten/samples/systemd/corten-gc.service",
    ] {
        expected.insert((format!("usr/share/{file}"), false));
    }
    make("install");
    for (file, _) in expected.iter().filter(|(file, _)| file.contains("/samples/")) {
        let sample = fs::read_to_string(Path::new(&destination).join(file)).unwrap();
        assert!(
            sample.contains("\"/usr/bin/corten\"") || sample.contains("=/usr/bin/corten gc\n"),
            "{file}: {sample}"
        );
        assert!(!sample.contains('@'), "{file}: {sample}");
    }
    assert_eq!(files(Path::new(&destination)), expected);
    let (version, _) = output(&format!("{destination}/usr/bin/corten"), &["--version"]);
    assert!(version.starts_with("corten version "), "{version}");

    let other = "usr/share/man/man8/other.8".to_string();
    fs::write(Path::new(&destination).join(&other), "").unwrap();
    make("uninstall");
    assert_eq!(files(Path::new(&destination)), BTreeSet::from([(other, false)]));
    make("uninstall");
}
