//! `corten seccomp explain`: explains what a profile does to each system call, and by which rule.
//!
//! It reads the same rules in the same order as the compiler, with the compiler's functions. A test compares
//! the explanations with the program.

use std::collections::BTreeMap;
use std::fmt::Write;

use oci_spec::runtime::LinuxSeccomp;
use seccompiler::SeccompCmpOp;

use super::abi::{self, Abi};
use super::bpf::{self, Call};
use super::compile::{self, Comparison, Numbered, Policy};
use super::dump::{action, number};
use super::syscalls::{self, Row};
use super::{Plan, plan_for};
use crate::error::{Kind, Notes, Result, fail};

/// An ABI with the rules that matter to it.
pub(super) struct View<'a> {
    policy: &'a Policy,
    pub(super) abi: Abi,
    rules: Vec<Numbered>,
    newest: Option<u32>,
}

/// One line of an explanation: the action if all comparisons are true, and its source.
pub(super) struct Clause<'a> {
    pub(super) args: &'a [Comparison],
    pub(super) action: u32,
    pub(super) source: Source,
}

pub(super) enum Source {
    Rule(usize),
    Default,
    /// The highest number that the profile names.
    Newer(u32),
    /// Number 0 of s390, which stands for every call that the kernel does not know.
    Unknown,
}

impl<'a> View<'a> {
    pub(super) fn new(policy: &'a Policy, abi: Abi) -> Self {
        let (rules, newest) = (compile::numbered(policy, abi), compile::newest(policy, abi));
        Self { policy, abi, rules, newest }
    }

    /// Returns the clauses for a number, in the order in which they are tried. The last one has no
    /// comparisons.
    pub(super) fn clauses(&self, nr: u32) -> Vec<Clause<'_>> {
        let start = self.rules.partition_point(|rule| rule.number < nr);
        let end = self.rules.partition_point(|rule| rule.number <= nr);
        let decisive = compile::decisive(&self.rules[start..end]);
        let mut clauses: Vec<Clause> = decisive
            .iter()
            .map(|rule| {
                let source = rule.index.map_or(Source::Unknown, Source::Rule);
                Clause { args: &rule.args, action: rule.action, source }
            })
            .collect();
        if !clauses.last().is_some_and(|last| last.args.is_empty()) {
            clauses.push(self.otherwise(nr));
        }
        clauses
    }

    /// Returns the clause for a number that no rule decides.
    fn otherwise(&self, nr: u32) -> Clause<'static> {
        match (self.policy.newer, self.newest) {
            (Some(action), Some(newest)) if nr > newest => {
                Clause { args: &[], action, source: Source::Newer(newest) }
            }
            _ => Clause { args: &[], action: self.policy.default, source: Source::Default },
        }
    }

    /// Returns the ways to reach a call, each with its clauses: the call's own number, and its multiplexer.
    fn ways(&self, row: &Row) -> Vec<(String, Vec<Clause<'_>>)> {
        let mut ways = Vec::new();
        let arch = short(self.abi);
        if let Some(nr) = self.abi.number(row) {
            ways.push((format!("{arch} {}", number(nr)), self.clauses(nr)));
        }
        if let Some((nr, call)) = compile::multiplexed(row, self.abi) {
            let by = syscalls::multiplexed(row.name()).map_or("", |(by, _)| by);
            let mut clauses = self.clauses(nr);
            clauses.retain(|clause| {
                let mut others =
                    clause.args.iter().filter(|a| a.index == 0 && a.operator == SeccompCmpOp::Eq);
                others.all(|arg| arg.value & u64::from(u32::MAX) == call)
            });
            ways.push((format!("{arch} {by}({call})"), clauses));
        }
        ways
    }
}

fn short(abi: Abi) -> String {
    abi.name().trim_start_matches("SCMP_ARCH_").to_lowercase()
}

/// Explains what a profile does to the calls with these names. Without names, explains every call for which
/// the default action does not decide. Also returns warnings. Fails for a profile that `create` would refuse, and for an unknown
/// name.
pub fn explain(profile: &LinuxSeccomp, names: &[String]) -> Result<(String, Vec<String>)> {
    let mut notes = Notes::default();
    let plan = plan_for(profile, abi::NATIVE, &mut notes);
    let warnings = notes.into_result()?;
    let plan = plan.ok_or_else(|| fail(Kind::Config, "linux.seccomp"))?;
    let (policy, _) = super::policy(profile, abi::NATIVE, &mut Notes::default());
    let views: Vec<View> = policy.abis.iter().map(|abi| View::new(&policy, *abi)).collect();
    let mut text = summary(&plan, &policy, &views);
    if names.is_empty() {
        all(&mut text, &views);
        return Ok((text, warnings));
    }
    for name in names {
        let row = syscalls::find(name)
            .ok_or_else(|| fail(Kind::Usage, format!("no architecture has a system call {name:?}")))?;
        one(&mut text, row, &views);
    }
    Ok((text, warnings))
}

/// Returns the size of the program, and the rules for all calls.
fn summary(plan: &Plan, policy: &Policy, views: &[View]) -> String {
    let steps: Vec<(usize, usize)> = views.iter().map(|view| steps(plan, view)).collect();
    let average = |(steps, calls): (usize, usize)| format!("{:.1}", steps as f64 / calls.max(1) as f64);
    let total = steps.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let each = views.iter().zip(&steps).map(|(view, sum)| format!("{} {}", short(view.abi), average(*sum)));
    let mut text = format!(
        "program: {} instructions, {} steps a call on average ({})\n",
        plan.filter.len(),
        average(total),
        each.collect::<Vec<_>>().join(", ")
    );
    // Writing to a String cannot fail.
    let _ = writeln!(text, "default: {}", action(policy.default));
    for view in views {
        if let (Some(newer), Some(newest)) = (policy.newer, view.newest) {
            let (arch, newest) = (short(view.abi), number(newest));
            let _ = writeln!(text, "newer calls: {arch} above {newest}: {}", action(newer));
        }
    }
    let _ = writeln!(text, "other architectures: {}", action(compile::OTHER_ARCH));
    if !plan.unknown.is_empty() {
        let _ = writeln!(text, "unknown to every kernel, ignored: {}", plan.unknown.join(" "));
    }
    text
}

/// Returns the sum of the steps for all calls of an ABI, with arguments of zero, and the number of these
/// calls.
fn steps(plan: &Plan, view: &View) -> (usize, usize) {
    let (abi, mut sum, mut calls) = (view.abi, 0, 0);
    for nr in syscalls::all().iter().filter_map(|row| abi.number(row)) {
        let call = Call { arch: abi.audit, nr, args: [0; 6] };
        if let Some((_, steps)) = bpf::run(&plan.filter, &call, abi.big_endian()) {
            sum += steps;
            calls += 1;
        }
    }
    (sum, calls)
}

/// Explains one call. Architectures with the same answer share a paragraph.
fn one(text: &mut String, row: &Row, views: &[View]) {
    let mut alike: Vec<(String, Vec<String>)> = Vec::new();
    let mut without = Vec::new();
    for view in views {
        let ways = view.ways(row);
        if ways.is_empty() {
            without.push(short(view.abi));
        }
        for (way, clauses) in ways {
            let lines: String = sentences(&clauses).iter().map(|line| format!("    {line}\n")).collect();
            match alike.iter_mut().find(|(known, _)| *known == lines) {
                Some((_, known)) => known.push(way),
                None => alike.push((lines, vec![way])),
            }
        }
    }
    let _ = writeln!(text, "\n{}", row.name());
    for (lines, ways) in alike {
        let _ = write!(text, "  {}:\n{lines}", ways.join(", "));
    }
    if !without.is_empty() {
        let _ = writeln!(text, "  {}: no such call", without.join(", "));
    }
}

/// Explains all calls for which the default action does not decide, grouped by their answer.
fn all(text: &mut String, views: &[View]) {
    // Sorted by the first rule and then by the answer. The architectures are named if a call has several
    // answers.
    let mut groups: BTreeMap<(usize, String, String), Vec<&str>> = BTreeMap::new();
    for row in syscalls::all() {
        let mut fates: Vec<(usize, String, Vec<String>)> = Vec::new();
        for view in views {
            let Some(nr) = view.abi.number(row) else { continue };
            let clauses = view.clauses(nr);
            let order = match clauses.first().map(|clause| &clause.source) {
                Some(Source::Rule(index)) => *index,
                _ => usize::MAX,
            };
            // The number of a newer call differs between architectures, but its answer does not.
            let fate = match clauses.as_slice() {
                [Clause { source: Source::Newer(_), action: newer, .. }] => {
                    format!("{} (newer than the profile)", action(*newer))
                }
                [Clause { source: Source::Default, .. }] => String::new(),
                clauses => sentences(clauses).join("\n"),
            };
            match fates.iter_mut().find(|(_, known, _)| *known == fate) {
                Some((_, _, archs)) => archs.push(short(view.abi)),
                None => fates.push((order, fate, vec![short(view.abi)])),
            }
        }
        let several = fates.len() > 1;
        for (order, fate, archs) in fates {
            if !fate.is_empty() {
                let archs = if several { archs.join(", ") } else { String::new() };
                groups.entry((order, fate, archs)).or_default().push(row.name());
            }
        }
    }
    for ((_, fate, archs), names) in groups {
        let _ = write!(text, "\n{fate}");
        let _ = if archs.is_empty() { writeln!(text) } else { writeln!(text, ", on {archs} only") };
        wrap(text, &names);
    }
}

/// Appends words in lines of at most 100 letters.
fn wrap(text: &mut String, words: &[&str]) {
    let mut width = 0;
    for word in words {
        if width == 0 || width + 1 + word.len() > 100 {
            text.push_str(if width == 0 { "   " } else { "\n   " });
            width = 3;
        }
        text.push(' ');
        text.push_str(word);
        width += 1 + word.len();
    }
    text.push('\n');
}

fn sentences(clauses: &[Clause]) -> Vec<String> {
    let several = clauses.len() > 1;
    clauses.iter().map(|clause| sentence(clause, several)).collect()
}

fn sentence(clause: &Clause, several: bool) -> String {
    let conditions: Vec<String> = clause.args.iter().map(condition).collect();
    let head = match conditions.as_slice() {
        [] if several => "else ".into(),
        [] => String::new(),
        all => format!("if {}: ", all.join(" and ")),
    };
    let source = match clause.source {
        Source::Rule(index) => format!("syscalls[{index}]"),
        Source::Default => "defaultAction".into(),
        Source::Newer(newest) => format!("newer than {}, the profile's newest", number(newest)),
        Source::Unknown => "the number of calls that the kernel does not know".into(),
    };
    format!("{head}{} ({source})", action(clause.action))
}

fn condition(arg: &Comparison) -> String {
    let operator = match arg.operator {
        SeccompCmpOp::Eq => "==",
        SeccompCmpOp::Ge => ">=",
        SeccompCmpOp::Gt => ">",
        SeccompCmpOp::Le => "<=",
        SeccompCmpOp::Lt => "<",
        SeccompCmpOp::Ne => "!=",
        SeccompCmpOp::MaskedEq(mask) => {
            return format!("arg{} & {} == {}", arg.index, number(mask), number(arg.value & mask));
        }
    };
    format!("arg{} {operator} {}", arg.index, number(arg.value))
}
