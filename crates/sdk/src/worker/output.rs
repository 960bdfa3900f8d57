//! **Pure.** The output of one attempt on its way to `LOGS`: gathered, capped, cut into chunks.

use common::limits;

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output of a process.
    Stdout,
    /// Standard error of a process.
    Stderr,
    /// What a handler says.
    Log,
}

impl OutputStream {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Log => "log",
        }
    }
}

/// One piece of output, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) stream: OutputStream,
    pub(super) number: u64,
    pub(super) data: Vec<u8>,
    pub(super) last: bool,
}

/// Output that waits to be sent, in the order in which it was written. What waits is bounded by
/// the cap of each stream, however slowly it is sent.
#[derive(Debug, Default)]
pub(super) struct Output {
    waiting: Vec<(OutputStream, Vec<u8>)>,
    written: [usize; 3],
    sent: u64,
    ended: bool,
}

impl Output {
    /// Takes bytes; says whether enough waits to be sent at once.
    pub(super) fn write(&mut self, stream: OutputStream, bytes: &[u8]) -> bool {
        let max = limits::OUTPUT_BYTES_MAX;
        if let Some(written) = self.written.get_mut(stream as usize)
            && *written <= max
            && !bytes.is_empty()
            && !self.ended
        {
            let (fits, rest) = bytes.split_at(bytes.len().min(max - *written));
            *written += fits.len();
            let mut data = fits.to_vec();
            if !rest.is_empty() {
                *written = max + 1;
                data.extend_from_slice(notice(stream).as_bytes());
            }
            self.push(stream, data);
        }
        self.waiting.iter().map(|(_, data)| data.len()).sum::<usize>()
            >= limits::LOG_CHUNK_BYTES_MAX
    }

    fn push(&mut self, stream: OutputStream, data: Vec<u8>) {
        match self.waiting.last_mut() {
            Some((of, waiting)) if *of == stream => waiting.extend(data),
            _ => self.waiting.push((stream, data)),
        }
    }

    /// Takes what waits, in chunks. The last one of all ends the output; without any there is none.
    pub(super) fn take(&mut self, end: bool) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (stream, data) in std::mem::take(&mut self.waiting) {
            for piece in data.chunks(limits::LOG_CHUNK_BYTES_MAX) {
                let number = self.sent;
                self.sent += 1;
                chunks.push(Chunk { stream, number, data: piece.to_vec(), last: false });
            }
        }
        if end && !self.ended && self.sent > 0 {
            self.ended = true;
            match chunks.last_mut() {
                Some(chunk) => chunk.last = true,
                None => chunks.push(Chunk {
                    stream: OutputStream::Log,
                    number: self.sent,
                    data: Vec::new(),
                    last: true,
                }),
            }
        }
        chunks
    }
}

fn notice(stream: OutputStream) -> String {
    let (word, max) = (stream.as_str(), limits::OUTPUT_BYTES_MAX);
    format!("\n[jetmill: {word} has more than {max} bytes; the rest is not kept]\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_its_order_and_its_last_chunk_says_so() {
        let mut output = Output::default();
        assert!(output.take(true).is_empty(), "no output, no chunk");
        let mut output = Output::default();
        output.write(OutputStream::Stdout, b"a");
        output.write(OutputStream::Stdout, b"b");
        output.write(OutputStream::Stderr, b"c");
        let chunks = output.take(false);
        let texts: Vec<_> =
            chunks.iter().map(|c| (c.stream, c.number, c.data.as_slice())).collect();
        assert_eq!(
            texts,
            [(OutputStream::Stdout, 0, &b"ab"[..]), (OutputStream::Stderr, 1, &b"c"[..])]
        );
        let end = output.take(true);
        assert_eq!(end.len(), 1);
        assert!(end[0].last && end[0].number == 2 && end[0].data.is_empty());
    }

    #[test]
    fn each_stream_is_capped_once_with_a_notice() {
        let mut output = Output::default();
        let full = vec![b'x'; limits::OUTPUT_BYTES_MAX];
        assert!(output.write(OutputStream::Stdout, &full));
        output.write(OutputStream::Stdout, b"over");
        output.write(OutputStream::Stdout, b"and over");
        output.write(OutputStream::Stderr, b"still kept");
        let chunks = output.take(true);
        let all: Vec<u8> = chunks.iter().flat_map(|c| c.data.clone()).collect();
        let text = String::from_utf8(all).expect("text");
        assert_eq!(text.matches("the rest is not kept").count(), 1);
        assert!(!text.contains("over"));
        assert!(text.ends_with("still kept"));
        assert!(chunks.iter().all(|c| c.data.len() <= limits::LOG_CHUNK_BYTES_MAX));
    }
}
