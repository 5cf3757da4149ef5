//! What the fuzz targets share: a way through both codecs, and a request's record for formats.
#![forbid(unsafe_code)]

pub mod record;
pub mod relay;
