//! From a header block to its fields (RFC 7541, section 6).
use super::table::{Dynamic, STATIC, STATIC_ENTRIES};
use super::{DEFAULT_TABLE_BYTES, ENTRY_OVERHEAD, Field, Name, huffman};

/// The block cannot be decoded, and none after it: the tables of the two ends are out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the block ends inside a field")]
    Truncated,
    #[error("a number is too large")]
    Integer,
    #[error("a string is no valid Huffman code")]
    Huffman,
    #[error("there is no entry of this number")]
    Index,
    #[error("the table's size changes where or to what it may not")]
    TableSize,
}

/// The receiving side of one connection's compression.
#[derive(Debug)]
pub struct Decoder {
    table: Dynamic,
    /// The largest table the peer may use.
    limit: u32,
    /// The peer has to begin its next block with a smaller table.
    shrink: bool,
    /// The limit in use is the peer's choice, up to `limit`.
    size: u32,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// How a literal field goes on after its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Literal {
    Indexed,
    Plain,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Dynamic::new(DEFAULT_TABLE_BYTES as usize),
            limit: DEFAULT_TABLE_BYTES,
            shrink: false,
            size: DEFAULT_TABLE_BYTES,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// The table that our acknowledged SETTINGS allow.
    pub fn set_limit(&mut self, limit: u32) {
        self.limit = limit;
        self.shrink = self.size > limit;
    }

    /// Decodes a whole block; `each` gets the fields in their order.
    pub fn decode(&mut self, block: &[u8], mut each: impl FnMut(Field)) -> Result<(), Error> {
        let mut input = Input(block);
        let mut at_start = true;
        while let Some(&first) = input.0.first() {
            if first & 0b1110_0000 == 0b0010_0000 {
                let size = input.integer(5)?;
                if !at_start || size > self.limit {
                    return Err(Error::TableSize);
                }
                self.size = size;
                self.shrink = false;
                self.table.resize(size as usize);
                continue;
            }
            if std::mem::take(&mut at_start) && self.shrink {
                return Err(Error::TableSize);
            }
            if first & 0b1000_0000 != 0 {
                let index = input.integer(7)?;
                each(self.entry(index)?.clone());
                continue;
            }
            let (kind, index) = if first & 0b0100_0000 != 0 {
                (Literal::Indexed, input.integer(6)?)
            } else {
                (Literal::Plain, input.integer(4)?)
            };
            each(self.literal(kind, index, &mut input)?);
        }
        // What was needed for one long string is not kept.
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > SCRATCH_BYTES {
                *scratch = Vec::new();
            }
        }
        Ok(())
    }

    fn literal(&mut self, kind: Literal, index: u32, input: &mut Input<'_>) -> Result<Field, Error> {
        let (name, name_len) = if index == 0 {
            let name = input.string(&mut self.name)?;
            (Name::parse(name), name.len())
        } else {
            let name = self.entry(index)?.name();
            let len = name.len();
            (name, len)
        };
        let value = input.string(&mut self.value)?;
        let size = name_len + value.len() + ENTRY_OVERHEAD;
        let field = name.with(value);
        if kind == Literal::Indexed {
            self.table.insert(field.clone(), size);
        }
        Ok(field)
    }

    fn entry(&self, index: u32) -> Result<&Field, Error> {
        let index = (index as usize).checked_sub(1).ok_or(Error::Index)?;
        match index.checked_sub(STATIC_ENTRIES) {
            None => Ok(&STATIC[index]),
            Some(index) => self.table.get(index).ok_or(Error::Index),
        }
    }
}

/// Room for strings that is kept from block to block.
const SCRATCH_BYTES: usize = 1024;

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<u8, Error> {
        let (&first, rest) = self.0.split_first().ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(first)
    }

    /// A number that begins in the low `bits` of the next byte (section 5.1).
    #[inline]
    fn integer(&mut self, bits: u32) -> Result<u32, Error> {
        let most = (1 << bits) - 1;
        let low = u32::from(self.byte()?) & most;
        if low < most { Ok(low) } else { self.long_integer(most) }
    }

    fn long_integer(&mut self, most: u32) -> Result<u32, Error> {
        let mut number = most;
        // Four more bytes hold 28 bits: no number that may occur needs more.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            number = number.checked_add(u32::from(byte & 0x7f) << shift).ok_or(Error::Integer)?;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Error::Integer)
    }

    /// A string (section 5.2): from where it stands, or decoded into `scratch`.
    fn string<'b>(&mut self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], Error>
    where
        'a: 'b,
    {
        let huffman = *self.0.first().ok_or(Error::Truncated)? & 0x80 != 0;
        let len = self.integer(7)? as usize;
        let (text, rest) = self.0.split_at_checked(len).ok_or(Error::Truncated)?;
        self.0 = rest;
        if !huffman {
            return Ok(text);
        }
        scratch.clear();
        huffman::decode(text, scratch).ok_or(Error::Huffman)?;
        Ok(scratch)
    }
}
