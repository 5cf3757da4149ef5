//! Runtime layers (`layered_runtime`), and the flattening of a layer's struct that RTDS resources share.

use std::collections::BTreeMap;

use sidemesh_proto::envoy::config::bootstrap::v3::{LayeredRuntime, RuntimeLayer as WireLayer, runtime_layer};
use sidemesh_proto::google;
use sidemesh_proto::google::value::Kind;

use crate::rejection::{Rejection, Within};
use crate::value::{ConfigOrigin, ConfigSource, Fraction, Name, Runtime, RuntimeValue, name};
use crate::wire;

#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeLayer {
    pub name: Name,
    pub origin: RuntimeOrigin,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeOrigin {
    Static(BTreeMap<Name, RuntimeValue>),
    /// What `/runtime_modify` of the admin server sets.
    Admin,
    /// RTDS: the resource's name and where it comes from.
    Discovered {
        resource: Name,
        source: ConfigSource,
    },
}

/// Nesting of a layer's struct beyond this is refused.
const MAX_DEPTH: usize = 32;

pub(super) fn layers(wire: LayeredRuntime) -> Result<Vec<RuntimeLayer>, Rejection> {
    let mut layers: Vec<RuntimeLayer> = Vec::with_capacity(wire.layers.len());
    for (i, wire) in wire.layers.iter().enumerate() {
        let layer = layer(wire).within_index("layers", i)?;
        if layers.iter().any(|l| l.name == layer.name) {
            return Err(Rejection::invalid("name", format!("a second layer `{}`", layer.name)))
                .within_index("layers", i);
        }
        if layer.origin == RuntimeOrigin::Admin && layers.iter().any(|l| l.origin == RuntimeOrigin::Admin) {
            return Err(Rejection::invalid("admin_layer", "is given twice")).within_index("layers", i);
        }
        layers.push(layer);
    }
    Ok(layers)
}

fn layer(wire: &WireLayer) -> Result<RuntimeLayer, Rejection> {
    use runtime_layer::LayerSpecifier;
    let origin = match &wire.layer_specifier {
        Some(LayerSpecifier::StaticLayer(values)) => RuntimeOrigin::Static(flatten(values, "static_layer")?),
        Some(LayerSpecifier::AdminLayer(_)) => RuntimeOrigin::Admin,
        Some(LayerSpecifier::RtdsLayer(rtds)) => discovered(rtds).within("rtds_layer")?,
        Some(LayerSpecifier::DiskLayer(_)) => {
            return Err(Rejection::unsupported("disk_layer", "use static_layer or rtds_layer"));
        }
        None => return Err(Rejection::invalid("", "needs one of static_layer, admin_layer, rtds_layer")),
    };
    Ok(RuntimeLayer { name: wire::non_empty(&wire.name, "name")?, origin })
}

fn discovered(rtds: &runtime_layer::RtdsLayer) -> Result<RuntimeOrigin, Rejection> {
    let source = wire::required(&rtds.rtds_config, "rtds_config")?;
    let source = wire::config_source(source, "rtds_config")?;
    if source.origin == ConfigOrigin::Own {
        return Err(Rejection::invalid("rtds_config", "`self` has no meaning in a bootstrap"));
    }
    Ok(RuntimeOrigin::Discovered { resource: wire::non_empty(&rtds.name, "name")?, source })
}

impl Runtime {
    /// Layers put over each other: a later layer wins.
    pub fn merge<'a>(layers: impl IntoIterator<Item = &'a BTreeMap<Name, RuntimeValue>>) -> Runtime {
        let mut runtime = Runtime::default();
        for layer in layers {
            runtime.entries.extend(layer.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        runtime
    }
}

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
