//! Content codings (RFC 9110 section 8.4.1) as body adapters: gzip, Brotli, Zstandard, both ways, a chunk at a time.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, MultiGzDecoder};
use http_body::Frame;
use sidemesh_config::resource::http_filter::compressor::CompressionLibrary;

use crate::body::{Body, Error, HttpBody};
use crate::stats_group;

/// Bytes that a decoder may make of one that it reads, beyond [`FREE_BYTES`].
const MAX_INFLATE_RATIO: u64 = 100;
/// Output that is never held against the ratio.
const FREE_BYTES: u64 = 64 * 1024;

stats_group! {
    /// One direction of a compressor (`…request.`, `…response.`).
    pub struct CodingStats {
        compressed: Counter,
        not_compressed: Counter,
        content_length_too_small: Counter,
        total_uncompressed_bytes: Counter,
        total_compressed_bytes: Counter,
    }
}

stats_group! {
    /// One direction of a decompressor (`…request.`, `…response.`).
    pub struct InflateStats {
        decompressed: Counter,
        not_decompressed: Counter,
        total_uncompressed_bytes: Counter,
        total_compressed_bytes: Counter,
    }
}

/// What a coder does, and what its bytes are counted under.
enum Tally {
    Deflates(Arc<CodingStats>),
    Inflates(Arc<InflateStats>),
}

enum Coder {
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Brotli(Box<brotli::CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    Gunzip(Box<MultiGzDecoder<Vec<u8>>>),
    Unbrotli(Box<brotli::DecompressorWriter<Vec<u8>>>),
    Unzstd(zstd::stream::write::Decoder<'static, Vec<u8>>),
}

/// Compresses `body`; its bytes are counted.
pub fn compress(body: Body, library: CompressionLibrary, stats: Arc<CodingStats>) -> io::Result<Body> {
    let coder =
        match library {
            CompressionLibrary::Gzip { level, .. } => {
                Coder::Gzip(Box::new(GzEncoder::new(Vec::new(), Compression::new(level.min(9)))))
            }
            CompressionLibrary::Brotli { quality, window_bits } => Coder::Brotli(Box::new(
                brotli::CompressorWriter::new(Vec::new(), 4096, quality.min(11), window_bits.clamp(10, 24)),
            )),
            CompressionLibrary::Zstd { level } => Coder::Zstd(zstd::stream::write::Encoder::new(Vec::new(), level)?),
        };
    Ok(coded(body, coder, Tally::Deflates(stats)))
}

/// Decompresses `body`; its bytes are counted. As in Envoy: what cannot be decoded ends the output, not the message.
pub fn decompress(body: Body, library: CompressionLibrary, stats: Arc<InflateStats>) -> io::Result<Body> {
    let coder = match library {
        CompressionLibrary::Gzip { .. } => Coder::Gunzip(Box::new(MultiGzDecoder::new(Vec::new()))),
        CompressionLibrary::Brotli { .. } => {
            Coder::Unbrotli(Box::new(brotli::DecompressorWriter::new(Vec::new(), 4096)))
        }
        CompressionLibrary::Zstd { .. } => Coder::Unzstd(zstd::stream::write::Decoder::new(Vec::new())?),
    };
    Ok(coded(body, coder, Tally::Inflates(stats)))
}

fn coded(body: Body, coder: Coder, tally: Tally) -> Body {
    Body::boxed(Coded { body, coder: Some(coder), broken: false, trailers: None, tally, read: 0, written: 0 })
}

impl Coder {
    /// Takes `data` in and gives what comes out by now.
    fn push(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        fn through<W: Write>(writer: &mut W, data: &[u8]) -> io::Result<()> {
            writer.write_all(data)?;
            writer.flush()
        }
        Ok(std::mem::take(match self {
            Coder::Gzip(c) => {
                through(c, data)?;
                c.get_mut()
            }
            Coder::Brotli(c) => {
                through(c, data)?;
                c.get_mut()
            }
            Coder::Zstd(c) => {
                through(c, data)?;
                c.get_mut()
            }
            Coder::Gunzip(c) => {
                through(c, data)?;
                c.get_mut()
            }
            Coder::Unbrotli(c) => {
                through(c, data)?;
                c.get_mut()
            }
            Coder::Unzstd(c) => {
                through(c, data)?;
                c.get_mut()
            }
        }))
    }

    /// What came out before an error.
    fn rest(&mut self) -> Vec<u8> {
        match self {
            Coder::Gunzip(c) => std::mem::take(c.get_mut()),
            Coder::Unbrotli(c) => std::mem::take(c.get_mut()),
            Coder::Unzstd(c) => std::mem::take(c.get_mut()),
            Coder::Gzip(_) | Coder::Brotli(_) | Coder::Zstd(_) => Vec::new(),
        }
    }

    /// What is left at the end.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Coder::Gzip(c) => c.finish(),
            Coder::Brotli(c) => Ok(c.into_inner()),
            Coder::Zstd(c) => c.finish(),
            Coder::Gunzip(c) => c.finish(),
            Coder::Unbrotli(mut c) => {
                c.close()?;
                Ok(std::mem::take(c.get_mut()))
            }
            Coder::Unzstd(mut c) => {
                c.flush()?;
                Ok(std::mem::take(c.get_mut()))
            }
        }
    }
}

struct Coded {
    body: Body,
    /// `None`: finished.
    coder: Option<Coder>,
    /// What comes is no longer decoded, and left out.
    broken: bool,
    trailers: Option<http::HeaderMap>,
    tally: Tally,
    read: u64,
    written: u64,
}

impl Coded {
    fn step(&mut self, out: io::Result<Vec<u8>>) -> Result<Bytes, Error> {
        let out = match (out, &self.tally) {
            (Ok(out), _) => out,
            (Err(_), Tally::Deflates(_)) => return Err(Error::Malformed("content coding")),
            (Err(_), Tally::Inflates(_)) => {
                self.broken = true;
                self.coder.as_mut().map(Coder::rest).unwrap_or_default()
            }
        };
        self.written += out.len() as u64;
        match &self.tally {
            Tally::Deflates(stats) => stats.total_compressed_bytes.add(out.len() as u64),
            Tally::Inflates(stats) => {
                stats.total_uncompressed_bytes.add(out.len() as u64);
                if self.written > FREE_BYTES + self.read.saturating_mul(MAX_INFLATE_RATIO) {
                    return Err(Error::TooLarge("the inflate ratio of 100"));
                }
            }
        }
        Ok(Bytes::from(out))
    }
}

impl HttpBody for Coded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        loop {
            let Some(coder) = &mut this.coder else {
                return Poll::Ready(this.trailers.take().map(|t| Ok(Frame::trailers(t))));
            };
            let out = match ready!(this.body.poll_next(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        this.read += data.len() as u64;
                        match &this.tally {
                            Tally::Deflates(stats) => stats.total_uncompressed_bytes.add(data.len() as u64),
                            Tally::Inflates(stats) => stats.total_compressed_bytes.add(data.len() as u64),
                        }
                        if this.broken {
                            continue;
                        }
                        coder.push(&data)
                    }
                    Err(frame) => {
                        this.trailers = frame.into_trailers().ok();
                        continue;
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.broken => {
                    this.coder = None;
                    continue;
                }
                None => this.coder.take().map_or(Ok(Vec::new()), Coder::finish),
            };
            match this.step(out) {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => {
                    this.coder = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_coding_comes_back_as_it_was() {
        let text = "hello compressible world ".repeat(200);
        for library in [
            CompressionLibrary::Gzip { level: 6, window_bits: 12 },
            CompressionLibrary::Brotli { quality: 3, window_bits: 18 },
            CompressionLibrary::Zstd { level: 3 },
        ] {
            let packed = match compress(Body::full(text.clone()), library, Arc::default()) {
                Ok(body) => body.collect(1 << 20).await,
                Err(e) => panic!("{library:?}: {e}"),
            };
            let Ok(packed) = packed else { panic!("{library:?}: {packed:?}") };
            assert!(packed.len() < text.len() / 4, "{library:?}");
            let back = match decompress(Body::full(packed), library, Arc::default()) {
                Ok(body) => body.collect(1 << 20).await,
                Err(e) => panic!("{library:?}: {e}"),
            };
            assert_eq!(back, Ok(Bytes::from(text.clone())), "{library:?}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_ends_the_output_alone() {
        let library = CompressionLibrary::Gzip { level: 6, window_bits: 15 };
        let text = "hello compressible world ".repeat(20);
        let packed = match compress(Body::full(text.clone()), library, Arc::default()) {
            Ok(body) => body.collect(1 << 20).await.unwrap_or_default(),
            Err(e) => panic!("{e}"),
        };
        for (bytes, expected) in [(packed.slice(..packed.len() - 4), text), (Bytes::from("no gzip"), String::new())] {
            let out = match decompress(Body::full(bytes), library, Arc::default()) {
                Ok(body) => body.collect(1 << 20).await,
                Err(e) => panic!("{e}"),
            };
            assert_eq!(out, Ok(Bytes::from(expected)));
        }
    }

    #[tokio::test]
    async fn a_bomb_is_defused() {
        let library = CompressionLibrary::Gzip { level: 9, window_bits: 15 };
        let packed = match compress(Body::full(vec![0u8; 8 << 20]), library, Arc::default()) {
            Ok(body) => body.collect(1 << 20).await.unwrap_or_default(),
            Err(e) => panic!("{e}"),
        };
        let out = match decompress(Body::full(packed), library, Arc::default()) {
            Ok(body) => body.collect(64 << 20).await,
            Err(e) => panic!("{e}"),
        };
        assert!(matches!(out, Err(Error::TooLarge(_))));
    }
}
