//! `route.v3.RateLimit`: the descriptors that a request makes for the rate-limit filters.

use std::sync::Arc;

use sidemesh_proto::envoy::config::route::v3 as pb;
use sidemesh_proto::envoy::r#type::v3::RateLimitUnit;

use super::{OwnLimit, RateLimit, RateLimitAction};
use crate::matcher::parse as matcher;
use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{enumeration, flag, non_empty, optional_name, required, uint32};

const MAX_STAGE: u32 = 10;
const MAX_HITS: u64 = 1_000_000_000;

/// The rate limits of a route, virtual host or filter.
pub fn rate_limits(list: &[pb::RateLimit], field: &str) -> Result<Arc<[RateLimit]>, Rejection> {
    list.iter().enumerate().map(|(i, limit)| rate_limit(limit).within_index(field, i)).collect()
}

fn rate_limit(limit: &pb::RateLimit) -> Result<RateLimit, Rejection> {
    use pb::rate_limit::r#override::OverrideSpecifier;
    let stage = uint32(&limit.stage).unwrap_or(0);
    if stage > MAX_STAGE {
        return Err(Rejection::invalid("stage", format!("{stage} is more than {MAX_STAGE}")));
    }
    if limit.actions.is_empty() {
        return Err(Rejection::invalid("actions", "must hold at least one action"));
    }
    let actions = limit.actions.iter().enumerate();
    let own = match limit.limit.as_ref().map(|l| l.override_specifier.as_ref()) {
        None => None,
        Some(Some(OverrideSpecifier::RateLimit(fixed))) => {
            enumeration::<RateLimitUnit>(fixed.unit, "unit").within("limit.rate_limit")?;
            Some(OwnLimit::Fixed(fixed.requests_per_unit, fixed.unit))
        }
        Some(Some(OverrideSpecifier::DynamicMetadata(from))) => {
            let key =
                required(&from.metadata_key, "metadata_key").and_then(|key| matcher::metadata_key(key, "metadata_key"));
            let (filter, path) = key.within("limit.dynamic_metadata")?;
            Some(OwnLimit::Metadata { filter, path })
        }
        Some(None) => return Err(Rejection::invalid("limit", "needs rate_limit or dynamic_metadata")),
    };
    Ok(RateLimit {
        stage,
        disable_key: optional_name(&limit.disable_key),
        actions: actions.map(|(i, a)| action(a).within_index("actions", i)).collect::<Result<_, _>>()?,
        limit: own,
        hits_addend: hits_addend(&limit.hits_addend).within("hits_addend")?,
    })
}

fn hits_addend(hits: &Option<pb::rate_limit::HitsAddend>) -> Result<Option<u64>, Rejection> {
    let Some(hits) = hits else { return Ok(None) };
    if !hits.format.is_empty() {
        return Err(Rejection::unsupported("format", "give a number"));
    }
    if hits.is_negative_hits {
        return Err(Rejection::unsupported("is_negative_hits", "remove it"));
    }
    match &hits.number {
        Some(number) if number.value > MAX_HITS => {
            Err(Rejection::invalid("number", format!("is more than {MAX_HITS}")))
        }
        Some(number) => Ok(Some(number.value)),
        None => Err(Rejection::invalid("number", "is required")),
    }
}

fn key_or(key: &str, default: &str) -> Name {
    name(if key.is_empty() { default } else { key })
}

fn action(a: &pb::rate_limit::Action) -> Result<RateLimitAction, Rejection> {
    use pb::rate_limit::action::ActionSpecifier as Wire;
    match &a.action_specifier {
        Some(Wire::SourceCluster(_)) => Ok(RateLimitAction::SourceCluster),
        Some(Wire::DestinationCluster(_)) => Ok(RateLimitAction::DestinationCluster),
        Some(Wire::RemoteAddress(_)) => Ok(RateLimitAction::RemoteAddress),
        Some(Wire::RequestHeaders(a)) => Ok(RateLimitAction::RequestHeader {
            name: matcher::match_name(&a.header_name, "request_headers.header_name")?,
            key: non_empty(&a.descriptor_key, "request_headers.descriptor_key")?,
            skip_if_absent: a.skip_if_absent,
        }),
        Some(Wire::QueryParameters(a)) => Ok(RateLimitAction::QueryParameter {
            name: non_empty(&a.query_parameter_name, "query_parameters.query_parameter_name")?.to_string(),
            key: non_empty(&a.descriptor_key, "query_parameters.descriptor_key")?,
            skip_if_absent: a.skip_if_absent,
        }),
        Some(Wire::MaskedRemoteAddress(a)) => masked(a).within("masked_remote_address"),
        Some(Wire::GenericKey(a)) => {
            no_default(&a.default_value).within("generic_key")?;
            Ok(RateLimitAction::Generic {
                key: key_or(&a.descriptor_key, "generic_key"),
                value: non_empty(&a.descriptor_value, "generic_key.descriptor_value")?,
            })
        }
        Some(Wire::HeaderValueMatch(a)) => header_value(a).within("header_value_match"),
        Some(Wire::QueryParameterValueMatch(a)) => query_value(a).within("query_parameter_value_match"),
        #[allow(deprecated)] // Envoy still takes it.
        Some(Wire::DynamicMetadata(a)) => {
            let key = required(&a.metadata_key, "metadata_key").within("dynamic_metadata")?;
            let (filter, path) = matcher::metadata_key(key, "dynamic_metadata.metadata_key")?;
            Ok(RateLimitAction::Metadata {
                key: non_empty(&a.descriptor_key, "dynamic_metadata.descriptor_key")?,
                filter,
                path,
                default: name(&a.default_value),
                dynamic: true,
                skip_if_absent: false,
            })
        }
        Some(Wire::Metadata(a)) => metadata(a).within("metadata"),
        Some(Wire::RemoteAddressMatch(_)) => {
            Err(Rejection::unsupported("remote_address_match", "use masked_remote_address"))
        }
        Some(Wire::Extension(_)) => Err(Rejection::unsupported("extension", "use one of the built-in actions")),
        None => Err(Rejection::invalid("", "needs an action")),
    }
}

fn no_default(default: &str) -> Result<(), Rejection> {
    if default.is_empty() {
        Ok(())
    } else {
        Err(Rejection::unsupported("default_value", "give descriptor_value alone"))
    }
}

fn masked(a: &pb::rate_limit::action::MaskedRemoteAddress) -> Result<RateLimitAction, Rejection> {
    let length = |value, most: u8, field: &str| match uint32(value).map_or(Ok(most), u8::try_from) {
        Ok(length) if length <= most => Ok(length),
        _ => Err(Rejection::invalid(field, format!("is more than {most}"))),
    };
    Ok(RateLimitAction::MaskedRemoteAddress {
        v4_len: length(&a.v4_prefix_mask_len, 32, "v4_prefix_mask_len")?,
        v6_len: length(&a.v6_prefix_mask_len, 128, "v6_prefix_mask_len")?,
    })
}

fn header_value(a: &pb::rate_limit::action::HeaderValueMatch) -> Result<RateLimitAction, Rejection> {
    no_default(&a.default_value)?;
    if a.headers.is_empty() {
        return Err(Rejection::invalid("headers", "must hold at least one matcher"));
    }
    Ok(RateLimitAction::HeaderValueMatch {
        key: key_or(&a.descriptor_key, "header_match"),
        value: non_empty(&a.descriptor_value, "descriptor_value")?,
        expect: flag(&a.expect_match, true),
        headers: matcher::headers(&a.headers, "headers")?,
    })
}

fn query_value(a: &pb::rate_limit::action::QueryParameterValueMatch) -> Result<RateLimitAction, Rejection> {
    no_default(&a.default_value)?;
    if a.query_parameters.is_empty() {
        return Err(Rejection::invalid("query_parameters", "must hold at least one matcher"));
    }
    Ok(RateLimitAction::QueryParameterValueMatch {
        key: key_or(&a.descriptor_key, "query_match"),
        value: non_empty(&a.descriptor_value, "descriptor_value")?,
        expect: flag(&a.expect_match, true),
        query: matcher::queries(&a.query_parameters, "query_parameters")?,
    })
}

fn metadata(a: &pb::rate_limit::action::MetaData) -> Result<RateLimitAction, Rejection> {
    use pb::rate_limit::action::meta_data::Source;
    let (filter, path) = matcher::metadata_key(required(&a.metadata_key, "metadata_key")?, "metadata_key")?;
    let dynamic = match enumeration(a.source, "source")? {
        Source::Dynamic => true,
        Source::RouteEntry => false,
        other => {
            let reason = format!("{} is not supported; use DYNAMIC or ROUTE_ENTRY", other.as_str_name());
            return Err(Rejection::unsupported("source", reason));
        }
    };
    Ok(RateLimitAction::Metadata {
        key: non_empty(&a.descriptor_key, "descriptor_key")?,
        filter,
        path,
        default: name(&a.default_value),
        dynamic,
        skip_if_absent: a.skip_if_absent,
    })
}
