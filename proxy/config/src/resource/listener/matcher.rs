//! `filter_chain_matcher`: a matching tree that names the filter chain by what is known of a connection.

use std::borrow::Cow;

use prost::{Message as _, Name as _};
use sidemesh_proto::envoy::extensions::matching::common_inputs::network::v3 as inputs;
use sidemesh_proto::google::{Any, StringValue};
use sidemesh_proto::type_url;
use sidemesh_proto::xds::r#type::matcher::v3 as pb;

use super::ConnectionView;
use super::choose::is_local;
use crate::matcher::tree::{Reader, Tree};
use crate::rejection::Rejection;
use crate::value::{Name, name};

/// What a matcher may ask of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    DestinationIp,
    DestinationPort,
    SourceIp,
    SourcePort,
    DirectSourceIp,
    SourceType,
    ServerName,
    TransportProtocol,
    ApplicationProtocol,
}

/// Leads to the name of a filter chain.
pub type ChainMatcher = Tree<Input, Name>;

pub(super) fn parse(wire: &pb::Matcher) -> Result<ChainMatcher, Rejection> {
    Reader { input: &input, action: &action, has_runtime: false }.tree(wire)
}

/// The input of a connection that the extension asks for.
pub(in crate::resource) fn input(any: &Any) -> Result<Input, Rejection> {
    let known = [
        (inputs::DestinationIpInput::full_name(), Input::DestinationIp),
        (inputs::DestinationPortInput::full_name(), Input::DestinationPort),
        (inputs::SourceIpInput::full_name(), Input::SourceIp),
        (inputs::SourcePortInput::full_name(), Input::SourcePort),
        (inputs::DirectSourceIpInput::full_name(), Input::DirectSourceIp),
        (inputs::SourceTypeInput::full_name(), Input::SourceType),
        (inputs::ServerNameInput::full_name(), Input::ServerName),
        (inputs::TransportProtocolInput::full_name(), Input::TransportProtocol),
        (inputs::ApplicationProtocolInput::full_name(), Input::ApplicationProtocol),
    ];
    let wanted = type_url::message_name(&any.type_url);
    known
        .into_iter()
        .find(|(name, _)| name == wanted)
        .map(|(_, input)| input)
        .ok_or_else(|| Rejection::unsupported("", format!("`{wanted}` is no input of a connection that is supported")))
}

/// The name of the chain.
fn action(any: &Any) -> Result<Name, Rejection> {
    if type_url::message_name(&any.type_url) != "google.protobuf.StringValue" {
        return Err(Rejection::unsupported("", "give the filter chain's name as a google.protobuf.StringValue"));
    }
    let value = StringValue::decode(any.value.as_slice()).map_err(|e| Rejection::malformed("", e.to_string()))?;
    Ok(name(&value.value))
}

impl ConnectionView<'_> {
    /// What the connection says of an input; `None` where it says nothing.
    pub fn value(&self, input: Input) -> Option<Cow<'_, str>> {
        let text = |t: String| Some(Cow::Owned(t));
        let given = |t: &'_ str| (!t.is_empty()).then(|| Cow::Owned(t.to_owned()));
        match input {
            Input::DestinationIp => text(self.destination?.ip().to_string()),
            Input::DestinationPort => text(self.destination?.port().to_string()),
            Input::SourceIp => text(self.source?.ip().to_string()),
            Input::SourcePort => text(self.source?.port().to_string()),
            Input::DirectSourceIp => text(self.direct_source?.ip().to_string()),
            Input::SourceType => is_local(self).then_some(Cow::Borrowed("local")),
            Input::ServerName => given(self.server_name),
            Input::TransportProtocol => given(self.transport_protocol),
            Input::ApplicationProtocol if self.application_protocols.is_empty() => None,
            Input::ApplicationProtocol => {
                let quoted: Vec<String> = self.application_protocols.iter().map(|p| format!("'{p}'")).collect();
                text(quoted.join(","))
            }
        }
    }
}
