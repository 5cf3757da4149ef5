//! `compressor.v3.Compressor` and `decompressor.v3.Decompressor`.

use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::compression as library_pb;
use sidemesh_proto::envoy::extensions::filters::http::compressor::v3 as pb;
use sidemesh_proto::envoy::extensions::filters::http::decompressor::v3 as decompressor_pb;
use sidemesh_proto::{google, type_url};

use super::FilterOverride;
use crate::matcher::parse as matcher;
use crate::matcher::string::StringMatcher;
use crate::rejection::{Rejection, Within};
use crate::value::{Name, name};
use crate::wire::{self, enumeration, flag, optional_name, required, uint32};

/// Shorter bodies are not worth compressing.
const DEFAULT_MIN_CONTENT_LENGTH: u32 = 30;
const DEFAULT_GZIP_LEVEL: u32 = 6;
const DEFAULT_GZIP_WINDOW_BITS: u32 = 12;
const MAX_GZIP_WINDOW_BITS: u32 = 15;
const DEFAULT_BROTLI_QUALITY: u32 = 3;
const DEFAULT_BROTLI_WINDOW_BITS: u32 = 18;
const DEFAULT_ZSTD_LEVEL: i32 = 3;
const MAX_ZSTD_LEVEL: u32 = 22;

#[derive(Debug, Clone, PartialEq)]
pub struct Compressor {
    /// The library's name in the configuration: statistics stand under it.
    pub name: Name,
    pub library: CompressionLibrary,
    /// Preferred where the client likes several codings equally.
    pub choose_first: bool,
    /// `request_direction_config`; `None`: requests are left alone.
    pub request: Option<Direction>,
    /// Responses: on unless switched off.
    pub response: ResponseCompression,
    /// `response_direction_config` is given: its counters stand apart.
    pub response_apart: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ResponseCompression {
    pub direction: Direction,
    pub disable_on_etag_header: bool,
    /// A strong tag becomes a weak one instead of being removed.
    pub weaken_etag: bool,
    pub remove_accept_encoding: bool,
    pub uncompressible_statuses: Vec<u16>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    /// `RuntimeFeatureFlag` default and key.
    pub enabled: bool,
    pub runtime_key: Option<Name>,
    /// Default 30 bytes.
    pub min_content_length: u32,
    pub content_types: ContentTypes,
}

/// Which media types are compressed.
#[derive(Debug, Clone, PartialEq)]
pub enum ContentTypes {
    /// Lower-cased; empty stands for Envoy's default list.
    Listed(Vec<Name>),
    Matching(Vec<StringMatcher>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompressionLibrary {
    Gzip { level: u32, window_bits: u8 },
    Brotli { quality: u32, window_bits: u32 },
    Zstd { level: i32 },
}

impl CompressionLibrary {
    /// The content coding's token.
    pub fn token(self) -> &'static str {
        match self {
            CompressionLibrary::Gzip { .. } => "gzip",
            CompressionLibrary::Brotli { .. } => "br",
            CompressionLibrary::Zstd { .. } => "zstd",
        }
    }

    /// Its part of statistics' names.
    pub fn stat_name(self) -> &'static str {
        match self {
            CompressionLibrary::Brotli { .. } => "brotli",
            other => other.token(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct CompressorOverride {
    pub response_enabled: Option<bool>,
    pub remove_accept_encoding: Option<bool>,
    pub library: Option<CompressionLibrary>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decompressor {
    /// The library's name in the configuration, of which statistics are named.
    pub name: Name,
    pub library: CompressionLibrary,
    pub request: DecompressDirection,
    pub response: DecompressDirection,
    pub advertise_accept_encoding: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DecompressDirection {
    pub enabled: RuntimeFlag,
    pub ignore_no_transform: bool,
}

/// `core.v3.RuntimeFeatureFlag`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeFlag {
    pub default: bool,
    pub key: Option<Name>,
}

/// The `compressor` filter. The deprecated fields beside `response_direction_config` count when that is not given.
#[allow(deprecated)]
pub(super) fn parse(config: &pb::Compressor) -> Result<Compressor, Rejection> {
    let response = match &config.response_direction_config {
        Some(r) => ResponseCompression {
            direction: direction(&r.common_config).within("response_direction_config.common_config")?,
            disable_on_etag_header: r.disable_on_etag_header && !r.weaken_etag_on_compress,
            weaken_etag: r.weaken_etag_on_compress,
            remove_accept_encoding: r.remove_accept_encoding_header,
            uncompressible_statuses: statuses(&r.uncompressible_response_codes)
                .within("response_direction_config.uncompressible_response_codes")?,
        },
        None => ResponseCompression {
            direction: Direction {
                enabled: runtime_flag(&config.runtime_enabled).default,
                runtime_key: runtime_flag(&config.runtime_enabled).key,
                min_content_length: uint32(&config.content_length).unwrap_or(DEFAULT_MIN_CONTENT_LENGTH),
                content_types: ContentTypes::Listed(media_types(&config.content_type)),
            },
            disable_on_etag_header: config.disable_on_etag_header,
            weaken_etag: false,
            remove_accept_encoding: config.remove_accept_encoding_header,
            uncompressible_statuses: Vec::new(),
        },
    };
    let request = match &config.request_direction_config {
        Some(r) => Some(direction(&r.common_config).within("request_direction_config.common_config")?),
        None => None,
    };
    let library = required(&config.compressor_library, "compressor_library")?;
    Ok(Compressor {
        name: name(&library.name),
        library: extension(library, compressor_library).within("compressor_library")?,
        choose_first: config.choose_first,
        request,
        response,
        response_apart: config.response_direction_config.is_some(),
    })
}

fn direction(common: &Option<pb::compressor::CommonDirectionConfig>) -> Result<Direction, Rejection> {
    let common = common.clone().unwrap_or_default();
    let content_types = match common.content_type_matcher.is_empty() {
        true => ContentTypes::Listed(media_types(&common.content_type)),
        false => ContentTypes::Matching(matcher::strings(&common.content_type_matcher, "content_type_matcher")?),
    };
    let enabled = runtime_flag(&common.enabled);
    Ok(Direction {
        enabled: enabled.default,
        runtime_key: enabled.key,
        min_content_length: uint32(&common.min_content_length).unwrap_or(DEFAULT_MIN_CONTENT_LENGTH),
        content_types,
    })
}

fn media_types(list: &[String]) -> Vec<Name> {
    list.iter().map(|t| name(&t.to_ascii_lowercase())).collect()
}

fn statuses(codes: &[u32]) -> Result<Vec<u16>, Rejection> {
    let one = |code: &u32| match u16::try_from(*code) {
        Ok(code @ 200..=599) => Ok(code),
        _ => Err(Rejection::invalid("", format!("{code} is not between 200 and 599"))),
    };
    codes.iter().map(one).collect()
}

/// On unless it says otherwise.
fn runtime_flag(f: &Option<core::RuntimeFeatureFlag>) -> RuntimeFlag {
    f.as_ref().map_or(RuntimeFlag { default: true, key: None }, |f| RuntimeFlag {
        default: flag(&f.default_value, true),
        key: optional_name(&f.runtime_key),
    })
}

fn extension(
    library: &core::TypedExtensionConfig,
    parse: fn(&google::Any) -> Result<CompressionLibrary, Rejection>,
) -> Result<CompressionLibrary, Rejection> {
    parse(required(&library.typed_config, "typed_config")?).within("typed_config")
}

fn compressor_library(any: &google::Any) -> Result<CompressionLibrary, Rejection> {
    match type_url::message_name(&any.type_url) {
        "envoy.extensions.compression.gzip.compressor.v3.Gzip" => {
            let gzip: library_pb::gzip::compressor::v3::Gzip = wire::unpack(any, "")?;
            let level = enumeration::<library_pb::gzip::compressor::v3::gzip::CompressionLevel>(
                gzip.compression_level,
                "compression_level",
            )? as i32;
            Ok(CompressionLibrary::Gzip {
                level: u32::try_from(level).ok().filter(|l| *l > 0).unwrap_or(DEFAULT_GZIP_LEVEL),
                window_bits: gzip_window(uint32(&gzip.window_bits).unwrap_or(DEFAULT_GZIP_WINDOW_BITS))?,
            })
        }
        "envoy.extensions.compression.brotli.compressor.v3.Brotli" => {
            let brotli: library_pb::brotli::compressor::v3::Brotli = wire::unpack(any, "")?;
            let quality = uint32(&brotli.quality).unwrap_or(DEFAULT_BROTLI_QUALITY);
            let window_bits = uint32(&brotli.window_bits).unwrap_or(DEFAULT_BROTLI_WINDOW_BITS);
            if quality > 11 {
                return Err(Rejection::invalid("quality", "is more than 11"));
            }
            if !(10..=24).contains(&window_bits) {
                return Err(Rejection::invalid("window_bits", "is not between 10 and 24"));
            }
            Ok(CompressionLibrary::Brotli { quality, window_bits })
        }
        "envoy.extensions.compression.zstd.compressor.v3.Zstd" => {
            let zstd: library_pb::zstd::compressor::v3::Zstd = wire::unpack(any, "")?;
            match uint32(&zstd.compression_level).unwrap_or(0) {
                0 => Ok(CompressionLibrary::Zstd { level: DEFAULT_ZSTD_LEVEL }),
                level @ 1..=MAX_ZSTD_LEVEL => Ok(CompressionLibrary::Zstd { level: level as i32 }),
                level => Err(Rejection::invalid("compression_level", format!("{level} is more than {MAX_ZSTD_LEVEL}"))),
            }
        }
        other => Err(Rejection::unsupported("", format!("compressor library `{other}`; use gzip, brotli or zstd"))),
    }
}

/// Of a decompressor only the coding counts, and gzip's window.
fn decompressor_library(any: &google::Any) -> Result<CompressionLibrary, Rejection> {
    match type_url::message_name(&any.type_url) {
        "envoy.extensions.compression.gzip.decompressor.v3.Gzip" => {
            let gzip: library_pb::gzip::decompressor::v3::Gzip = wire::unpack(any, "")?;
            let window_bits = gzip_window(uint32(&gzip.window_bits).unwrap_or(MAX_GZIP_WINDOW_BITS))?;
            Ok(CompressionLibrary::Gzip { level: DEFAULT_GZIP_LEVEL, window_bits })
        }
        "envoy.extensions.compression.brotli.decompressor.v3.Brotli" => {
            Ok(CompressionLibrary::Brotli { quality: DEFAULT_BROTLI_QUALITY, window_bits: DEFAULT_BROTLI_WINDOW_BITS })
        }
        "envoy.extensions.compression.zstd.decompressor.v3.Zstd" => {
            Ok(CompressionLibrary::Zstd { level: DEFAULT_ZSTD_LEVEL })
        }
        other => Err(Rejection::unsupported("", format!("decompressor library `{other}`; use gzip, brotli or zstd"))),
    }
}

fn gzip_window(bits: u32) -> Result<u8, Rejection> {
    match u8::try_from(bits) {
        Ok(bits @ 9..=15) => Ok(bits),
        _ => Err(Rejection::invalid("window_bits", format!("{bits} is not between 9 and {MAX_GZIP_WINDOW_BITS}"))),
    }
}

pub(super) fn parse_override(config: &pb::CompressorPerRoute) -> Result<FilterOverride, Rejection> {
    use pb::compressor_per_route::Override;
    match &config.r#override {
        Some(Override::Disabled(true)) => Ok(FilterOverride::Compressor(CompressorOverride {
            response_enabled: Some(false),
            remove_accept_encoding: None,
            library: None,
        })),
        Some(Override::Disabled(false)) => Err(Rejection::invalid("disabled", "must be true")),
        Some(Override::Overrides(overrides)) => {
            let library = overrides.compressor_library.as_ref().map(|l| extension(l, compressor_library));
            let response = overrides.response_direction_config.as_ref();
            let removes = response.and_then(|r| r.remove_accept_encoding_header.as_ref());
            Ok(FilterOverride::Compressor(CompressorOverride {
                response_enabled: response.map(|_| true),
                remove_accept_encoding: removes.map(|v| v.value),
                library: library.transpose().within("overrides.compressor_library")?,
            }))
        }
        None => Err(Rejection::invalid("", "needs one of disabled, overrides")),
    }
}

/// The `decompressor` filter.
pub(super) fn parse_decompressor(config: &decompressor_pb::Decompressor) -> Result<Decompressor, Rejection> {
    let direction = |common: Option<&decompressor_pb::decompressor::CommonDirectionConfig>| DecompressDirection {
        enabled: runtime_flag(&common.and_then(|c| c.enabled.clone())),
        ignore_no_transform: common.is_some_and(|c| c.ignore_no_transform_header),
    };
    let request = config.request_direction_config.as_ref();
    let response = config.response_direction_config.as_ref();
    let library = required(&config.decompressor_library, "decompressor_library")?;
    Ok(Decompressor {
        name: name(&library.name),
        library: extension(library, decompressor_library).within("decompressor_library")?,
        request: direction(request.and_then(|r| r.common_config.as_ref())),
        response: direction(response.and_then(|r| r.common_config.as_ref())),
        advertise_accept_encoding: request.is_none_or(|r| flag(&r.advertise_accept_encoding, true)),
    })
}
