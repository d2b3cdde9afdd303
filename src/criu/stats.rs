//! CRIU's statistics of a dump or a restore: the files `stats-dump` and `stats-restore`.

use std::os::fd::BorrowedFd;
use std::path::Path;

use prost::Message;
use serde_json::{Value, json};

use crate::sys::fs;

pub(crate) const DUMP: &str = "stats-dump";
pub(crate) const RESTORE: &str = "stats-restore";

/// The numbers before the message: one that all such files have, one for statistics, and the message's length.
const MAGIC: [u32; 2] = [0x5510_5940, 0x5709_3306];

const FILE_MAX: u64 = 4096;

/// Times are in microseconds.
#[derive(Clone, PartialEq, Message)]
struct Dump {
    #[prost(uint32, required, tag = "1")]
    freezing_time: u32,
    #[prost(uint32, required, tag = "2")]
    frozen_time: u32,
    #[prost(uint32, required, tag = "3")]
    memdump_time: u32,
    #[prost(uint32, required, tag = "4")]
    memwrite_time: u32,
    #[prost(uint64, required, tag = "5")]
    pages_scanned: u64,
    #[prost(uint64, required, tag = "6")]
    pages_skipped_parent: u64,
    #[prost(uint64, required, tag = "7")]
    pages_written: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Restore {
    #[prost(uint64, required, tag = "1")]
    pages_compared: u64,
    #[prost(uint64, required, tag = "2")]
    pages_skipped_cow: u64,
    #[prost(uint32, required, tag = "3")]
    forking_time: u32,
    #[prost(uint32, required, tag = "4")]
    restore_time: u32,
    #[prost(uint64, optional, tag = "5")]
    pages_restored: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(message, optional, tag = "1")]
    dump: Option<Dump>,
    #[prost(message, optional, tag = "2")]
    restore: Option<Restore>,
}

/// Returns the statistics as the object that Podman prints, or `None` if there are none.
pub(crate) fn read(work: BorrowedFd, name: &str) -> Option<Value> {
    let file = fs::open(work, Path::new(name), fs::O_RDONLY | fs::O_NOFOLLOW | libc::O_NONBLOCK, 0).ok()?;
    parse(&fs::read_limited(file, FILE_MAX).ok()?)
}

fn parse(bytes: &[u8]) -> Option<Value> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if [word(0)?, word(4)?] != MAGIC {
        return None;
    }
    let end = 12_usize.checked_add(word(8)? as usize)?;
    let entry = Entry::decode(bytes.get(12..end)?).ok()?;
    let dump = entry.dump.map(|dump| {
        json!({
            "freezing_time": dump.freezing_time,
            "frozen_time": dump.frozen_time,
            "memdump_time": dump.memdump_time,
            "memwrite_time": dump.memwrite_time,
            "pages_scanned": dump.pages_scanned,
            "pages_written": dump.pages_written,
        })
    });
    let restore = entry.restore.map(|restore| {
        json!({
            "forking_time": restore.forking_time,
            "restore_time": restore.restore_time,
            "pages_restored": restore.pages_restored.unwrap_or(0),
        })
    });
    dump.or(restore)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_numbers_before_its_message() {
        let restore = Restore {
            pages_compared: 1,
            pages_skipped_cow: 0,
            forking_time: 7,
            restore_time: 9,
            pages_restored: Some(30),
        };
        let message = Entry { dump: None, restore: Some(restore) }.encode_to_vec();
        let head = [MAGIC[0], MAGIC[1], message.len() as u32].map(u32::to_le_bytes).concat();
        let file = [head, message].concat();
        let expected = json!({"forking_time": 7, "restore_time": 9, "pages_restored": 30});
        assert_eq!(parse(&file), Some(expected));
        assert_eq!(parse(&file[..file.len() - 1]), None);
        assert_eq!(parse(&file[1..]), None);
    }
}
