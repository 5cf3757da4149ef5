//! The Huffman code of string literals (RFC 7541, appendix B).
//!
//! The code is canonical: among symbols of one length the codes count up, so the table of lengths is all of it. What encoding and decoding
//! need is derived from the lengths when this is compiled.
use bytes::{BufMut, BytesMut};

/// Bits of the code of each byte.
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26,
];
/// The longest code. "End of string" has this length too, and nothing but ones.
const LONGEST: usize = 30;
/// Codes of up to so many bits are decoded by one look into a table.
const FAST_BITS: u32 = 8;

/// The code of each byte, in the low bits.
static CODES: [u32; 256] = codes();
/// The byte whose code the eight bits begin with, and the length of the code; 0 if it is longer.
static FAST: [(u8, u8); 1 << FAST_BITS] = fast();
/// What decodes the longer ones.
static LONG: Long = long();

/// For each length of codes: where its range ends, and which bytes are in it.
struct Long {
    /// The bytes in the order of their codes.
    symbols: [u8; 256],
    /// The first code of this length.
    first: [u32; LONGEST + 1],
    /// Where its byte stands among `symbols`.
    offset: [u16; LONGEST + 1],
    /// The first 32 bits past all codes up to this length.
    end: [u64; LONGEST + 1],
}

const fn codes() -> [u32; 256] {
    let mut codes = [0; 256];
    let (mut code, mut length) = (0u32, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                codes[symbol] = code;
                code += 1;
            }
            symbol += 1;
        }
        code <<= 1;
        length += 1;
    }
    codes
}

const fn fast() -> [(u8, u8); 1 << FAST_BITS] {
    let codes = codes();
    let mut table = [(0, 0); 1 << FAST_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= FAST_BITS {
            let first = codes[symbol] << (FAST_BITS - length);
            let mut rest = 0;
            while rest < 1 << (FAST_BITS - length) {
                table[(first + rest) as usize] = (symbol as u8, length as u8);
                rest += 1;
            }
        }
        symbol += 1;
    }
    table
}

const fn long() -> Long {
    let codes = codes();
    let mut long = Long { symbols: [0; 256], first: [0; LONGEST + 1], offset: [0; LONGEST + 1], end: [0; LONGEST + 1] };
    let (mut length, mut at) = (1, 0);
    while length <= LONGEST {
        long.offset[length] = at as u16;
        long.end[length] = long.end[length - 1];
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                if at == long.offset[length] as usize {
                    long.first[length] = codes[symbol];
                }
                long.symbols[at] = symbol as u8;
                long.end[length] = (codes[symbol] as u64 + 1) << (32 - length);
                at += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    long
}

/// How many bytes the code of `text` takes.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&byte| usize::from(LENGTHS[usize::from(byte)])).sum();
    bits.div_ceil(8)
}

/// Appends the code of `text`.
pub(super) fn encode(text: &[u8], out: &mut BytesMut) {
    let (mut bits, mut count) = (0u64, 0u32);
    for &byte in text {
        let length = u32::from(LENGTHS[usize::from(byte)]);
        bits = bits << length | u64::from(CODES[usize::from(byte)]);
        count += length;
        if count >= 32 {
            count -= 32;
            out.put_u32((bits >> count) as u32);
        }
    }
    // The end is filled with ones.
    let fill = count.next_multiple_of(8) - count;
    bits = bits << fill | ((1 << fill) - 1);
    count += fill;
    while count > 0 {
        count -= 8;
        out.put_u8((bits >> count) as u8);
    }
}

/// Appends what `code` stands for; `None` if it is no code, or does not end as it must.
pub(super) fn decode(code: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut at = out.len();
    // No code has fewer than five bits.
    out.resize(at + code.len() * 8 / 5, 0);
    // What is to be decoded, from the highest bit on.
    let (mut bits, mut count) = (0u64, 0u32);
    let (fours, rest) = code.as_chunks();
    for four in fours {
        bits |= u64::from(u32::from_be_bytes(*four)) << (32 - count);
        count += 32;
        // Enough for any code: its length is compared with nothing.
        while count >= 32 {
            let (mut symbol, mut length) = FAST[(bits >> (64 - FAST_BITS)) as usize];
            if length == 0 {
                (symbol, length) = decode_long((bits >> 32) as u32).filter(|(_, length)| *length <= LONGEST as u8)?;
            }
            *out.get_mut(at)? = symbol;
            at += 1;
            bits <<= length;
            count -= u32::from(length);
        }
    }
    for &byte in rest {
        bits |= u64::from(byte) << (56 - count);
        count += 8;
    }
    loop {
        let (mut symbol, mut length) = FAST[(bits >> (64 - FAST_BITS)) as usize];
        if length == 0 {
            (symbol, length) = decode_long((bits >> 32) as u32)?;
        }
        if u32::from(length) > count {
            break;
        }
        *out.get_mut(at)? = symbol;
        at += 1;
        bits <<= length;
        count -= u32::from(length);
    }
    out.truncate(at);
    // Fewer than eight ones are left.
    (count < 8 && bits == !(u64::MAX.checked_shr(count).unwrap_or(0))).then_some(())
}

/// A code of more than [`FAST_BITS`] at the beginning of `bits`, and its length. With too few bits left, any length that exceeds them.
#[inline(never)]
fn decode_long(bits: u32) -> Option<(u8, u8)> {
    let length = (FAST_BITS as usize + 1..=LONGEST).find(|&length| u64::from(bits) < LONG.end[length]);
    // Only the end of the string lies past them all: within a string it is an error, its beginning is the filling.
    let Some(length) = length else { return Some((0, u8::MAX)) };
    let code = bits >> (32 - length);
    let symbol = LONG.symbols.get(usize::from(LONG.offset[length]) + (code - LONG.first[length]) as usize)?;
    Some((*symbol, length as u8))
}
