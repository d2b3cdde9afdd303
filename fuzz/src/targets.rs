//! The targets: a function that takes an input, and the way in which inputs are changed.

pub mod devices;
pub mod documents;
pub mod json;
pub mod random;
pub mod seccomp;
pub mod texts;

use random::Random;

pub struct Target {
    pub name: &'static str,
    /// The function that takes an input. It panics if a requirement is not met.
    pub check: fn(&[u8]),
    /// The form of the input.
    pub form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A JSON document. Few documents with bytes changed at random would get past the parser.
    Json,
    Bytes,
}

pub const TARGETS: [Target; 9] = [
    Target { name: "config", check: documents::config, form: Form::Json },
    Target { name: "process", check: documents::process, form: Form::Json },
    Target { name: "state", check: documents::state, form: Form::Json },
    Target { name: "update", check: documents::update, form: Form::Json },
    Target { name: "seccomp", check: seccomp::check, form: Form::Json },
    Target { name: "devices", check: devices::check, form: Form::Bytes },
    Target { name: "dbus", check: texts::dbus, form: Form::Bytes },
    Target { name: "mountinfo", check: texts::mountinfo, form: Form::Bytes },
    Target { name: "users", check: texts::users, form: Form::Bytes },
];

/// Returns the target of this name, which must exist.
#[must_use]
pub fn named(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

/// Changes the input of `size` bytes in `data` and returns its new size. `by_bytes` changes bytes without
/// knowledge of the form.
pub fn mutated(
    name: &str,
    data: &mut [u8],
    size: usize,
    max_size: usize,
    seed: u32,
    by_bytes: impl FnOnce(&mut [u8], usize) -> usize,
) -> usize {
    let mut random = Random::new(seed.into());
    let blindly = random.one_in(6);
    if named(name).form == Form::Json && !blindly {
        let text = match name {
            "seccomp" if random.one_in(100) => Some(seccomp::profile(&mut random).to_string()),
            _ => json::mutate(&data[..size], &mut random),
        };
        if let Some(text) = text.filter(|text| text.len() <= max_size.min(data.len())) {
            data[..text.len()].copy_from_slice(text.as_bytes());
            return text.len();
        }
    }
    by_bytes(data, size)
}
