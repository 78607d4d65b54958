//! The platform's own restart: the platform is asked once for a container that the engine cannot make again.

use std::time::Duration;

use anyhow::{Result, ensure};
use defib_testkit::scripted_control_plane::Dialect;
use defib_testkit::{PrivateDockerd, ScriptedControlPlane, ScriptedEngine, eventually};
use defib_tests::{Agent, SOON, Stage, Workspace, container, throughout};

const A_WHILE: Duration = Duration::from_secs(3);
const TOKEN: &str = "adm1n-s3cret";

#[tokio::test]
async fn a_removed_container_is_made_again_by_the_platform_which_is_asked_once() -> Result<()> {
    let (dockerd, platform) = (PrivateDockerd::shared().await?, ScriptedControlPlane::start(Dialect::Molecule).await?);
    let stage = with_platform(Stage::new(dockerd.url()).await?, &platform);
    let mut agent = Agent::start(dockerd, "removed").await?;
    stage.db.add(Workspace::new(&agent.id).silent()).await?;
    let daemon = stage.run().await?;
    stage.nothing_is_claimed(A_WHILE).await?;

    agent.remove().await?;
    let restart = stage.db.wait_for_restart(&agent.id, "succeeded", SOON).await?;
    ensure!(restart.recovered_at.is_none() && restart.attempt == 1, "{restart:#?}");
    is_asked_once(&platform, &agent.id).await?;

    // The platform works on it for a while, and then its container is there again.
    agent.make_again().await?;
    stage.db.beat(&agent.id).await?;
    is_recovered(&stage, &agent.id).await?;
    ensure!(agent.starts().await? == 1, "defib started what the platform had started");
    is_asked_once(&platform, &agent.id).await?;
    let log = format!("{:?}", daemon.log()?);
    ensure!(!log.contains(TOKEN), "the token is in the log");
    Ok(())
}

#[tokio::test]
async fn without_a_platform_a_removed_container_is_held_and_the_sentence_says_what_to_configure() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("MISSING_GRACE", "500ms");
    stage.db.add(Workspace::new("removed").silent()).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("removed", Some("dead")).await?;
    eventually(SOON, "it is held", async || match stage.db.held("removed").await {
        Ok(held) if held.as_deref() == Some("cannot_recreate") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    let said = stage.defib(&["explain", "removed"]).await?;
    ensure!(format!("{said:?}").contains("DEFIB_PLATFORM_URL"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn an_instance_that_nothing_can_restart_is_held_and_everybody_is_told_what_to_set() -> Result<()> {
    let (engine, server) = (ScriptedEngine::start().await?, ScriptedControlPlane::start(Dialect::Molecule).await?);
    server.set("i-1", "running");
    let cloud = format!("cp+{}?preset=molecule-core", server.address());
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().engine("cloud", &cloud);
    let stage = stage.knob("ENGINE_TOKEN_CLOUD", "sh4red-s3cret");
    stage.db.add(Workspace::new("machine").engine("cloud").silent()).await?;
    is_instance(&stage, "i-1").await?;
    let check = stage.defib(&["check"]).await?.with_code(1)?.stdout;
    ensure!(check.contains("FAIL  engine cloud: it has no way to restart anything: set DEFIB_PLATFORM_URL"), "{check}");
    let daemon = stage.run().await?;

    server.set("i-1", "terminated");
    eventually(SOON, "it is held", async || match stage.db.held("machine").await {
        Ok(held) if held.as_deref() == Some("cannot_restart") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(server.restarts().is_empty(), "{:#?}", server.restarts());
    let sentence = "nothing that defib is configured for can restart it: set DEFIB_PLATFORM_URL to";
    let said = stage.defib(&["explain", "machine"]).await?.stdout;
    ensure!(said.contains(&format!("cannot_restart: {sentence}")), "{said}");
    let said = stage.defib(&["status"]).await?.stdout;
    ensure!(said.contains(&format!("1 held as cannot_restart: {sentence}")), "{said}");
    let (_, page) = daemon.get("/workspaces/machine").await?;
    ensure!(page.contains(sentence), "{page}");
    let held = daemon.metrics().await?.value("defib_restarts_held_total{reason=\"cannot_restart\"}")?;
    ensure!(held == 1.0, "{held}");

    let refused = stage.defib(&["restart", "machine", "--reason", "it is dead"]).await?.with_code(1)?;
    ensure!(format!("{refused:?}").contains("DEFIB_PLATFORM_URL"), "{refused:?}");
    stage.nothing_is_claimed(Duration::ZERO).await
}

#[tokio::test]
async fn a_removed_container_is_made_again_by_the_platform_when_an_operator_orders_it() -> Result<()> {
    let (engine, platform) = (ScriptedEngine::start().await?, ScriptedControlPlane::start(Dialect::Molecule).await?);
    engine.add(container("removed"));
    // For this long, defib would leave a missing container to whoever may be making it again.
    let stage = with_platform(Stage::new(&engine.url()).await?, &platform).knob("MISSING_GRACE", "1h");
    stage.db.add(Workspace::new("removed").silent()).await?;
    let _daemon = stage.run().await?;
    stage.db.wait_for_verdict("removed", Some("silent")).await?;
    engine.remove("removed")?;
    stage.db.wait_for_verdict("removed", Some("suspect")).await?;
    stage.defib(&["restart", "removed", "--reason", "its user waits"]).await?.with_code(0)?;
    is_asked_once(&platform, "removed").await
}

#[tokio::test]
async fn an_instance_dies_behind_its_control_plane_and_comes_back_through_the_platform() -> Result<()> {
    let (engine, server) = (ScriptedEngine::start().await?, ScriptedControlPlane::start(Dialect::Molecule).await?);
    server.set("i-1", "running");
    let stage = with_platform(Stage::new(&engine.url()).await?, &server);
    let cloud = format!("cp+{}?preset=molecule-core", server.address());
    let stage = stage.engine("cloud", &cloud).knob("ENGINE_TOKEN_CLOUD", "sh4red-s3cret");
    stage.db.add(Workspace::new("machine").engine("cloud").silent()).await?;
    is_instance(&stage, "i-1").await?;
    let daemon = stage.run().await?;
    stage.nothing_is_claimed(A_WHILE).await?;

    server.set("i-1", "terminated");
    stage.db.wait_for_restart("machine", "succeeded", SOON).await?;
    is_asked_once(&server, "machine").await?;
    let status = server.requests().into_iter().find(|request| request.method == "GET");
    let status = status.ok_or_else(|| anyhow::anyhow!("its state was never asked for"))?;
    ensure!(status.headers["authorization"] == "Bearer sh4red-s3cret", "{status:?}");

    server.set("i-2", "running");
    is_instance(&stage, "i-2").await?;
    // The control plane does not tell when it was started. So only a heartbeat that comes after it was first seen certainly belongs to the
    // new life, and it goes on sending heartbeats.
    eventually(SOON, "its heartbeat is taken for its own", async || {
        stage.db.beat("machine").await.map_err(|error| format!("{error:#}"))?;
        match stage.db.status("machine").await {
            Ok(status) if status == "online" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    is_recovered(&stage, "machine").await?;
    is_asked_once(&server, "machine").await?;
    let log = format!("{:?}", daemon.log()?);
    ensure!(!log.contains("s3cret"), "a token is in the log");
    Ok(())
}

/// A fleet whose restarts the platform makes where its engine cannot, and silence is stale after a second.
fn with_platform(stage: Stage, platform: &ScriptedControlPlane) -> Stage {
    let url = format!("{}?preset=molecule-core", platform.address());
    let stage = stage.quick_heartbeats().knob("MISSING_GRACE", "500ms").knob("PLATFORM_URL", &url);
    stage.knob("PLATFORM_TOKEN", TOKEN)
}

async fn is_instance(stage: &Stage, reference: &str) -> Result<()> {
    let sql =
        format!("update defib.workspaces set kind = 'instance', instance_ref = '{reference}' where id = 'machine'");
    stage.db.execute(&sql).await
}

/// The platform was asked for this restart, with its token, and is asked for no other.
async fn is_asked_once(platform: &ScriptedControlPlane, workspace: &str) -> Result<()> {
    throughout(A_WHILE, "the platform is asked once", async || match platform.restarts().as_slice() {
        [one] if one.path == format!("/workspaces/{workspace}/restart") => {
            let by = &one.headers["authorization"];
            if *by == format!("Bearer {TOKEN}") { Ok(()) } else { Err(by.clone()) }
        }
        other => Err(format!("{other:#?}")),
    })
    .await
}

async fn is_recovered(stage: &Stage, workspace: &str) -> Result<()> {
    stage.db.wait_for_status(workspace, "online").await?;
    let restarts = stage.db.restarts(workspace).await?;
    ensure!(restarts.len() == 1 && restarts[0].recovered_at.is_some(), "{restarts:#?}");
    Ok(())
}
