//! The configuration of a process: defaults, below a file, below the environment, below flags.
//!
//! [`Layers`] gathers what was said and where; a [`Reader`] gives it out as typed values. Every
//! mistake is reported at once, with its place, and every value can say where it came from.

mod reader;
mod text;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use ::config::{File, FileFormat, Source as _, Value, ValueKind};

use common::limits;

pub use reader::{Entry, Reader};
pub use text::parse_size;

/// The key of the address of NATS, which `NATS_HOST` and `NATS_PORT` can also give.
pub const NATS_URL: &str = "nats.url";
/// The key of the address of the ledger, which `DATABASE_URL` can also give.
pub const LEDGER_URL: &str = "registry.ledger_url";
/// The file that is read when it is there and no other is named.
pub const DEFAULT_FILE: &str = "jetmill.toml";
/// The variable that names the file.
pub const FILE_VARIABLE: &str = "JETMILL_CONFIG";
const PREFIX: &str = "JETMILL_";

/// Where a value was said. A later variant outranks an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nowhere.
    Default,
    /// In a variable that others use as well.
    Fallback(&'static str),
    /// In a file.
    File(PathBuf),
    /// In a variable of ours.
    Env(String),
    /// On the command line.
    Flag(String),
}

impl Origin {
    fn rank(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::Fallback(_) => 1,
            Self::File(_) => 2,
            Self::Env(_) => 3,
            Self::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Fallback(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Everything that is wrong with the configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is not valid:\n  {}", .0.join("\n  "))]
pub struct ConfigErrors(pub Vec<String>);

/// What was said for one key.
#[derive(Clone, Debug)]
struct Said {
    text: String,
    origin: Origin,
}

/// What was said, by key, and what of it could not be understood.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    said: BTreeMap<String, Said>,
    errors: Vec<String>,
}

impl Layers {
    /// Nothing was said yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the file that was named by flag or variable, or else [`DEFAULT_FILE`] where there is one.
    #[must_use]
    pub fn file(mut self, named: Option<&Path>) -> Self {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        if named.is_none() && !path.exists() {
            return self;
        }
        match read(path) {
            Ok(text) => self.toml(path, &text),
            Err(error) => {
                self.errors.push(format!("cannot read {}: {error}", path.display()));
                self
            }
        }
    }

    /// Takes the text of a file.
    #[must_use]
    pub fn toml(mut self, path: &Path, text: &str) -> Self {
        match File::from_str(text, FileFormat::Toml).collect() {
            Ok(table) => {
                for (key, value) in table {
                    self.value(&key, value, path);
                }
            }
            Err(error) => {
                let why = error.to_string();
                self.errors.push(format!("cannot read {}: {}", path.display(), why.trim_end()));
            }
        }
        self
    }

    fn value(&mut self, key: &str, value: Value, path: &Path) {
        let text = match value.kind {
            ValueKind::Table(table) => {
                for (name, value) in table {
                    self.value(&format!("{key}.{name}"), value, path);
                }
                return;
            }
            ValueKind::Array(items) => {
                let items =
                    items.into_iter().map(Value::into_string).collect::<Result<Vec<_>, _>>();
                items.map(|items| items.join(","))
            }
            ValueKind::Nil => return,
            ValueKind::Boolean(_)
            | ValueKind::I64(_)
            | ValueKind::I128(_)
            | ValueKind::U64(_)
            | ValueKind::U128(_)
            | ValueKind::Float(_)
            | ValueKind::String(_) => value.into_string(),
        };
        let origin = Origin::File(path.to_owned());
        match text {
            Ok(text) => self.say(key, text, origin),
            Err(_) => {
                self.errors.push(format!("{key} must be a value or a list of values ({origin})"));
            }
        }
    }

    /// Takes the variables of the environment that are ours: `JETMILL_<SECTION>__<KEY>`.
    #[must_use]
    pub fn env(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let variables = variables.into_iter().collect::<BTreeMap<_, _>>();
        self.fallbacks(&variables);
        for (name, value) in variables {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            if name != FILE_VARIABLE {
                let key = key.to_ascii_lowercase().replace("__", ".");
                self.say(&key, value, Origin::Env(name));
            }
        }
        self
    }

    /// The variables of others: they fill a gap and outrank nothing.
    fn fallbacks(&mut self, variables: &BTreeMap<String, String>) {
        let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        if let Some(host) = get("NATS_HOST") {
            let port = get("NATS_PORT").map_or("4222", String::as_str);
            self.say(NATS_URL, format!("nats://{host}:{port}"), Origin::Fallback("NATS_HOST"));
        }
        if let Some(url) = get("DATABASE_URL") {
            self.say(LEDGER_URL, url.clone(), Origin::Fallback("DATABASE_URL"));
        }
    }

    /// Takes a flag of the command line; `None` when it was not given.
    #[must_use]
    pub fn flag(mut self, key: &str, value: Option<impl fmt::Display>) -> Self {
        if let Some(value) = value {
            let name = key.rsplit('.').next().unwrap_or(key).replace('_', "-");
            self.say(key, value.to_string(), Origin::Flag(format!("--{name}")));
        }
        self
    }

    fn say(&mut self, key: &str, text: String, origin: Origin) {
        let outranked = self.said.get(key).is_some_and(|said| said.origin.rank() > origin.rank());
        if !outranked {
            self.said.insert(key.to_owned(), Said { text, origin });
        }
    }

    /// Gives the values out.
    pub fn reader(self) -> Reader {
        Reader::new(self)
    }
}

fn read(path: &Path) -> Result<String, String> {
    let size = path.metadata().map_err(|e| e.to_string())?.len();
    if size > limits::CONFIG_FILE_BYTES_MAX {
        return Err(format!(
            "it has {size} bytes, and {} are allowed",
            limits::CONFIG_FILE_BYTES_MAX
        ));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
