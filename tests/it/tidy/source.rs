//! Rust files as the rules look at them: code without comments, and the texts in it.

/// A Rust file taken apart, just enough to tell code from comments and texts.
#[derive(Default)]
pub(super) struct Source {
    /// The code; comments are gone, and each text is `""`.
    pub(super) code: String,
    /// The texts, with the lines on which they begin.
    pub(super) texts: Vec<(usize, String)>,
}

/// The part of a file that goes into the product: all before its tests, which stand at the end.
pub(super) fn product(file: &str) -> &str {
    file.find("\n#[cfg(test)]\nmod tests").map_or(file, |end| &file[..end])
}

/// The modules that a file declares for tests only.
pub(super) fn test_modules(file: &str) -> impl Iterator<Item = &str> {
    file.split("#[cfg(test)]\n").skip(1).filter_map(|rest| {
        let rest = rest.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        rest.strip_prefix("mod ")?.split([';', ' ']).next()
    })
}

pub(super) fn read(file: &str) -> Source {
    let mut source = Source::default();
    let mut rest = file;
    while let Some(first) = rest.chars().next() {
        let before = source.code.chars().next_back();
        let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some((taken, text)) = text(rest, in_word) {
            let line = 1 + file[..file.len() - rest.len()].matches('\n').count();
            source.texts.push((line, text.to_owned()));
            source.code.push_str("\"\"");
            taken
        } else if let Some(taken) = character(rest) {
            source.code.push_str("' '");
            taken
        } else {
            source.code.push(first);
            first.len_utf8()
        };
        rest = &rest[taken..];
    }
    source
}

/// A text at the beginning of `rest`, plain or raw: how long it is with its quotes, and what it says.
fn text(rest: &str, in_word: bool) -> Option<(usize, &str)> {
    let raw = rest.strip_prefix('r').filter(|_| !in_word);
    if let Some(tail) = raw {
        let hashes = tail.len() - tail.trim_start_matches('#').len();
        if let Some(body) = tail[hashes..].strip_prefix('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = body.find(&close).unwrap_or(body.len());
            return Some(((2 + hashes + end + close.len()).min(rest.len()), &body[..end]));
        }
    }
    let body = rest.strip_prefix('"')?;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some((at + 2, &body[..at])),
            _ => {}
        }
    }
    Some((rest.len(), body))
}

/// A character such as `'"'` or `'\''`, which is not a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.strip_prefix('\'')?.char_indices();
    match chars.next()? {
        (_, '\\') => {
            let (escaped, _) = chars.next()?;
            let close = rest[1 + escaped + 1..].find('\'')?;
            Some(1 + escaped + 1 + close + 1)
        }
        (_, c) if rest[1 + c.len_utf8()..].starts_with('\'') => Some(c.len_utf8() + 2),
        _ => None,
    }
}

#[test]
fn comments_texts_and_characters_are_told_apart() {
    let file = r##"
// "no text" here
fn a<'x>(b: &'x str) { c('"', '\'', "text \" more", r#"a "raw" text"#); } /* "neither" */
"##;
    let source = read(file);
    let texts = source.texts.iter().map(|(line, text)| (*line, text.as_str())).collect::<Vec<_>>();
    assert_eq!(texts, [(3, r#"text \" more"#), (3, r#"a "raw" text"#)]);
    assert_eq!(source.code.trim(), r#"fn a<'x>(b: &'x str) { c(' ', ' ', "", ""); }"#);
}
