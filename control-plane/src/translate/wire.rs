//! Small words of the xDS language.

use std::net::SocketAddr;
use std::time::Duration;

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::r#type::matcher::v3 as matcher;
use sidemesh_proto::envoy::r#type::v3::{FractionalPercent, fractional_percent::DenominatorType};
use sidemesh_proto::google;

pub(super) fn any<T: prost::Name>(message: &T) -> google::Any {
    google::Any { type_url: T::type_url(), value: message.encode_to_vec() }
}

pub(super) fn duration(duration: Duration) -> Option<google::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    // Less than 10^9, always fits.
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(0);
    Some(google::Duration { seconds, nanos })
}

pub(super) fn u32_value(value: u32) -> Option<google::UInt32Value> {
    Some(google::UInt32Value { value })
}

pub(super) fn yes() -> Option<google::BoolValue> {
    Some(google::BoolValue { value: true })
}

pub(super) fn address(address: SocketAddr) -> Option<core::Address> {
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) })
}

/// "From the stream that this came on."
pub(super) fn from_ads() -> Option<core::ConfigSource> {
    Some(core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    })
}

pub(super) fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: pattern.to_owned(), ..Default::default() }
}

pub(super) fn exact(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(text.to_owned())),
        ..Default::default()
    }
}

pub(super) fn prefix(text: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::Prefix(text.to_owned())),
        ..Default::default()
    }
}

pub(super) fn matches(pattern: &str) -> matcher::StringMatcher {
    matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(pattern))),
        ..Default::default()
    }
}

pub(super) fn inline(text: &str) -> Option<core::DataSource> {
    let specifier = core::data_source::Specifier::InlineString(text.to_owned());
    Some(core::DataSource { specifier: Some(specifier), ..Default::default() })
}

pub(super) fn file(path: &str) -> Option<core::DataSource> {
    let specifier = core::data_source::Specifier::Filename(path.to_owned());
    Some(core::DataSource { specifier: Some(specifier), ..Default::default() })
}

pub(super) fn header(name: &str, value: &str, append: bool) -> core::HeaderValueOption {
    use core::header_value_option::HeaderAppendAction as Action;
    let action = if append { Action::AppendIfExistsOrAdd } else { Action::OverwriteIfExistsOrAdd };
    core::HeaderValueOption {
        header: Some(core::HeaderValue { key: name.to_owned(), value: value.to_owned(), ..Default::default() }),
        append_action: action.into(),
        ..Default::default()
    }
}

/// So many of a million requests.
pub(super) fn millionths(numerator: u32) -> core::RuntimeFractionalPercent {
    let share = FractionalPercent { numerator, denominator: DenominatorType::Million.into() };
    core::RuntimeFractionalPercent { default_value: Some(share), ..Default::default() }
}

/// A struct of strings, for metadata.
pub(super) fn strings<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> google::Struct {
    let text = |v: &str| google::Value { kind: Some(google::value::Kind::StringValue(v.to_owned())) };
    google::Struct { fields: fields.into_iter().map(|(k, v)| (k.to_owned(), text(v))).collect() }
}
