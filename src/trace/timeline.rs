//! `corten trace`: prints a trace as text.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Kind, Result, fail};
use crate::{json, log};

/// The number of phases that are marked as the slowest.
const MARKED: usize = 5;

#[derive(Deserialize)]
struct Event {
    name: String,
    ts: f64,
    dur: f64,
    pid: i64,
    #[serde(default)]
    args: Value,
}

/// A phase with its depth among the others.
struct Row {
    event: Event,
    depth: usize,
    /// Its duration without the phases in it.
    own: f64,
}

impl Row {
    /// Returns whether the phase is a wait. The awaited work is in the trace itself, or is not corten's.
    fn waits(&self) -> bool {
        self.event.name.starts_with("wait")
    }
}

/// Formats a trace as a timeline: a line for each phase, indented by its depth, with the time since the first
/// phase began.
pub(crate) fn timeline(text: &str) -> Result<String> {
    let wrong = |what: String| fail(Kind::Config, format!("is not a trace: {what}"));
    let document: Value = serde_json::from_str(text).map_err(|e| wrong(json::reason(text, &e)))?;
    let list = document.get("traceEvents").unwrap_or(&document);
    let list = list.as_array().ok_or_else(|| wrong("has no list of events".into()))?;
    let (mut events, mut processes) = (Vec::new(), Vec::new());
    for (i, value) in list.iter().enumerate() {
        match value["ph"].as_str() {
            Some("M") if value["name"] == "process_name" => {
                processes.push((&value["pid"], &value["args"]["name"]))
            }
            Some("X") => {
                let event: Event = Deserialize::deserialize(value)
                    .map_err(|e| wrong(format!("traceEvents[{i}]: {}", json::value(&e))))?;
                if event.dur < 0.0 {
                    return Err(wrong(format!("traceEvents[{i}]: lasts {} µs", event.dur)));
                }
                events.push(event);
            }
            _ => {}
        }
    }
    if events.is_empty() {
        return Err(wrong("has no events".into()));
    }
    let rows = rows(events);
    let process = |pid: i64| processes.iter().find(|(id, _)| **id == pid).and_then(|(_, name)| name.as_str());
    Ok(print(&rows, |pid| process(pid).map_or_else(|| pid.to_string(), log::one_line)))
}

/// Sorts the phases by time, each after the phase that contains it.
fn rows(mut events: Vec<Event>) -> Vec<Row> {
    // Of phases that begin together, the longest contains the others.
    events.sort_by(|a, b| a.ts.total_cmp(&b.ts).then(b.dur.total_cmp(&a.dur)));
    let mut rows: Vec<Row> = Vec::with_capacity(events.len());
    let mut open: Vec<usize> = Vec::new();
    for event in events {
        let over = |row: &Row| row.event.pid == event.pid && row.event.ts + row.event.dur <= event.ts;
        open.retain(|at| !over(&rows[*at]));
        let mut above = open.iter().rev().filter(|at| rows[**at].event.pid == event.pid);
        let parent = above.next().copied();
        let depth = parent.map_or(0, |at| rows[at].depth + 1);
        if let Some(at) = parent {
            rows[at].own -= event.dur;
        }
        open.push(rows.len());
        rows.push(Row { depth, own: event.dur, event });
    }
    rows
}

fn print(rows: &[Row], process: impl Fn(i64) -> String) -> String {
    let mut slowest: Vec<usize> = (0..rows.len()).filter(|at| !rows[*at].waits()).collect();
    slowest.sort_by(|a, b| rows[*b].own.total_cmp(&rows[*a].own));
    slowest.truncate(MARKED);
    let start = rows.first().map_or(0.0, |row| row.event.ts);
    let mut out = format!("{:>13} {:>12}  {:<12} phase\n", "since µs", "lasts µs", "process");
    for (at, Row { event, depth, .. }) in rows.iter().enumerate() {
        let mark = if slowest.contains(&at) { '*' } else { ' ' };
        let (name, of) = (log::one_line(&event.name), event.args["of"].as_str().map(log::one_line));
        // Writing to a String cannot fail.
        let _ = write!(out, "{mark}{:>12.1} {:>12.1}  ", event.ts - start, event.dur);
        let _ = write!(out, "{:<12} {:indent$}{name}", process(event.pid), "", indent = 2 * depth);
        let _ = writeln!(out, "{}", of.map(|of| format!(" {of}")).unwrap_or_default());
    }
    let _ = writeln!(out, "* took longest by itself, without the phases in it; waits are not counted");
    out
}
