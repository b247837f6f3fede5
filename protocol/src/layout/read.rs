//! Reading JSON objects attribute by attribute.
//!
//! Derived deserialisers lose the place of an error inside tagged enums and can't say which
//! attribute was meant, so every type reads its attributes through [`Object`], which notes what
//! was asked for and refuses the rest.

use super::error::{LayoutError, closest};
use super::path;
use crate::plan::HookValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// An object of the document and its place.
pub(super) struct Object<'a> {
    path: String,
    all: &'a Map<String, Value>,
    fields: BTreeMap<&'a str, &'a Value>,
    known: Vec<&'static str>,
}

impl<'a> Object<'a> {
    /// `value` as an object. Attributes with a leading underscore are disko's internal ones, made
    /// from the others, and are left out.
    pub(super) fn new(path: String, value: &'a Value) -> Result<Self, LayoutError> {
        let map: &Map<String, Value> =
            value.as_object().ok_or_else(|| wrong_type(&path, "a set of attributes", value))?;
        let fields = map
            .iter()
            .filter(|(name, _)| !name.starts_with('_'))
            .map(|(name, value)| (name.as_str(), value))
            .collect();
        Ok(Object { path, all: map, fields, known: Vec::new() })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Whether it has the attribute, be it `null`, taken or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all.contains_key(name)
    }

    /// A string attribute, not taken.
    pub(super) fn peek_string(&self, name: &str) -> Option<&'a str> {
        self.fields.get(name).and_then(|value| value.as_str())
    }

    /// The shell variables that hooks of this object get: its attributes, taken or not. Source:
    /// disko, `defineHookVariables`, and nixpkgs, `lib.toShellVar`.
    pub(super) fn hook_variables(&self) -> BTreeMap<String, HookValue> {
        const LEFT_OUT: [&str; 7] =
            ["content", "datasets", "lvs", "mode", "partitions", "subvolumes", "swap"];
        self.all
            .iter()
            .filter(|(name, _)| {
                !name.starts_with('_')
                    && !name.ends_with("Hook")
                    && !LEFT_OUT.contains(&name.as_str())
            })
            .filter_map(|(name, value)| Some((name.replace('-', "_"), shell_value(value)?)))
            .collect()
    }

    /// Where its attribute `name` is.
    pub(super) fn path_of(&self, name: &str) -> String {
        path::child(&self.path, name)
    }

    /// Takes an attribute; `null` is the same as absent, as in disko's options.
    fn take(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.fields.remove(name).filter(|value| !value.is_null())
    }

    fn missing(&self, attribute: &'static str) -> LayoutError {
        LayoutError::Missing { path: self.path.clone(), attribute }
    }

    /// A string, if there is one.
    pub(super) fn string_opt(&mut self, name: &'static str) -> Result<Option<String>, LayoutError> {
        let path = self.path_of(name);
        self.take(name).map(|value| as_string(&path, value)).transpose()
    }

    /// A string that must be there.
    pub(super) fn string(&mut self, name: &'static str) -> Result<String, LayoutError> {
        self.string_opt(name)?.ok_or_else(|| self.missing(name))
    }

    /// A boolean, if there is one.
    pub(super) fn bool_opt(&mut self, name: &'static str) -> Result<Option<bool>, LayoutError> {
        let path = self.path_of(name);
        self.take(name)
            .map(|value| value.as_bool().ok_or_else(|| wrong_type(&path, "true or false", value)))
            .transpose()
    }

    /// An unsigned number, if there is one.
    pub(super) fn number_opt(&mut self, name: &'static str) -> Result<Option<u64>, LayoutError> {
        let path = self.path_of(name);
        self.take(name)
            .map(|value| value.as_u64().ok_or_else(|| wrong_type(&path, "a whole number", value)))
            .transpose()
    }

    /// A list of strings; absent means empty.
    pub(super) fn strings(&mut self, name: &'static str) -> Result<Vec<String>, LayoutError> {
        let path = self.path_of(name);
        self.list(name)?
            .iter()
            .enumerate()
            .map(|(index, value)| as_string(&path::element(&path, index), value))
            .collect()
    }

    /// A list of unsigned numbers; absent means empty.
    pub(super) fn numbers(&mut self, name: &'static str) -> Result<Vec<u64>, LayoutError> {
        let path = self.path_of(name);
        self.list(name)?
            .iter()
            .enumerate()
            .map(|(index, value)| {
                value.as_u64().ok_or_else(|| {
                    wrong_type(&path::element(&path, index), "a whole number", value)
                })
            })
            .collect()
    }

    fn list(&mut self, name: &'static str) -> Result<&'a [Value], LayoutError> {
        let path = self.path_of(name);
        match self.take(name) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(value) => Err(wrong_type(&path, "a list", value)),
        }
    }

    /// A set of strings; absent means empty.
    pub(super) fn properties(
        &mut self,
        name: &'static str,
    ) -> Result<BTreeMap<String, String>, LayoutError> {
        let Some(set) = self.child_opt(name)? else { return Ok(BTreeMap::new()) };
        set.fields
            .iter()
            .map(|(key, value)| Ok(((*key).to_owned(), as_string(&set.path_of(key), value)?)))
            .collect()
    }

    /// A set, if there is one.
    pub(super) fn child_opt(
        &mut self,
        name: &'static str,
    ) -> Result<Option<Object<'a>>, LayoutError> {
        let path = self.path_of(name);
        self.take(name).map(|value| Object::new(path, value)).transpose()
    }

    /// The value of an attribute as it is, if there is one.
    pub(super) fn value_opt(&mut self, name: &'static str) -> Option<&'a Value> {
        self.take(name)
    }

    /// A set whose attributes are names chosen by the layout; absent means empty.
    pub(super) fn named_children(
        &mut self,
        name: &'static str,
    ) -> Result<Vec<(String, Object<'a>)>, LayoutError> {
        let Some(set) = self.child_opt(name)? else { return Ok(Vec::new()) };
        set.fields
            .iter()
            .map(|(key, value)| Ok(((*key).to_owned(), Object::new(set.path_of(key), value)?)))
            .collect()
    }

    /// Which attributes are left, without taking them.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// A list of sets; absent means empty, a set alone is a list of it.
    pub(super) fn child_list(
        &mut self,
        name: &'static str,
    ) -> Result<Vec<Object<'a>>, LayoutError> {
        let path = self.path_of(name);
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(values)) => values
                .iter()
                .enumerate()
                .map(|(index, value)| Object::new(path::element(&path, index), value))
                .collect(),
            Some(value) => Ok(vec![Object::new(path, value)?]),
        }
    }

    /// Refuses what nobody asked for.
    pub(super) fn finish(self) -> Result<(), LayoutError> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(attribute) => Err(LayoutError::UnknownAttribute {
                closest: closest(attribute, self.known.iter().copied()),
                attribute: (*attribute).to_owned(),
                path: if self.path.is_empty() { "disko.devices".into() } else { self.path },
            }),
        }
    }
}

/// A value as a shell variable has it; `None` for what nests deeper.
fn shell_value(value: &Value) -> Option<HookValue> {
    Some(match value {
        Value::Array(values) => {
            HookValue::List(values.iter().map(shell_scalar).collect::<Option<_>>()?)
        }
        Value::Object(values) => {
            let pair =
                |(name, value): (&String, &Value)| Some((name.clone(), shell_scalar(value)?));
            HookValue::Set(values.iter().map(pair).collect::<Option<_>>()?)
        }
        scalar => HookValue::String(shell_scalar(scalar)?),
    })
}

/// As Nix' `toString`.
fn shell_scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null | Value::Bool(false) => Some(String::new()),
        Value::Bool(true) => Some("1".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn as_string(path: &str, value: &Value) -> Result<String, LayoutError> {
    value.as_str().map(str::to_owned).ok_or_else(|| wrong_type(path, "a string", value))
}

fn wrong_type(path: &str, expected: &'static str, value: &Value) -> LayoutError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a set of attributes",
    };
    let path = if path.is_empty() { "disko.devices" } else { path };
    LayoutError::WrongType { path: path.to_owned(), expected, found }
}
