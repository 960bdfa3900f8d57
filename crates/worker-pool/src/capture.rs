//! **Pure.** The end of a process's output, for its result.

use common::{limits, pb};
use serde_json::{Value, json};

/// Keeps the last bytes of a stream.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: Vec<u8>,
    kept: usize,
    cut: bool,
}

impl Tail {
    pub(crate) fn new(kept: usize) -> Self {
        Self { bytes: Vec::new(), kept, cut: false }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > 2 * self.kept {
            self.shorten(self.kept);
        }
    }

    fn shorten(&mut self, max: usize) {
        if self.bytes.len() > max {
            self.cut = true;
            self.bytes.drain(..self.bytes.len() - max);
        }
    }

    pub(crate) fn text(&self) -> String {
        // A cut may fall into a character: its remains at the beginning are no text.
        let broken = self.bytes.iter().take_while(|b| self.cut && (**b & 0xc0) == 0x80).count();
        String::from_utf8_lossy(self.bytes.get(broken..).unwrap_or_default()).into_owned()
    }
}

/// The result of a process: `{"exit":0,"stdout":"…","stderr":"…","truncated":false}`.
///
/// What it wrote to stdout is what it produced, and is kept whole as far as that goes; stderr is for
/// people, who have the attempt's output.
pub(crate) fn result(
    exit: Option<i32>,
    signal: Option<i32>,
    out: &mut Tail,
    err: &mut Tail,
) -> pb::Json {
    out.shorten(limits::PROCESS_RESULT_BYTES_MAX);
    err.shorten(limits::RESULT_STDERR_BYTES_MAX);
    let mut value = json!({
        "exit": exit, "stdout": out.text(), "stderr": err.text(), "truncated": out.cut || err.cut,
    });
    if let (Some(signal), Value::Object(fields)) = (signal, &mut value) {
        fields.insert("signal".into(), signal.into());
    }
    pb::Json::from_value(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_has_the_end_of_the_output_and_says_when_that_is_not_all() {
        let (mut out, mut err) = tails();
        out.push(b"{\"a\":1}\n");
        let value = result(Some(0), None, &mut out, &mut err).to_value();
        assert_eq!(
            value,
            json!({"exit": 0, "stdout": "{\"a\":1}\n", "stderr": "", "truncated": false})
        );
        for _ in 0..limits::RESULT_STDERR_BYTES_MAX {
            err.push("ä".as_bytes());
        }
        err.push(b"\xff end");
        let value = result(None, Some(9), &mut out, &mut err).to_value();
        assert_eq!(value["truncated"], true);
        assert_eq!(value["signal"], 9);
        let text = value["stderr"].as_str().expect("text");
        assert!(text.starts_with('ä') && text.ends_with("\u{fffd} end"), "whole characters");
        assert!(text.len() <= limits::RESULT_STDERR_BYTES_MAX + 3);
    }

    #[test]
    fn output_that_takes_most_room_in_json_still_fits_an_object() {
        let (mut out, mut err) = tails();
        out.push(&vec![1; limits::PROCESS_RESULT_BYTES_MAX]);
        err.push(&vec![0xff; limits::RESULT_STDERR_BYTES_MAX]);
        let json = result(Some(0), None, &mut out, &mut err);
        assert!(json.text.len() <= limits::OBJECT_BYTES_MAX);
        assert!(json.text.ends_with("\"truncated\":false}"), "it is whole");
        out.push(b"more");
        let value = result(Some(0), None, &mut out, &mut err).to_value();
        assert!(value["stdout"].as_str().is_some_and(|text| text.ends_with("more")));
        assert_eq!(value["truncated"], true);
    }

    fn tails() -> (Tail, Tail) {
        (Tail::new(limits::PROCESS_RESULT_BYTES_MAX), Tail::new(limits::RESULT_STDERR_BYTES_MAX))
    }
}
