//! **Pure.** YAML as JSON values that remember their lines.

use std::{collections::BTreeMap, fmt};

use common::limits;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// A value that remembers the lines of its parts.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(String, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("JSON has no such number"))?;
        Ok(Node::Scalar(number.into()))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Scalar(text.into()))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

/// Where the parts of a document stand, by their paths: `retry.max_attempts`, `tags[0]`.
#[derive(Debug, Default)]
pub(crate) struct Lines(BTreeMap<String, u64>);

impl Lines {
    /// The line of a part, or of the nearest part around it that is there.
    pub(crate) fn of(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return *line;
            }
            let Some(end) = path.rfind(['.', '[']) else { break };
            path = path.get(..end).unwrap_or_default();
        }
        self.0.get("").copied().unwrap_or(1)
    }
}

/// Reads every document of a text; an error has its line.
pub(crate) fn documents(text: &str) -> Result<Vec<(Value, Lines)>, (u64, String)> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limits::CATALOG_DEPTH_MAX,
            flow_nesting_limit: limits::CATALOG_DEPTH_MAX,
            max_aliases: 1_000,
            max_nodes: 200_000,
            max_documents: 1_000,
        },
        with_snippet: false,
    };
    let nodes = serde_saphyr::from_multiple_with_options::<Spanned<Node>>(text, options);
    let nodes = nodes.map_err(|error| {
        let line = error.location().map_or(1, |at| at.line());
        let told = error.without_snippet().to_string();
        (line, told.lines().next().unwrap_or_default().to_owned())
    })?;
    Ok(nodes.into_iter().map(with_lines).collect())
}

fn with_lines(node: Spanned<Node>) -> (Value, Lines) {
    let mut lines = Lines::default();
    let value = plain(node, String::new(), &mut lines);
    (value, lines)
}

fn plain(node: Spanned<Node>, path: String, lines: &mut Lines) -> Value {
    let value = match node.value {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let items = items.into_iter().enumerate();
            items.map(|(n, item)| plain(item, format!("{path}[{n}]"), lines)).collect()
        }
        Node::Map(entries) => {
            let dot = if path.is_empty() { "" } else { "." };
            let entries = entries.into_iter().map(|(key, item)| {
                let path = format!("{path}{dot}{key}");
                (key, plain(item, path, lines))
            });
            Value::Object(entries.collect::<Map<_, _>>())
        }
    };
    lines.0.insert(path, node.referenced.line());
    value
}
