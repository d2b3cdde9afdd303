//! The images of a restore, which may be a stranger's, with a CRIU that does what a test asks for (examples/criu.rs).

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use corten::testing::criu::message::Type;
use serde_json::json;

use crate::harness::{Criu, View, isolated, isolated_in, remains, traces};
use crate::namespaces::{give_rootfs, map_ids};

/// The images can be a stranger's. Nothing in the place of their only file that is read does harm.
#[test]
fn wrong_images_are_reported() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        let file = criu.images.join("descriptors.json");
        let fails = |text: &str| {
            criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).fails(text).exits(1);
            assert_eq!(criu.take(Type::Version), None, "CRIU was started");
        };
        for text in ["", "{", "{}", "7", "[1]", "[null]", "\u{0}"] {
            criu.describe(text);
            fails("restore c1: descriptors.json: ");
        }
        criu.describe(&format!("[\"{}\"]", "x".repeat(64 << 10)));
        fails("restore c1: descriptors.json: ");
        fs::remove_file(&file).unwrap();
        fails("--image-path: has no descriptors.json (hint: is it the directory of a checkpoint?)");
        symlink("/dev/zero", &file).unwrap();
        fails("descriptors.json");
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        fails("descriptors.json");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        fails("descriptors.json");
        let call = |images: &str| {
            let args = [
                "--criu",
                criu.program(),
                "restore",
                "-d",
                "--image-path",
                images,
                "-b",
                bundle.path(),
                "c1",
            ];
            t.call(t.command(&args).current_dir(&t.dir))
        };
        fs::write(t.dir.join("file"), "").unwrap();
        call("none").fails("restore c1: --image-path none: ");
        call("file").fails("restore c1: --image-path file: ");
        assert!(!t.dir.join("none").exists());
        let work = t.dir.join("file");
        criu.restore(t, &["-d", "-b", bundle.path(), "--work-path", work.to_str().unwrap(), "c1"])
            .fails("restore c1: --work-path");
        // A relative path, and one through a link.
        fs::remove_dir(&file).unwrap();
        criu.describe("[]");
        symlink(&criu.images, t.dir.join("link")).unwrap();
        for images in ["my-images", "link"] {
            call(images).ok();
            t.delete("c1");
        }
    });
}

/// A process in a new user namespace reads the image of the clocks as nobody, and all others, also those of an earlier dump, as
/// root of the namespace. Nobody else reads them.
#[test]
fn root_of_a_user_namespace_reads_the_images() {
    isolated(|t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(map_ids);
        give_rootfs(t, &bundle);
        let earlier = t.dir.join("my-earlier");
        fs::create_dir(&earlier).unwrap();
        for (name, text) in [("timens-0.img", "clocks"), ("core-1.img", "core")] {
            fs::write(criu.images.join(name), text).unwrap();
        }
        fs::write(earlier.join("pages-1.img"), "pages").unwrap();
        symlink("../my-earlier", criu.images.join("parent")).unwrap();
        for dir in [&criu.images, &earlier] {
            fs::set_permissions(dir, Permissions::from_mode(0o700)).unwrap();
            for file in
                fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file())
            {
                fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
            }
        }
        let (nobody, mapped) = (65534, 100_000);
        let rows = [
            (nobody, "timens-0.img", "clocks"),
            (nobody, "core-1.img", ""),
            (nobody, "parent/pages-1.img", ""),
            (mapped, "timens-0.img", "clocks"),
            (mapped, "core-1.img", "core"),
            (mapped, "parent/pages-1.img", "pages"),
            (mapped, "parent", "pages-1.img"),
        ];
        criu.script(&json!({"reads": rows.map(|(user, name, _)| json!([user, name]))}));
        criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).ok();
        assert_eq!(criu.texts(), rows.map(|(.., text)| text));
        t.delete("c1");
        // Dumps that build on each other in a circle.
        fs::remove_file(criu.images.join("parent")).unwrap();
        symlink(".", criu.images.join("parent")).unwrap();
        let output = criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).exits(0);
        assert!(
            output.stderr.contains("--image-path: root of the user namespace may not read there: more than"),
            "{output:?}"
        );
        t.delete("c1");
    });
}

/// The images can put any process into any cgroup of the host.
#[test]
fn a_process_outside_of_the_containers_cgroup_is_refused() {
    isolated_in(View::V2, |t| {
        let criu = Criu::new(&t.dir);
        let bundle = t.bundle(|_| {});
        let before = traces(t);
        criu.script(&json!({"stray": "/sys/fs/cgroup/harness/cgroup.procs"}));
        let output = criu.restore(t, &["-d", "-b", bundle.path(), "c1"]).exits(1);
        let text = "error: restore c1: the images put a process into the cgroup /";
        assert!(output.stderr.starts_with(text), "{output:?}");
        assert!(output.stderr.ends_with("/harness, outside of the container's\n"), "{output:?}");
        assert_eq!(remains(t, &before), [""; 0]);
    });
}
