//! Routes that are answered here: `route.v3.RedirectAction`, `route.v3.DirectResponseAction`.

use sidemesh_proto::envoy::config::route::v3 as pb;

use super::action::{host_name, substitution as regex_substitution};
use super::parse::Limits;
use super::{RegexPattern, RouteAction};
use crate::rejection::Rejection;
use crate::resource::http_connection_manager::BodyFormat;
use crate::resource::substitution;
use crate::value::{DataSource, Name};
use crate::wire::{self, enumeration, optional_name};

#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    pub scheme: Option<Name>,
    pub https: bool,
    pub host: Option<Name>,
    pub port: Option<u16>,
    pub path: RedirectPath,
    pub status: u16,
    pub strip_query: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    Keep,
    /// May hold a query of its own.
    Path(Name),
    Prefix(Name),
    Regex {
        pattern: RegexPattern,
        substitution: String,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Option<DataSource>,
    pub body_format: Option<BodyFormat>,
}

pub(super) fn redirect(action: &pb::RedirectAction) -> Result<RouteAction, Rejection> {
    use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier};
    let (scheme, https) = match &action.scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => (None, *https),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => (optional_name(scheme), false),
        None => (None, false),
    };
    let path = match &action.path_rewrite_specifier {
        // As in Envoy, an empty one is none.
        Some(PathRewriteSpecifier::PathRedirect(text) | PathRewriteSpecifier::PrefixRewrite(text))
            if text.is_empty() =>
        {
            RedirectPath::Keep
        }
        Some(PathRewriteSpecifier::PathRedirect(path)) => RedirectPath::Path(host_name(path, "path_redirect")?),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => RedirectPath::Prefix(host_name(prefix, "prefix_rewrite")?),
        Some(PathRewriteSpecifier::RegexRewrite(rewrite)) => {
            let (pattern, substitution) = regex_substitution(rewrite, "regex_rewrite")?;
            RedirectPath::Regex { pattern, substitution }
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(Rejection::unsupported("path_rewrite", "use path_redirect, prefix_rewrite or regex_rewrite"));
        }
        None => RedirectPath::Keep,
    };
    let port = u16::try_from(action.port_redirect)
        .map_err(|_| Rejection::invalid("port_redirect", format!("{} is more than 65535", action.port_redirect)))?;
    Ok(RouteAction::Redirect(Box::new(Redirect {
        scheme,
        https,
        host: optional_name(&host_name(&action.host_redirect, "host_redirect")?),
        port: (port != 0).then_some(port),
        path,
        status: match enumeration(action.response_code, "response_code")? {
            Code::MovedPermanently => 301,
            Code::Found => 302,
            Code::SeeOther => 303,
            Code::TemporaryRedirect => 307,
            Code::PermanentRedirect => 308,
        },
        strip_query: action.strip_query,
    })))
}

pub(super) fn direct_response(action: &pb::DirectResponseAction, limits: Limits) -> Result<RouteAction, Rejection> {
    let status = match u16::try_from(action.status) {
        Ok(status @ 200..=599) => status,
        _ => return Err(Rejection::invalid("status", format!("{} is not between 200 and 599", action.status))),
    };
    let body = action.body.as_ref().map(|b| wire::data_source(b, "body")).transpose()?;
    if let Some(DataSource::Inline(bytes)) = &body
        && bytes.len() > limits.max_direct_response_body as usize
    {
        let reason = format!(
            "has {} bytes; max_direct_response_body_size_bytes allows {}",
            bytes.len(),
            limits.max_direct_response_body
        );
        return Err(Rejection::invalid("body", reason));
    }
    let body_format = action.body_format.as_ref().map(|f| substitution::body_format(f, "body_format")).transpose()?;
    Ok(RouteAction::DirectResponse(Box::new(DirectResponse { status, body, body_format })))
}
