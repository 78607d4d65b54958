//! The platform's side of the tables, and what tests read of defib's.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use defib_testkit::{eventually, postgres};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::SOON;

/// Twice the window of [`Stage::quick_heartbeats`](crate::Stage::quick_heartbeats), for a machine that is slow itself.
const HEARTBEATS_COUNT_AFTER: Duration = Duration::from_secs(2);

/// A row of `defib.workspaces` to be.
#[derive(Debug, Clone)]
pub struct Workspace<'a> {
    id: &'a str,
    status: &'a str,
    kind: &'a str,
    engine: &'a str,
    container_ref: Option<&'a str>,
    parent: Option<&'a str>,
    beaten: Beaten,
}

/// When the last heartbeat was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beaten {
    /// Fresh by every knob.
    Now,
    /// Stale by every knob.
    AnHourAgo,
    /// It never sent one.
    Never,
}

impl<'a> Workspace<'a> {
    /// An online container on engine `default`, found by its label, that has beaten just now.
    #[must_use]
    pub fn new(id: &'a str) -> Self {
        Self {
            id,
            status: "online",
            kind: "container",
            engine: "default",
            container_ref: None,
            parent: None,
            beaten: Beaten::Now,
        }
    }

    /// Sets the platform's status.
    #[must_use]
    pub fn status(mut self, status: &'a str) -> Self {
        self.status = status;
        self
    }

    /// Only its heartbeat can be seen.
    #[must_use]
    pub fn external(mut self) -> Self {
        self.kind = "external";
        self
    }

    /// Sets the engine.
    #[must_use]
    pub fn engine(mut self, engine: &'a str) -> Self {
        self.engine = engine;
        self
    }

    /// Found by the container's name or id, and not by its label.
    #[must_use]
    pub fn container_ref(mut self, name_or_id: &'a str) -> Self {
        self.container_ref = Some(name_or_id);
        self
    }

    /// Sets the parent.
    #[must_use]
    pub fn below(mut self, parent: &'a str) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Sets the last heartbeat.
    #[must_use]
    pub fn beaten(mut self, beaten: Beaten) -> Self {
        self.beaten = beaten;
        self
    }

    /// Its last heartbeat is an hour old.
    #[must_use]
    pub fn silent(self) -> Self {
        self.beaten(Beaten::AnHourAgo)
    }
}

/// A row of the ledger.
#[derive(Debug, Clone)]
pub struct Restart {
    /// The row.
    pub id: i64,
    /// Whose.
    pub workspace: String,
    /// Number within the run.
    pub attempt: i32,
    /// The verdict that asked for it.
    pub verdict: String,
    /// What it rests on.
    pub evidence: Value,
    /// The replica.
    pub claimed_by: Option<String>,
    /// When.
    pub claimed_at: SystemTime,
    /// `None` while it is under way.
    pub finished_at: Option<SystemTime>,
    /// `None` while it is under way.
    pub outcome: Option<String>,
    /// Why not.
    pub error: Option<String>,
    /// When a heartbeat proved the recovery.
    pub recovered_at: Option<SystemTime>,
}

/// One database, with the schema or (for the tests of the schema itself) without.
pub struct Database {
    url: String,
    client: Client,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.url).finish()
    }
}

impl Database {
    pub(crate) async fn connect(url: String) -> Result<Self> {
        let client = postgres::connect(&url).await?;
        Ok(Self { url, client })
    }

    /// The address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Another connection, for a transaction that stays open.
    pub async fn another_connection(&self) -> Result<Client> {
        postgres::connect(&self.url).await
    }

    /// Connects anew, after the server was away.
    pub async fn reconnect(&mut self) -> Result<()> {
        self.client = postgres::connect(&self.url).await?;
        Ok(())
    }

    /// Connects to another server from now on, after a fail-over.
    pub async fn reconnect_to(&mut self, url: String) -> Result<()> {
        self.url = url;
        self.reconnect().await
    }

    /// The name of the database.
    #[must_use]
    pub fn name(&self) -> &str {
        self.url.rsplit('/').next().unwrap_or_default()
    }

    /// The address for a new login that has the rights of this role, and no others. Roles are the cluster's and tests run
    /// side by side, so each makes its own.
    pub async fn login(&self, role: &str) -> Result<String> {
        let login = format!("{role}_of_{}", self.name());
        self.execute(&format!("create role {login} login in role {role}")).await?;
        Ok(self.url.replace("postgres@", &format!("{login}@")))
    }

    /// A proxy's connection: a login of its own, with the rights of a reporter and no others.
    pub async fn proxy(&self, name: &str) -> Result<Client> {
        let login = format!("{name}_of_{}", self.name());
        self.execute(&format!("create role {login} login in role defib_reporter")).await?;
        postgres::connect(&self.url.replace("postgres@", &format!("{login}@"))).await
    }

    /// Puts the platform's function `mark_dead` or `mark_recovered` aside, as `platform.<name>`, and a body of PL/pgSQL in its place,
    /// which knows `workspace_id` and `evidence` and returns a boolean.
    pub async fn replace_function(&self, name: &str, body: &str) -> Result<()> {
        self.execute("create schema if not exists platform").await?;
        let aside = "select count(*) from pg_proc where proname = $1 and pronamespace = 'platform'::regnamespace";
        if self.query(aside, &[&name]).await?[0].get::<_, i64>(0) == 0 {
            self.execute(&format!("alter function defib.{name}(text, jsonb) set schema platform")).await?;
        }
        self.execute(&format!(
            "create or replace function defib.{name}(workspace_id text, evidence jsonb) returns boolean
             language plpgsql volatile security definer as $body$ begin {body} end $body$"
        ))
        .await
    }

    /// Replaces the function for some workspaces only. For all others the platform's own function is called.
    pub async fn replace_function_for(&self, name: &str, ids: &[&str], body: &str) -> Result<()> {
        let ids = ids.join("', '");
        let body =
            format!("if workspace_id in ('{ids}') then {body} end if; return platform.{name}(workspace_id, evidence);");
        self.replace_function(name, &body).await
    }

    /// Puts the platform's own function back in its place.
    pub async fn restore_function(&self, name: &str) -> Result<()> {
        self.replace_function(name, &format!("return platform.{name}(workspace_id, evidence);")).await
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.with_context(|| sql.to_owned())
    }

    /// The rows of a query.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.client.query(sql, parameters).await.with_context(|| sql.to_owned())
    }

    /// The one number of a query.
    pub async fn count(&self, sql: &str) -> Result<i64> {
        Ok(self.client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?.try_get(0)?)
    }

    /// Waits until a stale heartbeat counts as evidence. It does not while the server has just been started.
    pub(crate) async fn wait_until_heartbeats_count(&self) -> Result<()> {
        self.wait_until_up_for(HEARTBEATS_COUNT_AFTER).await
    }

    /// Waits until the server has been up for this long.
    pub async fn wait_until_up_for(&self, age: Duration) -> Result<()> {
        let sql = "select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8";
        eventually(SOON, "the server is old enough", async || {
            let row = self.client.query_one(sql, &[]).await.map_err(|error| error.to_string())?;
            let up: f64 = row.get(0);
            if up > age.as_secs_f64() { Ok(()) } else { Err(format!("{up} s old")) }
        })
        .await
    }

    /// Adds a workspace.
    pub async fn add(&self, workspace: Workspace<'_>) -> Result<()> {
        let Workspace { id, status, kind, engine, container_ref, parent, beaten } = workspace;
        let seconds_ago = match beaten {
            Beaten::Now => Some(0.0),
            Beaten::AnHourAgo => Some(3_600.0),
            Beaten::Never => None,
        };
        let sql = "insert into defib.workspaces
                       (id, status, kind, engine, container_ref, parent_id, last_heartbeat_at, created_at)
                   values ($1, $2, $3, $4, $5, $6, clock_timestamp() - $7::float8 * interval '1 second',
                           clock_timestamp() - interval '1 day')";
        self.query(sql, &[&id, &status, &kind, &engine, &container_ref, &parent, &seconds_ago]).await?;
        Ok(())
    }

    /// A heartbeat of one workspace, now.
    pub async fn beat(&self, id: &str) -> Result<()> {
        let sql = "update defib.workspaces set last_heartbeat_at = clock_timestamp() where id = $1 returning id";
        ensure!(!self.query(sql, &[&id]).await?.is_empty(), "there is no workspace {id}");
        Ok(())
    }

    /// The platform changes a status.
    pub async fn set_status(&self, id: &str, status: &str) -> Result<()> {
        let sql = "update defib.workspaces set status = $2 where id = $1 returning id";
        ensure!(!self.query(sql, &[&id, &status]).await?.is_empty(), "there is no workspace {id}");
        Ok(())
    }

    /// The platform's status.
    pub async fn status(&self, id: &str) -> Result<String> {
        let rows = self.query("select status from defib.workspaces where id = $1", &[&id]).await?;
        Ok(rows.first().with_context(|| format!("there is no workspace {id}"))?.get(0))
    }

    /// Waits for a status.
    pub async fn wait_for_status(&self, id: &str, status: &str) -> Result<()> {
        eventually(SOON, &format!("{id} is {status}"), async || match self.status(id).await {
            Ok(found) if found == status => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Reports a suspicion, as a proxy does that could not reach a workspace.
    pub async fn suspect(&self, id: &str) -> Result<()> {
        self.suspect_by(id, "proxy-1").await
    }

    /// The same by a proxy of this name.
    pub async fn suspect_by(&self, id: &str, reporter: &str) -> Result<()> {
        self.query("select defib.report_suspicion($1, $2, 'connection refused', 502)", &[&id, &reporter]).await?;
        Ok(())
    }

    /// What a proxy of this name reports over its own login.
    pub async fn suspect_over(&self, proxy: &Client, id: &str, reporter: &str) -> Result<()> {
        proxy.query("select defib.report_suspicion($1, $2, 'connection refused', 502)", &[&id, &reporter]).await?;
        Ok(())
    }

    /// The ledger of one workspace, oldest first.
    pub async fn restarts(&self, id: &str) -> Result<Vec<Restart>> {
        Ok(self.all_restarts().await?.into_iter().filter(|restart| restart.workspace == id).collect())
    }

    /// The whole ledger, oldest first.
    pub async fn all_restarts(&self) -> Result<Vec<Restart>> {
        let sql =
            "select id, workspace_id, attempt, verdict, evidence, claimed_by, claimed_at, finished_at, outcome, error,
                          recovered_at
                     from defib.restarts order by id";
        self.query(sql, &[]).await?.iter().map(Restart::from_row).collect()
    }

    /// Waits until the newest row of a workspace in the ledger has this outcome, and returns it.
    pub async fn wait_for_restart(&self, id: &str, outcome: &str, deadline: Duration) -> Result<Restart> {
        eventually(deadline, &format!("a restart of {id} ends: {outcome}"), async || {
            let restarts = self.restarts(id).await.map_err(|error| format!("{error:#}"))?;
            let newest = restarts.last().filter(|restart| restart.outcome.as_deref() == Some(outcome));
            newest.cloned().ok_or_else(|| format!("{restarts:#?}"))
        })
        .await
    }

    /// Waits until a restart of a workspace is claimed and under way.
    pub async fn wait_for_claim(&self, id: &str) -> Result<Restart> {
        eventually(SOON, &format!("a restart of {id} is claimed"), async || {
            let restarts = self.restarts(id).await.map_err(|error| format!("{error:#}"))?;
            let newest = restarts.last().filter(|restart| restart.outcome.is_none());
            newest.cloned().ok_or_else(|| format!("{restarts:#?}"))
        })
        .await
    }

    /// The present verdict; `None`: alive, or not judged.
    pub async fn verdict(&self, id: &str) -> Result<Option<String>> {
        let rows = self.query("select verdict from defib.verdicts where workspace_id = $1", &[&id]).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// Waits for a verdict; `None`: for the end of one.
    pub async fn wait_for_verdict(&self, id: &str, verdict: Option<&str>) -> Result<()> {
        eventually(SOON, &format!("the verdict on {id} is {verdict:?}"), async || match self.verdict(id).await {
            Ok(found) if found.as_deref() == verdict => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Why a restart is being held back, of a workspace with a verdict.
    pub async fn held(&self, id: &str) -> Result<Option<String>> {
        let rows = self.query("select held from defib.verdicts where workspace_id = $1", &[&id]).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    /// The verdicts that a workspace came to, oldest first.
    pub async fn history(&self, id: &str) -> Result<Vec<String>> {
        let rows =
            self.query("select verdict_to from defib.events where workspace_id = $1 order by id", &[&id]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Waits until a workspace has come to this verdict `times` times.
    pub async fn wait_for_history(&self, id: &str, verdict: &str, times: usize) -> Result<()> {
        eventually(SOON, &format!("{id} was {verdict} {times} times"), async || {
            let history = self.history(id).await.map_err(|error| format!("{error:#}"))?;
            let found = history.iter().filter(|known| *known == verdict).count();
            if found >= times { Ok(()) } else { Err(format!("{history:?}")) }
        })
        .await
    }

    /// Waits until a statement of defib waits for a lock that another connection holds.
    pub async fn wait_for_lock(&self) -> Result<()> {
        let sql = "select count(*) from pg_stat_activity
                    where datname = current_database() and application_name = 'defib' and wait_event_type = 'Lock'";
        eventually(SOON, "defib waits for a lock", async || match self.count(sql).await {
            Ok(waiting) if waiting > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }
}

impl Restart {
    fn from_row(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.try_get(0)?,
            workspace: row.try_get(1)?,
            attempt: row.try_get(2)?,
            verdict: row.try_get(3)?,
            evidence: row.try_get(4)?,
            claimed_by: row.try_get(5)?,
            claimed_at: row.try_get(6)?,
            finished_at: row.try_get(7)?,
            outcome: row.try_get(8)?,
            error: row.try_get(9)?,
            recovered_at: row.try_get(10)?,
        })
    }
}
