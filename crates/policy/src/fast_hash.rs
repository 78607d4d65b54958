//! Maps by identifier.
//!
//! Every pass looks up every workspace that it concerns, several times, and the standard library's hash takes longer for that than all the rest
//! of a lookup. The seeds of this one are drawn anew in each process and for each map, so a set of identifiers that collide cannot be
//! prepared.

use std::collections::{HashMap, HashSet};

/// A map by identifier.
pub type IdMap<K, V> = HashMap<K, V, IdHash>;

/// A set of identifiers.
pub type IdSet<K> = HashSet<K, IdHash>;

/// Makes the hash of an identifier.
pub type IdHash = foldhash::fast::RandomState;
