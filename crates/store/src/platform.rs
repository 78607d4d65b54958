//! The platform's two functions, `defib.mark_dead` and `defib.mark_recovered`.
//!
//! They are a stranger's code: they may raise, wait for a lock that is never released, or hang. Whatever they do concerns the one
//! workspace that they were called for. So every call runs under time-outs of its own, at the server; a refusal of theirs is a fault of
//! its own kind ([`Fault::Function`]), which is never taken for a database that is away; and calls may use only half of the pool, so that
//! functions that hang leave connections for everybody else.

use std::time::Duration;

use serde_json::Value;
use tokio::sync::SemaphorePermit;
use tokio_postgres::error::Severity;
use tokio_postgres::types::Type;

use crate::Store;
use crate::connect::Connection;
use crate::decode::json;
use crate::error::Fault;

pub(crate) const MARK_DEAD: &str = "mark_dead";
pub(crate) const MARK_RECOVERED: &str = "mark_recovered";

/// For the rest of a transaction: what a call of a function may take, and how long it may wait for one lock. Longer: a function that hangs
/// keeps a connection from others for longer. Shorter: a platform under load cannot be told anything. The lock time-out stays below
/// `deadlock_timeout` (1 s), so that we give up before the server looks for a victim.
pub(crate) const BOUNDS: &str = "set local statement_timeout = 2000; set local lock_timeout = 750";

/// How long a caller waits for its turn. Longer than one call can take, and far below the deadline of a call.
const TURN_TIMEOUT: Duration = Duration::from_secs(4);

impl Store {
    /// Waits until one of the connections that functions may use is free.
    pub(crate) async fn platform_turn(&self, function: &'static str) -> Result<SemaphorePermit<'_>, Fault> {
        match tokio::time::timeout(TURN_TIMEOUT, self.platform_turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Fault::FunctionBusy { function }),
        }
    }
}

/// False is the platform's veto. Null counts as a veto too, because an adapter that returns null has not agreed.
pub(crate) async fn mark_dead(connection: &mut Connection, workspace: &str, evidence: &Value) -> Result<bool, Fault> {
    call(connection, MARK_DEAD, "select coalesce(defib.mark_dead($1, $2), false)", workspace, evidence).await
}

/// True when that changed the status.
pub(crate) async fn mark_recovered(
    connection: &mut Connection,
    workspace: &str,
    evidence: &Value,
) -> Result<bool, Fault> {
    let sql = "select coalesce(defib.mark_recovered($1, $2), false)";
    call(connection, MARK_RECOVERED, sql, workspace, evidence).await
}

async fn call(
    connection: &mut Connection,
    function: &'static str,
    sql: &str,
    workspace: &str,
    evidence: &Value,
) -> Result<bool, Fault> {
    let parameters = [(&workspace as _, Type::TEXT), (&json(evidence) as _, Type::JSONB)];
    match connection.query_one(sql, &parameters).await {
        Ok(row) => Ok(row.try_get(0)?),
        // An error that ends the connection comes from the server (a shutdown, a crash). One that leaves the connection alive comes from
        // the function.
        Err(Fault::Query(source)) if is_survived(&source) => Err(Fault::Function { function, source }),
        Err(fault) => Err(fault),
    }
}

fn is_survived(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|refused| {
        let severity = refused.parsed_severity();
        !matches!(severity, Some(Severity::Fatal | Severity::Panic))
    })
}

/// Rolls back after a fault of a function, so that the connection can be used again; returns the fault. After any other fault the
/// connection is in doubt and is thrown away when it is dropped.
pub(crate) async fn rolled_back(connection: &mut Connection, fault: Fault) -> Fault {
    if matches!(fault, Fault::Function { .. }) {
        // If this fails the connection is thrown away too.
        let _ = connection.rollback().await;
    }
    fault
}
