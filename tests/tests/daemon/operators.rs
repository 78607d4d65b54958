//! What people do with the command line, with a running daemon and without one.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use defib_testkit::{PrivatePostgres, ScriptedEngine, eventually, free_port};
use defib_tests::{SOON, Stage, Workspace, container};
use serde_json::{Value, json};

const A_WHILE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_row_that_breaks_the_contract_is_not_called_alive() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    let (long, well) = ("x".repeat(513), "well");
    for id in [long.as_str(), well] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    stage.defib(&["hold", well, "--reason", "watched by hand", "--for", "1h"]).await?;
    let _daemon = stage.run().await?;
    judged(&stage, well, "alive").await?;
    let rows: Value = serde_json::from_str(&stage.defib(&["status", "--format", "json"]).await?.stdout)?;
    let of = |id: &str| rows.as_array().and_then(|rows| rows.iter().find(|row| row["workspace_id"] == *id)).cloned();
    let (long_row, well_row) = (of(&long).context("no long one")?, of(well).context("no well one")?);
    ensure!(long_row["verdict"] == "not judged" && well_row["verdict"] == "alive", "{rows:#}");
    ensure!(well_row["holds"][0]["reason"] == "watched by hand" && long_row["holds"] == json!([]), "{rows:#}");
    let troubled = stage.defib(&["status", "--troubled"]).await?.stdout;
    ensure!(
        troubled.contains("breaks the contract") && troubled.contains("2 workspaces: 1 alive, 1 not judged"),
        "{troubled}"
    );
    let explained = stage.defib(&["explain", &long]).await?.stdout;
    ensure!(
        explained.contains("workspace_id is longer than 512 bytes") && !explained.contains("verdict: alive"),
        "{explained}"
    );
    let explained = stage.defib(&["explain", well]).await?.stdout;
    ensure!(explained.contains("verdict: alive"), "{explained}");
    Ok(())
}

/// Waits until `status` has this verdict, which also means that a daemon judges the workspace.
async fn judged(stage: &Stage, id: &str, verdict: &str) -> Result<()> {
    eventually(SOON, &format!("{id} is judged {verdict}"), async || {
        let row = status_of(stage, id).await.map_err(|error| format!("{error:#}"))?;
        if row["verdict"] == verdict && row["judged"] == true { Ok(()) } else { Err(format!("{row:#}")) }
    })
    .await
}

/// What `status` says of one workspace.
async fn status_of(stage: &Stage, id: &str) -> Result<Value> {
    let rows: Value = serde_json::from_str(&stage.defib(&["status", "--format", "json"]).await?.with_code(0)?.stdout)?;
    let found = rows.as_array().and_then(|rows| rows.iter().find(|row| row["workspace_id"] == *id));
    found.cloned().with_context(|| format!("no {id} in {rows:#}"))
}

#[tokio::test]
async fn before_and_after_a_daemon_nobody_is_called_alive() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1")).await?;
    let before = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    ensure!(before.contains("no defib is running") && before.contains("1 workspace: 1 not judged"), "{before}");
    stage.defib(&["status", "--exit-code"]).await?.with_code(1)?;

    let daemon = stage.run_as("r1").await?;
    judged(&stage, "w1", "alive").await?;
    let during = stage.defib(&["status", "--exit-code"]).await?.with_code(0)?.stdout;
    for part in [
        "replica r1: enforce, defib ",
        "owns default, last pass",
        "engine default: answers, owned by r1, 1 judged",
        "1 workspace: 1 alive",
    ] {
        ensure!(during.contains(part), "no {part:?} in:\n{during}");
    }
    let row = status_of(&stage, "w1").await?;
    ensure!(row["judged_by"] == "r1" && row["mode"] == "enforce" && row["judged_at"].is_string(), "{row:#}");
    ensure!(stage.defib(&["status", "--troubled"]).await?.stdout.contains("none in trouble"), "a bare header");

    daemon.kill().await?;
    judged_no_more(&stage, "w1").await?;
    let after = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    ensure!(after.contains("replica r1: not heard of for") && after.contains("1 workspace: 1 not judged"), "{after}");
    let explained = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    ensure!(
        explained.contains("not judged, never restarted: no defib is running: r1 was last heard of"),
        "{explained}"
    );
    Ok(())
}

async fn judged_no_more(stage: &Stage, id: &str) -> Result<()> {
    eventually(SOON, &format!("{id} is judged by nobody"), async || {
        let row = status_of(stage, id).await.map_err(|error| format!("{error:#}"))?;
        if row["verdict"] == "not judged" && row["judged"] == false { Ok(()) } else { Err(format!("{row:#}")) }
    })
    .await
}

/// `status` uses the statuses that the daemon watches, and not those in the environment of the person who runs it.
#[tokio::test]
async fn status_and_explain_need_no_knob_of_the_daemon() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("WATCHED_STATUSES", "up,offline");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").status("up")).await?;
    stage.db.add(Workspace::new("w2")).await?;
    let daemon = stage.run().await?;
    let stage = stage.without_knob("WATCHED_STATUSES");
    judged(&stage, "w1", "alive").await?;
    ensure!(status_of(&stage, "w2").await?["verdict"] == "not watched", "online is not watched here");
    let explained = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    ensure!(explained.contains("verdict: alive, said by"), "{explained}");
    daemon.stop(SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_wrong_engine_name_is_not_judged_and_observing_is_told() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("MODE", "observe");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1")).await?;
    stage.db.add(Workspace::new("w2").engine("defualt")).await?;
    let daemon = stage.run().await?;
    judged(&stage, "w1", "alive").await?;
    let said = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    for part in [
        "observe (it judges and records, and restarts nobody)",
        "engine defualt: not judged, engine defualt is in no replica's DEFIB_ENGINES",
        "2 workspaces: 1 alive, 1 not judged",
    ] {
        ensure!(said.contains(part), "no {part:?} in:\n{said}");
    }
    daemon.wait_for_metric("defib_unowned_workspaces", |value| value == 1.0, SOON).await?;
    ensure!(daemon.metrics().await?.value("defib_mode{mode=\"observe\"}")? == 1.0, "the mode is no metric");
    Ok(())
}

#[tokio::test]
async fn a_slip_of_the_pen_is_refused_with_the_name_that_was_meant() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    stage.db.add(Workspace::new("agent-17")).await?;
    for command in [
        &["hold", "agnet-17", "--reason", "r"][..],
        &["release", "agnet-17"],
        &["ack", "agnet-17"],
        &["suspect", "agnet-17", "--reason", "r"],
        &["explain", "agnet-17"],
        &["status", "agnet-17"],
        &["restart", "agnet-17", "--reason", "r"],
    ] {
        let refused = stage.defib(command).await?.with_code(1)?;
        ensure!(
            refused.stderr.contains("there is no workspace agnet-17: did you mean agent-17?"),
            "{command:?}: {refused:?}"
        );
    }
    let refused = stage.defib(&["hold", "--engine", "defualt", "--reason", "r"]).await?.with_code(1)?;
    ensure!(refused.stderr.contains("there is no engine defualt: did you mean default?"), "{refused:?}");
    ensure!(stage.db.count("select count(*) from defib.holds").await? == 0, "it was held all the same");
    stage.defib(&["hold", "still-to-come", "--reason", "r", "--force"]).await?.with_code(0)?;
    ensure!(stage.db.count("select count(*) from defib.holds").await? == 1, "--force did not hold");
    Ok(())
}

#[tokio::test]
async fn an_operators_login_can_do_its_work_and_is_told_what_it_lacks() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    let url = stage.db.login("defib_operator").await?;
    let stage = stage.knob("DATABASE_URL", &url);
    for command in [&["hold", "w1", "--reason", "r"][..], &["release", "w1"], &["suspect", "w1", "--reason", "r"]] {
        stage.defib(command).await?.with_code(0)?;
    }
    let nothing = stage.defib(&["ack", "w1"]).await?.with_code(1)?;
    ensure!(nothing.stderr.contains("w1 has no ended attempt that counts"), "{nothing:?}");
    let lacking = stage.defib(&["status"]).await?.with_code(1)?;
    ensure!(lacking.stderr.contains("grant defib_viewer to"), "{lacking:?}");
    let unowned = stage.defib(&["restart", "w1", "--reason", "r"]).await?.with_code(1)?;
    ensure!(unowned.stderr.contains("no replica owns the engine now"), "{unowned:?}");
    Ok(())
}

#[tokio::test]
async fn a_hold_of_a_workspace_is_respected_until_it_is_released() -> Result<()> {
    is_held(&["w1"]).await
}

#[tokio::test]
async fn a_hold_of_an_engine_is_respected_until_it_is_released() -> Result<()> {
    is_held(&["--engine", "default"]).await
}

#[tokio::test]
async fn a_hold_of_the_fleet_is_respected_until_it_is_released() -> Result<()> {
    is_held(&["--fleet"]).await
}

async fn is_held(scope: &[&str]) -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    let daemon = stage.run().await?;
    let command = [&["hold"], scope, &["--for", "1h", "--reason", "upgrade of the host"]].concat();
    stage.defib(&command).await?.with_code(0)?;

    engine.exit("w1", 137)?;
    stage.db.wait_for_verdict("w1", Some("dead")).await?;
    stage.nothing_is_claimed(A_WHILE).await?;
    ensure!(engine.restarts() == 0, "restarted in spite of the hold");
    ensure!(stage.db.status("w1").await? == "online", "the platform was told that it is dead");
    for shown in [["status"].as_slice(), &["explain", "w1"]] {
        let text = stage.defib(shown).await?.with_code(0)?.stdout;
        ensure!(text.contains("upgrade of the host"), "{shown:?} does not tell of the hold: {text}");
    }
    let counted = daemon.metrics().await?.value("defib_restarts_held_total{reason=\"operator\"}")?;
    ensure!(counted >= 1.0, "the hold is not counted");

    stage.defib(&[&["release"], scope].concat()).await?.with_code(0)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_hold_ends_by_itself() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    let _daemon = stage.run().await?;
    stage.defib(&["hold", "w1", "--for", "3s", "--reason", "a moment"]).await?.with_code(0)?;
    engine.exit("w1", 137)?;
    stage.nothing_is_claimed(Duration::from_secs(1)).await?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn status_shows_the_fleet_without_a_daemon() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    stage.db.add(Workspace::new("put-away").status("paused")).await?;
    let daemon = stage.run().await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    daemon.stop(SOON).await?;

    let table = stage.defib(&["status"]).await?.with_code(0)?.stdout;
    for part in ["w1", "put-away", "succeeded", "WORKSPACE"] {
        ensure!(table.contains(part), "no {part} in:\n{table}");
    }
    let json = stage.defib(&["status", "--format", "json"]).await?.with_code(0)?.stdout;
    let rows: Value = serde_json::from_str(&json)?;
    let row = |id: &str| {
        let rows = rows.as_array().into_iter().flatten();
        rows.clone().find(|row| row["workspace_id"] == id).with_context(|| format!("no {id} in {json}"))
    };
    ensure!(row("w1")?["last_restart"]["outcome"] == "succeeded", "{json}");
    ensure!(row("put-away")?["status"] == "paused", "{json}");
    Ok(())
}

#[tokio::test]
async fn explain_tells_what_happened_without_a_daemon() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    let daemon = stage.run().await?;
    stage.db.suspect("w1").await?;
    engine.exit("w1", 137)?;
    stage.db.wait_for_restart("w1", "succeeded", SOON).await?;
    daemon.stop(SOON).await?;

    let text = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    for part in ["dead", "exit 137", "heartbeat stale", "connection refused", "attempt 1", "succeeded"] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let json: Value =
        serde_json::from_str(&stage.defib(&["explain", "w1", "--format", "json"]).await?.with_code(0)?.stdout)?;
    ensure!(
        json["workspace_id"] == "w1" && json["timeline"].as_array().is_some_and(|told| told.len() >= 4),
        "{json:#}"
    );

    let unknown = stage.defib(&["explain", "nobody"]).await?.with_code(1)?;
    ensure!(unknown.stderr.contains("nobody"), "{unknown:?}");
    Ok(())
}

#[tokio::test]
async fn explain_of_one_that_lives_gives_its_numbers_and_says_whose_they_are() -> Result<()> {
    let (stage, engine) = stage_with_a_silent_one().await?;
    engine.add(container("w2"));
    stage.db.add(Workspace::new("w2")).await?;
    stage
        .db
        .execute("update defib.workspaces set last_heartbeat_at = now() + interval '1 hour' where id = 'w2'")
        .await?;
    let _daemon = stage.run_as("r1").await?;
    judged(&stage, "w2", "alive").await?;
    let text = stage.defib(&["explain", "w2"]).await?.with_code(0)?.stdout;
    for part in [
        "verdict: alive, said by r1, last pass over its engine",
        "activity never, 0 active tasks",
        "a stale heartbeat",
        "help     docs/runbook.md#verdict-alive",
    ] {
        ensure!(text.contains(part), "no {part:?} in:\n{text}");
    }
    let json: Value =
        serde_json::from_str(&stage.defib(&["explain", "w2", "--format", "json"]).await?.with_code(0)?.stdout)?;
    ensure!(json["last_heartbeat_age_seconds"].is_number() && json["last_activity_age_seconds"].is_null(), "{json:#}");
    ensure!(json["judged"] == true && json["judged_by"] == "r1" && json["mode"] == "enforce", "{json:#}");
    Ok(())
}

/// Through the same protocol as any restart: a ledger row, holds and statuses that are not watched refuse it, and who ordered it is told.
#[tokio::test]
async fn a_restart_by_hand_is_made_once_recorded_and_refused_where_it_must_be() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    for id in ["w1", "w2"] {
        engine.add(container(id));
        stage.db.add(Workspace::new(id)).await?;
    }
    let _daemon = stage.run_as("r1").await?;
    judged(&stage, "w1", "alive").await?;
    let done = stage.defib(&["restart", "w1", "--reason", "its user waits"]).await?.with_code(0)?.stdout;
    ensure!(done.contains("restart of w1: done: restarted (attempt 1)"), "{done}");
    let rows = stage.db.restarts("w1").await?;
    ensure!(
        rows.len() == 1 && rows[0].verdict == "operator" && rows[0].outcome.as_deref() == Some("succeeded"),
        "{rows:#?}"
    );
    ensure!(engine.restarts() == 1, "{} restarts", engine.restarts());
    let told = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    ensure!(told.contains("ordered a restart: its user waits") && told.contains("the order was carried out"), "{told}");

    stage.defib(&["hold", "w2", "--reason", "under the knife"]).await?.with_code(0)?;
    let held = stage.defib(&["restart", "w2", "--reason", "r"]).await?.with_code(1)?.stderr;
    ensure!(held.contains("holds it: under the knife (--force"), "{held}");
    stage.defib(&["restart", "w2", "--reason", "r", "--force"]).await?.with_code(0)?;
    stage.defib(&["release", "w2"]).await?.with_code(0)?;
    stage.db.set_status("w2", "failed").await?;
    let unwatched = stage.defib(&["restart", "w2", "--reason", "r"]).await?.with_code(1)?.stderr;
    ensure!(unwatched.contains("its status failed is not watched"), "{unwatched}");
    stage.defib(&["restart", "w2", "--reason", "r", "--force"]).await?.with_code(0)?;
    let all = stage.db.count("select count(*) from defib.restarts where outcome = 'succeeded'").await?;
    ensure!(all == 3 && engine.restarts() == 3, "{all} in the ledger, {} on the engine", engine.restarts());
    Ok(())
}

/// The platform's own function would veto it, and nothing is restarted against the platform's word (docs/decisions.md).
#[tokio::test]
async fn what_was_put_away_is_not_restarted_by_force_either_and_the_answer_says_what_to_do() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?;
    for id in ["w1", "w2"] {
        engine.add(container(id));
    }
    stage.db.add(Workspace::new("w1")).await?;
    stage.db.add(Workspace::new("w2").below("w1")).await?;
    let _daemon = stage.run_as("r1").await?;
    judged(&stage, "w1", "alive").await?;
    stage.db.set_status("w1", "paused").await?;
    for (id, force) in [("w1", &["--force"][..]), ("w1", &[]), ("w2", &["--force"]), ("w2", &[])] {
        let order = [&["restart", id, "--reason", "r"], force].concat();
        let refused = stage.defib(&order).await?.with_code(1)?.stderr;
        for part in
            ["it is suspended", "--force does not change that", "defib.mark_dead", "Wake it through the platform first"]
        {
            ensure!(refused.contains(part), "no {part:?} in {refused}");
        }
    }
    ensure!(stage.db.all_restarts().await?.is_empty() && engine.restarts() == 0, "it was restarted all the same");

    stage.db.set_status("w1", "online").await?;
    stage.defib(&["restart", "w1", "--reason", "r"]).await?.with_code(0)?;
    Ok(())
}

/// None of those that were started beats, so no batch is verified, and the others wait for it until somebody ends the storm.
#[tokio::test]
async fn a_storm_that_is_ended_by_hand_holds_nobody_any_more() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("SETTLE", "5m").knob("STORM_COOLDOWN", "10m");
    let ids: Vec<String> = (1..=12).map(|n| format!("w{n}")).collect();
    for id in &ids {
        engine.add(container(id));
        stage.db.add(Workspace::new(id).silent()).await?;
    }
    let daemon = stage.run_as("r1").await?;
    let none = stage.defib(&["storm", "end", "default", "--reason", "r"]).await?.with_code(1)?;
    ensure!(none.stderr.contains("there is no storm"), "{none:?}");
    for id in &ids {
        engine.exit(id, 137)?;
    }
    daemon.wait_for_metric("defib_storm{engine=\"default\"}", |value| value == 1.0, SOON).await?;
    let begun = "select count(distinct workspace_id) from defib.restarts";
    eventually(SOON, "the first batch is restarted", async || match stage.db.count(begun).await {
        Ok(begun) if begun > 0 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await?;
    let before = stage.db.count(begun).await?;
    ensure!(before < 12, "nobody waits");
    eventually(SOON, "status tells of the storm, who is under way and how many wait", async || {
        let status = stage.defib(&["status"]).await.map_err(|error| format!("{error:#}"))?.stdout;
        let told = ["storm of the whole fleet for ", "restarts go in batches of 3, under way: w", ", 9 wait"];
        if told.iter().all(|told| status.contains(told)) { Ok(()) } else { Err(status) }
    })
    .await?;
    let told = stage.defib(&["storm", "end", "default", "--reason", "the host is well"]).await?.with_code(0)?.stdout;
    ensure!(told.contains("end of the storm on default: done"), "{told}");
    eventually(SOON, "all are restarted", async || {
        match stage
            .db
            .count("select count(distinct workspace_id) from defib.restarts where outcome = 'succeeded'")
            .await
        {
            Ok(12) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// After a new version was deployed, a learned window is what it was before, and `explain` of a living workspace tells its container.
#[tokio::test]
async fn what_was_learned_outlives_the_daemon() -> Result<()> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.knob("POLL_INTERVAL", "200ms");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1")).await?;
    let first = stage.run_as("r1").await?;
    eventually(SOON, "an interval is learned and kept", async || {
        stage.db.beat("w1").await.map_err(|error| format!("{error:#}"))?;
        tokio::time::sleep(Duration::from_millis(250)).await; // the interval that is to be learned
        let kept = stage.db.count("select coalesce(max(intervals), 0)::bigint from defib.cadences").await;
        match kept {
            Ok(kept) if kept >= 3 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    first.stop(SOON).await?;
    let second = stage.run_as("r2").await?;
    second.program.wait_for_line("heartbeat intervals that an earlier process had learned are used", SOON).await?;
    judged(&stage, "w1", "alive").await?;
    let explained = stage.defib(&["explain", "w1"]).await?.with_code(0)?.stdout;
    ensure!(explained.contains("last seen in container ") && explained.contains("learned from"), "{explained}");
    Ok(())
}

#[tokio::test]
async fn check_is_content_with_a_good_world_and_names_each_fault_of_a_bad_one() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    let good = stage.defib(&["check"]).await?.with_code(0)?;
    ensure!(good.stdout.contains("all is well"), "{good:?}");

    let nowhere = format!("tcp://127.0.0.1:{}", free_port()?);
    let bad = Stage::bare(PrivatePostgres::shared().await?, &nowhere).await?;
    let bad = bad.defib(&["check"]).await?.with_code(1)?.stdout;
    for part in ["FAIL  schema", "defib migrate", "FAIL  engine default"] {
        ensure!(bad.contains(part), "no {part:?} in:\n{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn commands_say_so_when_there_is_no_database() -> Result<()> {
    let (stage, _engine) = stage_with_a_silent_one().await?;
    let stage = stage.knob("DATABASE_URL", &format!("postgres://postgres@127.0.0.1:{}/none", free_port()?));
    for command in [["status"].as_slice(), &["explain", "w1"], &["suspect", "w1", "--reason", "x"], &["check"]] {
        let failed = stage.defib(command).await?.with_code(1)?;
        ensure!(format!("{}{}", failed.stdout, failed.stderr).contains("refused"), "{command:?}: {failed:?}");
    }
    Ok(())
}

async fn stage_with_a_silent_one() -> Result<(Stage, ScriptedEngine)> {
    let engine = ScriptedEngine::start().await?;
    let stage = Stage::new(&engine.url()).await?.quick_heartbeats().knob("POLL_INTERVAL", "300ms");
    engine.add(container("w1"));
    stage.db.add(Workspace::new("w1").silent()).await?;
    Ok((stage, engine))
}
