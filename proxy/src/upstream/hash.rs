//! The hash functions of consistent hashing, bit for bit those of Envoy, so that affinity survives a mixed fleet.

use xxhash_rust::xxh64::xxh64;

/// xxHash64 with seed 0: what a hash policy makes of a header, cookie, address or parameter.
#[inline]
pub fn of(bytes: &[u8]) -> u64 {
    xxh64(bytes, 0)
}

/// xxHash64 with another seed.
#[inline]
pub fn seeded(bytes: &[u8], seed: u64) -> u64 {
    xxh64(bytes, seed)
}

/// Adds the hash of a further policy to what earlier ones gave.
#[inline]
pub fn combine(earlier: Option<u64>, hash: u64) -> u64 {
    match earlier {
        Some(earlier) => earlier.rotate_left(1) ^ hash,
        None => hash,
    }
}

const SEED: u64 = 0xc70f_6907;
const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;

/// 64-bit MurmurHash2 in the variant of libstdc++'s `std::hash`, with its seed.
pub fn murmur2(bytes: &[u8]) -> u64 {
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0u8; 8];
        word.copy_from_slice(chunk);
        let data = mix(u64::from_le_bytes(word).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ data).wrapping_mul(MULTIPLIER);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut word = [0u8; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(MULTIPLIER);
    }
    mix(mix(hash).wrapping_mul(MULTIPLIER))
}

fn mix(v: u64) -> u64 {
    v ^ (v >> 47)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_equals_the_standard_librarys() {
        for (text, hash) in [
            ("", 6_142_509_188_972_423_790u64),
            ("hello", 2_762_169_579_135_187_400),
            ("world", 8_751_027_807_033_337_960),
            ("abcdefgh", 8_664_279_048_047_335_611),
            ("127.0.0.1:80_0", 17_613_279_263_364_193_813),
        ] {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn policies_combine_in_order() {
        assert_eq!(combine(None, 5), 5);
        assert_ne!(combine(Some(of(b"a")), of(b"b")), combine(Some(of(b"b")), of(b"a")));
    }
}
