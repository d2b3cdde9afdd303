//! The settings and the usage of a class, in the form of runc's `events`. Members that the machine lacks are
//! left out.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{ClassRecord, schemata};
use crate::sys::fs;

/// Returns the trimmed text of a file, or `None` if it cannot be read.
pub(super) fn read(path: &Path) -> Option<String> {
    fs::read_text(fs::CWD, path).ok().map(|text| text.trim().to_string())
}

/// Returns the number in a file. A figure that cannot be counted now is shown as a word, such as
/// `Unavailable`.
pub(super) fn number(path: &Path) -> Option<u64> {
    read(path)?.parse().ok()
}

/// Returns the member `intel_rdt`.
#[must_use]
pub(crate) fn stats(record: &ClassRecord) -> Value {
    let mut all = Map::new();
    let info = record.mount.join("info");
    for (member, resource, words, numbers) in [
        ("l3_cache_info", "L3", &["cbm_mask"][..], &["min_cbm_bits", "num_closids"][..]),
        ("mem_bw_info", "MB", &[], &["bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"]),
    ] {
        let dir = info.join(resource);
        let words = words.iter().filter_map(|file| Some((*file, json!(read(&dir.join(file))?))));
        let numbers = numbers.iter().filter_map(|file| Some((*file, json!(number(&dir.join(file))?))));
        put(&mut all, member, words.chain(numbers).map(|(file, value)| (file.to_string(), value)).collect());
    }
    for (suffix, dir) in [("_root", &record.mount), ("", &record.group)] {
        let Some(text) = read(&dir.join("schemata")) else { continue };
        for (member, resource) in [("l3_cache_schema", "L3"), ("mem_bw_schema", "MB")] {
            if let Some(line) = schemata::line_of(&text, resource) {
                all.insert(format!("{member}{suffix}"), json!(line));
            }
        }
    }
    let data = record.monitor.as_ref().unwrap_or(&record.group).join("mon_data");
    let domains = domains(&data);
    for (member, files) in
        [("mbm_stats", &["mbm_total_bytes", "mbm_local_bytes"][..]), ("cmt_stats", &["llc_occupancy"])]
    {
        let counted = |domain: &String| -> Map<String, Value> {
            let dir = data.join(domain);
            let figures = files.iter().filter_map(|file| Some((*file, number(&dir.join(file))?)));
            figures.map(|(file, value)| (file.to_string(), json!(value))).collect()
        };
        let figures: Vec<Map<String, Value>> = domains.iter().map(counted).collect();
        if figures.iter().any(|figures| !figures.is_empty()) {
            all.insert(member.into(), json!(figures));
        }
    }
    Value::Object(all)
}

fn put(all: &mut Map<String, Value>, member: &str, value: Map<String, Value>) {
    if !value.is_empty() {
        all.insert(member.into(), Value::Object(value));
    }
}

/// Returns the directories of the monitored L3 caches, sorted.
fn domains(data: &Path) -> Vec<String> {
    let names = std::fs::read_dir(data).into_iter().flatten().flatten();
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("mon_L3_"))
        .collect();
    names.sort_unstable();
    names
}
