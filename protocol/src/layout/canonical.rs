//! One form for all equal documents.

use serde_json::Value;

/// `value` with the attributes of every set sorted by their bytes, disko's internal ones (those
/// with a leading underscore) left out, and no white space.
pub(super) fn write(value: &Value) -> String {
    let mut text = String::new();
    append(value, &mut text);
    text
}

fn append(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            // Sorted here and not left to `Map`, whose order is a feature of `serde_json`.
            let mut fields: Vec<_> =
                map.iter().filter(|(name, _)| !name.starts_with('_')).collect();
            fields.sort_by_key(|(name, _)| *name);
            separated(text, '{', '}', fields, |(name, value), text| {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                append(value, text);
            });
        }
        Value::Array(values) => separated(text, '[', ']', values, append),
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn separated<T>(
    text: &mut String,
    open: char,
    close: char,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(T, &mut String),
) {
    text.push(open);
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        each(item, text);
    }
    text.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_space_and_internal_attributes_do_not_count() {
        let one: Value =
            serde_json::from_str(r#"{"b": [1, {"y":null,"x":"ü\n"}], "a": {}}"#).unwrap();
        let two: Value =
            serde_json::from_str(r#"{"a":{"_parent":1},"b":[1,{"x":"\u00fc\n","y":null}]}"#)
                .unwrap();
        assert_eq!(write(&one), write(&two));
        assert_eq!(write(&one), r#"{"a":{},"b":[1,{"x":"ü\n","y":null}]}"#);
    }
}
