//! Gives out typed values and remembers what it gave, so that it can name what nobody asked for.

use std::{
    collections::BTreeMap, fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf,
    time::Duration,
};

use common::time::parse_duration;

use super::{ConfigErrors, Layers, Origin, Said, text};

/// A value as `config show` prints it; secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key, as `section.key`.
    pub key: String,
    /// The value in force.
    pub value: String,
    /// Where it was said.
    pub origin: Origin,
    /// What it is for.
    pub description: &'static str,
}

/// Reads keys one by one. A mistake yields the default and is told by [`Reader::finish`].
#[derive(Debug)]
pub struct Reader {
    said: BTreeMap<String, Said>,
    errors: Vec<String>,
    read: BTreeMap<String, Entry>,
}

impl Reader {
    pub(super) fn new(layers: Layers) -> Self {
        Self { said: layers.said, errors: layers.errors, read: BTreeMap::new() }
    }

    /// Any text.
    pub fn string(
        &mut self,
        key: &'static str,
        default: &str,
        description: &'static str,
    ) -> String {
        self.parsed(key, default, description, |text| Ok::<_, String>(text.to_owned()))
            .unwrap_or_default()
    }

    /// One of several words.
    pub fn word(
        &mut self,
        key: &'static str,
        default: &str,
        words: &[&str],
        description: &'static str,
    ) -> String {
        let parse = |text: &str| {
            let known = words.contains(&text).then(|| text.to_owned());
            known.ok_or_else(|| format!("must be one of {}", words.join(", ")))
        };
        self.parsed(key, default, description, parse).unwrap_or_else(|| default.to_owned())
    }

    /// A duration, such as `250ms`, `30s` or `1h30m`.
    pub fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        description: &'static str,
    ) -> Duration {
        let parse = |text: &str| {
            parse_duration(text).ok_or("must be a duration such as 250ms, 30s or 1h30m".to_owned())
        };
        self.parsed(key, &format!("{default:?}"), description, parse).unwrap_or(default)
    }

    /// A number of bytes, such as `64KiB`.
    pub fn size(&mut self, key: &'static str, default: u64, description: &'static str) -> u64 {
        let parse = |text: &str| {
            text::parse_size(text).ok_or("must be a size such as 64KiB or 20GiB".to_owned())
        };
        self.parsed(key, &text::show_size(default), description, parse).unwrap_or(default)
    }

    /// A number in a range.
    pub fn u32(
        &mut self,
        key: &'static str,
        default: u32,
        range: RangeInclusive<u32>,
        description: &'static str,
    ) -> u32 {
        let expected = format!("must be a number from {} to {}", range.start(), range.end());
        let parse = |text: &str| {
            text.parse()
                .ok()
                .filter(|number| range.contains(number))
                .ok_or_else(|| expected.clone())
        };
        self.parsed(key, &default.to_string(), description, parse).unwrap_or(default)
    }

    /// True or false.
    pub fn bool(&mut self, key: &'static str, default: bool, description: &'static str) -> bool {
        let parse = |text: &str| text.parse().map_err(|_| "must be true or false".to_owned());
        self.parsed(key, &default.to_string(), description, parse).unwrap_or(default)
    }

    /// A path; `None` when it is empty.
    pub fn path(
        &mut self,
        key: &'static str,
        default: Option<&str>,
        description: &'static str,
    ) -> Option<PathBuf> {
        let text = self.string(key, default.unwrap_or_default(), description);
        (!text.is_empty()).then(|| PathBuf::from(text))
    }

    /// Texts: a list in the file, separated by commas elsewhere.
    pub fn list(
        &mut self,
        key: &'static str,
        default: &[&str],
        description: &'static str,
    ) -> Vec<String> {
        let text = self.string(key, &default.join(","), description);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// An address to listen on, such as `127.0.0.1:4280`; port 0 is any free one.
    pub fn address(
        &mut self,
        key: &'static str,
        default: SocketAddr,
        description: &'static str,
    ) -> SocketAddr {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                "must be an IP address and a port such as 127.0.0.1:4280 or [::1]:4280".to_owned()
            })
        };
        self.parsed(key, &default.to_string(), description, parse).unwrap_or(default)
    }

    /// Every value below a key whose names are the user's own, as `roles.<name>.<field>`: the part
    /// after the key, and the text.
    pub fn below(&mut self, key: &str, description: &'static str) -> Vec<(String, String)> {
        let prefix = format!("{key}.");
        let below = |(name, _): &(&String, &Said)| name.starts_with(&prefix);
        let names = self.said.iter().filter(below).map(|(name, _)| name.clone());
        let names = names.collect::<Vec<_>>();
        let mut values = Vec::new();
        for key in names {
            let Some(Said { text, origin }) = self.said.remove(&key) else { continue };
            let entry = Entry { key: key.clone(), value: text.clone(), origin, description };
            values.push((key.get(prefix.len()..).unwrap_or_default().to_owned(), text));
            self.read.insert(key, entry);
        }
        values
    }

    /// A value that its service parses; the error says what it must be: "must be …".
    pub fn parsed<T, E: Display>(
        &mut self,
        key: &'static str,
        default: &str,
        description: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let said = self.said.remove(key);
        let (value, origin) = match said {
            Some(Said { text, origin }) => (text, origin),
            None => (default.to_owned(), Origin::Default),
        };
        let shown = text::mask(key, &value);
        let parsed = match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                self.errors.push(format!("{key} {problem}, and is {shown:?} ({origin})"));
                None
            }
        };
        self.read.insert(
            key.to_owned(),
            Entry { key: key.to_owned(), value: shown, origin, description },
        );
        parsed
    }

    /// Adds what is wrong with a key that was read, as "must be …".
    pub fn refuse(&mut self, key: &str, problem: impl Display) {
        let place =
            self.read.get(key).map_or(String::new(), |entry| format!(" ({})", entry.origin));
        self.errors.push(format!("{key} {problem}{place}"));
    }

    /// Every value that was read, by key.
    pub fn origins(&self) -> Vec<Entry> {
        self.read.values().cloned().collect()
    }

    /// Everything that was wrong, and every key that nobody knows. Call it when all was read.
    pub fn finish(self) -> Result<(), ConfigErrors> {
        let mut errors = self.errors;
        for (key, said) in &self.said {
            let known = text::closest(key, self.read.keys().map(String::as_str));
            // Kubernetes makes JETMILL_SERVICE_HOST, a task finds JETMILL_TASK_ID: neither is a slip.
            if known.is_none() && matches!(said.origin, Origin::Env(_)) && !key.contains('.') {
                continue;
            }
            let meant = known
                .map_or(String::from("`jetmill config show` lists the keys"), |known| {
                    format!("did you mean {known}?")
                });
            errors.push(format!("there is no key {key} ({}); {meant}", said.origin));
        }
        if errors.is_empty() { Ok(()) } else { Err(ConfigErrors(errors)) }
    }
}
