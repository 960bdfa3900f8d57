//! Values between JSON and Lua, bounded on the way out: a small table may hold itself many times.

use common::limits;
use mlua::{Lua, Result, Table, Value};
use serde_json::{Map, Number, Value as Json};

/// Marks tables that are lists although nothing is in them.
const ARRAY: &str = "__jetmill_array";
/// Whole numbers that a Lua number holds exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The metatable of empty lists.
pub(super) fn array_mark(lua: &Lua) -> Result<Table> {
    let mark = lua.create_table()?;
    mark.raw_set(ARRAY, true)?;
    mark.set_readonly(true);
    Ok(mark)
}

/// A field that is null is absent; in a list it keeps its place, as the value `null`.
pub(super) fn to_lua(lua: &Lua, value: &Json, mark: &Table) -> Result<Value> {
    Ok(match value {
        Json::Null => Value::Nil,
        Json::Bool(bool) => Value::Boolean(*bool),
        Json::Number(number) => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Value::String(lua.create_string(text)?),
        Json::Array(items) => {
            let table = lua.create_table_with_capacity(items.len(), 0)?;
            for (place, item) in (1_i64..).zip(items) {
                let item = if item.is_null() { Value::NULL } else { to_lua(lua, item, mark)? };
                table.raw_set(place, item)?;
            }
            if items.is_empty() {
                table.set_metatable(Some(mark.clone()))?;
            }
            Value::Table(table)
        }
        Json::Object(fields) => {
            let table = lua.create_table_with_capacity(0, fields.len())?;
            for (name, field) in fields {
                table.raw_set(name.as_str(), to_lua(lua, field, mark)?)?;
            }
            Value::Table(table)
        }
    })
}

/// What a script returned, or what is wrong with it.
pub(super) fn to_json(value: &Value) -> std::result::Result<Json, String> {
    Budget { bytes: limits::PROCESS_RESULT_BYTES_MAX }.value(value, 0)
}

/// What a result may still have, in bytes.
struct Budget {
    bytes: usize,
}

impl Budget {
    fn spend(&mut self, bytes: usize) -> std::result::Result<(), String> {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.ok_or_else(|| {
            format!("has more than {} bytes; return less of it", limits::PROCESS_RESULT_BYTES_MAX)
        })?;
        Ok(())
    }

    fn value(&mut self, value: &Value, depth: usize) -> std::result::Result<Json, String> {
        self.spend(1)?;
        match value {
            Value::Nil => Ok(Json::Null),
            Value::LightUserData(data) if data.0.is_null() => Ok(Json::Null),
            Value::Boolean(bool) => Ok(Json::Bool(*bool)),
            Value::Integer(number) => Ok(Json::from(*number)),
            Value::Number(number) => self.number(*number),
            Value::String(text) => {
                let text = text.to_str().map_err(|_| "has bytes that are no UTF-8 text")?;
                self.spend(text.len())?;
                Ok(Json::String(text.to_owned()))
            }
            Value::Table(table) if depth < limits::JSON_DEPTH_MAX => self.table(table, depth + 1),
            Value::Table(_) => {
                let max = limits::JSON_DEPTH_MAX;
                Err(format!("nests more than {max} tables in one another, or a table in itself"))
            }
            other @ (Value::LightUserData(_)
            | Value::Vector(_)
            | Value::Function(_)
            | Value::Thread(_)
            | Value::UserData(_)
            | Value::Buffer(_)
            | Value::Error(_)
            | Value::Other(_)) => {
                Err(format!("has a {}, which no JSON can hold", other.type_name()))
            }
        }
    }

    fn number(&mut self, number: f64) -> std::result::Result<Json, String> {
        self.spend(8)?;
        if number.fract() == 0.0 && number.abs() <= EXACT {
            return Ok(Json::from(number as i64));
        }
        let number = Number::from_f64(number);
        number.map(Json::Number).ok_or_else(|| "has a number that is infinite or none".to_owned())
    }

    /// A table whose keys are 1 to n is a list, any other one must have names.
    fn table(&mut self, table: &Table, depth: usize) -> std::result::Result<Json, String> {
        let len = table.raw_len();
        if len == 0 && is_array(table) {
            return Ok(Json::Array(Vec::new()));
        }
        let mut items = Vec::new();
        let mut fields = Map::new();
        for pair in table.pairs::<Value, Value>() {
            let (key, value) = pair.map_err(|e| e.to_string())?;
            let is_place = matches!(key, Value::Integer(_) | Value::Number(_));
            if let Value::String(name) = &key {
                let name = name.to_str().map_err(|_| "has a name that is no UTF-8 text")?;
                self.spend(name.len())?;
                fields.insert(name.to_owned(), self.value(&value, depth)?);
            } else if is_place && items.len() < len {
                items.push(self.value(&value, depth)?);
            } else {
                let what = key.type_name();
                return Err(format!(
                    "has a table with a key that is a {what}; use names, or 1 to n"
                ));
            }
        }
        match (items.len() == len, fields.is_empty()) {
            (true, true) if len > 0 => Ok(Json::Array(items)),
            (_, _) if items.is_empty() => Ok(Json::Object(fields)),
            _ => {
                Err("has a table with names and places, or with gaps; use one or the other".into())
            }
        }
    }
}

fn is_array(table: &Table) -> bool {
    table.metatable().is_some_and(|mark| mark.raw_get::<bool>(ARRAY).unwrap_or(false))
}
