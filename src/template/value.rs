//! Values of templates: JSON, borrowed from the data or made by the template, with what Go's types would add.

use serde_json::{Map, Value};
use std::rc::Rc;

/// What kind of Go value a field holds, where JSON does not tell: it is absent or null when Go has a zero value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FieldKind {
    /// A map: a missing key is no error.
    Map,
    /// A list.
    List,
    /// A text.
    Text,
    /// A pointer, which may be nil.
    Pointer,
}

/// What Go's types say of some data.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Go's name of the root's type, for errors; empty where Go would look into plain JSON.
    pub type_name: &'static str,
    /// Fields whose kind matters, by name, wherever they are.
    pub fields: &'static [(&'static str, FieldKind)],
    /// Whether every object is a map, so that nothing is an unknown field.
    pub open: bool,
}

impl Schema {
    /// Nothing is known: every object is a map.
    pub const OPEN: Self = Self {
        type_name: "",
        fields: &[],
        open: true,
    };

    pub(super) fn kind(&self, field: &str) -> Option<FieldKind> {
        let known = self.fields.iter().find(|(name, _)| *name == field);
        known.map(|(_, kind)| *kind)
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Val<'a> {
    /// A key that a map does not have: `<no value>`.
    Missing,
    /// Of the data; `true` for objects that Go has as maps.
    Data(&'a Value, bool),
    /// Made here.
    Made(Rc<Value>),
}

impl<'a> Val<'a> {
    pub(super) fn made(value: impl Into<Value>) -> Self {
        Self::Made(Rc::new(value.into()))
    }

    pub(super) fn value(&self) -> &Value {
        match self {
            Self::Missing => &Value::Null,
            Self::Data(value, _) => value,
            Self::Made(value) => value,
        }
    }

    /// An element of a list.
    pub(super) fn item(&self, index: usize) -> Self {
        match self {
            Self::Data(Value::Array(items), _) => Val::Data(&items[index], false),
            other => match other.value() {
                Value::Array(items) => Self::made(items[index].clone()),
                _ => Self::Missing,
            },
        }
    }

    /// Go's truth: not empty, not zero, not nil. A struct is always true.
    pub(super) fn truth(&self) -> bool {
        match self.value() {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(map) => !map.is_empty() || matches!(self, Self::Data(_, false)),
        }
    }
}

/// As Go's `fmt` prints it with `%v`.
pub(super) fn show(value: &Val<'_>, out: &mut String) {
    match value {
        Val::Missing => out.push_str("<no value>"),
        Val::Data(Value::Object(map), false) => show_struct(map, out),
        other => show_json(other.value(), out),
    }
}

fn show_struct(map: &Map<String, Value>, out: &mut String) {
    out.push('{');
    for (position, value) in map.values().enumerate() {
        if position > 0 {
            out.push(' ');
        }
        show_json(value, out);
    }
    out.push('}');
}

fn show_json(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&show_number(number)),
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(' ');
                }
                show_json(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push_str("map[");
            for (position, (key, value)) in map.iter().enumerate() {
                if position > 0 {
                    out.push(' ');
                }
                out.push_str(key);
                out.push(':');
                show_json(value, out);
            }
            out.push(']');
        }
    }
}

/// Go writes floating-point numbers without a fraction that is zero.
fn show_number(number: &serde_json::Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) if float.abs() < 1e21 => float.to_string(),
        _ => number.to_string(),
    }
}

/// Go's name of a value's type, for messages.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
