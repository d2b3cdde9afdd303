//! Calls of the manager object of systemd, and the connection for them.

use std::path::Path;

use super::{Property, Unit, properties};
use crate::dbus::{self, Bus, Call, Value};
use crate::error::{Context, Kind, Result, fail};
use crate::sys::socket::Address;
use crate::sys::task;
use crate::trace;

/// Connects to the systemd that manages `unit`.
pub(crate) fn connect(unit: &Unit) -> Result<Bus> {
    let _phase = trace::phase("connect to systemd");
    let mut bus = Bus::connect(&addresses(unit.user, |name| std::env::var(name).ok(), task::euid()))
        .context("systemd is not reached (hint: is it running? --cgroup-manager cgroupfs does without it)")?;
    if !bus.direct() {
        // systemd sends this signal to its direct connections. On a bus, only those that have subscribed
        // receive it.
        let rule = "type='signal',sender='org.freedesktop.systemd1',path='/org/freedesktop/systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        let name = "org.freedesktop.DBus";
        let path = "/org/freedesktop/DBus";
        let body = [Value::str(rule)];
        bus.call_without_reply(&Call {
            destination: Some(name),
            path,
            interface: name,
            member: "AddMatch",
            body: &body,
        })?;
    }
    Ok(bus)
}

/// Returns the sockets by which systemd is reached, and whether systemd itself listens there, without a bus.
pub(super) fn addresses(user: bool, env: impl Fn(&str) -> Option<String>, uid: u32) -> Vec<(Address, bool)> {
    let given = |name: &str| env(name).filter(|value| !value.is_empty());
    let path = |dir: &str, name: &str| Address::Path(Path::new(dir).join(name));
    if !user {
        let bus = given("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or("unix:path=/run/dbus/system_bus_socket".into());
        let own = (path("/run", "systemd/private"), true);
        return dbus::addresses(&bus).into_iter().map(|bus| (bus, false)).chain([own]).collect();
    }
    let dir = given("XDG_RUNTIME_DIR").unwrap_or(format!("/run/user/{uid}"));
    let bus = given("DBUS_SESSION_BUS_ADDRESS").map(|list| dbus::addresses(&list)).unwrap_or_default();
    let buses = bus.into_iter().chain([path(&dir, "bus")]);
    buses.map(|bus| (bus, false)).chain([(path(&dir, "systemd/private"), true)]).collect()
}

pub(super) fn manager<'a>(member: &'a str, body: &'a [Value]) -> Call<'a> {
    Call {
        destination: Some("org.freedesktop.systemd1"),
        path: "/org/freedesktop/systemd1",
        interface: "org.freedesktop.systemd1.Manager",
        member,
        body,
    }
}

pub(super) fn list(properties: impl IntoIterator<Item = Property>) -> Value {
    let pairs =
        properties.into_iter().map(|(name, value)| Value::Struct(vec![Value::Str(name), value.variant()]));
    Value::Array("(sv)".into(), pairs.collect())
}

/// Returns the value of an object's property.
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

/// The first version of systemd with a property for idle groups. It resets cpu.idle if the property is not
/// set.
const KNOWS_IDLE: u32 = 252;

/// Leaves out the properties that this version of systemd does not have.
pub(super) fn supported(bus: &mut Bus, mut properties: Vec<Property>) -> Result<Vec<Property>> {
    if properties.contains(&properties::idle()) {
        let call = manager("", &[]);
        let version = get(bus, call.path, call.interface, "Version")?;
        if version.text().and_then(number_of_version).is_some_and(|n| n < KNOWS_IDLE) {
            properties.retain(|property| *property != properties::idle());
        }
    }
    Ok(properties)
}

/// Returns the number at the beginning of a version such as `257.9-1~deb13u1` or `v252`.
pub(super) fn number_of_version(version: &str) -> Option<u32> {
    let digits = version.trim_start_matches('v');
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
