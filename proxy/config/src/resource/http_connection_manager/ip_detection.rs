//! Where the client's address is found (`original_ip_detection_extensions`).

use http::HeaderName;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use sidemesh_proto::envoy::extensions::http::original_ip_detection::xff::v3::XffConfig;
use sidemesh_proto::type_url;

use crate::rejection::{Rejection, Within};
use crate::value::Cidr;
use crate::wire;

/// The status of a refusal that names none which is an error.
const DEFAULT_REFUSAL: u16 = 403;

#[derive(Debug, Clone, PartialEq)]
pub enum IpDetection {
    Xff(XffDetection),
    Header(HeaderDetection),
}

/// `x-forwarded-for`, with a hop count or trusted ranges of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct XffDetection {
    pub trusted_hops: u32,
    pub trusted_cidrs: Vec<Cidr>,
    pub skip_append: bool,
}

/// A header that holds the address.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderDetection {
    pub header: HeaderName,
    /// The address may make the request an internal one.
    pub trusted: bool,
    /// The status that a request without a valid address gets.
    pub refusal: Option<u16>,
}

pub(super) fn parse(extensions: &[core::TypedExtensionConfig]) -> Result<Vec<IpDetection>, Rejection> {
    wire::each(extensions, "original_ip_detection_extensions", |extension| {
        let path = "typed_config";
        let any = wire::required(&extension.typed_config, path)?;
        match type_url::message_name(&any.type_url) {
            "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" => {
                xff(&wire::unpack(any, path)?).within(path).map(IpDetection::Xff)
            }
            "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig" => {
                custom_header(&wire::unpack(any, path)?).within(path).map(IpDetection::Header)
            }
            other => {
                let reason = format!("`{other}` is not supported; use xff or custom_header");
                Err(Rejection::unsupported(path, reason))
            }
        }
    })
}

fn xff(config: &XffConfig) -> Result<XffDetection, Rejection> {
    let cidrs = config.xff_trusted_cidrs.as_ref().map_or(&[][..], |c| &c.cidrs);
    if !cidrs.is_empty() && config.xff_num_trusted_hops != 0 {
        let reason = "give xff_num_trusted_hops or xff_trusted_cidrs, not both";
        return Err(Rejection::invalid("xff_trusted_cidrs", reason));
    }
    Ok(XffDetection {
        trusted_hops: config.xff_num_trusted_hops,
        trusted_cidrs: wire::each(cidrs, "xff_trusted_cidrs.cidrs", |c| wire::cidr(c, ""))?,
        skip_append: wire::flag(&config.skip_xff_append, true),
    })
}

fn custom_header(config: &CustomHeaderConfig) -> Result<HeaderDetection, Rejection> {
    let refusal = config.reject_with_status.as_ref().map(|status| match u16::try_from(status.code) {
        Ok(code @ 400..=599) => code,
        _ => DEFAULT_REFUSAL,
    });
    Ok(HeaderDetection {
        header: wire::header_name(&config.header_name, "header_name")?,
        trusted: config.allow_extension_to_set_address_as_trusted,
        refusal,
    })
}
