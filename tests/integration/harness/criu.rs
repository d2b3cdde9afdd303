//! The CRIU of tests, examples/criu.rs, and the directory of its images.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use corten::testing::criu::message::{Options, Request, Type};
use prost::Message;
use serde_json::{Value, json};

use super::{Output, Test, skip};

pub struct Criu {
    program: PathBuf,
    /// The directory of the images, with the `descriptors.json` of a container without streams of the host.
    pub images: PathBuf,
}

impl Criu {
    /// Makes a CRIU in a directory. Its names begin with `my-`.
    pub fn new(dir: &Path) -> Self {
        let own = std::env::current_exe().unwrap();
        let built = own.parent().unwrap().with_file_name("examples/criu");
        let built = std::env::var_os("CORTEN_TEST_CRIU").map_or(built, PathBuf::from);
        if !built.exists() {
            skip("examples/criu is not built (hint: cargo build --example criu)");
        }
        let criu = Self { program: dir.join("my-criu"), images: dir.join("my-images") };
        symlink(built, &criu.program).unwrap();
        fs::create_dir(&criu.images).unwrap();
        criu.describe(&json!(["/dev/null", "/dev/null", "/dev/null"]).to_string());
        criu
    }

    pub fn program(&self) -> &str {
        self.program.to_str().unwrap()
    }

    pub fn images(&self) -> &str {
        self.images.to_str().unwrap()
    }

    /// Writes `descriptors.json`.
    pub fn describe(&self, text: &str) {
        fs::write(self.images.join("descriptors.json"), text).unwrap();
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.program.with_extension(extension)
    }

    /// Says how CRIU misbehaves from now on: its script, as the header of the example describes it.
    pub fn script(&self, script: &Value) {
        fs::write(self.beside("json"), script.to_string()).unwrap();
    }

    /// Calls `checkpoint` or `restore`, with this CRIU and the directory of the images.
    pub fn call(&self, t: &Test, verb: &str, args: &[&str]) -> Output {
        t.corten(&[&["--criu", self.program(), verb, "--image-path", self.images()], args].concat())
    }

    pub fn checkpoint(&self, t: &Test, args: &[&str]) -> Output {
        self.call(t, "checkpoint", args)
    }

    pub fn restore(&self, t: &Test, args: &[&str]) -> Output {
        self.call(t, "restore", args)
    }

    /// Returns what it has read of the images.
    pub fn texts(&self) -> Vec<String> {
        serde_json::from_slice(&fs::read(self.beside("reads")).unwrap()).unwrap()
    }

    /// Takes the last request of this kind.
    pub fn take(&self, kind: Type) -> Option<Request> {
        let file = self.beside(&format!("{kind:?}"));
        let bytes = fs::read(&file).ok()?;
        fs::remove_file(file).unwrap();
        Some(Request::decode(&bytes[..]).unwrap())
    }

    /// Takes the options of the last request of this kind.
    pub fn options(&self, kind: Type) -> Options {
        self.take(kind).and_then(|request| request.options).expect("CRIU got no request with options")
    }
}
