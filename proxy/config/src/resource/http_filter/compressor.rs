//! `compressor.v3.Compressor` and `decompressor.v3.Decompressor`.

use crate::value::Name;

#[derive(Debug, Clone, PartialEq)]
pub struct Compressor {
    pub library: CompressionLibrary,
    pub choose_first: bool,
    /// `request_direction_config`; `None`: requests are left alone.
    pub request: Option<Direction>,
    /// Responses: on unless switched off.
    pub response: ResponseCompression,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ResponseCompression {
    pub direction: Direction,
    pub disable_on_etag_header: bool,
    pub remove_accept_encoding: bool,
    pub uncompressible_statuses: Vec<u16>,
    pub status_header: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Direction {
    /// `RuntimeFeatureFlag` default and key.
    pub enabled: bool,
    pub runtime_key: Option<Name>,
    /// Default 30 bytes.
    pub min_content_length: u32,
    /// Lower-cased media types; empty stands for Envoy's default list.
    pub content_types: Vec<Name>,
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
}

#[derive(Debug, Clone, PartialEq)]
pub struct CompressorOverride {
    pub response_enabled: Option<bool>,
    pub remove_accept_encoding: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Decompressor {
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

