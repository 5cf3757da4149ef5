//! Inputs of matching trees that are about a request.

use sidemesh_proto::envoy::extensions::matching::common_inputs::network::v3::FilterStateInput;
use sidemesh_proto::envoy::r#type::matcher::v3::HttpRequestHeaderMatchInput;
use sidemesh_proto::google::Any;

use super::header::HeaderName;
use crate::rejection::Rejection;
use crate::value::Name;
use crate::wire;

/// `HttpRequestHeaderMatchInput`: all values of the header, with commas between.
pub fn header(any: &Any) -> Result<HeaderName, Rejection> {
    let input: HttpRequestHeaderMatchInput = wire::unpack(any, "")?;
    HeaderName::parse(&input.header_name).ok_or_else(|| Rejection::invalid("header_name", "is no header name"))
}

/// `FilterStateInput`: the text under the key.
pub fn filter_state(any: &Any) -> Result<Name, Rejection> {
    let input: FilterStateInput = wire::unpack(any, "")?;
    wire::non_empty(&input.key, "key")
}
