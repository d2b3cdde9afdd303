//! Texts of the kernel, of a container's image and of a bus: mountinfo and similar files, passwd and group,
//! D-Bus messages.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use corten::testing::cgroups;
use corten::testing::dbus;
use corten::testing::fuzzing::{self, BusValue};
use corten::testing::process::credentials::Status;
use corten::testing::process::users;
use corten::testing::sys::mountinfo::unescape;

/// The separator between the texts of an input.
const BORDER: &[u8] = b"\n--\n";

/// Returns the texts of an input. A missing text is empty.
fn texts<const N: usize>(data: &[u8]) -> [&[u8]; N] {
    let mut rest = data;
    [(); N].map(|()| {
        let end = rest.windows(BORDER.len()).position(|window| window == BORDER);
        let (text, tail) = rest.split_at(end.unwrap_or(rest.len()));
        rest = tail.get(BORDER.len()..).unwrap_or_default();
        text
    })
}

/// Reads `/proc/self/mountinfo`, `/proc/self/cgroup`, `/proc/PID/status` and a list of D-Bus addresses.
pub fn mountinfo(data: &[u8]) {
    let [mountinfo, cgroup, status, addresses] = texts(data);
    let host = cgroups::Host::parse(mountinfo, cgroup);
    assert_eq!(host, cgroups::Host::parse(mountinfo, cgroup));
    let own = host.v1.iter().map(|hierarchy| &hierarchy.own).chain([&host.own]).flatten();
    for path in own {
        assert!(
            path.components().all(|part| matches!(part, Component::Normal(_))),
            "our own cgroup is {path:?}"
        );
    }
    for hierarchy in &host.v1 {
        assert!(!hierarchy.controllers.is_empty(), "{hierarchy:?}");
    }
    let count = mountinfo.split(|byte| *byte == b'\n').count();
    for own in [0, 1, 80] {
        let foreign = fuzzing::foreign_mounts(mountinfo, own);
        assert!(
            foreign.len() <= count && !foreign.iter().any(|point| point == Path::new("/")),
            "{foreign:?}"
        );
    }
    // Any name of a mount point survives the kernel's escapes.
    let escaped: Vec<u8> = mountinfo.iter().flat_map(|byte| escape(*byte)).collect();
    assert_eq!(unescape(&escaped), Path::new(OsStr::from_bytes(mountinfo)));
    let _ = Status::parse(&String::from_utf8_lossy(status));
    let _ = dbus::addresses(&String::from_utf8_lossy(addresses));
}

/// Escapes a byte of a path as the kernel's mangle_path does.
fn escape(byte: u8) -> Vec<u8> {
    match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![byte],
    }
}

/// Reads `USER[:GROUP]`, passwd and group, and compares the result with a reading line by line.
pub fn users(data: &[u8]) {
    let [who, passwd, group] = texts(data);
    let Ok(who) = std::str::from_utf8(who) else { return };
    let found = users::who(who, passwd, group);
    assert_eq!(found, users::who(who, passwd, group));
    if !users::names(who) {
        assert_eq!(found, users::who(who, b"", b""), "a number needs no file");
    }
    let Ok(found) = found else { return };
    let valid = |id: u32| id != users::NO_ID;
    let (user, own_group) = who.split_once(':').map_or((who, None), |(user, group)| (user, Some(group)));
    assert!(valid(found.uid) && found.gid.is_none_or(valid), "{found:?}");
    assert_eq!(found.uid, id(user, passwd, 2), "{who:?}");
    if let Some(own) = own_group {
        assert_eq!(found.gid, Some(id(own, group, 2)), "{who:?}");
    } else if users::names(who) {
        assert_eq!(found.gid, Some(id(user, passwd, 3)), "{who:?}");
    }
    for gid in found.additional_gids.iter().flatten() {
        assert!(valid(*gid) && users::names(who) && own_group.is_none(), "{found:?}");
    }
    let _ = users::home(passwd, found.uid);
}

/// Returns the number, or the field of the first line that begins with the name.
fn id(name: &str, file: &[u8], field: usize) -> u32 {
    let number = name.parse().ok().filter(|_| name.bytes().all(|byte| byte.is_ascii_digit()));
    number.unwrap_or_else(|| {
        let start = [name.as_bytes(), b":"].concat();
        let line = file.split(|byte| *byte == b'\n').find(|line| line.starts_with(&start));
        let line = String::from_utf8_lossy(line.unwrap_or_else(|| panic!("nobody is {name:?}")));
        let field = line.split(':').nth(field).and_then(|field| field.parse().ok());
        field.unwrap_or_else(|| panic!("no id in {line:?}"))
    })
}

/// Reads a D-Bus message, and one with values that the bytes describe. A message that can be read can be
/// written and read again.
pub fn dbus(data: &[u8]) {
    if let Ok(Some(values)) = fuzzing::read_message(data) {
        // The variants around values can nest one level too deep. No other error is right.
        let again = fuzzing::read_message(&fuzzing::write_message(&values));
        assert_eq!(again.map_err(|e| format!("{e:#}")), Ok(Some(values)));
    }
    let mut rest = data;
    let mut values = Vec::new();
    while !rest.is_empty() && values.len() < 16 {
        values.push(value(&mut rest, 0));
    }
    // The length of a signature is one byte.
    while values.iter().map(|value| value.signature().len()).sum::<usize>() > 255 {
        values.pop();
    }
    let bytes = fuzzing::write_message(&values);
    let read = fuzzing::read_message(&bytes).map_err(|e| format!("{e:#}"));
    assert_eq!(read, Ok(Some(values)), "{bytes:?}");
}

/// Reads a value from the bytes.
fn value(rest: &mut &[u8], depth: u32) -> BusValue {
    let mut byte = || {
        let (first, tail) = rest.split_first().unwrap_or((&0, &[]));
        *rest = tail;
        *first
    };
    let (kind, n) = (byte(), byte());
    let text = |n: u8| "/a/".repeat(usize::from(n % 9));
    match kind % 16 {
        0 => BusValue::Byte(n),
        1 => BusValue::Bool(n & 1 != 0),
        2 => BusValue::I16(i16::from(n).wrapping_neg()),
        3 => BusValue::U16(u16::from(n) << 8),
        4 => BusValue::I32(i32::from(n).wrapping_neg()),
        5 => BusValue::U32(u32::from(n) << 24),
        6 => BusValue::I64(i64::from(n).wrapping_neg()),
        7 => BusValue::U64(u64::from(n) << 56),
        8 => BusValue::Double(f64::from(n).to_bits()),
        9 => BusValue::Path(text(n)),
        10 => BusValue::Signature("(sv)".repeat(usize::from(n % 9))),
        11 if depth < 5 => value(rest, depth + 1).variant(),
        12 if depth < 5 => {
            let first = value(rest, depth + 1);
            let signature = first.signature();
            let more =
                (0..n % 4).map(|_| value(rest, depth + 1)).filter(|value| value.signature() == signature);
            let values: Vec<BusValue> = more.chain([first.clone()]).filter(|_| n < 200).collect();
            BusValue::Array(signature, values)
        }
        13 if depth < 5 => {
            let value = BusValue::Struct((0..=n % 4).map(|_| value(rest, depth + 1)).collect());
            if value.signature().len() < 240 { value } else { BusValue::Byte(n) }
        }
        14 if depth < 5 => {
            let entry = BusValue::Entry(Box::new((BusValue::str(text(n)), value(rest, depth + 1))));
            BusValue::Array(entry.signature(), vec![entry])
        }
        _ => BusValue::str(text(n)),
    }
}
