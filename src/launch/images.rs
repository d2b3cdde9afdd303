//! The images of a restore, for CRIU's processes in a user namespace.
//!
//! A process that CRIU makes there opens most images as root of the namespace, who is a stranger to files of the
//! host's root. An idmapped mount of the directory makes them root's own. But the process begins before its id
//! maps are written, as root of the host with the rights of nobody, and then reads the image of the clocks
//! ([`CLOCKS`]), to which the idmapped mount makes it a stranger in turn. A directory in which both may look, on
//! the stage, therefore has a copy of that image, and links to the others.
//!
//! The directory of an earlier dump (`parent`) gets the same.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::error::{Kind, Result, fail};
use crate::rootfs::{attach_in, directory_in};
use crate::sys::mount::{self, Depth};
use crate::sys::{self, fs};

/// The image of the clocks that count from the boot.
const CLOCKS: &str = "timens-0.img";

/// Its largest size in bytes.
const CLOCKS_MAX: u64 = 4096;

/// The link to the images of an earlier dump.
const PARENT: &str = "parent";

/// The most dumps that build on each other.
const DUMPS_MAX: usize = 256;

/// The mode of the directories. CRIU's processes also open that of an earlier dump.
const MODE: u32 = 0o755;

/// Makes the directory for root of the namespace `user` on the stage, and returns it. The umask is 0.
pub(super) fn of_user(stage: BorrowedFd, images: BorrowedFd, user: BorrowedFd) -> Result<OwnedFd> {
    let links = directory_in(stage, Path::new("images"), MODE)?;
    let mapped = directory_in(stage, Path::new("mapped"), MODE)?;
    let mut source = fs::dup(images)?;
    for number in 0..DUMPS_MAX {
        let name = number.to_string();
        let name = Path::new(&name);
        let copy = mount::open_tree_clone(source.as_fd(), Path::new(""), Depth::One)?;
        mount::mount_idmap(copy.as_fd(), Depth::One, user)?;
        attach_in(mapped.as_fd(), name, copy.as_fd())?;
        let made = directory_in(links.as_fd(), name, MODE)?;
        for image in fs::list_dir(source.as_fd())? {
            let target = match image.to_str() {
                Some(CLOCKS) if copy_clocks(source.as_fd(), made.as_fd())? => continue,
                Some(PARENT) => Path::new("..").join((number + 1).to_string()),
                _ => Path::new("../../mapped").join(name).join(&image),
            };
            fs::symlinkat(&target, made.as_fd(), &image)?;
        }
        let parent = Path::new(PARENT);
        let open = || fs::open(source.as_fd(), parent, fs::O_RDONLY | fs::O_DIRECTORY, 0);
        match fs::existing(source.as_fd(), parent, open)? {
            Some(parent) => source = parent,
            None => return Ok(fs::open(links.as_fd(), Path::new("0"), fs::O_RDONLY | fs::O_DIRECTORY, 0)?),
        }
    }
    Err(fail(Kind::Config, format!("more than {DUMPS_MAX} dumps build on each other")))
}

/// Copies the image of the clocks, unless a stranger has made it something else.
fn copy_clocks(from: BorrowedFd, to: BorrowedFd) -> Result<bool> {
    let name = Path::new(CLOCKS);
    let read = || -> sys::Result<Vec<u8>> {
        let file = fs::open(from, name, fs::O_RDONLY | fs::O_NOFOLLOW | libc::O_NONBLOCK, 0)?;
        fs::read_limited(file, CLOCKS_MAX)
    };
    let Ok(bytes) = read() else { return Ok(false) };
    let file = fs::open(to, name, fs::O_WRONLY | fs::O_CREAT | fs::O_EXCL, 0o644)?;
    fs::write_open(file.as_fd(), &bytes)?;
    Ok(true)
}
