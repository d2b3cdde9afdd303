//! Records that other users have written, names that they can choose, and quotas of keys that they have used
//! up.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::chown;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{isolated, poll};
use crate::{Victim, bind_payload, found, map_ids, payload, payload_words};

/// `KEY_SPEC_SESSION_KEYRING` of keyctl(2).
const SESSION_KEYRING: i32 = -3;

/// A record in another user's directory has a poststop hook with that user's program. Every verb refuses it
/// by name, also for root. `list` leaves it out with a warning, and no message suggests to delete it. Check
/// of the check: the same record as root's own runs the hook.
#[test]
fn a_record_of_another_user_is_refused() {
    isolated(|t| {
        let victim = Victim::new(t);
        let script = format!("echo changed > {}/secret", victim.dir.display());
        let bundle = t.bundle(|c| {
            c["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        });
        t.start(&bundle, "c1");
        let dir = t.state().join("c1");
        chown(&dir, Some(1000), Some(1000)).unwrap();
        let refusal = "its directory belongs to user 1000 (hint: be that user)";
        for args in [
            &["state", "c1"][..],
            &["state", "--applied", "--format", "json", "c1"],
            &["wait", "c1"],
            &["start", "c1"],
            &["kill", "c1", "KILL"],
            &["kill", "--all", "c1", "KILL"],
            &["exec", "c1", "/bin/true"],
            &["ps", "c1"],
            &["pause", "c1"],
            &["resume", "c1"],
            &["update", "--pids-limit", "7", "c1"],
            &["events", "--stats", "c1"],
            &["delete", "c1"],
            &["delete", "--force", "c1"],
            &["delete", "--all", "--force"],
            &["gc"],
            &["gc", "--stopped"],
        ] {
            let out = t.corten(args).fails(refusal);
            assert!(out.stdout.is_empty() && !out.stderr.contains("delete it"), "{out:?}");
        }
        let out = t.corten(&["list", "--format", "json"]).exits(0);
        assert!(out.stdout == "null\n" || out.stdout == "[]\n", "{out:?}");
        assert!(out.stderr.contains(refusal), "{out:?}");
        // The rest of a `delete` by that user.
        let left = t.state().join(".deleted:c2");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("state.json"), "{}").unwrap();
        chown(&left, Some(1000), Some(1000)).unwrap();
        t.corten(&["gc"]).fails("container \"c2\": its directory belongs to user 1000");
        t.corten(&["list", "-q"]).ok();
        t.corten(&["delete", "--force", "c2"]).fails(refusal);
        assert!(left.join("state.json").exists());
        fs::remove_dir_all(left).unwrap();
        victim.is_untouched("another user's record");
        chown(&dir, Some(0), Some(0)).unwrap();
        t.delete("c1");
        assert!(victim.is_touched());
    });
}

/// No annotation makes a file on the host. Check of the check: the caller's own option does, at the same
/// place.
#[test]
fn annotations_write_no_file() {
    isolated(|t| {
        let victim = Victim::new(t);
        let file = victim.dir.join("x.trace");
        let bundle = t.bundle(|c| {
            c["annotations"] = json!({"dev.corten.trace": file});
            c["process"]["args"] = json!(["/bin/true"]);
        });
        let out = t.run_bundle(&bundle).exits(0);
        assert!(out.stderr.contains("has no effect"), "{out:?}");
        victim.is_untouched("dev.corten.trace");
        t.corten(&["--trace", file.to_str().unwrap(), "run", "-b", bundle.path(), "r"]).exits(0);
        assert!(victim.is_touched());
    });
}

/// Two containers have one id, below two roots. keyctl(2) would give both the session keyring that first had
/// the name, and an attacker can make that first. They have one keyring each, and `exec` joins that of its
/// container. Check of the check: the record of an older version leads to a name that can be guessed, and
/// that keyring is shared.
#[test]
fn two_containers_of_one_id_have_separate_keyrings() {
    const NAME: &str = "records::two_containers_of_one_id_have_separate_keyrings";
    payload(|_| session_keyring().to_string());
    isolated(|t| {
        let make = |cgroup: &str| {
            t.bundle(|c| {
                bind_payload(c, NAME, &[""]);
                c["process"]["args"] = json!(["/bin/sleep", "1000"]);
                c["linux"]["cgroupsPath"] = json!(cgroup);
            })
        };
        let roots = [t.state(), t.dir.join("other")];
        let call = |root: usize, args: &[&str]| {
            t.corten(&[&["--root", roots[root].to_str().unwrap()], args].concat())
        };
        let (words, _) = payload_words(NAME, &[""]);
        let exec = |root: usize| {
            let words: Vec<&str> =
                ["exec", "same"].into_iter().chain(words.iter().map(String::as_str)).collect();
            found(&call(root, &words).ok())
        };
        for (root, cgroup) in ["/first", "/second"].into_iter().enumerate() {
            call(root, &["create", "-b", make(cgroup).path(), "same"]).ok();
            call(root, &["start", "same"]).ok();
        }
        let (first, second) = (exec(0), exec(1));
        assert_ne!(first, second);
        assert_eq!((exec(0), exec(1)), (first, second));
        for root in &roots {
            let file = root.join("same/state.json");
            let mut record: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            record["keyring"] = json!("");
            fs::write(&file, record.to_string()).unwrap();
        }
        // The first container keeps the keyring alive.
        let mut keeper = t.command(&["exec", "same", "/bin/sleep", "1000"]);
        let keeper = t.spawn(keeper.stdin(Stdio::null()));
        assert!(poll(Duration::from_secs(10), || exec(0) == exec(1)));
        (0..2).for_each(|root| drop(call(root, &["delete", "--force", "same"]).ok()));
        drop(keeper.wait());
    });
}

fn session_keyring() -> i64 {
    const GET_KEYRING_ID: libc::c_long = 0;
    // SAFETY: no pointers are passed.
    unsafe { libc::syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0) }
}

/// A user's quota of keys is used up, by many containers or by a process of the user's: an error with a hint,
/// and no program with the caller's keyring. Check of the check: the payload has met the quota, and without
/// it the same container runs.
#[test]
fn a_used_up_quota_of_keys_is_an_error() {
    const USER: u32 = 154_321;
    payload(|_| format!("{}", use_up_keys(USER)));
    isolated(|t| {
        let bundle = t.bundle(|c| {
            map_ids(c);
            for maps in ["uidMappings", "gidMappings"] {
                c["linux"][maps][0]["hostID"] = json!(USER);
            }
            c["process"]["args"] = json!(["/bin/true"]);
        });
        t.call(Command::new("chown").args(["-hR", &format!("{USER}:{USER}")]).arg(bundle.rootfs())).ok();
        let (words, variable) = payload_words("records::a_used_up_quota_of_keys_is_an_error", &[""]);
        let (name, value) = variable.split_once('=').unwrap();
        let mut holder = Command::new(std::env::current_exe().unwrap());
        holder.args(&words[1..]).env(name, value).stdin(Stdio::piped());
        let mut holder = t.spawn(&mut holder);
        let ready = || fs::read_to_string(&holder.stdout).unwrap().contains("keys are made");
        assert!(poll(Duration::from_secs(20), ready));
        let hint = "(hint: the user has kernel.keys.maxkeys keys, root kernel.keys.root_maxkeys; --no-new-keyring keeps";
        t.run_bundle(&bundle).fails(hint);
        drop(holder.child.stdin.take());
        assert_ne!(found(&holder.wait().ok()), "0");
        // The kernel frees the keys of a process that has ended only after a while.
        let runs = || t.run_bundle(&bundle).code == 0;
        assert!(poll(Duration::from_secs(20), runs));
    });
}

/// The payload: makes as many keys as possible as `user` in a session keyring of its own, and keeps them
/// until its standard input ends.
fn use_up_keys(user: u32) -> u32 {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: only this process's own ids and keyring change.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_setresuid, user, user, user), 0);
        assert!(libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, none) > 0);
    }
    let mut count = 0;
    loop {
        let name = CString::new(format!("corten-{count}")).unwrap();
        // SAFETY: the strings end with a null, and one byte of the value is there.
        let key = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                name.as_ptr(),
                c"x".as_ptr(),
                1,
                SESSION_KEYRING,
            )
        };
        if key < 0 {
            assert_eq!(nix::errno::Errno::last(), nix::errno::Errno::EDQUOT);
            break;
        }
        count += 1;
    }
    println!("keys are made");
    drop(std::io::stdin().read_to_end(&mut Vec::new()));
    count
}
