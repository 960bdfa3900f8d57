//! **Pure.** Names that fit a pattern, in which `*` stands for any text.

/// Whether a name fits; an empty pattern fits all.
pub fn fits(pattern: &str, name: &str) -> bool {
    if pattern.is_empty() {
        return true;
    }
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let check = |pattern, names: &[&str], others: &[&str]| {
            assert!(names.iter().all(|name| fits(pattern, name)), "{pattern}");
            assert!(!others.iter().any(|name| fits(pattern, name)), "{pattern}");
        };
        check("", &["a", "nightly"], &[]);
        check("*", &["a", "nightly"], &[]);
        check("nightly", &["nightly"], &["nightly-2", "a-nightly", "night"]);
        check("nightly*", &["nightly", "nightly-2"], &["a-nightly"]);
        check("*-eu", &["a-eu", "-eu"], &["a-eu-1", "eu"]);
        check("a*b*c", &["abc", "a-b-c", "abbcc"], &["acb", "ab", "abcd"]);
        check("ab*ba", &["abba", "ab-ba"], &["aba"]);
    }
}
