//! Runtime values (`service.runtime.v3.Runtime`, and the layers of the start-up file): a layer's struct, flattened.

use std::collections::BTreeMap;

use sidemesh_proto::google;
use sidemesh_proto::google::value::Kind;

use crate::rejection::{Rejection, Within};
use crate::value::{Fraction, Name, RuntimeValue, name};

/// Nesting of a layer's struct beyond this is refused.
const MAX_DEPTH: usize = 32;

/// The entries of a layer's struct: `{a: {b: 1}}` is `a.b`, and a struct with a `numerator` is a fraction.
pub fn flatten(values: &google::Struct, field: &str) -> Result<BTreeMap<Name, RuntimeValue>, Rejection> {
    let mut entries = BTreeMap::new();
    flatten_into(&mut entries, "", values, 0).within(field)?;
    Ok(entries)
}

fn flatten_into(
    entries: &mut BTreeMap<Name, RuntimeValue>,
    prefix: &str,
    values: &google::Struct,
    depth: usize,
) -> Result<(), Rejection> {
    if depth > MAX_DEPTH {
        return Err(Rejection::invalid(prefix, format!("nested more than {MAX_DEPTH} levels deep")));
    }
    for (key, value) in &values.fields {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let value = match &value.kind {
            Some(Kind::BoolValue(b)) => RuntimeValue::Bool(*b),
            Some(Kind::NumberValue(n)) => RuntimeValue::Number(*n),
            Some(Kind::StringValue(s)) => RuntimeValue::Text(name(s)),
            Some(Kind::StructValue(inner)) if is_fraction(inner) => RuntimeValue::Fraction(fraction(inner, &key)?),
            Some(Kind::StructValue(inner)) => {
                flatten_into(entries, &key, inner, depth + 1)?;
                continue;
            }
            Some(Kind::ListValue(_) | Kind::NullValue(_)) | None => {
                return Err(Rejection::invalid(key, "must be a boolean, a number, a text or a fraction"));
            }
        };
        entries.insert(name(&key), value);
    }
    Ok(())
}

fn is_fraction(values: &google::Struct) -> bool {
    values.fields.contains_key("numerator") || values.fields.contains_key("denominator")
}

fn fraction(values: &google::Struct, key: &str) -> Result<Fraction, Rejection> {
    let kind = |field: &str| values.fields.get(field).and_then(|v| v.kind.as_ref());
    let numerator = match kind("numerator") {
        None => 0,
        Some(Kind::NumberValue(n)) if *n >= 0.0 && *n <= f64::from(u32::MAX) && n.fract() == 0.0 => *n as u32,
        Some(_) => return Err(Rejection::invalid(format!("{key}.numerator"), "must be a whole number")),
    };
    let denominator = match kind("denominator") {
        None => 100,
        Some(Kind::StringValue(s)) if s == "HUNDRED" => 100,
        Some(Kind::StringValue(s)) if s == "TEN_THOUSAND" => 10_000,
        Some(Kind::StringValue(s)) if s == "MILLION" => 1_000_000,
        Some(_) => {
            let reason = "must be HUNDRED, TEN_THOUSAND or MILLION";
            return Err(Rejection::invalid(format!("{key}.denominator"), reason));
        }
    };
    Ok(Fraction { numerator, denominator })
}
