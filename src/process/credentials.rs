//! The credentials of the container process: user, groups, capabilities. create, run and exec share one
//! function.
//!
//! The kernel's rules determine the order. Dropping from the bounding set requires CAP_SETPCAP; setgroups and
//! setresgid require CAP_SETGID. setresuid to a user other than root clears the effective set, which the
//! "keep capabilities" flag allows to set again. An ambient capability must be permitted and inheritable when
//! it is raised.
//!
//! Afterwards `/proc/self/status` is read and compared with the plan, because a missing call must not remain
//! unnoticed. (youki never called setgroups for an empty list.)

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use anyhow::{anyhow, bail};

use super::capabilities::{self, Sets};
use crate::error::{Context, Notes, Result};
use crate::sys::{credentials as sys, fs, task};
use crate::trace;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// The process keeps the supplementary groups of the caller ([`KEEP_GROUPS`]).
    pub keep_groups: bool,
    /// `None` keeps the caller's umask.
    pub umask: Option<u32>,
}

/// crun's annotation with which the container's processes keep the supplementary groups of the runtime's
/// caller. In a user namespace these may be unmapped and could not be set.
pub(crate) const KEEP_GROUPS: &str = "run.oci.keep_original_groups";

/// Returns whether the annotation is present. Its value must be "1".
pub(crate) fn keep_groups(annotations: Option<&HashMap<String, String>>, notes: &mut Notes) -> bool {
    let value = annotations.and_then(|annotations| annotations.get(KEEP_GROUPS));
    if let Some(value) = value.filter(|value| *value != "1") {
        notes.problem(format_args!("annotations[{KEEP_GROUPS:?}]"), format_args!("{value:?} is not \"1\""));
    }
    value.is_some()
}

/// The treatment of the supplementary groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// They are set, even to an empty list: the caller's groups must not leak into the container.
    Set,
    /// `/proc/self/setgroups` contains `deny`, as in a user namespace that an unprivileged user has created.
    /// Then the kernel lets no process change them (CVE-2014-8989), and the container keeps the caller's
    /// groups.
    Denied,
    /// The annotation [`KEEP_GROUPS`] keeps the caller's groups.
    Kept,
}

impl Groups {
    /// Finds out the treatment for the calling process. Only a user namespace can deny setgroups.
    pub fn probe(user: &User, user_namespace: bool, proc: BorrowedFd) -> Result<Self> {
        if user.keep_groups {
            return Ok(Self::Kept);
        }
        if !user_namespace {
            return Ok(Self::Set);
        }
        let text = fs::read_whole(sys::open_self(proc, "setgroups", fs::O_RDONLY)?, 64)?;
        Ok(if text.trim_ascii() == b"deny" { Self::Denied } else { Self::Set })
    }
}

/// Drops what `sets` lacks from the bounding set, which requires CAP_SETPCAP. Returns the status before. `proc`
/// is the root of a procfs that shows this process.
pub fn prepare(sets: &Sets, proc: BorrowedFd) -> Result<Status> {
    let before = Status::read(proc)?;
    let unwanted = before.bounding & !sets.bounding;
    for number in (0..64).filter(|n| unwanted >> n & 1 == 1) {
        sys::drop_bounding(number).context("process.capabilities.bounding")?;
    }
    Ok(before)
}

/// Becomes `user` with the capabilities `sets`, and compares the result with what the kernel reports.
/// `before` is the result of [`prepare`], and `proc` the root of a procfs that shows this process.
///
/// `no_new_privs` comes first, because it has no effect before execve and is then read back with the rest.
///
/// `privileged` runs at the last moment at which the effective set equals the permitted set: to load a
/// seccomp filter without no_new_privs requires CAP_SYS_ADMIN. After it only prctl, capset and capget are
/// called, so the profile must not allow anything else.
pub fn apply(
    user: &User,
    sets: &Sets,
    groups: Groups,
    no_new_privs: bool,
    before: &Status,
    proc: BorrowedFd,
    privileged: Option<impl FnOnce() -> Result<()>>,
) -> Result<()> {
    let _phase = trace::phase_of("credentials", || {
        let (uid, gid, effective, bounding) = (user.uid, user.gid, sets.effective, sets.bounding);
        let no_new_privs = if no_new_privs { ", no new privileges" } else { "" };
        format!("of user {uid}:{gid}, capabilities {effective:#x} of {bounding:#x}{no_new_privs}")
    });
    if groups == Groups::Denied && !user.additional_gids.is_empty() {
        bail!("process.user.additionalGids: setgroups is denied in this user namespace");
    }
    if no_new_privs {
        task::set_no_new_privs().context("process.noNewPrivileges")?;
    }
    if let Some(mask) = user.umask {
        sys::umask(mask);
    }
    if !identity(before, user, &Sets { bounding: before.bounding, ..*sets }, groups).is_empty() {
        change_user(user, groups).context("process.user")?;
    }
    let differences = match privileged {
        None => {
            change_sets(sets, before).context("process.capabilities")?;
            let now = Status::read(proc)?;
            [marks(&now, user, no_new_privs), identity(&now, user, sets, groups), others(&now, sets)].concat()
        }
        Some(privileged) => {
            let now = Status::read(proc)?;
            if user.uid != 0 {
                sys::capset(before.permitted, before.permitted, before.inheritable)
                    .context("process.capabilities")?;
            }
            privileged()?;
            change_sets(sets, before).context("process.capabilities")?;
            let (effective, permitted, inheritable) = sys::capget().context("process.capabilities")?;
            let ambient = ambient(sets.ambient).context("process.capabilities.ambient")?;
            // There are no other ambient capabilities: all were cleared.
            let held = Status { effective, permitted, inheritable, ambient, ..Status::default() };
            [marks(&now, user, no_new_privs), identity(&now, user, sets, groups), others(&held, sets)]
                .concat()
        }
    };
    if differences.is_empty() { Ok(()) } else { Err(anyhow!("credentials: {}", differences.join(", "))) }
}

fn change_user(user: &User, groups: Groups) -> Result<()> {
    // Only a change from root to another user clears capabilities.
    let keep = user.uid != 0;
    if keep {
        sys::keep_capabilities()?;
    }
    if groups == Groups::Set {
        sys::setgroups(&user.additional_gids)?;
    }
    task::setresgid(user.gid)?;
    task::setresuid(user.uid)?;
    // The kernel has reset this to fs.suid_dumpable (kernel/cred.c). While this process has more capabilities
    // than the container, none of the container's processes can trace it. Later only this flag stops those of
    // the same user.
    task::set_undumpable()?;
    if keep {
        sys::clear_keep_capabilities()?;
    }
    Ok(())
}

fn change_sets(sets: &Sets, before: &Status) -> Result<()> {
    if before.ambient != 0 {
        sys::clear_ambient()?;
    }
    sys::capset(sets.effective, sets.permitted, sets.inheritable)?;
    for capability in capabilities::members(sets.ambient) {
        sys::raise_ambient(capability)?;
    }
    Ok(())
}

/// Returns the capabilities of a mask that are ambient.
fn ambient(mask: u64) -> Result<u64> {
    capabilities::members(mask).into_iter().try_fold(0, |found, capability| {
        Ok(if sys::is_ambient(capability)? { found | capability.bitmask() } else { found })
    })
}

/// The credentials in `/proc/PID/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Real, effective, saved, file system.
    pub uids: [u32; 4],
    pub gids: [u32; 4],
    pub groups: Vec<u32>,
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
    pub umask: u32,
    pub no_new_privs: bool,
    /// The ignored signals. Bit 0 is signal 1.
    pub ignored: u64,
    /// The number of pid namespaces in which the process has an id, beginning with that of the procfs.
    pub pid_namespaces: usize,
}

impl Status {
    /// Reads the status of the calling process.
    pub fn read(proc: BorrowedFd) -> Result<Self> {
        // The longest line has 65,536 groups of up to ten digits.
        let text = fs::read_whole(sys::open_self(proc, "status", fs::O_RDONLY)?, 1 << 20)?;
        Self::parse(&String::from_utf8_lossy(&text)).context("/proc/self/status: not understood")
    }

    /// Parses the text of a `status` file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let numbers = |name| -> Option<Vec<u32>> {
            field(name)?.split_ascii_whitespace().map(|n| n.parse().ok()).collect()
        };
        let mask = |name| u64::from_str_radix(field(name)?.trim(), 16).ok();
        Some(Self {
            uids: numbers("Uid")?.try_into().ok()?,
            gids: numbers("Gid")?.try_into().ok()?,
            groups: numbers("Groups")?,
            inheritable: mask("CapInh")?,
            permitted: mask("CapPrm")?,
            effective: mask("CapEff")?,
            bounding: mask("CapBnd")?,
            ambient: mask("CapAmb")?,
            umask: u32::from_str_radix(field("Umask")?.trim(), 8).ok()?,
            no_new_privs: field("NoNewPrivs")?.trim() != "0",
            ignored: mask("SigIgn")?,
            // A kernel without pid namespaces does not write this line.
            pid_namespaces: field("NSpid").map_or(1, |ids| ids.split_ascii_whitespace().count()),
        })
    }
}

/// Returns the differences from the plan in the umask and in no_new_privs. If the caller has no_new_privs, it
/// cannot be unset.
fn marks(now: &Status, user: &User, no_new_privs: bool) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(wanted) = user.umask.filter(|wanted| *wanted != now.umask) {
        found.push(format!("the umask is {:#o} instead of {wanted:#o}", now.umask));
    }
    if no_new_privs && !now.no_new_privs {
        found.push("no_new_privs is not set".into());
    }
    found
}

/// Returns the differences from the plan in the user, the groups and the bounding set.
fn identity(now: &Status, user: &User, sets: &Sets, groups: Groups) -> Vec<String> {
    let mut found = Vec::new();
    for (name, ids, wanted) in [("uid", now.uids, user.uid), ("gid", now.gids, user.gid)] {
        if ids != [wanted; 4] {
            found.push(format!("{name} is {ids:?} instead of {wanted}"));
        }
    }
    let sorted = |ids: &[u32]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    let wanted = sorted(&user.additional_gids);
    if groups == Groups::Set && sorted(&now.groups) != wanted {
        found.push(format!("groups are {:?} instead of {wanted:?}", now.groups));
    }
    found.extend(set_difference("bounding", now.bounding, sets.bounding));
    found
}

/// Returns the differences from the plan in the other sets.
fn others(now: &Status, sets: &Sets) -> Vec<String> {
    [
        ("effective", now.effective, sets.effective),
        ("permitted", now.permitted, sets.permitted),
        ("inheritable", now.inheritable, sets.inheritable),
        ("ambient", now.ambient, sets.ambient),
    ]
    .into_iter()
    .filter_map(|(name, is, wanted)| set_difference(name, is, wanted))
    .collect()
}

fn set_difference(name: &str, is: u64, wanted: u64) -> Option<String> {
    (is != wanted).then(|| format!("the {name} set is {is:#x} instead of {wanted:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Name:\tx\nUmask:\t0022\nUid:\t1\t1\t1\t1\nGid:\t2\t2\t2\t2\nGroups:\t4 3 \nSigIgn:\t0000000000001000\nCapInh:\t0000000000000001\n\
        CapPrm:\t0000000000000003\nCapEff:\t0000000000000002\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000001\nNoNewPrivs:\t1\n";

    fn status() -> Status {
        Status::parse(TEXT).unwrap()
    }

    #[test]
    fn status_is_parsed_or_refused() {
        let expected = Status {
            uids: [1; 4],
            gids: [2; 4],
            groups: vec![4, 3],
            inheritable: 1,
            permitted: 3,
            effective: 2,
            bounding: 0x1ff_ffff_ffff,
            ambient: 1,
            umask: 0o22,
            no_new_privs: true,
            ignored: 1 << 12,
            pid_namespaces: 1,
        };
        assert_eq!(status(), expected);
        assert!(Status::parse(&TEXT.replace("4 3", "")).unwrap().groups.is_empty());
        for broken in [
            "",
            &TEXT.replace("CapAmb", "CapXxx"),
            &TEXT.replace("NoNewPrivs", "Other"),
            &TEXT.replace("0022", "0029"),
            &TEXT.replace("1\t1\t1\t1", "1\t1\t1"),
            &TEXT.replace("4 3", "4 x"),
        ] {
            assert_eq!(Status::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn every_difference_from_the_plan_is_reported() {
        let user =
            User { uid: 1, gid: 2, additional_gids: vec![3, 4], keep_groups: false, umask: Some(0o22) };
        let sets = Sets { bounding: 0x1ff_ffff_ffff, effective: 2, permitted: 3, inheritable: 1, ambient: 1 };
        let differences = |now: &Status, user: &User, sets: &Sets, groups| {
            [marks(now, user, true), identity(now, user, sets, groups), others(now, sets)].concat()
        };
        assert_eq!(differences(&status(), &user, &sets, Groups::Set), [""; 0]);
        let rows = [
            (Status { uids: [1, 1, 1, 0], ..status() }, "uid is [1, 1, 1, 0] instead of 1"),
            (Status { gids: [2, 0, 2, 2], ..status() }, "gid is [2, 0, 2, 2] instead of 2"),
            (Status { groups: vec![0, 3, 4], ..status() }, "groups are [0, 3, 4] instead of [3, 4]"),
            (Status { bounding: 0, ..status() }, "the bounding set is 0x0 instead of 0x1ffffffffff"),
            (Status { effective: 3, ..status() }, "the effective set is 0x3 instead of 0x2"),
            (Status { permitted: 7, ..status() }, "the permitted set is 0x7 instead of 0x3"),
            (Status { inheritable: 0, ..status() }, "the inheritable set is 0x0 instead of 0x1"),
            (Status { umask: 0, ..status() }, "the umask is 0o0 instead of 0o22"),
            (Status { no_new_privs: false, ..status() }, "no_new_privs is not set"),
            (Status { ambient: 0, ..status() }, "the ambient set is 0x0 instead of 0x1"),
        ];
        for (now, expected) in rows {
            assert_eq!(differences(&now, &user, &sets, Groups::Set), [expected]);
        }
        let without = Status { no_new_privs: false, umask: 0, ..status() };
        assert_eq!(marks(&without, &User { umask: None, ..user.clone() }, false), [""; 0]);
        let foreign = Status { groups: vec![9], ..status() };
        let alone = User { additional_gids: vec![], ..user };
        for groups in [Groups::Denied, Groups::Kept] {
            assert_eq!(differences(&foreign, &alone, &sets, groups), [""; 0]);
        }
    }
}
