//! Maps by identifier.
//!
//! Every pass looks up every workspace that it concerns, several times. The standard library's hash takes longer for that than all the rest
//! of a lookup. This one folds the products of the text's words, eight bytes at a time. Its keys are drawn anew in each process, so whoever
//! chooses identifiers cannot choose them so that they collide.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

/// A map by identifier.
pub type IdMap<K, V> = HashMap<K, V, IdHash>;

/// A set of identifiers.
pub type IdSet<K> = HashSet<K, IdHash>;

/// The keys of this process.
static KEYS: LazyLock<[u64; 2]> = LazyLock::new(|| {
    let random = RandomState::new();
    [random.hash_one(1_u8), random.hash_one(2_u8) | 1]
});

/// Makes the hash of an identifier.
#[derive(Clone, Copy, Debug)]
pub struct IdHash([u64; 2]);

impl Default for IdHash {
    fn default() -> Self {
        Self(*KEYS)
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher { state: self.0[0], key: self.0[1] }
    }
}

/// The hash so far.
#[derive(Clone, Copy, Debug)]
pub struct IdHasher {
    state: u64,
    key: u64,
}

impl IdHasher {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ word.rotate_left(32));
        self.state = low(product) ^ low(product >> 64) ^ self.key;
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
const fn low(product: u128) -> u64 {
    product as u64
}

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ ((bytes.len() as u64) << 56));
    }

    fn write_u8(&mut self, byte: u8) {
        self.state ^= u64::from(byte); // the end of a text, whose length was hashed
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn low_16(word: u64) -> u16 {
        let [one, two, ..] = word.to_le_bytes();
        u16::from_le_bytes([one, two])
    }

    #[test]
    fn ids_that_differ_little_have_hashes_that_differ_much() {
        let hash = IdHash::default();
        let ids = || (0..100_000).map(|n| format!("00000000-0000-4000-8000-{n:012}"));
        assert_eq!(ids().map(|id| hash.hash_one(id)).collect::<HashSet<u64>>().len(), 100_000);
        // A table takes the place from the low bits, and seven bits for telling neighbours apart from the high ones.
        for shift in [0, 16, 48] {
            let mut counts = vec![0_u32; 1 << 16];
            ids().for_each(|id| counts[usize::from(low_16(hash.hash_one(id) >> shift))] += 1);
            assert!(counts.iter().all(|count| *count < 20), "{:?} in one place of 65,536", counts.iter().max());
        }
        for text in ["", "a", "aaaaaaaa", "aaaaaaaaa", "\0", "\0\0"] {
            assert_eq!(hash.hash_one(text), hash.hash_one(text.to_owned()));
        }
        let short: HashSet<u64> = ["", "\0", "\0\0", "a", "a\0"].iter().map(|text| hash.hash_one(text)).collect();
        assert_eq!(short.len(), 5);
    }
}
