//! Runtime layers (`layered_runtime`).

use std::collections::BTreeMap;

use sidemesh_proto::envoy::config::bootstrap::v3::{LayeredRuntime, RuntimeLayer as WireLayer, runtime_layer};

use crate::rejection::{Rejection, Within};
use crate::resource::runtime::flatten;
use crate::value::{ConfigOrigin, ConfigSource, Name, Runtime, RuntimeValue};
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
