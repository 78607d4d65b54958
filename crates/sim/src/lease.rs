//! `defib.leases` and `defib.replicas` in memory: the model of `defib_store`'s `lease.rs`.
//!
//! It has the same operations with the same answers, on a database clock that the caller passes in. The types are repeated, and not shared
//! with the store, so that the model is independent of what it is compared with. A test holds it against the real SQL
//! (`tests/ledger.rs`). Each transaction can also be made in parts, with a process stopped in between. What it has locked then stays
//! locked, and nobody sees what it has written before it commits.
//!
//! ```text
//! turn:   begin_turn  (the lock of all turns; rows to take over: FOR UPDATE, skipping those that a claim holds) … commit_turn
//! claim:  begin_claim (its lease's row: FOR KEY SHARE)                                                          … end_claim
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::id::EngineName;
use defib_policy::lease::{self, Taker};
use defib_policy::moment::{Moment, Timestamp};
use defib_policy::ownership::Turned;
use defib_policy::share::Replica;

use crate::weakening::Weakening;

/// Rows of replicas that have been gone for this long are deleted.
const GONE_FOR: Duration = Duration::from_secs(3_600);

/// One replica's turn.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTurn<'a> {
    /// Its name.
    pub replica: &'a str,
    /// The engines that it is configured for.
    pub engines: &'a [EngineName],
    /// Those of them that it can act on.
    pub fit: &'a BTreeSet<EngineName>,
    /// What it owned after its last turn, with the epochs; `None` on the first turn of a process.
    pub owned: Option<&'a BTreeMap<EngineName, i64>>,
    /// Engines that it does not give up for the sake of an even spread.
    pub busy: &'a BTreeSet<EngineName>,
    /// How long a lease lasts.
    pub ttl: Duration,
}

/// A lease that has not expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Of which engine.
    pub engine: EngineName,
    /// Who owns it.
    pub holder: Box<str>,
    /// The fencing token.
    pub epoch: i64,
    /// How long it lasts, if it is not renewed.
    pub expires_in: Duration,
}

/// What a turn came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTable {
    /// What the process owns, with the epochs.
    pub owned: BTreeMap<EngineName, i64>,
    /// Every lease that has not expired, by engine.
    pub leases: Vec<Lease>,
    /// Engines that another process has taken under its name.
    pub usurped: Vec<EngineName>,
}

impl LeaseTable {
    /// Which replica speaks for which workspaces after this turn, which began at this moment of the replica's own clock.
    #[must_use]
    pub fn turned(self, at: Moment) -> Turned {
        Turned { at, owned: self.owned, leased: self.leases.into_iter().map(|lease| lease.engine).collect() }
    }
}

/// The lease that an attempt is made under.
#[derive(Clone, Copy, Debug)]
pub struct LeaseProof<'a> {
    /// On which engine.
    pub engine: &'a EngineName,
    /// Who holds it.
    pub holder: &'a str,
    /// Since which epoch.
    pub epoch: i64,
}

/// A row of `defib.leases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// Who owns the engine.
    pub holder: Box<str>,
    /// Since which epoch.
    pub epoch: i64,
    /// Until when.
    pub expires_at: Timestamp,
    /// Claims under way that hold the row.
    claims: u32,
    /// A turn under way is taking it over.
    taken_over: bool,
}

/// A turn that has begun and is not committed.
#[derive(Debug)]
pub struct Turn {
    replica: Replica,
    expires_at: Timestamp,
    owned: BTreeMap<EngineName, i64>,
    left: Vec<EngineName>,
    left_at: Timestamp,
    taken: Vec<EngineName>,
    usurped: Vec<EngineName>,
}

impl Turn {
    /// The engines that it takes.
    #[must_use]
    pub fn taken(&self) -> &[EngineName] {
        &self.taken
    }
}

/// The two tables.
#[derive(Debug, Default)]
pub struct Leases {
    replicas: BTreeMap<Box<str>, (Replica, Timestamp)>,
    rows: BTreeMap<EngineName, LeaseRow>,
    turning: bool,
    weakening: Option<Weakening>,
}

impl Leases {
    /// Empty tables with one rule left out.
    #[must_use]
    pub fn weakened(weakening: Option<Weakening>) -> Self {
        Self { weakening, ..Self::default() }
    }

    /// The row of an engine.
    #[must_use]
    pub fn row(&self, engine: &EngineName) -> Option<&LeaseRow> {
        self.rows.get(engine)
    }

    /// All rows, by engine.
    pub fn rows(&self) -> impl Iterator<Item = (&EngineName, &LeaseRow)> {
        self.rows.iter()
    }

    /// The names of the replicas that have said they live and have not been forgotten, with the end of their word.
    pub fn replicas(&self) -> impl Iterator<Item = (&str, Timestamp)> {
        self.replicas.iter().map(|(name, (_, expires_at))| (&**name, *expires_at))
    }

    /// Moves all times by this many microseconds.
    pub(crate) fn age(&mut self, micros: i64) {
        for row in self.rows.values_mut() {
            row.expires_at = row.expires_at.shifted(micros);
        }
        for (_, until) in self.replicas.values_mut() {
            *until = until.shifted(micros);
        }
    }

    /// A whole turn; `None` when another one is under way.
    pub fn take_lease_turn(&mut self, turn: &LeaseTurn<'_>, now: Timestamp) -> Option<LeaseTable> {
        let begun = self.begin_turn(turn, now)?;
        Some(self.commit_turn(begun, now))
    }

    /// Everything of a turn but its commit. `None` when another one is under way: turns follow each other.
    pub fn begin_turn(&mut self, turn: &LeaseTurn<'_>, now: Timestamp) -> Option<Turn> {
        if self.turning {
            return None;
        }
        let me = turn.replica;
        let early = self.weakening == Some(Weakening::TakeOverBeforeTheEnd);
        let over_claims = self.weakening == Some(Weakening::TakeOverDuringAClaim);
        let others = self.replicas.iter().filter(|(name, (_, until))| ***name != *me && *until > now && !early);
        let replica =
            Replica { name: me.into(), engines: turn.engines.iter().cloned().collect(), fit: turn.fit.clone() };
        let mut replicas: Vec<Replica> = others.map(|(_, (other, _))| other.clone()).collect();
        replicas.push(replica.clone());
        let rows = self.rows.iter().map(|(engine, row)| {
            let lasts = row.expires_at > now && (*row.holder == *me || !early);
            (engine.clone(), lease::Row { holder: row.holder.clone(), epoch: row.epoch, lasts })
        });
        let myself = Taker { replica: me, engines: turn.engines, owned: turn.owned, busy: turn.busy };
        let decided = lease::turn(myself, &replicas, &rows.collect());
        let (owned, left) = (decided.keep, decided.leave.into_keys().collect());
        // What is claimed at this moment is left to the next turn.
        let free = |engine: &EngineName| over_claims || self.rows.get(engine).is_none_or(|row| row.claims == 0);
        let taken: Vec<EngineName> =
            decided.take_new.into_iter().chain(decided.take_over.into_iter().filter(free)).collect();
        for engine in &taken {
            if let Some(row) = self.rows.get_mut(engine) {
                row.taken_over = true;
            }
        }
        self.turning = true;
        let expires_at = now.plus(turn.ttl);
        Some(Turn { replica, expires_at, owned, left, left_at: now, taken, usurped: decided.usurped })
    }

    /// Commits a turn. What it has read and written is of its beginning; `now` is when its table is read.
    pub fn commit_turn(&mut self, turn: Turn, now: Timestamp) -> LeaseTable {
        self.turning = false;
        let Turn { replica, expires_at, mut owned, left, left_at, taken, usurped } = turn;
        self.replicas.retain(|_, (_, until)| until.plus(GONE_FOR) >= left_at);
        let name = replica.name.clone();
        self.replicas.insert(name.clone(), (replica, expires_at));
        for (engine, row) in &mut self.rows {
            if owned.contains_key(engine) {
                row.expires_at = expires_at;
            } else if left.contains(engine) {
                row.expires_at = left_at;
            }
        }
        for engine in taken {
            let keeps = self.weakening == Some(Weakening::TheEpochStays);
            let (epoch, claims) = self.rows.get(&engine).map_or((1, 0), |row| {
                let epoch = if keeps { row.epoch } else { row.epoch + 1 };
                (epoch, row.claims)
            });
            let row = LeaseRow { holder: name.clone(), epoch, expires_at, claims, taken_over: false };
            owned.insert(engine.clone(), epoch);
            self.rows.insert(engine, row);
        }
        LeaseTable { owned, leases: self.leases(now), usurped }
    }

    /// Undoes a turn that does not commit.
    pub fn abort_turn(&mut self, turn: &Turn) {
        self.turning = false;
        for engine in &turn.taken {
            if let Some(row) = self.rows.get_mut(engine) {
                row.taken_over = false;
            }
        }
    }

    /// Gives up what a replica owns. False when a turn is under way: it would have to wait.
    pub fn release_leases(&mut self, replica: &str, owned: &BTreeMap<EngineName, i64>, now: Timestamp) -> bool {
        if self.turning {
            return false;
        }
        for (engine, row) in &mut self.rows {
            if &*row.holder == replica && owned.get(engine) == Some(&row.epoch) {
                row.expires_at = now;
            }
        }
        self.replicas.remove(replica);
        true
    }

    /// The leases that have not expired, by engine.
    #[must_use]
    pub fn leases(&self, now: Timestamp) -> Vec<Lease> {
        let lasting = self.rows.iter().filter(|(_, row)| row.expires_at > now);
        lasting
            .map(|(engine, row)| Lease {
                engine: engine.clone(),
                holder: row.holder.clone(),
                epoch: row.epoch,
                expires_in: row.expires_at.since(now),
            })
            .collect()
    }

    /// Whether a lease is held and has not expired, as committed.
    #[must_use]
    pub fn holds(&self, proof: LeaseProof<'_>, now: Timestamp) -> bool {
        self.rows
            .get(proof.engine)
            .is_some_and(|row| *row.holder == *proof.holder && row.epoch == proof.epoch && row.expires_at > now)
    }

    /// Whether a turn under way is taking the engine over: a claim there waits.
    pub(crate) fn is_taken_over(&self, engine: &EngineName) -> bool {
        self.rows.get(engine).is_some_and(|row| row.taken_over)
    }

    /// A claim holds the row from here to its end.
    pub fn begin_claim(&mut self, engine: &EngineName) {
        if let Some(row) = self.rows.get_mut(engine) {
            row.claims += 1;
        }
    }

    /// A claim's transaction has ended.
    pub fn end_claim(&mut self, engine: &EngineName) {
        if let Some(row) = self.rows.get_mut(engine) {
            row.claims = row.claims.saturating_sub(1);
        }
    }
}
