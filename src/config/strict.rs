//! Refuses two kinds of documents that the types of oci-spec accept and should not.
//!
//! * A JSON array instead of an object. serde's derived code would read it as the object's members in
//!   their order: `"user": [0, 0]`, or `"linux": []`, which would be a container without namespaces.
//! * An object without a member that the specification requires and the types read as 0. Without `hostID` the
//!   container's root would be the host's root, and without `rate` nothing would be limited.
//!
//! [`Strict`] wraps a deserializer and every deserializer below it, and changes nothing else. It also notices the
//! members that the types do not know ([`Ignored`]): the specification says that they must be ignored
//! (config.md#extensibility), but a misspelt one is worth a warning.

use std::cell::{Cell, RefCell};
use std::fmt;

use serde::de::{
    Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IgnoredAny,
    IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};

use super::place::{self, Level};

/// Returns the members that the specification requires and for which the type of this name has a default. The
/// ids of `user` are not among them, because every other runtime takes an absent id for 0.
fn required(name: &str) -> &'static [&'static str] {
    match name {
        "Root" => &["path"],
        "PosixRlimit" => &["hard", "soft"],
        "LinuxIOPriority" => &["class", "priority"],
        "LinuxIdMapping" => &["containerID", "hostID", "size"],
        "LinuxDevice" => &["path"],
        "LinuxDeviceCgroup" => &["allow"],
        "LinuxWeightDevice" => &["major", "minor"],
        "LinuxThrottleDevice" => &["major", "minor", "rate"],
        "LinuxHugepageLimit" => &["limit", "pageSize"],
        "LinuxInterfacePriority" => &["name", "priority"],
        _ => &[],
    }
}

/// The members that the types do not know. A first reading only notices whether there are any, which costs
/// nothing. A second one ([`unknown`]) follows the way through the document, and so knows their places.
#[derive(Default)]
pub(super) struct Ignored {
    any: Cell<bool>,
    trail: Option<RefCell<Trail>>,
}

/// The way to the value that is being read.
#[derive(Default)]
struct Trail {
    levels: Vec<Level>,
    /// The members that the types of the objects on the way know.
    known: Vec<&'static [&'static str]>,
    found: Vec<Unknown>,
}

/// A member that the types do not know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) place: String,
    pub(super) name: String,
    /// The members that its object can have.
    pub(super) known: &'static [&'static str],
}

impl Ignored {
    /// Reports whether a member was ignored.
    pub(super) fn any(&self) -> bool {
        self.any.get()
    }

    fn note(&self) {
        self.any.set(true);
        self.trail.iter().for_each(note);
    }

    // These are called for each value, by code that exists once for each type. Without a trail they cost one comparison, and
    // the work is in functions of their own.

    #[inline]
    fn enter(&self, level: impl FnOnce() -> Level) {
        if let Some(trail) = &self.trail {
            push(trail, level());
        }
    }

    #[inline]
    fn leave(&self) {
        if let Some(trail) = &self.trail {
            pop(trail);
        }
    }

    #[inline]
    fn open(&self, known: &'static [&'static str]) {
        if let Some(trail) = &self.trail {
            open(trail, known);
        }
    }

    #[inline]
    fn close(&self) {
        if let Some(trail) = &self.trail {
            close(trail);
        }
    }
}

#[cold]
fn note(trail: &RefCell<Trail>) {
    let trail = &mut *trail.borrow_mut();
    if let (Some(Level::Object(Some(name))), Some(known)) = (trail.levels.last(), trail.known.last()) {
        trail.found.push(Unknown { place: place::of(&trail.levels), name: name.clone(), known });
    }
}

#[cold]
fn push(trail: &RefCell<Trail>, level: Level) {
    trail.borrow_mut().levels.push(level);
}

#[cold]
fn pop(trail: &RefCell<Trail>) {
    trail.borrow_mut().levels.pop();
}

#[cold]
fn open(trail: &RefCell<Trail>, known: &'static [&'static str]) {
    trail.borrow_mut().known.push(known);
}

#[cold]
fn close(trail: &RefCell<Trail>) {
    trail.borrow_mut().known.pop();
}

/// Reads JSON into `T`.
pub(super) fn from_str<'de, T: Deserialize<'de>>(text: &'de str) -> serde_json::Result<T> {
    noticing(text, &Ignored::default())
}

/// Reads JSON into `T`, and notices whether a member was ignored.
pub(super) fn noticing<'de, T: Deserialize<'de>>(text: &'de str, ignored: &Ignored) -> serde_json::Result<T> {
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(strict(&mut json, ignored))?;
    json.end()?;
    Ok(value)
}

/// Converts a plain value to `T`.
pub(super) fn from_value<'de, T: Deserialize<'de>>(value: &'de serde_json::Value) -> serde_json::Result<T> {
    T::deserialize(strict(value, &Ignored::default()))
}

/// Returns the members of a value that `T` does not know. An error of the value ends the list. It is read as a text, because
/// the code for another form of a document would be a tenth of the executable.
pub(super) fn unknown<T: DeserializeOwned>(value: &serde_json::Value) -> Vec<Unknown> {
    let (text, ignored) =
        (value.to_string(), Ignored { trail: Some(RefCell::default()), ..Ignored::default() });
    let _ = noticing::<T>(&text, &ignored);
    ignored.trail.map(|trail| trail.into_inner().found).unwrap_or_default()
}

/// The members of an object.
#[derive(Clone, Copy)]
struct Shape {
    required: &'static [&'static str],
    known: &'static [&'static str],
}

/// A wrapped deserializer, visitor or seed. With `object`, the next value must be an object of this shape.
struct Strict<'a, T> {
    inner: T,
    object: Option<Shape>,
    ignored: &'a Ignored,
}

fn strict<T>(inner: T, ignored: &Ignored) -> Strict<'_, T> {
    Strict { inner, object: None, ignored }
}

/// The access to an object's members. `missing` are the required members that have not been read yet.
struct Members<'a, A> {
    inner: A,
    missing: Vec<&'static str>,
    ignored: &'a Ignored,
}

/// The access to an array's items.
struct Items<'a, A> {
    inner: A,
    next: usize,
    ignored: &'a Ignored,
}

macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*))*) => {$(
        fn $name<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$name($($argument,)* strict(visitor, self.ignored))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        let object = Some(Shape { required: required(name), known: fields });
        self.inner.deserialize_struct(name, fields, Strict { inner: visitor, object, ignored: self.ignored })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.ignored.note();
        self.inner.deserialize_ignored_any(strict(visitor, self.ignored))
    }

    pass_on! {
        deserialize_any() deserialize_bool() deserialize_char() deserialize_str() deserialize_string()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_bytes() deserialize_byte_buf()
        deserialize_option() deserialize_unit() deserialize_seq() deserialize_map()
        deserialize_identifier()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }
}

macro_rules! visit {
    ($($name:ident($type:ty))*) => {$(
        fn $name<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.inner.$name(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.object.is_some() { f.write_str("an object") } else { self.inner.expecting(f) }
    }

    visit! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64)
        visit_char(char) visit_str(&str) visit_borrowed_str(&'de str) visit_string(String)
        visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(strict(value, self.ignored))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.inner.visit_newtype_struct(strict(value, self.ignored))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<V::Value, A::Error> {
        if self.object.is_some() {
            // Reads to the end, so that the error has the position of the array instead of its first item.
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Err(A::Error::invalid_type(Unexpected::Seq, &self));
        }
        self.inner.visit_seq(Items { inner: items, next: 0, ignored: self.ignored })
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        let missing = self.object.map_or(&[][..], |object| object.required).to_vec();
        let known = self.object.map_or(&[][..], |object| object.known);
        self.ignored.open(known);
        let result = self.inner.visit_map(Members { inner: members, missing, ignored: self.ignored });
        self.ignored.close();
        result
    }

    fn visit_enum<A: EnumAccess<'de>>(self, variant: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(variant)
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.ignored.enter(|| Level::Array(self.next));
        let item = self.inner.next_element_seed(strict(seed, self.ignored));
        self.ignored.leave();
        self.next += 1;
        item
    }

    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        if self.missing.is_empty() && self.ignored.trail.is_none() {
            return self.inner.next_key_seed(strict(seed, self.ignored));
        }
        match self.inner.next_key::<String>()? {
            Some(key) => {
                self.missing.retain(|name| *name != key);
                self.ignored.enter(|| Level::Object(Some(key.clone())));
                seed.deserialize(key.into_deserializer()).map(Some)
            }
            None => self.missing.first().map_or(Ok(None), |name| Err(A::Error::missing_field(name))),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let value = self.inner.next_value_seed(strict(seed, self.ignored));
        self.ignored.leave();
        value
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(strict(deserializer, self.ignored))
    }
}
