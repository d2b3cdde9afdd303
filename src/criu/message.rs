//! The messages of CRIU's RPC, in the encoding of protocol buffers. The names and numbers are those of CRIU's
//! `images/rpc.proto`. Members that corten neither sends nor reads are left out; a decoder skips them.

use prost::Message;

/// What a request asks for, and what an answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Type {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// What CRIU does with cgroups: their properties, and those of processes in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CgroupsMode {
    /// It leaves them alone.
    Ignore = 0,
    /// It restores the properties of the cgroups that it has to make.
    Soft = 3,
    /// It restores the properties of all.
    Full = 4,
    /// It fails if one exists.
    Strict = 5,
}

/// How CRIU keeps the packets of TCP connections away while it saves them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum NetworkLock {
    Iptables = 1,
    Nftables = 2,
    Skip = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct PageServer {
    #[prost(string, optional, tag = "1")]
    pub address: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub port: Option<i32>,
}

/// A mount whose content is not in the images. In a dump `key` is its mount point and `value` its name; in a restore `key` is
/// that name and `value` the path of what is mounted.
#[derive(Clone, PartialEq, Message)]
pub struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub key: String,
    #[prost(string, required, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CgroupRoot {
    /// The controller; empty for v2.
    #[prost(string, optional, tag = "1")]
    pub controller: Option<String>,
    #[prost(string, required, tag = "2")]
    pub path: String,
}

/// A descriptor of the CRIU process that replaces a file of the images.
#[derive(Clone, PartialEq, Message)]
pub struct InheritFd {
    #[prost(string, required, tag = "1")]
    pub key: String,
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// A namespace that the restored processes join instead of a new one.
#[derive(Clone, PartialEq, Message)]
pub struct JoinNamespace {
    #[prost(string, required, tag = "1")]
    pub kind: String,
    #[prost(string, required, tag = "2")]
    pub path: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Options {
    /// Numbers of descriptors of the process that has made the socket.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// Device nodes that are gone may have become others of the same number.
    #[prost(bool, optional, tag = "6")]
    pub evasive_devices: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub shell_job: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    pub page_server: Option<PageServer>,
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    #[prost(string, optional, tag = "14")]
    pub parent_img: Option<String>,
    #[prost(bool, optional, tag = "15")]
    pub track_mem: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub auto_dedup: Option<bool>,
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    #[prost(message, repeated, tag = "23")]
    pub external_mounts: Vec<ExternalMount>,
    #[prost(bool, optional, tag = "24")]
    pub manage_cgroups: Option<bool>,
    #[prost(message, repeated, tag = "25")]
    pub cgroup_roots: Vec<CgroupRoot>,
    /// The restored process becomes a child of the caller instead of CRIU.
    #[prost(bool, optional, tag = "26")]
    pub restore_sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// Mounts may be slaves of others that are not in the images.
    #[prost(bool, optional, tag = "30")]
    pub external_masters: Option<bool>,
    #[prost(enumeration = "CgroupsMode", optional, tag = "34")]
    pub cgroups_mode: Option<i32>,
    /// Names of external resources, such as `net[INODE]:NAME`.
    #[prost(string, repeated, tag = "37")]
    pub external: Vec<String>,
    /// `CLONE_NEW*` of namespaces whose content is not in the images.
    #[prost(uint32, optional, tag = "38")]
    pub empty_ns: Option<u32>,
    #[prost(message, repeated, tag = "39")]
    pub join_ns: Vec<JoinNamespace>,
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    #[prost(bool, optional, tag = "46")]
    pub tcp_skip_in_flight: Option<bool>,
    #[prost(bool, optional, tag = "48")]
    pub lazy_pages: Option<bool>,
    #[prost(int32, optional, tag = "49")]
    pub status_fd: Option<i32>,
    /// CRIU sends the master of the terminal whose slave the processes have.
    #[prost(bool, optional, tag = "50")]
    pub orphan_pts_master: Option<bool>,
    #[prost(string, optional, tag = "51")]
    pub config_file: Option<String>,
    #[prost(bool, optional, tag = "52")]
    pub tcp_close: Option<bool>,
    #[prost(string, optional, tag = "53")]
    pub lsm_profile: Option<String>,
    /// A directory with the hierarchies of cgroups. CRIU mounts them itself if there is none.
    #[prost(string, optional, tag = "60")]
    pub cgroup_yard: Option<String>,
    #[prost(string, optional, tag = "63")]
    pub lsm_mount_context: Option<String>,
    #[prost(enumeration = "NetworkLock", optional, tag = "64")]
    pub network_lock: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Features {
    #[prost(bool, optional, tag = "1")]
    pub mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Request {
    #[prost(enumeration = "Type", required, tag = "1")]
    pub kind: i32,
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
    /// Another request follows.
    #[prost(bool, optional, tag = "4")]
    pub keep_open: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Restored {
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Notify {
    /// The name of the step.
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Version {
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    #[prost(int32, optional, tag = "4")]
    pub sublevel: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Response {
    #[prost(enumeration = "Type", required, tag = "1")]
    pub kind: i32,
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    #[prost(message, optional, tag = "4")]
    pub restore: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub features: Option<Features>,
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
}

impl Request {
    pub(crate) fn of(kind: Type, options: Option<Options>) -> Self {
        Self { kind: kind.into(), options, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The requests were recorded from runc 1.1.15 with CRIU 4.1.1. Every member of them must be known, or it would be lost.
    #[test]
    fn requests_of_runc_are_understood_to_the_byte() {
        let recorded: [&[u8]; 2] = [
            include_bytes!("../../tests/criu/runc-checkpoint.request"),
            include_bytes!("../../tests/criu/runc-restore.request"),
        ];
        let decoded = recorded.map(|bytes| Request::decode(bytes).unwrap());
        for (bytes, request) in recorded.into_iter().zip(&decoded) {
            assert_eq!(request.encode_to_vec(), bytes);
        }
        let [dump, restore] = decoded;
        assert_eq!((dump.kind(), restore.kind()), (Type::Dump, Type::Restore));
        let dump = dump.options.unwrap();
        assert_eq!(dump.log_file.as_deref(), Some("dump.log"));
        assert_eq!(dump.empty_ns, Some(libc::CLONE_NEWNET as u32));
        assert!(
            dump.external_mounts.iter().any(|mount| mount.key == "/proc/kcore" && mount.value == "/dev/null")
        );
        let restore = restore.options.unwrap();
        assert_eq!(restore.restore_sibling, Some(true));
        assert_eq!(restore.inherit_fd[0], InheritFd { key: "pipe:[2565]".into(), fd: 1 });
    }

    #[test]
    fn half_a_message_is_an_error() {
        let whole = Request::of(Type::Version, None).encode_to_vec();
        assert!(Request::decode(&whole[..1]).is_err());
        assert!(Response::decode(&b"\x08\x02\x10\x01\x22\x7f"[..]).is_err());
    }
}
