//! Numbers, texts and values as bytes: variable-length integers (LEB128), and postcard for what is written rarely.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The error for bytes that no version of this program has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

/// Appends a number.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

const fn low_byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

/// Appends a number that may be negative; small ones of either sign are short.
pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends bytes with their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a value with its length.
pub(crate) fn put_value<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    // Writing to a vector fails only for types that postcard has no form for (sequences without a length), of which there is none here.
    put_bytes(out, &postcard::to_stdvec(value).unwrap_or_default());
}

/// Reads what was appended, in the same order.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    left: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    /// How many bytes are left.
    pub(crate) const fn left(&self) -> usize {
        self.left.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Garbled> {
        let (first, rest) = self.left.split_first().ok_or(Garbled)?;
        self.left = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<u64, Garbled> {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            let byte = self.byte()?;
            if shift > 63 {
                return Err(Garbled);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift += 7;
        }
    }

    pub(crate) fn signed(&mut self) -> Result<i64, Garbled> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -((value & 1).cast_signed()))
    }

    pub(crate) fn size(&mut self) -> Result<usize, Garbled> {
        usize::try_from(self.number()?).map_err(|_| Garbled)
    }

    pub(crate) fn index(&mut self) -> Result<u32, Garbled> {
        u32::try_from(self.number()?).map_err(|_| Garbled)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Garbled> {
        let length = self.size()?;
        let (taken, rest) = self.left.split_at_checked(length).ok_or(Garbled)?;
        self.left = rest;
        Ok(taken)
    }

    pub(crate) fn value<T: DeserializeOwned>(&mut self) -> Result<T, Garbled> {
        postcard::from_bytes(self.bytes()?).map_err(|_| Garbled)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_put_is_what_is_read(numbers in prop::collection::vec(any::<u64>(), 0..20), signed in any::<i64>(), text in ".{0,40}") {
            let mut out = Vec::new();
            for number in &numbers {
                put(&mut out, *number);
            }
            put_signed(&mut out, signed);
            put_value(&mut out, &text);
            let mut cursor = Cursor::new(&out);
            for number in numbers {
                prop_assert_eq!(cursor.number(), Ok(number));
            }
            prop_assert_eq!(cursor.signed(), Ok(signed));
            prop_assert_eq!(cursor.value::<String>(), Ok(text));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut cursor = Cursor::new(&bytes);
            let _ = (cursor.number(), cursor.signed(), cursor.value::<Vec<String>>(), cursor.bytes());
        }
    }
}
