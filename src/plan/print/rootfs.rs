//! The root file system: a line for each mount, device node and hidden path.

use super::text::{Text, flags, id_map, joined, path_word, word};
use crate::cgroups::View;
use crate::rootfs::options::{Options, Propagate};
use crate::rootfs::{Device, Facts, IdMapping, Kind, Mount, MountNamespace, Plan};
use crate::sys::mount::{
    Attr, MOUNT_ATTR_ATIME_MASK, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME, MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE,
};

pub(super) fn print(text: &mut Text, plan: &Plan) {
    let Plan {
        path,
        readonly,
        propagation,
        mounts,
        devices,
        default_devices,
        masked,
        readonly_paths,
        cwd,
        facts,
    } = plan;
    text.section("root");
    text.line(path_word(path));
    text.line_if(*readonly, "read-only");
    if let Some(propagation) = propagation {
        text.line(format_args!("propagation {}", propagate(propagation)));
    }
    if let Some(cwd) = cwd {
        text.line(format_args!("working directory {}", path_word(cwd)));
    }
    print_facts(text, facts);
    text.section("mounts");
    mounts.iter().for_each(|mount| print_mount(text, mount));
    text.section("devices");
    text.line_if(*default_devices, "default devices and links in /dev");
    devices.iter().for_each(|device| print_device(text, device));
    for (name, paths) in [("masked paths", masked), ("read-only paths", readonly_paths)] {
        text.section(name);
        paths.iter().for_each(|path| text.line(path_word(path)));
    }
}

fn print_facts(text: &mut Text, facts: &Facts) {
    let Facts {
        mount_namespace,
        user_namespace,
        network_namespace,
        makes_nodes,
        cgroup_namespace,
        no_pivot,
        cgroup,
        cgroup_mount,
        cgroup_views,
        notify_socket,
        mount_label,
    } = facts;
    text.line(match mount_namespace {
        MountNamespace::New => "in a new mount namespace",
        MountNamespace::Joined => "in a joined mount namespace",
        MountNamespace::Host => "in the mount namespace of the host",
    });
    text.line_if(*user_namespace, "in a user namespace");
    text.line_if(*network_namespace, "in a new network namespace");
    text.line_if(*makes_nodes, "with device nodes that the runtime makes");
    text.line_if(*cgroup_namespace, "in a new cgroup namespace");
    text.line_if(*no_pivot, "moved to /, instead of pivot_root");
    let paths = [
        ("cgroup", cgroup),
        ("cgroup file system", cgroup_mount),
        ("notification socket on the host", notify_socket),
    ];
    for (name, path) in paths {
        if let Some(path) = path {
            text.line(format_args!("{name} {}", path_word(path)));
        }
    }
    for View { name, links, dir, optional, otherwise } in cgroup_views {
        let links = joined(links.iter().map(|link| word(link.as_bytes())), " ");
        let optional = if *optional { " if it exists" } else { "" };
        let otherwise = otherwise.as_deref().map(|dir| format!(" or {}", path_word(dir)));
        let (name, dir) = (word(name.as_bytes()), path_word(dir));
        text.line(format_args!("view {name} {dir}{optional}{}: {links}", otherwise.unwrap_or_default()));
    }
    if let Some(label) = mount_label {
        text.line(format_args!("label {}", word(label.as_bytes())));
    }
}

fn print_mount(text: &mut Text, mount: &Mount) {
    let Mount { place, destination, kind, options } = mount;
    // What the kind says in these words need not be said again by the options.
    let mut kind_words = Vec::new();
    let kind = match kind {
        Kind::Bind { source, recursive, idmap } => {
            kind_words.push(bind_word(*recursive));
            let idmap = idmap.as_ref().map(|IdMapping { uid_map, gid_map, recursive }| {
                kind_words.push(idmap_word(*recursive));
                let word = idmap_word(*recursive);
                if uid_map.is_empty() && gid_map.is_empty() {
                    return format!(" {word} as in the joined user namespace");
                }
                format!(" {word} (uid {}) (gid {})", id_map(uid_map), id_map(gid_map))
            });
            format!("{} {}{}", bind_word(*recursive), path_word(source), idmap.unwrap_or_default())
        }
        Kind::New { fstype, source } => {
            let source = source.as_ref().map(|source| format!(" {}", word(source.as_bytes())));
            format!("new {}{}", word(fstype.as_bytes()), source.unwrap_or_default())
        }
        Kind::Cgroup => "cgroup".into(),
        Kind::Remount => {
            kind_words.push("remount");
            "remount".into()
        }
    };
    let options = print_options(options, &kind_words);
    text.line(format_args!("{} {kind}{options} ({place})", path_word(destination)));
}

fn bind_word(recursive: bool) -> &'static str {
    if recursive { "rbind" } else { "bind" }
}

fn idmap_word(recursive: bool) -> &'static str {
    if recursive { "ridmap" } else { "idmap" }
}

fn print_options(options: &Options, kind_words: &[&str]) -> String {
    let Options {
        bind,
        remount,
        copy_up,
        idmap,
        // The kind has them as rows.
        mappings: _,
        copy_link,
        keep_source,
        keep_target,
        attr,
        attr_all,
        propagation,
        superblock,
        legacy,
        data,
    } = options;
    let legacy_names = [(libc::MS_I_VERSION, "iversion"), (libc::MS_SILENT, "silent")];
    let mut parts = Vec::new();
    let mut part = |name: &str, value: String| {
        if !value.is_empty() {
            parts.push(format!(", {name}{value}"));
        }
    };
    part("", attributes(attr));
    part("all below ", attributes(attr_all));
    part("", joined(propagation.iter().map(propagate), " "));
    part("superblock ", superblock.join(" "));
    part("mount flags ", flags(*legacy, legacy_names));
    part("", joined(copy_up.then_some("tmpcopyup"), " "));
    let links = [(copy_link, "copy-symlink"), (keep_source, "src-nofollow"), (keep_target, "dest-nofollow")];
    part("", joined(links.iter().filter(|(set, _)| **set).map(|(_, name)| name), " "));
    part("data ", joined(data.iter().map(|option| word(option.as_bytes())), " "));
    let asked = [bind.map(bind_word), remount.then_some("remount"), idmap.map(idmap_word)];
    let asked = asked.into_iter().flatten().filter(|word| !kind_words.contains(word));
    part("", joined(asked, " "));
    parts.concat()
}

/// Returns the attributes in the words of the mount options. The kernel takes the mode of the access times as
/// a whole: its mask is cleared, and `relatime` is the mode without a bit.
fn attributes(attr: &Attr) -> String {
    const NAMES: [(u64, &str); 9] = [
        (MOUNT_ATTR_RDONLY, "ro"),
        (MOUNT_ATTR_NOSUID, "nosuid"),
        (MOUNT_ATTR_NODEV, "nodev"),
        (MOUNT_ATTR_NOEXEC, "noexec"),
        (MOUNT_ATTR_NODIRATIME, "nodiratime"),
        (MOUNT_ATTR_NOSYMFOLLOW, "nosymfollow"),
        (MOUNT_ATTR_IDMAP, "idmap"),
        (MOUNT_ATTR_NOATIME, "noatime"),
        (MOUNT_ATTR_STRICTATIME, "strictatime"),
    ];
    let Attr { set, clear, propagation } = *attr;
    let mut parts = vec![flags(set, NAMES)];
    let mode = clear & MOUNT_ATTR_ATIME_MASK == MOUNT_ATTR_ATIME_MASK;
    if mode && set & MOUNT_ATTR_ATIME_MASK == 0 {
        parts.push("relatime".into());
    }
    let cleared = if mode { clear & !MOUNT_ATTR_ATIME_MASK } else { clear };
    if cleared != 0 {
        parts.push(format!("without {}", flags(cleared, NAMES)));
    }
    if !mode && set & MOUNT_ATTR_ATIME_MASK != 0 {
        parts.push("beside the present mode of access times".into());
    }
    if propagation != 0 {
        parts.push(propagate(&Propagate { flag: propagation, recursive: false }));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(" ")
}

fn propagate(Propagate { flag, recursive }: &Propagate) -> String {
    let names =
        [(MS_PRIVATE, "private"), (MS_SHARED, "shared"), (MS_SLAVE, "slave"), (MS_UNBINDABLE, "unbindable")];
    format!("{}{}", if *recursive { "r" } else { "" }, flags(*flag, names))
}

fn print_device(text: &mut Text, device: &Device) {
    let Device { place, path, kind, major, minor, permissions: _, uid: _, gid: _, default: _ } = device;
    let kind = match *kind {
        libc::S_IFCHR => "c".into(),
        libc::S_IFBLK => "b".into(),
        libc::S_IFIFO => "p".into(),
        other => format!("{other:#o}"),
    };
    let (mode, (uid, gid), path) = (device.mode() & !libc::S_IFMT, device.owner(), path_word(path));
    text.line(format_args!("{path} {kind} {major}:{minor} {mode:04o} {uid}:{gid} ({place})"));
}
