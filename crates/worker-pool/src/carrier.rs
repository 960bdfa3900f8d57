//! Carries one stream of output, of a process or of a container: to the attempt's output, its end
//! to the result, and what it says about progress to the engine; secrets go nowhere.

use jetmill_sdk::worker::{AttemptContext, OutputStream};

use crate::{capture::Tail, progress::Lines, redact::Redactor};

/// One stream on its way.
pub(crate) struct Carrier<'a> {
    attempt: &'a AttemptContext,
    /// What it is in the attempt's output. Without one it is for the result alone, and says nothing.
    stream: Option<OutputStream>,
    redactor: Redactor,
    lines: Lines,
    tail: Tail,
}

impl<'a> Carrier<'a> {
    /// Keeps so many bytes of the stream's end.
    pub(crate) fn new(
        attempt: &'a AttemptContext,
        stream: Option<OutputStream>,
        redactor: Redactor,
        kept: usize,
    ) -> Self {
        Self { attempt, stream, redactor, lines: Lines::default(), tail: Tail::new(kept) }
    }

    /// Takes what was read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = self.redactor.push(bytes);
        let shown = match self.stream {
            Some(_) => self.lines.push(&bytes, |progress| self.attempt.progress(progress)),
            None => bytes,
        };
        self.show(&shown);
    }

    /// Ends the stream; the end of what it was.
    pub(crate) fn finish(mut self) -> Tail {
        let rest = self.redactor.finish();
        if self.stream.is_some() {
            let mut shown = self.lines.push(&rest, |progress| self.attempt.progress(progress));
            shown.extend(self.lines.finish(|progress| self.attempt.progress(progress)));
            self.show(&shown);
        } else {
            self.show(&rest);
        }
        self.tail
    }

    fn show(&mut self, shown: &[u8]) {
        if let (Some(stream), false) = (self.stream, shown.is_empty()) {
            self.attempt.log(stream, shown);
        }
        self.tail.push(shown);
    }
}
