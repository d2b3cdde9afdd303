//! The known word that somebody probably meant by a misspelt one.

/// Returns the candidate that is nearest to `word` by edit distance, if one is near enough: at most a third of
/// the word's letters differ. Of equally near ones it is the first.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3).min(3);
    // The distance is at least the difference of the lengths. This spares the work for very long words.
    let length = word.chars().count();
    let candidates = candidates.into_iter().filter(|c| c.chars().count().abs_diff(length) <= limit);
    let measured = candidates.map(|candidate| (distance(word, candidate), candidate));
    measured.filter(|(distance, _)| *distance <= limit).min_by_key(|(distance, _)| *distance).map(|(_, c)| c)
}

/// Returns how many letters have to be added, removed, replaced or exchanged with the next one to make `b` of
/// `a`, without regard to case. This is the "optimal string alignment" distance.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    let (a, b) = (letters(a), letters(b));
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                let exchanged: usize = before[j - 2];
                least = least.min(exchanged + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let words = ["process", "readonly", "limit", "createRuntime", "root", "rootfs", "state", "start"];
        for (word, expected) in [
            ("proces", Some("process")),
            ("readOnly", Some("readonly")),
            ("limt", Some("limit")),
            ("lmiit", Some("limit")),
            ("createRuntme", Some("createRuntime")),
            ("rot", Some("root")),
            ("strat", Some("start")),
            ("", None),
            ("x", None),
            ("annotations", None),
        ] {
            assert_eq!(nearest(word, words), expected, "{word}");
        }
    }

    #[test]
    fn distances_are_symmetric() {
        for (a, b, expected) in
            [("", "", 0), ("", "ab", 2), ("ab", "ba", 1), ("kitten", "sitting", 3), ("Ä", "ä", 0)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
