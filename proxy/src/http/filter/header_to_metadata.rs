//! Dynamic metadata out of headers and cookies (`header_to_metadata.v3.Config`), both ways.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use http::header::{COOKIE, HeaderMap};
use prost::Message;
use serde_json::Value;
use sidemesh_config::matcher::header::HeaderName;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::header_to_metadata::{HeaderToMetadata, Rule, Source, Target, ValueKind};
use sidemesh_config::value::Metadata;
use sidemesh_proto::json::well_known::from_value;

use super::{Exchange, Flow};
use crate::body::Body;

/// A longer value is not kept.
const MAX_VALUE_BYTES: usize = 8 * 1024;

fn in_force<'a>(own: &'a HeaderToMetadata, over: Option<&'a FilterOverride>) -> &'a HeaderToMetadata {
    match over {
        Some(FilterOverride::HeaderToMetadata(config)) => config,
        _ => own,
    }
}

pub fn on_request(own: &HeaderToMetadata, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
    let rules = &in_force(own, over).request;
    let pseudo = pseudo(rules, x);
    apply(rules, &mut x.parts.headers, &pseudo, &mut x.info.metadata);
    Flow::Continue
}

pub fn on_response(
    own: &HeaderToMetadata,
    x: &mut Exchange,
    response: &mut Response<Body>,
    over: Option<&FilterOverride>,
) {
    apply(&in_force(own, over).response, response.headers_mut(), &[], &mut x.info.metadata);
}

/// The pseudo-headers that rules name.
fn pseudo(rules: &[Rule], x: &Exchange) -> Vec<(HeaderName, String)> {
    let named = rules.iter().filter_map(|rule| match &rule.source {
        Source::Header(HeaderName::Header(_)) | Source::Cookie(_) => None,
        Source::Header(name) => Some((name.clone(), name.joined(&x.view())?.into_owned())),
    });
    named.collect()
}

fn apply(rules: &[Rule], headers: &mut HeaderMap, pseudo: &[(HeaderName, String)], metadata: &mut Metadata) {
    for rule in rules {
        match (read(&rule.source, headers, pseudo), &rule.on_present, &rule.on_missing) {
            (Some(text), Some(target), _) => keep(target, &text, metadata),
            (None, _, Some(target)) => keep(target, "", metadata),
            _ => {}
        }
        if let (Source::Header(HeaderName::Header(name)), true) = (&rule.source, rule.remove) {
            headers.remove(name);
        }
    }
}

/// All values of a header, joined; a cookie's value.
fn read(source: &Source, headers: &HeaderMap, pseudo: &[(HeaderName, String)]) -> Option<String> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    match source {
        Source::Header(HeaderName::Header(name)) => {
            headers.get_all(name).iter().map(text).reduce(|all, next| all + "," + &next)
        }
        Source::Header(name) => pseudo.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()),
        Source::Cookie(name) => headers.get_all(COOKIE).iter().find_map(|header| {
            let mut pairs = header.to_str().ok()?.split(';').filter_map(|pair| pair.trim().split_once('='));
            pairs.find(|(key, _)| *key == &**name).map(|(_, value)| value.trim_matches('"').to_owned())
        }),
    }
    .filter(|text| !text.is_empty())
}

fn keep(target: &Target, text: &str, metadata: &mut Metadata) {
    let text = match (&target.value, &target.rewrite) {
        (Some(value), _) => Cow::Borrowed(&**value),
        (None, Some((pattern, substitution))) => pattern.0.replace_all(text, substitution.as_str()),
        (None, None) => Cow::Borrowed(text),
    };
    if let Some(value) = value(target, &text) {
        metadata.set(&target.namespace, &target.key, value);
    }
}

/// The value in its type; `None`: it is none of that type, or too long.
fn value(target: &Target, text: &str) -> Option<Value> {
    if text.is_empty() || text.len() > MAX_VALUE_BYTES {
        return None;
    }
    let bytes = match target.base64 {
        true => STANDARD.decode(text).ok()?,
        false => text.as_bytes().to_vec(),
    };
    match target.kind {
        ValueKind::Protobuf => sidemesh_proto::google::Value::decode(&*bytes).ok().map(|v| from_value(&v)),
        ValueKind::Text => String::from_utf8(bytes).ok().map(Value::String),
        ValueKind::Number => {
            let number: f64 = std::str::from_utf8(&bytes).ok()?.trim().parse().ok()?;
            let kind = sidemesh_proto::google::value::Kind::NumberValue(number);
            Some(from_value(&sidemesh_proto::google::Value { kind: Some(kind) }))
        }
    }
}
