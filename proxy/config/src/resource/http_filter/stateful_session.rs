//! `stateful_session.v3.StatefulSession`: a client's requests go to the host that its cookie or header names.

use std::time::Duration;

use http::HeaderName;
use sidemesh_proto::envoy::config::core::v3::TypedExtensionConfig;
use sidemesh_proto::envoy::extensions::filters::http::stateful_session::v3 as pb;
use sidemesh_proto::envoy::extensions::http::stateful_session as state;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;

use super::FilterOverride;
use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{self, header_name, non_empty, required};

/// `None` state: nothing is looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct StatefulSession {
    pub state: Option<SessionState>,
    /// The host that is named, or none.
    pub strict: bool,
    /// Where it is counted; empty: nowhere.
    pub stat_prefix: Name,
    /// The status of the answer when the host that is named is not there and must be.
    pub not_found_status: u16,
}

/// Where the host's name is kept.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionState {
    Cookie {
        name: Name,
        /// Zero: as long as the client's session lasts.
        ttl: Duration,
        /// Requests for other paths have no state.
        path: Name,
        attributes: Vec<(Name, Name)>,
    },
    Header(HeaderName),
    /// In front of what the upstream puts into this header itself.
    Envelope(HeaderName),
}

pub(super) fn parse(config: &pb::StatefulSession) -> Result<StatefulSession, Rejection> {
    let not_found_status = match config.status_on_strict_destination_not_found {
        0 => 503,
        status => u16::try_from(status).ok().filter(|s| (100..600).contains(s)).ok_or_else(|| {
            Rejection::invalid("status_on_strict_destination_not_found", "is no HTTP status: give one of 100 to 599")
        })?,
    };
    Ok(StatefulSession {
        state: config.session_state.as_ref().map(session_state).transpose().within("session_state")?,
        strict: config.strict,
        stat_prefix: name(&config.stat_prefix),
        not_found_status,
    })
}

fn session_state(extension: &TypedExtensionConfig) -> Result<SessionState, Rejection> {
    let any: &Any = required(&extension.typed_config, "typed_config")?;
    match type_url::message_name(&any.type_url) {
        "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState" => {
            let config: state::cookie::v3::CookieBasedSessionState = wire::unpack(any, "typed_config")?;
            cookie(&config).within("typed_config")
        }
        "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState" => {
            let config: state::header::v3::HeaderBasedSessionState = wire::unpack(any, "typed_config")?;
            Ok(SessionState::Header(header_name(&config.name, "name").within("typed_config")?))
        }
        "envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState" => {
            let config: state::envelope::v3::EnvelopeSessionState = wire::unpack(any, "typed_config")?;
            let header = required(&config.header, "header").within("typed_config")?;
            Ok(SessionState::Envelope(header_name(&header.name, "header.name").within("typed_config")?))
        }
        other => {
            let reason = format!("session state `{other}` is not supported: use the cookie, header or envelope state");
            Err(Rejection::unsupported("typed_config", reason))
        }
    }
}

fn cookie(config: &state::cookie::v3::CookieBasedSessionState) -> Result<SessionState, Rejection> {
    let cookie = required(&config.cookie, "cookie")?;
    Ok(SessionState::Cookie {
        name: non_empty(&cookie.name, "cookie.name")?,
        ttl: wire::duration_or(&cookie.ttl, "cookie.ttl", Duration::ZERO)?,
        path: name(&cookie.path),
        attributes: cookie.attributes.iter().map(|a| (name(&a.name), name(&a.value))).collect(),
    })
}

pub(super) fn parse_override(config: &pb::StatefulSessionPerRoute) -> Result<FilterOverride, Rejection> {
    use pb::stateful_session_per_route::Override;
    match required(&config.r#override, "override")? {
        Override::Disabled(true) => Ok(FilterOverride::Disabled),
        Override::Disabled(false) => Err(Rejection::invalid("disabled", "must be true: leave it out otherwise")),
        Override::StatefulSession(own) => {
            Ok(FilterOverride::StatefulSession(parse(own).within("stateful_session")?.into()))
        }
    }
}
