//! Messages whose JSON is written by hand: a JSON value is itself, and a dependency may be just an id.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::pb;

impl pb::Json {
    /// The JSON text of a value.
    pub fn from_value(value: &serde_json::Value) -> Self {
        Self { text: value.to_string() }
    }

    /// The value; null when the text is no JSON.
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }
}

impl Serialize for pb::Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for pb::Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(|value| Self::from_value(&value))
    }
}

/// An edge of the graph in JSON: an object, or just the id.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum DependencyJson {
    Id(String),
    #[serde(rename_all = "snake_case")]
    Edge {
        #[serde(alias = "taskId")]
        task_id: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<String>,
    },
}

impl Serialize for pb::Dependency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let on = match self.on() {
            pb::dependency::On::Unspecified | pb::dependency::On::Success => None,
            pb::dependency::On::Failure => Some("failure".to_owned()),
            pb::dependency::On::End => Some("end".to_owned()),
        };
        DependencyJson::Edge { task_id: self.task_id.clone(), on }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for pb::Dependency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "an id, or {\"task_id\": …, \"on\": \"success\", \"failure\" or \"end\"}";
        let edge = DependencyJson::deserialize(deserializer)
            .map_err(|_| de::Error::custom(format_args!("a dependency is {expected}")))?;
        let (task_id, on) = match edge {
            DependencyJson::Id(id) => (id, None),
            DependencyJson::Edge { task_id, on } => (task_id, on),
        };
        let on = match on.as_deref() {
            None => pb::dependency::On::Unspecified,
            Some("success" | "ON_SUCCESS") => pb::dependency::On::Success,
            Some("failure" | "ON_FAILURE") => pb::dependency::On::Failure,
            Some("end" | "ON_END") => pb::dependency::On::End,
            Some(_) => return Err(de::Error::custom(format_args!("a dependency is {expected}"))),
        };
        Ok(Self { task_id, on: on.into() })
    }
}
