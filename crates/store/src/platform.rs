//! The platform's two functions, `defib.mark_dead` and `defib.mark_recovered`.
//!
//! Somebody else wrote them: they may raise an error, wait for a lock that is never released, or hang. Whatever they do must affect only
//! the workspace that they were called for. So every call runs at the server under time-outs of its own. If a function refuses, that is a
//! separate kind of fault ([`Fault::Function`]), which is never taken for a database that is away. And calls may use only half of the pool,
//! so that functions that hang leave connections for everything else.

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

/// Time-outs for the rest of a transaction: for the call of a function, and for one lock. Larger: a function that hangs occupies a
/// connection for longer. Smaller: the functions of a platform under load always fail. The lock time-out stays below `deadlock_timeout` (1
/// s), so that we give up before the server looks for a victim.
pub(crate) const BOUNDS: &str = "set local statement_timeout = 2000; set local lock_timeout = 750";

/// How long a caller waits for its turn. This is longer than one call of a function can take, and far shorter than the deadline of the
/// caller.
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

/// Calls `mark_dead`. False means that the platform vetoes. Null counts as a veto too, because an adapter that returns null has not agreed.
pub(crate) async fn mark_dead(connection: &mut Connection, workspace: &str, evidence: &Value) -> Result<bool, Fault> {
    call(connection, MARK_DEAD, "select coalesce(defib.mark_dead($1, $2), false)", workspace, evidence).await
}

/// Calls `mark_recovered`. True when that changed the status.
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
