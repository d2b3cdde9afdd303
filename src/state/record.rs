//! The facts in state.json, the status that is derived from them, and the documents that show it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::end::End;
use crate::SPEC_VERSION;
use crate::cgroups::CgroupRecord;
use crate::intel_rdt::ClassRecord;
use crate::process::users;
use crate::procstat::Stat;

/// The user who created the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub uid: u32,
    pub name: String,
}

/// The facts about a container. They do not change with what the container does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub id: String,
    /// Absolute, as `rootfs`.
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// The bundle's version, on which some rules depend.
    pub oci_version: String,
    pub pid: Option<i32>,
    /// In the kernel's ticks after boot.
    pub start_time: Option<u64>,
    pub boot_id: String,
    /// The id of the mount that was at `rootfs` before. It is set if the container's root is mounted over it
    /// in the host's namespace, and must be removed with the container.
    #[serde(default)]
    pub under_root: Option<u64>,
    /// The id of the mount that is the root of the container's first process, if it can be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_mount: Option<u64>,
    pub cgroup: Option<CgroupRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<ClassRecord>,
    /// The container's processes, also those of `exec`, keep their caller's session keyring.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub callers_keyring: bool,
    /// The name of the session keyring; empty in the record of an older version.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub keyring: String,
    /// The processes were restored. They have executed no program since their clone, but run all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restored: bool,
    /// The types of the namespaces that are not the host's.
    pub namespaces: Vec<String>,
    /// The pid namespace is one that was joined.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub joined_pids: bool,
    pub owner: Owner,
    /// RFC 3339.
    pub created: String,
    /// `create` has finished.
    pub created_done: bool,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// How the container ended, if a command that knew it has waited for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<End>,
    /// The saved configuration has poststart hooks or a seccomp listener, or has no process. Otherwise
    /// `start` need not read it.
    #[serde(default)]
    pub start_reads_config: bool,
    /// The saved configuration has poststop hooks. Otherwise `delete` need not read it.
    #[serde(default)]
    pub delete_reads_config: bool,
}

impl Record {
    /// Returns the name of the session keyring to join, unless the container's processes keep their caller's.
    #[must_use]
    pub fn session_keyring(&self) -> Option<String> {
        let old = || format!("_ses.{}", self.id);
        let name = Some(&self.keyring).filter(|name| !name.is_empty()).cloned();
        (!self.callers_keyring).then(|| name.unwrap_or_else(old))
    }

    /// Returns whether the container's first process, as `stat` shows it, waits for `start`.
    #[must_use]
    pub(crate) fn waits_for_start(&self, stat: &Stat) -> bool {
        stat.before_exec() && !self.restored
    }

    /// Returns whether the container's first process is not the first of its pid namespace. Then the others can
    /// outlive it.
    #[must_use]
    pub fn shares_pids(&self) -> bool {
        self.joined_pids || !self.namespaces.iter().any(|name| name == "pid")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// Returns the word of the specification (runtime.md#state), or `paused`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Derives the status of a container from its process, which is `None` if it has ended. `being_created` means
/// that `create` still runs.
pub(super) fn derive(record: &Record, stat: Option<&Stat>, being_created: bool) -> Status {
    match stat {
        Some(_) if !record.created_done => Status::Creating,
        Some(stat) if record.waits_for_start(stat) => Status::Created,
        Some(_) => Status::Running,
        None if record.pid.is_none() && being_created => Status::Creating,
        None => Status::Stopped,
    }
}

/// The document that `state` and `list` print, with runc's members in runc's order, and a further one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document<'a> {
    pub oci_version: &'static str,
    pub id: &'a str,
    /// 0 when stopped.
    pub pid: i32,
    pub status: &'static str,
    pub bundle: &'a PathBuf,
    pub rootfs: &'a PathBuf,
    pub created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
    pub owner: &'a str,
    /// Only when stopped, and if something is known of the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<&'a End>,
}

#[must_use]
pub fn document(record: &Record, status: Status) -> Document<'_> {
    Document {
        oci_version: SPEC_VERSION,
        id: &record.id,
        pid: if status == Status::Stopped { 0 } else { record.pid.unwrap_or(0) },
        status: status.word(),
        bundle: &record.bundle,
        rootfs: &record.rootfs,
        created: &record.created,
        annotations: &record.annotations,
        owner: &record.owner.name,
        exit: record.exit.as_ref().filter(|_| status == Status::Stopped),
    }
}

/// Returns the state that hooks read on stdin (runtime.md#state). `pid` is the process id in the hook's pid
/// namespace.
#[must_use]
pub fn spec_state(record: &Record, status: Status, pid: Option<i32>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct State<'a> {
        oci_version: &'static str,
        id: &'a str,
        status: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        bundle: std::borrow::Cow<'a, str>,
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: &'a BTreeMap<String, String>,
    }
    let state = State {
        oci_version: SPEC_VERSION,
        id: &record.id,
        status: status.word(),
        pid,
        bundle: record.bundle.to_string_lossy(),
        annotations: &record.annotations,
    };
    // Strings and numbers can always be serialised.
    serde_json::to_string(&state).unwrap_or_default()
}

/// Returns the name of `uid` in the host's /etc/passwd, or the number if it has no name there.
#[must_use]
pub(crate) fn owner(uid: u32) -> Owner {
    let name = match uid {
        0 => Some("root".to_string()),
        _ => users::name(&std::fs::read("/etc/passwd").unwrap_or_default(), uid),
    };
    Owner { uid, name: name.unwrap_or_else(|| uid.to_string()) }
}
