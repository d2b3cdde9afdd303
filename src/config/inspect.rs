//! Everything that is wrong with the shape of a configuration. [`parse`](super::parse) ends at the first value of a
//! wrong type; here that value is left out, and the rest is read again.

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::unknown::{self, Unknown};
use super::{Version, misplaced, parse, repair, strict};
use crate::error::{Notes, Problem, Problems, pointer};
use crate::json;

/// The most errors of the shape that are reported.
const PROBLEMS_MAX: usize = 100;

/// What a configuration is, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Inspection {
    /// `None` if a part of it could not be read.
    pub(crate) spec: Option<Spec>,
    pub(crate) notes: Notes,
    pub(crate) unknown: Vec<Unknown>,
}

/// Reads the text of a configuration.
pub(crate) fn inspect(text: &str) -> Inspection {
    match parse(text.into()) {
        Ok(config) => Inspection {
            notes: Notes { warnings: config.warnings, ..Notes::default() },
            spec: Some(config.spec),
            unknown: config.unknown,
        },
        Err(error) => match serde_json::from_str(text) {
            Ok(value) => in_parts(value),
            Err(_) => Inspection { notes: failed(&error), ..Inspection::default() },
        },
    }
}

/// Returns the errors that another one stands for, or that one without a place.
fn failed(error: &anyhow::Error) -> Notes {
    let mut notes = Notes::default();
    match error.downcast_ref::<Problems>() {
        Some(problems) => notes.problems.0.extend(problems.0.iter().cloned()),
        None => notes.problem("", format_args!("{error:#}")),
    }
    notes
}

/// Reads a configuration that has errors.
fn in_parts(mut value: Value) -> Inspection {
    let unknown = unknown::in_configuration(&value);
    let mut found = repair::Found::default();
    repair::configuration(&mut value, &mut found);
    let mut inspection = Inspection { notes: found.notes, unknown, ..Inspection::default() };
    let mut left_out = LeftOut::default();
    loop {
        // Rendered as text, because only an error in a text has a line and a column.
        let text = value.to_string();
        let error = match strict::read::<Spec>(&text) {
            Ok((mut spec, _)) => {
                repair::remove_empty(&mut spec);
                let complete = left_out.places.is_empty();
                inspection.spec = complete.then_some(spec);
                break;
            }
            Err(error) => misplaced("config.json", &text, &error),
        };
        for Problem { place, message } in failed(&error).problems.0 {
            let original = left_out.original(&place);
            // What was left out is missing now.
            if !(json::is_about_a_missing_member(&message) && left_out.is_below(&original)) {
                inspection.notes.problem(original, message);
            }
            if !left_out.remove(&mut value, place) || inspection.notes.problems.0.len() >= PROBLEMS_MAX {
                return inspection;
            }
        }
    }
    let declared = value.get("ociVersion").and_then(Value::as_str).unwrap_or_default();
    if !left_out.places.iter().any(|place| place == "ociVersion")
        && let Err(message) =
            Version::parse(declared).and_then(|version| version.check(&mut inspection.notes))
    {
        inspection.notes.problem("ociVersion", message);
    }
    inspection
}

/// The parts of a document that were left out.
#[derive(Default)]
struct LeftOut {
    /// In the whole document.
    places: Vec<String>,
    /// The items of arrays among them, by the places that they had when they were left out: those behind them
    /// have moved.
    items: Vec<(String, usize)>,
}

impl LeftOut {
    /// Removes the part at a place. Returns false if that is the whole document.
    fn remove(&mut self, value: &mut Value, place: String) -> bool {
        let pointer = pointer(&place);
        let Some((above, name)) = pointer.rsplit_once('/') else { return false };
        let name = name.replace("~1", "/").replace("~0", "~");
        let original = self.original(&place);
        let removed = match value.pointer_mut(above) {
            Some(Value::Object(members)) => members.remove(&name).is_some(),
            Some(Value::Array(items)) => match name.parse() {
                Ok(index) if index < items.len() => {
                    items.remove(index);
                    let array = place.strip_suffix(&format!("[{index}]")).unwrap_or_default();
                    self.items.push((array.to_string(), index));
                    true
                }
                _ => false,
            },
            _ => false,
        };
        self.places.push(original);
        removed
    }

    /// Returns the place in the whole document.
    fn original(&self, place: &str) -> String {
        let mut place = place.to_string();
        for (array, index) in self.items.iter().rev() {
            let moved = place.strip_prefix(array.as_str()).and_then(|rest| {
                let (number, rest) = rest.strip_prefix('[')?.split_once(']')?;
                let number: usize = number.parse().ok()?;
                (number >= *index).then(|| format!("{array}[{}]{rest}", number + 1))
            });
            place = moved.unwrap_or(place);
        }
        place
    }

    /// Reports whether something directly in the object at this place was left out.
    fn is_below(&self, object: &str) -> bool {
        self.places.iter().any(|place| place.starts_with(object) && place.len() > object.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_shape_is_reported_at_its_place() {
        for (members, expected) in [
            ("", &[][..]),
            (r#""root":5"#, &["root"]),
            (
                r#""root":{"path":7},"proces":1,"mounts":[{"destination":1},{"destination":"/a"},{"source":"/b"},
                   {"destination":"/c","options":"ro"},{"destination":"/d","sorce":""}],"hostname":["h"]"#,
                &["hostname", "mounts[0].destination", "mounts[2]", "mounts[3].options", "root.path"],
            ),
            (
                r#""linux":{"namespaces":[{"type":"x"},{"type":"pid"},{"type":"y"}],"sysctl":{"a.b":1}}"#,
                &["linux.namespaces[0].type", "linux.namespaces[2].type", "linux.sysctl[\"a.b\"]"],
            ),
        ] {
            let comma = if members.is_empty() { "" } else { "," };
            let inspection = inspect(&format!("{{\"ociVersion\":\"1.2.0\"{comma}{members}}}"));
            let mut places: Vec<&str> =
                inspection.notes.problems.0.iter().map(|p| p.place.as_str()).collect();
            places.sort_unstable();
            assert_eq!(places, expected, "{members}: {}", inspection.notes.problems);
            assert_eq!(inspection.spec.is_some(), expected.is_empty());
            if members.contains("proces") {
                let unknown: Vec<&str> = inspection.unknown.iter().map(|u| u.place.as_str()).collect();
                assert_eq!(unknown, ["mounts[4].sorce", "proces"]);
            }
        }
    }

    #[test]
    fn a_document_of_another_shape_has_one_error() {
        for (text, place) in [
            ("{", ""),
            ("5", ""),
            ("[]", ""),
            ("{}", "ociVersion"),
            (r#"{"ociVersion":"2.0.0"}"#, "ociVersion"),
        ] {
            let inspection = inspect(text);
            let places: Vec<&str> = inspection.notes.problems.0.iter().map(|p| p.place.as_str()).collect();
            assert_eq!(places, [place], "{text}: {}", inspection.notes.problems);
        }
    }
}
