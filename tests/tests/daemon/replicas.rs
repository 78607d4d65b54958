//! Several daemons on one fleet: each engine has one owner, the others are warm and silent, and ownership passes from one to the next.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::{ScriptedEngine, eventually, process::Signal};
use defib_tests::{SOON, Stage, Workspace, container, throughout};
use tokio::time::Instant;

const TTL: Duration = Duration::from_secs(3);
/// Several turns of everything.
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn one_replica_owns_the_engine_and_the_other_observes_and_is_silent() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    let (first, second) = (stage.run_as("first").await?, stage.run_as("second").await?);
    owned_by(&stage, "default", "first").await?;
    for (daemon, holds) in [(&first, 1.0), (&second, 0.0)] {
        let series = "defib_lease_held{engine=\"default\"}";
        ensure!(daemon.metrics().await?.value(series)? == holds, "{series} is not {holds}");
    }
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    stage.db.beat("w1").await?;
    stage.db.wait_for_history("w1", "alive", 1).await?;
    // Both saw it die. One of them wrote it down.
    first.wait_for_metric("defib_workspaces{verdict=\"alive\"}", |count| count == 1.0, SOON).await?;
    let counted = second.metrics().await?.sum("defib_workspaces", "");
    ensure!(
        counted == 0.0,
        "the observer counts {counted} workspaces, so that a sum over the replicas is not the fleet"
    );
    let history = stage.db.history("w1").await?;
    let dead = history.iter().filter(|verdict| *verdict == "dead").count();
    ensure!(dead == 1, "{history:?}");
    let verdicts = second.metrics().await?.value("defib_verdicts_total{verdict=\"dead\"}")?;
    ensure!(verdicts == 0.0, "the observer counts {verdicts} verdicts as its own");
    Ok(())
}

#[tokio::test]
async fn after_a_crash_the_other_takes_over_within_the_lease_and_restarts_who_died_meanwhile() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    let first = stage.run_as("first").await?;
    let _second = stage.run_as("second").await?;
    first.kill().await?;
    let (crashed, epoch) = (Instant::now(), epoch(&stage).await?);
    engine.exit("w1", 137)?;
    let restart = stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    let took = crashed.elapsed();
    // Its turn comes with the end of the lease, its next pass half a second later.
    ensure!(took < TTL + Duration::from_millis(1_500), "it took {took:?}");
    owned_by(&stage, "default", "second").await?;
    ensure!(self::epoch(&stage).await? == epoch + 1, "the epoch did not grow by one");
    ensure!(restart.attempt == 1 && engine.restarts_of("w1") == 1, "{restart:#?}");
    Ok(())
}

#[tokio::test]
async fn after_a_clean_stop_the_other_takes_over_at_once() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    // The lease is so long that the test would notice if anybody waited for its end.
    let stage = stage.knob("LEASE_TTL", "1m").knob("POLL_INTERVAL", "30s");
    let first = stage.run_as("first").await?;
    let _second = stage.run_as("second").await?;
    ensure!(first.stop(SOON).await?.code() == Some(0), "it did not end well");
    owned_by(&stage, "default", "second").await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn misses_and_learned_intervals_survive_the_take_over() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("LEASE_TTL", "3s");
    // A long window and spacing: the second miss can only count if the first one, seen by the observer, is remembered.
    let stage = stage.knob("DEAD_WINDOW", "1m").knob("PROBE_SPACING", "5s").knob("DEAD_THRESHOLD", "3");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1")).await?;
    let first = stage.run_as("first").await?;
    let second = stage.run_as("second").await?;
    engine.exit("w1", 137)?;
    second.wait_for_metric("defib_probe_map_entries", |entries| entries == 1.0, SOON).await?;
    stage.db.wait_for_verdict("w1", Some("suspect")).await?;
    let since = "select extract(epoch from since)::bigint from defib.verdicts where workspace_id = 'w1'";
    let before = stage.db.count(since).await?;
    first.kill().await?;
    stage.db.wait_for_restart("w1", "succeeded", Duration::from_secs(20)).await?;
    let evidence = "select (evidence #>> '{probe,misses}')::bigint from defib.restarts where workspace_id = 'w1'";
    ensure!(stage.db.count(evidence).await? == 3, "{:#?}", stage.db.restarts("w1").await?);
    let first_miss =
        "select extract(epoch from claimed_at)::bigint - (evidence #>> '{probe,since_first_seconds}')::numeric::bigint
                        from defib.restarts where workspace_id = 'w1'";
    let first_miss = stage.db.count(first_miss).await?;
    ensure!((first_miss - before).abs() <= 2, "the run of misses began at {first_miss}, not at {before}");
    Ok(())
}

#[tokio::test]
async fn engines_are_spread_over_the_replicas_and_move_when_one_joins_or_leaves() -> Result<()> {
    let (one, two) = (ScriptedEngine::start().await?, ScriptedEngine::start().await?);
    let stage = Stage::new(&one.url()).await?.engine("other", &two.url()).quick_heartbeats().knob("LEASE_TTL", "3s");
    one.add(container("w1"));
    two.add(container("w2"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    stage.db.add(Workspace::new("w2").engine("other").silent()).await?;
    let first = stage.run_as("first").await?;
    owned_by(&stage, "default", "first").await?;
    owned_by(&stage, "other", "first").await?;

    let second = stage.run_as("second").await?;
    spread(&stage, &[("first", 1), ("second", 1)]).await?;
    // Each restarts what dies on its own engine, and hears of suspicions against its own.
    one.exit("w1", 137)?;
    two.exit("w2", 137)?;
    for id in ["w1", "w2"] {
        stage.db.suspect(id).await?;
        stage.db.wait_for_restart(id, "succeeded", SOON).await?;
    }
    let claimants = "select count(distinct claimed_by) from defib.restarts";
    ensure!(stage.db.count(claimants).await? == 2, "{:#?}", stage.db.all_restarts().await?);
    eventually(SOON, "both suspicions are taken", async || {
        match stage.db.count("select count(*) from defib.suspicions where taken_at is null").await {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;

    second.kill().await?;
    spread(&stage, &[("first", 2)]).await?;
    ensure!(first.get("/healthz").await?.0 == 200, "the one left is not well");
    Ok(())
}

/// A replica that a hypervisor or a debugger stops at any point, and that wakes up when another one has taken over.
#[tokio::test]
async fn a_replica_that_was_stopped_for_longer_than_its_lease_does_nothing_when_it_wakes() -> Result<()> {
    let (stage, engine) = world(&["w1", "w2"]).await?;
    let first = stage.run_as("first").await?;
    let _second = stage.run_as("second").await?;
    first.program.signal(Signal::STOP)?;
    owned_by(&stage, "default", "second").await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    first.program.signal(Signal::CONT)?;
    engine.exit("w2", 137)?;
    stage.db.wait_for_restart("w2", "succeeded", SOON).await?;
    throughout(A_WHILE, "each is restarted once, by the owner", async || {
        let by_first = "select count(*) from defib.restarts where claimed_by = 'first'";
        let by_first = stage.db.count(by_first).await.map_err(|error| format!("{error:#}"))?;
        match (engine.restarts_of("w1"), engine.restarts_of("w2"), by_first) {
            (1, 1, 0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    first.wait_for_metric("defib_lease_held{engine=\"default\"}", |held| held == 0.0, SOON).await?;
    Ok(())
}

/// A replica that only observes, beside one that acts, must not keep anybody dead.
#[tokio::test]
async fn a_replica_that_only_observes_leaves_the_engine_to_one_that_enforces() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    let _trial = stage.start_with("trial", &[("DEFIB_MODE", "observe")]).await?;
    owned_by(&stage, "default", "trial").await?;
    let _production = stage.run_as("production").await?;
    owned_by(&stage, "default", "production").await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

/// A partition between one replica and the engine: the other one, which reaches it, takes over.
#[tokio::test]
async fn an_owner_that_does_not_reach_its_engine_leaves_it_to_one_that_does() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    let stage = stage.knob("LEASE_TTL", "1s");
    let far = stage.start_with("far", &[("DEFIB_ENGINES", "default=tcp://127.0.0.1:1")]).await?;
    owned_by(&stage, "default", "far").await?;
    let _near = stage.run_as("near").await?;
    owned_by(&stage, "default", "near").await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(far.get("/healthz").await?.0 == 200, "the one without an engine is not well");
    Ok(())
}

/// Each replica has an engine of its own, as where one runs on each host.
#[tokio::test]
async fn what_was_said_of_a_workspace_goes_with_it_to_another_replicas_engine() -> Result<()> {
    let (one, two) = (ScriptedEngine::start().await?, ScriptedEngine::start().await?);
    let stage = Stage::new(&one.url()).await?.quick_heartbeats().knob("LEASE_TTL", "3s");
    one.add(container("w1"));
    stage.db.add(Workspace::new("w1")).await?;
    let (here, there) = (format!("default={}", one.url()), format!("other={}", two.url()));
    let first = stage.start_with("first", &[("DEFIB_ENGINES", here.as_str())]).await?;
    let second = stage.start_with("second", &[("DEFIB_ENGINES", there.as_str())]).await?;
    for daemon in [&first, &second] {
        daemon.wait_until_ready().await?;
    }
    ensure!(stage.defib(&["hold", "w1", "--reason", "test"]).await?.code == Some(0), "the hold was refused");
    one.exit("w1", 137)?;
    stage.db.wait_for_verdict("w1", Some("dead")).await?;

    two.add(container("w1"));
    stage.db.execute("update defib.workspaces set engine = 'other' where id = 'w1'").await?;
    eventually(SOON, "nobody says any more that it is dead", async || {
        stage.db.beat("w1").await.map_err(|error| format!("{error:#}"))?;
        match stage.db.verdict("w1").await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    // And back, where its container is still dead.
    stage.db.execute("update defib.workspaces set engine = 'default' where id = 'w1'").await?;
    stage.db.wait_for_verdict("w1", Some("dead")).await?;
    ensure!(stage.defib(&["release", "w1"]).await?.code == Some(0), "there was no hold");
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    ensure!(one.starts_of("w1") == 1 && two.starts_of("w1") == 0, "it was started where it is not");
    Ok(())
}

#[tokio::test]
async fn two_processes_of_one_name_are_told_apart_and_reported() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    let first = stage.run_as("same").await?;
    let _second = stage.run_as("same").await?;
    first.program.wait_for_line("another process has taken the engine under our name", SOON).await?;
    first.wait_for_metric("defib_lease_held{engine=\"default\"}", |held| held == 0.0, SOON).await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    throughout(A_WHILE, "one restart", async || match engine.restarts_of("w1") {
        1 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await
}

#[tokio::test]
async fn a_hold_is_respected_by_whichever_replica_takes_over() -> Result<()> {
    let (stage, engine) = world(&["w1"]).await?;
    let first = stage.run_as("first").await?;
    let second = stage.run_as("second").await?;
    stage
        .defib(&["hold", "w1", "--for", "10m", "--reason", "looking into it", "--owner", "ann"])
        .await?
        .with_code(0)?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_verdict("w1", Some("dead")).await?;
    first.wait_for_metric("defib_holds", |holds| holds == 1.0, SOON).await?;
    ensure!(second.metrics().await?.value("defib_holds")? == 0.0, "the observer counts the hold once more");
    eventually(SOON, "the verdict says that it is held", async || match stage.db.held("w1").await {
        Ok(Some(held)) if held == "operator" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let explained = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    ensure!(explained.contains("ann") && explained.contains("looking into it"), "{explained}");
    first.kill().await?;
    owned_by(&stage, "default", "second").await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    stage.defib(&["release", "w1"]).await?.with_code(0)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

/// Without the database no replica can be fenced, so none acts. That includes the owner, which still reaches its engine.
#[tokio::test]
async fn an_owner_that_is_cut_off_from_the_database_restarts_nothing() -> Result<()> {
    let server = defib_testkit::PrivatePostgres::start().await?;
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::on(&server, &engine.url()).await?.quick_heartbeats().knob("LEASE_TTL", "3s");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    let _daemon = stage.run().await?;
    server.stop_server().await?;
    engine.exit("w1", 137)?;
    throughout(TTL + A_WHILE, "the engine is not asked for anything", async || match engine.restarts() {
        0 => Ok(()),
        other => Err(format!("{other}")),
    })
    .await
}

async fn world(ids: &[&str]) -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("LEASE_TTL", "3s");
    for id in ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    Ok((stage, engine))
}

async fn owned_by(stage: &Stage, engine: &str, replica: &str) -> Result<()> {
    let sql = format!(
        "select count(*) from defib.leases where engine = '{engine}' and holder = '{replica}' and expires_at > now()"
    );
    eventually(SOON, &format!("{replica} owns {engine}"), async || match stage.db.count(&sql).await {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

async fn epoch(stage: &Stage) -> Result<i64> {
    stage.db.count("select epoch from defib.leases where engine = 'default'").await
}

async fn spread(stage: &Stage, shares: &[(&str, i64)]) -> Result<()> {
    eventually(SOON, "the engines are spread", async || {
        for (replica, share) in shares {
            let sql = format!("select count(*) from defib.leases where holder = '{replica}' and expires_at > now()");
            let owned = stage.db.count(&sql).await.map_err(|error| format!("{error:#}"))?;
            if owned != *share {
                return Err(format!("{replica} owns {owned}"));
            }
        }
        Ok(())
    })
    .await
}
