//! New shares for a container that runs. Only the differences are written, and only to a class that was
//! created for it.

use serde_json::{Value, json};

use super::{ClassRecord, Line, PLACE, bandwidth_line, cache_lines, schemata, step, write};
use crate::cgroups::compare::Compared;
use crate::cgroups::{self, Write};
use crate::error::{Context, Kind, Notes, Result, fail};
use crate::log;
use crate::sys::fs;

/// The changes that `update` is to make.
#[derive(Debug)]
pub(crate) struct Update<'a> {
    record: &'a ClassRecord,
    pub changes: Vec<Compared>,
}

impl<'a> Update<'a> {
    /// `schemas` are the members of the configuration that are to be others.
    pub(crate) fn prepare(
        record: Option<&'a ClassRecord>,
        schemas: &[(&'static str, String)],
    ) -> Result<Self> {
        let options = "--l3-cache-schema, --mem-bw-schema";
        let refuse = |why: String| Err(fail(Kind::Unsupported, format!("{options}: {why}")));
        let Some(record) = record else { return refuse(format!("the container has no {PLACE}")) };
        if !record.made.contains(&record.group) {
            let class = record.group.display();
            return refuse(format!(
                "the class {class} was not created for this container, and may be shared"
            ));
        }
        let (mut notes, mut lines) = (Notes::default(), Vec::new());
        for (member, text) in schemas {
            match *member {
                "memBwSchema" => lines.extend(bandwidth_line("--mem-bw-schema", text, &mut notes)),
                _ => lines.extend(cache_lines("--l3-cache-schema", text, &mut notes)),
            }
        }
        notes.into_result()?.into_iter().for_each(log::warn);
        let present = fs::read_text(fs::CWD, &record.group.join("schemata")).context(PLACE)?;
        let (mut changes, step) = (Vec::new(), step(&record.mount));
        for Line { place, text } in lines {
            let name = schemata::name(&text).unwrap_or_default();
            let Some(before) = schemata::line_of(&present, name) else {
                return Err(fail(Kind::Unsupported, format!("{place}: this machine has no {name} to share")));
            };
            let none: [&str; 0] = [];
            if !schemata::holds(&text, &none, &present, step) {
                let (write, present) = (Write::new("schemata", text, place), Some(before.into()));
                changes.push(Compared { write, present });
            }
        }
        Ok(Self { record, changes })
    }

    pub(crate) fn apply(&self) -> Result<()> {
        self.write(|change| Some(&change.write.value))
    }

    /// Restores the former shares after another error. Its own errors are only warnings.
    pub(crate) fn undo(&self) {
        if let Err(e) = self.write(|change| change.present.as_ref()) {
            log::warn(format!("undoing: {e:#}, ignoring"));
        }
    }

    fn write<'b>(&'b self, which: impl Fn(&'b Compared) -> Option<&'b cgroups::Value>) -> Result<()> {
        let line = |change: &'b Compared| {
            Some(Line { place: change.write.place.clone(), text: which(change)?.to_string() })
        };
        let lines: Vec<Line> = self.changes.iter().filter_map(line).collect();
        if lines.is_empty() { Ok(()) } else { write(&self.record.mount, &self.record.group, &lines) }
    }
}

/// Changes the saved configuration's `linux.intelRdt` to the new values, also in `schemata`, which would
/// override them.
pub(crate) fn kept(rdt: &mut Value, schemas: &[(&'static str, String)]) {
    for (member, text) in schemas {
        for line in text.lines().filter(|line| *member != "l3CacheSchema" || !line.starts_with("MB:")) {
            let Some(name) = schemata::name(line) else { continue };
            let before = rdt[member].as_str().unwrap_or_default();
            rdt[member] = json!(schemata::merged(before, line));
            for entry in rdt.get_mut("schemata").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(text) = entry.as_str().filter(|text| schemata::name(text) == Some(name)) {
                    *entry = json!(schemata::merged(text, line));
                }
            }
        }
    }
}
