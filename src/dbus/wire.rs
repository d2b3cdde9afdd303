//! D-Bus messages as bytes (marshalling, in the words of the D-Bus specification), with the types that
//! systemd's interface needs.
//!
//! A message may come from a hostile peer. Lengths are checked against the received bytes before memory is
//! allocated. Values nest to a limited depth. Each value takes at least one byte of the message, so that
//! their number is limited.

use anyhow::anyhow;

use crate::error::Result;

/// The fixed part of a header: byte order, type, flags, version, length of the body, serial number, length of
/// the header's fields.
pub(crate) const FIXED: usize = 16;

/// The longest message that is read, in bytes. systemd's answers have a few hundred. In memory, the values of
/// a message may take a hundred times its length.
pub(super) const MAX: usize = 1 << 16;

/// The longest message that is valid, in bytes (D-Bus specification, "Message Format").
const LIMIT: usize = 1 << 27;

/// How deep values may nest; the specification allows twice 32.
const DEPTH: u32 = 16;

pub(super) const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// The flag of a message whose sender does not wait for an answer.
const NO_REPLY_EXPECTED: u8 = 1;

/// A value with its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    /// The bits of a double, which unlike doubles are comparable.
    Double(u64),
    Str(String),
    Path(String),
    Signature(String),
    Variant(Box<Value>),
    /// The signature of the elements, which an empty array needs too, and the elements.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    /// An entry of a dictionary, which is an array of entries.
    Entry(Box<(Value, Value)>),
}

impl Value {
    pub fn str(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    pub fn strings(texts: impl IntoIterator<Item = String>) -> Self {
        Self::Array("s".into(), texts.into_iter().map(Self::Str).collect())
    }

    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Array("y".into(), bytes.iter().copied().map(Self::Byte).collect())
    }

    pub fn variant(self) -> Self {
        Self::Variant(Box::new(self))
    }

    /// Returns the text of a value of one of the three textual types.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Path(text) | Self::Signature(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the signature of its type.
    #[must_use]
    pub fn signature(&self) -> String {
        signature(std::slice::from_ref(self))
    }

    fn add_signature(&self, out: &mut String) {
        let all = |out: &mut String, open, values: &[Self], close| {
            out.push(open);
            values.iter().for_each(|value| value.add_signature(out));
            out.push(close);
        };
        match self {
            Self::Array(element, _) => {
                out.push('a');
                out.push_str(element);
            }
            Self::Struct(values) => all(out, '(', values, ')'),
            Self::Entry(pair) => {
                out.push('{');
                pair.0.add_signature(out);
                pair.1.add_signature(out);
                out.push('}');
            }
            Self::Byte(_) => out.push('y'),
            Self::Bool(_) => out.push('b'),
            Self::I16(_) => out.push('n'),
            Self::U16(_) => out.push('q'),
            Self::I32(_) => out.push('i'),
            Self::U32(_) => out.push('u'),
            Self::I64(_) => out.push('x'),
            Self::U64(_) => out.push('t'),
            Self::Double(_) => out.push('d'),
            Self::Str(_) => out.push('s'),
            Self::Path(_) => out.push('o'),
            Self::Signature(_) => out.push('g'),
            Self::Variant(_) => out.push('v'),
        }
    }

    /// Appends the value at its alignment, which is relative to the beginning of `out`.
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Byte(n) => out.push(*n),
            Self::Bool(b) => write_number(out, &u32::from(*b).to_le_bytes()),
            Self::I16(n) => write_number(out, &n.to_le_bytes()),
            Self::U16(n) => write_number(out, &n.to_le_bytes()),
            Self::I32(n) => write_number(out, &n.to_le_bytes()),
            Self::U32(n) => write_number(out, &n.to_le_bytes()),
            Self::I64(n) => write_number(out, &n.to_le_bytes()),
            Self::U64(n) | Self::Double(n) => write_number(out, &n.to_le_bytes()),
            Self::Str(text) | Self::Path(text) => {
                write_number(out, &(text.len() as u32).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
                out.push(0);
            }
            Self::Signature(text) => write_signature(out, text),
            Self::Variant(value) => {
                write_signature(out, &value.signature());
                value.write(out);
            }
            Self::Array(element, values) => {
                write_number(out, &[0; 4]);
                let length_at = out.len() - 4;
                // The length excludes the padding before the first element. An empty array has the padding
                // too.
                pad(out, alignment(element.as_bytes().first().copied().unwrap_or(b'y')));
                let start = out.len();
                values.iter().for_each(|value| value.write(out));
                let length = (out.len() - start) as u32;
                out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Self::Struct(values) => {
                pad(out, 8);
                values.iter().for_each(|value| value.write(out));
            }
            Self::Entry(pair) => {
                pad(out, 8);
                pair.0.write(out);
                pair.1.write(out);
            }
        }
    }
}

fn pad(out: &mut Vec<u8>, alignment: usize) {
    out.resize(out.len().next_multiple_of(alignment), 0);
}

fn write_number(out: &mut Vec<u8>, bytes: &[u8]) {
    pad(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn write_signature(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn signature(values: &[Value]) -> String {
    let mut text = String::new();
    values.iter().for_each(|value| value.add_signature(&mut text));
    text
}

/// Returns the alignment of a type, from the first byte of its signature.
fn alignment(kind: u8) -> usize {
    match kind {
        b'y' | b'g' | b'v' => 1,
        b'n' | b'q' => 2,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 4,
    }
}

/// Whether the caller waits for a reply. If it does not, the call carries the flag NO_REPLY_EXPECTED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Expected,
    Unwanted,
}

/// A method to call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    /// `None` if the peer is systemd itself.
    pub destination: Option<&'a str>,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub body: &'a [Value],
}

impl Call<'_> {
    /// Returns the message. The receiver checks the lengths in it.
    pub(crate) fn encode(&self, serial: u32, reply: Reply) -> Vec<u8> {
        let mut body = Vec::new();
        self.body.iter().for_each(|value| value.write(&mut body));
        let field = |code: u8, value: Value| Value::Struct(vec![Value::Byte(code), value.variant()]);
        let mut fields = vec![
            field(1, Value::Path(self.path.into())),
            field(2, Value::str(self.interface)),
            field(3, Value::str(self.member)),
        ];
        fields.extend(self.destination.map(|name| field(6, Value::str(name))));
        if !self.body.is_empty() {
            fields.push(field(8, Value::Signature(signature(self.body))));
        }
        let flags = if reply == Reply::Expected { 0 } else { NO_REPLY_EXPECTED };
        let mut out = vec![b'l', METHOD_CALL, flags, 1];
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&serial.to_le_bytes());
        Value::Array("(yv)".into(), fields).write(&mut out);
        pad(&mut out, 8);
        out.extend_from_slice(&body);
        out
    }
}

/// A message that was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: Option<u32>,
    pub(super) path: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) member: Option<String>,
    pub(super) error: Option<String>,
    pub(super) sender: Option<String>,
    pub(crate) body: Vec<Value>,
}

pub(super) fn malformed(what: &str) -> anyhow::Error {
    anyhow!("a malformed D-Bus message: {what}")
}

/// Returns the length of the whole message that begins with `head`.
pub(crate) fn length(head: &[u8; FIXED]) -> Result<usize> {
    let mut reader = Reader::new(head)?;
    reader.at = 4;
    let body = reader.u32()? as usize;
    reader.at = 12;
    let fields = reader.u32()? as usize;
    if body > LIMIT || fields > LIMIT {
        return Err(malformed("it is too long"));
    }
    Ok((FIXED + fields).next_multiple_of(8) + body)
}

/// Reports whether the message that begins with `head` answers a call. A bus delivers answers only from the
/// called service, and other messages from every client.
pub(super) fn is_answer(head: &[u8; FIXED]) -> bool {
    matches!(head[1], METHOD_RETURN | ERROR)
}

impl Message {
    /// Parses a whole message of [`length`] bytes.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes)?;
        let mut message = Self { kind: bytes.get(1).copied().unwrap_or(0), ..Self::default() };
        reader.at = FIXED - 4;
        let Value::Array(_, fields) = reader.value(&mut &b"a(yv)"[..], 0)? else {
            return Err(malformed("no header"));
        };
        let mut signature = String::new();
        for field in fields {
            let Value::Struct(pair) = field else { continue };
            let [Value::Byte(code), Value::Variant(value)] = &pair[..] else { continue };
            match (code, &**value) {
                (1, Value::Path(text)) => message.path = Some(text.clone()),
                (2, Value::Str(text)) => message.interface = Some(text.clone()),
                (3, Value::Str(text)) => message.member = Some(text.clone()),
                (4, Value::Str(text)) => message.error = Some(text.clone()),
                (5, Value::U32(serial)) => message.reply_to = Some(*serial),
                (7, Value::Str(text)) => message.sender = Some(text.clone()),
                (8, Value::Signature(text)) => signature.clone_from(text),
                (1..=8, _) if *code != 6 => return Err(malformed("a header field of the wrong type")),
                _ => {}
            }
        }
        reader.align(8)?;
        let mut types = signature.as_bytes();
        while !types.is_empty() {
            message.body.push(reader.value(&mut types, 0)?);
        }
        if reader.at == bytes.len() { Ok(message) } else { Err(malformed("more bytes than values")) }
    }
}

/// Reads values from a message, which may have either byte order.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self> {
        match bytes {
            [b'l', _, _, 1, ..] => Ok(Self { bytes, at: 0, big: false }),
            [b'B', _, _, 1, ..] => Ok(Self { bytes, at: 0, big: true }),
            _ => Err(malformed("neither byte order, or another version")),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| malformed("it ends too early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, alignment: usize) -> Result<()> {
        let gap = self.at.next_multiple_of(alignment) - self.at;
        self.take(gap).map(drop)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.align(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn string(&mut self, length: usize) -> Result<String> {
        let bytes = self.take(length)?;
        if self.take(1)? != [0] || bytes.contains(&0) {
            return Err(malformed("text with a NUL"));
        }
        String::from_utf8(bytes.to_vec()).map_err(|_| malformed("text that is not UTF-8"))
    }

    /// Returns the value of the first type in `types`, and removes the type there.
    fn value(&mut self, types: &mut &[u8], depth: u32) -> Result<Value> {
        if depth > DEPTH {
            return Err(malformed("it nests too deep"));
        }
        let (&kind, rest) = types.split_first().ok_or_else(|| malformed("a type is missing"))?;
        *types = rest;
        Ok(match kind {
            b'y' => Value::Byte(self.take(1)?[0]),
            b'b' => Value::Bool(self.u32()? != 0),
            b'n' => Value::I16(i16::from_le_bytes(self.number()?)),
            b'q' => Value::U16(u16::from_le_bytes(self.number()?)),
            b'i' => Value::I32(i32::from_le_bytes(self.number()?)),
            // A descriptor is an index into the attached ones, which are not used.
            b'u' | b'h' => Value::U32(self.u32()?),
            b'x' => Value::I64(i64::from_le_bytes(self.number()?)),
            b't' => Value::U64(u64::from_le_bytes(self.number()?)),
            b'd' => Value::Double(u64::from_le_bytes(self.number()?)),
            b's' | b'o' => {
                let length = self.u32()? as usize;
                let text = self.string(length)?;
                if kind == b's' { Value::Str(text) } else { Value::Path(text) }
            }
            b'g' => Value::Signature(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                let mut types = inner.as_bytes();
                let value = self.value(&mut types, depth + 1)?;
                if !types.is_empty() {
                    return Err(malformed("a variant of several values"));
                }
                value.variant()
            }
            b'a' => self.array(types, depth)?,
            b'(' => {
                self.align(8)?;
                let mut values = Vec::new();
                while types.first() != Some(&b')') {
                    values.push(self.value(types, depth + 1)?);
                }
                *types = &types[1..];
                if values.is_empty() {
                    return Err(malformed("an empty structure"));
                }
                Value::Struct(values)
            }
            b'{' => {
                self.align(8)?;
                let pair = (self.value(types, depth + 1)?, self.value(types, depth + 1)?);
                *types = types.strip_prefix(b"}").ok_or_else(|| malformed("an entry that is no pair"))?;
                Value::Entry(Box::new(pair))
            }
            _ => return Err(malformed("an unknown type")),
        })
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.take(1)?[0];
        self.string(length.into())
    }

    fn array(&mut self, types: &mut &[u8], depth: u32) -> Result<Value> {
        let element = &types[..complete(types, depth)?];
        *types = &types[element.len()..];
        let length = self.u32()? as usize;
        self.align(alignment(element[0]))?;
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| malformed("an array that is too long"))?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(&mut &element[..], depth + 1)?);
        }
        if self.at != end {
            return Err(malformed("an array whose length is wrong"));
        }
        Ok(Value::Array(String::from_utf8_lossy(element).into_owned(), values))
    }
}

/// The length of the first complete type in a signature.
fn complete(types: &[u8], depth: u32) -> Result<usize> {
    let missing = || malformed("a signature that ends too early");
    if depth > DEPTH {
        return Err(malformed("it nests too deep"));
    }
    let close = match types.first().ok_or_else(missing)? {
        b'a' => return Ok(1 + complete(&types[1..], depth + 1)?),
        b'(' => b')',
        b'{' => b'}',
        _ => return Ok(1),
    };
    let mut length = 1;
    while *types.get(length).ok_or_else(missing)? != close {
        length += complete(&types[length..], depth + 1)?;
    }
    Ok(length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A signal with a body, as a peer would send it.
    fn signal(body: &[Value]) -> Vec<u8> {
        let call = Call { destination: None, path: "/p", interface: "a.B", member: "M", body };
        let mut bytes = call.encode(7, Reply::Expected);
        bytes[1] = SIGNAL;
        bytes
    }

    #[test]
    fn a_call_has_the_bytes_of_the_specification() {
        let call = Call {
            destination: Some("d.D"),
            path: "/",
            interface: "i.I",
            member: "M",
            body: &[Value::U32(5), Value::str("x")],
        };
        let mut expected = b"l\x01\x00\x01\x0a\0\0\0\x02\0\0\0".to_vec();
        expected.extend_from_slice(&(4 * 16u32 + 8).to_le_bytes());
        expected.extend_from_slice(b"\x01\x01o\0\x01\0\0\0/\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"\x02\x01s\0\x03\0\0\0i.I\0\0\0\0\0");
        expected.extend_from_slice(b"\x03\x01s\0\x01\0\0\0M\0\0\0\0\0\0\0");
        expected.extend_from_slice(b"\x06\x01s\0\x03\0\0\0d.D\0\0\0\0\0");
        expected.extend_from_slice(b"\x08\x01g\0\x02us\0");
        expected.extend_from_slice(b"\x05\0\0\0\x01\0\0\0x\0");
        assert_eq!(call.encode(2, Reply::Expected), expected);
        assert_eq!(call.encode(2, Reply::Unwanted)[2], NO_REPLY_EXPECTED);
    }

    #[test]
    fn what_is_written_is_read() {
        let property = Value::Struct(vec![Value::str("MemoryMax"), Value::U64(1 << 30).variant()]);
        let entry = Value::Entry(Box::new((Value::str("k"), Value::Bool(true).variant())));
        for body in [
            vec![],
            vec![Value::Byte(1), Value::Bool(true), Value::I16(-2), Value::U16(3)],
            vec![Value::Byte(1), Value::I64(-2), Value::Byte(1), Value::Double(1.5f64.to_bits())],
            vec![Value::Path("/org".into()), Value::Signature("a(sv)".into()), Value::str("ä")],
            vec![Value::str("u"), Value::Array("(sv)".into(), vec![property.clone(), property.clone()])],
            vec![Value::Array("(sv)".into(), vec![]), Value::Byte(9)],
            vec![Value::Array("(sa(sv))".into(), vec![]), Value::Array("u".into(), vec![Value::U32(4)])],
            vec![Value::Array("{sv}".into(), vec![entry])],
            vec![Value::bytes(&[1, 2, 3]).variant(), Value::strings(["a".into()]).variant()],
            vec![Value::Array("ay".into(), vec![Value::bytes(&[]), Value::bytes(&[1])])],
            vec![Value::Struct(vec![Value::I32(-1), Value::Struct(vec![Value::U64(1)])])],
        ] {
            let bytes = signal(&body);
            let head = bytes[..FIXED].try_into().unwrap();
            assert_eq!(length(head).unwrap(), bytes.len(), "{body:?}");
            let message = Message::parse(&bytes).unwrap();
            assert_eq!(message.body, body);
            assert_eq!((message.kind, message.member.as_deref()), (SIGNAL, Some("M")));
            assert_eq!((message.path.as_deref(), message.interface.as_deref()), (Some("/p"), Some("a.B")));
        }
    }

    #[test]
    fn both_byte_orders_are_read() {
        // An error reply from serial 1, to serial 9, with the text "no".
        let mut bytes = b"B\x03\x01\x01\0\0\0\x07\0\0\0\x01\0\0\0\x1f".to_vec();
        bytes.extend_from_slice(b"\x05\x01u\0\0\0\0\x09");
        bytes.extend_from_slice(b"\x04\x01s\0\0\0\0\x05a.b.C\0\0\0");
        bytes.extend_from_slice(b"\x08\x01g\0\x01s\0\0");
        bytes.extend_from_slice(b"\0\0\0\x02no\0");
        assert_eq!(length(bytes[..FIXED].try_into().unwrap()).unwrap(), bytes.len());
        let message = Message::parse(&bytes).unwrap();
        assert_eq!(
            (message.kind, message.reply_to, message.error.as_deref()),
            (ERROR, Some(9), Some("a.b.C"))
        );
        assert_eq!(message.body, [Value::str("no")]);
    }

    #[test]
    fn malformed_messages_are_errors() {
        let nested = |depth: usize| {
            let mut value = Value::Byte(1);
            (0..depth).for_each(|_| value = std::mem::replace(&mut value, Value::Byte(0)).variant());
            signal(&[value])
        };
        assert!(Message::parse(&nested(10)).is_ok());
        let good = signal(&[Value::str("text"), Value::bytes(&[1, 2])]);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let body = good.len() - 18;
        for (bytes, word) in [
            (nested(30), "deep"),
            (with(0, b'x'), "byte order"),
            (with(3, 2), "version"),
            (good[..good.len() - 1].to_vec(), "too long"),
            ([&good[..], &[0]].concat(), "more bytes"),
            (with(FIXED + 2, b's'), "wrong type"),
            (with(FIXED + 2, b'?'), "unknown type"),
            (with(body, 200), "too early"),
            (with(body + 5, 0), "NUL"),
            (with(body + 5, 0xff), "UTF-8"),
            (with(body + 12, 0xff), "too long"),
            (vec![], "byte order"),
        ] {
            let error = Message::parse(&bytes).unwrap_err().to_string();
            assert!(error.contains(word), "{error}: not {word}");
        }
        let mut long = [0; FIXED];
        long[..4].copy_from_slice(b"l\x01\0\x01");
        long[7] = 0x7f;
        assert!(length(&long).unwrap_err().to_string().contains("too long"));
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        let property = Value::Struct(vec![Value::str("MemoryMax"), Value::U64(1).variant()]);
        let good =
            signal(&[Value::str("u"), Value::Array("(sv)".into(), vec![property]), Value::bytes(&[1])]);
        let mut read = 0;
        for round in 0..60_000 {
            let mut bytes = if round % 3 == 0 {
                let mut bytes: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
                bytes.splice(..0, *b"l\x02\0\x01");
                bytes
            } else {
                good.clone()
            };
            for _ in 0..=next() % 4 {
                let at = next() as usize % bytes.len();
                bytes[at] = next() as u8;
            }
            if let Some(head) = bytes.first_chunk() {
                assert!(length(head).is_ok_and(|n| n <= 3 * LIMIT) || length(head).is_err());
            }
            read += u32::from(Message::parse(&bytes).is_ok());
        }
        assert!(read > 100, "{read} messages of these can be read");
    }
}
