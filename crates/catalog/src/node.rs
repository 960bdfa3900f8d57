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

/// A line and a column, counted from 1.
pub(crate) type At = (u64, u64);

/// Where the parts of a document stand, by their paths: `retry.max_attempts`, `tags[0]`.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    parts: BTreeMap<String, At>,
    /// Lines before the document.
    before: u64,
}

impl Lines {
    /// Where a part is, or the nearest part around it that is there.
    pub(crate) fn of(&self, path: &str) -> At {
        let mut path = path;
        loop {
            if let Some(at) = self.parts.get(path) {
                return *at;
            }
            let Some(end) = path.rfind(['.', '[']) else { break };
            path = path.get(..end).unwrap_or_default();
        }
        self.parts.get("").copied().unwrap_or((self.before + 1, 1))
    }
}

/// Reads every document of a text; an error says where it is.
pub(crate) fn documents(text: &str) -> Result<Vec<(Value, Lines)>, (At, String)> {
    let mut all = Vec::new();
    for (before, piece) in pieces(text) {
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
        let nodes = serde_saphyr::from_multiple_with_options::<Spanned<Node>>(piece, options);
        let nodes = nodes.map_err(|error| {
            let at = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            let told = error.without_snippet().to_string();
            ((before + at.0, at.1), told.lines().next().unwrap_or_default().to_owned())
        })?;
        all.extend(nodes.into_iter().map(|node| with_lines(node, before)));
    }
    Ok(all)
}

/// JSON objects may follow one another, which YAML's documents may not without a line between them:
/// each by itself, with the number of lines before it. All other text is one piece.
fn pieces(text: &str) -> Vec<(u64, &str)> {
    let mut pieces = Vec::new();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<de::IgnoredAny>();
    let (mut begin, mut before) = (0, 0);
    while let Some(value) = values.next() {
        let piece = text.get(begin..values.byte_offset()).unwrap_or_default();
        if value.is_err() || !piece.trim_start().starts_with('{') {
            return vec![(0, text)];
        }
        pieces.push((before, piece));
        before += piece.matches('\n').count() as u64;
        begin = values.byte_offset();
    }
    if pieces.is_empty() { vec![(0, text)] } else { pieces }
}

fn with_lines(node: Spanned<Node>, before: u64) -> (Value, Lines) {
    let mut lines = Lines { before, ..Lines::default() };
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
    let at = node.referenced;
    lines.parts.insert(path, (lines.before + at.line(), at.column()));
    value
}
