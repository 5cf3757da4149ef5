//! Fixed dynamic metadata (`set_metadata.v3.Config`).

use serde_json::{Map, Value};
use sidemesh_config::resource::http_filter::set_metadata::SetMetadata;

use super::{Exchange, Flow};

pub fn on_request(config: &SetMetadata, x: &mut Exchange) -> Flow {
    let metadata = &mut x.info.metadata.0;
    for entry in &config.entries {
        match metadata.get_mut(&entry.namespace) {
            None => {
                metadata.insert(entry.namespace.clone(), Value::Object(entry.fields.clone()));
            }
            Some(Value::Object(have)) if entry.allow_overwrite => update(have, &entry.fields),
            Some(_) => {}
        }
    }
    Flow::Continue
}

/// Objects are merged, lists joined, anything else replaced.
fn update(have: &mut Map<String, Value>, new: &Map<String, Value>) {
    for (key, value) in new {
        match (have.get_mut(key), value) {
            (Some(Value::Object(inner)), Value::Object(fields)) => update(inner, fields),
            (Some(Value::Array(inner)), Value::Array(items)) => inner.extend(items.iter().cloned()),
            _ => {
                have.insert(key.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn updates_go_into_objects_and_lists() {
        let mut have = json!({"a": 1, "l": [1], "o": {"x": 1}});
        let new = json!({"a": "2", "l": [2], "o": {"y": 2}, "n": null});
        if let (Value::Object(have), Value::Object(new)) = (&mut have, &new) {
            update(have, new);
        }
        assert_eq!(have, json!({"a": "2", "l": [1, 2], "o": {"x": 1, "y": 2}, "n": null}));
    }
}
