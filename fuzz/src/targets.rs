//! The targets: what is done with an input, and how one input is made of another.

pub mod devices;
pub mod documents;
pub mod json;
pub mod random;
pub mod seccomp;
pub mod texts;

use random::Random;

pub struct Target {
    pub name: &'static str,
    /// Panics where something is not as it should be.
    pub check: fn(&[u8]),
    /// What the input looks like.
    pub form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A JSON document: bytes changed blindly would hardly get past the parser.
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

/// The target of this name, which must be one.
#[must_use]
pub fn named(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

/// Changes the input of `size` bytes in `data` and returns its new size; `by_bytes` does so without knowing what it is.
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
