//! `checkpoint` and `restore`, with a CRIU that plays its part (examples/criu.rs).

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Criu, View, isolated, isolated_in};
use crate::{CREATE, START, Success, Verb, hooks, sweep, verb};

const CHECKPOINT: &[&str] =
    &["--criu", "BUNDLE/my-criu", "checkpoint", "--image-path", "BUNDLE/my-images", "f"];
const RESTORE: &[&str] = &[
    "--criu",
    "BUNDLE/my-criu",
    "restore",
    "--detach",
    "--image-path",
    "BUNDLE/my-images",
    "--bundle",
    "BUNDLE",
    "f",
];

/// Makes the CRIU of the bundle. What it restores reports its end as the program of the other verbs does.
fn with_criu(_: &mut Value, root: &str) {
    let criu = Criu::new(Path::new(root).parent().unwrap());
    criu.script(&json!({"program": "echo end >/tmp/report; exec sleep 1000"}));
}

fn with_criu_and_hooks(config: &mut Value, root: &str) {
    with_criu(config, root);
    hooks(config, root);
}

#[test]
fn faults_in_checkpoint_leave_the_container_running_or_saved() {
    let verb = verb("checkpoint", CHECKPOINT, &[CREATE, START], Success::Saved);
    isolated(|t| sweep(t, &Verb { edit: with_criu, ..verb }));
}

#[test]
fn faults_in_checkpoint_on_v1_leave_the_container_running_or_saved() {
    let verb = verb("checkpoint, v1", CHECKPOINT, &[CREATE, START], Success::Saved);
    isolated_in(View::V1, |t| sweep(t, &Verb { edit: with_criu, ..verb }));
}

#[test]
fn faults_in_restore_leave_nothing() {
    isolated(|t| sweep(t, &Verb { edit: with_criu, ..verb("restore", RESTORE, &[], Success::Ran) }));
}

#[test]
fn faults_in_restore_with_hooks_leave_nothing() {
    let verb = verb("restore, hooks", RESTORE, &[], Success::Ran);
    isolated(|t| sweep(t, &Verb { edit: with_criu_and_hooks, ..verb }));
}

#[test]
fn faults_in_restore_on_v1_leave_nothing() {
    let verb = verb("restore, v1", RESTORE, &[], Success::Ran);
    isolated_in(View::V1, |t| sweep(t, &Verb { edit: with_criu, ..verb }));
}

#[test]
fn gc_leaves_nothing_of_a_killed_restore() {
    let verb = verb("restore, gc", RESTORE, &[], Success::Ran);
    isolated(|t| sweep(t, &Verb { edit: with_criu_and_hooks, gc: true, ..verb }));
}
