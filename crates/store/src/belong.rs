//! Whether the view and the functions of the platform belong together: for `defib check`.
//!
//! A `mark_dead` that knows none of the view's workspaces answers every question with a veto, and so looks like a careful one where a veto
//! is right. So there are two more checks. The catalogue tells which objects still read defib's own table. And `mark_dead` is asked one
//! question to which only true is right: about a workspace of the view, with evidence that fits its row. That call is rolled back, like all
//! trials.

use serde_json::Value;
use tokio_postgres::types::Type;

use crate::connect::Connection;
use crate::contract::{Answer, Breach, Question, Trial, ask};
use crate::error::Fault;

/// How many rows `mark_dead` is asked about, at most, until it agrees to one. One row is not enough, because a heartbeat between the read
/// and the question makes a veto right.
const TRIES: i64 = 3;

/// Whether the view reads `defib.workspaces`, directly or through other views (or does not exist), and which functions name that table. The
/// functions of an adapter have no reason to name it.
const ABOUT_OWN_TABLE: &str = "
    with recursive below(relation) as (
        select c.oid from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = 'defib' and c.relname = 'fleet'
        union
        select d.refobjid
          from below b
          join pg_catalog.pg_rewrite r on r.ev_class = b.relation
          join pg_catalog.pg_depend d on d.classid = 'pg_catalog.pg_rewrite'::regclass and d.objid = r.oid
                                     and d.refclassid = 'pg_catalog.pg_class'::regclass)
    select exists (select from below b join pg_catalog.pg_class c on c.oid = b.relation
                     join pg_catalog.pg_namespace n on n.oid = c.relnamespace
                    where n.nspname = 'defib' and c.relname = 'workspaces') or not exists (select from below),
           array(select 'defib.' || p.proname || '(' || oidvectortypes(p.proargtypes) || ')'
                   from pg_catalog.pg_proc p join pg_catalog.pg_namespace n on n.oid = p.pronamespace
                  where n.nspname = 'defib' and p.proname in ('mark_dead', 'mark_recovered')
                    and p.prosrc like '%defib.workspaces%' order by 1)";

/// Those that have been silent for longest come first. Their rows are locked for a moment, and a heartbeat of theirs is the least likely to
/// have to wait for that.
const FITTING: &str = "
    select f.workspace_id::text,
           jsonb_build_object('status', f.status::text, 'last_heartbeat_at', f.last_heartbeat_at::timestamptz,
                              'last_activity_at', f.last_activity_at::timestamptz)
      from defib.fleet f
     where f.suspended is false and f.status::text = any ($1)
       and coalesce(isfinite(f.last_heartbeat_at::timestamptz), true)
       and coalesce(isfinite(f.last_activity_at::timestamptz), true)
     order by greatest(f.last_heartbeat_at::timestamptz, f.last_activity_at::timestamptz) nulls first, 1 limit $2";

/// Functions that still read defib's own table although the view does not.
pub(crate) async fn strangers(connection: &mut Connection) -> Result<Vec<Breach>, Fault> {
    let row = connection.query_one(ABOUT_OWN_TABLE, &[]).await?;
    let (view, functions): (bool, Vec<String>) = (row.try_get(0)?, row.try_get(1)?);
    if view {
        return Ok(Vec::new());
    }
    Ok(functions.into_iter().map(|function| Breach::ShippedFunction { function }).collect())
}

/// Asks `mark_dead` a question to which only true is right. `None` when there is no workspace to ask about, or when the database takes no
/// writes.
pub(crate) async fn agrees(connection: &mut Connection, watched: &[String]) -> Result<Option<Trial>, Fault> {
    let mut last = None;
    let mut next = 0;
    while next < TRIES {
        // Read anew each time: evidence is as old as its read.
        let parameters = [(&watched as _, Type::TEXT_ARRAY), (&TRIES as _, Type::INT8)];
        let rows = connection.query(FITTING, &parameters).await?;
        let Some(row) = usize::try_from(next).ok().and_then(|n| rows.get(n)) else { break };
        let (workspace, evidence): (String, Value) = (row.try_get(0)?, row.try_get(1)?);
        let Some(trial) = ask(connection, Question::Fitting, workspace, &evidence).await? else { return Ok(None) };
        if trial.answer == Answer::Agreed {
            return Ok(Some(trial));
        }
        last = Some(trial);
        next += 1;
    }
    Ok(last)
}
