//! `jwt_authn.v3.JwtAuthentication`.

use std::sync::Arc;
use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::filters::http::jwt_authn::v3 as pb;

use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::resource::http_connection_manager::HttpService;
use crate::resource::http_service::http_uri;
use crate::resource::route::{RouteMatch, route_match};
use crate::value::{Backoff, DataSource, Name, name};
use crate::wire::{self, header_name, non_empty, optional_duration, optional_name, required};

const DEFAULT_CLOCK_SKEW: Duration = Duration::from_secs(60);
const DEFAULT_JWKS_CACHE: Duration = Duration::from_secs(600);
const DEFAULT_REFETCH: Duration = Duration::from_secs(1);
const DEFAULT_FETCH_BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(10) };
const DEFAULT_FETCH_RETRIES: u32 = 1;
/// Tokens kept per provider when a cache is asked for without a size.
const DEFAULT_CACHE_SIZE: u32 = 100;

#[derive(Debug, Clone, PartialEq)]
pub struct JwtAuthn {
    pub providers: Vec<Arc<JwtProvider>>,
    pub rules: Vec<JwtRule>,
    pub bypass_cors_preflight: bool,
    pub requirement_map: Vec<(Name, Arc<Requirement>)>,
    pub strip_failure_response: bool,
    pub stat_prefix: Name,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JwtProvider {
    pub name: Name,
    pub issuer: Name,
    pub audiences: Vec<Name>,
    pub subjects: Option<StringMatcher>,
    pub require_expiration: bool,
    pub max_lifetime: Option<Duration>,
    /// Default 60 s.
    pub clock_skew: Duration,
    pub jwks: Jwks,
    pub forward: bool,
    pub from_headers: Vec<(http::HeaderName, String)>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub forward_payload_header: Option<http::HeaderName>,
    pub pad_forward_payload_header: bool,
    pub payload_in_metadata: Option<Name>,
    pub header_in_metadata: Option<Name>,
    /// Why a token is bad is kept under it.
    pub failed_status_in_metadata: Option<Name>,
    /// Claims whose text becomes a list of its words in the metadata.
    pub space_delimited_claims: Vec<Name>,
    pub claim_to_headers: Vec<(http::HeaderName, Name)>,
    pub clear_route_cache: bool,
    pub cache_size: Option<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Jwks {
    Local(DataSource),
    Remote {
        service: HttpService,
        cache_duration: Duration,
        async_fetch: bool,
        failed_refetch: Duration,
        retry: Option<FetchRetry>,
    },
}

/// `retry_policy` of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchRetry {
    pub backoff: Backoff,
    pub retries: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct JwtRule {
    pub matcher: RouteMatch,
    /// `None`: no token needed.
    pub requirement: Option<Arc<Requirement>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Requirement {
    Provider { name: Name, audiences: Vec<Name> },
    Any(Vec<Requirement>),
    All(Vec<Requirement>),
    AllowMissingOrFailed,
    AllowMissing,
}

#[derive(Debug, Clone, PartialEq)]
pub enum JwtOverride {
    Disabled,
    RequirementName(Name),
}

pub(super) fn parse(config: &pb::JwtAuthentication) -> Result<JwtAuthn, Rejection> {
    let mut providers = Vec::with_capacity(config.providers.len());
    for (provider_name, p) in &config.providers {
        let parsed = provider(provider_name, p).map_err(|r| r.within(&format!("providers[{provider_name}]")))?;
        providers.push(Arc::new(parsed));
    }
    providers.sort_by(|a, b| a.name.cmp(&b.name));
    let mut requirement_map = Vec::with_capacity(config.requirement_map.len());
    for (requirement_name, r) in &config.requirement_map {
        let parsed =
            requirement(r, &providers).map_err(|r| r.within(&format!("requirement_map[{requirement_name}]")))?;
        requirement_map.push((name(requirement_name), Arc::new(parsed)));
    }
    requirement_map.sort_by(|(a, _), (b, _)| a.cmp(b));
    let rules = config.rules.iter().enumerate();
    Ok(JwtAuthn {
        rules: rules
            .map(|(i, r)| rule(r, &providers, &requirement_map).within_index("rules", i))
            .collect::<Result<_, _>>()?,
        providers,
        bypass_cors_preflight: config.bypass_cors_preflight,
        requirement_map,
        strip_failure_response: config.strip_failure_response,
        stat_prefix: name(&config.stat_prefix),
    })
}

/// A key set that is given here must be one; what a file holds is seen when it is read.
fn local_jwks(source: &core::DataSource) -> Result<DataSource, Rejection> {
    let source = wire::data_source(source, "local_jwks")?;
    if let DataSource::Inline(bytes) = &source {
        let document: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|e| Rejection::invalid("local_jwks", format!("is no JSON: {e}")))?;
        if !document["keys"].is_array() {
            return Err(Rejection::invalid("local_jwks", "must hold a list of `keys`"));
        }
    }
    Ok(source)
}

fn provider(provider_name: &str, p: &pb::JwtProvider) -> Result<JwtProvider, Rejection> {
    use pb::jwt_provider::JwksSourceSpecifier as Wire;
    let jwks = match &p.jwks_source_specifier {
        Some(Wire::LocalJwks(source)) => Jwks::Local(local_jwks(source)?),
        Some(Wire::RemoteJwks(remote)) => remote_jwks(remote).within("remote_jwks")?,
        None => return Err(Rejection::invalid("", "needs one of remote_jwks, local_jwks")),
    };
    let from = |h: &pb::JwtHeader| Ok((header_name(&h.name, "name")?, h.value_prefix.clone()));
    let claim = |c: &pb::JwtClaimToHeader| {
        Ok((header_name(&c.header_name, "header_name")?, non_empty(&c.claim_name, "claim_name")?))
    };
    let headers = p.from_headers.iter().enumerate();
    let claims = p.claim_to_headers.iter().enumerate();
    let payload_header = optional_name(&p.forward_payload_header);
    Ok(JwtProvider {
        name: name(provider_name),
        issuer: name(&p.issuer),
        audiences: p.audiences.iter().map(|a| name(a)).collect(),
        subjects: p.subjects.as_ref().map(|m| matcher::string(m, "subjects")).transpose()?,
        require_expiration: p.require_expiration,
        max_lifetime: optional_duration(&p.max_lifetime, "max_lifetime")?,
        clock_skew: match p.clock_skew_seconds {
            0 => DEFAULT_CLOCK_SKEW,
            seconds => Duration::from_secs(seconds.into()),
        },
        jwks,
        forward: p.forward,
        from_headers: headers.map(|(i, h)| from(h).within_index("from_headers", i)).collect::<Result<_, _>>()?,
        from_params: p.from_params.clone(),
        from_cookies: p.from_cookies.clone(),
        forward_payload_header: payload_header.map(|h| header_name(&h, "forward_payload_header")).transpose()?,
        pad_forward_payload_header: p.pad_forward_payload_header,
        payload_in_metadata: optional_name(&p.payload_in_metadata),
        header_in_metadata: optional_name(&p.header_in_metadata),
        failed_status_in_metadata: optional_name(&p.failed_status_in_metadata),
        space_delimited_claims: p
            .normalize_payload_in_metadata
            .iter()
            .flat_map(|n| &n.space_delimited_claims)
            .map(|c| name(c))
            .collect(),
        claim_to_headers: claims
            .map(|(i, c)| claim(c).within_index("claim_to_headers", i))
            .collect::<Result<_, _>>()?,
        clear_route_cache: p.clear_route_cache,
        cache_size: p.jwt_cache_config.as_ref().map(|c| match c.jwt_cache_size {
            0 => DEFAULT_CACHE_SIZE,
            size => size,
        }),
    })
}

fn remote_jwks(r: &pb::RemoteJwks) -> Result<Jwks, Rejection> {
    let fetch = r.async_fetch.as_ref();
    let retry = match &r.retry_policy {
        Some(policy) => {
            let backoff = policy.retry_back_off.as_ref().map(|b| wire::backoff(b, "retry_policy.retry_back_off"));
            Some(FetchRetry {
                backoff: backoff.transpose()?.unwrap_or(DEFAULT_FETCH_BACKOFF),
                retries: wire::uint32(&policy.num_retries).unwrap_or(DEFAULT_FETCH_RETRIES),
            })
        }
        None => None,
    };
    let failed_refetch = match fetch.and_then(|f| f.failed_refetch_duration.as_ref()) {
        Some(d) => wire::duration(d, "async_fetch.failed_refetch_duration")?,
        None => DEFAULT_REFETCH,
    };
    Ok(Jwks::Remote {
        service: http_uri(required(&r.http_uri, "http_uri")?, Vec::new(), "http_uri")?,
        cache_duration: wire::duration_or(&r.cache_duration, "cache_duration", DEFAULT_JWKS_CACHE)?,
        async_fetch: fetch.is_some(),
        failed_refetch,
        retry,
    })
}

fn rule(
    r: &pb::RequirementRule,
    providers: &[Arc<JwtProvider>],
    map: &[(Name, Arc<Requirement>)],
) -> Result<JwtRule, Rejection> {
    use pb::requirement_rule::RequirementType as Wire;
    let requirement = match &r.requirement_type {
        // An empty requirement asks for nothing, as none does.
        Some(Wire::Requires(pb::JwtRequirement { requires_type: None })) | None => None,
        Some(Wire::Requires(r)) => Some(Arc::new(requirement(r, providers).within("requires")?)),
        Some(Wire::RequirementName(wanted)) => {
            let found = map.iter().find(|(known, _)| **known == **wanted);
            let (_, requirement) = found.ok_or_else(|| {
                let known: Vec<&str> = map.iter().map(|(n, _)| &**n).collect();
                let reason = format!("`{wanted}` is not in requirement_map; it has [{}]", known.join(", "));
                Rejection::invalid("requirement_name", reason)
            })?;
            Some(requirement.clone())
        }
    };
    Ok(JwtRule { matcher: route_match(required(&r.r#match, "match")?).within("match")?, requirement })
}

fn requirement(r: &pb::JwtRequirement, providers: &[Arc<JwtProvider>]) -> Result<Requirement, Rejection> {
    use pb::jwt_requirement::RequiresType as Wire;
    let known = |wanted: &str, field: &str| match providers.iter().find(|p| *p.name == *wanted) {
        Some(provider) => Ok(provider.name.clone()),
        None => Err(Rejection::invalid(field, format!("provider `{wanted}` is not configured; add it to providers"))),
    };
    let list = |requirements: &[pb::JwtRequirement], field: &str| {
        if requirements.len() < 2 {
            return Err(Rejection::invalid(field, "needs at least two requirements"));
        }
        let each = requirements.iter().enumerate();
        each.map(|(i, r)| requirement(r, providers).within_index(field, i)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match &r.requires_type {
        Some(Wire::ProviderName(provider)) => {
            Requirement::Provider { name: known(provider, "provider_name")?, audiences: Vec::new() }
        }
        Some(Wire::ProviderAndAudiences(p)) => Requirement::Provider {
            name: known(&p.provider_name, "provider_and_audiences.provider_name")?,
            audiences: p.audiences.iter().map(|a| name(a)).collect(),
        },
        Some(Wire::RequiresAny(any)) => Requirement::Any(list(&any.requirements, "requires_any.requirements")?),
        Some(Wire::RequiresAll(all)) => Requirement::All(list(&all.requirements, "requires_all.requirements")?),
        Some(Wire::AllowMissingOrFailed(_)) => Requirement::AllowMissingOrFailed,
        Some(Wire::AllowMissing(_)) => Requirement::AllowMissing,
        Some(Wire::ExtractOnlyWithoutValidation(_)) => {
            let reason = "tokens are always verified; use allow_missing_or_failed";
            return Err(Rejection::unsupported("extract_only_without_validation", reason));
        }
        None => return Err(Rejection::invalid("", "needs a requirement")),
    })
}

pub(super) fn parse_override(config: &pb::PerRouteConfig) -> Result<JwtOverride, Rejection> {
    use pb::per_route_config::RequirementSpecifier as Wire;
    match &config.requirement_specifier {
        Some(Wire::Disabled(true)) => Ok(JwtOverride::Disabled),
        Some(Wire::Disabled(false)) => Err(Rejection::invalid("disabled", "must be true")),
        Some(Wire::RequirementName(requirement)) => {
            Ok(JwtOverride::RequirementName(non_empty(requirement, "requirement_name")?))
        }
        None => Err(Rejection::invalid("", "needs one of disabled, requirement_name")),
    }
}
