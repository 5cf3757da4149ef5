//! Where a connection manager's routes come from: inline, RDS, or scoped routes.

use std::sync::Arc;

use sidemesh_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;

use super::{RouteSource, ScopeExtract, ScopeKeyPart, ScopeSource};
use crate::rejection::{Rejection, Within};
use crate::resource::route::{self, ScopedRoutes};
use crate::wire;

pub(super) fn route_source(hcm: &pb::HttpConnectionManager) -> Result<RouteSource, Rejection> {
    use pb::http_connection_manager::RouteSpecifier;
    match &hcm.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => {
            let mut table = route::parse(config).within("route_config")?;
            // A table that stands in the listener is checked against the clusters unless it says otherwise.
            table.validate_clusters = wire::flag(&config.validate_clusters, true);
            Ok(RouteSource::Inline(Arc::new(table)))
        }
        Some(RouteSpecifier::Rds(rds)) => rds_source(rds).within("rds"),
        Some(RouteSpecifier::ScopedRoutes(scoped)) => scoped_source(scoped).within("scoped_routes"),
        None => Err(Rejection::invalid("route_specifier", "needs one of route_config, rds, scoped_routes")),
    }
}

fn rds_source(rds: &pb::Rds) -> Result<RouteSource, Rejection> {
    let source = wire::required(&rds.config_source, "config_source")?;
    Ok(RouteSource::Rds {
        name: wire::non_empty(&rds.route_config_name, "route_config_name")?,
        source: wire::config_source(source, "config_source")?,
    })
}

fn scoped_source(scoped: &pb::ScopedRoutes) -> Result<RouteSource, Rejection> {
    use pb::scoped_routes::ConfigSpecifier;
    wire::non_empty(&scoped.name, "name")?;
    let builder = wire::required(&scoped.scope_key_builder, "scope_key_builder")?;
    if builder.fragments.is_empty() {
        return Err(Rejection::invalid("scope_key_builder.fragments", "must hold at least one fragment"));
    }
    let key = wire::each(&builder.fragments, "fragments", key_part).within("scope_key_builder")?;
    let scopes = match &scoped.config_specifier {
        Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
            let scopes = wire::each(&list.scoped_route_configurations, "scoped_route_configurations", |s| {
                route::parse_scoped(s).map(Arc::new)
            });
            let mut by_key = ScopedRoutes::default();
            for scope in scopes.within("scoped_route_configurations_list")? {
                by_key.insert(scope).map_err(|taken| {
                    Rejection::invalid(
                        "scoped_route_configurations_list.scoped_route_configurations",
                        taken.to_string(),
                    )
                })?;
            }
            ScopeSource::Inline(Arc::new(by_key))
        }
        Some(ConfigSpecifier::ScopedRds(srds)) => {
            let source = wire::required(&srds.scoped_rds_config_source, "scoped_rds_config_source");
            let source =
                source.and_then(|s| wire::config_source(s, "scoped_rds_config_source")).within("scoped_rds")?;
            ScopeSource::Srds { source }
        }
        None => {
            return Err(Rejection::invalid("", "needs scoped_route_configurations_list or scoped_rds"));
        }
    };
    let rds = scoped.rds_config_source.as_ref().map(|s| wire::config_source(s, "rds_config_source")).transpose()?;
    Ok(RouteSource::Scoped { name: scoped.name.as_str().into(), key, scopes, rds })
}

fn key_part(fragment: &pb::scoped_routes::scope_key_builder::FragmentBuilder) -> Result<ScopeKeyPart, Rejection> {
    use pb::scoped_routes::scope_key_builder::fragment_builder::{Type, header_value_extractor::ExtractType};
    let Some(Type::HeaderValueExtractor(extractor)) = &fragment.r#type else {
        return Err(Rejection::invalid("header_value_extractor", "is required"));
    };
    let part = || {
        let extract = match &extractor.extract_type {
            Some(ExtractType::Index(index)) if *index != 0 && extractor.element_separator.is_empty() => {
                return Err(Rejection::invalid("index", "must be 0 without an element_separator"));
            }
            Some(ExtractType::Index(index)) => ScopeExtract::Index(*index),
            Some(ExtractType::Element(element)) => ScopeExtract::Element {
                separator: wire::non_empty(&element.separator, "separator").within("element")?.to_string(),
                key: wire::non_empty(&element.key, "key").within("element")?.to_string(),
            },
            None => return Err(Rejection::invalid("", "needs index or element")),
        };
        Ok(ScopeKeyPart {
            header: wire::header_name(&extractor.name, "name")?,
            element_separator: extractor.element_separator.clone(),
            extract,
        })
    };
    part().within("header_value_extractor")
}
