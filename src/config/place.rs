//! Finds the place in a JSON document that a line and a column point to.

/// A step of the way to a value: the index in an array, or the member of an object.
pub(super) enum Level {
    Array(usize),
    Object(Option<String>),
}

/// Returns the place of the last value that begins before a position, such as `mounts[3].destination`. The
/// result is empty for the document itself. The document must be valid JSON up to the position.
pub(super) fn at(text: &str, line: usize, column: usize) -> String {
    let end = offset(text, line, column);
    let bytes = &text.as_bytes()[..end];
    let mut levels: Vec<Level> = Vec::new();
    let mut i = 0;
    while let Some(byte) = bytes.get(i) {
        i += 1;
        match byte {
            b'{' => levels.push(Level::Object(None)),
            b'[' => levels.push(Level::Array(0)),
            b'}' | b']' => drop(levels.pop()),
            b',' => match levels.last_mut() {
                Some(Level::Array(index)) => *index += 1,
                Some(Level::Object(key)) => *key = None,
                None => {}
            },
            b'"' => {
                let start = i;
                while bytes.get(i).is_some_and(|b| *b != b'"') {
                    i += if bytes[i] == b'\\' { 2 } else { 1 };
                }
                let word = bytes.get(start..i.min(end)).unwrap_or_default();
                i += 1;
                if let Some(Level::Object(key @ None)) = levels.last_mut() {
                    *key = Some(String::from_utf8_lossy(word).into_owned());
                }
            }
            _ => {}
        }
    }
    of(&levels)
}

/// Returns the place that these steps lead to.
pub(super) fn of(levels: &[Level]) -> String {
    levels.iter().fold(String::new(), |place, level| place + &step(level)).trim_start_matches('.').to_string()
}

fn step(level: &Level) -> String {
    match level {
        Level::Array(index) => format!("[{index}]"),
        Level::Object(None) => String::new(),
        Level::Object(Some(key)) if key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
            format!(".{key}")
        }
        Level::Object(Some(key)) => format!("[\"{key}\"]"),
    }
}

/// Returns the number of bytes before a position. serde_json counts columns in bytes, from 1.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column).min(text.len())
}
