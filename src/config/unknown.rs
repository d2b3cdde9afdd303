//! The members of a document that the specification does not have. They are ignored, as the specification wants
//! (config.md#extensibility). A member whose name is near a known one is probably misspelt.
//!
//! A document is searched for them only after the types of oci-spec have ignored one ([`super::strict`]), or if it has
//! errors.

use serde_json::{Map, Value};

use super::place::{self, Level};
use crate::suggest;

/// A member that the specification does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    pub place: String,
    /// The member that it probably means.
    pub meant: Option<&'static str>,
}

impl Unknown {
    /// Returns the text of a warning.
    #[must_use]
    pub(crate) fn message(&self) -> String {
        self.meant
            .map_or_else(|| "unknown member".into(), |meant| format!("unknown member, did you mean {meant}?"))
    }
}

/// The most members that one warning names.
const NAMED_MAX: usize = 16;

/// Returns one warning about all members that are probably misspelt. The others may be extensions.
pub(crate) fn misspelt(unknown: &[Unknown]) -> Option<String> {
    let near = unknown.iter().filter(|member| member.meant.is_some());
    let texts: Vec<String> = near.map(|member| format!("{}: {}", member.place, member.message())).collect();
    let more = texts.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    (!texts.is_empty()).then(|| texts[..texts.len().min(NAMED_MAX)].join("; ") + &more)
}

/// The members that an object of each type can have, a type a line. After a colon is the type of the member's objects,
/// which may be items of arrays. In braces it is that of a map's values. Without a type a member may contain
/// anything. A text needs no work when a command starts, but each name in an array would.
const MEMBERS: &str = include_str!("unknown/members.txt");

/// Returns the unknown members of a configuration.
pub(super) fn in_configuration(value: &Value) -> Vec<Unknown> {
    of_type("Spec", value)
}

/// Returns the unknown members of a process document.
pub(super) fn in_process(value: &Value) -> Vec<Unknown> {
    of_type("Process", value)
}

/// Returns the unknown members of a `linux.resources` document.
pub(crate) fn in_resources(value: &Value) -> Vec<Unknown> {
    of_type("LinuxResources", value)
}

fn of_type(name: &str, value: &Value) -> Vec<Unknown> {
    let mut walk = Walk::default();
    walk.value(value, name);
    walk.found
}

/// A walk through a document.
#[derive(Default)]
struct Walk {
    /// The way to the value.
    levels: Vec<Level>,
    found: Vec<Unknown>,
}

impl Walk {
    /// Walks through a value whose objects are of a type.
    fn value(&mut self, value: &Value, name: &str) {
        match value {
            Value::Object(members) => self.object(members, name),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.below(Level::Array(index), |walk| walk.value(item, name));
                }
            }
            _ => {}
        }
    }

    fn object(&mut self, members: &Map<String, Value>, name: &str) {
        // A member that is null is absent.
        for (member, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            self.below(Level::Object(Some(member.clone())), |walk| {
                match known(name).find(|(known, _)| known == member) {
                    Some((_, of_map)) if of_map.starts_with('{') => {
                        let name = of_map.trim_matches(['{', '}']);
                        for (key, value) in value.as_object().into_iter().flatten() {
                            walk.below(Level::Object(Some(key.clone())), |walk| walk.value(value, name));
                        }
                    }
                    Some((_, "")) => {}
                    Some((_, name)) => walk.value(value, name),
                    None => {
                        let meant = suggest::nearest(member, known(name).map(|(known, _)| known));
                        walk.found.push(Unknown { place: place::of(&walk.levels), meant });
                    }
                }
            });
        }
    }

    fn below(&mut self, level: Level, walk: impl FnOnce(&mut Self)) {
        self.levels.push(level);
        walk(self);
        self.levels.pop();
    }
}

/// Returns the members of a type, each with the type of its objects.
fn known(name: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let members = MEMBERS.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let members = members.into_iter().flat_map(str::split_ascii_whitespace);
    members.map(|member| member.split_once(':').unwrap_or((member, "")))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use oci_spec::runtime::Spec;
    use serde::de::value::{Error, StrDeserializer};
    use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
    use serde::forward_to_deserialize_any;

    use super::*;
    use crate::config::{Version, parse, parse_process, parse_resources};

    fn unknown(members: &str) -> Vec<Unknown> {
        parse(format!("{{\"ociVersion\":\"1.2.0\",{members}}}")).unwrap().unknown
    }

    #[test]
    fn unknown_members_have_their_place_and_the_known_one_that_is_near() {
        let process =
            |members: &str| format!(r#""process":{{"cwd":"/","user":{{"uid":0,"gid":0}},{members}}}"#);
        let linux = |members: &str| format!(r#""linux":{{{members}}}"#);
        for (members, expected) in [
            (r#""proces":{"cwd":5}"#.into(), "proces: unknown member, did you mean process?"),
            (r#""x-engine":[{"y":1}],"absent":null"#.into(), "[\"x-engine\"]: unknown member"),
            (
                r#""root":{"path":"r","readOnly":true}"#.into(),
                "root.readOnly: unknown member, did you mean readonly?",
            ),
            (
                r#""hooks":{"createRuntme":[],"poststop":[{"path":"/x","timout":1}]}"#.into(),
                "hooks.createRuntme: unknown member, did you mean createRuntime?; \
                 hooks.poststop[0].timout: unknown member, did you mean timeout?",
            ),
            (
                r#""mounts":[{"destination":"/a"},{"destination":"/b","sorce":"/c"}]"#.into(),
                "mounts[1].sorce: unknown member, did you mean source?",
            ),
            (
                process(
                    r#""noNewPriviliges":true,"capabilites":{},"rlimits":[{"type":"RLIMIT_CORE","hard":0,"soft":0,"x":1}]"#,
                ),
                "process.capabilites: unknown member, did you mean capabilities?; \
                 process.noNewPriviliges: unknown member, did you mean noNewPrivileges?; \
                 process.rlimits[0].x: unknown member",
            ),
            (
                linux(r#""resources":{"memory":{"limt":5},"pids":{"limit":5},"unified":{"limt":"5"}}"#),
                "linux.resources.memory.limt: unknown member, did you mean limit?",
            ),
            (
                linux(
                    r#""seccomp":{"defaultAction":"SCMP_ACT_ALLOW","archtectures":[],
                    "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","errnoret":1}]}"#,
                ),
                "linux.seccomp.archtectures: unknown member, did you mean architectures?; \
                 linux.seccomp.syscalls[0].errnoret: unknown member, did you mean errnoRet?",
            ),
            // The document is repaired, and converted a second time.
            (
                linux(r#""resources":{"pids":{},"memry":{}},"intelRdt":{"enableCMT":true,"enableCM":true}"#),
                "linux.intelRdt.enableCM: unknown member, did you mean enableCMT?; \
                 linux.resources.memry: unknown member, did you mean memory?",
            ),
            // Maps have any members, and the sections of other platforms are nobody's here.
            (
                r#""annotations":{"proces":"x"},"windows":{"proces":1},"freebsd":{"jail":{}},"zos":{"x":1}"#
                    .into(),
                "",
            ),
        ] {
            let texts: Vec<String> =
                unknown(&members).iter().map(|m| format!("{}: {}", m.place, m.message())).collect();
            assert_eq!(texts.join("; "), expected, "{members}");
        }
    }

    #[test]
    fn one_warning_names_the_misspelt_members_only() {
        let found = unknown(r#""proces":{},"com.example":1,"root":{"path":"r","readOnly":true}"#);
        let expected = "proces: unknown member, did you mean process?; \
                        root.readOnly: unknown member, did you mean readonly?";
        assert_eq!(misspelt(&found).as_deref(), Some(expected));
        assert_eq!(misspelt(&unknown(r#""com.example":1"#)), None);
        let many = vec![r#"{"destination":"/","tpe":"x"}"#; NAMED_MAX + 2].join(",");
        let many = misspelt(&unknown(&format!(r#""mounts":[{many}]"#))).unwrap();
        assert!(many.ends_with("did you mean type?; and 2 more"), "{many}");
        let process = r#"{"cwd":"/","user":{"uid":0,"gid":0},"agrs":["sh"],"x":1}"#;
        let (_, warnings) = parse_process(process, Version::NEWEST).unwrap();
        assert_eq!(warnings, ["agrs: unknown member, did you mean args?"]);
        let (resources, _) = parse_resources(r#"{"memory":{"limt":5},"x":1}"#).unwrap();
        let expected = "memory.limt: unknown member, did you mean limit?";
        assert_eq!(misspelt(&in_resources(&resources)).as_deref(), Some(expected));
    }

    /// Every member that the types of the specification's version 1.3.0 have for Linux (specs-go/config.go).
    #[test]
    fn every_member_of_the_specification_is_known() {
        let text = include_str!("unknown/all-members.json");
        let config = parse(text.into()).unwrap();
        assert_eq!(config.unknown, []);
        assert_eq!(config.warnings, [""; 0]);
    }

    /// Follows a way of member names into a type, and notes the type of the objects there.
    #[derive(Clone, Copy)]
    struct Probe<'a> {
        way: &'a [&'static str],
        of_map: bool,
        found: &'a RefCell<Option<Found>>,
    }

    #[derive(Debug)]
    struct Found {
        name: &'static str,
        members: &'static [&'static str],
        of_map: bool,
    }

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("no object"))
        }

        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_some(self)
        }

        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_seq(self)
        }

        fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let (found, of_map) = (self.found, self.way.is_empty());
            visitor.visit_map(Member(Some("key"), Self { of_map, found, ..self }))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            members: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            match self.way {
                [] => {
                    *self.found.borrow_mut() = Some(Found { name, members, of_map: self.of_map });
                    Err(Error::custom("found"))
                }
                [next, way @ ..] => visitor.visit_map(Member(Some(*next), Self { way, ..self })),
            }
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
            newtype_struct tuple tuple_struct enum identifier ignored_any
        }
    }

    impl<'de> SeqAccess<'de> for Probe<'_> {
        type Error = Error;

        fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
            seed.deserialize(*self).map(Some)
        }
    }

    /// An object with one member.
    struct Member<'a>(Option<&'static str>, Probe<'a>);

    impl<'de> MapAccess<'de> for Member<'_> {
        type Error = Error;

        fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
            self.0.take().map(|key| seed.deserialize(StrDeserializer::new(key))).transpose()
        }

        fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
            seed.deserialize(self.1)
        }
    }

    fn probe(way: &[&'static str]) -> Option<Found> {
        let found = RefCell::default();
        let _ = Spec::deserialize(Probe { way, of_map: false, found: &found });
        found.into_inner()
    }

    /// Adds the lines of the type at a way, and of the types below it.
    fn list(way: &mut Vec<&'static str>, lines: &mut BTreeMap<&'static str, Vec<String>>) -> Option<String> {
        let Found { name, members, of_map } = probe(way)?;
        if !lines.contains_key(name) {
            lines.insert(name, Vec::new());
            let mut line = Vec::new();
            for member in members {
                // The sections of other platforms may contain anything. The types lack one of them.
                let foreign = way.is_empty() && ["solaris", "vm", "windows", "zos"].contains(member);
                way.push(member);
                let below = if foreign { None } else { list(way, lines) };
                way.pop();
                // The types have two members under names that the specification does not have.
                let member = match *member {
                    "enableCmt" => "enableCMT",
                    "enableMbm" => "enableMBM",
                    other => other,
                };
                line.push(below.map_or(member.into(), |below| format!("{member}:{below}")));
            }
            line.extend(way.is_empty().then(|| "freebsd".into()));
            line.sort_unstable();
            lines.insert(name, line);
        }
        Some(if of_map { format!("{{{name}}}") } else { name.into() })
    }

    #[test]
    fn the_table_has_the_members_of_the_types() {
        let mut lines = BTreeMap::new();
        list(&mut Vec::new(), &mut lines).unwrap();
        let lines: Vec<String> =
            lines.iter().map(|(name, members)| format!("{name} {}", members.join(" "))).collect();
        let table: Vec<String> = MEMBERS.lines().map(Into::into).collect();
        assert!(lines == table, "the table must be:\n{}", lines.join("\n"));
    }
}
