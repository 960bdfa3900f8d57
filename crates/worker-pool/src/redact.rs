//! **Pure.** Takes secrets out of output as it streams by, also where one lies across two pieces.

/// Shorter values would black out half of any text; they are not hidden, and the docs say so.
const SECRET_BYTES_MIN: usize = 4;
const MASK: &[u8] = b"***";

/// Replaces secrets by `***`. What may be the beginning of one is held back until more is known.
#[derive(Clone, Debug)]
pub(crate) struct Redactor {
    /// Longest first.
    secrets: Vec<Vec<u8>>,
    /// Whether a secret begins with this byte.
    begins: Vec<bool>,
    held: Vec<u8>,
}

impl Redactor {
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut secrets: Vec<Vec<u8>> = secrets
            .into_iter()
            .filter(|s| s.len() >= SECRET_BYTES_MIN)
            .map(|s| s.as_bytes().to_vec())
            .collect();
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        let mut begins = vec![false; 256];
        for first in secrets.iter().filter_map(|s| s.first()) {
            if let Some(flag) = begins.get_mut(usize::from(*first)) {
                *flag = true;
            }
        }
        Self { secrets, begins, held: Vec::new() }
    }

    /// Takes the next bytes; returns what is safe to show.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() {
            return bytes.to_vec();
        }
        let mut text = std::mem::take(&mut self.held);
        text.extend_from_slice(bytes);
        let (shown, held) = self.scan(&text, false);
        self.held = held;
        shown
    }

    /// Ends the stream; returns what was held back.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let text = std::mem::take(&mut self.held);
        self.scan(&text, true).0
    }

    /// Whole bytes at once.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Vec<u8> {
        if self.secrets.is_empty() { bytes.to_vec() } else { self.scan(bytes, true).0 }
    }

    /// A whole text at once.
    pub(crate) fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.bytes(text.as_bytes())).into_owned()
    }

    fn scan(&self, text: &[u8], end: bool) -> (Vec<u8>, Vec<u8>) {
        let mut shown = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some((first, tail)) = rest.split_first() {
            if !self.begins.get(usize::from(*first)).copied().unwrap_or(false) {
                shown.push(*first);
                rest = tail;
                continue;
            }
            if !end && self.secrets.iter().any(|s| s.len() > rest.len() && s.starts_with(rest)) {
                return (shown, rest.to_vec());
            }
            if let Some(after) = self.secrets.iter().find_map(|s| rest.strip_prefix(s.as_slice())) {
                shown.extend_from_slice(MASK);
                rest = after;
            } else {
                shown.push(*first);
                rest = tail;
            }
        }
        (shown, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same text must come out however it is cut into pieces.
    fn check(secrets: &[&str], text: &str, expected: &str) {
        for size in 1..=text.len().max(1) {
            let mut redactor = Redactor::new(secrets.iter().copied());
            let mut shown = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                shown.extend(redactor.push(piece));
            }
            shown.extend(redactor.finish());
            assert_eq!(String::from_utf8_lossy(&shown), expected, "pieces of {size}");
        }
    }

    #[test]
    fn secrets_are_hidden_across_the_borders_of_pieces() {
        check(&["hunter22"], "the word is hunter22, hunter22!", "the word is ***, ***!");
        check(&["hunter22"], "hunter2 hunter", "hunter2 hunter");
        check(&["aaab"], "aaaaab", "aa***");
        check(&["abcd", "abcdef"], "abcdef abcd abcde", "*** *** ***e");
        check(&["geheim€"], "x geheim€ y", "x *** y");
        check(&["two\nlines"], "two\nlines\n", "***\n");
        check(&["abc", ""], "abc is too short to hide", "abc is too short to hide");
        check(&[], "nothing to hide", "nothing to hide");
    }
}
