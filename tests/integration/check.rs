//! `check`: what is wrong with a configuration, and what this host cannot do of it. And the warnings of other
//! commands about misspelt members.

use serde_json::json;

use crate::harness::isolated;

/// config.md#extensibility: unknown members must be ignored. A name near a known one is worth a warning.
#[test]
fn create_and_run_warn_once_about_misspelt_members_and_ignore_others() {
    isolated(|t| {
        let bundle = t.bundle(|c| {
            c["process"]["args"] = json!(["/bin/true"]);
            c["proces"] = json!({"cwd": 5});
            c["com.example"] = json!(1);
            c["root"]["readOnly"] = json!(true);
            c["linux"]["resources"] = json!({"memory": {"limt": 5, "x-mine": 1}});
        });
        let expected = "warning: linux.resources.memory.limt: unknown member, did you mean limit?; \
                        proces: unknown member, did you mean process?; \
                        root.readOnly: unknown member, did you mean readonly?\n";
        for words in [&["run", "-b", bundle.path(), "c1"][..], &["create", "-b", bundle.path(), "c2"]] {
            let out = t.corten(words);
            assert_eq!(out.code, 0, "{}", out.stderr);
            assert_eq!(out.stderr, expected);
        }
        let out = t.corten(&["start", "c2"]);
        assert_eq!((out.code, out.stderr.as_str()), (0, ""));
        t.delete("c2");
    });
}

#[test]
fn update_warns_about_a_misspelt_limit() {
    isolated(|t| {
        let bundle = t.bundle(|c| c["process"]["args"] = json!(["/bin/sleep", "100"]));
        t.start(&bundle, "c1");
        let file = bundle.dir.join("limits.json");
        std::fs::write(&file, r#"{"memory": {"limt": 5}, "x": 1}"#).unwrap();
        let out = t.corten(&["update", "--resources", file.to_str().unwrap(), "c1"]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert_eq!(out.stderr, "warning: memory.limt: unknown member, did you mean limit?\n");
        std::fs::remove_file(file).unwrap();
        t.delete("c1");
    });
}
