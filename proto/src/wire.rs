//! Fields of an encoded message, one after the other (<https://protobuf.dev/programming-guides/encoding/>).

use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// One field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// A varint, or four or eight bytes.
    Number(u64),
    /// Length-delimited: a message, text, bytes, or numbers packed together.
    Bytes(&'a [u8]),
    /// A group (proto2's), skipped over, a hundred levels deep at most: no message that is known here has any, but a field that is not known may be one.
    Group,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no protobuf message")]
pub struct Broken;

/// Takes the next field off `bytes`, which must not be empty: its number and value.
pub fn next<'a>(bytes: &mut &'a [u8]) -> Result<(u32, Value<'a>), Broken> {
    let (number, wire_type) = decode_key(bytes).map_err(|_| Broken)?;
    let value = match wire_type {
        WireType::Varint => Value::Number(varint(bytes)?),
        WireType::SixtyFourBit => Value::Number(fixed64(bytes)?),
        WireType::ThirtyTwoBit => Value::Number(fixed32(bytes)?),
        WireType::LengthDelimited => {
            let length = usize::try_from(varint(bytes)?).map_err(|_| Broken)?;
            let (value, rest) = bytes.split_at_checked(length).ok_or(Broken)?;
            *bytes = rest;
            Value::Bytes(value)
        }
        WireType::StartGroup => {
            let context = DecodeContext::default();
            skip_field(WireType::StartGroup, number, bytes, context).map_err(|_| Broken)?;
            Value::Group
        }
        WireType::EndGroup => return Err(Broken),
    };
    Ok((number, value))
}

pub fn varint(bytes: &mut &[u8]) -> Result<u64, Broken> {
    decode_varint(bytes).map_err(|_| Broken)
}

pub fn fixed32(bytes: &mut &[u8]) -> Result<u64, Broken> {
    if bytes.len() < 4 { Err(Broken) } else { Ok(bytes.get_u32_le().into()) }
}

pub fn fixed64(bytes: &mut &[u8]) -> Result<u64, Broken> {
    if bytes.len() < 8 { Err(Broken) } else { Ok(bytes.get_u64_le()) }
}
