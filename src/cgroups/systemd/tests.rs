use super::super::Manager;
use super::manager::addresses;
use super::*;
use crate::sys::socket::Address;

fn host(own: &str) -> Host {
    Host { v2_mount: Some("/sys/fs/cgroup".into()), own: Some(own.into()), ..Host::default() }
}

fn request(path: Option<&str>) -> Request<'_> {
    Request {
        id: "web1",
        path: path.map(Path::new),
        resources: None,
        annotations: None,
        manager: Manager::Systemd,
        rootless: false,
        uid: 0,
    }
}

fn planned(request: &Request, own: &str) -> Result<(Scope, PathBuf), String> {
    let mut notes = Notes::default();
    let plan = plan(request, &host(own), &[], &mut notes);
    plan.ok_or_else(|| notes.problems.to_string())
}

#[test]
fn units_and_their_cgroups_are_named() {
    let long = "x".repeat(255 - ".scope".len());
    for (path, unit, cgroup) in [
        (Some("system.slice:docker:x"), "docker-x.scope", "system.slice/docker-x.scope"),
        (Some("machine.slice:libpod:0a"), "libpod-0a.scope", "machine.slice/libpod-0a.scope"),
        (Some(":libpod:0a"), "libpod-0a.scope", "system.slice/libpod-0a.scope"),
        (Some(":cri:a:b"), "", "is not slice:prefix:name"),
        (Some("a-b-c.slice:p:n"), "p-n.scope", "a.slice/a-b.slice/a-b-c.slice/p-n.scope"),
        (Some("-.slice:p:n"), "p-n.scope", "p-n.scope"),
        (Some("a.slice::n"), "n.scope", "a.slice/n.scope"),
        (Some("a.slice:p:b-c.slice"), "b-c.slice", "b.slice/b-c.slice"),
        (None, "corten-web1.scope", "system.slice/corten-web1.scope"),
        (Some("/docker/x"), "", "is not slice:prefix:name"),
        (Some("docker"), "", "is not slice:prefix:name"),
        (Some("system.slice:x"), "", "is not slice:prefix:name"),
        (Some(""), "", "is not slice:prefix:name"),
        (Some("system:p:n"), "", "\"system\" is not the name of a slice"),
        (Some("a--b.slice:p:n"), "", "is not the name of a slice"),
        (Some("-a.slice:p:n"), "", "is not the name of a slice"),
        (Some("a-.slice:p:n"), "", "is not the name of a slice"),
        (Some(".slice:p:n"), "", "is not the name of a slice"),
        (Some("../a.slice:p:n"), "", "cannot be the name"),
        (Some("a.slice:p:-b.slice"), "", "is not the name of a slice"),
        (Some("a.slice:p:../../n"), "", "cannot be the name"),
        (Some("a.slice:p:n\0"), "", "cannot be the name"),
        (Some("a.slice:p:n m"), "", "cannot be the name"),
        (Some("a.slice::"), "", "cannot be the name"),
        (Some(&format!("a.slice::{long}")), &format!("{long}.scope"), &format!("a.slice/{long}.scope")),
        (Some(&format!("a.slice::{long}x")), "", "cannot be the name"),
    ] {
        match planned(&request(path), "init.scope") {
            Ok((scope, got)) => {
                assert_eq!((scope.unit.name.as_str(), got.as_path()), (unit, Path::new(cgroup)), "{path:?}");
            }
            Err(error) => {
                assert!(unit.is_empty(), "{path:?}: {error}");
                assert!(
                    error.starts_with("linux.cgroupsPath: ") && error.contains(cgroup),
                    "{path:?}: {error}"
                );
            }
        }
    }
    let plus = Request { id: "a+b", ..request(None) };
    assert_eq!(planned(&plus, "").unwrap().0.unit.name, "corten-a\\x2bb.scope");
}

#[test]
fn users_have_a_systemd_of_their_own() {
    let service = "user.slice/user-1000.slice/user@1000.service";
    for (own, uid, expected) in [
        ("user.slice/user-1000.slice/session-3.scope", 1000, Some(service)),
        ("system.slice/cron.service", 1000, Some(service)),
        ("user.slice/user-0.slice/session-1.scope", 1000, Some(service)),
        (&format!("{service}/app.slice/x.scope"), 1000, Some(service)),
        (&format!("lxc/{service}/x.scope"), 1000, Some(&format!("lxc/{service}"))),
        // Root of a user namespace, as for rootless Podman.
        (&format!("{service}/user.slice/libpod.scope"), 0, Some(service)),
        ("user.slice/user-1000.slice/session-3.scope", 0, Some(service)),
        // Root of a user namespace that has a systemd of its own.
        ("system.slice/x.service", 0, None),
        ("user.slice/user-0.slice/session-1.scope", 0, None),
        ("user.slice/user-0.slice/user@0.service/x.scope", 0, None),
        ("", 0, None),
    ] {
        let request = Request { rootless: true, uid, ..request(Some(":p:n")) };
        let (scope, cgroup) = planned(&request, own).unwrap();
        let of_user = expected.map(|base| PathBuf::from(format!("{base}/user.slice/p-n.scope")));
        assert_eq!(scope.unit.user, of_user.is_some(), "{own} {uid}");
        assert_eq!(cgroup, of_user.unwrap_or("system.slice/p-n.scope".into()), "{own} {uid}");
    }
}

#[test]
fn properties_come_from_annotations_and_limits() {
    let annotation = |name: &str, text: &str| (format!("org.systemd.property.{name}"), text.to_string());
    let good = HashMap::from([
        annotation("TimeoutStopSec", "2"),
        annotation("MemoryMax", "uint64 1"),
        ("io.podman.x".to_string(), "junk".to_string()),
    ]);
    let resources = serde_json::from_str(r#"{"memory":{"limit":4096}}"#).unwrap();
    let mut notes = Notes::default();
    let writes = super::super::resources::plan(&resources, &mut notes);
    let with = Request { annotations: Some(&good), ..request(Some("a.slice:p:n")) };
    let (scope, _) = plan(&with, &host(""), &writes, &mut notes).unwrap();
    let values = |name: &str| -> Vec<&Value> {
        scope.properties.iter().filter(|(known, _)| known == name).map(|(_, value)| value).collect()
    };
    assert_eq!(values("TimeoutStopUSec"), [&Value::U64(2_000_000)]);
    assert_eq!(values("Slice"), [&Value::str("a.slice")]);
    assert_eq!(values("Delegate"), [&Value::Bool(true)]);
    // The later property is used, so that an annotation cannot raise a limit.
    assert_eq!(values("MemoryMax"), [&Value::U64(1), &Value::U64(4096)]);

    let bad = HashMap::from([annotation("PIDs", "[uint32 1]"), annotation("KillSignal", "SIGTERM")]);
    let error = planned(&Request { annotations: Some(&bad), ..request(None) }, "").unwrap_err();
    assert!(error.contains("annotations[\"org.systemd.property.PIDs\"]: is not for"), "{error}");
    assert!(error.contains("annotations[\"org.systemd.property.KillSignal\"]: \"SIGTERM\""), "{error}");

    let slice = planned(&request(Some("a.slice:p:b.slice")), "").unwrap().0;
    assert!(!slice.properties.iter().any(|(name, _)| name == "Slice" || name == "Delegate"));
}

#[test]
fn the_environment_says_where_systemd_listens() {
    let path = |path: &str, direct| (Address::Path(path.into()), direct);
    for (user, env, expected) in [
        (false, vec![], vec![path("/run/dbus/system_bus_socket", false), path("/run/systemd/private", true)]),
        (
            false,
            vec![("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/b"), ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/c")],
            vec![path("/b", false), path("/run/systemd/private", true)],
        ),
        (true, vec![], vec![path("/run/user/1000/bus", false), path("/run/user/1000/systemd/private", true)]),
        (
            true,
            vec![("DBUS_SESSION_BUS_ADDRESS", "unix:path=/c"), ("XDG_RUNTIME_DIR", "/x")],
            vec![path("/c", false), path("/x/bus", false), path("/x/systemd/private", true)],
        ),
        (
            true,
            vec![("XDG_RUNTIME_DIR", "")],
            vec![path("/run/user/1000/bus", false), path("/run/user/1000/systemd/private", true)],
        ),
    ] {
        let env =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_string());
        assert_eq!(addresses(user, env, 1000), expected);
    }
}
