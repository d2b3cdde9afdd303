//! `linux.netDevices` (config-linux.md#network-devices): moves network interfaces from the runtime's
//! namespace into the container's, renames them if asked to, restores their permanent global addresses, and
//! sets them up.
//!
//! When the container ends, the kernel moves physical interfaces back and removes virtual ones. A `create`
//! that fails moves them back itself.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use oci_spec::runtime::Linux;

use crate::error::{Context, Notes, Result};
use crate::log;
use crate::sys::netlink::{self, Socket, attributes, first, push};
use crate::sys::{self, fs, task};
use crate::trace;

/// An interface to move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name in the runtime's namespace.
    pub name: String,
    /// Its name in the container's namespace. The kernel replaces `%d` by the first free number.
    pub target: String,
    /// `linux.netDevices["eth0"]`.
    pub place: String,
}

/// Plans the interfaces. `private` says whether the container has a network namespace other than the runtime's.
pub(crate) fn plan(linux: &Linux, private: bool, notes: &mut Notes) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    let asked: BTreeMap<_, _> = linux.net_devices().iter().flatten().collect();
    for (name, device) in asked {
        let place = format!("linux.netDevices[{name:?}]");
        let renamed = device.name().as_ref().filter(|name| !name.is_empty());
        let target = renamed.unwrap_or(name).clone();
        if let Some(why) = wrong_name(name) {
            notes.problem(&place, why);
        } else if let Some(why) = wrong_target(&target) {
            notes.problem(format!("{place}.name"), format!("{target:?} {why}"));
        } else if !private {
            notes.problem(
                &place,
                "unable to move network devices without a NET namespace of the container's own",
            );
        }
        devices.push(Device { name: name.clone(), target, place });
    }
    let mut targets = BTreeSet::new();
    for device in &devices {
        if !device.target.contains('%') && !targets.insert(&device.target) {
            notes.problem(format!("{}.name", device.place), format!("{:?} is taken", device.target));
        }
    }
    devices
}

/// Returns why an interface cannot have a name.
fn wrong_name(name: &str) -> Option<&'static str> {
    refused(name).or_else(|| stray_percent(name))
}

/// Returns why an interface cannot be given a name. In it the kernel replaces one `%d` by a free number.
fn wrong_target(name: &str) -> Option<&'static str> {
    refused(name).or_else(|| stray_percent(&name.replacen("%d", "", 1)))
}

/// Returns why the kernel's `dev_valid_name` would refuse a name.
fn refused(name: &str) -> Option<&'static str> {
    let other = |c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace();
    let refused = name.is_empty() || name.len() > 15 || matches!(name, "." | "..") || name.contains(other);
    refused.then_some("is not the name of a network interface")
}

fn stray_percent(name: &str) -> Option<&'static str> {
    name.contains('%').then_some("has another % than one %d")
}

/// An address as the kernel reported it, to be set again after the move.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    /// The attributes, such as IFA_ADDRESS.
    parts: Vec<(u16, Vec<u8>)>,
}

/// An interface that has been moved.
#[derive(Debug)]
struct Moved<'a> {
    device: &'a Device,
    /// In the container's namespace.
    index: u32,
    was_up: bool,
    addresses: Vec<Address>,
}

/// The interfaces that were moved, and the way back.
#[derive(Debug)]
pub(crate) struct Devices<'a> {
    outside: Socket,
    inside: Socket,
    own: OwnedFd,
    moved: Vec<Moved<'a>>,
}

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFA_FLAGS: u16 = 8;
const IFA_CACHEINFO: u16 = 6;
const IFA_LABEL: u16 = 3;
const IFA_F_PERMANENT: u32 = 0x80;
/// The flags that an administrator sets: no duplicate detection, no automatic route.
const IFA_F_KEPT: u32 = 0x02 | 0x200;
const IFF_UP: u32 = 1;
/// The length of `struct ifaddrmsg`.
const ADDRESS: usize = 8;

/// Returns the errors about devices that the runtime's network namespace does not have, each with its place.
pub(crate) fn missing(devices: &[Device]) -> Result<Vec<(String, anyhow::Error)>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let socket = Socket::open()?;
    let missing = |device: &Device| Some((device.place.clone(), link(&socket, &device.name).err()?));
    Ok(devices.iter().filter_map(missing).collect())
}

/// Moves the devices into the network namespace of process `pid`. If one cannot be moved, none is.
pub(crate) fn give<'a>(devices: &'a [Device], pid: i32, proc: BorrowedFd) -> Result<Devices<'a>> {
    let _phase = trace::phase("give network devices");
    let open = |path: String| fs::open(proc, Path::new(&path), fs::O_RDONLY, 0);
    let (own, theirs) = (open("self/ns/net".into())?, open(format!("{pid}/ns/net"))?);
    let place = "linux.netDevices";
    let outside = Socket::open()?;
    task::setns(theirs.as_fd(), libc::CLONE_NEWNET).context(place)?;
    let inside = Socket::open();
    task::setns(own.as_fd(), libc::CLONE_NEWNET).context(place)?;
    let mut all = Devices { outside, inside: inside?, own, moved: Vec::new() };
    for device in devices {
        if let Err(e) = all.give_one(device, theirs.as_fd()) {
            all.take_back();
            return Err(e).with_context(|| device.place.clone());
        }
    }
    Ok(all)
}

impl<'a> Devices<'a> {
    fn give_one(&mut self, device: &'a Device, theirs: BorrowedFd) -> Result<()> {
        let (index, flags) = link(&self.outside, &device.name)?;
        let addresses = addresses(&self.outside, index)?;
        // Under a name that is not used there: both its own name and its number may be.
        let passing = format!("corten{}", std::process::id());
        send_to(&self.outside, index, theirs, &passing)?;
        let (index, _) = link(&self.inside, &passing)?;
        let given = addresses.clone();
        self.moved.push(Moved { device, index, was_up: flags & IFF_UP != 0, addresses });
        set_link(&self.inside, index, 0, &[(IFLA_IFNAME, name_bytes(&device.target))], &device.target)?;
        settle(&self.inside, index, &given, true)
    }

    /// Moves all interfaces back into the runtime's namespace, with their former names, addresses and state.
    pub(crate) fn take_back(&mut self) {
        while let Some(moved) = self.moved.pop() {
            let name = &moved.device.name;
            let result = send_to(&self.inside, moved.index, self.own.as_fd(), name)
                .map_err(Into::into)
                .and_then(|()| link(&self.outside, name))
                .and_then(|(index, _)| settle(&self.outside, index, &moved.addresses, moved.was_up));
            if let Err(e) = result {
                log::warn(format!("undoing: {}: {e:#}, ignoring", moved.device.place));
            }
        }
    }
}

/// Returns `struct ifinfomsg` with the number of an interface, and the flags to set.
fn link_header(index: u32, flags: u32) -> Vec<u8> {
    [0, index, flags, flags].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn name_bytes(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

/// Returns the number and the flags of an interface.
fn link(socket: &Socket, name: &str) -> Result<(u32, u32)> {
    let mut body = link_header(0, 0);
    push(&mut body, IFLA_IFNAME, &name_bytes(name));
    let call = format!("GETLINK, {name}");
    let answers = socket.request(netlink::RTM_GETLINK, 0, &body, &call)?;
    let words = |answer: &Vec<u8>| Some((first(answer.get(4..)?)?, first(answer.get(8..)?)?));
    let (index, flags) =
        answers.first().and_then(words).ok_or_else(|| sys::Error::new(call, Errno::EPROTO))?;
    Ok((u32::from_ne_bytes(index), u32::from_ne_bytes(flags)))
}

/// Moves an interface into another namespace under this name.
fn send_to(socket: &Socket, index: u32, namespace: BorrowedFd, name: &str) -> sys::Result<()> {
    let namespace = (IFLA_NET_NS_FD, (namespace.as_raw_fd() as u32).to_ne_bytes().to_vec());
    set_link(socket, index, 0, &[namespace, (IFLA_IFNAME, name_bytes(name))], name)
}

/// Sets the flags and attributes of an interface. `what` is for the error.
fn set_link(
    socket: &Socket,
    index: u32,
    flags: u32,
    parts: &[(u16, Vec<u8>)],
    what: &str,
) -> sys::Result<()> {
    let mut body = link_header(index, flags);
    parts.iter().for_each(|(kind, value)| push(&mut body, *kind, value));
    socket.request(netlink::RTM_NEWLINK, 0, &body, &format!("NEWLINK, {index}, {what}")).map(drop)
}

/// Returns the interface's permanent addresses of global scope.
fn addresses(socket: &Socket, index: u32) -> Result<Vec<Address>> {
    let answers = socket.request(netlink::RTM_GETADDR, netlink::DUMP, &[0; ADDRESS], "GETADDR")?;
    Ok(answers.iter().filter_map(|answer| address(answer, index)).collect())
}

fn address(answer: &[u8], index: u32) -> Option<Address> {
    let [family, prefix, flags, scope] = first(answer)?;
    let of = u32::from_ne_bytes(first(answer.get(4..)?)?);
    let parts = attributes(answer, ADDRESS);
    let wide = parts.iter().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, value)| first(value));
    let flags = wide.map_or(u32::from(flags), u32::from_ne_bytes);
    if of != index || scope != 0 || flags & IFA_F_PERMANENT == 0 {
        return None;
    }
    // A label begins with the interface's name, and that may change.
    let kept = |kind: u16| ![IFA_FLAGS, IFA_CACHEINFO, IFA_LABEL].contains(&kind);
    let parts =
        parts.into_iter().filter(|(kind, _)| kept(*kind)).map(|(kind, v)| (kind, v.to_vec())).collect();
    Some(Address { family, prefix, flags: flags & IFA_F_KEPT, parts })
}

/// Sets an interface's addresses, and sets it up.
fn settle(socket: &Socket, index: u32, addresses: &[Address], up: bool) -> Result<()> {
    for address in addresses {
        let mut body = vec![address.family, address.prefix, 0, 0];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.parts {
            push(&mut body, *kind, value);
        }
        push(&mut body, IFA_FLAGS, &address.flags.to_ne_bytes());
        socket.request(netlink::RTM_NEWADDR, netlink::CREATE, &body, &format!("NEWADDR, {index}"))?;
    }
    if up {
        set_link(socket, index, IFF_UP, &[], "UP")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_valid_names_and_a_private_namespace() {
        let long = "a-name-of-16-let";
        for (json, private, expected) in [
            (r#"{"eth1":{"name":"c0"},"eth0":{}}"#, true, "eth0>eth0 eth1>c0"),
            (r#"{"eth0":{"name":"eth%d"},"eth1":{"name":"eth%d"}}"#, true, "eth0>eth%d eth1>eth%d"),
            (r#"{"eth0":{"name":""}}"#, true, "eth0>eth0"),
            (
                r#"{"eth0":{}}"#,
                false,
                "linux.netDevices[\"eth0\"]: unable to move network devices without a NET namespace of the container's own",
            ),
            (r#"{"eth%d":{}}"#, true, "linux.netDevices[\"eth%d\"]: has another % than one %d"),
            (
                r#"{"a%":{},"b%":{},"c%":{}}"#,
                true,
                "linux.netDevices[\"a%\"]: has another % than one %d; linux.netDevices[\"b%\"]: has another % than one %d; \
                 linux.netDevices[\"c%\"]: has another % than one %d",
            ),
            (r#"{"a b":{}}"#, true, "linux.netDevices[\"a b\"]: is not the name of a network interface"),
            (
                r#"{"eth0":{"name":"%s"}}"#,
                true,
                "linux.netDevices[\"eth0\"].name: \"%s\" has another % than one %d",
            ),
            (
                r#"{"e":{"name":"%d%d"}}"#,
                true,
                "linux.netDevices[\"e\"].name: \"%d%d\" has another % than one %d",
            ),
            (r#"{"a":{"name":"x"},"b":{"name":"x"}}"#, true, "linux.netDevices[\"b\"].name: \"x\" is taken"),
            (
                &format!(r#"{{"a":{{"name":"{long}"}}}}"#),
                true,
                &format!("linux.netDevices[\"a\"].name: {long:?} is not the name of a network interface"),
            ),
        ] {
            let linux: Linux = serde_json::from_str(&format!(r#"{{"netDevices":{json}}}"#)).unwrap();
            let mut notes = Notes::default();
            let devices = plan(&linux, private, &mut notes);
            let planned: Vec<String> = devices.iter().map(|d| format!("{}>{}", d.name, d.target)).collect();
            let reported =
                if notes.problems.0.is_empty() { planned.join(" ") } else { notes.problems.to_string() };
            assert_eq!(reported, expected, "{json}");
        }
    }

    #[test]
    fn only_permanent_global_addresses_are_kept() {
        let message = |scope: u8, flags: u32, index: u32| {
            let mut body = vec![2, 24, 0, scope];
            body.extend(index.to_ne_bytes());
            push(&mut body, 1, &[10, 0, 0, 1]);
            push(&mut body, IFA_LABEL, b"eth0\0");
            push(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
            body
        };
        let expected = Address { family: 2, prefix: 24, flags: 0x200, parts: vec![(1, vec![10, 0, 0, 1])] };
        assert_eq!(address(&message(0, 0x280, 7), 7), Some(expected));
        for (scope, flags, index) in [(0, 0x200, 7), (253, 0x80, 7), (0, 0x80, 8)] {
            assert_eq!(address(&message(scope, flags, index), 7), None);
        }
        assert_eq!(address(&[], 7), None);
    }
}
