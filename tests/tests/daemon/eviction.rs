//! The keys of a dead workspace in a real Redis: gone before its engine is called, and never a reason for a restart to wait.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use defib_testkit::redis::SERVICE;
use defib_testkit::scripted_engine::{Call, Fault, FaultRule};
use defib_testkit::{CertificateAuthority, PrivateRedis, ScriptedEngine, eventually};
use defib_tests::{Daemon, SOON, Stage, Workspace, container, throughout};

const EVICT: &str = "ws:{workspace_id},ws:{workspace_id}:url";
const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_keys_of_a_dead_one_are_gone_before_its_engine_is_called() -> Result<()> {
    let redis = PrivateRedis::with_password("s3cret").await?;
    is_evicted_at(&redis, &redis.url(), &redis).await
}

#[tokio::test]
async fn a_login_that_may_delete_these_keys_and_nothing_else_is_enough() -> Result<()> {
    let redis = PrivateRedis::start().await?;
    redis.command(&["ACL", "SETUSER", "defib", "on", ">s3cret", "~ws:*", "+del"]).await?;
    is_evicted_at(&redis, &format!("redis://defib:s3cret@{}", redis.host()), &redis).await
}

#[tokio::test]
async fn keys_are_deleted_in_a_cluster_as_on_one_server() -> Result<()> {
    let redis = PrivateRedis::cluster().await?;
    is_evicted_at(&redis, &format!("cluster+redis://{}", redis.host()), &redis).await
}

#[tokio::test]
async fn keys_are_deleted_on_the_server_that_a_sentinel_names() -> Result<()> {
    let redis = PrivateRedis::start().await?;
    let sentinel = PrivateRedis::sentinel_of(&redis).await?;
    is_evicted_at(&redis, &format!("sentinel+redis://{}/{SERVICE}", sentinel.host()), &sentinel).await
}

#[tokio::test]
async fn keys_are_deleted_over_tls_with_its_own_authority_and_not_without_it() -> Result<()> {
    let authority = CertificateAuthority::new("cache")?;
    let redis = PrivateRedis::with_tls(&authority.issue("localhost")?).await?;
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine, &redis.tls_url("localhost")?).await?;
    let said = stage.defib(&["check"]).await?.stdout;
    ensure!(said.contains("FAIL  redis") && said.contains("certificate"), "{said}");
    let url = format!("{}?ca={}", redis.tls_url("localhost")?, authority.root().display());
    is_evicted_at(&redis, &url, &redis).await
}

/// `through` is kept alive until the end of the test, because the deletion needs it.
async fn is_evicted_at(redis: &PrivateRedis, url: &str, _through: &PrivateRedis) -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = stage(&engine, url).await?;
    for key in ["ws:dies", "ws:dies:url", "ws:lives", "ws:dies:other"] {
        redis.set(key, "1").await?;
    }
    let said = stage.defib(&["check"]).await?.stdout;
    ensure!(said.contains("ok    redis") && !said.contains("s3cret"), "{said}");
    let daemon = stage.run().await?;
    // The engine takes as long as the test looks at the keys.
    engine.add_fault(FaultRule::new(Call::Start, Fault::Delay(A_WHILE)));
    engine.exit("dies", 137)?;
    eventually(SOON, "the engine is called", async || {
        if engine.count(Call::Start) == 0 { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await?;
    let left = [redis.get("ws:dies").await?, redis.get("ws:dies:url").await?];
    ensure!(left == [None, None], "the engine was called while these were there: {left:?}");
    ensure!(
        redis.get("ws:lives").await?.is_some() && redis.get("ws:dies:other").await?.is_some(),
        "others' keys are gone"
    );
    stage.db.wait_for_restart("dies", "succeeded", SOON).await?;
    ensure!(evictions(&daemon, "deleted").await? == 1 && evictions(&daemon, "failed").await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_hangs_delays_no_restart_and_the_keys_go_later() -> Result<()> {
    let (redis, engine) = (PrivateRedis::start().await?, ScriptedEngine::start().await?);
    let stage = stage(&engine, &redis.url()).await?;
    redis.set("ws:dies", "1").await?;
    let daemon = stage.run().await?;
    redis.pause()?;
    goes_on_without(&stage, &engine, &daemon).await?;
    redis.resume()?;
    is_gone(&redis, "ws:dies").await?;
    daemon.wait_for_metric("defib_evictions_total{result=\"deleted\"}", |count| count >= 1.0, SOON).await?;
    Ok(())
}

/// Redis may end idle connections. That is noticed only when a key is to be deleted, and must not cost that deletion its turn.
#[tokio::test]
async fn a_connection_that_redis_has_ended_meanwhile_is_made_anew_before_the_engine_is_called() -> Result<()> {
    let (redis, engine) = (PrivateRedis::start().await?, ScriptedEngine::start().await?);
    let stage = stage(&engine, &redis.url()).await?;
    redis.set("ws:dies", "1").await?;
    let daemon = stage.run().await?;
    eventually(SOON, "there was a connection, and it has ended", async || {
        match redis.command(&["CLIENT", "KILL", "TYPE", "normal"]).await {
            Ok(Some(killed)) if killed != "0" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    engine.add_fault(FaultRule::new(Call::Start, Fault::Delay(A_WHILE)));
    engine.exit("dies", 137)?;
    eventually(SOON, "the engine is called", async || {
        if engine.count(Call::Start) == 0 { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await?;
    ensure!(redis.get("ws:dies").await?.is_none(), "the engine was called while the key was there");
    ensure!(evictions(&daemon, "failed").await? == 0 && evictions(&daemon, "deleted").await? == 1);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_is_away_delays_no_restart_and_the_keys_go_later() -> Result<()> {
    let (redis, engine) = (PrivateRedis::start().await?, ScriptedEngine::start().await?);
    let stage = stage(&engine, &redis.url()).await?;
    let daemon = stage.run().await?;
    redis.stop_server().await?;
    goes_on_without(&stage, &engine, &daemon).await?;
    redis.start_server().await?;
    redis.set("ws:dies", "1").await?;
    is_gone(&redis, "ws:dies").await
}

#[tokio::test]
async fn a_refused_password_delays_no_restart_and_is_never_told() -> Result<()> {
    let (redis, engine) = (PrivateRedis::with_password("right").await?, ScriptedEngine::start().await?);
    let stage = stage(&engine, &format!("redis://:wr0ng-s3cret@{}", redis.host())).await?;
    redis.set("ws:dies", "1").await?;
    let said = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(said.contains("FAIL  redis") && said.contains("DEFIB_REDIS_URL") && !said.contains("s3cret"), "{said}");
    let daemon = stage.run().await?;
    goes_on_without(&stage, &engine, &daemon).await?;
    // An operator makes that password the right one.
    redis.command(&["ACL", "SETUSER", "default", ">wr0ng-s3cret"]).await?;
    is_gone(&redis, "ws:dies").await?;
    let log = format!("{:?}", daemon.log()?);
    ensure!(!log.contains("s3cret"), "the password is in the log");
    ensure!(log.matches("could not be deleted in Redis").count() == 1, "it is said once: {log}");
    Ok(())
}

#[tokio::test]
async fn who_only_observes_deletes_nothing() -> Result<()> {
    let (redis, engine) = (PrivateRedis::start().await?, ScriptedEngine::start().await?);
    let stage = stage(&engine, &redis.url()).await?.knob("MODE", "observe");
    redis.set("ws:dies", "1").await?;
    let daemon = stage.run().await?;
    engine.exit("dies", 137)?;
    stage.db.wait_for_verdict("dies", Some("dead")).await?;
    throughout(A_WHILE, "the key stays", async || match redis.get("ws:dies").await {
        Ok(Some(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    ensure!(evictions(&daemon, "deleted").await? == 0);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_meant_stops_the_start_with_one_line() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    for (url, evict, says) in [
        (Some("redis://h"), None, "DEFIB_REDIS_URL is of no use without DEFIB_REDIS_EVICT"),
        (None, Some(EVICT), "DEFIB_REDIS_EVICT needs DEFIB_REDIS_URL"),
        (Some("redis://h"), Some("ws:all"), "ws:all: it has no {workspace_id}"),
        (Some("redis://h"), Some("ws:{id}"), "{id} is not known: the only placeholder is {workspace_id}"),
        (Some("http://u:s3cret@h"), Some(EVICT), "DEFIB_REDIS_URL: it is not an address of a Redis"),
    ] {
        let environment = [("DEFIB_REDIS_URL", url), ("DEFIB_REDIS_EVICT", evict)];
        let mut all = stage.environment();
        all.extend(environment.iter().filter_map(|(name, value)| Some(((*name).to_owned(), (*value)?.to_owned()))));
        let program = defib_testkit::Program::defib(["run"], &all)?;
        let code = program.wait_exit(SOON).await?.code();
        let said = program.stderr();
        ensure!(
            code == Some(2) && said.lines().count() == 1 && said.contains(says),
            "{url:?} {evict:?}: {code:?} {said}"
        );
        ensure!(!said.contains("s3cret"), "{said}");
    }
    Ok(())
}

/// A stopped workspace is restarted without a noticeable delay although Redis fails, and the next one without any delay.
async fn goes_on_without(stage: &Stage, engine: &ScriptedEngine, daemon: &Daemon) -> Result<()> {
    let begun = Instant::now();
    engine.exit("dies", 137)?;
    let restart = stage.db.wait_for_restart("dies", "succeeded", SOON).await?;
    ensure!(begun.elapsed() < Duration::from_secs(3), "{:?}: {restart:#?}", begun.elapsed());
    daemon.wait_for_metric("defib_evictions_total{result=\"failed\"}", |count| count >= 1.0, SOON).await?;
    ensure!(evictions(daemon, "deleted").await? == 0);
    Ok(())
}

async fn is_gone(redis: &PrivateRedis, key: &str) -> Result<()> {
    eventually(SOON, &format!("{key} is gone"), async || match redis.get(key).await {
        Ok(None) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
}

async fn evictions(daemon: &Daemon, result: &str) -> Result<u64> {
    let value = daemon.metrics().await?.value(&format!("defib_evictions_total{{result=\"{result}\"}}"))?;
    value.to_string().parse().context("a count")
}

/// Two workspaces that have been silent for long, on an engine that follows a script.
async fn stage(engine: &ScriptedEngine, redis: &str) -> Result<Stage> {
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "200ms");
    for id in ["dies", "lives"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    Ok(stage.knob("REDIS_URL", redis).knob("REDIS_EVICT", EVICT))
}
