//! Compiles a policy to a program. The program loads the architecture and jumps to the block of that
//! architecture. There a balanced tree of comparisons finds the interval that contains the number of the
//! call. The interval has a return value, or a chain of argument checks that decides.
//!
//! Every number of 32 bits is in one interval. The calls of x32, which have bit 30 set, come after those of
//! x86-64.
//!
//! The program behaves as libseccomp and runc do where profiles rely on it:
//! * A rule with the default action is dropped, so that it cannot shadow another.
//! * The first rule without arguments decides for its call, whatever rules with arguments contain.
//! * Rules with arguments are tried in their order.
//! * A call that is newer than all calls of the profile gets ENOSYS, so that programs fall back to an older
//!   one.

use libc::sock_filter;
use seccompiler::{BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::abi::Abi;
use super::bpf::{ARCH, ARGS, JA, JEQ_K, JGE_K, LD_W_ABS, NR, RET_K, jump, statement};
use super::syscalls::{self, Column, Row};

/// The return value for an architecture that the profile does not list. It is libseccomp's, and therefore
/// that of runc and crun. It ends the thread, and with it a program of one thread.
pub(super) const OTHER_ARCH: u32 = libc::SECCOMP_RET_KILL_THREAD;

/// A comparison of one argument.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    pub(super) index: u8,
    pub(super) operator: SeccompCmpOp,
    pub(super) value: u64,
}

/// A rule for one call, which returns `action` if all comparisons are true.
#[derive(Clone)]
pub(super) struct Rule {
    pub(super) call: &'static Row,
    pub(super) action: u32,
    pub(super) args: Vec<Comparison>,
    /// The index in the profile's `syscalls`.
    pub(super) index: usize,
}

/// A rule on one ABI, with the number of the call.
pub(super) struct Numbered {
    pub(super) number: u32,
    pub(super) action: u32,
    pub(super) args: Vec<Comparison>,
    /// The index in the profile's `syscalls`, or `None` for a rule that the profile does not contain.
    pub(super) index: Option<usize>,
}

/// The input of the compiler. Actions are the return values of the filter.
pub(super) struct Policy {
    pub(super) default: u32,
    /// The answer for calls that are newer than the profile.
    pub(super) newer: Option<u32>,
    /// The native ABI comes first, so that its block is tried first.
    pub(super) abis: Vec<Abi>,
    pub(super) rules: Vec<Rule>,
}

/// The outcome for a call.
#[derive(Clone)]
enum Outcome {
    Return(u32),
    Chain(Vec<sock_filter>),
}

impl PartialEq for Outcome {
    fn eq(&self, other: &Self) -> bool {
        let fields = |i: &sock_filter| (i.code, i.jt, i.jf, i.k);
        match (self, other) {
            (Self::Return(a), Self::Return(b)) => a == b,
            (Self::Chain(a), Self::Chain(b)) => a.iter().map(fields).eq(b.iter().map(fields)),
            _ => false,
        }
    }
}

/// The numbers from `start` to the start of the next interval, except for the `hole`.
struct Interval {
    start: u32,
    outcome: Outcome,
    hole: Option<(u32, Outcome)>,
}

/// Compiles a policy. Fails if a comparison cannot be expressed.
pub(super) fn compile(policy: &Policy) -> Result<Vec<sock_filter>, seccompiler::BackendError> {
    let mut program = vec![statement(LD_W_ABS, ARCH)];
    let mut done = Vec::new();
    for abi in &policy.abis {
        if done.contains(&abi.audit) {
            continue;
        }
        done.push(abi.audit);
        let mut block = vec![statement(LD_W_ABS, NR)];
        tree(&mut block, &intervals(policy, abi.audit)?);
        skip_unless_equal(&mut program, abi.audit, &block);
    }
    program.push(statement(RET_K, OTHER_ARCH));
    Ok(program)
}

/// Appends code that runs `block` if the accumulator is `k`, and skips it otherwise. A conditional jump
/// reaches 255 instructions.
fn skip_unless_equal(out: &mut Vec<sock_filter>, k: u32, block: &[sock_filter]) {
    match u8::try_from(block.len()) {
        Ok(len) => out.push(jump(JEQ_K, k, 0, len)),
        Err(_) => out.extend([jump(JEQ_K, k, 1, 0), statement(JA, block.len() as u32)]),
    }
    out.extend_from_slice(block);
}

/// Appends a search tree over at least one interval.
fn tree(out: &mut Vec<sock_filter>, intervals: &[Interval]) {
    let (left, right) = intervals.split_at(intervals.len() / 2);
    let (false, Some(first)) = (left.is_empty(), right.first()) else {
        return right.iter().for_each(|interval| leaf(out, interval));
    };
    let at = out.len();
    out.push(jump(JGE_K, first.start, 0, 0));
    tree(out, left);
    let distance = out.len() - at - 1;
    match u8::try_from(distance) {
        Ok(distance) => out[at].jt = distance,
        Err(_) => {
            out[at].jf = 1;
            out.insert(at + 1, statement(JA, distance as u32));
        }
    }
    tree(out, right);
}

fn leaf(out: &mut Vec<sock_filter>, interval: &Interval) {
    if let Some((number, outcome)) = &interval.hole {
        match outcome {
            Outcome::Return(action) => skip_unless_equal(out, *number, &[statement(RET_K, *action)]),
            Outcome::Chain(code) => skip_unless_equal(out, *number, code),
        }
    }
    match &interval.outcome {
        Outcome::Return(action) => out.push(statement(RET_K, *action)),
        Outcome::Chain(code) => out.extend_from_slice(code),
    }
}

/// Returns the intervals of all ABIs with an audit number. They cover every number of 32 bits.
fn intervals(policy: &Policy, audit: u32) -> Result<Vec<Interval>, seccompiler::BackendError> {
    let mut abis: Vec<Abi> = policy.abis.iter().filter(|abi| abi.audit == audit).copied().collect();
    abis.sort_unstable_by_key(|abi| abi.range());
    abis.dedup();
    let mut all: Vec<(u32, Outcome)> = Vec::new();
    // Numbers outside the ABIs of the profile belong to ABIs that the profile does not list.
    let mut next = Some(0);
    for abi in abis {
        let (first, last) = abi.range();
        if next.is_some_and(|next| next < first) {
            push(&mut all, next.unwrap_or(0), Outcome::Return(OTHER_ARCH));
        }
        calls(policy, abi, &mut all)?;
        next = last.checked_add(1);
    }
    if let Some(next) = next {
        push(&mut all, next, Outcome::Return(OTHER_ARCH));
        // -1 is not a call of x32. A tracer sets it to have a call skipped.
        push(&mut all, u32::MAX, Outcome::Return(policy.default));
    }
    Ok(fold(all))
}

/// Adds an interval. It replaces an interval with the same start, and extends the last interval if the
/// outcomes are the same.
fn push(all: &mut Vec<(u32, Outcome)>, start: u32, outcome: Outcome) {
    if all.last().is_some_and(|last| last.0 == start) {
        all.pop();
    }
    if all.last().is_none_or(|last| last.1 != outcome) {
        all.push((start, outcome));
    }
}

/// Adds the intervals of one ABI.
fn calls(policy: &Policy, abi: Abi, all: &mut Vec<(u32, Outcome)>) -> Result<(), seccompiler::BackendError> {
    let (first, last) = abi.range();
    push(all, first, Outcome::Return(policy.default));
    let rules = numbered(policy, abi);
    for group in rules.chunk_by(|a, b| a.number == b.number) {
        let Some(Numbered { number, .. }) = group.first() else { continue };
        push(all, *number, outcome(group, policy.default, abi)?);
        push(all, number + 1, Outcome::Return(policy.default));
    }
    if let (Some(newer), Some(newest)) = (policy.newer, newest(policy, abi))
        && newest < last
    {
        push(all, newest + 1, Outcome::Return(newer));
    }
    Ok(())
}

/// Returns the highest number on an ABI among the calls that the profile names.
pub(super) fn newest(policy: &Policy, abi: Abi) -> Option<u32> {
    policy.rules.iter().filter_map(|rule| abi.number(rule.call)).max()
}

/// Returns the rules that matter to an ABI, sorted by number and then in the profile's order.
pub(super) fn numbered(policy: &Policy, abi: Abi) -> Vec<Numbered> {
    let mut rules = Vec::with_capacity(policy.rules.len());
    if let (Some(newer), Column::S390 | Column::S390x) = (policy.newer, abi.column) {
        // These machines pass numbers above 255 in a register, and 0 if the kernel does not know the call.
        // Number 0 was setup(2), which no longer exists.
        rules.push(Numbered { number: 0, action: newer, args: Vec::new(), index: None });
    }
    // Most ABIs have no multiplexer, so their calls need no search for one.
    let multiplexers = ["socketcall", "ipc"].map(|by| syscalls::find(by).and_then(|by| abi.number(by)));
    for rule in policy.rules.iter().filter(|rule| rule.action != policy.default) {
        let through = if multiplexers == [None; 2] { None } else { multiplexed(rule.call, abi) };
        if let Some((number, call)) = through {
            // The arguments of the call itself are in memory, which a filter cannot read. As in libseccomp,
            // the first argument is compared with the number of the call, and the other comparisons stay.
            let mut args = vec![Comparison { index: 0, operator: SeccompCmpOp::Eq, value: call }];
            args.extend(rule.args.iter().filter(|arg| arg.index != 0).cloned());
            rules.push(Numbered { number, action: rule.action, args, index: Some(rule.index) });
        }
        if let Some(number) = abi.number(rule.call) {
            let args = rule.args.clone();
            rules.push(Numbered { number, action: rule.action, args, index: Some(rule.index) });
        }
    }
    // The sort is stable, so rules with one number stay in the profile's order.
    rules.sort_by_key(|rule| rule.number);
    rules
}

/// Returns the number of the multiplexer that a call may come through on an ABI, and its first argument for
/// that call.
pub(super) fn multiplexed(call: &Row, abi: Abi) -> Option<(u32, u64)> {
    let (by, number) = syscalls::multiplexed(call.name())?;
    Some((abi.number(syscalls::find(by)?)?, number))
}

/// Returns the rules of a number that can decide, in the order in which they are tried.
pub(super) fn decisive(rules: &[Numbered]) -> &[Numbered] {
    match rules.iter().position(|rule| rule.args.is_empty()) {
        Some(first) => &rules[first..=first],
        None => rules,
    }
}

/// Compiles the rules of one number.
fn outcome(rules: &[Numbered], default: u32, abi: Abi) -> Result<Outcome, seccompiler::BackendError> {
    let rules = decisive(rules);
    if let Some(rule) = rules.first().filter(|rule| rule.args.is_empty()) {
        return Ok(Outcome::Return(rule.action));
    }
    let mut chain = Vec::new();
    for rule in rules {
        chain.extend(comparisons(&rule.args, abi)?);
        chain.push(statement(RET_K, rule.action));
    }
    chain.push(statement(RET_K, default));
    Ok(Outcome::Chain(chain))
}

/// Returns code that continues after itself if all comparisons are true, and skips one instruction otherwise.
fn comparisons(args: &[Comparison], abi: Abi) -> Result<Vec<sock_filter>, seccompiler::BackendError> {
    let width = if abi.wide() { SeccompCmpArgLen::Qword } else { SeccompCmpArgLen::Dword };
    let mut conditions = Vec::with_capacity(args.len());
    for arg in args {
        let (width, operator) = (width.clone(), arg.operator.clone());
        conditions.push(SeccompCondition::new(arg.index, width, operator, arg.value)?);
    }
    let program: BpfProgram = SeccompRule::new(conditions)?.into();
    // The first two instructions are jumps into the rule and past it, for code that jumps to the rule.
    Ok(program
        .into_iter()
        .skip(2)
        .map(|i| {
            // seccompiler supports little-endian machines only, where the lower half of an argument comes
            // first.
            let swap = i.code == LD_W_ABS && i.k >= ARGS && abi.big_endian();
            jump(i.code, if swap { i.k ^ 4 } else { i.k }, i.jt, i.jf)
        })
        .collect())
}

/// Folds a single number between two intervals with the same outcome into one interval with a hole. This
/// makes the tree smaller.
fn fold(all: Vec<(u32, Outcome)>) -> Vec<Interval> {
    let mut folded: Vec<Interval> = Vec::with_capacity(all.len());
    let mut rest = all.into_iter().peekable();
    while let Some((start, outcome)) = rest.next() {
        let single = rest.peek().is_some_and(|(next, _)| start.checked_add(1) == Some(*next));
        if let (true, Some(last)) = (single, folded.last_mut()) {
            let plain = last.hole.is_none() && matches!(last.outcome, Outcome::Return(_));
            if plain && rest.peek().is_some_and(|(_, after)| *after == last.outcome) {
                last.hole = Some((start, outcome));
                rest.next();
                continue;
            }
        }
        folded.push(Interval { start, outcome, hole: None });
    }
    folded
}
