//! The first platform as a whole: its tables, its control plane, its server and its Redis. What dies comes back through the server's own
//! restart. The server is asked once, and only after the dead address has been deleted from Redis.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use defib_testkit::scripted_control_plane::{ApiFault, Dialect};
use defib_testkit::scripted_engine::{Call, Fault, FaultRule, ScriptedContainer};
use defib_testkit::{PrivateRedis, ScriptedControlPlane, ScriptedEngine, eventually};
use defib_tests::{Daemon, SOON, Stage, throughout};

const TABLES: &str = include_str!("../../sql/molecule-core.sql");
const ADAPTER: &str = include_str!("../../../deploy/adapters/molecule-core.sql");
const KEYS: [&str; 3] = ["ws:{workspace_id}", "ws:{workspace_id}:url", "ws:{workspace_id}:internal_url"];

const TENANT: &str = "7e5a5700-eeee-4eee-8eee-eeeeeeeeeeee";
const CONTAINER: &str = "c0117a13-aaaa-4aaa-8aaa-aaaaaaaaaaaa";

/// How long the server takes for a restart, or the engine for a start: long enough to look at the keys meanwhile.
const WHILE_ASKED: Duration = Duration::from_secs(2);
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_dead_instance_comes_back_through_the_servers_restart() -> Result<()> {
    let platform = Platform::start("engine").await?;
    let daemon = platform.stage.run().await?;
    platform.stage.nothing_is_claimed(A_WHILE).await?;

    platform.server.fail_restart(ApiFault::Late(WHILE_ASKED));
    platform.server.set("i-1", "terminated");
    platform.is_asked_with_no_key_left(TENANT).await?;
    ensure!(platform.status(TENANT).await? == "offline", "the platform was not told of the death");
    platform.stage.db.wait_for_restart(TENANT, "succeeded", SOON).await?;

    // The server works on it by itself: first it says so, then there is another instance, which beats.
    platform.execute(TENANT, "status = 'provisioning'").await?;
    platform.server.set("i-2", "pending");
    platform.execute(TENANT, "instance_id = 'i-2', status = 'online'").await?;
    platform.server.set("i-2", "running");
    platform.recovers(TENANT).await?;
    platform.is_asked_once_in_all(&daemon, TENANT).await
}

#[tokio::test]
async fn with_the_server_on_the_host_a_dead_container_comes_back_through_it_too_and_no_engine_starts_it() -> Result<()>
{
    let platform = Platform::start("platform").await?;
    let daemon = platform.stage.run().await?;
    platform.server.fail_restart(ApiFault::Late(WHILE_ASKED));
    platform.engine.exit(&name(CONTAINER), 137)?;
    platform.is_asked_with_no_key_left(CONTAINER).await?;
    platform.stage.db.wait_for_restart(CONTAINER, "succeeded", SOON).await?;

    // The server removes the container and makes another one of the same name, with another port.
    platform.engine.remove(&name(CONTAINER))?;
    platform.engine.add(ScriptedContainer::running("made-again").name(name(CONTAINER)));
    platform.recovers(CONTAINER).await?;
    platform.is_asked_once_in_all(&daemon, CONTAINER).await?;
    ensure!(platform.engine.count(Call::Start) + platform.engine.count(Call::Restart) == 0, "an engine restarted it");
    Ok(())
}

#[tokio::test]
async fn in_a_cluster_a_dead_container_is_started_by_its_engine_and_a_removed_one_made_by_the_server() -> Result<()> {
    let platform = Platform::start("engine").await?;
    let daemon = platform.stage.run().await?;
    platform.engine.add_fault(FaultRule::new(Call::Start, Fault::Delay(WHILE_ASKED)).times(1));
    platform.engine.exit(&name(CONTAINER), 137)?;
    eventually(SOON, "its engine is asked", async || match platform.engine.count(Call::Start) {
        1 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await?;
    ensure!(platform.keys_of(CONTAINER).await?.is_empty(), "{:?}", platform.keys_of(CONTAINER).await?);
    platform.recovers(CONTAINER).await?;
    ensure!(platform.server.restarts().is_empty(), "the server was asked for what the engine can do");

    platform.write_keys(CONTAINER).await?;
    platform.execute(CONTAINER, "last_heartbeat_at = now() - interval '1 hour'").await?;
    platform.server.fail_restart(ApiFault::Late(WHILE_ASKED));
    platform.engine.remove(&name(CONTAINER))?;
    platform.is_asked_with_no_key_left(CONTAINER).await?;
    platform.engine.add(ScriptedContainer::running("made-again").name(name(CONTAINER)));
    platform.recovers(CONTAINER).await?;
    platform.is_asked_once_in_all(&daemon, CONTAINER).await
}

#[tokio::test]
async fn the_servers_own_refusals_are_not_repeated_without_a_delay() -> Result<()> {
    // 409: an ancestor is paused, so nobody wants it. 404: no such workspace, or another tenant's. 503: it has no provisioner.
    for (status, outcome) in [(409, "superseded"), (404, "failed"), (503, "failed")] {
        let mut platform = Platform::start("engine").await?;
        platform.stage =
            platform.stage.knob("BACKOFF_INITIAL", "1h").knob("BACKOFF_MAX", "2h").knob("BACKOFF_RESET", "3h");
        let _daemon = platform.stage.run().await?;
        platform.server.fail_restart(ApiFault::status(status));
        platform.server.set("i-1", "terminated");
        platform.stage.db.wait_for_restart(TENANT, outcome, SOON).await?;
        throughout(A_WHILE, "it is not asked again at once", async || match platform.server.restarts().len() {
            1 => Ok(()),
            other => Err(format!("{status}: asked {other} times")),
        })
        .await?;
    }
    Ok(())
}

/// A platform with a tenant on an instance, and a container; both live, but their heartbeats have been lost for an hour.
struct Platform {
    engine: ScriptedEngine,
    server: ScriptedControlPlane,
    redis: PrivateRedis,
    stage: Stage,
}

impl Platform {
    async fn start(restart_by: &str) -> Result<Self> {
        let (engine, redis) = (ScriptedEngine::start().await?, PrivateRedis::with_password("s3cret").await?);
        let server = ScriptedControlPlane::start(Dialect::Molecule).await?;
        server.set("i-1", "running");
        let an_hour_ago = SystemTime::now() - Duration::from_secs(3_600);
        engine.add(ScriptedContainer::running(name(CONTAINER)).started_at(an_hour_ago));

        let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
        stage.db.execute(&TABLES.replace("%status%", "text")).await?;
        stage.db.execute(ADAPTER).await?;
        let rows = format!(
            "insert into public.workspaces (id, name, status, instance_id) values
                ('{TENANT}', 'tenant', 'online', 'i-1'), ('{CONTAINER}', 'container', 'online', null);
             update public.workspaces set last_heartbeat_at = now() - interval '1 hour'"
        );
        stage.db.execute(&rows).await?;
        let login = format!("daemon_of_{}", stage.db.name());
        stage.db.execute(&format!("create role {login} login in role defib_daemon")).await?;
        let database = stage.db.url().replace("postgres@", &format!("{login}@"));

        let address = format!("{}?preset=molecule-core&org=acme", server.address());
        let stage = stage
            .engine("control-plane", &format!("cp+{address}"))
            .knob("DATABASE_URL", &database)
            .knob("ENGINE_TOKEN_CONTROL_PLANE", "sh4red-s3cret")
            .knob("PLATFORM_URL", &address)
            .knob("PLATFORM_TOKEN", "adm1n-s3cret")
            .knob("RESTART_BY", restart_by)
            .knob("REDIS_URL", &redis.url())
            .knob("REDIS_EVICT", &KEYS.join(","))
            .knob("MISSING_GRACE", "500ms")
            .knob("BACKOFF_INITIAL", "500ms");
        let platform = Self { engine, server, redis, stage };
        for id in [TENANT, CONTAINER] {
            platform.write_keys(id).await?;
        }
        Ok(platform)
    }

    async fn write_keys(&self, id: &str) -> Result<()> {
        for key in keys(id) {
            self.redis.command(&["SET", &key, "http://10.0.0.7:41234", "EX", "180"]).await?;
        }
        Ok(())
    }

    /// The keys of a workspace that still exist.
    async fn keys_of(&self, id: &str) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for key in keys(id) {
            left.extend(self.redis.get(&key).await?.map(|_| key));
        }
        Ok(left)
    }

    /// Checks that the server is asked for this restart in the form that it expects. Before it has answered, the keys of this workspace are
    /// gone, and those of another one are still there.
    async fn is_asked_with_no_key_left(&self, id: &str) -> Result<()> {
        let asked = eventually(SOON, "the server is asked", async || {
            self.server.restarts().pop().ok_or_else(|| "not yet".to_owned())
        })
        .await?;
        let left = self.keys_of(id).await?;
        ensure!(left.is_empty(), "the server was asked while these were there: {left:?}");
        let other = if id == TENANT { CONTAINER } else { TENANT };
        ensure!(self.keys_of(other).await?.len() == KEYS.len(), "another workspace's keys are gone");
        ensure!(asked.path == format!("/workspaces/{id}/restart"), "{asked:?}");
        let header = |name: &str| asked.headers.get(name).map_or("", String::as_str);
        ensure!(header("authorization") == "Bearer adm1n-s3cret" && header("x-molecule-org-id") == "acme", "{asked:?}");
        Ok(())
    }

    /// It beats from now on, and that is its recovery.
    async fn recovers(&self, id: &str) -> Result<()> {
        eventually(SOON, "it has recovered", async || {
            self.execute(id, "last_heartbeat_at = clock_timestamp()").await.map_err(|error| format!("{error:#}"))?;
            let restarts = self.stage.db.restarts(id).await.map_err(|error| format!("{error:#}"))?;
            match restarts.last().map(|restart| restart.recovered_at) {
                Some(Some(_)) if self.status(id).await.is_ok_and(|status| status == "online") => Ok(()),
                _ => Err(format!("{restarts:#?}")),
            }
        })
        .await
    }

    /// The server is asked once for it and for nobody else, and neither log nor metrics know a secret.
    async fn is_asked_once_in_all(&self, daemon: &Daemon, id: &str) -> Result<()> {
        throughout(A_WHILE, "the server is asked once", async || match self.server.restarts().as_slice() {
            [_] => Ok(()),
            other => Err(format!("{other:#?}")),
        })
        .await?;
        ensure!(
            self.stage.db.restarts(id).await?.iter().all(|restart| restart.outcome.as_deref() == Some("succeeded"))
        );
        ensure!(daemon.metrics().await?.value("defib_evictions_total{result=\"failed\"}")? == 0.0);
        let log = format!("{:?}", daemon.log()?);
        ensure!(!log.contains("s3cret"), "a secret is in the log");
        Ok(())
    }

    async fn execute(&self, id: &str, set: &str) -> Result<()> {
        self.stage.db.execute(&format!("update public.workspaces set {set} where id = '{id}'")).await
    }

    async fn status(&self, id: &str) -> Result<String> {
        let rows = self.stage.db.query("select status from public.workspaces where id::text = $1", &[&id]).await?;
        Ok(rows[0].get(0))
    }
}

fn keys(id: &str) -> [String; 3] {
    KEYS.map(|key| key.replace("{workspace_id}", id))
}

/// The platform's name for a container.
fn name(id: &str) -> String {
    format!("ws-{}", &id[..12])
}
