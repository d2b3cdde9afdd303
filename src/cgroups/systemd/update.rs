//! Changing the limits of a unit. systemd writes all that it knows of a controller to the unit's files
//! whenever it has a reason to. Therefore it has to know the limits. When it learns one of them, it may also
//! write its own, rounded values of others. The caller makes the files exact afterwards. If anything fails,
//! the former values are set again.

use super::super::resources::Write;
use super::manager::{connect, get, list, manager, supported};
use super::{Property, Unit, of_writes};
use crate::cpu_list::List;
use crate::dbus::{Bus, Value};
use crate::error::{Context, Result};

/// A property that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub name: String,
    pub before: Value,
    pub after: Value,
}

/// The properties of a unit that change, and a connection to the systemd that keeps it.
#[derive(Debug)]
pub(crate) struct Update {
    bus: Bus,
    unit: String,
    pub changes: Vec<Change>,
}

/// Returns the properties whose value is not the wanted one.
fn differing(bus: &mut Bus, unit: &Unit, wanted: Vec<Property>) -> Result<Vec<Change>> {
    let wanted = supported(bus, wanted)?;
    let found = bus.call(&manager("GetUnit", &[Value::str(&unit.name)]))?;
    let path = found.body.first().and_then(Value::text).unwrap_or_default();
    let kind = if unit.is_slice() { "Slice" } else { "Scope" };
    let mut changes = Vec::new();
    for (name, after) in wanted {
        let before = get(bus, path, &format!("org.freedesktop.systemd1.{kind}"), &name)?;
        if !same(&before, &after) {
            changes.push(Change { name, before, after });
        }
    }
    Ok(changes)
}

/// Returns the list of CPUs or memory nodes in a bit mask.
fn mask(value: &Value) -> Option<List> {
    let Value::Array(_, bytes) = value else { return None };
    let bytes = bytes.iter().map(|byte| if let Value::Byte(byte) = byte { *byte } else { 0 });
    Some(List::of_bytes(&bytes.collect::<Vec<u8>>()))
}

/// Compares two values. systemd may send a mask with zeros at its end.
fn same(a: &Value, b: &Value) -> bool {
    match (mask(a), mask(b)) {
        (Some(a), Some(b)) => a.bytes() == b.bytes(),
        _ => a == b,
    }
}

impl Update {
    /// Compares the properties for `writes` with those of the unit. Returns `None` if nothing has to change.
    pub(crate) fn prepare(unit: &Unit, writes: &[Write]) -> Result<Option<Self>> {
        let wanted = of_writes(writes);
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut bus = connect(unit)?;
        let changes = differing(&mut bus, unit, wanted).with_context(|| unit.name.clone())?;
        Ok((!changes.is_empty()).then(|| Self { bus, unit: unit.name.clone(), changes }))
    }

    /// Sets the new values, until the unit stops.
    pub(crate) fn apply(&mut self) -> Result<()> {
        self.set(|change| &change.after)
    }

    /// Sets the former values.
    pub(crate) fn undo(&mut self) -> Result<()> {
        self.set(|change| &change.before)
    }

    fn set(&mut self, value: impl Fn(&Change) -> &Value) -> Result<()> {
        let properties = self.changes.iter().map(|change| (change.name.clone(), value(change).clone()));
        let body = [Value::str(&self.unit), Value::Bool(true), list(properties)];
        let set = self.bus.call(&manager("SetUnitProperties", &body));
        set.with_context(|| self.unit.clone())?;
        // systemd postpones writes to files, but makes them before it answers the next call.
        self.bus
            .call(&manager("GetUnit", &[Value::str(&self.unit)]))
            .map(drop)
            .with_context(|| self.unit.clone())
    }
}

/// Returns a value as text for people.
#[must_use]
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::U64(u64::MAX) => "infinity".into(),
        Value::U64(n) => n.to_string(),
        other => mask(other).map_or_else(|| format!("{other:?}"), |list| list.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_compared_without_zeros_at_their_end_and_shown_as_lists() {
        for (value, text) in [
            (Value::U64(u64::MAX), "infinity"),
            (Value::U64(7), "7"),
            (Value::bytes(&[]), ""),
            (Value::bytes(&[0b1000_0111, 1]), "0-2,7-8"),
            (Value::bytes(&[0, 2, 0]), "9"),
        ] {
            assert_eq!(shown(&value), text, "{value:?}");
        }
        assert!(same(&Value::bytes(&[1, 0, 0]), &Value::bytes(&[1])));
        assert!(!same(&Value::bytes(&[1, 0, 1]), &Value::bytes(&[1])));
    }
}
