//! `check`: what is wrong with a configuration, what this host cannot do of it, and with `--plan` what `create` would
//! do. With `--host`: what this host can do. Nothing is made or changed, and nothing of an image is executed or opened
//! with effects.

mod able;
mod facts;
mod judge;

use std::path::Path;

use clap::ArgMatches;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::create;
use crate::cli::{Create, Globals, read};
use crate::config::{self, Inspection};
use crate::error::{Context, Kind, Notes, Problem, Problems, Result, fail, pointer};
use crate::plan::Plan;
use crate::process::env;
use crate::{log, seccomp, state};

#[derive(Debug, Default, PartialEq)]
pub(super) struct Args {
    create: Create,
    host: bool,
    plan: bool,
    json: bool,
}

pub(super) fn read(m: &ArgMatches) -> Result<Args> {
    let json = read::json(m)?;
    let (host, plan) = (read::flag(m, "host"), read::flag(m, "plan"));
    if host && (plan || read::path(m, "bundle").is_some() || read::path(m, "config").is_some()) {
        return Err(fail(Kind::Usage, "--host is about no configuration (hint: check them one by one)"));
    }
    Ok(Args { create: read::create(m)?, host, plan, json })
}

/// Prints the report. The exit code is 1 if `create` would fail.
pub(super) fn run(globals: &Globals, args: &Args) -> Result<u8> {
    if args.host {
        let lines = judge::judge(&facts::Facts::probe(globals.criu.as_deref())?);
        super::print(&if args.json { rendered(&judge::document(&lines))? } else { judge::text(&lines) })?;
        return Ok(u8::from(judge::fails(&lines)));
    }
    let report = Report::of(globals, &args.create, args.plan);
    super::print(&if args.json { rendered(&report.document())? } else { report.text() })?;
    Ok(u8::from(report.fails()))
}

fn rendered(document: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(document).context("JSON")? + "\n")
}

/// What was found.
#[derive(Debug, Default, PartialEq)]
struct Report {
    /// In the configuration.
    errors: Vec<Problem>,
    /// What this host cannot do of it.
    host: Vec<Problem>,
    warnings: Vec<Problem>,
    plan: Option<String>,
}

impl Report {
    fn of(globals: &Globals, args: &Create, with_plan: bool) -> Self {
        let mut report = Self::default();
        let inspection = match text(args) {
            Ok(text) => config::inspect(&text),
            Err(error) => {
                report.errors.push(problem("", &error));
                return report;
            }
        };
        report.host.extend(state::root(globals.root.as_deref()).err().map(|error| problem("", &error)));
        let Inspection { spec, notes, unknown } = inspection;
        report.errors.extend(notes.problems.0);
        report.warn(notes.warnings);
        if let Some(spec) = &spec {
            report.plan(globals, args, spec, with_plan);
            report.warnings.extend(relative_destinations(spec));
        }
        let unknown = unknown.into_iter().map(|member| {
            let message = member.message();
            Problem { place: member.place, message }
        });
        report.warnings.extend(unknown);
        report
    }

    /// Plans the container, and looks for what this host cannot do of the plan.
    fn plan(&mut self, globals: &Globals, args: &Create, spec: &Spec, with_plan: bool) {
        match planned(globals, args, spec) {
            Ok((plan, warnings, notes)) => {
                self.warn(warnings);
                self.host.extend(notes.problems.0);
                self.warn(notes.warnings);
                self.warnings.extend(unknown_calls(&plan));
                self.plan = with_plan.then(|| plan.print());
            }
            Err(error) => match error.downcast_ref::<Problems>() {
                Some(problems) => self.errors.extend(problems.0.iter().cloned()),
                None => self.host.push(problem("", &error)),
            },
        }
    }

    fn warn(&mut self, warnings: Vec<String>) {
        let warnings = warnings.into_iter().map(|message| Problem { place: String::new(), message });
        self.warnings.extend(warnings);
    }

    fn fails(&self) -> bool {
        !(self.errors.is_empty() && self.host.is_empty())
    }

    /// Returns the report for people, one finding a line.
    fn text(&self) -> String {
        let Self { errors, host, warnings, plan } = self;
        let lists = [("error", errors), ("host", host), ("warning", warnings)];
        let lines = lists.iter().flat_map(|(kind, list)| list.iter().map(move |found| line(kind, found)));
        let mut text: String = lines.collect();
        if text.is_empty() && plan.is_none() {
            text.push_str(
                "fine: nothing is wrong with the configuration, and this host can do what it asks for\n",
            );
        }
        text + plan.as_deref().unwrap_or_default()
    }

    /// Returns the report for programs.
    fn document(&self) -> Value {
        let Self { errors, host, warnings, plan } = self;
        let list = |list: &[Problem]| list.iter().map(member).collect::<Vec<_>>();
        let mut document = json!({"errors": list(errors), "host": list(host), "warnings": list(warnings)});
        if let Some(plan) = plan {
            document["plan"] = json!(plan);
        }
        document
    }
}

fn line(kind: &str, Problem { place, message }: &Problem) -> String {
    let separator = if place.is_empty() { "" } else { ": " };
    // A message may have text of the configuration.
    log::one_line(&format!("{kind}: {place}{separator}{message}")) + "\n"
}

fn member(Problem { place, message }: &Problem) -> Value {
    match place.as_str() {
        "" => json!({"message": message}),
        place => json!({"place": place, "pointer": pointer(place), "message": message}),
    }
}

/// Returns a finding about an error, whose text may begin with the place.
fn problem(place: &str, error: &anyhow::Error) -> Problem {
    let text = format!("{error:#}");
    let message = text.strip_prefix(place).map_or(text.as_str(), |rest| rest.trim_start_matches([':', ' ']));
    Problem { place: place.into(), message: message.into() }
}

fn text(args: &Create) -> Result<String> {
    match &args.config {
        Some(path) => config::read_given(path),
        None => {
            let bundle =
                std::path::absolute(&args.bundle).with_context(|| args.bundle.display().to_string())?;
            config::read_bundle(&bundle)
        }
    }
}

/// Plans a container as `create` does. Also returns the warnings, and what the host cannot do.
fn planned(globals: &Globals, args: &Create, spec: &Spec) -> Result<(Plan, Vec<String>, Notes)> {
    let service = env::service(|name| std::env::var(name).ok(), std::process::id);
    let bundle = std::path::absolute(&args.bundle).with_context(|| args.bundle.display().to_string())?;
    let socket = create::notify_socket(globals, args, &service)?;
    let create::Decided { plan, warnings, host } =
        create::decide(globals, args, &bundle, spec, socket.as_deref())?;
    let notes = able::limits(&plan, &host);
    Ok((plan, warnings, notes))
}

/// Returns a warning for each destination that is relative. Since version 1.0 it must be absolute (config.md#mounts).
fn relative_destinations(spec: &Spec) -> Vec<Problem> {
    let mounts = spec.mounts().iter().flatten().enumerate();
    let relative = mounts.filter(|(_, mount)| mount.destination().is_relative());
    let found = relative.map(|(i, mount)| {
        let destination = Path::new("/").join(mount.destination());
        let message = format!(
            "{:?} is not absolute, and is taken for {:?}",
            mount.destination().display().to_string(),
            destination.display().to_string()
        );
        Problem { place: format!("mounts[{i}].destination"), message }
    });
    found.filter(|found| !found.message.starts_with("\"\"")).collect()
}

/// Returns a warning for each name in the profile that no kernel has a system call for.
fn unknown_calls(plan: &Plan) -> Vec<Problem> {
    let unknown = plan.seccomp.iter().flat_map(|seccomp| &seccomp.unknown);
    let warning = |name: &String| {
        let meant = seccomp::meant(name).map(|meant| format!(", did you mean {meant}?"));
        let message = format!("no kernel has the system call {name:?}{}", meant.unwrap_or_default());
        Problem { place: "linux.seccomp.syscalls".into(), message }
    };
    unknown.map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tests::args;

    #[test]
    fn the_command_line_is_read() {
        let create = |id: &str| Create { id: id.into(), bundle: ".".into(), ..Create::default() };
        for (line, expected) in [
            ("check", Args { create: create("plan"), ..Args::default() }),
            (
                "check --host --format json",
                Args { create: create("plan"), host: true, json: true, plan: false },
            ),
            (
                "check --plan -b /b c1",
                Args {
                    create: Create { bundle: "/b".into(), ..create("c1") },
                    plan: true,
                    ..Args::default()
                },
            ),
        ] {
            assert_eq!(args(line, read), expected, "{line}");
        }
    }

    #[test]
    fn a_report_is_lines_or_a_document() {
        let found = |place: &str, message: &str| Problem { place: place.into(), message: message.into() };
        let report = Report {
            errors: vec![found("process.cwd", "is not\nabsolute")],
            host: vec![found("", "no cgroup hierarchy is mounted")],
            warnings: vec![found("root.readOnly", "unknown member, did you mean readonly?")],
            plan: None,
        };
        let text = "error: process.cwd: is not\\nabsolute\nhost: no cgroup hierarchy is mounted\n\
                    warning: root.readOnly: unknown member, did you mean readonly?\n";
        assert_eq!((report.text().as_str(), report.fails()), (text, true));
        let expected = json!({
            "errors": [{"place": "process.cwd", "pointer": "/process/cwd", "message": "is not\nabsolute"}],
            "host": [{"message": "no cgroup hierarchy is mounted"}],
            "warnings": [{"place": "root.readOnly", "pointer": "/root/readOnly",
                          "message": "unknown member, did you mean readonly?"}],
        });
        assert_eq!(report.document(), expected);
        let fine = Report::default();
        assert!(fine.text().starts_with("fine: ") && !fine.fails());
        let planned = Report { plan: Some("container\n".into()), ..Report::default() };
        assert_eq!((planned.text().as_str(), planned.fails()), ("container\n", false));
        assert_eq!(planned.document()["plan"], "container\n");
        assert_eq!(problem("a.b", &anyhow::anyhow!("a.b: is wrong")), found("a.b", "is wrong"));
        assert_eq!(problem("", &anyhow::anyhow!("is wrong")), found("", "is wrong"));
    }
}
