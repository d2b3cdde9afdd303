//! The table of mount options (config.md#linux-mount-options): a new option is one row.

use crate::sys::mount::{
    Attr, MOUNT_ATTR_ATIME_MASK, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_STRICTATIME,
    MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

/// What an option means.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    /// No effect, or the default.
    Default,
    /// An attribute of the mount, and the superblock's flag of the same name.
    Set(u64),
    Clear(u64),
    /// One of the access-time modes, which exclude each other.
    Atime(u64),
    /// Cancels `strictatime`.
    NotStrict,
    /// The same for all mounts below too.
    SetAll(u64),
    ClearAll(u64),
    AtimeAll(u64),
    NotStrictAll,
    /// A flag of the superblock, with its name for fsconfig(2).
    Super(&'static str),
    SuperOff(&'static str),
    /// A flag that only mount(2) takes.
    Legacy(u64),
    LegacyOff(u64),
    Propagation(u64, bool),
    Bind(bool),
    Remount,
    CopyUp,
    IdMap(bool),
    CopyLink,
    KeepSource,
    KeepTarget,
}

use Meaning::{
    Atime, AtimeAll, Bind, Clear, ClearAll, CopyLink, CopyUp, Default as Nothing, IdMap, KeepSource,
    KeepTarget, Legacy, LegacyOff, NotStrict, NotStrictAll, Propagation, Remount, Set, SetAll, Super,
    SuperOff,
};

const RELATIME: u64 = 0;

#[rustfmt::skip]
const TABLE: &[(&str, Meaning)] = &[
    ("async", SuperOff("sync")), ("atime", Clear(MOUNT_ATTR_NOATIME)), ("bind", Bind(false)),
    ("copy-symlink", CopyLink),
    ("defaults", Nothing), ("dest-nofollow", KeepTarget), ("dev", Clear(MOUNT_ATTR_NODEV)), ("diratime", Clear(MOUNT_ATTR_NODIRATIME)),
    ("dirsync", Super("dirsync")), ("exec", Clear(MOUNT_ATTR_NOEXEC)), ("idmap", IdMap(false)),
    ("iversion", Legacy(libc::MS_I_VERSION)), ("lazytime", Super("lazytime")), ("loud", LegacyOff(libc::MS_SILENT)),
    ("mand", Super("mand")), ("noatime", Atime(MOUNT_ATTR_NOATIME)), ("nodev", Set(MOUNT_ATTR_NODEV)),
    ("nodiratime", Set(MOUNT_ATTR_NODIRATIME)), ("noexec", Set(MOUNT_ATTR_NOEXEC)),
    ("noiversion", LegacyOff(libc::MS_I_VERSION)), ("nolazytime", SuperOff("lazytime")), ("nomand", SuperOff("mand")),
    ("norelatime", Nothing), ("nostrictatime", NotStrict), ("nosuid", Set(MOUNT_ATTR_NOSUID)),
    ("nosymfollow", Set(MOUNT_ATTR_NOSYMFOLLOW)), ("private", Propagation(MS_PRIVATE, false)),
    ("ratime", ClearAll(MOUNT_ATTR_NOATIME)), ("rbind", Bind(true)), ("rdev", ClearAll(MOUNT_ATTR_NODEV)),
    ("rdiratime", ClearAll(MOUNT_ATTR_NODIRATIME)), ("relatime", Atime(RELATIME)), ("remount", Remount),
    ("rexec", ClearAll(MOUNT_ATTR_NOEXEC)), ("ridmap", IdMap(true)), ("rnoatime", AtimeAll(MOUNT_ATTR_NOATIME)),
    ("rnodev", SetAll(MOUNT_ATTR_NODEV)), ("rnodiratime", SetAll(MOUNT_ATTR_NODIRATIME)),
    ("rnoexec", SetAll(MOUNT_ATTR_NOEXEC)), ("rnorelatime", Nothing), ("rnostrictatime", NotStrictAll),
    ("rnosuid", SetAll(MOUNT_ATTR_NOSUID)), ("rnosymfollow", SetAll(MOUNT_ATTR_NOSYMFOLLOW)),
    ("ro", Set(MOUNT_ATTR_RDONLY)), ("rprivate", Propagation(MS_PRIVATE, true)),
    ("rrelatime", AtimeAll(RELATIME)), ("rro", SetAll(MOUNT_ATTR_RDONLY)), ("rrw", ClearAll(MOUNT_ATTR_RDONLY)),
    ("rshared", Propagation(MS_SHARED, true)), ("rslave", Propagation(MS_SLAVE, true)),
    ("rstrictatime", AtimeAll(MOUNT_ATTR_STRICTATIME)), ("rsuid", ClearAll(MOUNT_ATTR_NOSUID)),
    ("rsymfollow", ClearAll(MOUNT_ATTR_NOSYMFOLLOW)), ("runbindable", Propagation(MS_UNBINDABLE, true)),
    ("rw", Clear(MOUNT_ATTR_RDONLY)), ("shared", Propagation(MS_SHARED, false)),
    ("silent", Legacy(libc::MS_SILENT)), ("slave", Propagation(MS_SLAVE, false)), ("src-nofollow", KeepSource),
    ("strictatime", Atime(MOUNT_ATTR_STRICTATIME)), ("suid", Clear(MOUNT_ATTR_NOSUID)),
    ("symfollow", Clear(MOUNT_ATTR_NOSYMFOLLOW)), ("sync", Super("sync")), ("tmpcopyup", CopyUp), ("unbindable", Propagation(MS_UNBINDABLE, false)),
];

/// Returns the options that were written as one string, as in `mount -o ro,nosuid`, for a hint.
#[must_use]
pub(super) fn in_one_string(option: &str) -> Option<String> {
    let known = |part: &str| TABLE.iter().any(|(name, _)| *name == part);
    let several = option.contains(',') && option.split(',').any(known);
    several.then(|| format!("\"{}\"", option.replace(',', "\", \"")))
}

/// Returns the names of all options, for `features`.
#[must_use]
pub(crate) fn names() -> Vec<&'static str> {
    TABLE.iter().map(|(name, _)| *name).collect()
}

/// What happens to a link at the end of a bind mount's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Followed,
    Kept,
    Copied,
}

/// A propagation to set, and whether on all mounts below too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Propagate {
    pub flag: u64,
    pub recursive: bool,
}

/// Returns the propagation of `rootfsPropagation`, whose value is one of the propagation options.
#[must_use]
pub(crate) fn propagation(name: &str) -> Option<Propagate> {
    TABLE.iter().find_map(|(known, meaning)| match meaning {
        Propagation(flag, recursive) if *known == name => {
            Some(Propagate { flag: *flag, recursive: *recursive })
        }
        _ => None,
    })
}

/// The options of a mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// It is a bind mount, recursive or not.
    pub bind: Option<bool>,
    pub remount: bool,
    pub copy_up: bool,
    pub idmap: Option<bool>,
    /// The id mappings that follow `idmap=` or `ridmap=`.
    pub mappings: Option<String>,
    /// If the source is a link, the container gets a link with the same target, instead of a mount.
    pub copy_link: bool,
    /// If the source is a link, the link itself is mounted.
    pub keep_source: bool,
    /// The destination must exist. If it is a link, the mount covers the link itself.
    pub keep_target: bool,
    pub attr: Attr,
    /// For all mounts of the tree.
    pub attr_all: Attr,
    pub propagation: Vec<Propagate>,
    /// Flags of the superblock, by their names for fsconfig(2).
    pub superblock: Vec<&'static str>,
    /// Flags that only mount(2) takes.
    pub legacy: u64,
    /// Options for the file system: `key` or `key=value`.
    pub data: Vec<String>,
}

impl Options {
    /// Returns what happens to a link at the end of the source.
    #[must_use]
    pub fn source_link(&self) -> Link {
        match (self.copy_link, self.keep_source) {
            (true, _) => Link::Copied,
            (false, true) => Link::Kept,
            _ => Link::Followed,
        }
    }

    /// Returns the attributes and the options for the file system. The value of an option is left out if it may be a secret.
    pub(super) fn shown(&self) -> String {
        const NAMES: [(u64, &str); 4] = [
            (MOUNT_ATTR_RDONLY, "ro"),
            (MOUNT_ATTR_NOSUID, "nosuid"),
            (MOUNT_ATTR_NODEV, "nodev"),
            (MOUNT_ATTR_NOEXEC, "noexec"),
        ];
        let attributes = NAMES.iter().filter(|(bit, _)| self.attributes() & bit != 0).map(|(_, name)| *name);
        let data = self.data.iter().map(|option| match option.split_once('=') {
            Some((key, _)) if ["pass", "secret", "cred", "key"].iter().any(|word| key.contains(word)) => key,
            _ => option,
        });
        attributes.chain(self.superblock.iter().copied()).chain(data).collect::<Vec<_>>().join(",")
    }

    /// Returns the attributes of a mount without mounts below.
    #[must_use]
    pub fn attributes(&self) -> u64 {
        self.attr_all.set & !self.attr.clear | self.attr.set
    }
}

/// Parses a list of options. Later options override earlier ones.
#[must_use]
pub(crate) fn parse(list: &[String]) -> Options {
    let mut options = Options::default();
    for option in list {
        let mapped = option.split_once('=').filter(|(name, _)| matches!(*name, "idmap" | "ridmap"));
        let name = mapped.map_or(option.as_str(), |(name, _)| name);
        if let Some((_, mappings)) = mapped {
            options.mappings = Some(mappings.into());
        }
        match TABLE.iter().find(|(known, _)| *known == name) {
            Some((_, meaning)) => add(&mut options, *meaning),
            None if for_userspace(option) => {}
            None => options.data.push(option.clone()),
        }
    }
    options
}

/// Returns whether an option is for mount(8) and fstab(5) only. Engines also send empty options.
fn for_userspace(option: &str) -> bool {
    const NAMES: [&str; 10] =
        ["_netdev", "auto", "group", "noauto", "nofail", "nogroup", "nouser", "owner", "user", "users"];
    const PREFIXES: [&str; 4] = ["x-", "X-", "comment=", "user="];
    option.is_empty() || NAMES.contains(&option) || PREFIXES.iter().any(|prefix| option.starts_with(prefix))
}

/// Returns whether an option belongs to tmpfs (tmpfs(5)).
pub(super) fn is_for_tmpfs(option: &str) -> bool {
    const KEYS: [&str; 6] = ["gid", "mode", "nr_blocks", "nr_inodes", "size", "uid"];
    option.split_once('=').is_some_and(|(key, _)| KEYS.contains(&key))
}

fn add(options: &mut Options, meaning: Meaning) {
    let set = |attr: &mut Attr, bits: u64| {
        attr.set |= bits;
        attr.clear &= !bits;
    };
    let clear = |attr: &mut Attr, bits: u64| {
        attr.clear |= bits;
        attr.set &= !bits;
    };
    // The access-time mode is one field. The kernel requires that all of it is cleared to set another mode.
    let atime = |attr: &mut Attr, mode: u64| {
        attr.set = attr.set & !MOUNT_ATTR_ATIME_MASK | mode;
        attr.clear |= MOUNT_ATTR_ATIME_MASK;
    };
    // An option for all mounts overrides earlier options of this one.
    let forget = |attr: &mut Attr, bits: u64| {
        attr.set &= !bits;
        attr.clear &= !bits;
    };
    // Returns whether another mode than `strictatime` was asked for. `nostrictatime` does not change that.
    let keeps_mode = |attr: &Attr| {
        attr.clear & MOUNT_ATTR_ATIME_MASK != 0 && attr.set & MOUNT_ATTR_ATIME_MASK != MOUNT_ATTR_STRICTATIME
    };
    match meaning {
        Nothing => {}
        NotStrict if keeps_mode(&options.attr) || keeps_mode(&options.attr_all) => {}
        NotStrictAll if keeps_mode(&options.attr_all) => {}
        NotStrict => atime(&mut options.attr, RELATIME),
        Set(bits) => set(&mut options.attr, bits),
        Clear(MOUNT_ATTR_NOATIME) => atime(&mut options.attr, RELATIME),
        Clear(bits) => clear(&mut options.attr, bits),
        Atime(mode) => atime(&mut options.attr, mode),
        SetAll(bits) => {
            forget(&mut options.attr, bits);
            set(&mut options.attr_all, bits);
        }
        ClearAll(MOUNT_ATTR_NOATIME) | NotStrictAll => {
            forget(&mut options.attr, MOUNT_ATTR_ATIME_MASK);
            atime(&mut options.attr_all, RELATIME);
        }
        ClearAll(bits) => {
            forget(&mut options.attr, bits);
            clear(&mut options.attr_all, bits);
        }
        AtimeAll(mode) => {
            forget(&mut options.attr, MOUNT_ATTR_ATIME_MASK);
            atime(&mut options.attr_all, mode);
        }
        Super(name) if options.superblock.contains(&name) => {}
        Super(name) => options.superblock.push(name),
        SuperOff(name) => options.superblock.retain(|set| *set != name),
        Legacy(flag) => options.legacy |= flag,
        LegacyOff(flag) => options.legacy &= !flag,
        Propagation(flag, recursive) => options.propagation.push(Propagate { flag, recursive }),
        Bind(recursive) => options.bind = Some(recursive || options.bind == Some(true)),
        Remount => options.remount = true,
        CopyUp => options.copy_up = true,
        CopyLink => options.copy_link = true,
        KeepSource => options.keep_source = true,
        KeepTarget => options.keep_target = true,
        IdMap(recursive) => options.idmap = Some(recursive || options.idmap == Some(true)),
    }
}

/// Returns the flags of mount(2) for the attributes and superblock flags.
#[must_use]
pub(crate) fn legacy_flags(options: &Options) -> u64 {
    const FLAGS: [(u64, u64); 7] = [
        (MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
        (MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
        (MOUNT_ATTR_NODEV, libc::MS_NODEV),
        (MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
        (MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
        (MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
        (MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
    ];
    const SUPER: [(&str, u64); 4] = [
        ("sync", libc::MS_SYNCHRONOUS),
        ("dirsync", libc::MS_DIRSYNC),
        ("mand", libc::MS_MANDLOCK),
        ("lazytime", 1 << 25),
    ];
    const NOSYMFOLLOW: u64 = 256;
    let set = options.attributes();
    let mut flags = options.legacy;
    flags |= FLAGS.iter().filter(|(attr, _)| set & attr != 0).fold(0, |all, (_, flag)| all | flag);
    flags |= SUPER
        .iter()
        .filter(|(name, _)| options.superblock.contains(name))
        .fold(0, |all, (_, flag)| all | flag);
    if set & MOUNT_ATTR_NOSYMFOLLOW != 0 { flags | NOSYMFOLLOW } else { flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        parse(&text.split(',').map(str::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_table_is_sorted_and_has_no_name_twice() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn options_become_attributes() {
        let attr = |set, clear| Attr { set, clear, propagation: 0 };
        for (text, expected, expected_all) in [
            ("defaults", attr(0, 0), attr(0, 0)),
            ("ro,nosuid", attr(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0), attr(0, 0)),
            ("ro,rw", attr(0, MOUNT_ATTR_RDONLY), attr(0, 0)),
            ("noatime", attr(MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK), attr(0, 0)),
            ("noatime,strictatime", attr(MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME_MASK), attr(0, 0)),
            ("strictatime,nostrictatime", attr(0, MOUNT_ATTR_ATIME_MASK), attr(0, 0)),
            ("noatime,nostrictatime", attr(MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK), attr(0, 0)),
            ("rstrictatime,rnostrictatime", attr(0, 0), attr(0, MOUNT_ATTR_ATIME_MASK)),
            ("noatime,atime", attr(0, MOUNT_ATTR_ATIME_MASK), attr(0, 0)),
            ("rro,rnoexec,nodev", attr(MOUNT_ATTR_NODEV, 0), attr(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, 0)),
            ("nostrictatime", attr(0, MOUNT_ATTR_ATIME_MASK), attr(0, 0)),
            ("rnoatime,nostrictatime", attr(0, 0), attr(MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK)),
            ("ro,nosuid,rrw", attr(MOUNT_ATTR_NOSUID, 0), attr(0, MOUNT_ATTR_RDONLY)),
            ("rro,rw", attr(0, MOUNT_ATTR_RDONLY), attr(MOUNT_ATTR_RDONLY, 0)),
            ("noatime,rstrictatime", attr(0, 0), attr(MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME_MASK)),
            ("rstrictatime", attr(0, 0), attr(MOUNT_ATTR_STRICTATIME, MOUNT_ATTR_ATIME_MASK)),
        ] {
            let options = options(text);
            assert_eq!((options.attr, options.attr_all), (expected, expected_all), "{text}");
            assert!(options.data.is_empty(), "{text}");
        }
    }

    #[test]
    fn unknown_options_are_for_the_file_system_or_ignored() {
        let options =
            options("size=64k,,x-gvfs-hide,mode=755,nofail,hidepid=2,sync,async,iversion,loud,silent");
        assert_eq!(options.data, ["size=64k", "mode=755", "hidepid=2"]);
        assert_eq!(options.superblock, [""; 0]);
        assert_eq!(options.legacy, libc::MS_I_VERSION | libc::MS_SILENT);
    }

    #[test]
    fn several_options_in_one_string_are_noticed() {
        for (option, expected) in [
            ("ro,nosuid", Some("\"ro\", \"nosuid\"")),
            ("size=1m,ro", Some("\"size=1m\", \"ro\"")),
            ("ro", None),
            ("lowerdir=/a,b", None),
        ] {
            assert_eq!(in_one_string(option).as_deref(), expected);
        }
    }

    #[test]
    fn bind_and_propagation() {
        assert_eq!(options("rbind,bind").bind, Some(true));
        let shared = options("bind,rslave,shared");
        assert_eq!(shared.bind, Some(false));
        let expected =
            [Propagate { flag: MS_SLAVE, recursive: true }, Propagate { flag: MS_SHARED, recursive: false }];
        assert_eq!(shared.propagation, expected);
        assert_eq!(propagation("rshared"), Some(Propagate { flag: MS_SHARED, recursive: true }));
        assert_eq!(propagation("rw"), None);
    }

    #[test]
    fn links_and_id_mappings() {
        let given = options("bind,idmap=uids=0-1-10#10-11-10;gids=0-100-10,dest-nofollow,src-nofollow");
        assert_eq!((given.idmap, given.keep_target), (Some(false), true));
        assert_eq!(given.mappings.as_deref(), Some("uids=0-1-10#10-11-10;gids=0-100-10"));
        assert_eq!((given.source_link(), given.data.len()), (Link::Kept, 0));
        let given = options("bind,ridmap=uids=0-1-1,copy-symlink");
        assert_eq!((given.idmap, given.source_link(), given.keep_target), (Some(true), Link::Copied, false));
        assert_eq!(options("bind").source_link(), Link::Followed);
        // An option of a file system whose name only begins in the same way.
        assert_eq!(options("idmapped=on").data, ["idmapped=on"]);
    }
}
