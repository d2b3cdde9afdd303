//! Other limits for a unit. systemd writes all that it knows of a controller to the unit's files whenever it has a reason
//! to, so it has to know them as well; and when it is told one, it may put others back to its own, rounded values.

use super::super::resources::Write;
use super::{Property, Unit, connect, list, manager, of_writes, supported};
use crate::dbus::{Bus, Call, Value};
use crate::error::{Context, Kind, Result, fail};

/// A property that will have another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub name: String,
    pub before: Value,
    pub after: Value,
}

/// What systemd is to be told of a unit, and the way to it.
#[derive(Debug)]
pub struct Told {
    bus: Bus,
    unit: String,
    pub changes: Vec<Changed>,
}

/// Compares what `writes` come to in systemd's words with what it has for the unit; `None` if there is nothing to tell.
pub fn compare(unit: &Unit, writes: &[Write]) -> Result<Option<Told>> {
    let wanted = of_writes(writes);
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut bus = connect(unit)?;
    let changes = differing(&mut bus, unit, wanted).with_context(|| unit.name.clone())?;
    Ok((!changes.is_empty()).then(|| Told { bus, unit: unit.name.clone(), changes }))
}

fn differing(bus: &mut Bus, unit: &Unit, wanted: Vec<Property>) -> Result<Vec<Changed>> {
    let wanted = supported(bus, wanted)?;
    let found = bus.call(&manager("GetUnit", &[Value::str(&unit.name)]))?;
    let path = found.body.first().and_then(Value::text).unwrap_or_default();
    let kind = if unit.is_slice() { "Slice" } else { "Scope" };
    let mut changes = Vec::new();
    for (name, after) in wanted {
        let before = get(bus, path, &format!("org.freedesktop.systemd1.{kind}"), &name)?;
        if plain(&before) != plain(&after) {
            changes.push(Changed { name, before, after });
        }
    }
    Ok(changes)
}

/// The value of an object's property.
pub(super) fn get(bus: &mut Bus, path: &str, interface: &str, name: &str) -> Result<Value> {
    let body = [Value::str(interface), Value::str(name)];
    let destination = Some("org.freedesktop.systemd1");
    let call =
        Call { destination, path, interface: "org.freedesktop.DBus.Properties", member: "Get", body: &body };
    let answer = bus.call(&call).with_context(|| name.to_string())?;
    match answer.body.into_iter().next() {
        Some(Value::Variant(value)) => Ok(*value),
        _ => Err(fail(Kind::Os, format!("{name}: the answer is not a value"))),
    }
}

/// Bits without the zeros at their end.
fn plain(value: &Value) -> Value {
    let mut value = value.clone();
    if let Value::Array(_, bytes) = &mut value {
        while bytes.last() == Some(&Value::Byte(0)) {
            bytes.pop();
        }
    }
    value
}

impl Told {
    /// Tells systemd, for as long as the unit lasts.
    pub fn tell(&mut self) -> Result<()> {
        self.set(|change| &change.after)
    }

    pub fn take_back(&mut self) -> Result<()> {
        self.set(|change| &change.before)
    }

    fn set(&mut self, value: impl Fn(&Changed) -> &Value) -> Result<()> {
        let properties = self.changes.iter().map(|change| (change.name.clone(), value(change).clone()));
        let body = [Value::str(&self.unit), Value::Bool(true), list(properties)];
        let set = self.bus.call(&manager("SetUnitProperties", &body));
        set.with_context(|| self.unit.clone())?;
        // Files that it has put off it writes before it answers again.
        self.bus
            .call(&manager("GetUnit", &[Value::str(&self.unit)]))
            .map(drop)
            .with_context(|| self.unit.clone())
    }
}

/// A value as a reader knows it.
#[must_use]
pub fn shown(value: &Value) -> String {
    match value {
        Value::U64(u64::MAX) => "infinity".into(),
        Value::U64(n) => n.to_string(),
        Value::Array(_, bytes) => {
            let set = |bit: &usize| match bytes[bit / 8] {
                Value::Byte(byte) => byte >> (bit % 8) & 1 == 1,
                _ => false,
            };
            let members: Vec<usize> = (0..bytes.len() * 8).filter(set).collect();
            ranges(&members)
        }
        other => format!("{other:?}"),
    }
}

/// `0-2,7` of sorted numbers.
fn ranges(members: &[usize]) -> String {
    let runs = members.chunk_by(|a, b| a + 1 == *b);
    let words = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}-{last}"),
        [] => String::new(),
    });
    words.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_compared_and_shown() {
        for (value, text) in [
            (Value::U64(u64::MAX), "infinity"),
            (Value::U64(7), "7"),
            (Value::bytes(&[]), ""),
            (Value::bytes(&[0b1000_0111, 1]), "0-2,7-8"),
            (Value::bytes(&[0, 2, 0]), "9"),
        ] {
            assert_eq!(shown(&value), text, "{value:?}");
        }
        assert_eq!(plain(&Value::bytes(&[1, 0, 0])), plain(&Value::bytes(&[1])));
        assert_ne!(plain(&Value::bytes(&[1, 0, 1])), plain(&Value::bytes(&[1])));
    }
}
