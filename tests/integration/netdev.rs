//! config-linux.md#network-devices, with a pair of virtual interfaces in the test's own network namespace.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Test, isolated, skip, without_namespace};
use crate::namespaces::{give_rootfs, map_ids};

/// Returns the output of ip(8), for our own namespace or for that of a process.
fn ip(pid: Option<i32>, words: &str) -> Option<Value> {
    let mut command = match pid {
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.args(["-t", &pid.to_string(), "-n", "ip"]);
            command
        }
        None => Command::new("ip"),
    };
    let output = command.args(["-j"]).args(words.split(' ')).output().ok()?;
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
}

/// Makes an interface that is up and has addresses, of which two are kept.
fn pair(_: &Test) {
    if ip(None, "link show lo").is_none() {
        skip("ip(8) is not installed");
    }
    if ip(None, "link add v0 type veth peer name v1").is_none() {
        skip("this kernel has no veth interfaces");
    }
    for words in [
        "addr add 10.9.8.7/24 brd 10.9.8.255 dev v0",
        "addr add 2001:db8::7/64 dev v0 nodad",
        "addr add 10.9.9.9/24 dev v0 valid_lft 100 preferred_lft 100",
        "link set v0 up",
        "link set v1 up",
    ] {
        assert!(ip(None, words).is_some() || words.contains("2001"), "{words}");
    }
}

/// Returns the addresses of global scope, and whether the interface is up.
fn seen(pid: Option<i32>, name: &str) -> Option<(Vec<String>, bool)> {
    let found = ip(pid, &format!("addr show dev {name}"))?;
    let addresses = found[0]["addr_info"].as_array()?.iter().filter(|a| a["scope"] == "global");
    let mut addresses: Vec<String> =
        addresses.map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"])).collect();
    addresses.sort();
    let up = found[0]["flags"].as_array()?.contains(&json!("UP"));
    Some((addresses, up))
}

fn kept() -> Vec<String> {
    let mut all = vec!["10.9.8.7/24".to_string()];
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        all.push("2001:db8::7/64".into());
    }
    all
}

/// An interface is moved and renamed, with its permanent global addresses, and is up. The old namespace no
/// longer has it.
#[test]
fn an_interface_is_moved_with_its_addresses() {
    isolated(|t| {
        pair(t);
        for (name, expected) in
            [(json!({}), "v0"), (json!({"name": "lan"}), "lan"), (json!({"name": "eth%d"}), "eth0")]
        {
            let bundle = t.bundle(|c| c["linux"]["netDevices"] = json!({"v0": name}));
            let pid = t.start(&bundle, "c1");
            assert_eq!(seen(Some(pid), expected), Some((kept(), true)), "{expected}");
            assert_eq!(seen(None, "v0"), None);
            // The kernel ends the interface with its namespace, because nobody has moved it back.
            t.delete("c1");
            let ended = || ip(None, "link show v1").is_none();
            assert!(crate::harness::poll(std::time::Duration::from_secs(5), ended));
            pair(t);
        }
    });
}

/// A joined namespace has interfaces of its own. A name in use is an error, unless the kernel may choose a
/// free one. A moved interface stays there unchanged when the container is deleted.
#[test]
fn a_name_in_use_in_a_joined_namespace_is_an_error() {
    isolated(|t| {
        pair(t);
        let first = t.start(&t.bundle(|_| {}), "c1");
        let run = |words: &str| assert!(ip(Some(first), words).is_some(), "{words}");
        run("link add eth0 type veth peer name eth9");
        for words in ["link set v0 mtu 1400", "link set v0 address 02:00:00:00:00:07"] {
            assert!(ip(None, words).is_some());
        }
        let bundle = |name: &str| {
            t.bundle(|c| {
                c["linux"]["namespaces"].as_array_mut().unwrap().iter_mut().for_each(|namespace| {
                    if namespace["type"] == "network" {
                        namespace["path"] = json!(format!("/proc/{first}/ns/net"));
                    }
                });
                c["linux"]["netDevices"] = json!({"v0": {"name": name}});
            })
        };
        t.corten(&["create", "-b", bundle("eth0").path(), "c2"]).fails("linux.netDevices[\"v0\"]");
        assert_eq!(seen(None, "v0"), Some((kept(), true)));
        t.start(&bundle("eth%d"), "c2");
        t.delete("c2");
        assert_eq!(seen(Some(first), "eth1"), Some((kept(), true)));
        let link = ip(Some(first), "link show dev eth1").unwrap();
        assert_eq!((&link[0]["mtu"], &link[0]["address"]), (&json!(1400), &json!("02:00:00:00:00:07")));
        t.delete("c1");
    });
}

/// The same if the network namespace belongs to the container's user namespace.
#[test]
fn an_interface_is_moved_into_a_user_namespaces_network() {
    isolated(|t| {
        pair(t);
        let bundle = t.bundle(|c| {
            map_ids(c);
            c["linux"]["netDevices"] = json!({"v0": {"name": "lan"}});
        });
        give_rootfs(t, &bundle);
        let pid = t.start(&bundle, "c1");
        assert_eq!(seen(Some(pid), "lan"), Some((kept(), true)));
        t.delete("c1");
    });
}

/// A create that fails gives the interface back unchanged.
#[test]
fn a_failed_create_gives_the_interface_back() {
    isolated(|t| {
        pair(t);

        for (devices, words) in [
            (json!({"v0": {"name": "lo"}}), "linux.netDevices[\"v0\"]"),
            (json!({"v0": {}, "v9": {}}), "linux.netDevices[\"v9\"]"),
        ] {
            let bundle = t.bundle(|c| c["linux"]["netDevices"] = devices);
            t.corten(&["create", "-b", bundle.path(), "c1"]).fails(words);
            assert_eq!(seen(None, "v0"), Some((kept(), true)), "{words}");
        }
        let bundle = t.bundle(|c| {
            c["linux"]["netDevices"] = json!({"v0": {}});
            c["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
        });
        t.corten(&["create", "-b", bundle.path(), "c1"]).fails("hooks.createRuntime");
        assert_eq!(seen(None, "v0"), Some((kept(), true)));
        let bundle = t.bundle(|c| {
            c["linux"]["netDevices"] = json!({"v0": {}});
            without_namespace(c, "network");
        });
        t.corten(&["create", "-b", bundle.path(), "c1"])
            .fails("unable to move network devices without a NET namespace");
    });
}
