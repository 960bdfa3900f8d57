//! What the program says: answers on standard output, everything else on standard error.
//!
//! Colours go away by themselves where the stream is no terminal or `NO_COLOR` is set.

use std::{
    fmt::Display,
    io::{self, IsTerminal as _, Write as _},
};

use serde::Serialize;

use crate::exit::bad_input;

/// How answers are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ui {
    /// JSON for programs instead of text for people.
    pub(crate) json: bool,
}

/// One line of the answer.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    writeln!(anstream::stdout().lock(), "{text}")
}

/// Bytes of somebody else's output, as they are.
pub(crate) fn raw(bytes: &[u8]) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// One line about the answer.
pub(crate) fn note(text: impl Display) -> io::Result<()> {
    writeln!(anstream::stderr().lock(), "{text}")
}

/// Whether a person reads the answer.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Asks a person before something that cannot be undone; `yes` was said already.
pub(crate) fn confirm(yes: bool, question: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let why = format!("{question} Nobody is there to answer");
        return Err(bad_input(why).hint("say --yes, or look first with --dry-run").into());
    }
    write!(anstream::stderr().lock(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(bad_input("nothing was changed").into()),
    }
}

/// One line of JSON.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(line(serde_json::to_string(value)?)?)
}

/// How each item of a list is printed: a template over its fields in JSON.
#[derive(Clone, Debug)]
pub(crate) struct Format(catalog::Line);

impl Format {
    /// Takes a template; `\t` and `\n` in it are a tab and the end of a line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        catalog::Line::parse(&text).map(Self)
    }

    /// One line for each item.
    pub(crate) fn lines<T: Serialize>(&self, items: &[T]) -> anyhow::Result<()> {
        for item in items {
            let made = self.0.of(&serde_json::to_value(item)?);
            line(made.map_err(|why| bad_input(format!("--format {why}")))?)?;
        }
        Ok(())
    }
}

impl Ui {
    /// The answer in one form or the other.
    pub(crate) fn answer<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        if self.json { json(value) } else { Ok(line(text(value).trim_end())?) }
    }
}
