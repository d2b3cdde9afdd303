//! Users and groups by the passwd and group files.
//!
//! The functions take the contents of the files; the caller opens them, those of the container inside the
//! container. These come from the image and are not trustworthy: content above 1 MiB is not read, and invalid
//! lines are skipped.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The most bytes of a passwd or group file of the container that are read.
pub(crate) const CONTENT_MAX: usize = 1 << 20;
/// `(uid_t)-1`: it means "no change" to the kernel, so no user or group can have it.
pub const NO_ID: u32 = u32::MAX;
/// The most supplementary groups that the kernel accepts (`NGROUPS_MAX`).
pub(crate) const GROUPS_MAX: usize = 65_536;

/// The user and the groups that `--user` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub uid: u32,
    /// `None` means the group of the container process.
    pub gid: Option<u32>,
    /// `None` means the groups of the container process.
    pub additional_gids: Option<Vec<u32>>,
}

/// Returns whether `USER[:GROUP]` contains a name, for which the files are needed.
#[must_use]
pub fn names(text: &str) -> bool {
    text.split(':').any(|part| part.bytes().any(|b| !b.is_ascii_digit()))
}

/// Parses `USER[:GROUP]`, each a number or a name.
///
/// A number is used as it is, without passwd, as in runc. A name has the group of its passwd entry and the
/// groups of which it is a member. A given group replaces all of them, as in Docker.
pub fn who(text: &str, passwd: &[u8], group: &[u8]) -> Result<Who, String> {
    if passwd.len().max(group.len()) > CONTENT_MAX {
        return Err("the container's passwd or group file is too large".into());
    }
    let (user, group_text) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
    let given = group_text.map(|name| gid(name, group)).transpose()?;
    if let Some(uid) = numeric(user)? {
        return Ok(Who { uid, gid: given, additional_gids: None });
    }
    let entry = records(passwd).find(|fields| fields[0] == user.as_bytes());
    let entry = entry.ok_or_else(|| format!("no user {user:?} in the container's passwd file"))?;
    let ids = (entry.get(2).and_then(|f| id(f)), entry.get(3).and_then(|f| id(f)));
    let (Some(uid), Some(own)) = ids else {
        return Err(format!("user {user:?} of the container's passwd file has no valid ids"));
    };
    let additional = if given.is_some() { Vec::new() } else { memberships(group, user) };
    Ok(Who { uid, gid: Some(given.unwrap_or(own)), additional_gids: Some(additional) })
}

/// Returns the home directory of a user, if passwd contains it.
#[must_use]
pub fn home(passwd: &[u8], uid: u32) -> Option<PathBuf> {
    let passwd = &passwd[..passwd.len().min(CONTENT_MAX)];
    let entry = records(passwd).find(|fields| fields.get(2).and_then(|f| id(f)) == Some(uid))?;
    let home = entry.get(5).filter(|home| !home.is_empty() && !home.contains(&0))?;
    Some(PathBuf::from(OsStr::from_bytes(home)))
}

/// Returns the name of a user, if passwd has one.
#[must_use]
pub(crate) fn name(passwd: &[u8], uid: u32) -> Option<String> {
    let entry = records(passwd).find(|fields| fields.get(2).and_then(|f| id(f)) == Some(uid))?;
    Some(String::from_utf8_lossy(entry[0]).into_owned())
}

fn gid(text: &str, group: &[u8]) -> Result<u32, String> {
    if let Some(gid) = numeric(text)? {
        return Ok(gid);
    }
    let entry = records(group).find(|fields| fields[0] == text.as_bytes());
    let entry = entry.ok_or_else(|| format!("no group {text:?} in the container's group file"))?;
    let gid = entry.get(2).and_then(|f| id(f));
    gid.ok_or_else(|| format!("group {text:?} of the container's group file has no valid id"))
}

fn memberships(group: &[u8], user: &str) -> Vec<u32> {
    let member = |fields: &Vec<&[u8]>| {
        fields.get(3).is_some_and(|users| users.split(|b| *b == b',').any(|name| name == user.as_bytes()))
    };
    let gids = records(group).filter(member).filter_map(|fields| id(fields[2]));
    gids.take(GROUPS_MAX).collect()
}

/// Parses a number, which must be a valid id. Returns `None` for a name.
fn numeric(text: &str) -> Result<Option<u32>, String> {
    if text.is_empty() {
        return Err("an empty user or group".into());
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    id(text.as_bytes()).map(Some).ok_or_else(|| format!("{text} is not a valid id"))
}

fn id(field: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(field).ok()?;
    let id = text.parse().ok()?;
    (id != NO_ID && !text.starts_with('+')).then_some(id)
}

/// Returns the lines that have a name, split into fields.
fn records(content: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let lines = content.split(|b| *b == b'\n');
    lines.map(|line| line.split(|b| *b == b':').collect()).filter(|fields: &Vec<&[u8]>| !fields[0].is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\n:x:5:5\nbad:x:no:1::/:\nhalf:x:7\n\
        big:x:4294967295:0::/:\nweb:x:33:34:,,,:/var/www:/bin/sh\nnohome:x:40:40::\n1000:x:50:50::/named:\n";
    const GROUP: &[u8] = b"root:x:0:\nwww:x:34:\nlog:x:35:web,root\naudio:x:36:webber,web\nbroken:x:no:web\n";

    #[test]
    fn users_are_parsed_by_number_and_name() {
        let plain = |uid, gid| Ok(Who { uid, gid, additional_gids: None });
        let named =
            |uid, gid, more: &[u32]| Ok(Who { uid, gid: Some(gid), additional_gids: Some(more.to_vec()) });
        let wrong = |text: &str| Err(text.to_string());
        for (text, expected) in [
            ("0", plain(0, None)),
            ("1000", plain(1000, None)),
            ("1000:34", plain(1000, Some(34))),
            ("1000:www", plain(1000, Some(34))),
            ("web", named(33, 34, &[35, 36])),
            ("web:log", named(33, 35, &[])),
            ("root", named(0, 0, &[35])),
            ("", wrong("an empty user or group")),
            ("web:", wrong("an empty user or group")),
            ("4294967295", wrong("4294967295 is not a valid id")),
            ("4294967296", wrong("4294967296 is not a valid id")),
            ("99999999999999999999", wrong("99999999999999999999 is not a valid id")),
            ("-1", wrong("no user \"-1\" in the container's passwd file")),
            ("nobody", wrong("no user \"nobody\" in the container's passwd file")),
            ("web:none", wrong("no group \"none\" in the container's group file")),
            ("web:broken", wrong("group \"broken\" of the container's group file has no valid id")),
            ("half", wrong("user \"half\" of the container's passwd file has no valid ids")),
            ("big", wrong("user \"big\" of the container's passwd file has no valid ids")),
        ] {
            assert_eq!(who(text, PASSWD, GROUP), expected, "{text:?}");
        }
        for (text, expected) in [
            ("0", false),
            ("5:6", false),
            ("", false),
            ("a", true),
            ("5:a", true),
            ("a:5", true),
            ("-1", true),
        ] {
            assert_eq!(names(text), expected, "{text:?}");
        }
        let large = vec![b'x'; CONTENT_MAX + 1];
        assert!(who("web", &large, GROUP).is_err());
    }

    #[test]
    fn user_names_come_from_passwd() {
        for (uid, expected) in
            [(0, Some("root")), (33, Some("web")), (50, Some("1000")), (5, None), (99, None)]
        {
            assert_eq!(name(PASSWD, uid).as_deref(), expected, "{uid}");
        }
    }

    #[test]
    fn home_directories_come_from_passwd() {
        for (uid, expected) in [
            (0, Some("/root")),
            (33, Some("/var/www")),
            (40, None),
            (7, None),
            (99, None),
            (50, Some("/named")),
        ] {
            assert_eq!(home(PASSWD, uid), expected.map(PathBuf::from), "{uid}");
        }
    }
}
