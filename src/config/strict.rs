//! Refuses two kinds of documents that the types of oci-spec accept and should not.
//!
//! * A JSON array instead of an object. serde's derived code would read it as the object's members in
//!   their order: `"user": [0, 0]`, or `"linux": []`, which would be a container without namespaces.
//! * An object without a member that the specification requires and the types read as 0. Without `hostID` the
//!   container's root would be the host's root, and without `rate` nothing would be limited.
//!
//! [`Strict`] wraps a deserializer and every deserializer below it that can contain an object, and changes nothing
//! else. It also notices whether the document has a member that the types do not know ([`read`]).
//!
//! This code exists once for each type. Therefore it does as little as possible, and [`super::unknown`] finds out which
//! members those are.

use std::cell::Cell;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};

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

thread_local! {
    /// A member was ignored. It is not in the wrappers, because every one of them would have to pass it on.
    static IGNORED: Cell<bool> = const { Cell::new(false) };
}

/// Reads JSON into `T`. Also returns whether it has a member that the type does not know.
pub(super) fn read<'de, T: Deserialize<'de>>(text: &'de str) -> serde_json::Result<(T, bool)> {
    IGNORED.set(false);
    let mut json = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Strict(&mut json))?;
    json.end()?;
    Ok((value, IGNORED.get()))
}

/// A deserializer, a seed, the access to items, or the visitor of a value that may contain objects.
struct Strict<T>(T);

/// The visitor of an object.
struct Object<V> {
    inner: V,
    required: &'static [&'static str],
}

/// The access to an object's members. `missing` are the required members that have not been read yet.
struct Members<A> {
    inner: A,
    missing: Vec<&'static str>,
}

/// Passes on the calls for values that contain no object.
macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*))*) => {$(
        fn $name<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$name($($argument,)* visitor)
        }
    )*};
}

/// Passes on the calls for values that may contain objects.
macro_rules! wrap {
    ($($name:ident($($argument:ident: $type:ty),*))*) => {$(
        fn $name<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.0.$name($($argument,)* Strict(visitor))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Object { inner: visitor, required: required(name) })
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        IGNORED.set(true);
        self.0.deserialize_ignored_any(visitor)
    }

    wrap! {
        deserialize_option() deserialize_seq() deserialize_map()
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
    }

    // The types have no content in variants, and no member of any type that contains one of theirs.
    pass_on! {
        deserialize_any() deserialize_bool() deserialize_char() deserialize_str() deserialize_string()
        deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64() deserialize_i128()
        deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_bytes() deserialize_byte_buf()
        deserialize_unit() deserialize_identifier()
        deserialize_unit_struct(name: &'static str)
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Object<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<V::Value, A::Error> {
        // Reads to the end, so that the error has the position of the array instead of its first item.
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Err(A::Error::invalid_type(Unexpected::Seq, &self))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Members { inner: members, missing: self.required.to_vec() })
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(value))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, value: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Members { inner: members, missing: Vec::new() })
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Some(missing) = self.missing.first().copied() else { return self.inner.next_key_seed(seed) };
        match self.inner.next_key::<String>()? {
            Some(key) => {
                self.missing.retain(|name| *name != key);
                seed.deserialize(key.into_deserializer()).map(Some)
            }
            None => Err(A::Error::missing_field(missing)),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Strict(seed))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(deserializer))
    }
}
