//! The file, in Chrome's trace format. The times of complete events (`X`) are microseconds of
//! CLOCK_MONOTONIC, so the traces of several commands can be combined.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use super::Trace;

/// The most processes of a launch: the runtime, an intermediate process (`namespaces::Stages`), the
/// container process.
pub(super) const PROCESSES: usize = 3;

/// The beginning of every trace.
pub(super) const HEAD: &str = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";

/// Returns the trace up to the time `last`, because the process of a created container continues.
pub(super) fn document(trace: &Trace, last: u64) -> String {
    let pids: Vec<u64> = (0..PROCESSES).map(|i| trace.word(0, 1 + i).load(Ordering::Relaxed)).collect();
    let count = pids.iter().take_while(|pid| **pid != 0).count();
    let mut out = String::from(HEAD);
    // Writing to a String cannot fail.
    for (i, pid) in pids[..count].iter().enumerate() {
        let name = match i {
            0 => "runtime",
            _ if i + 1 == count => "init",
            _ => "intermediate",
        };
        let ids = format!("\"pid\":{pid},\"tid\":{pid}");
        let _ = writeln!(
            out,
            "{{\"ph\":\"M\",\"name\":\"process_name\",{ids},\"args\":{{\"name\":\"{name}\"}}}},"
        );
    }
    let records = trace.numbers().filter_map(|at| trace.record(at));
    for record in records.filter(|record| record.begin <= last) {
        let pid = pids.get(record.process).copied().unwrap_or_default();
        let end = if record.end == 0 { last } else { record.end.min(last) };
        let (begin, lasts) = (micros(record.begin), micros(end.saturating_sub(record.begin)));
        let _ = write!(out, "{{\"ph\":\"X\",\"name\":\"{}\",", escaped(&record.name));
        let _ = write!(out, "\"ts\":{begin},\"dur\":{lasts},\"pid\":{pid},\"tid\":{pid}");
        if !record.of.is_empty() {
            let _ = write!(out, ",\"args\":{{\"of\":\"{}\"}}", escaped(&record.of));
        }
        out.push_str("},\n");
    }
    out.truncate(out.len() - 2);
    out.push_str("\n]}\n");
    out
}

fn micros(nanos: u64) -> String {
    format!("{}.{:03}", nanos / 1000, nanos % 1000)
}

/// Escapes a text for a JSON string. It escapes more than JSON requires, namely every character that a shell
/// or a terminal would interpret: other users may have chosen the names in the trace, and the name of the
/// file.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ' '..='~') && !"\"\\$`".contains(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_and_terminals_interpret_nothing_in_a_trace() {
        for (text, expected) in [
            ("mounts[1] /a b", "mounts[1] /a b"),
            ("\"\\\n", "\\u0022\\u005c\\u000a"),
            ("$(x)`y`", "\\u0024(x)\\u0060y\\u0060"),
            ("ä\u{1f600}\u{7f}", "\\u00e4\\ud83d\\ude00\\u007f"),
        ] {
            assert_eq!(escaped(text), expected);
            assert_eq!(serde_json::from_str::<String>(&format!("\"{expected}\"")).unwrap(), text);
        }
        assert_eq!(micros(1_002_003), "1002.003");
    }
}
