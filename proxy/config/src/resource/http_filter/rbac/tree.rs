//! `matcher` and `shadow_matcher`: a matching tree over what is known of a connection or request, to `config.rbac.v3.Action`.

use prost::Name as _;
use sidemesh_proto::envoy::config::rbac::v3 as rules_pb;
use sidemesh_proto::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use sidemesh_proto::envoy::extensions::matching::common_inputs::ssl::v3 as ssl;
use sidemesh_proto::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;
use sidemesh_proto::xds::r#type::matcher::v3 as pb;

use super::RbacAction;
use crate::matcher::header::HeaderName;
use crate::matcher::input;
use crate::matcher::tree::{Reader, Tree};
use crate::rejection::Rejection;
use crate::resource::listener;
use crate::value::Name;
use crate::wire::{self, enumeration};

/// What the tree may ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Connection(listener::Input),
    UriSan,
    DnsSan,
    Subject,
    Header(HeaderName),
    FilterState(Name),
}

#[derive(Debug, Clone, PartialEq)]
pub struct RbacMatcher {
    /// To the name of the policy and what it does.
    pub tree: Tree<Input, (Name, RbacAction)>,
    /// An action in it logs: requests are marked.
    pub logs: bool,
}

impl RbacMatcher {
    /// Requests have headers, connections have none.
    pub(super) fn parse(wire: &pb::Matcher, http: bool) -> Result<Self, Rejection> {
        let logs = std::cell::Cell::new(false);
        let action = |any: &Any| {
            let action: rules_pb::Action = wire::unpack(any, "")?;
            let does = super::action(action.action)?;
            logs.set(logs.get() || does == RbacAction::Log);
            Ok((wire::non_empty(&action.name, "name")?, does))
        };
        let input = |any: &Any| input(any, http);
        let tree = Reader { input: &input, action: &action, has_runtime: http }.tree_or_nothing(wire)?;
        Ok(RbacMatcher { tree, logs: logs.get() })
    }
}

fn input(any: &Any, http: bool) -> Result<Input, Rejection> {
    let wanted = type_url::message_name(&any.type_url);
    match wanted {
        _ if wanted == ssl::UriSanInput::full_name() => Ok(Input::UriSan),
        _ if wanted == ssl::DnsSanInput::full_name() => Ok(Input::DnsSan),
        _ if wanted == ssl::SubjectInput::full_name() => Ok(Input::Subject),
        _ if http && wanted == HttpRequestHeaderMatchInput::full_name() => input::header(any).map(Input::Header),
        _ if http && wanted == FilterStateInput::full_name() => input::filter_state(any).map(Input::FilterState),
        _ => listener::matcher_input(any).map(Input::Connection),
    }
}

pub(super) fn action(number: i32) -> Result<RbacAction, Rejection> {
    use rules_pb::rbac::Action;
    Ok(match enumeration(number, "action")? {
        Action::Allow => RbacAction::Allow,
        Action::Deny => RbacAction::Deny,
        Action::Log => RbacAction::Log,
    })
}
