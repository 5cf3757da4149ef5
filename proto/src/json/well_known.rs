//! `google.protobuf.Struct` and its relatives, to and from JSON values.

use serde_json::Value;

use crate::google;
use crate::google::value::Kind;

/// `google.protobuf.Struct` as a JSON object.
pub fn from_struct(s: &google::Struct) -> Value {
    s.fields.iter().map(|(key, value)| (key.clone(), from_value(value))).collect()
}

/// `google.protobuf.Value` as JSON; a number that JSON cannot hold becomes null.
pub fn from_value(v: &google::Value) -> Value {
    match &v.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(n)) => number(*n),
        Some(Kind::StringValue(s)) => s.as_str().into(),
        Some(Kind::BoolValue(b)) => (*b).into(),
        Some(Kind::StructValue(s)) => from_struct(s),
        Some(Kind::ListValue(list)) => list.values.iter().map(from_value).collect(),
    }
}

/// Whole numbers print without a fraction, as Envoy prints them.
fn number(n: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if n.fract() == 0.0 && n.abs() <= EXACT { (n as i64).into() } else { n.into() }
}

/// JSON as a `google.protobuf.Value`.
pub fn to_value(v: &Value) -> google::Value {
    let kind = match v {
        Value::Null => Kind::NullValue(0),
        Value::Bool(b) => Kind::BoolValue(*b),
        Value::Number(n) => Kind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => Kind::StringValue(s.clone()),
        Value::Array(list) => Kind::ListValue(google::ListValue { values: list.iter().map(to_value).collect() }),
        Value::Object(map) => Kind::StructValue(to_struct(map)),
    };
    google::Value { kind: Some(kind) }
}

/// A JSON object as a `google.protobuf.Struct`.
pub fn to_struct(map: &serde_json::Map<String, Value>) -> google::Struct {
    google::Struct { fields: map.iter().map(|(k, v)| (k.clone(), to_value(v))).collect() }
}
