//! What proxies report: a reason to look, whoever says it, however often and however oddly.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_engine::{Call, EventFeed};
use defib_testkit::{ScriptedEngine, eventually};
use defib_tests::{SOON, Stage, Workspace, container};

const WORKSPACES: usize = 50;
const SUSPICIONS: usize = 2_000;
const CLIENTS: usize = 8;

#[tokio::test]
async fn two_thousand_suspicions_in_a_second_are_handled_and_restart_nobody() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "1s").knob("SETTLE", "0s");
    for n in 0..WORKSPACES {
        let id = format!("w{n}");
        engine.add(container(&id));
        stage.db.add(Workspace::new(&id)).await?;
    }
    let daemon = stage.run().await?;
    daemon.wait_for_metric("defib_workspaces{verdict=\"alive\"}", |count| count == 50.0, SOON).await?;
    engine.clear_calls();

    let begun = std::time::Instant::now();
    flood(&stage).await?;
    let pending = "select count(*) from defib.suspicions where taken_at is null";
    eventually(SOON, "all are taken", async || match stage.db.count(pending).await {
        Ok(0) => Ok(()),
        other => Err(format!("{other:?} pending")),
    })
    .await?;
    stage.nothing_is_claimed(Duration::from_secs(2)).await?;
    let took = begun.elapsed();

    // While many of them are pending, the database merges reports that say the same; each workspace keeps 32 of them at least.
    let kept = stage.db.count("select count(*) from defib.suspicions").await?;
    ensure!((1_600..=2_000).contains(&kept), "{kept} were kept of 2,000");
    let metrics = daemon.metrics().await?;
    let (all, unknown) = (
        metrics.sum("defib_suspicions_total", ""),
        metrics.value("defib_suspicions_total{reason=\"unknown_workspace\"}")?,
    );
    ensure!((all, unknown) == (2_000.0, 667.0), "{all} were counted, {unknown} of them for unknown workspaces");
    // There is one look for each workspace and spacing, and those of the polls, but not one for each suspicion.
    let looks = u64::try_from(engine.count(Call::Inspect))?;
    let bound = u64::try_from(WORKSPACES)? * (took.as_secs() + 2);
    ensure!(looks <= bound, "{looks} inspects in {took:?}, more than {bound}");
    ensure!(engine.restarts() == 0, "somebody was restarted");
    ensure!(daemon.get("/healthz").await?.0 == 200, "the loop does not turn any more");
    Ok(())
}

/// From several clients at once, a third for workspaces that do not exist, each tenth with 5 kB of control characters.
async fn flood(stage: &Stage) -> Result<()> {
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let connection = stage.db.another_connection().await?;
        clients.push(tokio::spawn(async move {
            let sql = "select defib.report_suspicion($1, $2, $3, 502, $4)";
            let statement = connection.prepare(sql).await?;
            let noise = "\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{202e}".repeat(400);
            for n in (client..SUSPICIONS).step_by(CLIENTS) {
                let id = if n % 3 == 0 { format!("nobody-{n}") } else { format!("w{}", n % WORKSPACES) };
                let (reporter, detail) = (format!("proxy-{client}"), if n % 10 == 0 { noise.as_str() } else { "" });
                let reason = if n % 10 == 0 { noise.as_str() } else { "connection refused" };
                connection.query(&statement, &[&id, &reporter, &reason, &detail]).await?;
            }
            anyhow::Ok(())
        }));
    }
    for client in clients {
        client.await??;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_proxy_writes_is_cut_and_spelled_out_wherever_it_shows() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("LOG", "debug");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    // Its id is as dangerous as what is reported of it, and it has a container that dies.
    let hostile = "evil\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{7f}";
    engine.add(container("evil").label("defib.workspace", hostile));
    stage.db.add(Workspace::new(hostile).silent()).await?;
    let daemon = stage.run().await?;

    let noise = "\u{1b}]0;owned\u{7}\r\n\u{9b}2J\u{7f}".repeat(500);
    let sql = "select defib.report_suspicion($1, $2, $2, 502, $2)";
    for id in ["w1", hostile, &format!("nobody{noise}")] {
        stage.db.query(sql, &[&id, &noise]).await?;
    }
    for (id, container) in [("w1", "w1"), (hostile, "evil")] {
        engine.exit(container, 137)?;
        stage.db.wait_for_restart(id, "succeeded", SOON).await?;
    }

    let too_long =
        "select count(*) from defib.suspicions where octet_length(workspace_id) > 512 or length(reporter) > 100
                        or length(reason) > 100 or length(detail) > 1000";
    ensure!(stage.db.count(too_long).await? == 0, "not everything was cut");
    let raw = "select count(*) from defib.suspicions
                where concat(reporter, reason, detail) ~ '[\\u0001-\\u001f\\u007f-\\u009f]'";
    ensure!(stage.db.count(raw).await? == 0, "a control character is in the table");
    // Ids are kept as they are, because they are judged as they are. They are made safe where they are shown.
    let kept = "select count(*) from defib.suspicions where workspace_id ~ '^evil[\\u001b][]]0;owned[\\u0007]'";
    ensure!(stage.db.count(kept).await? == 1, "the id was changed on its way into the table");
    let explained = stage.defib(&["explain", "w1"]).await?.with_code(0)?;
    ensure!(explained.stdout.contains("owned"), "the suspicion is not told of: {}", explained.stdout);
    let explained_hostile = stage.defib(&["explain", hostile]).await?.with_code(0)?;
    let status = stage.defib(&["status"]).await?.with_code(0)?;
    let unknown = stage.defib(&["explain", &format!("{hostile}?")]).await?;
    ensure!(status.stdout.contains("evil"), "the workspace is not listed: {}", status.stdout);
    ensure!(daemon.program.stderr().contains("evil"), "its restart is not logged");
    for text in [explained.stdout, explained_hostile.stdout, status.stdout, unknown.stderr, daemon.program.stderr()] {
        let raw = text.chars().find(|c| c.is_control() && *c != '\n');
        ensure!(raw.is_none(), "{raw:?} is in {text}");
    }
    Ok(())
}

#[tokio::test]
async fn the_suspect_command_is_a_suspicion_like_any_other() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    engine.set_event_feed(EventFeed::Silent);
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "60s");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let daemon = stage.run().await?;
    daemon.wait_until_idle(Duration::from_secs(1)).await?;
    engine.exit("w1", 137)?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;

    stage.defib(&["suspect", "w1", "--reason", "looks stuck"]).await?.with_code(0)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn what_the_look_found_is_told_with_the_suspicion() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1")).await?;
    let _daemon = stage.run().await?;
    for id in ["w1", "nobody"] {
        stage.db.query("select defib.report_suspicion($1, 'proxy-1', 'timeout')", &[&id]).await?;
    }
    eventually(SOON, "both are told", async || {
        let found = "select count(*) from defib.suspicions
                      where finding = case workspace_id when 'w1' then 'alive (running_fresh)'
                                      else 'nothing was looked at: no workspace with this id is watched' end";
        match stage.db.count(found).await {
            Ok(2) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    let explained = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    ensure!(explained.contains("by proxy-1: timeout; the look found: alive (running_fresh)"), "{explained}");
    Ok(())
}

#[tokio::test]
async fn a_reporter_may_report_and_nothing_else() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let proxy = stage.db.another_connection().await?;
    proxy.batch_execute("set role defib_reporter").await?;
    proxy.batch_execute("select defib.report_suspicion('w1', 'proxy-1', 'timeout')").await?;
    for forbidden in [
        "select * from defib.suspicions",
        "select * from defib.workspaces",
        "select defib.mark_dead('w1', '{}')",
        "insert into defib.restarts (workspace_id, engine, attempt, verdict) values ('w1', 'default', 1, 'dead')",
        "delete from defib.suspicions",
    ] {
        ensure!(proxy.batch_execute(forbidden).await.is_err(), "a reporter may {forbidden}");
    }
    Ok(())
}
