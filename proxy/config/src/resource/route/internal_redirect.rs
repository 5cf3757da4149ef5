//! Following a redirect of the upstream inside the proxy (`route.v3.InternalRedirectPolicy`).

use http::HeaderName;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::config::route::v3 as pb;
use sidemesh_proto::envoy::extensions::internal_redirect as predicates;
use sidemesh_proto::type_url;

use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{self, enumeration, required, uint32};

/// Statuses that may start an internal redirect.
const REDIRECT_STATUSES: [u32; 5] = [301, 302, 303, 307, 308];

#[derive(Debug, Clone, PartialEq)]
pub struct InternalRedirect {
    pub max_redirects: u32,
    /// Default 302 only.
    pub codes: Vec<u16>,
    pub allow_cross_scheme: bool,
    /// All must accept the route that a redirect leads to.
    pub predicates: Vec<RedirectPredicate>,
    pub response_headers_to_copy: Vec<HeaderName>,
}

/// `envoy.internal_redirect_predicates.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedirectPredicate {
    /// Only to these routes, by name.
    AllowListedRoutes(Vec<Name>),
    /// From one route to another at most once per request.
    PreviousRoutes,
    /// Never from http to https.
    SafeCrossScheme,
}

/// The policy, or the old pair of fields that it replaces.
pub(super) fn parse(action: &pb::RouteAction) -> Result<Option<InternalRedirect>, Rejection> {
    use pb::route_action::InternalRedirectAction as Old;
    const DEFAULT_STATUS: u16 = 302;
    #[allow(deprecated)] // Envoy still takes the old pair of fields when there is no policy.
    let (old, old_max) = (action.internal_redirect_action, uint32(&action.max_internal_redirects));
    let handled = enumeration::<Old>(old, "internal_redirect_action")? == Old::HandleInternalRedirect;
    let Some(policy) = &action.internal_redirect_policy else {
        return Ok(handled.then(|| InternalRedirect {
            max_redirects: old_max.unwrap_or(1),
            codes: vec![DEFAULT_STATUS],
            allow_cross_scheme: false,
            predicates: Vec::new(),
            response_headers_to_copy: Vec::new(),
        }));
    };
    policy_redirect(policy, DEFAULT_STATUS).map(Some).within("internal_redirect_policy")
}

fn policy_redirect(policy: &pb::InternalRedirectPolicy, default: u16) -> Result<InternalRedirect, Rejection> {
    if policy.redirect_response_codes.len() > REDIRECT_STATUSES.len() {
        return Err(Rejection::invalid("redirect_response_codes", "holds more than 5 codes"));
    }
    let valid = policy.redirect_response_codes.iter().filter(|c| REDIRECT_STATUSES.contains(c));
    let mut codes: Vec<u16> = valid.filter_map(|c| u16::try_from(*c).ok()).collect();
    if policy.redirect_response_codes.is_empty() {
        codes.push(default);
    }
    let copied = policy.response_headers_to_copy.iter().enumerate();
    let predicates_given = policy.predicates.iter().enumerate();
    Ok(InternalRedirect {
        max_redirects: uint32(&policy.max_internal_redirects).unwrap_or(1),
        codes,
        allow_cross_scheme: policy.allow_cross_scheme_redirect,
        predicates: predicates_given
            .map(|(i, p)| predicate(p).within_index("predicates", i))
            .collect::<Result<_, _>>()?,
        response_headers_to_copy: copied
            .map(|(i, h)| wire::header_name(h, &format!("response_headers_to_copy[{i}]")))
            .collect::<Result<_, _>>()?,
    })
}

fn predicate(extension: &core::TypedExtensionConfig) -> Result<RedirectPredicate, Rejection> {
    let any = required(&extension.typed_config, "typed_config")?;
    Ok(match type_url::message_name(&any.type_url) {
        "envoy.extensions.internal_redirect.allow_listed_routes.v3.AllowListedRoutesConfig" => {
            let config: predicates::allow_listed_routes::v3::AllowListedRoutesConfig =
                wire::unpack(any, "typed_config")?;
            RedirectPredicate::AllowListedRoutes(config.allowed_route_names.iter().map(|n| name(n)).collect())
        }
        "envoy.extensions.internal_redirect.previous_routes.v3.PreviousRoutesConfig" => {
            RedirectPredicate::PreviousRoutes
        }
        "envoy.extensions.internal_redirect.safe_cross_scheme.v3.SafeCrossSchemeConfig" => {
            RedirectPredicate::SafeCrossScheme
        }
        other => {
            let reason =
                format!("`{other}` is not supported; use allow_listed_routes, previous_routes, safe_cross_scheme");
            return Err(Rejection::unsupported("typed_config", reason));
        }
    })
}
