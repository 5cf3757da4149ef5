//! A text that is kept for the rare reader: compressed.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;

/// See the module.
#[derive(Debug)]
pub struct Packed(Vec<u8>);

impl Packed {
    pub fn new(text: &str) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        // Memory takes everything: nothing fails.
        let mut packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
        packed.shrink_to_fit();
        Packed(packed)
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        // What was packed here unpacks: nothing fails.
        let _whole = DeflateDecoder::new(&*self.0).read_to_string(&mut text);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_as_it_was() {
        let text = "static_resources: {}\n".repeat(1000);
        let packed = Packed::new(&text);
        assert_eq!(packed.text(), text);
        assert!(packed.0.len() < text.len() / 10);
        assert_eq!(Packed::new("").text(), "");
    }
}
