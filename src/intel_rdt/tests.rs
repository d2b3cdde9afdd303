//! The plan is tested by rows, and its execution on plain directories instead of resctrl. A directory that is
//! created there has no files, so that these tests cover existing classes and the removal. Without the
//! hardware no test shows what the kernel does with `schemata`.

use serde_json::{Value, json};

use super::*;

fn planned(asked: &Value, id: &str, mount: Option<&Path>) -> (Option<Plan>, String, Vec<String>) {
    let asked: LinuxIntelRdt = serde_json::from_value(asked.clone()).unwrap();
    let mut notes = Notes::default();
    let plan = plan(&asked, id, mount, &mut notes);
    (plan, notes.problems.to_string(), notes.warnings)
}

/// config-linux.md#intelrdt: the name of the class, and the path of the monitoring group.
#[test]
fn classes_have_names() {
    for (asked, group, named, monitor) in [
        (json!({}), "/r/c1", false, None),
        (json!({"closID": ""}), "/r/c1", false, None),
        (json!({"closID": "gold"}), "/r/gold", true, None),
        (json!({"closID": "gold", "enableMonitoring": false}), "/r/gold", true, None),
        (json!({"closID": "gold", "enableMonitoring": true}), "/r/gold", true, Some("/r/gold/mon_groups/c1")),
        (json!({"closID": "/", "enableMonitoring": true}), "/r", true, Some("/r/mon_groups/c1")),
        (json!({"enableMonitoring": true}), "/r/c1", false, Some("/r/c1/mon_groups/c1")),
        (json!({"enableCmt": true}), "/r/c1", false, Some("/r/c1/mon_groups/c1")),
        (json!({"enableMbm": false}), "/r/c1", false, None),
    ] {
        let (plan, problems, warnings) = planned(&asked, "c1", Some(Path::new("/r")));
        assert_eq!((problems.as_str(), warnings.len()), ("", 0), "{asked}");
        let plan = plan.unwrap();
        let found = (plan.group.to_str().unwrap(), plan.named, plan.monitor.as_deref());
        assert_eq!(found, (group, named, monitor.map(Path::new)), "{asked}");
    }
}

/// config-linux.md#intelrdt: `l3CacheSchema` and `memBwSchema` in one write, without the former's lines for
/// the bandwidth; `schemata` in a later one.
#[test]
fn schemas_become_writes() {
    let (l3, mb) = ("L3:0=7f0;1=1f", "MB:0=20;1=70");
    for (asked, expected, warned) in [
        (json!({}), vec![], 0),
        (json!({"l3CacheSchema": "", "memBwSchema": "", "schemata": []}), vec![], 0),
        (json!({"l3CacheSchema": l3}), vec![vec![l3]], 0),
        (json!({"memBwSchema": mb}), vec![vec![mb]], 0),
        (json!({"memBwSchema": mb, "l3CacheSchema": l3}), vec![vec![l3, mb]], 0),
        (json!({"l3CacheSchema": format!("{l3}\nMB:0=5\n"), "memBwSchema": mb}), vec![vec![l3, mb]], 1),
        (json!({"l3CacheSchema": "L3CODE:0=f\nL3DATA:0=f"}), vec![vec!["L3CODE:0=f", "L3DATA:0=f"]], 0),
        (json!({"schemata": [l3, "L2:0=f"]}), vec![vec![l3, "L2:0=f"]], 0),
        (json!({"schemata": ["L3:0=1"], "l3CacheSchema": l3}), vec![vec![l3], vec!["L3:0=1"]], 0),
    ] {
        let (plan, problems, warnings) = planned(&asked, "c1", Some(Path::new("/r")));
        assert_eq!((problems.as_str(), warnings.len()), ("", warned), "{asked}");
        let plan = plan.unwrap();
        let found: Vec<Vec<&str>> =
            plan.writes.iter().map(|lines| lines.iter().map(AsRef::as_ref).collect()).collect();
        assert_eq!(found, expected, "{asked}");
    }
}

#[test]
fn errors_name_their_place() {
    for (asked, id, expected) in [
        (json!({"closID": "."}), "c1", "linux.intelRdt.closID: the class \".\" is not the name"),
        (json!({"closID": ".."}), "c1", "linux.intelRdt.closID: the class \"..\" is not the name"),
        (json!({"closID": "a/b"}), "c1", "linux.intelRdt.closID: the class \"a/b\" has a slash"),
        (json!({"closID": "/gold"}), "c1", "linux.intelRdt.closID: the class \"/gold\" has a slash"),
        (
            json!({"closID": "a\nb"}),
            "c1",
            "linux.intelRdt.closID: the class \"a\\nb\" has a slash, a line break",
        ),
        (json!({"closID": "g\0"}), "c1", "linux.intelRdt.closID"),
        (json!({"closID": "g".repeat(256)}), "c1", "linux.intelRdt.closID"),
        (json!({"closID": "info"}), "c1", "linux.intelRdt.closID: the class \"info\" would be"),
        (json!({}), "mon_groups", "linux.intelRdt: the class \"mon_groups\" would be"),
        (json!({"l3CacheSchema": "L3"}), "c1", "linux.intelRdt.l3CacheSchema: \"L3\" is not of the form"),
        (json!({"l3CacheSchema": "MB:0=5"}), "c1", "linux.intelRdt.l3CacheSchema: has no line for a cache"),
        (json!({"memBwSchema": "L3:0=f"}), "c1", "linux.intelRdt.memBwSchema: must begin with \"MB:\""),
        (json!({"memBwSchema": " MB:0=5"}), "c1", "linux.intelRdt.memBwSchema: must begin with \"MB:\""),
        (
            json!({"memBwSchema": "MB:0=5\nL3:0=f"}),
            "c1",
            "linux.intelRdt.memBwSchema: \"MB:0=5\\nL3:0=f\" has a line",
        ),
        (
            json!({"schemata": ["L3:0=f", "L2:0=1\n"]}),
            "c1",
            "linux.intelRdt.schemata[1]: \"L2:0=1\\n\" has a line",
        ),
        (json!({"schemata": [""]}), "c1", "linux.intelRdt.schemata[0]: \"\" is not of the form"),
    ] {
        let (plan, problems, _) = planned(&asked, id, Some(Path::new("/r")));
        assert_eq!(plan, None, "{asked}");
        assert!(problems.starts_with(expected), "{asked}: {problems}");
        assert!(!problems.contains("; linux"), "told once: {problems}");
    }
    let (plan, problems, _) = planned(&json!({"closID": "a/b"}), "c1", None);
    assert_eq!(plan, None);
    assert!(
        problems.starts_with("linux.intelRdt: no resctrl file system is mounted (hint: mount -t resctrl")
    );
    assert!(problems.contains("; linux.intelRdt.closID: "), "all at once: {problems}");
}

/// A directory with the class `gold` and the default class.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("corten-rdt.{name}.{}", std::process::id()));
        let tree = Self(root);
        for class in ["", "gold"] {
            std::fs::create_dir_all(tree.0.join(class).join("mon_groups")).unwrap();
            tree.file(&format!("{class}/schemata"), "    MB:0= 20;1=100\n    L3:0=07f0;1=001f\n");
            tree.file(&format!("{class}/tasks"), "");
        }
        std::fs::create_dir_all(tree.0.join("info/MB")).unwrap();
        tree.file("info/MB/bandwidth_gran", "10\n");
        tree
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name.trim_start_matches('/')), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn plan(&self, asked: &Value) -> Plan {
        planned(asked, "c1", Some(&self.0)).0.unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// config-linux.md#intelrdt: an existing class is compared with the configuration, and never written to.
#[test]
fn an_existing_class_must_have_the_values() {
    let tree = Tree::new("fits");
    for (asked, expected) in [
        (json!({"closID": "gold"}), ""),
        (json!({"closID": "/"}), ""),
        (json!({"closID": "gold", "l3CacheSchema": "L3:0=7f0;1=1f", "memBwSchema": "MB:0=15;1=100"}), ""),
        (json!({"closID": "/", "schemata": ["L3:1=1f"]}), ""),
        (json!({"closID": "gold", "l3CacheSchema": "L3:0=1", "schemata": ["L3:0=7f0"]}), ""),
        (json!({"closID": "gold", "l3CacheSchema": "L3:0=7f"}), "linux.intelRdt.l3CacheSchema: \"L3:0=7f\""),
        (json!({"closID": "gold", "memBwSchema": "MB:0=30"}), "linux.intelRdt.memBwSchema: \"MB:0=30\""),
        (json!({"closID": "/", "schemata": ["L3:1=1f", "L2:0=1"]}), "linux.intelRdt.schemata[1]: \"L2:0=1\""),
        (json!({"closID": "iron"}), "linux.intelRdt.closID: the class"),
        (json!({"closID": "gold", "enableMbm": true}), "linux.intelRdt.enableMBM: this machine does not"),
    ] {
        match claim(&tree.plan(&asked)) {
            Ok(record) => assert_eq!((record.made.len(), expected), (0, ""), "{asked}"),
            Err(e) => assert!(!expected.is_empty() && e.to_string().starts_with(expected), "{asked}: {e}"),
        }
    }
    std::fs::create_dir_all(tree.0.join("c1")).unwrap();
    let error = claim(&tree.plan(&json!({}))).unwrap_err().to_string();
    assert!(error.contains("c1 exists already"), "{error}");
    std::fs::create_dir_all(tree.0.join("gold/mon_groups/c1")).unwrap();
    let error =
        claim(&tree.plan(&json!({"closID": "gold", "enableMonitoring": true}))).unwrap_err().to_string();
    assert!(error.starts_with("linux.intelRdt.enableMonitoring: "), "{error}");
    std::fs::remove_dir_all(tree.0.join("mon_groups")).unwrap();
    let error = claim(&tree.plan(&json!({"closID": "/", "enableMonitoring": true}))).unwrap_err().to_string();
    assert!(error.contains("no monitoring"), "{error}");
}

/// A class that another container has created in the meantime is not on record, and is not removed.
#[test]
fn only_directories_that_were_created_are_removed() {
    let tree = Tree::new("made");
    let gone = |dir: &str| !tree.0.join(dir).exists();

    // The directory is created. Without the kernel it has no file to write to.
    let plan = tree.plan(&json!({"closID": "iron", "l3CacheSchema": "L3:0=1"}));
    let mut record = claim(&plan).unwrap();
    assert_eq!(record.made, [tree.0.join("iron")]);
    let error = format!("{:#}", make(&plan, &mut record).unwrap_err());
    assert!(error.starts_with("linux.intelRdt.l3CacheSchema: "), "{error}");
    assert!(!gone("iron"));
    remove(&record).unwrap();
    assert!(gone("iron"));
    // The removal is repeated after an interruption.
    remove(&record).unwrap();

    for (asked, error) in [
        (json!({"closID": "iron", "l3CacheSchema": "L3:0=1"}), ""),
        (
            json!({"closID": "iron", "l3CacheSchema": "L3:0=2"}),
            "linux.intelRdt.l3CacheSchema: \"L3:0=2\" is wanted",
        ),
        (json!({}), "linux.intelRdt: mkdirat("),
        (json!({"closID": "gold", "enableMonitoring": true}), "linux.intelRdt.enableMonitoring: mkdirat("),
    ] {
        let plan = tree.plan(&asked);
        let mut record = claim(&plan).unwrap();
        let faster = record.made[0].clone();
        std::fs::create_dir(&faster).unwrap();
        std::fs::write(faster.join("schemata"), "L3:0=1\n").unwrap();
        match make(&plan, &mut record) {
            Ok(()) => assert_eq!(error, ""),
            Err(e) => assert!(!error.is_empty() && format!("{e:#}").starts_with(error), "{asked}: {e:#}"),
        }
        assert_eq!(record.made, [] as [PathBuf; 0], "{asked}");
        remove(&record).unwrap();
        assert!(faster.exists(), "{asked}");
        std::fs::remove_dir_all(&faster).unwrap();
    }
}

/// A class with other processes is left, also if it is named by the container's id. The container's
/// monitoring group is removed all the same.
#[test]
fn a_class_with_others_in_it_is_left() {
    let tree = Tree::new("others");
    for class in ["iron", "c1"] {
        others_keep(&tree, class);
    }
}

fn others_keep(tree: &Tree, class: &str) {
    let iron = tree.0.join(class);
    let monitor = iron.join("mon_groups/c1");
    std::fs::create_dir_all(&monitor).unwrap();
    let record = ClassRecord {
        mount: tree.0.clone(),
        group: iron.clone(),
        monitor: Some(monitor.clone()),
        made: vec![iron.clone(), monitor.clone()],
    };
    // A plain directory with files cannot be removed, unlike one of resctrl.
    let tasks = |text: &str| tree.file(&format!("{class}/tasks"), text);
    tasks(&format!("0\n{}\n", std::process::id()));
    remove(&record).unwrap();
    assert!(iron.exists() && !monitor.exists());
    tasks("0\n2147483647\n");
    assert_eq!(sys::errno(&remove(&record).unwrap_err()), Some(Errno::ENOTEMPTY), "it was tried");
}

/// The class is joined first: the kernel refuses a monitoring group to a process that is not in its class.
#[test]
fn processes_join_by_tasks() {
    let tree = Tree::new("enter");
    std::fs::create_dir(tree.0.join("gold/mon_groups/c1")).unwrap();
    tree.file("gold/mon_groups/c1/tasks", "");
    let gold = tree.0.join("gold");
    let monitor = Some(gold.join("mon_groups/c1"));
    let record = ClassRecord { mount: tree.0.clone(), group: gold, monitor, made: Vec::new() };
    let opened = join_fds(&record).unwrap();
    let first = fs::readlinkat(fs::CWD, &fs::proc_fd(opened[0].as_fd())).unwrap();
    assert!(first.ends_with("gold/tasks"), "{first:?}");
    join(opened).unwrap();
    assert_eq!(
        (tree.text("gold/tasks"), tree.text("gold/mon_groups/c1/tasks")),
        ("0\n".into(), "0\n".into())
    );
    std::fs::remove_file(tree.0.join("gold/tasks")).unwrap();
    assert!(format!("{:#}", join_fds(&record).unwrap_err()).starts_with("linux.intelRdt: open"));
}

/// `update` writes only the differences, and only to a class that was created for the container.
#[test]
fn only_the_containers_own_class_is_updated() {
    let tree = Tree::new("update");
    let gold = tree.0.join("gold");
    let made = vec![gold.clone()];
    let own = ClassRecord { mount: tree.0.clone(), group: gold, monitor: None, made };
    let l3 = |text: &str| vec![("l3CacheSchema", text.to_string())];
    for (record, schemas, expected) in [
        (None, l3("L3:0=1"), "--l3-cache-schema, --mem-bw-schema: the container has no linux.intelRdt"),
        (
            Some(ClassRecord { made: Vec::new(), ..own.clone() }),
            l3("L3:0=1"),
            "was not created for this container",
        ),
        (Some(own.clone()), l3("L3"), "--l3-cache-schema: \"L3\" is not of the form"),
        (Some(own.clone()), l3("L3CODE:0=1"), "--l3-cache-schema: this machine has no L3CODE to share"),
        (Some(own.clone()), vec![("memBwSchema", "L3:0=1".into())], "--mem-bw-schema: must begin"),
    ] {
        let error = Update::prepare(record.as_ref(), &schemas).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let both = [("l3CacheSchema", "L3:0=3".to_string()), ("memBwSchema", "MB:0=15".into())];
    let update = Update::prepare(Some(&own), &both).unwrap();
    let changes: Vec<_> = update.changes.iter().map(|c| (c.present.clone(), c.write.value.clone())).collect();
    assert_eq!(changes, [(Some("L3:0=07f0;1=001f".into()), "L3:0=3".into())]);
    // Only the beginning of a plain file is written over.
    tree.file("gold/schemata", "");
    update.apply().unwrap();
    assert_eq!(tree.text("gold/schemata"), "L3:0=3\n");
    update.undo();
    assert_eq!(tree.text("gold/schemata"), "L3:0=07f0;1=001f\n");
}

#[test]
fn the_saved_configuration_is_updated() {
    let new = |l3: &str, mb: &str| [("l3CacheSchema", l3.to_string()), ("memBwSchema", mb.to_string())];
    for (before, schemas, expected) in [
        (
            json!({}),
            &new("L3:0=1", "MB:0=5")[..],
            json!({"l3CacheSchema": "L3:0=1", "memBwSchema": "MB:0=5"}),
        ),
        (
            json!({"l3CacheSchema": "L3:0=f;1=f", "closID": "gold"}),
            &new("L3:1=3\nMB:0=7", "MB:0=5")[..1],
            json!({"l3CacheSchema": "L3:0=f;1=3", "closID": "gold"}),
        ),
        (
            json!({"schemata": ["L2:0=f", "L3:0=f;1=f"]}),
            &new("L3:1=3", "")[..1],
            json!({"schemata": ["L2:0=f", "L3:0=f;1=3"], "l3CacheSchema": "L3:1=3"}),
        ),
    ] {
        let mut rdt = before.clone();
        kept(&mut rdt, schemas);
        assert_eq!(rdt, expected, "{before}");
    }
}

/// The members are those of runc's `events`. Figures that do not exist or cannot be counted now are left out.
#[test]
fn statistics_are_those_of_runc() {
    let tree = Tree::new("stats");
    let gold = tree.0.join("gold");
    let record = ClassRecord { mount: tree.0.clone(), group: gold.clone(), monitor: None, made: Vec::new() };
    let schemas = json!({
        "mem_bw_info": {"bandwidth_gran": 10},
        "l3_cache_schema_root": "L3:0=07f0;1=001f", "l3_cache_schema": "L3:0=07f0;1=001f",
        "mem_bw_schema_root": "MB:0= 20;1=100", "mem_bw_schema": "MB:0= 20;1=100",
    });
    assert_eq!(stats::stats(&record), schemas);
    std::fs::create_dir_all(tree.0.join("info/L3")).unwrap();
    tree.file("info/L3/cbm_mask", "7ff\n");
    tree.file("info/L3/num_closids", "16\n");
    for (domain, total, local) in [("01", "Unavailable\n", "7\n"), ("00", "18446744073709551615\n", "5\n")] {
        let dir = format!("gold/mon_data/mon_L3_{domain}");
        std::fs::create_dir_all(tree.0.join(&dir)).unwrap();
        tree.file(&format!("{dir}/mbm_total_bytes"), total);
        tree.file(&format!("{dir}/mbm_local_bytes"), local);
    }
    let found = stats::stats(&record);
    assert_eq!(found["l3_cache_info"], json!({"cbm_mask": "7ff", "num_closids": 16}));
    let expected = json!([{"mbm_total_bytes": u64::MAX, "mbm_local_bytes": 5}, {"mbm_local_bytes": 7}]);
    assert_eq!((&found["mbm_stats"], found.get("cmt_stats")), (&expected, None));
    let own = ClassRecord { monitor: Some(gold.join("mon_groups/c1")), ..record };
    std::fs::create_dir_all(gold.join("mon_groups/c1/mon_data/mon_L3_00")).unwrap();
    tree.file("gold/mon_groups/c1/mon_data/mon_L3_00/llc_occupancy", "4096\n");
    let found = stats::stats(&own);
    assert_eq!((&found["cmt_stats"], found.get("mbm_stats")), (&json!([{"llc_occupancy": 4096}]), None));
}
