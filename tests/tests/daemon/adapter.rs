//! The built program on the tables of molecule-core, through the adapter that ships, as a login that may do nothing else.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::ScriptedContainer;
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, throughout};

const TABLES: &str = include_str!("../../sql/molecule-core.sql");
const ADAPTER: &str = include_str!("../../../deploy/adapters/molecule-core.sql");

const DIES: &str = "d1e50000-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const PAUSED: &str = "9a05ed00-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const BELOW: &str = "be100000-cccc-4ccc-8ccc-cccccccccccc";
const LAPTOP: &str = "1a970900-dddd-4ddd-8ddd-dddddddddddd";
const TENANT: &str = "7e5a5700-eeee-4eee-8eee-eeeeeeeeeeee";
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn on_an_enum_the_dead_are_restarted_and_who_was_put_away_is_left_alone() -> Result<()> {
    let words = "'provisioning', 'online', 'offline', 'degraded', 'failed', 'removed', 'paused', 'hibernated'";
    plays_by_the_platforms_rules(
        &format!("create type public.workspace_status as enum ({words});"),
        "public.workspace_status",
    )
    .await
}

#[tokio::test]
async fn on_a_text_the_dead_are_restarted_and_who_was_put_away_is_left_alone() -> Result<()> {
    plays_by_the_platforms_rules("", "text").await
}

async fn plays_by_the_platforms_rules(before: &str, status_type: &str) -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine, before, status_type).await?;
    let _daemon = stage.run().await?;

    for id in [DIES, PAUSED, BELOW] {
        engine.exit(&name(id), 137)?;
        stage.db.suspect(id).await?;
    }
    stage.db.wait_for_restart(DIES, "succeeded", SOON).await?;
    // Nothing but a heartbeat can be seen of it, and that ended an hour ago.
    wait_for_status(&stage, LAPTOP, "offline").await?;
    ensure!(status(&stage, DIES).await? == "offline", "the platform was not told of the death");
    throughout(A_WHILE, "the others are left alone", async || {
        let seen = others(&stage, &engine).await.map_err(|error| format!("{error:#}"))?;
        if seen == "paused online online, 1 restart" { Ok(()) } else { Err(seen) }
    })
    .await?;
    ensure!(stage.db.all_restarts().await?.len() == 1, "{:#?}", stage.db.all_restarts().await?);
    ensure!(stage.db.verdict(TENANT).await?.as_deref() == Some("unknown"), "who is on no engine of ours is not known");

    for id in [DIES, LAPTOP] {
        let beat = "update public.workspaces set last_heartbeat_at = clock_timestamp() where id::text = $1";
        stage.db.query(beat, &[&id]).await?;
        wait_for_status(&stage, id, "online").await?;
    }
    let events = "select string_agg(event_type, ' ' order by created_at) from public.structure_events where workspace_id::text = $1";
    for id in [DIES, LAPTOP] {
        let told: Option<String> = stage.db.query(events, &[&id]).await?[0].get(0);
        ensure!(told.as_deref() == Some("WORKSPACE_OFFLINE WORKSPACE_ONLINE"), "{id}: {told:?}");
    }
    ensure!(stage.db.count("select count(*) from public.structure_events").await? == 4, "and of nobody else");
    Ok(())
}

#[tokio::test]
async fn check_is_content_with_it_but_for_instances_that_no_engine_looks_at() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine, "", "text").await?;
    let said = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(
        said.contains("watched instances (7e5a5700-eeee-4eee-8eee-eeeeeeeeeeee) are on engine control-plane"),
        "{said}"
    );
    ensure!(said.contains("1 to mend") && said.contains("ok    contract"), "{said}");
    stage.db.execute("update public.workspaces set status = 'failed' where instance_id is not null").await?;
    stage.defib(&["check"]).await?.with_code(0)?;
    Ok(())
}

/// Five workspaces, silent for an hour; `defib` runs as a login that has the role of the daemon and no other right.
async fn stage(engine: &ScriptedEngine, before: &str, status_type: &str) -> Result<Stage> {
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    let stage = stage.knob("WEDGED_AFTER", "1s").knob("BUSY_GRACE", "500ms");
    stage.db.execute(&format!("{before}{}", TABLES.replace("%status%", status_type))).await?;
    stage.db.execute(ADAPTER).await?;
    let rows = format!(
        "insert into public.workspaces (id, name, status, runtime, parent_id, instance_id) values
            ('{DIES}', 'dies', 'online', 'langgraph', null, null), ('{PAUSED}', 'paused', 'paused', 'langgraph', null, null),
            ('{BELOW}', 'below', 'online', 'langgraph', '{PAUSED}', null), ('{LAPTOP}', 'laptop', 'online', 'external', null, null),
            ('{TENANT}', 'tenant', 'online', 'langgraph', null, 'i-0abc');
         update public.workspaces set last_heartbeat_at = now() - interval '1 hour'"
    );
    stage.db.execute(&rows).await?;
    let an_hour_ago = SystemTime::now() - Duration::from_secs(3_600);
    for id in [DIES, PAUSED, BELOW] {
        engine.add(ScriptedContainer::running(name(id)).started_at(an_hour_ago));
    }
    let login = format!("daemon_of_{}", stage.db.url().rsplit('/').next().unwrap_or_default());
    stage.db.execute(&format!("create role {login} login in role defib_daemon")).await?;
    let url = stage.db.url().replace("postgres@", &format!("{login}@"));
    Ok(stage.knob("DATABASE_URL", &url))
}

/// The platform's name for a container.
fn name(id: &str) -> String {
    format!("ws-{}", &id[..12])
}

async fn status(stage: &Stage, id: &str) -> Result<String> {
    let rows = stage.db.query("select status::text from public.workspaces where id::text = $1", &[&id]).await?;
    Ok(rows[0].get(0))
}

async fn wait_for_status(stage: &Stage, id: &str, wanted: &str) -> Result<()> {
    eventually(SOON, &format!("{id} is {wanted}"), async || match status(stage, id).await {
        Ok(found) if found == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

async fn others(stage: &Stage, engine: &ScriptedEngine) -> Result<String> {
    let (paused, below, tenant) =
        (status(stage, PAUSED).await?, status(stage, BELOW).await?, status(stage, TENANT).await?);
    Ok(format!("{paused} {below} {tenant}, {} restart", engine.restarts()))
}
