//! Leases, `defib.leases`: each engine has one owner, and only the owner restarts.
//!
//! Plain rows and the database's clock, because session locks do not survive a transaction pooler. A replica takes its turn each third of
//! `DEFIB_LEASE_TTL`, in one transaction: it says that it lives, renews its own leases, and takes or gives up engines, depending on the
//! rows of the others ([`defib_policy::lease`] decides that). A lock that the transaction holds makes the turns of all replicas follow each
//! other, so each turn computes on what the one before has written.
//!
//! ```text
//! old owner:  … claim: lease row FOR KEY SHARE ─ insert ─ mark_dead ─ commit
//! new owner:                take: lease row FOR UPDATE … waits ────────────── epoch + 1 ─ commit   (and sees the claim)
//! old owner:                                                                    claim ─► not the owner: refused
//! ```
//!
//! The epoch is the fencing token. It grows whenever a process takes an engine, also when one takes it back from itself under the same
//! `DEFIB_REPLICA_ID`: what distinguishes two processes of one name is the epoch that each was given.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_policy::id::EngineName;
use defib_policy::lease::{self, Taker};
use defib_policy::moment::Moment;
use defib_policy::ownership::Turned;
use defib_policy::share::Replica;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::decode::micros;
use crate::error::{Fault, StoreError};

/// The key of the advisory lock. It may be any number that nothing else of the platform locks; this one spells "defib" and the subject.
const LOCK: &str = "select pg_advisory_xact_lock(1684366946, 2)";

/// A process that is stopped in the middle of its turn still holds the lock that all turns need. The server ends its transaction after this
/// time. The others' leases have not ended by then, because they were renewed within the last third of the TTL.
const STILL_PER_TTL: u32 = 6;

/// Rows of replicas that have been gone for this long are deleted.
const ALIVE: &str = "
    with gone as (delete from defib.replicas where expires_at < clock_timestamp() - interval '1 hour')
    insert into defib.replicas (replica, engines, fit, expires_at)
    values ($1, $2, $4, clock_timestamp() + $3 * interval '1 microsecond')
        on conflict (replica) do update
       set engines = excluded.engines, fit = excluded.fit, expires_at = excluded.expires_at,
           started_at = case when replicas.expires_at < clock_timestamp() then excluded.started_at else replicas.started_at end";

const REPLICAS: &str =
    "select replica, engines, fit from defib.replicas where expires_at > clock_timestamp() order by replica";

const LEASES: &str = "
    select engine, holder, epoch, expires_at > clock_timestamp(),
           greatest((extract(epoch from least(expires_at, clock_timestamp() + interval '1 year') - clock_timestamp()) * 1000000)::bigint, 0)
      from defib.leases order by engine";

const RENEW: &str = "
    update defib.leases l set expires_at = clock_timestamp() + $4 * interval '1 microsecond'
      from unnest($2::text[], $3::bigint[]) as mine(engine, epoch)
     where l.engine = mine.engine and l.epoch = mine.epoch and l.holder = $1";

const GIVE_UP: &str = "
    update defib.leases l set expires_at = clock_timestamp()
      from unnest($2::text[], $3::bigint[]) as mine(engine, epoch)
     where l.engine = mine.engine and l.epoch = mine.epoch and l.holder = $1";

/// A claim that is under way has locked its lease's row. Taking that lease over would let both replicas act, so it is left to the next
/// turn.
const TAKEABLE: &str = "select engine from defib.leases where engine = any ($1) for update skip locked";

const TAKE: &str = "
    insert into defib.leases (engine, holder, epoch, expires_at)
    select engine, $1, 1, clock_timestamp() + $3 * interval '1 microsecond' from unnest($2::text[]) as wanted(engine)
        on conflict (engine) do update
       set holder = excluded.holder, epoch = leases.epoch + 1, expires_at = excluded.expires_at
    returning engine, epoch";

/// One replica's turn.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTurn<'a> {
    /// `DEFIB_REPLICA_ID`.
    pub replica: &'a str,
    /// The engines that it is configured for.
    pub engines: &'a [EngineName],
    /// The engines among them that it can act on. It owns another one only if no replica can act on that one.
    pub fit: &'a BTreeSet<EngineName>,
    /// What it owned after its last turn, with the epochs; `None` on the first turn of a process. Then leases in its name are
    /// those of a process that is gone, and are taken without waiting for their end.
    pub owned: Option<&'a BTreeMap<EngineName, i64>>,
    /// Engines on which it is restarting something: these are not given up for the sake of an even spread.
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
    pub holder: String,
    /// The fencing token.
    pub epoch: i64,
    /// How long it lasts, if it is not renewed.
    pub expires_in: Duration,
}

/// The result of a turn.
#[derive(Clone, Debug)]
pub struct LeaseTable {
    /// When the turn began, by our clock. Our leases surely last for `ttl` from this moment, and no longer.
    pub at: Moment,
    /// What this process owns, with the epochs.
    pub owned: BTreeMap<EngineName, i64>,
    /// All leases that have not expired, by engine.
    pub leases: Vec<Lease>,
    /// Engines that another process has taken under our name: two replicas share a `DEFIB_REPLICA_ID`.
    pub usurped: Vec<EngineName>,
}

/// The result of a turn tells which replica speaks for which workspaces.
impl From<LeaseTable> for Turned {
    fn from(table: LeaseTable) -> Self {
        let leased = table.leases.into_iter().map(|lease| lease.engine).collect();
        Self { at: table.at, owned: table.owned, leased }
    }
}

impl Store {
    /// Takes this replica's turn.
    ///
    /// # Errors
    /// [`StoreError::Leases`]. It is not known whether anything has changed. The engines that were owned stay owned until their leases
    /// expire.
    pub async fn take_lease_turn(&self, turn: &LeaseTurn<'_>) -> Result<LeaseTable, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            let at = (self.clock)();
            connection.begin_unless_idle_for(turn.ttl / STILL_PER_TTL).await?;
            connection.query(LOCK, &[]).await?;
            let (owned, usurped) = turn_within(&mut connection, turn).await?;
            let leases = read_leases(&mut connection).await?;
            connection.commit().await?;
            Ok(LeaseTable { at, owned, leases, usurped })
        })
        .await
        .map_err(StoreError::Leases)
    }

    /// Gives up all engines of this replica at once and notifies the others (`defib_lease`). A clean stop ends with this.
    pub async fn release_leases(&self, replica: &str, owned: &BTreeMap<EngineName, i64>) -> Result<(), StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            connection.begin().await?;
            connection.query(LOCK, &[]).await?;
            give_up(&mut connection, replica, owned.iter()).await?;
            connection.execute("delete from defib.replicas where replica = $1", &[(&replica, Type::TEXT)]).await?;
            connection.commit().await
        })
        .await
        .map_err(StoreError::Leases)
    }

    /// The leases that have not expired, by engine.
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.within_deadline(async {
            let mut connection = self.pool.get().await?;
            read_leases(&mut connection).await
        })
        .await
        .map_err(StoreError::Leases)
    }
}

async fn turn_within(
    connection: &mut Connection,
    turn: &LeaseTurn<'_>,
) -> Result<(BTreeMap<EngineName, i64>, Vec<EngineName>), Fault> {
    let names: Vec<&str> = turn.engines.iter().map(EngineName::as_str).collect();
    let ttl = micros(turn.ttl);
    let fit: Vec<&str> = turn.fit.iter().map(EngineName::as_str).collect();
    let alive = [
        (&turn.replica as _, Type::TEXT),
        (&names as _, Type::TEXT_ARRAY),
        (&ttl as _, Type::INT8),
        (&fit as _, Type::TEXT_ARRAY),
    ];
    connection.execute(ALIVE, &alive).await?;
    let replicas = read_replicas(connection).await?;
    let rows = read_rows(connection).await?;

    let taker = Taker { replica: turn.replica, engines: turn.engines, owned: turn.owned, busy: turn.busy };
    let lease::Turn { keep: mut owned, leave, take_new, take_over, usurped } = lease::turn(taker, &replicas, &rows);
    let (engines, epochs) = columns(owned.iter());
    connection
        .execute(
            RENEW,
            &[
                (&turn.replica, Type::TEXT),
                (&engines, Type::TEXT_ARRAY),
                (&epochs, Type::INT8_ARRAY),
                (&ttl, Type::INT8),
            ],
        )
        .await?;
    if !leave.is_empty() {
        give_up(connection, turn.replica, leave.iter()).await?;
    }
    owned.extend(take(connection, turn.replica, ttl, take_over, take_new).await?);
    Ok((owned, usurped))
}

/// Takes the engines in `new`, and those in `free` whose row nobody has locked at this moment.
async fn take(
    connection: &mut Connection,
    replica: &str,
    ttl: i64,
    free: Vec<EngineName>,
    new: Vec<EngineName>,
) -> Result<Vec<(EngineName, i64)>, Fault> {
    let mut engines: Vec<String> = new.iter().map(|engine| engine.as_str().to_owned()).collect();
    if !free.is_empty() {
        let free: Vec<&str> = free.iter().map(EngineName::as_str).collect();
        for row in connection.query(TAKEABLE, &[(&free, Type::TEXT_ARRAY)]).await? {
            engines.push(row.try_get(0)?);
        }
    }
    if engines.is_empty() {
        return Ok(Vec::new());
    }
    let parameters = [(&replica as _, Type::TEXT), (&engines as _, Type::TEXT_ARRAY), (&ttl as _, Type::INT8)];
    let taken = connection.query(TAKE, &parameters).await?;
    taken.iter().map(|row| Ok((row.try_get::<_, &str>(0)?.into(), row.try_get(1)?))).collect()
}

async fn give_up<'a>(
    connection: &mut Connection,
    replica: &str,
    leases: impl Iterator<Item = (&'a EngineName, &'a i64)>,
) -> Result<(), Fault> {
    let (engines, epochs) = columns(leases);
    connection
        .execute(GIVE_UP, &[(&replica, Type::TEXT), (&engines, Type::TEXT_ARRAY), (&epochs, Type::INT8_ARRAY)])
        .await?;
    connection.query("select pg_notify('defib_lease', '') is null", &[]).await?;
    Ok(())
}

fn columns<'a>(leases: impl Iterator<Item = (&'a EngineName, &'a i64)>) -> (Vec<&'a str>, Vec<i64>) {
    leases.map(|(engine, epoch)| (engine.as_str(), *epoch)).unzip()
}

async fn read_replicas(connection: &mut Connection) -> Result<Vec<Replica>, Fault> {
    let rows = connection.query(REPLICAS, &[]).await?;
    rows.iter()
        .map(|row| {
            let (engines, fit): (Vec<&str>, Vec<&str>) = (row.try_get(1)?, row.try_get(2)?);
            Ok(Replica {
                name: row.try_get::<_, &str>(0)?.into(),
                engines: engines.into_iter().map(EngineName::from).collect(),
                fit: fit.into_iter().map(EngineName::from).collect(),
            })
        })
        .collect()
}

async fn read_rows(connection: &mut Connection) -> Result<BTreeMap<EngineName, lease::Row>, Fault> {
    let rows = connection.query(LEASES, &[]).await?;
    rows.iter()
        .map(|row| {
            let engine = row.try_get::<_, &str>(0)?.into();
            let holder = row.try_get::<_, &str>(1)?.into();
            Ok((engine, lease::Row { holder, epoch: row.try_get(2)?, lasts: row.try_get(3)? }))
        })
        .collect()
}

pub(crate) async fn read_leases(connection: &mut Connection) -> Result<Vec<Lease>, Fault> {
    let rows = connection.query(LEASES, &[]).await?;
    let lasting = rows.iter().filter(|row| row.try_get(3).unwrap_or(false));
    lasting
        .map(|row| {
            let micros: i64 = row.try_get(4)?;
            Ok(Lease {
                engine: row.try_get::<_, &str>(0)?.into(),
                holder: row.try_get(1)?,
                epoch: row.try_get(2)?,
                expires_in: Duration::from_micros(micros.unsigned_abs()),
            })
        })
        .collect()
}
