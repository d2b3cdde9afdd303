use std::io::Write;

use super::record::derive;
use super::*;
use crate::error::kind;
use crate::procstat::{Stat, parse_stat, start_time};

#[test]
fn ids_are_those_of_runc() {
    for (id, good) in [
        ("a", true),
        ("web-1_2.3+4", true),
        ("0123456789abcdef", true),
        ("...", true),
        ("-a", true),
        (".hidden", true),
        ("", false),
        (".", false),
        ("..", false),
        ("../a", false),
        ("a/b", false),
        ("/", false),
        ("a b", false),
        ("a,b", false),
        ("a:b", false),
        ("a\0", false),
        ("a\n", false),
        ("ä", false),
        (".deleted:a:1", false),
    ] {
        assert_eq!(check_id(id).is_ok(), good, "{id:?}");
    }
    // The names that are made of an id: the container's own, and those of a removed one.
    let longest = "a".repeat(246);
    assert!(check_id(&longest).is_ok());
    assert_eq!(deleted_name(&longest).as_os_str().len(), NAME_MAX);
    let error = check_id(&"a".repeat(247)).unwrap_err();
    assert!(error.to_string().ends_with("is longer than 246 bytes"), "{error}");
}

#[test]
fn the_root_is_the_users_own() {
    // XDG_RUNTIME_DIR, USER, euid, in a user namespace
    for (xdg, user, euid, inside, expected) in [
        (None, None, 0, false, Some("/run/corten")),
        (Some(""), None, 0, true, Some("/run/corten")),
        (Some("/run/user/0"), Some("root"), 0, false, Some("/run/corten")),
        (Some("/run/user/0"), None, 0, false, Some("/run/corten")),
        (Some("/run/user/7"), Some("ann"), 0, true, Some("/run/user/7/corten")),
        (Some("/run/user/7"), None, 0, true, Some("/run/user/7/corten")),
        (Some("/run/user/7"), Some("root"), 0, true, Some("/run/corten")),
        (Some("/run/user/7"), Some("ann"), 7, false, Some("/run/user/7/corten")),
        (Some(""), Some("ann"), 7, false, None),
        (None, Some("ann"), 7, false, None),
    ] {
        let got = choose_root(xdg.map(OsStr::new), user.map(OsStr::new), euid, || Ok(inside)).ok();
        assert_eq!(got, expected.map(PathBuf::from), "{xdg:?} {user:?} {euid} {inside}");
    }
}

#[test]
fn stat_lines_are_parsed_whatever_the_name_contains() {
    let tail = "S 1 7 7 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 3 0 987654 1 2";
    let expected = Stat { state: 'S', flags: 4_194_368, threads: 3, start_time: 987_654, wait_status: 0 };
    for name in ["sh", "a b", ")", "x) R 1 (", ""] {
        assert_eq!(parse_stat(&format!("7 ({name}) {tail}\n")), Some(expected), "{name:?}");
    }
    for broken in ["", "7", "7 (sh", "7 (sh) S", "7 (sh) S 1 7 7 0 -1 x 1 2 3 4 5 6 7 8 20 0 1 0 9 1"] {
        assert_eq!(parse_stat(broken), None, "{broken:?}");
    }
}

#[test]
fn the_status_is_derived_from_the_process() {
    const NOT_EXECED: u32 = 0x40;
    let stat = |flags| Some(Stat { state: 'S', flags, threads: 1, start_time: 5, wait_status: 0 });
    // create has ended, has a pid, process, being created
    for (done, pid, stat, creating, expected) in [
        (false, None, None, true, Status::Creating),
        (false, None, None, false, Status::Stopped),
        (false, Some(7), stat(NOT_EXECED), true, Status::Creating),
        (false, Some(7), stat(NOT_EXECED), false, Status::Creating),
        (false, Some(7), None, true, Status::Stopped),
        (true, Some(7), stat(NOT_EXECED | 0x400_000), false, Status::Created),
        (true, Some(7), stat(0x400_000), false, Status::Running),
        (true, Some(7), None, false, Status::Stopped),
    ] {
        let record = Record { created_done: done, pid, ..Record::default() };
        assert_eq!(derive(&record, stat.as_ref(), creating), expected, "{done} {pid:?} {creating}");
    }
    for (state, threads, dead) in [('R', 1, false), ('Z', 1, true), ('Z', 2, false), ('X', 1, true)] {
        let stat = Stat { state, flags: 0, threads, start_time: 0, wait_status: 0 };
        assert_eq!(stat.dead(), dead, "{state} {threads}");
    }
}

fn record(pid: i32) -> Record {
    Record {
        id: "web1".into(),
        bundle: "/b".into(),
        rootfs: "/b/rootfs".into(),
        pid: Some(pid),
        start_time: start_time(pid).unwrap(),
        boot_id: boot_id().unwrap().into(),
        owner: owner(0),
        created: "2024-01-01T00:00:00.000000000Z".into(),
        created_done: true,
        annotations: [("k".to_string(), "v".to_string())].into(),
        ..Record::default()
    }
}

#[test]
fn documents_have_the_members_that_others_read() {
    let record = Record { pid: Some(42), ..record(1) };
    for (status, expected) in [
        (
            Status::Running,
            r#"{"ociVersion":"1.3.0","id":"web1","pid":42,"status":"running","bundle":"/b","rootfs":"/b/rootfs","created":"2024-01-01T00:00:00.000000000Z","annotations":{"k":"v"},"owner":"root"}"#,
        ),
        (
            Status::Stopped,
            r#"{"ociVersion":"1.3.0","id":"web1","pid":0,"status":"stopped","bundle":"/b","rootfs":"/b/rootfs","created":"2024-01-01T00:00:00.000000000Z","annotations":{"k":"v"},"owner":"root"}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&document(&record, status)).unwrap(), expected);
    }
    for (status, pid, expected) in [
        (
            Status::Creating,
            Some(1),
            r#"{"ociVersion":"1.3.0","id":"web1","status":"creating","pid":1,"bundle":"/b","annotations":{"k":"v"}}"#,
        ),
        (
            Status::Stopped,
            None,
            r#"{"ociVersion":"1.3.0","id":"web1","status":"stopped","bundle":"/b","annotations":{"k":"v"}}"#,
        ),
    ] {
        assert_eq!(spec_state(&record, status, pid), expected);
    }
}

/// A directory for one test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("corten-state-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn listed(root: &Path) -> Result<Vec<String>> {
    open_root(root)?.map_or(Ok(Vec::new()), |root| ids(&root))
}

const SOON: Duration = Duration::from_millis(30);

#[test]
fn a_container_is_made_found_and_removed() {
    let scratch = Scratch::new("life");
    let root = scratch.0.join("deep/root");
    assert!(listed(&root).unwrap().is_empty());
    assert_eq!(kind(&open(&root, "a").unwrap_err()), Kind::NotFound);
    let dir = create_dir(&root, "a").unwrap();
    let error = create_dir(&root, "a").unwrap_err();
    assert_eq!(kind(&error), Kind::Exists);
    let taken = "container with ID \"a\" already exists";
    assert_eq!(error.to_string(), format!("{taken}: another corten command is creating it"));

    let other = open(&root, "a").unwrap();
    assert!(other.find_record().unwrap().is_none());
    assert_eq!(other.load().unwrap_err().to_string(), "container \"a\" is being created");
    assert_eq!(kind(&other.lock(SOON).unwrap_err()), Kind::WrongStatus);
    let record = Record { id: "a".into(), ..record(1) };
    dir.save(&record).unwrap();
    dir.save_config("{ }\n").unwrap();
    drop(dir);
    let error = create_dir(&root, "a").unwrap_err().to_string();
    assert_eq!(
        error,
        if record.created_done {
            taken.into()
        } else {
            format!(
                "{taken}: its create has not finished (hint: corten gc removes what an interrupted one has left)"
            )
        }
    );

    assert_eq!(other.load().unwrap(), record);
    assert_eq!(other.load_config().unwrap(), "{ }\n");
    other.lock(SOON).unwrap();
    create_dir(&root, "b").unwrap();
    assert_eq!(listed(&root).unwrap(), ["a", "b"]);
    other.remove().unwrap();
    assert_eq!(listed(&root).unwrap(), ["b"]);
    assert!(open(&root, "a").unwrap_err().to_string().contains("does not exist"));
    let error = open(&root, "b").unwrap().load().unwrap_err().to_string();
    assert_eq!(error, "container \"b\" was never finished (hint: corten gc or delete --force removes it)");
}

#[test]
fn a_container_that_is_deleted_meanwhile_does_not_exist() {
    let scratch = Scratch::new("lock");
    let first = create_dir(&scratch.0, "a").unwrap();
    let second = open(&scratch.0, "a").unwrap();
    first.save_config("{}").unwrap();
    first.remove().unwrap();
    assert_eq!(kind(&second.lock(SOON).unwrap_err()), Kind::NotFound);
    assert_eq!(kind(&second.load().unwrap_err()), Kind::NotFound);
    assert_eq!(kind(&second.load_config().unwrap_err()), Kind::NotFound);
    let _again = create_dir(&scratch.0, "a").unwrap();
    assert_eq!(kind(&second.lock(SOON).unwrap_err()), Kind::NotFound);
}

#[test]
fn the_leftovers_of_a_killed_delete_are_removed() {
    let scratch = Scratch::new("trash");
    let trash = scratch.0.join(".deleted:a:1");
    std::fs::create_dir(&trash).unwrap();
    std::fs::write(trash.join("state.json"), "{}").unwrap();
    // corten creates no directories there, and would not remove one.
    let strange = scratch.0.join(".deleted:b:1");
    std::fs::create_dir_all(strange.join("tree")).unwrap();
    assert!(listed(&scratch.0).unwrap().is_empty());
    assert!(!trash.exists());
    assert!(strange.join("tree").exists());
}

#[test]
fn a_process_id_alone_identifies_no_process() {
    let scratch = Scratch::new("status");
    let dir = create_dir(&scratch.0, "a").unwrap();
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let good = record(child.id() as i32);
    let status = |record: &Record| dir.status(record, |_| false).unwrap();
    assert_eq!(status(&good), Status::Running);
    assert!(pidfd(&good).unwrap().is_some());
    let paused = Record { cgroup: Some(CgroupRecord::default()), ..good.clone() };
    assert_eq!(dir.status(&paused, |_| true).unwrap(), Status::Paused);
    for other in [
        Record { start_time: Some(1), ..good.clone() },
        Record { start_time: None, ..good.clone() },
        Record { boot_id: "another".into(), ..good.clone() },
        Record { pid: None, ..good.clone() },
        Record { pid: Some(0), ..good.clone() },
        Record { pid: Some(-1), ..good.clone() },
    ] {
        assert_eq!(status(&other), Status::Stopped, "{other:?}");
        assert!(pidfd(&other).unwrap().is_none(), "{other:?}");
    }
    child.kill().unwrap();
    // Not reaped yet, then reaped.
    let deadline = Instant::now() + Duration::from_secs(5);
    while status(&good) != Status::Stopped {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(pidfd(&good).unwrap().is_none());
    child.wait().unwrap();
    assert_eq!(status(&good), Status::Stopped);
}

/// A process that clone(2) made and that has not called execve(2) is the init of a container that waits for
/// `start`.
#[test]
fn a_clone_before_execve_is_created() {
    use sys::task::{Exit, Forked, clone3, exit_now, pidfd_send_signal, wait};
    let scratch = Scratch::new("created");
    let dir = create_dir(&scratch.0, "a").unwrap();
    match clone3(0, None).unwrap() {
        // The threads of other tests are not cloned. A lock that one of them holds would never be released.
        Forked::Child => {
            nix::unistd::pause();
            exit_now(0)
        }
        Forked::Parent { pid, pidfd: child } => {
            for (done, expected) in [(true, Status::Created), (false, Status::Creating)] {
                let record = Record { created_done: done, ..record(pid) };
                assert_eq!(dir.status(&record, |_| false).unwrap(), expected);
            }
            pidfd_send_signal(pidfd(&record(pid)).unwrap().unwrap().as_fd(), libc::SIGKILL).unwrap();
            assert_eq!(wait(child.as_fd()).unwrap(), Exit::Signal(libc::SIGKILL));
        }
    }
}

/// A user who can create directories in the root of the states, as in /tmp, could name any cgroup in a
/// record, or make the record a fifo.
#[test]
fn records_in_another_users_directory_are_not_read() {
    use std::os::unix::fs::chown;
    if sys::task::euid() != 0 {
        let text = "skipped: state::tests::records_in_another_users_directory_are_not_read: needs root";
        return drop(writeln!(std::io::stderr(), "{text}"));
    }
    let root = std::env::temp_dir().join(format!("corten-others-{}", std::process::id()));
    let dir = create_dir(&root, "own").unwrap();
    for (id, owner) in [("mine", 0), ("theirs", 1000)] {
        let other = root.join(id);
        std::fs::create_dir(&other).unwrap();
        let record = Record { id: id.into(), ..Record::default() };
        std::fs::write(other.join("state.json"), serde_json::to_vec(&record).unwrap()).unwrap();
        chown(&other, Some(owner), None).unwrap();
    }
    let ids: Vec<String> = dir.others().unwrap().into_iter().map(|record| record.id).collect();
    assert_eq!(ids, ["mine"]);
    std::fs::remove_dir_all(&root).unwrap();
}
