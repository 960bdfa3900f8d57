//! **Pure.** Lines of output by which a command says how far it is: `::progress:: 50% half of it`.
//!
//! A line and no other way, since whatever runs can print one: a shell script, a program in a
//! container, a script in Lua. Whoever can write to the output can write such a line, also a file
//! that is printed; nothing depends on it, and how much of it counts is bounded.

use common::{limits, pb};
use serde::Deserialize;
use serde_json::{Map, Value};

/// How such a line begins.
pub(crate) const MARK: &str = "::progress::";

/// Takes these lines out of a stream. What may be the beginning of one is held back.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    held: Vec<u8>,
    /// The line that was begun is output.
    is_output: bool,
}

impl Lines {
    /// Takes the next bytes; returns what is output, and hands on what was said.
    pub(crate) fn push(&mut self, bytes: &[u8], mut said: impl FnMut(&pb::Progress)) -> Vec<u8> {
        let mut shown = Vec::with_capacity(bytes.len());
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let ends = piece.ends_with(b"\n");
            if self.is_output {
                shown.extend_from_slice(piece);
                self.is_output = !ends;
                continue;
            }
            self.held.extend_from_slice(piece);
            let may_be = MARK.bytes().zip(&self.held).all(|(mark, byte)| mark == *byte)
                && self.held.len() <= limits::PROGRESS_LINE_BYTES_MAX;
            if may_be && !ends {
                continue;
            }
            match may_be.then(|| parse(&self.held)).flatten() {
                Some(progress) => said(&progress),
                None => shown.extend_from_slice(&self.held),
            }
            self.held.clear();
            self.is_output = !ends;
        }
        shown
    }

    /// Ends the stream: its last line may have no end.
    pub(crate) fn finish(&mut self, mut said: impl FnMut(&pb::Progress)) -> Vec<u8> {
        match parse(&self.held) {
            Some(progress) => {
                said(&progress);
                Vec::new()
            }
            None => std::mem::take(&mut self.held),
        }
    }
}

/// The JSON form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    fraction: Option<f64>,
    message: Option<String>,
    counters: Option<Map<String, Value>>,
}

/// Reads a whole line; one that says nothing is output, so that its author sees it.
fn parse(line: &[u8]) -> Option<pb::Progress> {
    let text = std::str::from_utf8(line).ok()?.strip_prefix(MARK)?.trim();
    if text.is_empty() {
        return None;
    }
    if text.starts_with('{') {
        let Said { fraction, message, counters } = serde_json::from_str(text).ok()?;
        let counters = counters.map(|fields| pb::Json::from_value(&Value::Object(fields)));
        return Some(pb::Progress {
            attempt: 0,
            fraction,
            message: message.unwrap_or_default(),
            counters,
        });
    }
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let (fraction, message) = match fraction(first) {
        Some(fraction) => (Some(fraction), rest.trim()),
        None => (None, text),
    };
    Some(pb::Progress { fraction, message: message.to_owned(), ..pb::Progress::default() })
}

/// The line that says this.
pub(crate) fn line(progress: &pb::Progress) -> String {
    let mut said = Map::new();
    if let Some(fraction) = progress.fraction {
        said.insert("fraction".into(), fraction.into());
    }
    if !progress.message.is_empty() {
        said.insert("message".into(), progress.message.as_str().into());
    }
    if let Some(counters) = &progress.counters {
        said.insert("counters".into(), counters.to_value());
    }
    format!("{MARK} {}\n", Value::Object(said))
}

/// A number from 0 to 1, or a percentage; any other number belongs to the message.
fn fraction(word: &str) -> Option<f64> {
    let (number, whole) = match word.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (word, 1.0),
    };
    let number = number.parse::<f64>().ok()?;
    (0.0..=whole).contains(&number).then_some(number / whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the text in pieces of every size: what is shown, and what was said.
    fn check(text: &str, expected: &str, count: usize) -> Vec<pb::Progress> {
        let mut last = Vec::new();
        for size in 1..=text.len().max(1) {
            let (mut lines, mut shown, mut said) = (Lines::default(), Vec::new(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                shown.extend(lines.push(piece, |progress| said.push(progress.clone())));
            }
            shown.extend(lines.finish(|progress| said.push(progress.clone())));
            assert_eq!(String::from_utf8_lossy(&shown), expected, "pieces of {size}");
            assert_eq!(said.len(), count, "pieces of {size}: {said:?}");
            last = said;
        }
        last
    }

    fn said(text: &str) -> (Option<f64>, String) {
        let said = check(text, "", 1).remove(0);
        (said.fraction, said.message)
    }

    #[test]
    fn a_line_says_how_far_a_command_is_and_is_no_output() {
        assert_eq!(said("::progress:: 0.5 half of it\n"), (Some(0.5), "half of it".into()));
        assert_eq!(said("::progress:: 25%"), (Some(0.25), String::new()));
        assert_eq!(said("::progress:: reading files\r\n"), (None, "reading files".into()));
        assert_eq!(said("::progress:: 3 of 10 files"), (None, "3 of 10 files".into()));
        assert_eq!(said("::progress::1"), (Some(1.0), String::new()));
        let json = r#"::progress:: {"fraction": 0.1, "counters": {"rows": 7}}"#;
        let said = check(json, "", 1).remove(0);
        assert_eq!(said.fraction, Some(0.1));
        assert_eq!(said.counters.expect("counters").to_value(), serde_json::json!({ "rows": 7 }));
        check("a\n::progress:: 0.1\nb\n::progress:: 0.2\nc", "a\nb\nc", 2);
    }

    #[test]
    fn a_line_that_was_made_reads_as_what_it_was_made_of() {
        let counters = Some(pb::Json { text: r#"{"rows":7}"#.into() });
        let worst = "\u{1}".repeat(limits::PROGRESS_MESSAGE_BYTES_MAX);
        for (message, counters) in [("", None), ("two\nlines", counters), (&worst, None)] {
            let progress =
                pb::Progress { fraction: Some(0.5), message: message.into(), counters, attempt: 0 };
            assert_eq!(check(&line(&progress), "", 1), [progress]);
        }
    }

    #[test]
    fn everything_else_is_output_as_it_was_written() {
        for text in [
            "",
            "\n\n",
            "no end of a line",
            "::progress\n",
            " ::progress:: 0.5\n",
            "see ::progress:: 0.5\n",
            "::progress::\n",
            "::progress:: {\"fraction\": \n",
            "::progress:: {\"percent\": 5}\n",
            "::progress:: {\"fraction\": \"much\"}\n",
            "::",
        ] {
            check(text, text, 0);
        }
        let broken = [b"::progress:: ".as_slice(), b"\xff\n"].concat();
        assert_eq!(Lines::default().push(&broken, |_| unreachable!()), broken);
    }

    #[test]
    fn what_is_held_back_is_bounded() {
        let mut lines = Lines::default();
        let mut shown = lines.push(MARK.as_bytes(), |_| unreachable!());
        let much = vec![b'x'; 3 * limits::PROGRESS_LINE_BYTES_MAX];
        for piece in much.chunks(100) {
            shown.extend(lines.push(piece, |_| unreachable!()));
            assert!(lines.held.len() <= limits::PROGRESS_LINE_BYTES_MAX + 100);
        }
        shown.extend(lines.finish(|_| unreachable!()));
        assert_eq!(shown.len(), MARK.len() + much.len());
    }
}
